"""`python -m pictofs`."""

import os
import sys

# Python has put the working folder first on the path. Nothing must be imported from there, unless
# pictofs itself was: then somebody works on its source. `python -P -m pictofs` never adds it.
_source = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if not sys.flags.safe_path and sys.path and sys.path[0] != _source:
    del sys.path[0]

from pictofs.cli import main  # noqa: E402 - see above

sys.exit(main())
