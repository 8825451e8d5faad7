"""What the shell offers when Tab is pressed: nothing here asks a server or waits for long."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pictofs.app import mount_table, probe
from pictofs.config import home_folder, profile_names
from pictofs.errors import PictofsError

LOOK_SECONDS = 1.0
"""How long one mount may take to name its datasets."""

_HARMLESS = re.compile(r"[\w .,@%+=/~-]+")
"""What is offered. The names are other people's, and zsh evaluates what it is offered, so that
`$(...)` would be run.
"""


def mount_points(incomplete: str) -> list[str]:
    """The folders that pictofs is mounted at."""
    return _offered(
        [str(mount.path) for mount in mount_table.all_mounts() if mount.ours], incomplete
    )


def datasets(incomplete: str) -> list[str]:
    """The names of the datasets in the mounts of this machine."""
    names: set[str] = set()
    for mount in mount_table.all_mounts():
        if mount.ours:
            with suppress(OSError, PictofsError):
                names.update(_listed(mount.path / "datasets"))
    return _offered(sorted(names), incomplete)


def profiles(incomplete: str) -> list[str]:
    """The profiles of the vendor's command line."""
    with suppress(PictofsError):
        return _offered(profile_names(home_folder()), incomplete)
    return []


def one_of(*words: str) -> Callable[[str], list[str]]:
    """A choice of `words`."""
    return lambda incomplete: _offered(list(words), incomplete)


def _listed(folder: Path) -> list[str]:
    text = probe.run_in_subprocess(
        LOOK_SECONDS, lambda: b"\0".join(map(os.fsencode, os.listdir(folder)))
    )
    return [os.fsdecode(name) for name in text.split(b"\0") if name]


def _offered(words: list[str], incomplete: str) -> list[str]:
    found = [word for word in words if word.startswith(incomplete) and _HARMLESS.fullmatch(word)]
    # The other shells escape by themselves.
    if os.environ.get("_PICTOFS_COMPLETE") == "complete_bash":
        found = [word.replace(" ", "\\ ") for word in found]
    return found
