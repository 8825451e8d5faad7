"""Learn tags on several processes, each of which reads its part of every epoch from the mount.

mkdir /tmp/picto; pictofs demo /tmp/picto  # or a mount of your own, on each machine
torchrun --nproc-per-node 2 examples/distributed.py /tmp/picto/datasets/street-signs
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from classify import Tagged, network
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from pictofs.torch import PrefetchingSampler


def main() -> None:
    """Train, and tell how many images of each epoch the processes have read."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("dataset", type=Path, help="a dataset's folder in a mount")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    distributed.init_process_group("gloo")
    torch.manual_seed(0)

    train = Tagged(given.dataset, "train")
    # Each process tells its own part of the order to the mount of its machine.
    sampler = PrefetchingSampler(DistributedSampler(train), [file for file, _ in train.samples])
    loader = DataLoader(train, batch_size=16, num_workers=given.workers, sampler=sampler)

    model = DistributedDataParallel(network(len(train.classes)))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for epoch in range(given.epochs):
        # Another order in each epoch, and the same one in all processes.
        sampler.set_epoch(epoch)
        read = 0
        for pixels, numbers in loader:
            loss = nn.functional.cross_entropy(model(pixels), numbers)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            read += len(pixels)

        counts = [0] * distributed.get_world_size()
        distributed.all_gather_object(counts, read)
        if distributed.get_rank() == 0:
            print(f"epoch {epoch + 1}: images read by each process: {counts}", flush=True)

    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
