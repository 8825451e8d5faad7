"""Training from a mount, by PyTorch's own DataLoader."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from mounting import Mounting, Serving, Spent, image_bytes

from standin import Spec

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="needs torch")


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_two_shuffled_epochs_of_four_workers(
    mounted: Mounting, serving: Serving, context: str
) -> None:
    """Every byte is right, and the second epoch costs no request."""
    server = serving(Spec.uniform(images=400, size=30_000, directories=3))
    (dataset,) = server.organization.datasets.values()
    truth = {
        image.filename: hashlib.md5(image_bytes(image)).hexdigest()
        for image in dataset.images.values()
    }
    mount = mounted(server)

    with subprocess.Popen(
        [
            sys.executable,
            Path(__file__).with_name("loader.py"),
            mount.datasets / "dataset-0/images",
            context,
            "2",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as training:
        assert training.stdin is not None
        assert training.stdout is not None

        orders = []

        for epoch in range(2):
            before = Spent(server)
            if epoch:
                training.stdin.write(b"\n")
                training.stdin.flush()

            read = json.loads(training.stdout.readline())
            orders.append(read)

            assert len(read) == len(truth)
            assert dict(read) == truth

        assert before.all == []
        assert orders[0] != orders[1]

        training.communicate(b"\n")

    assert training.returncode == 0

    api = [
        each for each in server.log.requests(host="api") if each.route == "/images/{image_id:uuid}"
    ]

    assert len(server.log.requests(host="storage")) + len(api) == len(truth)
