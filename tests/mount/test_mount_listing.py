"""What folders show: as early as it is known, each item once, whatever the server does
meanwhile."""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from mounting import (
    Hold,
    Mount,
    Mounting,
    Serving,
    Spent,
    active,
    all_images,
    annotation_bytes,
    eventually,
    image_bytes,
    run,
    walk,
)

from pictofs.model.names import unescape
from standin import PRESETS, Organization, Spec, StandIn
from standin.exchange import Exchange
from standin.faults import Fault, Match, duplicated

PAGE = 10_000
EMBED = "/datasets/{dataset}"


def names_in(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries]


def test_f7_first_names_come_with_the_first_page(mounted: Mounting, serving: Serving) -> None:
    server = serving(Spec.uniform(images=25_000, size=20_000, annotations=0))
    later_pages = Hold(r"images_offset=[12]0000")
    server.faults.add(Fault(on=Match(path=EMBED), do=later_pages))

    with os.scandir(mounted(server).datasets / "dataset-0/images") as entries:
        first = [entry.name for entry in itertools.islice(entries, 9_900)]
        assert later_pages.waiting.wait(30)
        later_pages.open()
        rest = [entry.name for entry in entries]

    truth = [f"image-{number:06d}.jpg" for number in range(25_000)]

    assert len(first) == 9_900
    assert sorted(first + rest) == truth


@pytest.fixture(scope="module")
def crowded(module_serving: Serving) -> StandIn:
    """More images in one folder than a page holds."""
    return module_serving(Spec.uniform(images=12_000, size=20_000, annotations=0))


def test_f7_a_reader_that_stops_early_leaves_the_listing_whole(
    mounted: Mounting, crowded: StandIn
) -> None:
    folder = mounted(crowded).datasets / "dataset-0/images"
    with os.scandir(folder) as entries:
        next(entries)
    assert len(names_in(folder)) == len(set(names_in(folder))) == 12_000


def test_f7_readers_of_one_cold_folder_all_see_all_of_it(
    mounted: Mounting, crowded: StandIn
) -> None:
    folder = mounted(crowded).datasets / "dataset-0/images"
    readers = [subprocess.Popen(["ls", "-U", folder], stdout=subprocess.PIPE) for _ in range(6)]
    truth = {f"image-{number:06d}.jpg" for number in range(12_000)}
    for reader in readers:
        names = reader.communicate(timeout=60)[0].decode().split()
        assert len(names) == 12_000
        assert set(names) == truth


def test_a_folder_can_be_read_again_from_any_place(mounted: Mounting, serving: Serving) -> None:
    """rewinddir, telldir and seekdir, by the C library: in another process, since they hold the
    interpreter."""
    script = (
        "import ctypes, sys\n"
        "libc = ctypes.CDLL(None)\n"
        "libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p\n"
        "libc.telldir.restype = ctypes.c_long\n"
        "stream = ctypes.c_void_p(libc.opendir(sys.argv[1].encode()))\n"
        "def rest():\n"
        "    names = []\n"
        "    while entry := libc.readdir(stream):\n"
        "        names.append(ctypes.string_at(entry + 19))\n"
        "    return names\n"
        "for _ in range(300): libc.readdir(stream)\n"
        "place = ctypes.c_long(libc.telldir(stream))\n"
        "once = rest()\n"
        "libc.seekdir(stream, place)\n"
        "assert rest() == once and len(once) == 700, len(once)\n"
        "libc.rewinddir(stream)\n"
        "assert len(set(rest())) == 1000\n"
    )
    server = serving(Spec.uniform(images=1000, size=500, annotations=0))
    run(sys.executable, "-c", script, mounted(server).datasets / "dataset-0/images")


class _Between:
    """A fault: another user changes the dataset once, just before the second page is answered."""

    def __init__(self, change: Callable[[], object]) -> None:
        self._change = change
        self.struck = False

    async def __call__(self, exchange: Exchange) -> None:
        if b"images_offset=10000" in exchange.scope["query_string"] and not self.struck:
            self.struck = True
            self._change()
        await exchange.proceed()


def _insert(organization: Organization) -> None:
    organization.add_image(organization["dataset-0"], "inserted.jpg", size=500)


def _remove(organization: Organization) -> None:
    organization.remove_image(next(reversed(organization["dataset-0"].images.values())))


def _move(organization: Organization) -> None:
    organization.move_image(next(reversed(organization["dataset-0"].images.values())), "/elsewhere")


@pytest.mark.parametrize("change", [_insert, _remove, _move])
def test_f6_rows_that_shift_between_pages_are_neither_lost_nor_doubled(
    mounted: Mounting, serving: Serving, change: Callable[[Organization], None]
) -> None:
    server = serving(Spec.uniform(images=PAGE + 20, size=500, annotations=0))
    organization = server.organization
    dataset = organization["dataset-0"]
    before = {image.id: image.filename for image in dataset.images.values()}
    between = _Between(lambda: change(organization))
    server.faults.add(Fault(on=Match(path=EMBED), do=between))
    folder = mounted(server, "--metadata-ttl", "1").datasets / "dataset-0/images"
    shown = Counter(names_in(folder))
    stayed = {image.filename for image in active(dataset) if before.get(image.id) == image.filename}

    assert stayed - {"image-010019.jpg"} <= shown.keys()
    assert set(shown.values()) == {1}
    assert between.struck

    truth = [
        os.path.join(image.directory_path.strip("/"), image.filename) for image in active(dataset)
    ]
    eventually(
        lambda: sorted(str(path.relative_to(folder)) for path in walk(folder)), sorted(truth)
    )


