"""What the views of a dataset choose images by, and what each choice is in an inode number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

Axis = Literal["status", "split"]
STATUSES = ("new", "annotate", "review", "complete")
"""The statuses that `status_filter` knows (API.md 8); a row may carry another one."""
SPLITS = ("train", "val", "test")
UNASSIGNED = "unassigned"
"""The folder of images that have no split."""


class Selection(NamedTuple):
    """Images of one status, or of one split."""

    axis: Axis
    value: str | None
    """None: no split."""

    @property
    def folder(self) -> str:
        """The name of its folder."""
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
"""By the version of an inode number; these must not change."""
AXES: Mapping[int, Axis] = {16: "status", 17: "split"}
"""The same for the folders `by-status` and `by-split`."""
AXIS_FOLDERS: Mapping[str, int] = {f"by-{axis}": version for version, axis in AXES.items()}
"""Those by their names."""
_VERSIONS = {selection: version for version, selection in SELECTIONS.items()}


def selections_of(status: str, split: str | None) -> frozenset[int]:
    """What an image belongs to; another status, or another split, than those that the API has is in no view."""
    found = (_VERSIONS.get(Selection("status", status)), _VERSIONS.get(Selection("split", split)))
    return frozenset(version for version in found if version is not None)
