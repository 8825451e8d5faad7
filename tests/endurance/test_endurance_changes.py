"""Several users change datasets through several mounts while the server fails now and then: no
image is lost."""

from __future__ import annotations

import errno
import os
import random
import threading
from collections import Counter
from pathlib import Path

import pytest
from mounting import Mount, Mounting, Serving, eventually

from standin import Organization
from standin.faults import Fault, Match, Reset, error

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

USERS, STEPS = 9, 200
NAMES = "abcdef"
KEPT = ("keep-0", "keep-1", "keep-2")
EXPECTED = {errno.EEXIST, errno.ENOENT, errno.ENOTEMPTY, errno.EIO}
"""EIO: a server that fails more often than it is asked again."""


class User(threading.Thread):
    """Makes, renames, describes, removes and reads at random."""

    def __init__(self, mount: Mount, number: int) -> None:
        super().__init__()
        self._datasets, self._chance = mount.datasets, random.Random(number)
        self.outcomes: Counter[tuple[str, int]] = Counter()

    def run(self) -> None:
        for _ in range(STEPS):
            step = self._chance.choice(["make", "rename", "remove", "describe", "read"])
            code = 0
            try:
                getattr(self, step)()
            except OSError as failure:
                code = failure.errno or -1
            self.outcomes[step, code] += 1

    def one(self, kept: float = 0.15) -> Path:
        return self._datasets / self._chance.choice(KEPT if self._chance.random() < kept else NAMES)

    def make(self) -> None:
        self.one().mkdir()

    def rename(self) -> None:
        self.one().rename(self.one())

    def remove(self) -> None:
        self.one(0.3).rmdir()

    def describe(self) -> None:
        os.setxattr(self.one(), "user.pictograph.description", b"x")

    def read(self) -> None:
        for path in (self.one(0.8) / "images").iterdir():
            assert len(path.read_bytes()) == 300


def test_w3_w5_w6_many_users_and_a_server_that_fails(
    mounted: Mounting, serving: Serving, tmp_path: Path
) -> None:
    organization = Organization(seed="many users")
    for name in KEPT:
        dataset = organization.add_dataset(name)
        for number in range(3):
            organization.add_image(dataset, f"{number}.jpg", size=300)

    server = serving(organization)
    mounts = [
        mounted(
            server,
            *("--writable", "--metadata-ttl", "1", "--prefetch", "off"),
            key=server.keys["admin"],
            cache=tmp_path / folder,
        )
        for folder in ("own", "shared", "shared")
    ]
    server.faults.add(Fault(Match(host="api"), error(503), probability=0.03, seed=1))
    server.faults.add(Fault(Match(host="api"), Reset(after=0), probability=0.03, seed=2))
    users = [User(mounts[number % len(mounts)], number) for number in range(USERS)]
    for user in users:
        user.start()
    for user in users:
        user.join()
    server.faults.clear()

    assert [sum(user.outcomes.values()) for user in users] == [
        STEPS
    ] * USERS  # no assertion ended one
    assert {code for user in users for _, code in user.outcomes} <= EXPECTED | {0}
    assert sum(user.outcomes["make", 0] for user in users) > 50

    there = sorted(each.name for each in organization.datasets.values())

    assert len(set(there)) == len(there)
    assert len(organization.images) == 3 * len(KEPT)

    for mount in mounts:
        mount.expected = [r" WARNING pictofs\."]
        eventually(lambda: sorted(os.listdir(mount.datasets)), there)  # noqa: B023 - within the round
        mount.pictofs("refresh", mount.root)

        for path in mount.datasets.iterdir():
            images = organization[path.name].images.values()
            assert sorted(os.listdir(path / "images")) == sorted(image.filename for image in images)
