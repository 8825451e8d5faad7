"""The criteria by which views of a dataset select images, and their place in inode numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

from pictofs.errors import Invalid

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
CHOICES: Mapping[Axis, tuple[str, ...]] = {
    axis: tuple(each.folder for each in SELECTIONS.values() if each.axis == axis)
    for axis in get_args(Axis)
}
"""What `by-status` and `by-split` hold, and `--status` and `--split` take."""
AXES: Mapping[int, Axis] = {16: "status", 17: "split"}
"""The axes of the folders `by-status` and `by-split`, by the version bits."""
AXIS_FOLDERS: Mapping[str, int] = {f"by-{axis}": version for version, axis in AXES.items()}
"""The version bits of those folders, by their names."""
_VERSIONS = {selection: version for version, selection in SELECTIONS.items()}


def view_of(path: tuple[str, ...]) -> tuple[tuple[str, ...], Axis, str] | None:
    """What a path into a view stands for; None if it leads into no view.

    `path`: in parts, from the mount point on. Returns: the path of the same files outside of the
    view, the view's axis, and one of its `CHOICES`. Raises Invalid for the folder of the views of
    an axis, and for a name in it that is no view.
    """
    if len(path) < 3 or path[0] != "datasets" or path[2] not in AXIS_FOLDERS:
        return None

    axis = AXES[AXIS_FOLDERS[path[2]]]
    views = CHOICES[axis]
    if len(path) == 3 or path[3] not in views:
        raise Invalid(
            f"{'/'.join(path)} is not one of the views of {path[1]}",
            hint=f"name {path[2]}/ and one of {', '.join(views)}",
        )

    return (*path[:2], *path[4:]), axis, path[3]


def selections_of(status: str, split: str | None) -> frozenset[int]:
    """The version bits of the selections that an image belongs to.

    An unknown status or split belongs to none.
    """
    found = (_VERSIONS.get(Selection("status", status)), _VERSIONS.get(Selection("split", split)))
    return frozenset(version for version in found if version is not None)
