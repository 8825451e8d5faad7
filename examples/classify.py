"""Learn which tag an image has: a small convolutional network, from scratch.

mkdir /tmp/picto; pictofs demo /tmp/picto  # or a mount of your own
python examples/classify.py /tmp/picto/datasets/street-signs
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from marked import pixels_of
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler

from pictofs.torch import PrefetchingSampler

SIZE = (80, 60)


class Tagged(Dataset[tuple[Tensor, int]]):
    """Images of a split, each with the number of its tag: what torchvision's ImageFolder gives."""

    def __init__(self, folder: Path, split: str) -> None:
        """`folder`: a dataset in a mount."""
        top = folder / "formats/imagefolder" / split
        self.classes = sorted(each.name for each in top.iterdir())
        self.samples = [
            (file, number)
            for number, name in enumerate(self.classes)
            for file in sorted((top / name).iterdir())
        ]

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """An image's pixels from 0 to 1 (3, height, width), and the number of its tag."""
        file, number = self.samples[index]
        return pixels_of(file, SIZE), number


def network(classes: int) -> nn.Module:
    """Four halvings, then the mean of the image."""
    layers: list[nn.Module] = []
    for before, after in ((3, 8), (8, 16), (16, 32), (32, 32)):
        layers += [
            nn.Conv2d(before, after, 3, stride=2, padding=1),
            nn.BatchNorm2d(after),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, classes))


def main() -> None:
    """Train and tell how often it is right about images that it has not seen."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("dataset", type=Path, help="a dataset's folder in a mount")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    torch.manual_seed(0)

    train = Tagged(given.dataset, "train")
    test = Tagged(given.dataset, "val")
    # The mount hears each epoch's order before it begins, and fetches what comes next.
    loader = DataLoader(
        train,
        batch_size=16,
        num_workers=given.workers,
        sampler=PrefetchingSampler(RandomSampler(train), [file for file, _ in train.samples]),
    )
    tags = ", ".join(train.classes)
    print(f"{len(train)} images to learn from, {len(test)} to test; tags: {tags}")

    model = network(len(train.classes))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for epoch in range(given.epochs):
        total = 0.0
        for pixels, numbers in loader:
            loss = nn.functional.cross_entropy(model(pixels), numbers)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()

        print(f"epoch {epoch + 1}: loss {total / len(loader):.3f}", flush=True)

    model.eval()
    right = 0
    with torch.no_grad():
        for pixels, numbers in DataLoader(test, batch_size=64):
            right += int((model(pixels).argmax(dim=1) == numbers).sum())

    print(f"right about {right} of {len(test)} images that it has not seen")


if __name__ == "__main__":
    main()
