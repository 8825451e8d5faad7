"""What a path into a view of a dataset stands for."""

from __future__ import annotations

import pytest

from pictofs.errors import Invalid
from pictofs.model.selection import CHOICES, view_of


def test_the_choices_are_the_views() -> None:
    assert CHOICES == {
        "status": ("new", "annotate", "review", "complete"),
        "split": ("train", "val", "test", "unassigned"),
    }


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("datasets/signs/by-split/val", ("datasets/signs", "split", "val")),
        ("datasets/signs/by-split/unassigned", ("datasets/signs", "split", "unassigned")),
        (
            "datasets/signs/by-status/new/images/cam1/a.jpg",
            ("datasets/signs/images/cam1/a.jpg", "status", "new"),
        ),
        ("datasets/signs/images/by-split/val", None),
        ("datasets/by-split/images", None),
        ("by-id/x/by-split/val", None),
        (".", None),
    ],
)
def test_a_path_into_a_view_is_a_path_and_a_choice(
    path: str, found: tuple[str, str, str] | None
) -> None:
    parts = () if path == "." else tuple(path.split("/"))
    view = view_of(parts)

    if found is None:
        assert view is None
    else:
        assert view == (tuple(found[0].split("/")), *found[1:])


@pytest.mark.parametrize("path", ["datasets/signs/by-split", "datasets/signs/by-split/holdout"])
def test_what_is_no_view_is_refused_with_those_that_are(path: str) -> None:
    with pytest.raises(Invalid, match="by-split/ and one of train, val, test, unassigned"):
        view_of(tuple(path.split("/")))