def test_f6_a_row_sent_twice_is_shown_once(mounted: Mounting, serving: Serving) -> None:
    server = serving(Spec.uniform(images=50, size=500, annotations=0))
    server.faults.add(Fault(on=Match(path=EMBED), do=duplicated(7)))
    folder = mounted(server).datasets / "dataset-0/images"
    assert sorted(names_in(folder)) == [f"image-{number:06d}.jpg" for number in range(50)]


def test_what_does_not_exist_is_enoent(mounted: Mounting, serving: Serving) -> None:
    datasets = mounted(serving(PRESETS["small"]())).datasets
    some = next(walk(datasets / "small/images"))

    for path in (
        datasets / "no",
        datasets / "small/no",
        some.with_name("no.jpg"),
        datasets.parent / "no",
    ):
        with pytest.raises(FileNotFoundError):
            path.stat()

    note = datasets / "small/annotations" / some.relative_to(datasets / "small/images")
    with pytest.raises(FileNotFoundError):
        note.stat()
    with pytest.raises(NotADirectoryError):
        (some / "below").stat()


def test_q2_2_500_datasets_are_listed_by_three_requests(
    mounted: Mounting, serving: Serving
) -> None:
    server = serving(Spec.uniform(datasets=2_500, images=0))
    before = Spent(server)
    mount = mounted(server)
    assert sorted(names_in(mount.datasets)) == sorted(
        f"dataset-{number}" for number in range(2_500)
    )
    assert len(before.api) == 3


@pytest.fixture(scope="module")
def nasty(module_mounted: Mounting, module_serving: Serving) -> tuple[StandIn, Mount]:
    server = module_serving(PRESETS["nasty"]())
    mount = module_mounted(server)
    mount.expected += ["skipped 3 malformed image rows of 12", "the dataset is in cold storage"]
    return server, mount


UNUSABLE = {"null-name.jpg", "number-name.jpg", "null-id.jpg"}
"""Rows without a name or an id."""


def test_l2_n2_every_nasty_annotation_is_reached_once(nasty: tuple[StandIn, Mount]) -> None:
    server, mount = nasty
    truth = {
        image.id: image
        for image in all_images(server.organization)
        if image.filename not in UNUSABLE
    }
    found: list[str] = []

    for dataset in mount.datasets.iterdir():
        for path in walk(dataset / "annotations"):
            data = path.read_bytes()
            image = truth[json.loads(data)["image_uuid"]]
            found.append(image.id)

            assert data == annotation_bytes(server, image)
            assert path.stat().st_size == len(data)
            assert path.name.endswith(".json")

            _check_name(path.name[:-5], image.filename)
            shown = dataset.name if "‛~" in dataset.name else unescape(dataset.name)
            name = server.organization.datasets[image.dataset_id].name

            assert shown == name or ("‛~" in dataset.name and len(name.encode()) > 255)

    assert sorted(found) == sorted(truth)


def _check_name(entry: str, filename: str) -> None:
    """An entry is the name, reversibly escaped, or tagged where that can't be."""
    if "‛~" in entry:
        front = re.split("‛~[0-9a-f]{16}", entry)[0]
        assert filename.startswith((unescape(front) or "").strip("\0"))
    else:
        assert unescape(entry) == filename or unescape(entry + ".json") == filename + ".json"


def test_l2_n2_every_nasty_image_has_its_bytes(nasty: tuple[StandIn, Mount]) -> None:
    server, mount = nasty
    wanted, read = Counter[bytes](), Counter[bytes]()

    for image in all_images(server.organization):
        if image.filename not in UNUSABLE:
            wanted[image_bytes(image)] += 1

    for dataset in mount.datasets.iterdir():
        for path in walk(dataset / "images"):
            if dataset.name == "frozen":
                with pytest.raises(OSError, match="busy") as caught:
                    path.read_bytes()
                assert caught.value.errno == errno.EBUSY
                wanted[image_bytes(server.organization["frozen"].at("/", path.name))] -= 1  # type: ignore[arg-type]
                continue

            data = path.read_bytes()

            assert path.stat().st_size == len(data)

            read[data] += 1

    assert read == +wanted


def test_n2_nasty_datasets_are_there(nasty: tuple[StandIn, Mount]) -> None:
    server, mount = nasty
    shown = names_in(mount.datasets)

    assert (
        len(shown)
        == len(set(shown))
        == sum(not each.is_archived for each in server.organization.datasets.values())
    )
    assert {"‛..", "‛.", "with‛sslash", "Case", "case", "100%", "hash#?&"} <= set(shown)

    (shaped,) = [name for name in shown if re.fullmatch(r"[0-9a-f]{8}-[0-9a-f-]{27}", name)]

    for name in ("‛..", shaped):
        image = next(
            iter(
                next(
                    each
                    for each in server.organization.datasets.values()
                    if each.name == unescape(name)
                ).images.values()
            )
        )

        assert (mount.datasets / name / "images/sub/one.jpg").read_bytes() == image_bytes(image)


def test_n1_case_and_normalization_twins_stay_apart(nasty: tuple[StandIn, Mount]) -> None:
    server, mount = nasty
    strange = mount.datasets / "names/images/strange"
    for image in server.organization["names"].images.values():
        if image.directory_path == "/strange" and len(image.filename.encode()) < 250:
            assert (strange / image.filename).read_bytes() == image_bytes(image)
