"""pictofs mounts the image datasets of a Pictograph organization as a folder."""

# ruff: noqa: PLC0415 - `import pictofs` stays light: `mounted` is imported when it is asked for

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pictofs.notebook import mounted

__all__ = ["__version__", "mounted"]
__version__ = "0.2.0.dev0"


def __getattr__(name: str) -> Any:
    if name == "mounted":
        from pictofs.notebook import mounted

        return mounted

    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
