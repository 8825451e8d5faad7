"""`pictofs prefetch --order` on real mounts of the stand-in."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
from mounting import Mount, Mounting, Serving, Spent
from starting import run_pictofs

from standin import Spec

pytestmark = pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs /dev/fuse")

SIZE = 100_000
SEVENTY_TWO = Spec.uniform(images=72, size=SIZE, directories=3)


def prefetch(
    mount: Mount, *arguments: str | Path, input: bytes = b"", **options: Any
) -> tuple[int, str, str]:
    done = run_pictofs("prefetch", *arguments, env=mount.environ, input=input, **options)
    out, err = done.stdout.decode(), done.stderr.decode("utf-8", "surrogateescape")
    assert "Traceback" not in err
    return done.returncode, out, err


def images(mount: Mount) -> list[str]:
    """The paths of all images."""
    return sorted(str(path) for path in (mount.datasets / "dataset-0/images").rglob("*.jpg"))


def joined(paths: list[str], end: str = "\n") -> bytes:
    return "".join(path + end for path in paths).encode()


def orders(mount: Mount) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = mount.status()["prefetch"]["orders"]
    return found


def settled(mount: Mount, ahead: int) -> None:
    """Wait until so many images lie ready, or all that are left of the order."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        facts = mount.status()
        told = facts["prefetch"]["orders"]
        wanted = min(ahead, told[0]["ahead"] + told[0]["left"]) if told else 0
        if not told or (told[0]["ahead"] == wanted and facts["prefetch"]["under_way"] == 0):
            return
        time.sleep(0.002)
    raise AssertionError(f"not fetched in time: {facts['prefetch']}")


@pytest.mark.parametrize("mode", ["auto", "off"])
def test_a_shuffled_epoch_comes_from_the_cache(
    mounted: Mounting, serving: Serving, mode: str
) -> None:
    """The cache holds a third of the images. Every one is there before it is read, and comes
    once."""
    server = serving(SEVENTY_TWO)
    mount = mounted(server, "--cache-size", str(25 * 102_400), "--prefetch", mode)
    order = random.Random(7).sample(images(mount), 72)
    before = Spent(server)
    code, out, err = prefetch(
        mount, mount.root, "--order", "-", "--ahead", "8", input=joined(order)
    )

    assert (code, err) == (0, "")
    assert out == "72 images will be fetched in this order, up to 8 ahead of the reader\n"

    for path in order:
        settled(mount, 8)
        Path(path).read_bytes()

    assert (mount.status()["cache"]["hits"], mount.status()["cache"]["misses"]) == (72, 0)
    assert len(before.storage) == 72
    assert [each.partition("?")[0] for each in before.api] == ["/datasets/{dataset}/download"]
    assert orders(mount) == []


def test_paths_may_be_relative_absolute_or_ended_by_nul(
    mounted: Mounting, serving: Serving, tmp_path: Path
) -> None:
    server = serving(SEVENTY_TWO)
    mount = mounted(server)
    folder = mount.datasets / "dataset-0/images"
    every = images(mount)
    relative = [str(Path(path).relative_to(folder)) for path in every]
    link = tmp_path / "data"
    link.symlink_to(folder)
    listing = tmp_path / "listing"

    for paths, end, place, where in (
        (every, "\n", mount.root, "/"),
        (relative, "\n", folder, "/"),
        (relative, "\0", folder, tmp_path),
        (relative, "\n", ".", folder),
        (relative, "\n", link, tmp_path),
        ([f"{link}/{path}" for path in relative], "\n", mount.root, "/"),
    ):
        listing.write_bytes(joined(paths, end))
        code, out, err = prefetch(mount, place, "--order", listing, cwd=where)
        assert (code, err) == (0, "")
        assert out.startswith("72 images")


def test_what_is_no_image_is_told(mounted: Mounting, serving: Serving) -> None:
    mount = mounted(serving(SEVENTY_TWO))
    note = str(mount.datasets / "dataset-0/annotations/part-000/image-000000.jpg.json")
    lines = joined(["none.jpg", "/etc/passwd", note, *images(mount)]) + b"\xff.jpg\n\n"
    code, out, err = prefetch(mount, mount.root, "--order", "-", input=lines)

    assert code == 0
    assert out.startswith("72 images")
    assert "3 paths to no image of this mount, the first of them none.jpg" in err
    assert "left out: 1 annotation file, " in err

    code, out, err = prefetch(mount, mount.root, "--order", "-", input=b"none.jpg\n")

    assert (code, out) == (4, "")
    assert "names no image" in err
    assert orders(mount) == []


@pytest.mark.parametrize(("options", "lines"), [((), b""), (("--ahead", "0"), b"x.jpg\n")])
def test_an_order_is_ended(
    mounted: Mounting, serving: Serving, options: tuple[str, ...], lines: bytes
) -> None:
    mount = mounted(serving(SEVENTY_TWO))
    prefetch(mount, mount.root, "--order", "-", "--ahead", "1", input=joined(images(mount)))
    assert len(orders(mount)) == 1
    code, out, _ = prefetch(mount, mount.root, "--order", "-", *options, input=lines)
    assert (code, out) == (0, "no order is followed any more\n")
    assert orders(mount) == []


def test_status_shows_it(mounted: Mounting, serving: Serving) -> None:
    mount = mounted(serving(SEVENTY_TWO))
    prefetch(mount, mount.root, "--order", "-", "--ahead", "2", input=joined(images(mount)))
    settled(mount, 2)
    shown = mount.pictofs("status", mount.root)
    assert "72 images, 70 not fetched yet" in shown
    assert "2, of which 0 were read" in shown


def test_mistakes(mounted: Mounting, serving: Serving, tmp_path: Path) -> None:
    mount = mounted(serving(SEVENTY_TWO))
    for code, words, arguments in (
        (4, "lies in no pictofs mount", (tmp_path, "--order", "-")),
        (6, "can't read", (mount.root, "--order", tmp_path / "none")),
        (6, "can't read", (mount.root, "--order", tmp_path)),
        (6, "Missing option", (mount.root,)),
        (6, "--ahead", (mount.root, "--order", "-", "--ahead", "-1")),
    ):
        got, _, err = prefetch(mount, *arguments)
        assert got == code, err
        assert words in err


@pytest.mark.long
def test_a_million_paths(mounted: Mounting, serving: Serving, tmp_path: Path) -> None:
    """Each of 20,000 images fifty times: the process that serves the mount grows by what the order
    needs."""
    mount = mounted(serving(Spec.uniform(images=20_000, size=2000)))
    every = images(mount)
    listing = tmp_path / "listing"
    listing.write_bytes(joined(every * 50))
    before = resident(mount)
    code, out, _ = prefetch(mount, mount.root, "--order", listing, "--ahead", "64")

    assert code == 0
    assert out.startswith("1,000,000 images")
    assert resident(mount) - before < 40_000_000
    assert orders(mount)[0]["images"] == 1_000_000


def resident(mount: Mount) -> int:
    """Bytes that the process of a mount takes."""
    pages = int(Path(f"/proc/{mount.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
