"""`formats/`: each image once and as it is, labels that agree with the annotation files, files of
the whole dataset that follow every edit, and what all that costs."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from format_world import CLASSES, FILE, LISTED, SPLITS, TOP, VIEWS, box, organization
from mounting import finished_export
from rig import Mount, Rig, annotation_bytes, error_of, image_bytes

from pictofs.errors import DiskFull, NoSuchEntry, PictofsError, ServerFault, Stale
from pictofs.formats import voc, yolo
from pictofs.formats.classes import Classes
from pictofs.formats.losses import Losses
from pictofs.formats.sample import Sample, decode
from pictofs.library.beside import CannotStart
from pictofs.library.formats import builder
from pictofs.model.formats import (
    BASES,
    FORMATS,
    LABEL_VERSIONS,
    LABELLED,
    NODES,
    REVISION_PLACE,
    TREES,
    YOLO,
    label_format,
    label_place,
    version_of,
)
from pictofs.model.inode import NodeKind, number
from pictofs.store.catalog.rows import RemovedDentry
from pictofs.vfs.place import Places
from standin import PRESETS, Organization, StandIn
from standin.faults import Reset
from standin.records import Image


@pytest.fixture
async def mount(tmp_path: Path) -> AsyncIterator[Mount]:
    with StandIn(organization()) as standin:
        async with Rig(standin, tmp_path).mount() as mount:
            yield mount


def images(mount: Mount) -> list[Image]:
    return list(mount.standin.organization["signs"].images.values())


def split_of(image: Image) -> str:
    return image.split or "train"


def sample(mount: Mount, image: Image, name: str = "") -> Sample:
    decoded = decode(annotation_bytes(mount.standin, image))
    return Sample(1, name, 200, 100, tuple(image.tags), decoded.annotations, decoded.malformed)


async def files(mount: Mount, path: str) -> dict[str, bytes | None]:
    """What is below a folder, by the path below it, without folders."""
    found = await mount.walk(path)
    return {name.removeprefix(f"{path}/"): data for name, data in found.items() if data is not None}


def label_path(path: str) -> str:
    """Where ultralytics looks for the labels of an image: `img2label_paths`."""
    return "/labels/".join(path.rsplit("/images/", 1)).rsplit(".", 1)[0] + ".txt"


# What is there.


async def test_g1_formats_are_there_and_not_listed(mount: Mount) -> None:
    assert "formats" not in await mount.list(TOP)
    assert not [path for path in await mount.walk(read=False) if "/formats" in path]
    assert list(await mount.list(VIEWS)) == ["README.md", *FORMATS]
    assert list(await mount.list(f"{VIEWS}/yolo")) == [
        "data.yaml",
        "report.json",
        "images",
        "labels",
    ]

    assert "formats" not in await mount.list(f"{TOP}/by-status/new")
    assert list(await mount.list(f"{TOP}/by-status/new/formats")) == ["README.md", *FORMATS]
    for path in ("by-status/review/formats", "by-split/train/formats", "by-status/formats"):
        assert isinstance(await error_of(partial(mount.look, f"{TOP}/{path}")), NoSuchEntry)


async def test_g1_poses_are_shown_where_a_class_has_a_skeleton(tmp_path: Path) -> None:
    with StandIn(PRESETS["small"]()) as standin:
        async with Rig(standin, tmp_path).mount() as mount:
            assert "yolo-pose" not in await mount.list("/datasets/small/formats")
            assert isinstance(
                await error_of(partial(mount.look, "/datasets/small/formats/yolo-pose")),
                NoSuchEntry,
            )


@pytest.mark.parametrize("base", [None, "complete"])
@pytest.mark.parametrize("name", FORMATS)
async def test_g2_each_image_is_the_original_and_in_its_split(
    mount: Mount, name: str, base: str | None
) -> None:
    top = f"{TOP}/by-status/{base}/formats/{name}" if base else f"{VIEWS}/{name}"
    wanted: Counter[tuple[str, bytes]] = Counter()
    for image in images(mount):
        if base in (None, image.status):
            split = "" if name == "voc" else split_of(image)
            places = max(1, len(image.tags)) if name == "imagefolder" else 1
            wanted[split, image_bytes(image)] += places

    below = {"voc": "JPEGImages", "imagefolder": "", "huggingface": ""}.get(name, "images")
    own = {node.file for node in NODES if node.format == name}
    if below:
        own = set()
    found: Counter[tuple[str, bytes]] = Counter()
    numbers = {
        (await mount.look(path)).inode
        for path, data in (await mount.walk(f"{TOP}/images", read=False)).items()
        if data is not None
    }
    for path, data in (await files(mount, f"{top}/{below}".rstrip("/"))).items():
        if path in own:
            continue
        assert data is not None
        found["" if name == "voc" else path.split("/")[0], data] += 1
        assert (await mount.look(f"{top}/{below}/{path}".replace("//", "/"))).inode in numbers

    assert found == wanted


@pytest.mark.parametrize("name", YOLO)
async def test_g3_g4_ultralytics_finds_a_label_of_its_own_for_each_image(
    mount: Mount, name: str
) -> None:
    task = {"yolo": "detect", "yolo-segment": "segment", "yolo-obb": "obb", "yolo-pose": "pose"}
    classes = Classes(CLASSES)
    by_bytes = {image_bytes(image): image for image in images(mount)}
    labels = await files(mount, f"{VIEWS}/{name}/labels")

    seen = set()
    for path, data in (await files(mount, f"{VIEWS}/{name}/images")).items():
        assert "/images/" not in path
        assert data is not None
        image = by_bytes[data]
        if "." not in path.rpartition("/")[2]:
            continue

        own = label_path(f"/images/{path}").removeprefix("/labels/")
        seen.add(own)
        assert labels[own] is not None
        text = yolo.label(sample(mount, image), classes, task[name], Losses())  # type: ignore[arg-type]
        assert labels[own] == text.encode(), path

    # Three have no extension: ultralytics does not take them for images.
    assert len(seen) == len(labels) - 3


async def test_g3_voc_finds_a_document_for_each_image(mount: Mount) -> None:
    by_bytes = {image_bytes(image): image for image in images(mount)}
    documents = await files(mount, f"{VIEWS}/voc/Annotations")
    pictures = await files(mount, f"{VIEWS}/voc/JPEGImages")
    assert len(documents) == len(pictures) == len(images(mount))

    for path, data in pictures.items():
        assert data is not None
        stem = path.removesuffix(".jpg")
        text = voc.document(sample(mount, by_bytes[data], path), Losses())
        assert documents[f"{stem}.xml"] == text.encode()

    for split in SPLITS:
        listed = (await mount.read(f"{VIEWS}/voc/ImageSets/Main/{split}.txt")).decode().split("\n")
        wanted = [image for image in images(mount) if split_of(image) == split]
        assert listed.pop() == ""
        assert Counter(pictures[f"{stem}.jpg"] for stem in listed) == Counter(
            map(image_bytes, wanted)
        )


async def test_g3_each_tag_is_a_folder_in_every_split(mount: Mount) -> None:
    """So that a class has the same number in each: torchvision sorts the folders that it finds."""
    for split in SPLITS:
        assert set(await mount.list(f"{VIEWS}/imagefolder/{split}")) == {
            "_untagged",
            "night",
            "rain‛ssnow",
        }
    assert await mount.list(f"{VIEWS}/imagefolder/test/night") == {}


@pytest.mark.parametrize(
    "path",
    [
        "yolo/images/train/empty",  # nothing below
        "yolo/images/test/cam",  # nothing of that split below
        "yolo/images/train/images",  # called otherwise
        "yolo/images/val/a.jpg",  # of another split
        "yolo/labels/train/a.jpg",
        "yolo/labels/train/nothing.txt",
        "yolo/labels/val/a.txt",
        "coco/images/train/a.txt",
        "coco/annotations/instances_valid.json",
        "voc/JPEGImages/a.png",
        "voc/Annotations/a.txt",
        "imagefolder/train/rain/snow",
        "imagefolder/test/night/a.jpg",
        "huggingface/train/metadata.json",
        "yolov8",
    ],
)
async def test_what_a_format_does_not_have_is_not_found(mount: Mount, path: str) -> None:
    assert isinstance(await error_of(partial(mount.look, f"{VIEWS}/{path}")), NoSuchEntry)


async def test_g3_nasty_names_are_found_as_they_are_listed(tmp_path: Path) -> None:
    """`walk` looks up each entry that is listed, and none comes twice."""
    with StandIn(PRESETS["nasty"](), cold_reads=True) as standin:
        async with Rig(standin, tmp_path).mount() as mount:
            for dataset in await mount.list("/datasets"):
                top = f"/datasets/{dataset}"
                wanted = await numbers(mount, f"{top}/images")
                for name in ("yolo", "coco", "voc"):
                    below = "JPEGImages" if name == "voc" else "images"
                    assert await numbers(mount, f"{top}/formats/{name}/{below}") == wanted


async def numbers(mount: Mount, path: str) -> Counter[int]:
    """Inode numbers of the files below a folder."""
    found = await mount.walk(path, read=False)
    return Counter(
        [(await mount.look(name)).inode for name, data in found.items() if data is not None]
    )


# Files of the whole dataset.


async def test_g5_coco_has_every_image_and_follows_an_edit(mount: Mount) -> None:
    whole: dict[str, Any] = {}
    for split in SPLITS:
        text = await mount.read(f"{VIEWS}/coco/annotations/instances_{split}.json")
        whole[split] = json.loads(text)
        wanted = [image for image in images(mount) if split_of(image) == split]
        assert len(whole[split]["images"]) == len(wanted)
        paths = {each["file_name"] for each in whole[split]["images"]}
        assert paths == set(await files(mount, f"{VIEWS}/coco/images/{split}"))

    names = [each["name"] for each in whole["train"]["categories"]]
    assert names == ["car", "lake", "person"]
    rows = [row for split in SPLITS for row in whole[split]["annotations"]]
    assert len({row["id"] for row in rows}) == len(rows) > 20
    assert all(row["area"] > 0 and row["iscrowd"] == 0 for row in rows)

    held = await mount.open(f"{VIEWS}/coco/annotations/instances_train.json")
    image = next(each for each in images(mount) if each.filename == "a.jpg")
    image.annotations = [box("car", 1, 1, 5, 5)]
    image.annotation_count = 1
    mount.standin.organization.changed(mount.standin.organization["signs"], "annotations")
    await mount.library.refresh("signs")

    text = await mount.read(f"{VIEWS}/coco/annotations/instances_train.json")
    again = json.loads(text)
    key = {each["id"] for each in again["images"]}
    assert key == {each["id"] for each in whole["train"]["images"]}
    mine = [row for row in again["annotations"] if row["bbox"] == [1, 1, 5, 5]]
    assert len(mine) == 1
    # Everything else kept its id.
    before = {row["id"]: row for row in whole["train"]["annotations"]}
    after = {row["id"]: row for row in again["annotations"]}
    same = before.keys() & after.keys()
    assert len(same) >= len(before) - 4
    assert all(before[each] == after[each] for each in same)

    # Who holds the file open keeps it.
    assert json.loads(await mount.rest(held)) == whole["train"]
    mount.tree.close(held.handle)


async def test_g5_the_same_inputs_give_the_same_bytes_for_no_request(tmp_path: Path) -> None:
    with StandIn(organization()) as standin:
        rig = Rig(standin, tmp_path)
        async with rig.mount() as mount:
            made = {
                node.path: await mount.read("/".join((VIEWS, *node.path)))
                for node in NODES
                if node.format is not None and "." in node.path[-1]
            }

        rig.fault(Reset())
        async with rig.mount(max_retries=0) as mount:
            for path, data in made.items():
                assert await mount.read("/".join((VIEWS, *path))) == data


async def test_g5_data_yaml_names_the_splits_that_have_images(tmp_path: Path) -> None:
    made = organization()
    for image in made["signs"].images.values():
        image.split = "train"
    with StandIn(made) as standin:
        async with Rig(standin, tmp_path).mount() as mount:
            text = (await mount.read(f"{VIEWS}/yolo/data.yaml")).decode()
            assert "\nval: images/train  # No image is in the split val.\n" in text
            assert '  0: "car"\n  1: "lake"\n' in text
            assert await mount.list(f"{VIEWS}/yolo/images/val") == {}
            assert (
                json.loads(await mount.read(f"{VIEWS}/coco/annotations/instances_val.json"))[
                    "images"
                ]
                == []
            )


async def test_g7_what_is_left_out_is_counted(mount: Mount) -> None:
    report = json.loads(await mount.read(f"{VIEWS}/yolo/report.json"))
    counts = {each["reason"]: each["count"] for each in report["left_out"]}
    written = [annotation for image in images(mount) for annotation in image.annotations or ()]
    kinds = Counter(each["type"] for each in written)
    assert report["images"] == len(images(mount))
    assert report["labels"] == kinds["bbox"] + kinds["polygon"]
    assert counts == {
        "polyline": kinds["polyline"],
        "keypoint": kinds["keypoint"],
        "outline": kinds["polygon"],
    }

    status = mount.library._format_status()
    assert [(each.dataset, each.format, each.left_out) for each in status] == [
        ("signs", "yolo", counts)
    ]


async def test_g11_names_that_only_annotations_have_come_last(mount: Mount) -> None:
    one = images(mount)[0]
    two = images(mount)[3]
    one.annotations, one.annotation_count = [box("zebra"), box("car")], 2
    two.annotations, two.annotation_count = [box("ant")], 1

    text = (await mount.read(f"{VIEWS}/yolo/data.yaml")).decode()
    assert re.findall(r'\d+: "(\w+)"', text) == ["car", "lake", "person", "ant", "zebra"]
    label = (await mount.read(f"{VIEWS}/yolo/labels/{split_of(one)}/a.txt")).decode()
    assert sorted(line.split()[0] for line in label.splitlines()) == ["0", "4"]
    assert b"<name>zebra</name>" in await mount.read(f"{VIEWS}/voc/Annotations/a.xml")


# Sizes.


async def test_g6_sizes_are_exact_from_open_on_and_never_zero_before(mount: Mount) -> None:
    for name in ("yolo/labels/val/1a.txt", "yolo/data.yaml", "coco/report.json"):
        before = await mount.look(f"{VIEWS}/{name}")
        assert before.size >= 1 << 20
        assert before.keep == 0
        data = await mount.read(f"{VIEWS}/{name}")
        assert (await mount.look(f"{VIEWS}/{name}")).size == len(data)

    # A listing looks at no annotation file, `stat` does.
    await mount.read(f"{TOP}/annotations/a.jpg.json")
    listed = (await mount.list(f"{VIEWS}/yolo-obb/labels/train"))["a.txt"]
    assert listed.keep == 0
    size = len(await mount.read(f"{VIEWS}/yolo-obb/labels/train/a.txt"))
    assert (await mount.look(f"{VIEWS}/yolo-obb/labels/train/a.txt")).size == size


# Requests.


async def test_g8_a_listing_costs_what_the_dataset_costs(mount: Mount) -> None:
    await mount.walk(f"{VIEWS}/yolo/images", read=False)
    assert mount.asked == LISTED
    for name in FORMATS:
        await mount.walk(f"{VIEWS}/{name}", read=False)
        await mount.walk(f"{TOP}/by-status/new/formats/{name}", read=False)
    assert mount.asked == LISTED


async def test_g8_a_label_costs_its_annotation_file(mount: Mount) -> None:
    await mount.list(f"{VIEWS}/yolo/labels/train")
    mount.forget_log()
    await mount.read(f"{VIEWS}/yolo/labels/train/a.txt")
    assert mount.asked == [FILE]
    await mount.read(f"{VIEWS}/yolo-segment/labels/train/a.txt")
    await mount.read(f"{TOP}/annotations/a.jpg.json")
    assert mount.asked == [FILE]


async def test_g8_files_of_the_dataset_cost_each_annotation_file_once(mount: Mount) -> None:
    await mount.list(f"{VIEWS}/yolo/labels/train")
    mount.forget_log()
    await mount.read(f"{VIEWS}/coco/annotations/instances_val.json")
    asked = Counter(mount.asked)
    assert asked == {FILE: len(images(mount)), "GET /exports/": 1}

    for name in FORMATS:
        await mount.read(f"{VIEWS}/{name}/report.json")
        await mount.read(f"{TOP}/by-status/complete/formats/{name}/report.json")
    assert Counter(mount.asked) == asked


async def test_g8_imagefolder_needs_no_annotation_file(mount: Mount) -> None:
    report = json.loads(await mount.read(f"{VIEWS}/imagefolder/report.json"))
    assert mount.asked == LISTED
    assert {each["reason"] for each in report["left_out"]} == {"no_tag", "several_tags"}


async def test_g8_a_status_costs_its_own_files_alone(mount: Mount) -> None:
    await mount.read(f"{TOP}/by-status/complete/formats/yolo/data.yaml")
    assert mount.asked.count(FILE) == sum(each.status == "complete" for each in images(mount))


async def test_g8_a_finished_export_serves(mount: Mount) -> None:
    mount.clock.advance(60)
    finished_export(mount.standin, "signs", "v1")
    mount.clock.advance(60)
    await mount.list(f"{VIEWS}/yolo/labels/train")
    mount.forget_log()
    await mount.read(f"{VIEWS}/yolo/data.yaml")
    assert Counter(mount.asked) == {
        "GET /exports/": 1,
        "GET /exports/{export:path}/download": 1,
        FILE: 1,
    }


# Freshness.


async def test_g9_a_refresh_moves_images_and_changes_labels(mount: Mount) -> None:
    before = await mount.read(f"{VIEWS}/yolo/labels/train/a.txt")
    listed = await mount.list(f"{VIEWS}/yolo/images/train")
    assert "a.jpg" in listed
    image = images(mount)[0]
    image.split = "val"
    image.annotations = [box("lake", 0, 0, 200, 100)]
    told: list[RemovedDentry] = []
    await mount.library.refresh("signs")
    while mount.library.invalidations.incoming.statistics().current_buffer_used:
        told.append(mount.library.invalidations.incoming.receive_nowait())
    row = mount.catalog.dataset_by_entry("signs")
    assert row is not None
    assert RemovedDentry(number(NodeKind.DATASET, row.key), "formats") in told

    assert "a.jpg" not in await mount.list(f"{VIEWS}/yolo/images/train")
    after = await mount.read(f"{VIEWS}/yolo/labels/val/a.txt")
    assert after == b"1 0.500000 0.500000 1.000000 1.000000\n"
    assert after != before


# Width and height.


@pytest.fixture
def unsized() -> Organization:
    """Two images of which only their first bytes tell the size, and one of which nothing does."""
    made = Organization()
    signs = made.add_dataset("signs", classes=CLASSES)
    for name in ("a.png", "b.png"):
        made.add_image(
            signs,
            name,
            size=9_000,
            width=None,
            height=None,
            annotations=[box("car")],
            annotation_count=1,
            content_type="image/png",
            split="train",
        )
    made.add_image(
        signs,
        "c.jpg",
        blob=b"no image at all",
        width=None,
        height=None,
        annotations=[box("car")],
        annotation_count=1,
        split="train",
    )
    return made


async def test_g12_the_size_comes_from_the_images_head(
    unsized: Organization, tmp_path: Path
) -> None:
    with StandIn(unsized) as standin:
        rig = Rig(standin, tmp_path)
        async with rig.mount() as mount:
            first = next(iter(standin.organization["signs"].images.values()))
            text = json.loads(await mount.read(f"{VIEWS}/coco/annotations/instances_train.json"))
            found = {each["file_name"]: (each["width"], each["height"]) for each in text["images"]}
            size = (first.look.width, first.look.height)
            assert found == {"a.png": size, "b.png": size}

            report = json.loads(await mount.read(f"{VIEWS}/coco/report.json"))
            assert [(each["reason"], each["count"]) for each in report["left_out"]] == [
                ("unsized", 1)
            ]

            error = await error_of(partial(mount.read, f"{VIEWS}/yolo/labels/train/c.txt"))
            assert isinstance(error, PictofsError)
            assert "width and height" in str(error)

        # It is remembered, also when the listing is made anew.
        async with rig.mount() as mount:
            await mount.library.refresh("signs")
            mount.forget_log()
            await mount.read(f"{VIEWS}/yolo/labels/train/a.txt")
            assert not standin.log.requests("storage")


# What goes wrong.


async def test_g5_a_cache_that_is_too_small_is_told(tmp_path: Path) -> None:
    with StandIn(organization()) as standin:
        async with Rig(standin, tmp_path).mount(cache_size=40_000) as mount:
            error = await error_of(partial(mount.read, f"{VIEWS}/coco/report.json"))
            assert isinstance(error, DiskFull)


async def test_g5_without_a_process_the_mount_makes_the_files(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(*_: Any) -> Any:
        raise CannotStart("no process is left")

    monkeypatch.setattr(builder, "start", cannot)
    assert b"names:" in await mount.read(f"{VIEWS}/yolo/data.yaml")


async def test_g5_a_process_that_dies_is_told(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = builder.start

    def killed(module: str, theirs: Any) -> Any:
        process = begin(module, theirs)
        process.kill()
        return process

    monkeypatch.setattr(builder, "start", killed)
    error = await error_of(partial(mount.read, f"{VIEWS}/yolo/data.yaml"))
    assert isinstance(error, PictofsError)
    assert "yolo" in str(error)

    monkeypatch.setattr(builder, "start", begin)
    assert b"names:" in await mount.read(f"{VIEWS}/yolo/data.yaml")


async def test_o1_without_a_server_what_is_missing_fails(tmp_path: Path) -> None:
    with StandIn(organization()) as standin:
        rig = Rig(standin, tmp_path)
        async with rig.mount() as mount:
            await mount.list(f"{VIEWS}/yolo/labels/train")
            rig.fault(Reset())
            error = await error_of(partial(mount.read, f"{VIEWS}/yolo/data.yaml"))
            assert isinstance(error, ServerFault)


# Inode numbers.


@pytest.mark.parametrize("kind", [NodeKind.FORMAT, NodeKind.FORMAT_FOLDER, NodeKind.LABEL])
async def test_a_node_that_no_format_has_is_not_found(mount: Mount, kind: NodeKind) -> None:
    await mount.list(VIEWS)
    dataset = mount.catalog.dataset_by_entry("signs")
    assert dataset is not None
    root = mount.catalog.directory_by_path(dataset.key, "/")
    assert root is not None
    key = {NodeKind.FORMAT: dataset.key, NodeKind.FORMAT_FOLDER: root.key}.get(kind, 5)
    last = {NodeKind.FORMAT: len(NODES), NodeKind.FORMAT_FOLDER: len(TREES)}.get(kind, 0)

    for version in range(256):
        place = version % 51
        if version < 255 and place < last:
            continue
        error = await error_of(partial(mount.tree.attributes, number(kind, key, version)))
        # It may have been that of an earlier content: then the path leads to another number.
        is_revision = kind is NodeKind.FORMAT and place == REVISION_PLACE and version < 255
        assert isinstance(error, Stale if is_revision else NoSuchEntry), version


async def test_i4_a_file_of_a_later_content_leads_to_the_folder_above(mount: Mount) -> None:
    for name in ("yolo/data.yaml", "huggingface/train/metadata.jsonl"):
        path = f"{VIEWS}/{name}"
        await mount.read(path)
        before = (await mount.look(path)).inode
        images(mount)[0].annotations = [box("ant")]
        images(mount)[0].split = "val"
        await mount.library.refresh("signs")
        await mount.read(path)
        now = (await mount.look(path)).inode
        assert now != before
        above = (await mount.look(path.rpartition("/")[0])).inode
        assert (await mount.tree.lookup(now, "..")).inode == above
        assert Places(mount.library).path(now) == path
        images(mount)[0].split = "train"


async def test_i4_a_folder_leads_to_the_one_above(mount: Mount) -> None:
    for path in (
        "formats",
        "formats/coco/annotations",
        "formats/yolo/images/train/cam",
        "formats/yolo/labels/val",
        "by-status/new/formats",
        "by-status/new/formats/huggingface/train",
    ):
        inode = (await mount.look(f"{TOP}/{path}")).inode
        above = (await mount.look(f"{TOP}/{path}".rpartition("/")[0])).inode
        assert (await mount.tree.lookup(inode, "..")).inode == above


def test_places_of_formats_do_not_change() -> None:
    assert [version_of(base, 0) for base in BASES] == [0, 51, 102, 153, 204]
    assert NODES[2].path == ("yolo",)
    assert NODES[22].path == ("coco",)
    assert NODES[47].path == ("huggingface", "report.json")
    assert TREES[0].path == ("yolo", "images", "train")
    assert TREES[29].path == ("huggingface", "test")
    assert len(NODES) == REVISION_PLACE == 48
    assert [label_place(format_, 0) for format_ in LABELLED] == [1, 2, 3, 4, 5]
    assert [label_place("yolo", version) for version in (1, 9, 10)] == [6, 46, 1]
    last = label_place("voc", LABEL_VERSIONS - 1)
    assert version_of(BASES[1], 0) == last + 1 == 51
    for format_ in LABELLED:
        assert {label_format(label_place(format_, at)) for at in range(20)} == {format_}
    assert list(LABELLED) == ["yolo", "yolo-segment", "yolo-obb", "yolo-pose", "voc"]
