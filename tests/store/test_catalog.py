"""What the catalog promises: every item once, under a name that stays, and no item that hides
another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from catalog_world import MANY, World, dataset, directory, image
from msgspec import structs

from pictofs.model.inode import NodeKind, key_of, number
from pictofs.model.names import NAME_MAX_BYTES, tagged
from pictofs.model.records import Dataset
from pictofs.model.selection import selections_of
from pictofs.store.catalog.datasets import DATASETS, Observation
from pictofs.store.catalog.images import Learned
from pictofs.store.catalog.rows import RemovedDentry


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World.at(tmp_path / "catalog.db")
    yield world
    world.catalog.close()


# Datasets.


def test_a_dataset_keeps_its_number_when_it_is_renamed(world: World) -> None:
    before = world.catalog.dataset_by_entry("d")
    gone = world.catalog.put_datasets([dataset("new name")], 2.0)
    after = world.catalog.dataset_by_entry("new name")
    assert before is not None
    assert after is not None
    assert (after.key, after.seq) == (before.key, before.seq)
    assert gone == [RemovedDentry(DATASETS, "d")]
    assert world.catalog.dataset_by_entry("d") is None


def test_datasets_swap_their_names(world: World) -> None:
    world.catalog.put_datasets([dataset("one", 1), dataset("two", 2)], 1.0)
    gone = world.catalog.put_datasets([dataset("two", 1), dataset("one", 2)], 2.0)
    assert {row.entry: row.id for row in world.catalog.datasets_after(0, MANY)} == {
        "two": "d-1",
        "one": "d-2",
    }
    assert set(gone) == {RemovedDentry(DATASETS, "one"), RemovedDentry(DATASETS, "two")}


def test_n4_of_two_datasets_of_one_name_the_older_keeps_it(world: World) -> None:
    world.catalog.put_datasets([dataset("same", 5), dataset("same", 3)], 1.0)
    entries = {row.id: row.entry for row in world.catalog.datasets_after(0, MANY)}
    assert entries == {"d-3": "same", "d-5": tagged("same", "d-5")}
    gone = world.catalog.put_datasets([dataset("same", 5)], 2.0)
    assert [row.entry for row in world.catalog.datasets_after(0, MANY)] == ["same"]
    assert set(gone) == {
        RemovedDentry(DATASETS, "same"),
        RemovedDentry(DATASETS, tagged("same", "d-5")),
    }


def test_a_dataset_that_is_gone_takes_all_with_it(world: World) -> None:
    world.put(image(1, "a.jpg", "/x"))
    assert world.catalog.put_datasets([], 2.0) == [RemovedDentry(DATASETS, "d")]
    assert world.catalog.image(key_of("i-1")) is None
    assert world.catalog.directory_by_path(key_of("d-1"), "/x") is None


def test_a_renamed_dataset_puts_its_annotation_files_in_doubt(world: World) -> None:
    world.put(image(1, "a.jpg"))
    world.table.learn_annotations([Learned(key_of("i-1"), 5, 6, 0.0)], 7)
    world.catalog.put_datasets([dataset("other")], 2.0)
    assert world.row(1).annotation_stale


def told(name: str, number: int, **fields: object) -> Dataset:
    """A dataset as the API tells it."""
    return dataset(name, number, raw={"id": f"d-{number}", "name": name}, **fields)


def entries(world: World) -> dict[str, str]:
    return {row.id: row.entry for row in world.catalog.datasets_after(0, MANY)}


def test_a_dataset_that_is_changed_here_stands_as_the_list_will_have_it(world: World) -> None:
    """Made, renamed and removed one by one, beside twins and swaps, as by a list that holds them
    all."""
    world.catalog.put_datasets([], 1.0)
    there = {5: told("same", 5), 3: told("other", 3)}
    for row in there.values():
        assert world.catalog.put_changed(row, 3.0) == []
    for row in (
        told("same", 3),
        told("lone \ud83d", 5),
        told("a/b", 3),
        told("x" * 300, 5),
        told("a/b", 5),
    ):
        there[row.created_ns] = row
        before = entries(world)
        gone = world.catalog.put_changed(row, 3.0)
        one = entries(world)
        lost = {name for each, name in before.items() if one[each] != name}

        assert {each.entry for each in gone if each.parent == DATASETS} == lost
        assert RemovedDentry(number(NodeKind.DATASET, key_of(row.id)), "dataset.json") in gone

        world.catalog.put_datasets(there.values(), 2.0)

        assert entries(world) == one

    assert world.catalog.drop_dataset(key_of("d-3")) == [
        RemovedDentry(DATASETS, "a‛sb"),
        RemovedDentry(DATASETS, tagged("a/b", "d-5")),
    ]
    assert entries(world) == {"d-5": "a‛sb"}
    assert world.catalog.put_changed(told("a/b", 5, is_archived=True), 3.0) == [
        RemovedDentry(DATASETS, "a‛sb")
    ]


def test_a_change_of_the_classes_is_counted_and_has_a_time(world: World) -> None:
    def listed(classes: object, **fields: object) -> Dataset:
        raw = {"id": "d-2", "name": "signs", "classes": classes, **fields}
        return dataset("signs", 2, raw=raw)

    def found() -> tuple[int, int]:
        row = world.catalog.dataset(key_of("d-2"))
        assert row is not None
        return row.classes_changes, row.classes_ns

    one = [{"name": "car"}, {"name": "van"}]
    world.catalog.put_datasets([listed(one)], 1.0)
    assert found() == (0, 0)
    world.catalog.put_datasets([listed(one, description="another")], 2.0)
    assert found() == (0, 0)
    world.catalog.put_datasets([listed(one[::-1])], 3.0)
    assert found() == (1, 3_000_000_000)
    world.catalog.put_changed(listed(None), 4.0)
    assert found() == (2, 4_000_000_000)
    world.catalog.put_dataset(listed([True]), Observation(5.0, None), known=listed(None).signature)
    assert found() == (3, 5_000_000_000)
    world.catalog.put_dataset(listed([1]), Observation(6.0, None), known="another")
    assert found() == (3, 5_000_000_000)
    world.catalog.put_changed(listed([1]), 7.0)
    assert found() == (4, 7_000_000_000)


LATER = 4e9
"""Wall-clock seconds: an annotation file that the server had then is newer than all that is known."""


def test_what_formats_are_made_of_is_counted_for_its_dataset_alone(world: World) -> None:
    def changes(key: int = 0) -> int:
        row = world.catalog.dataset(key or world.key)
        assert row is not None
        return row.input_changes

    world.catalog.put_datasets([world.dataset, dataset("other", 2)], 1.0)
    image_key = key_of("i-1")
    catalog = world.catalog
    steps: list[Callable[[], object]] = [
        lambda: world.put(image(1, "a.jpg"), image(2, "b.jpg")),
        lambda: world.table.learn_annotations([Learned(image_key, 5, 6, LATER)], 1),
        lambda: world.table.learn_annotations([Learned(image_key, 5, 7, LATER)], 1),
        lambda: world.table.learn_dimensions(image_key, 20, 10),
        lambda: world.table.put_answer(
            world.key, world.dataset.id, key_of(f"{world.dataset.id}:/"), "b.jpg", [], 1
        ),
        lambda: catalog.put_directories(world.key, "d-1", [directory("/made")], "", 1.0),
        lambda: catalog.expire(world.key),
        lambda: world.table.learn_annotations([Learned(image_key, 5, 7, LATER)], 1),
        lambda: world.table.sweep(
            world.key, world.table.begin_pass(), directory=None, signature="", at=1.0
        ),
        lambda: catalog.put_datasets([dataset("renamed"), dataset("other", 2)], 1.0),
    ]
    for place, step in enumerate(steps):
        before = changes()
        step()
        assert changes() > before, place
    assert changes(key_of("d-2")) == 0

    # What changes nothing is not counted.
    world.table.put(world.key, "d-1", [image(1, "a.jpg")], 9, moves=True)
    world.table.learn_annotations([Learned(image_key, 5, 7, LATER)], 1)
    before = changes()
    world.table.learn_annotations([Learned(image_key, 5, 7, LATER)], 2)
    catalog.put_directories(world.key, "d-1", [directory("/made")], "", 2.0)
    world.table.sweep(world.key, 0, directory=None, signature="", at=1.0)
    assert changes() == before


def test_a_list_from_before_a_change_is_not_taken(world: World) -> None:
    before = world.catalog.revision
    world.catalog.put_datasets([told("old", 1)], 1.0, before)
    world.catalog.put_changed(told("new", 2), 2.0)
    assert world.catalog.put_datasets([told("old", 1)], 2.0, before) is None
    assert entries(world) == {"d-1": "old", "d-2": "new"}
    assert world.catalog.meta("checked_at") == 1.0
    world.catalog.drop_dataset(key_of("d-2"))
    assert world.catalog.put_datasets([told("old", 1), told("new", 2)], 2.0, before + 1) is None
    assert entries(world) == {"d-1": "old"}


# Names.


def test_n4_n5_an_image_gives_way_to_a_directory_and_gets_its_name_back(world: World) -> None:
    world.put(image(1, "x"))
    folder = world.directory("/").key
    world.directories["/x"] = directory("/x", 1)
    gone = world.tree()
    assert world.row(1).entry == tagged("x", "i-1")
    assert RemovedDentry(number(NodeKind.IMAGES, folder), "x") in gone
    del world.directories["/x"]
    world.tree()
    world.list_dataset()
    assert world.row(1).entry == "x"


def test_n4_an_annotation_file_gives_way_to_a_directory(world: World) -> None:
    world.put(image(1, "x"))
    world.directories["/x.json"] = directory("/x.json", 1)
    gone = world.tree()
    assert (world.row(1).entry, world.row(1).annotation_name) == ("x", tagged("x.json", "i-1"))
    assert RemovedDentry(number(NodeKind.ANNOTATIONS, world.directory("/").key), "x.json") in gone


def test_an_image_gives_way_to_a_directory_that_only_images_name(world: World) -> None:
    world.put(image(1, "x"))
    world.put(image(2, "y", "/x"))
    assert world.shown()["/"] == {"x": "/x", tagged("x", "i-1"): "i-1"}


def test_n4_the_oldest_of_one_name_keeps_it_whatever_comes_first(world: World) -> None:
    world.put(image(3, "same"))
    world.put(image(1, "same"))
    world.put(image(2, "same"))
    assert world.row(1).entry == "same"
    assert {world.row(n).entry for n in (2, 3)} == {tagged("same", f"i-{n}") for n in (2, 3)}


def test_n5_when_the_oldest_is_gone_the_next_gets_the_name(world: World) -> None:
    world.put(image(1, "same"), image(2, "same"), image(3, "same"))
    del world.images["i-1"]
    world.list_dataset()
    assert (world.row(2).entry, world.row(3).entry) == ("same", tagged("same", "i-3"))


def test_n3_annotation_files_of_the_longest_twins_have_names_that_fit(world: World) -> None:
    name = "l" * (NAME_MAX_BYTES - 4) + ".jpg"
    world.put(image(1, name))
    world.put(image(2, name))
    for each in (1, 2):
        assert len(world.row(each).annotation_name.encode()) <= NAME_MAX_BYTES
    assert world.row(1).annotation_name != world.row(2).annotation_name


def test_a_lone_surrogate_in_a_name_neither_hides_nor_breaks(world: World) -> None:
    world.put(image(1, "\ud800.jpg"), image(2, "good.jpg"))
    world.list_dataset()
    assert world.shown()["/"] == {"‛ud800.jpg": "i-1", "good.jpg": "i-2"}
    world.ask("/", "\ud800.jpg")
    assert world.shown()["/"] == {"‛ud800.jpg": "i-1", "good.jpg": "i-2"}


# Directories.


def test_i1_a_renamed_directory_keeps_its_number_and_its_images(world: World) -> None:
    world.directories["/old"] = directory("/old", 1)
    world.tree()
    world.put(image(1, "a", "/old"))
    before = world.directory("/old").key
    world.directories = {"/new": directory("/new", 1)}
    gone = world.tree()
    assert world.directory("/new").key == before == world.row(1).directory
    assert RemovedDentry(number(NodeKind.IMAGES, world.directory("/").key), "old") in gone


def test_directories_swap_their_names(world: World) -> None:
    world.directories = {"/a": directory("/a", 1), "/b": directory("/b", 2)}
    world.tree()
    keys = world.directory("/a").key, world.directory("/b").key
    world.directories = {"/a": directory("/a", 2), "/b": directory("/b", 1)}
    world.tree()
    assert (world.directory("/b").key, world.directory("/a").key) == keys


def test_a_directory_without_a_row_lasts_as_long_as_its_images(world: World) -> None:
    world.put(image(1, "a", "/x/y"))
    world.tree()
    assert set(world.shown()) == {"/", "/x", "/x/y"}
    world.images.clear()
    gone = world.list_dataset()
    assert set(world.shown()) == {"/"}
    assert RemovedDentry(number(NodeKind.ANNOTATIONS, world.directory("/").key), "x") in gone


def test_a_directory_that_the_server_has_now_outlives_its_images(world: World) -> None:
    world.put(image(1, "a", "/x"))
    world.directories["/x"] = directory("/x")  # no id: the same number as before
    world.images.clear()
    world.tree()
    world.list_dataset()
    assert set(world.shown()) == {"/", "/x"}


def test_two_directories_of_one_id_are_both_there(world: World) -> None:
    world.directories = {"/a": directory("/a", 1), "/b": directory("/b", 1)}
    world.tree()
    assert set(world.shown()) == {"/", "/a", "/b"}


def test_two_datasets_with_a_directory_of_one_id_are_both_there(world: World) -> None:
    world.directories["/a"] = directory("/a", 1)
    world.tree()
    world.catalog.put_datasets([dataset("d"), dataset("other", 2)], 2.0)
    world.catalog.put_directories(key_of("d-2"), "d-2", [directory("/b", 1)], "s", 1.0)
    assert world.catalog.directory_by_path(key_of("d-2"), "/b") is not None
    assert world.catalog.directory_by_path(world.key, "/a") is not None


def test_a_directory_that_is_gone_makes_the_listing_old(world: World) -> None:
    world.directories["/a"] = directory("/a", 1)
    world.tree()
    world.put(image(1, "x", "/a"))
    world.list_dataset()
    world.directories.clear()
    world.tree()
    row = world.catalog.dataset(world.key)
    assert row is not None
    assert row.listed_at is None


# Passes.


def test_a_pass_over_one_folder_leaves_the_others_alone(world: World) -> None:
    world.put(image(1, "a", "/x"), image(2, "b", "/x"), image(3, "c", "/y"))
    del world.images["i-1"]
    gone = world.list_folder("/x")

    assert {each for entries in world.shown().values() for each in entries.values()} == {
        "/x",
        "/y",
        "i-2",
        "i-3",
    }

    folder = world.directory("/x").key

    assert gone == [
        RemovedDentry(number(NodeKind.IMAGES, folder), "a"),
        RemovedDentry(number(NodeKind.ANNOTATIONS, folder), "a.json"),
        *in_views(folder, "a", "new", None),
    ]


def in_views(folder: int, entry: str, status: str, split: str | None) -> list[RemovedDentry]:
    """The entries of an image in the views of its status and split."""
    return [
        RemovedDentry(number(kind, folder, version), name)
        for version in selections_of(status, split)
        for kind, name in (
            (NodeKind.VIEW_IMAGES, entry),
            (NodeKind.VIEW_ANNOTATIONS, f"{entry}.json"),
        )
    ]


def test_v7_an_image_of_another_status_is_gone_from_that_view_alone(world: World) -> None:
    world.put(image(1, "a", "/x"), image(2, "b", "/x"))
    folder = world.directory("/x").key
    world.images["i-1"] = structs.replace(world.images["i-1"], status="review")
    assert set(world.list_folder("/x")) == set(in_views(folder, "a", "new", "-"))
    world.images["i-1"] = structs.replace(world.images["i-1"], split="val")
    assert set(world.list_folder("/x")) == set(in_views(folder, "a", "-", None))
    world.images["i-1"] = structs.replace(world.images["i-1"], tags=("night",))
    assert world.list_folder("/x") == []


def test_i1_an_image_that_moved_is_told_and_keeps_its_number(world: World) -> None:
    world.put(image(1, "a", "/x"))
    before = world.row(1)
    gone = world.put(image(1, "b", "/y"))
    after = world.row(1)
    assert (after.key, after.seq) == (before.key, before.seq)
    assert RemovedDentry(number(NodeKind.IMAGES, before.directory), "a") in gone


def test_images_swap_their_names_in_one_pass(world: World) -> None:
    world.put(image(1, "a"), image(2, "b"))
    world.images |= {"i-1": image(1, "b"), "i-2": image(2, "a")}
    world.list_dataset(size=1)
    assert world.shown()["/"] == {"b": "i-1", "a": "i-2"}


def test_f6_what_a_newer_pass_of_another_mount_saw_is_not_swept(world: World) -> None:
    old = world.table.begin_pass()
    world.put(image(1, "a"))
    world.table.sweep(world.key, old, directory=None, signature="s", at=1.0)
    assert world.row(1).entry == "a"


def test_an_answer_about_one_name_removes_what_had_it(world: World) -> None:
    world.put(image(1, "a.jpg"), image(2, "b.jpg"))
    del world.images["i-1"]
    gone = world.ask("/", "a.jpg")
    assert world.shown()["/"] == {"b.jpg": "i-2"}
    assert RemovedDentry(number(NodeKind.IMAGES, world.directory("/").key), "a.jpg") in gone


@pytest.mark.parametrize(
    "change",
    [
        {"annotation_count": 4},
        {"status": "complete"},
        {"min_confidence": 0.5},
    ],
)
def test_a_change_that_may_change_the_annotations_puts_them_in_doubt(
    world: World, change: dict[str, object]
) -> None:
    world.put(image(1, "a.jpg"))
    world.table.learn_annotations([Learned(key_of("i-1"), 5, 6, 0.0)], 7)
    world.put(image(1, "a.jpg"))
    assert not world.row(1).annotation_stale
    world.put(image(1, "a.jpg", **change))
    assert world.row(1).annotation_stale


def test_i2_a_version_grows_when_the_bytes_of_an_annotation_file_change(world: World) -> None:
    world.put(image(1, "a.jpg"))
    key = key_of("i-1")

    assert [
        world.table.learn_annotations([Learned(key, 5, crc, 0.0)], crc) for crc in (1, 1, 2, 2, 1)
    ] == [
        [0],
        [0],
        [1],
        [1],
        [2],
    ]
    assert world.row(1).annotation_ns == 1


def test_s1_a_size_that_a_download_taught_lasts_until_the_server_says_another(world: World) -> None:
    world.put(image(1, "a.jpg", size=10))
    world.table.learn_size(key_of("i-1"), 12)
    world.put(image(1, "a.jpg", size=10))
    assert world.row(1).known_size == 12
    world.put(image(1, "a.jpg", size=11))
    assert world.row(1).known_size == 11


def test_expiry_of_one_dataset_leaves_the_others_fresh(world: World) -> None:
    world.put(image(1, "a"))
    world.list_dataset()
    world.catalog.expire(key_of("d-2"))
    row = world.catalog.dataset(world.key)
    assert row is not None
    assert row.listed_at is not None
    assert world.catalog.meta("checked_at") == 0.0
