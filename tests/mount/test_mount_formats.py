"""`formats/` of a mount, read by the loaders that trainers have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from mounting import Mount, Mounting, Serving, run
from training import Trainer, usual_trainer

from standin import PRESETS, StandIn
from standin.records import Image

CONSUMER = Path(__file__).parent / "consume.py"
SIGNS = "street-signs"


@pytest.fixture(scope="module")
def server(module_serving: Serving) -> StandIn:
    return module_serving(PRESETS["sample"]())


@pytest.fixture(scope="module")
def mount(module_mounted: Mounting, server: StandIn) -> Mount:
    return module_mounted(server)


@pytest.fixture
def top(mount: Mount) -> Path:
    return mount.datasets / SIGNS / "formats"


def images(server: StandIn, split: str) -> list[Image]:
    return [
        image
        for image in server.organization[SIGNS].images.values()
        if (image.split or "train") == split
    ]


def consumed(kind: str, top: Path, home: Path) -> Any:
    """What a loader finds."""
    done = subprocess.run(
        [sys.executable, str(CONSUMER), kind, str(top)],
        env={**os.environ, "HOME": str(home), "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def kinds(server: StandIn, split: str) -> Counter[str]:
    return Counter(
        each["type"]
        for image in images(server, split)
        for each in server.organization.annotations(image)
    )


def test_g2_torchvision_reads_coco(server: StandIn, top: Path, tmp_path: Path) -> None:
    found = consumed("coco", top, tmp_path)
    for split in ("train", "val", "test"):
        there = kinds(server, split)
        assert found[split]["images"] == len(images(server, split))
        assert found[split]["boxes"] == there["bbox"] + there["polygon"] + there["keypoint"]
        assert found[split]["sides"] == [[640, 480]]


def test_g4_pycocotools_makes_the_masks_that_are_written(top: Path, tmp_path: Path) -> None:
    found = consumed("masks", top, tmp_path)
    assert found["ids"] == found["rows"] > 500
    # A mask has whole pixels: 5 % of a lamp's box of 24.
    assert found["worst"] < 0.1


def test_g3_torchvision_reads_voc(server: StandIn, top: Path, tmp_path: Path) -> None:
    found = consumed("voc", top, tmp_path)
    assert found["images"] == len(images(server, "train"))
    there = Counter(
        each["name"]
        for image in images(server, "train")
        for each in server.organization.annotations(image)
        if each["type"] in ("bbox", "polygon")
    )
    assert found["names"] == there


def test_g2_torchvision_numbers_tags_alike_in_each_split(
    server: StandIn, top: Path, tmp_path: Path
) -> None:
    found = consumed("imagefolder", top, tmp_path)
    assert found["train"]["classes"] == found["val"]["classes"] == {"_untagged": 0, "dark": 1}
    for split in ("train", "val"):
        there = Counter("dark" if image.tags else "_untagged" for image in images(server, split))
        assert found[split]["counts"] == there


def test_g2_hugging_face_reads_all_splits(server: StandIn, top: Path, tmp_path: Path) -> None:
    found = consumed("huggingface", top, tmp_path)
    for name, split in (("train", "train"), ("validation", "val"), ("test", "test")):
        there = kinds(server, split)
        assert found[name] == {
            "images": len(images(server, split)),
            "boxes": there["bbox"] + there["polygon"],
        }


def test_g4_supervision_finds_the_same_boxes_in_yolo_and_coco(top: Path, tmp_path: Path) -> None:
    found = consumed("supervision", top, tmp_path)
    assert found["names"] == ["stop", "yield", "crossing", "speed limit", "road", "lamp"]
    assert found["compared"] > 100
    assert found["differing"] == 0


def test_g10_cp_copies_what_download_writes(mount: Mount, top: Path, tmp_path: Path) -> None:
    run("cp", "-r", str(top / "yolo"), str(tmp_path / "copied"))
    mount.pictofs("download", SIGNS, str(tmp_path / "got"), "--format", "yolo")
    run("diff", "-r", str(tmp_path / "copied"), str(tmp_path / "got"))


def test_g5_g6_tools_read_files_of_the_dataset_whole(top: Path) -> None:
    for path in ("coco/annotations/instances_val.json", "yolo/data.yaml", "coco/report.json"):
        data = (top / path).read_bytes()
        assert (top / path).stat().st_size == len(data)
        assert run("cat", str(top / path)).encode() == data
    assert (top / "README.md").read_text().startswith("# ")


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("view", "model"), [("yolo", "yolo11n.yaml"), ("yolo-segment", "yolo11n-seg.yaml")]
)
def test_g4_ultralytics_trains_from_the_mount(
    server: StandIn, mount: Mount, tmp_path: Path, view: str, model: str
) -> None:
    trainer: Trainer = usual_trainer()
    trainer.make()
    for status, base in ((None, ""), ("complete", "by-status/complete/")):
        there = [image for image in images(server, "train") if status in (None, image.status)]
        data = mount.datasets / SIGNS / f"{base}formats" / view / "data.yaml"
        trained = trainer.train(data, model, tmp_path / f"work-{status}")

        assert trained.images == len(there)
        assert trained.scans["train"].corrupt == trained.scans["val"].corrupt == 0
        unlabelled = [image for image in there if not image.annotation_count]
        assert trained.scans["train"].backgrounds == len(unlabelled)
        assert "ignoring corrupt" not in trained.output
