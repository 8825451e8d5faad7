"""Count what is marked in this process's share of a dataset: work that is done once for each image.

srun --ntasks-per-node=1 examples/slurm/task.sh street-signs python examples/share.py
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pictofs.model import shard


def share(folder: Path) -> Iterator[Path]:
    """The images of a dataset in a mount that `pictofs warm --shard auto` has fetched here."""
    mine = shard.parse("auto", os.environ)
    for path in sorted((folder / "images").rglob("*")):
        if path.is_file() and mine.takes(os.getxattr(path, "user.pictograph.id").decode()):
            yield path


def main() -> None:
    """Tell how many images and marks there are in the share."""
    folder = Path(sys.argv[1])
    images = 0
    marks: Counter[str] = Counter()
    for path in share(folder):
        below = path.relative_to(folder / "images")
        file = folder / "annotations" / below.with_name(below.name + ".json")
        marks.update(each["name"] for each in json.loads(file.read_text())["annotations"])
        images += 1

    print(f"{images} images, {marks.total()} marks")


if __name__ == "__main__":
    main()
