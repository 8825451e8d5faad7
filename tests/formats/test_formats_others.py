"""VOC, ImageFolder, Hugging Face, sizes from headers, losses, README."""

from __future__ import annotations

import io
import json
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest
import supervision
from hypothesis import given
from hypothesis import strategies as st
from making import CLASSES, box, keypoint, polygon, polyline, sample, scene, write_voc
from PIL import Image

from pictofs.formats import coco, header, huggingface, imagefolder, readme, voc
from pictofs.formats.classes import Classes
from pictofs.formats.losses import EXAMPLES_MAX, REASONS, Losses
from pictofs.model import names

DECLARED = Classes(CLASSES)


def test_voc_has_boxes_in_whole_pixels_from_0() -> None:
    losses = Losses()
    one = sample(
        box("car", 10.4, 20.6, 30, 40),
        box("car", -5, -5, 10, 10),
        polygon("lake", [(1, 2), (30, 2), (30, 40)]),
        polyline("lane", (0, 0), (1, 1)),
        keypoint("nose", 1, 1),
        box("car", 700, 5, 10, 10),
        box("car", 639.9, 5.1, 0.05, 0.2),
    )
    root = ElementTree.fromstring(voc.document(one, losses))

    assert root.findtext("folder") == "JPEGImages"
    assert root.findtext("filename") == "a.jpg"
    assert [root.findtext(f"size/{each}") for each in ("width", "height", "depth")] == [
        "640",
        "480",
        "3",
    ]
    found = [
        (each.findtext("name"), *[int(edge.text or "") for edge in each.find("bndbox") or []])
        for each in root.iter("object")
    ]
    assert found == [
        ("car", 10, 21, 40, 61),
        ("car", 0, 0, 5, 5),
        ("lake", 1, 2, 30, 40),
        ("car", 639, 5, 640, 6),
    ]
    assert losses.counts == {"outline": 1, "polyline": 1, "keypoint": 1, "outside": 1}


@pytest.mark.parametrize("name", ["<b>&amp;", "a\x00b\x1b", "a\nb", "\ufffe", "🦀", "]]>"])
def test_voc_is_xml_whatever_a_class_is_called(name: str) -> None:
    one = sample(box(f"x{name}", 1, 1, 9, 9), file_name=f"{name}.jpg")
    root = ElementTree.fromstring(voc.document(one, Losses()).encode())
    assert len(root.findall("object")) == 1


