"""ultralytics trains on what is written. From a mount: see tests/mount."""

from __future__ import annotations

from pathlib import Path

import pytest
from making import box, keypoint, sample, scene, write_yolo
from training import Trainer

from pictofs.formats import yolo
from pictofs.formats.sample import Sample

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

MODELS: dict[yolo.Task, str] = {
    "detect": "yolo11n.yaml",
    "segment": "yolo11n-seg.yaml",
    "obb": "yolo11n-obb.yaml",
    "pose": "yolo11n-pose.yaml",
}


def _posed(place: int) -> Sample:
    """An image of a person; every eighth one is without a label."""
    joints = [keypoint(name, 40 + place, 50, 1) for name in ("nose", "left_eye")]
    return sample(
        *(joints if place % 8 else []),
        key=place + 1,
        file_name=f"{place}.jpg",
        width=160,
        height=120,
    )


def _turned(place: int) -> Sample:
    oriented = {"cx": 80.0, "cy": 60.0, "w": 60.0, "h": 30.0, "angle": 5.0 * place}
    labels = [box("car", 50, 30, 60, 60, oriented_box=oriented)] if place % 8 else []
    return sample(*labels, key=place + 1, file_name=f"{place}.jpg", width=160, height=120)


@pytest.mark.parametrize("task", MODELS)
def test_ultralytics_trains_on_the_folder(
    task: yolo.Task, trainer: Trainer, tmp_path: Path
) -> None:
    make = {"detect": scene, "segment": scene, "obb": _turned, "pose": _posed}[task]
    training = [make(place) for place in range(64)]
    checking = [make(place) for place in range(64, 80)]
    losses = write_yolo(tmp_path / "d", {"train": training, "val": checking}, task)

    trained = trainer.train(tmp_path / "d" / "data.yaml", MODELS[task], tmp_path / "work")

    assert trained.images == 64
    assert trained.scans["train"].backgrounds == 8
    assert trained.scans["train"].corrupt == 0
    assert trained.scans["val"].backgrounds == 2
    assert trained.scans["val"].corrupt == 0
    written = sum(
        len(path.read_text().splitlines())
        for path in (tmp_path / "d" / "labels" / "train").rglob("*.txt")
    )
    assert trained.labels == written
    assert losses.counts.keys() <= {"outline"}
    assert "ignoring corrupt" not in trained.output
    assert "duplicate labels removed" not in trained.output
