"""Large files: readable from the first bytes on, at any place, and right as a whole."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from mounting import Mounting, Serving, Spent, eventually, run

from standin import PRESETS, Organization, StandIn
from standin.exchange import Exchange, Message
from standin.faults import Corrupt, Drip, Fault, Match, Reset
from standin.records import Image

SIZE = 200_000_003
MB = 1 << 20
BYTES = r"/images/"


class Valve:
    """A fault: lets only so many bytes of each body pass until it is opened, and counts them."""

    def __init__(self, first: int) -> None:
        self._first = first
        self._open = threading.Event()
        self.sent = 0

    def open(self) -> None:
        """Let everything pass."""
        self._open.set()

    async def __call__(self, exchange: Exchange) -> None:
        passed = 0

        async def send(message: Message) -> None:
            nonlocal passed
            body = message.get("body", b"")
            if passed + len(body) > self._first and not self._open.is_set():
                await asyncio.to_thread(self._open.wait, 60)
            passed += len(body)
            self.sent += len(body)
            await exchange.send(message)

        await exchange.proceed(send)


def one_image(size: int = SIZE) -> Organization:
    organization = Organization()
    organization.add_image(organization.add_dataset("large"), "one.jpg", size=size)
    return organization


def image_of(server: StandIn) -> Image:
    return next(iter(server.organization.images.values()))


def part(server: StandIn, start: int, length: int) -> bytes:
    return image_of(server).body().read(start, start + length)


def digest(server: StandIn) -> str:
    whole = hashlib.md5()
    for piece in pieces(server):
        whole.update(piece)
    return whole.hexdigest()


def pieces(server: StandIn) -> Iterator[bytes]:
    for start in range(0, image_of(server).size, MB):
        yield part(server, start, min(MB, image_of(server).size - start))


def md5sum(path: Path) -> str:
    return run("md5sum", path).split()[0]


@pytest.mark.parametrize("storage_range", [True, False])
def test_first_bytes_are_readable_long_before_the_last(
    mounted: Mounting, serving: Serving, storage_range: bool
) -> None:
    server = serving(one_image(), storage_range=storage_range)
    path = mounted(server).datasets / "large/images/one.jpg"
    valve = Valve(first=8 * MB)
    server.faults.add(Fault(on=Match(path=BYTES), do=valve))

    with open(path, "rb", buffering=0) as file:
        assert file.read(64 * 1024) == part(server, 0, 64 * 1024)
        assert os.fstat(file.fileno()).st_size == SIZE
        assert valve.sent <= 9 * MB
        valve.open()

    assert md5sum(path) == digest(server)


def test_b6_a_far_seek_does_not_wait_for_what_lies_before(
    mounted: Mounting, serving: Serving
) -> None:
    server = serving(one_image())
    mount = mounted(server)
    path = mount.datasets / "large/images/one.jpg"
    valve = Valve(first=8 * MB)
    server.faults.add(Fault(on=Match(path=BYTES), do=valve))

    with open(path, "rb", buffering=0) as file:
        for start in (SIZE - 1000, 100 * MB, 150 * MB):
            file.seek(start)
            assert file.read(1000) == part(server, start, 1000)
        assert valve.sent <= 40 * MB
        valve.open()

    assert md5sum(path) == digest(server)

    before = Spent(server)

    assert md5sum(path) == digest(server)
    assert before.all == []


def test_b6_a_far_seek_without_ranges_gets_the_right_bytes(
    mounted: Mounting, serving: Serving
) -> None:
    server = serving(one_image(40 * MB + 7), storage_range=False)
    path = mounted(server).datasets / "large/images/one.jpg"

    with open(path, "rb", buffering=0) as file:
        for start in (40 * MB - 1000, 100, 20 * MB):
            file.seek(start)
            assert file.read(1000) == part(server, start, 1000)

    assert md5sum(path) == digest(server)

    sent = sum(
        each.bytes for each in server.log.requests() if each.path.endswith(image_of(server).id)
    )

    assert sent <= 3 * 40 * MB


def test_b6_mmap_of_a_large_file(mounted: Mounting, serving: Serving) -> None:
    server = serving(one_image())
    path = mounted(server).datasets / "large/images/one.jpg"
    script = (
        "import hashlib, mmap, sys\n"
        "with open(sys.argv[1], 'rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:\n"
        "    print(view[-5:].hex(), view[100_000_000:100_000_005].hex(), hashlib.md5(view).hexdigest())\n"
    )
    last, middle, whole = run(sys.executable, "-c", script, path).split()

    assert bytes.fromhex(last) == part(server, SIZE - 5, 5)
    assert bytes.fromhex(middle) == part(server, 100_000_000, 5)
    assert whole == digest(server)


def test_c5_many_readers_share_one_download(mounted: Mounting, serving: Serving) -> None:
    server = serving(one_image(60 * MB))
    path = mounted(server).datasets / "large/images/one.jpg"
    readers = [subprocess.Popen(["md5sum", path], stdout=subprocess.PIPE) for _ in range(8)]
    said = {reader.communicate(timeout=60)[0].split()[0].decode() for reader in readers}
    assert said == {digest(server)}
    sent = sum(
        each.bytes for each in server.log.requests() if each.path.endswith(image_of(server).id)
    )
    assert sent <= 60 * MB


def test_b3_a_transfer_that_breaks_off_goes_on_where_it_was(
    mounted: Mounting, serving: Serving
) -> None:
    server = serving(one_image(40 * MB))
    server.faults.add(Fault(on=Match(path=BYTES), do=Reset(after=10 * MB), times=2))
    path = mounted(server).datasets / "large/images/one.jpg"
    assert md5sum(path) == digest(server)


def test_b3_wrong_bytes_are_never_given_as_a_whole_file(
    mounted: Mounting, serving: Serving
) -> None:
    """The checksum of the storage host finds them: the reader sees an error, the next one the right
    bytes."""
    server = serving(one_image(20 * MB))
    server.organization.add_image(server.organization["large"], "first.jpg")
    mount = mounted(server)
    path = mount.datasets / "large/images/one.jpg"
    # The first read of a dataset takes the keyed route, which sends no checksum.
    path.with_name("first.jpg").read_bytes()
    server.faults.add(Fault(on=Match(host="storage"), do=Corrupt(at=15 * MB)))
    mount.expected.append("read: .*another checksum")
    failed = subprocess.run(["cat", path], capture_output=True, timeout=60)

    assert failed.returncode != 0
    assert len(failed.stdout) < 20 * MB

    server.faults.clear()

    assert md5sum(path) == digest(server)


def test_a_file_closed_early_is_not_fetched_whole(mounted: Mounting, serving: Serving) -> None:
    server = serving(one_image())
    path = mounted(server).datasets / "large/images/one.jpg"
    valve = Valve(first=8 * MB)
    server.faults.add(Fault(on=Match(path=BYTES), do=valve))
    for _ in range(5):
        with open(path, "rb", buffering=0) as file:
            assert file.read(1000) == part(server, 0, 1000)
    valve.open()
    assert md5sum(path) == digest(server)


def test_root_s_mounts_are_read_ahead_further(mounted: Mounting, serving: Serving) -> None:
    """The kernel asks for a large file in larger pieces, and the answer to INIT did not set it
    back."""
    mount = mounted(serving(PRESETS["small"]()))
    device = os.stat(mount.root).st_dev
    shown = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    if not os.access(shown, os.W_OK):
        pytest.skip("may not be set here")
    eventually(lambda: int(shown.read_text()), 1024)


@pytest.mark.parametrize("listed", [9 * MB, 20 * MB])
@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_b7_b8_a_copy_has_the_length_that_came_and_costs_two_answers(
    mounted: Mounting, serving: Serving, tmp_path: Path, framing: str, listed: int
) -> None:
    organization = one_image(12 * MB)
    next(iter(organization.images.values())).file_size = listed
    server = serving(organization, storage_framing=framing, api_framing=framing)
    path = mounted(server).datasets / "large/images/one.jpg"
    run("cp", path, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == part(server, 0, 12 * MB)
    assert server.log.count("storage") <= 2


def test_b7_a_file_without_a_length_that_comes_too_slowly_is_there_later(
    mounted: Mounting, serving: Serving
) -> None:
    server = serving(one_image(12 * MB), storage_framing="chunked")
    mount = mounted(server, "--timeout", "2")
    mount.expected.append("no answer within")
    path = mount.datasets / "large/images/one.jpg"
    server.faults.add(Fault(Match("storage"), Drip(3 * MB)))
    with pytest.raises(TimeoutError):
        path.read_bytes()
    server.faults.clear()
    # What is on its way has a "~" in its name.
    eventually(lambda: ["~" in each.name for each in mount.cache.glob("content/??/*")], [False])

    assert path.read_bytes() == part(server, 0, 12 * MB)
    assert server.log.count("storage") == 1
