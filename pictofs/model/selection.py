"""The criteria by which views of a dataset select images, and their place in inode numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

Axis = Literal["status", "split"]
STATUSES = ("new", "annotate", "review", "complete")
"""The statuses that `status_filter` takes (API.md 8). An image may have another one."""
SPLITS = ("train", "val", "test")
UNASSIGNED = "unassigned"
"""The folder of images without a split."""


class Selection(NamedTuple):
    """The images of one status or one split."""

    axis: Axis
    value: str | None
    """None: images without a split."""

    @property
    def folder(self) -> str:
        """The name of the view's folder."""
        return UNASSIGNED if self.value is None else self.value


SELECTIONS: Mapping[int, Selection] = dict(
    enumerate(
        [
            *(Selection("status", status) for status in STATUSES),
            *(Selection("split", split) for split in SPLITS),
            Selection("split", None),
        ],
        1,
    )
)
"""By the version bits of an inode number. These numbers must not change."""
AXES: Mapping[int, Axis] = {16: "status", 17: "split"}
"""The axes of the folders `by-status` and `by-split`, by the version bits."""
AXIS_FOLDERS: Mapping[str, int] = {f"by-{axis}": version for version, axis in AXES.items()}
"""The version bits of those folders, by their names."""
_VERSIONS = {selection: version for version, selection in SELECTIONS.items()}


def selections_of(status: str, split: str | None) -> frozenset[int]:
    """The version bits of the selections that an image belongs to.

    An unknown status or split belongs to none.
    """
    found = (_VERSIONS.get(Selection("status", status)), _VERSIONS.get(Selection("split", split)))
    return frozenset(version for version in found if version is not None)
