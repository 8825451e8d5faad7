"""Trains real ultralytics for an epoch on a folder, in a virtual environment of its own.

ultralytics is AGPL and wants OpenCV, CUDA wheels and its own cloud client, so it is no dependency
of anything here: its process gets the path of a `data.yaml` and tells what its loader found.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

WITH_DEPENDENCIES = (
    "torch==2.13.0",
    "matplotlib",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "polars",
    "psutil",
    "pyyaml",
    "requests",
    "scipy",
)
ALONE = ("torchvision==0.28.0", "ultralytics>=8.4,<8.5", "ultralytics-thop")
"""What is installed without its own dependencies."""

PROGRAM = """
import json
import sys

import torch

# The wheel of torchvision holds CUDA operators, and does not load beside torch for the CPU. It
# imports without them once those that it registers on import are declared.
library = torch.library.Library("torchvision", "DEF")
library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def nms(boxes, scores, threshold):
    kept = []
    order = scores.argsort(descending=True)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    while len(order):
        best = order[0]
        kept.append(best)
        rest = order[1:]
        low = torch.maximum(boxes[best, :2], boxes[rest, :2])
        high = torch.minimum(boxes[best, 2:], boxes[rest, 2:])
        shared = (high - low).clamp(min=0).prod(dim=1)
        order = rest[shared / (areas[best] + areas[rest] - shared) <= threshold]
    return torch.stack(kept) if kept else torch.empty(0, dtype=torch.long)


library.impl("nms", nms, "CPU")
import torchvision

torchvision.extension._has_ops = lambda: True
from ultralytics import YOLO

data, model, project = sys.argv[1:]
trained = YOLO(model)
trained.train(
    data=data, project=project, epochs=1, imgsz=64, batch=16, workers=0, device="cpu",
    plots=False, verbose=False, seed=0, exist_ok=True,
)
dataset = trained.trainer.train_loader.dataset
print("FOUND " + json.dumps({
    "images": len(dataset.labels),
    "labels": sum(len(each["cls"]) for each in dataset.labels),
    "names": list(trained.trainer.data["names"].values()),
}))
"""

SCANNED = re.compile(r"(train|val): .*?(\d+) images, (\d+) backgrounds, (\d+) corrupt")


@dataclass(frozen=True)
class Scan:
    """What ultralytics' loader found in a split."""

    images: int
    """Images with a label file."""
    backgrounds: int
    """Images with an empty label file, or with none."""
    corrupt: int


@dataclass(frozen=True)
class Trained:
    """What an epoch was trained on."""

    images: int
    labels: int
    names: list[str]
    scans: dict[str, Scan]
    """By split: train and val."""
    output: str


class Trainer:
    """The environment, made on first use and kept beside the one that runs the tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "bin" / "python"

    def make(self) -> None:
        """Install what is missing: some 700 MB and two minutes with torch for the CPU, which is what
        pip finds where the project's own torch comes from."""
        stamp = self.folder / "installed"
        wanted = "\n".join([*WITH_DEPENDENCIES, *ALONE])
        if stamp.exists() and stamp.read_text() == wanted:
            return

        venv.create(self.folder, clear=True, with_pip=True)
        pip = [str(self.python), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, *WITH_DEPENDENCIES], check=True)
        subprocess.run([*pip, "--no-deps", *ALONE], check=True)
        stamp.write_text(wanted)

    def train(self, data: Path, model: str, work: Path) -> Trained:
        """One epoch on the CPU.

        `data`: a `data.yaml`. `model`: the name of a model's description, such as `yolo11n.yaml`:
        nothing is downloaded. `work`: a folder to write to.
        """
        work.mkdir(parents=True, exist_ok=True)
        program = work / "program.py"
        program.write_text(PROGRAM)
        environ = {
            **os.environ,
            "YOLO_CONFIG_DIR": str(work / "settings"),
            "YOLO_AUTOINSTALL": "false",
            "YOLO_OFFLINE": "true",
            "PYTHONPATH": "",
        }
        done = subprocess.run(
            [str(self.python), str(program), str(data), model, str(work / "runs")],
            cwd=work,
            env=environ,
            text=True,
            errors="replace",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=600,
        )
        assert done.returncode == 0, done.stdout[-4000:]
        return _trained(done.stdout)


def _trained(output: str) -> Trained:
    found = json.loads(output.rsplit("FOUND ", maxsplit=1)[-1].splitlines()[0])
    # A progress bar counts up: the last line of a split is the whole.
    scans = {
        split: Scan(int(images), int(backgrounds), int(corrupt))
        for split, images, backgrounds, corrupt in SCANNED.findall(output)
    }
    return Trained(found["images"], found["labels"], found["names"], scans, output)


def usual_trainer() -> Trainer:
    """The trainer in this environment's own folder, which is in no repository."""
    return Trainer(Path(sys.prefix) / "training")
