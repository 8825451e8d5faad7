"""Whether what sharing needs is installed: the extra `cluster`."""

from __future__ import annotations

from importlib.util import find_spec

from pictofs.errors import Invalid

_PACKAGES = ("coredis", "cryptography")


def require_cluster() -> None:
    """Raise Invalid, with what to install, unless `engine` can be imported.

    Imports nothing: coredis alone takes half a second.
    """
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise Invalid(
            f"sharing among nodes needs {' and '.join(missing)}",
            hint="install the extra: pip install 'pictofs[cluster]'",
        )