def test_supervision_reads_the_boxes_of_voc_counting_from_1(tmp_path: Path) -> None:
    samples = [
        msgspec.structs.replace(scene(place), file_name=f"{place}.jpg") for place in range(8)
    ]
    write_voc(tmp_path, samples)
    dataset = supervision.DetectionDataset.from_pascal_voc(
        str(tmp_path / "JPEGImages"), str(tmp_path / "Annotations")
    )
    for path, _, detections in dataset:
        expected = [each.bounds for each in samples[int(Path(path).stem)].annotations]
        found = detections.xyxy + np.array([1, 1, 0, 0])
        assert np.allclose(found, np.reshape(expected, (-1, 4)), atol=0.51)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ((), ("_untagged",)),
        (("day",), ("day",)),
        (("day", "wet", "day"), ("day", "wet")),
        (("a/b", "", ".", ".."), ("a‛sb", "‛e", "‛.", "‛..")),
    ],
)
def test_an_image_lies_in_the_folders_of_its_tags(
    tags: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    assert imagefolder.folders(tags) == expected


def test_the_tag_untagged_is_another_folder() -> None:
    (folder,) = imagefolder.folders(("_untagged",))
    assert folder != imagefolder.UNTAGGED
    assert folder.startswith("_untagged‛~")


@given(st.lists(st.text(st.characters(), max_size=300), unique=True, max_size=6))
def test_different_tags_have_different_folders(tags: list[str]) -> None:
    found = imagefolder.folders(tuple(tags))
    assert len(set(found)) == max(len(tags), 1)
    for folder in found:
        assert 0 < len(folder.encode()) <= names.NAME_MAX_BYTES
        assert "/" not in folder
        assert folder not in (".", "..")


def test_tags_are_counted() -> None:
    losses = Losses()
    imagefolder.count(sample(tags=("a", "b")), losses)
    imagefolder.count(sample(tags=("a",)), losses)
    imagefolder.count(sample(), losses)
    assert (losses.images, losses.labels) == (3, 4)
    assert losses.counts == {"several_tags": 1, "no_tag": 1}


def test_a_row_for_datasets_has_lists_of_one_length() -> None:
    losses = Losses()
    one = sample(
        box("lake", 10, 20, 30, 40),
        polygon("car", [(1, 2), (30, 2), (30, 40)]),
        keypoint("nose", 1, 1),
        key=2**51 - 1,
        tags=("day", 'a "b"'),
    )
    line = huggingface.row(one, DECLARED, coco.Ids(), losses)
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    row = json.loads(line)

    assert row["image_id"] == 2**51 - 1
    assert json.loads(row["tags"]) == ["day", 'a "b"']
    assert row["objects"]["bbox"] == [[10, 20, 30, 40], [1, 2, 29, 38]]
    assert row["objects"]["category"] == [1, 0]
    assert row["objects"]["category_name"] == ["lake", "car"]
    assert row["objects"]["area"] == [1200, 1102]
    assert losses.counts == {"outline": 1, "keypoint": 1}

    coco_ids = [
        json.loads(each)["id"] for each in coco.annotation_rows(one, DECLARED, coco.Ids(), Losses())
    ]
    assert row["objects"]["id"] == coco_ids[:2]


def test_numbers_of_boxes_are_floats_in_each_row() -> None:
    line = huggingface.row(sample(box("car", 1, 2, 3, 4)), DECLARED, coco.Ids(), Losses())
    assert b'"bbox":[[1.0,2.0,3.0,4.0]]' in line
    assert b'"area":[12.0]' in line


def _encoded(kind: str, orientation: int = 1) -> bytes:
    image = Image.new("RGB", (60, 40), "red")
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = io.BytesIO()
    image.save(data, kind, exif=exif)
    return data.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"])
def test_a_size_is_told_from_the_first_bytes(kind: str) -> None:
    data = io.BytesIO()
    Image.new("RGB", (60, 40), "red").save(data, kind)
    assert header.size(data.getvalue()[: header.HEAD_BYTES]) == (60, 40)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_is_upright(orientation: int) -> None:
    expected = (60, 40) if orientation < 5 else (40, 60)
    assert header.size(_encoded("JPEG", orientation)) == expected


@pytest.mark.parametrize(
    "head",
    [b"", b"\xff\xd8", b"<svg width='5' height='6'/>", b"\0\0\0\x18ftypheic", b"P5 3 4 255 "],
)
def test_what_tells_no_size_is_none(head: bytes) -> None:
    assert header.size(head) is None


STARTS = st.sampled_from([_encoded(kind) for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")])


@given(STARTS, st.integers(0, 900), st.binary(max_size=300))
def test_hostile_bytes_tell_a_size_or_none(start: bytes, cut: int, rest: bytes) -> None:
    found = header.size(start[:cut] + rest)
    assert found is None or min(found) > 0


def test_losses_are_merged_and_reported() -> None:
    first = Losses()
    second = Losses()
    for place in range(EXAMPLES_MAX + 3):
        first.add("polyline", f"{place}.jpg", 2)
    second.add("polyline", "z.jpg")
    second.add("hole", "z.jpg")
    second.add("hole", "z.jpg")
    second.wrote(3)
    second.add("outside", "z.jpg", 0)
    first.merge(msgspec.json.decode(msgspec.json.encode(second), type=Losses))

    report = first.report("yolo")
    assert (report["images"], report["labels"]) == (1, 3)
    assert report["left_out"] == [
        {
            "reason": "polyline",
            "why": REASONS["polyline"],
            "count": 2 * (EXAMPLES_MAX + 3) + 1,
            "examples": [f"{place}.jpg" for place in range(EXAMPLES_MAX)],
        },
        {"reason": "hole", "why": REASONS["hole"], "count": 2, "examples": ["z.jpg"]},
    ]


def test_the_readme_names_every_format() -> None:
    text = readme.text()
    for folder in ("yolo", "yolo-segment", "yolo-obb", "yolo-pose", "coco", "voc"):
        assert f"| `{folder}` |" in text
    assert "allow_empty=True" in text
    assert "labels/*.cache" in text
