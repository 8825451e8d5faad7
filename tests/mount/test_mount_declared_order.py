"""`pictofs.torch.PrefetchingSampler`: in PyTorch's own DataLoader on a mount, and alone."""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import json
import pickle
import random
import subprocess
import sys
import warnings
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest
from mounting import Mounting, Serving, eventually, image_bytes

from pictofs.torch import PrefetchingSampler
from standin import Spec

CRASH = """
import os, sys
from pictofs.torch import PrefetchingSampler
next(iter(PrefetchingSampler(range(40), sys.argv[1:])))
input()
os._exit(1)
"""

needs_torch = pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="needs torch")


@needs_torch
@pytest.mark.parametrize(
    ("context", "kind"),
    [("fork", "sampler"), ("spawn", "sampler"), ("fork", "batches"), ("fork", "distributed")],
)
def test_two_epochs_each_told(mounted: Mounting, serving: Serving, context: str, kind: str) -> None:
    """The same order as without it, right bytes, and all that was fetched ahead was fetched because
    of it."""
    server = serving(Spec.uniform(images=300, size=30_000, directories=3))
    (dataset,) = server.organization.datasets.values()
    truth = {
        image.filename: hashlib.md5(image_bytes(image)).hexdigest()
        for image in dataset.images.values()
    }
    # 160 of 300 images, of which 40 are kept ahead, more than the workers have in hand. Nothing is
    # guessed.
    mount = mounted(server, "--prefetch", "off", "--cache-size", str(160 * 32_768))
    script = Path(__file__).with_name("ordered_loader.py")
    images = mount.datasets / "dataset-0/images"

    with subprocess.Popen(
        [sys.executable, "-W", "error:the order of reading", script, images, context, kind, "2"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as training:
        assert training.stdin is not None
        assert training.stdout is not None

        fetched = 0

        for _ in range(2):
            read = json.loads(training.stdout.readline())
            assert len(read) == (150 if kind == "distributed" else 300)
            assert all(truth[name] == digest for name, digest in read)

            facts = mount.status()["prefetch"]

            assert facts["orders"] == []
            assert facts["fetched"] > fetched + 20

            fetched = facts["fetched"]
            training.stdin.write(b"\n")
            training.stdin.flush()

        training.communicate()

    assert training.returncode == 0


def test_an_order_ends_with_the_training(mounted: Mounting, serving: Serving) -> None:
    """One that crashed in the middle of an epoch leaves nothing behind."""
    mount = mounted(serving(Spec.uniform(images=40, size=2000)))
    paths = sorted(map(str, (mount.datasets / "dataset-0/images").iterdir()))
    with subprocess.Popen([sys.executable, "-c", CRASH, *paths], stdin=subprocess.PIPE) as training:
        eventually(lambda: len(mount.status()["prefetch"]["orders"]), 1)
        training.communicate(b"\n")
    eventually(lambda: mount.status()["prefetch"]["orders"], [])


def test_a_long_order_is_told_while_the_epoch_begins(mounted: Mounting, serving: Serving) -> None:
    mount = mounted(serving(Spec.uniform(images=40, size=2000)))
    paths = sorted(map(str, (mount.datasets / "dataset-0/images").iterdir()))
    order = random.Random(7).choices(range(40), k=20_000)
    told = PrefetchingSampler(order, paths, ahead=4)
    drawn = iter(told)
    assert next(drawn) == order[0]
    eventually(lambda: mount.status()["prefetch"]["orders"][0]["complete"], True)
    assert mount.status()["prefetch"]["orders"][0]["images"] == 20_000
    assert list(drawn) == order[1:]


def test_a_new_epoch_takes_the_place_of_one_that_was_left(
    mounted: Mounting, serving: Serving
) -> None:
    mount = mounted(serving(Spec.uniform(images=40, size=2000)))
    paths = sorted(map(str, (mount.datasets / "dataset-0/images").iterdir()))
    told, other = (
        PrefetchingSampler(range(40), paths, ahead=1),
        PrefetchingSampler(range(20), paths, mount=mount.root, ahead=1),
    )
    for _ in range(3):
        assert next(iter(told)) == 0
    next(iter(other))

    assert [order["images"] for order in mount.status()["prefetch"]["orders"]] == [40, 20]


class Sampler:
    """One of a user's own."""

    batch_size = 3

    def __init__(self) -> None:
        self.epoch = 0

    def __len__(self) -> int:
        return 10

    def __iter__(self) -> Iterator[int]:
        return iter(random.Random(self.epoch).sample(range(10), 10))

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


def names(index: int) -> str:
    return f"/nowhere/{index}.jpg"


@pytest.mark.parametrize(
    "paths",
    [
        [f"/nowhere/{n}.jpg" for n in range(10)],
        names,
        [Path("/proc/none")] * 10,
        [],
        3 * ["x.jpg"],
        {},
    ],
)
def test_without_a_mount_it_warns_once_and_just_yields(paths: Any) -> None:
    told: PrefetchingSampler[int] = PrefetchingSampler(Sampler(), paths)
    with warnings.catch_warnings(record=True, action="always") as heard:
        for epoch in range(3):
            told.set_epoch(epoch)
            assert list(told) == random.Random(epoch).sample(range(10), 10)
    assert [str(each.message).partition(":")[0] for each in heard] == [
        "the order of reading is not told to a mount"
    ]
    assert heard[0].filename == __file__
    assert (len(told), told.batch_size) == (10, 3)


def test_a_mount_that_has_ended(mounted: Mounting, serving: Serving) -> None:
    mount = mounted(serving(Spec.uniform(images=40, size=2000)))
    paths = sorted(map(str, (mount.datasets / "dataset-0/images").iterdir()))
    told = PrefetchingSampler(range(40), paths, mount=mount.root)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(told) == list(range(40))
    mount.unmount()
    with pytest.warns(UserWarning, match="is not told to a mount"):
        assert list(told) == list(range(40))


def test_an_endless_sampler_is_told_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pictofs.torch.AT_ONCE", 5)
    with pytest.warns(UserWarning, match="is not told"):
        assert list(islice(PrefetchingSampler(count(), names), 23)) == list(range(23))


def test_samplers_of_every_kind_are_yielded_as_they_are() -> None:
    for sampler in ([3, 1, 2], [[1, 2], [3]], range(4), [(0, 1), (2,)], [], [[]]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert list(PrefetchingSampler(sampler, names)) == list(sampler)  # type: ignore[call-overload]


@needs_torch
def test_tensors_are_indices_too() -> None:
    import torch

    from pictofs.torch import _indices

    assert list(_indices(torch.randperm(5, generator=torch.Generator().manual_seed(7)))) != []
    assert list(
        _indices([torch.tensor([1, 2]), torch.tensor([3]), torch.tensor(4), [torch.tensor(5)]])
    ) == [
        1,
        2,
        3,
        4,
        5,
    ]


def test_the_sampler_is_drawn_when_the_first_index_is() -> None:
    """As a DataLoader's own: a seed that is set after `iter` still counts."""
    sampler = Sampler()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        drawn = iter(PrefetchingSampler(sampler, names))
        sampler.set_epoch(5)
        assert list(drawn) == random.Random(5).sample(range(10), 10)


def test_it_can_be_copied_and_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    told: PrefetchingSampler[int] = PrefetchingSampler(Sampler(), names)
    told.set_epoch(4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for twin in (pickle.loads(pickle.dumps(told)), copy.deepcopy(told)):
            assert list(twin) == list(told)
            assert twin.epoch == 4


def test_torch_is_not_imported() -> None:
    code = "import sys, pictofs.torch; assert not {'torch', 'trio', 'httpx'} & set(sys.modules), sorted(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
