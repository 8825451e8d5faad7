"""Learn which classes are marked in an image: a small convolutional network, from scratch.

mkdir /tmp/picto; pictofs demo /tmp/picto  # or a mount of your own
python examples/classify.py /tmp/picto/datasets/street-signs
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from marked import Marked
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler

from pictofs.torch import PrefetchingSampler

WIDTH, HEIGHT = 160, 120


def network(classes: int) -> nn.Module:
    """Five halvings, then the strongest answer anywhere in the image."""
    layers: list[nn.Module] = []
    for before, after in ((3, 16), (16, 32), (32, 64), (64, 64)):
        layers += [
            nn.Conv2d(before, after, 3, stride=2, padding=1),
            nn.BatchNorm2d(after),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.Conv2d(64, classes, 1), nn.AdaptiveMaxPool2d(1), nn.Flatten())


def truth(data: Marked, classes: list[str]) -> Tensor:
    """For each image and class whether it is marked."""
    return torch.tensor(
        [[float(name in {box[0] for box in boxes}) for name in classes] for boxes in data.boxes]
    )


def main() -> None:
    """Train and tell how often it is right about images that it has not seen."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("dataset", type=Path, help="a dataset's folder in a mount")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    torch.manual_seed(0)

    train, test = (
        Marked(given.dataset, splits, WIDTH, HEIGHT) for splits in ({"train"}, {"val", "test"})
    )
    classes = sorted({box[0] for boxes in train.boxes for box in boxes})
    wanted = truth(train, classes)
    # The mount hears each epoch's order before it begins, and fetches what comes next.
    loader = DataLoader(
        train,
        batch_size=16,
        num_workers=given.workers,
        sampler=PrefetchingSampler(RandomSampler(train), train.files),
    )
    print(f"{len(train)} images to learn from, {len(test)} to test; classes: {', '.join(classes)}")

    model = network(len(classes))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1e-2, total_steps=given.epochs * len(loader)
    )

    for epoch in range(given.epochs):
        total = 0.0
        for pixels, numbers in loader:
            loss = nn.functional.binary_cross_entropy_with_logits(model(pixels), wanted[numbers])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()

        print(f"epoch {epoch + 1}: loss {total / len(loader):.3f}", flush=True)

    model.eval()
    with torch.no_grad():
        answers = torch.cat([model(pixels) > 0 for pixels, _ in DataLoader(test, batch_size=64)])
    right = (answers == truth(test, classes).bool()).float().mean()
    print(f"right about {right:.1%} of the classes in images that it has not seen")


if __name__ == "__main__":
    main()
