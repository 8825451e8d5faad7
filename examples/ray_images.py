"""Read a dataset by Ray Data: it takes the paths of a mount, and each worker reads what it needs.

pip install 'ray[data]'
mkdir /tmp/picto; pictofs demo /tmp/picto  # or a mount of your own, at the same place on each machine
python examples/ray_images.py /tmp/picto/datasets/street-signs
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import ray


def marked(row: dict[str, Any]) -> dict[str, Any]:
    """An image's mean colour, and how much is marked in it: one request when it is first read."""
    image = Path(row["path"])
    folder = next(each for each in image.parents if each.name == "images").parent
    below = image.relative_to(folder / "images")
    file = folder / "annotations" / below.with_name(below.name + ".json")
    return {
        "path": str(below),
        "red": float(row["image"][..., 0].mean()),
        "marks": len(json.loads(file.read_text())["annotations"]),
    }


def main() -> None:
    """Tell how many images and marks there are."""
    folder = Path(sys.argv[1])
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False

    images = ray.data.read_images(str(folder / "images"), include_paths=True, mode="RGB")
    rows = images.map(marked).take_all()
    print(f"{len(rows)} images, {sum(row['marks'] for row in rows)} marks")


if __name__ == "__main__":
    main()
