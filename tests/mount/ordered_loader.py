"""A PyTorch training in a process of its own that tells its order: `ordered_loader.py FOLDER CONTEXT
KIND EPOCHS`.

KIND: `sampler`, `batches` or `distributed`. After each epoch it prints what every file was read as,
in the order in which it came, and waits for a line.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, DistributedSampler, RandomSampler

from pictofs.torch import PrefetchingSampler


class Files(Dataset[tuple[int, str]]):
    """The digest of every file below a folder."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(path for path in folder.rglob("*") if path.is_file())

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[int, str]:
        return index, hashlib.md5(self.paths[index].read_bytes()).hexdigest()


def samplers(kind: str, files: Files) -> dict[str, Any]:
    """What a DataLoader is to be given, with an order that is the same in every run."""
    generator = torch.Generator().manual_seed(7)

    if kind == "batches":
        batches = BatchSampler(
            RandomSampler(files, generator=generator), batch_size=4, drop_last=False
        )
        return {"batch_sampler": batches}

    if kind == "distributed":
        return {
            "sampler": DistributedSampler(files, num_replicas=2, rank=1, seed=7),
            "batch_size": 4,
        }

    return {"sampler": RandomSampler(files, generator=generator), "batch_size": 4}


def main(folder: str, context: str, kind: str, epochs: str) -> None:
    files = Files(Path(folder))
    given, plain = samplers(kind, files), samplers(kind, files)
    (name,) = (name for name in given if "sampler" in name)
    given[name] = told = PrefetchingSampler(given[name], files.paths)

    assert len(told) == len(plain[name])

    loader = DataLoader(
        files,
        num_workers=4,
        multiprocessing_context=context,
        persistent_workers=context == "spawn",
        **given,
    )

    for epoch in range(int(epochs)):
        if kind == "distributed":
            told.set_epoch(epoch)
            plain[name].set_epoch(epoch)

        wanted = list(plain[name])
        batches = [zip(indices.tolist(), digests, strict=True) for indices, digests in loader]
        read = [pair for batch in batches for pair in batch]
        flat = [index for item in wanted for index in (item if isinstance(item, list) else [item])]

        assert [index for index, _ in read] == flat, "another order than the sampler's"

        print(json.dumps([(files.paths[index].name, digest) for index, digest in read]), flush=True)
        sys.stdin.readline()


if __name__ == "__main__":
    main(*sys.argv[1:])
