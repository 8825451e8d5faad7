"""A PyTorch training loop in a process of its own: `loader.py FOLDER CONTEXT EPOCHS`.

After each epoch it prints what every file was read as, one line of JSON, and waits for a line.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset


class Files(Dataset[tuple[str, str]]):
    """The name and digest of every file below a folder."""

    def __init__(self, folder: Path) -> None:
        self._files = sorted(path for path in folder.rglob("*") if path.is_file())

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[str, str]:
        path = self._files[index]
        return path.name, hashlib.md5(path.read_bytes()).hexdigest()


def main(folder: str, context: str, epochs: str) -> None:
    torch.manual_seed(20260301)
    loader = DataLoader(
        Files(Path(folder)),
        batch_size=16,
        shuffle=True,
        num_workers=4,
        multiprocessing_context=context,
        persistent_workers=True,
    )

    for _ in range(int(epochs)):
        read = [pair for names, digests in loader for pair in zip(names, digests, strict=True)]
        print(json.dumps(read), flush=True)
        sys.stdin.readline()


if __name__ == "__main__":
    main(*sys.argv[1:])
