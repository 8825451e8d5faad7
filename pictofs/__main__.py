"""`python -m pictofs`."""

import sys

from pictofs.cli import main

sys.exit(main())
