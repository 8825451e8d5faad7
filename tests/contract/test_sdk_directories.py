from __future__ import annotations

import pictograph
import pytest
from pictograph.exceptions import ConflictError, NotFoundError, ValidationError

from standin import StandIn

NAME = "road signs"


def test_list_all_and_by_parent(client: pictograph.Client) -> None:
    rows = {each.full_path: each for each in client.directories.list(NAME)}
    assert set(rows) == {"/cam1", "/cam2", "/cam1/night shift", "/empty", "/empty/below"}
    assert (rows["/cam1"].image_count, rows["/cam1"].nested_image_count) == (2, 3)
    assert rows["/cam1/night shift"].parent_directory_id == rows["/cam1"].id
    assert rows["/cam1"].parent_directory_id is None
    assert {each.name for each in client.directories.list(NAME, parent_path="")} == {
        "cam1",
        "cam2",
        "empty",
    }

    below = client.directories.list(NAME, parent_path="/cam1")

    assert [each.name for each in below] == ["night shift"]


def test_tree(client: pictograph.Client) -> None:
    tops = {each.name: each for each in client.directories.tree(NAME)}
    assert set(tops) == {"cam1", "cam2", "empty"}
    assert (tops["cam1"].image_count, tops["cam1"].nested_image_count) == (2, 3)
    assert tops["cam1"].children[0].full_path == "/cam1/night shift"
    assert tops["empty"].children[0].image_count == 0


def test_stats(client: pictograph.Client) -> None:
    whole = client.directories.stats(NAME, "/cam1")
    assert (whole.total_directories, whole.total_images, whole.total_size_bytes) == (1, 3, 42_006)
    assert whole.directories_by_status == {"new": 1, "review": 1, "complete": 1}
    alone = client.directories.stats(NAME, "/cam1", include_subdirectories=False)
    assert (alone.total_directories, alone.total_images) == (0, 2)


def test_create_is_idempotent_and_makes_parents(client: pictograph.Client) -> None:
    made = client.directories.create(NAME, "/x/y z/ü")
    assert (made.name, made.full_path) == ("ü", "/x/y z/ü")
    assert client.directories.create(NAME, "/x/y z/ü").id == made.id
    assert {each.full_path for each in client.directories.list(NAME)} >= {"/x", "/x/y z"}


def test_rename_moves_all_below(client: pictograph.Client, standin: StandIn) -> None:
    before = {each.full_path: each.id for each in client.directories.list(NAME)}
    renamed = client.directories.rename(NAME, "/cam1", "front")
    assert (renamed.id, renamed.full_path) == (before["/cam1"], "/front")
    after = {each.full_path: each.id for each in client.directories.list(NAME)}
    assert after["/front/night shift"] == before["/cam1/night shift"]
    assert client.images.list(NAME, directory_path="/front/night shift")[0].filename == "deep.jpg"
    assert standin.organization[NAME].at("/cam1", "a.jpg") is None
    with pytest.raises(ConflictError):
        client.directories.rename(NAME, "/front", "cam2")


def test_delete_only_when_empty_unless_cascading(client: pictograph.Client) -> None:
    with pytest.raises(ValidationError, match="not empty"):
        client.directories.delete(NAME, "/cam2")
    with pytest.raises(ValidationError, match="subdirectories"):
        client.directories.delete(NAME, "/empty")
    client.directories.delete(NAME, "/empty/below")
    client.directories.delete(NAME, "/cam1/night shift", cascade=True)
    assert client.images.get(NAME, "deep.jpg").directory_path == "/cam1"
    with pytest.raises(NotFoundError):
        client.directories.delete(NAME, "/cam1/night shift")
