"""Learn to find what is marked in an image: the centers of boxes as points of a map, as in
CenterNet, from scratch.

mkdir /tmp/picto; pictofs demo /tmp/picto  # or a mount of your own
python examples/detect.py /tmp/picto/datasets/street-signs
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from marked import Box, Marked
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler

from pictofs.torch import PrefetchingSampler

WIDTH, HEIGHT = 160, 120
CELL = 4
"""Pixels of the network's input to a point of its map, in each direction."""
SURE = 0.3
"""A point of at least this score is a box."""


def network(classes: int) -> nn.Module:
    """A map of scores of `classes`, and four channels for a box: its center within the cell, its
    size."""
    layers: list[nn.Module] = []
    shapes = ((3, 16, 2, 1), (16, 32, 2, 1), (32, 48, 1, 1), (48, 48, 1, 2), (48, 48, 1, 4))
    for before, after, stride, dilation in shapes:
        convolution = nn.Conv2d(before, after, 3, stride, padding=dilation, dilation=dilation)
        layers += [convolution, nn.BatchNorm2d(after), nn.ReLU()]
    head = nn.Conv2d(48, classes + 4, 1)
    nn.init.constant_(head.bias, -3.0)  # hardly any point is a center
    return nn.Sequential(*layers, head)


def targets(
    boxes: list[Box], classes: list[str], scale: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """The map that the network should give for one image, and where it says something about boxes.

    Returns: scores and boxes (classes + 4, rows, columns); 1 at centers, 0 next to them, where no score is wrong, and
    -1 elsewhere (rows, columns).
    """
    wanted = torch.zeros(len(classes) + 4, HEIGHT // CELL, WIDTH // CELL)
    known = -torch.ones(HEIGHT // CELL, WIDTH // CELL)
    centers = []

    for name, left, top, width, height in boxes:
        x, y = (left + width / 2) * scale[0] / CELL, (top + height / 2) * scale[1] / CELL
        row, column = int(y), int(x)
        known[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = 0
        size = torch.tensor([width * scale[0], height * scale[1]]).div(CELL).log()
        wanted[len(classes) :, row, column] = torch.cat([torch.tensor([x - column, y - row]), size])
        wanted[classes.index(name), row, column] = 1
        centers.append((row, column))

    for center in centers:
        known[center] = 1
    return wanted, known


def loss_of(answer: Tensor, wanted: Tensor, known: Tensor) -> Tensor:
    """Focal loss of the scores, and the distance of the boxes where there are some."""
    classes = answer.shape[1] - 4
    scores, truth = answer[:, :classes], wanted[:, :classes]
    chance = scores.sigmoid()
    surprise = nn.functional.binary_cross_entropy_with_logits(scores, truth, reduction="none")
    focus = torch.where(truth > 0, 1 - chance, chance) ** 2
    count = (known == 1).sum().clamp(min=1)
    of_scores = (surprise * focus)[(known != 0).unsqueeze(1).expand_as(scores)].sum() / count
    there = (known == 1).unsqueeze(1)
    of_boxes = ((answer[:, classes:] - wanted[:, classes:]).abs() * there).sum() / count
    return of_scores + 0.5 * of_boxes


def found(answer: Tensor, classes: list[str], scale: tuple[float, float]) -> list[Box]:
    """The boxes in the network's answer for one image, in pixels of that image."""
    scores = answer[: len(classes)].sigmoid()
    peaks = (scores == nn.functional.max_pool2d(scores[None], 3, 1, 1)[0]) & (scores > SURE)
    boxes = []

    for kind, row, column in peaks.nonzero().tolist():
        across, down, wide, high = answer[len(classes) :, row, column].tolist()
        width, height = (torch.tensor([wide, high]).exp() * CELL).tolist()
        x, y = (column + across) * CELL, (row + down) * CELL
        left, top = (x - width / 2) / scale[0], (y - height / 2) / scale[1]
        boxes.append((classes[kind], left, top, width / scale[0], height / scale[1]))

    return boxes


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes of one class; 0 where the classes differ."""
    _, left, top, width, height = one
    name, x, y, wide, high = other
    across = min(left + width, x + wide) - max(left, x)
    down = min(top + height, y + high) - max(top, y)
    if name != one[0] or across <= 0 or down <= 0:
        return 0.0
    return across * down / (width * height + wide * high - across * down)


def main() -> None:
    """Train and tell how many boxes it finds in images that it has not seen."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("dataset", type=Path, help="a dataset's folder in a mount")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    torch.manual_seed(0)

    train = Marked(given.dataset, ["train"], WIDTH, HEIGHT)
    test = Marked(given.dataset, ["val", "test"], WIDTH, HEIGHT)
    classes = sorted({box[0] for boxes in train.boxes for box in boxes})
    with Image.open(train.files[0]) as image:  # all are of one size here
        scale = (WIDTH / image.width, HEIGHT / image.height)
    pairs = [targets(boxes, classes, scale) for boxes in train.boxes]
    # The mount hears each epoch's order before it begins, and fetches what comes next.
    loader = DataLoader(
        train,
        batch_size=8,
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
            wanted, known = (
                torch.stack(each)
                for each in zip(*(pairs[number] for number in numbers), strict=True)
            )
            loss = loss_of(model(pixels), wanted, known)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()

        print(f"epoch {epoch + 1}: loss {total / len(loader):.3f}", flush=True)

    model.eval()
    right = said = there = 0

    with torch.no_grad():
        for pixels, numbers in DataLoader(test, batch_size=32):
            for answer, number in zip(model(pixels), numbers, strict=True):
                boxes, truth = found(answer, classes, scale), test.boxes[number]
                right += sum(any(overlap(box, each) >= 0.5 for each in boxes) for box in truth)
                said, there = said + len(boxes), there + len(truth)

    print(f"found {right} of {there} boxes (by an overlap of half at least) with {said} guesses")


if __name__ == "__main__":
    main()
