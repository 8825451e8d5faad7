"""One process of the soak: random looks at a mount until its input ends, then counts as JSON.

Names are `<seed>.bin`, and a file's bytes follow from its seed, so that the reader knows what is
right.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import random
import select
import sys
from collections import Counter
from hashlib import blake2b
from pathlib import Path

STEP = 64


def content(seed: str, size: int) -> bytes:
    """What the file of a seed holds: its first line names it, and so does each block."""
    block = blake2b(seed.encode(), digest_size=STEP).digest()
    return (block * (size // STEP + 1))[:size]


def look(root: Path, rng: random.Random) -> str:
    """One operation; what it was. Wrong bytes are an AssertionError."""
    folder = root / rng.choice(os.listdir(root)) / rng.choice(("images", "annotations"))

    while True:
        entries = os.listdir(folder)
        if not entries:
            return "ls"
        path = folder / rng.choice(entries)
        if not path.is_dir():
            break
        folder = path

    kind = rng.choice(("ls", "stat", "read", "read", "mmap"))

    if kind == "stat":
        path.stat()
    elif kind == "read":
        check(path, path.read_bytes())
    elif kind == "mmap":
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
            start = rng.randrange(len(view))
            assert len(view[start : start + 4096]) == min(4096, len(view) - start)
            check(path, view[:])

    return kind


def check(path: Path, data: bytes) -> None:
    """Hold what was read to what it must be."""
    if path.name.endswith(".json"):
        json.loads(data)
    else:
        assert data == content(path.name.split(".")[0].rpartition("-")[2], len(data)), path
        assert len(data) >= STEP


def main(root: Path, seed: str) -> None:
    """Look until standard input is closed."""
    rng, counts = random.Random(seed), Counter[str]()
    while not select.select([sys.stdin], [], [], 0)[0]:
        try:
            counts[look(root, rng)] += 1
        except OSError as error:
            counts[errno.errorcode[error.errno or 0]] += 1
    print(json.dumps(counts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
