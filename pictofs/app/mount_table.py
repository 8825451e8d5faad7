"""The mounts on this machine, as the kernel lists them in mountinfo: no mount is touched."""

from __future__ import annotations

import os
import pwd
import re
from dataclasses import dataclass
from pathlib import Path

FSTYPE = "fuse.pictofs"
MOUNTINFO = Path("/proc/self/mountinfo")


@dataclass(frozen=True)
class Mount:
    """One line of mountinfo."""

    path: Path
    fstype: str
    source: str
    device: str
    """Major and minor number, as in `0:45`."""
    owner: int
    """The user whose mount it is, by number; root for what is no FUSE mount."""

    @property
    def ours(self) -> bool:
        """Whether pictofs made it."""
        return self.fstype == FSTYPE

    @property
    def owner_name(self) -> str:
        """The owner's name, or their number where they have none."""
        try:
            return pwd.getpwuid(self.owner).pw_name
        except KeyError:
            return f"user {self.owner}"


def parse_mountinfo(text: str) -> list[Mount]:
    """The mounts of a mountinfo file, oldest first. Lines of another shape are skipped."""
    found = []
    for line in text.split("\n"):
        before, dash, after = line.partition(" - ")
        left = before.split(" ")
        right = after.split(" ")
        if dash and len(left) >= 6 and len(right) >= 2:
            owner = re.search(r"(?:^|,)user_id=(\d+)", right[2]) if len(right) > 2 else None
            found.append(
                Mount(
                    Path(_plain(left[4])),
                    _plain(right[0]),
                    _plain(right[1]),
                    left[2],
                    int(owner[1]) if owner else 0,
                )
            )

    return found


def _plain(field: str) -> str:
    """mountinfo writes space, tab, newline and backslash as three octal digits."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), field)


def all_mounts() -> list[Mount]:
    """The mounts that this process sees."""
    # Not read_text, which would end a line at a carriage return in a path: the kernel writes those
    # as they are.
    return parse_mountinfo(MOUNTINFO.read_bytes().decode("utf-8", "surrogateescape"))


def mount_at(path: Path) -> Mount | None:
    """The topmost mount at exactly `path` (see `resolve`)."""
    return next((mount for mount in reversed(all_mounts()) if mount.path == path), None)


def mount_of(path: Path) -> Mount | None:
    """The mount that `path` (see `resolve`) lies in."""
    inside = [mount for mount in all_mounts() if path.is_relative_to(mount.path)]
    return max(inside, key=lambda mount: len(mount.path.parts), default=None)


def resolve(path: Path) -> Path:
    """`path` as mountinfo spells it: absolute, no symbolic links.

    What is mounted at `path` is not asked, because it may hang: only the folders above are.
    """
    path = Path(os.path.abspath(path))
    above = Path(os.path.realpath(path.parent)) / path.name
    if mount_at(above):
        return above
    return Path(os.path.realpath(above))
