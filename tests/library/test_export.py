"""Annotations in bulk: as many requests as promised, the SDK's bytes, and nothing wrong from a bad
archive."""

from __future__ import annotations

import asyncio
import io
import json
import threading
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trio
from rig import Mount, Rig, annotation_bytes, error_of

from pictofs.errors import (
    Forbidden,
    Invalid,
    InvalidResponse,
    PictofsError,
    ServerFault,
    Throttled,
    TimedOut,
)
from pictofs.library.annotations.archive import Bounds
from standin import Spec, StandIn
from standin.exchange import Exchange
from standin.faults import Close, Fault, Match, Mutate, Reset, Truncate, error, throttled
from standin.identity import uuid_for
from standin.spec import DatasetSpec

FILE = "GET /annotations/{image_id:uuid}/file"
REMOVE = "DELETE /exports/{export:path}"
ZIPS = r"^/.*exports/"
Files = dict[str, bytes]


class Repack:
    """A fault: changes the files of an archive, by name."""

    def __init__(self, change: Callable[[Files], Files | list[tuple[str, bytes]]]) -> None:
        self._change = change

    async def __call__(self, exchange: Exchange) -> None:
        answer = await exchange.collect()
        with zipfile.ZipFile(io.BytesIO(answer.body)) as archive:
            changed = self._change({name: archive.read(name) for name in archive.namelist()})
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, body in changed.items() if isinstance(changed, dict) else changed:
                archive.writestr(name, body)
        answer.body = out.getvalue()
        await exchange.answer(answer)


@pytest.fixture
def standin() -> Iterator[StandIn]:
    """Thirty images, in three directories of `small`; storage sends no checksums, so that zips can
    lie."""
    made_of = Spec((DatasetSpec("small", images=30, size=500, directories=3),))
    with StandIn(made_of, hash_header=False) as running:
        yield running


def member(rig: Rig) -> str:
    return rig.standin.keys["member"]


def small(mount: Mount) -> int:
    row = mount.catalog.dataset_by_entry("small")
    assert row is not None
    return row.key


async def export(mount: Mount, **options: Any) -> PictofsError | None:
    """Run an export of `small`; how it failed."""
    await mount.library.listing.datasets()
    return await error_of(lambda: mount.library.exports.fetch(small(mount), **options))


async def all_right(mount: Mount, rig: Rig) -> None:
    """Every annotation file is what the vendor's client writes."""
    for image in rig.standin.organization["small"].images.values():
        path = f"/datasets/small/annotations{image.directory_path}/{image.filename}.json"
        assert await mount.read(path) == annotation_bytes(rig.standin, image)


def fetched(mount: Mount) -> int:
    return mount.asked.count(FILE)


def exports_left(rig: Rig) -> int:
    return len(rig.standin.organization.exports)


def litter(rig: Rig) -> list[str]:
    return [path.name for path in (rig.cache / "blobs").glob("??/*~*")]


# What it costs.


@pytest.mark.parametrize(
    ("role", "images"), [("member", 500), ("admin", 5000)], ids=["member", "admin"]
)
async def test_q5_5_000_annotations_cost_at_most_20_requests(
    rig: Rig, role: str, images: int
) -> None:
    with StandIn(Spec.uniform(images=images, size=500, directories=7), export_polls=3) as standin:
        rig = Rig(standin, rig.cache)
        # The poll that finds the export ready waits while all of it is packed: not a matter of a
        # few seconds on a busy machine, and a poll that is given up is made again.
        async with rig.mount(key=standin.keys[role], timeout=100.0) as mount:
            await mount.library.listing.datasets()
            row = mount.catalog.dataset_by_entry("dataset-0")

            assert row is not None

            await mount.library.exports.fetch(row.key)

            for image in standin.organization["dataset-0"].images.values():
                path = (
                    f"/datasets/dataset-0/annotations{image.directory_path}/{image.filename}.json"
                )
                assert await mount.read(path) == annotation_bytes(standin, image)

            assert len(mount.asked) == 11, mount.asked
            assert fetched(mount) == 1
            assert mount.asked.count(REMOVE) == 1
            # A member may make exports, and only an admin may remove them.
            assert len(standin.organization.exports) == (role == "member")
            assert litter(rig) == []


async def test_what_is_cached_is_neither_exported_nor_replaced(rig: Rig) -> None:
    async with rig.mount(key=member(rig)) as mount:
        await all_right(mount, rig)
        mount.forget_log()
        assert await export(mount) is None
        assert mount.asked == []


async def test_a_second_mount_reads_what_the_first_one_exported(rig: Rig) -> None:
    async with rig.mount(key=member(rig)) as mount:
        assert await export(mount) is None
    async with rig.mount(key=member(rig)) as mount:
        mount.forget_log()
        await all_right(mount, rig)
        assert fetched(mount) == 0


async def test_one_status(rig: Rig) -> None:
    async with rig.mount(key=member(rig)) as mount:
        assert await export(mount, status="complete") is None
        complete = [
            i for i in rig.standin.organization["small"].images.values() if i.status == "complete"
        ]
        mount.forget_log()
        await all_right(mount, rig)
        assert fetched(mount) == 30 - len(complete)


async def test_two_who_want_it_make_one_export(rig: Rig) -> None:
    async with rig.mount(key=member(rig)) as mount:
        await mount.library.listing.datasets()
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(mount.library.exports.fetch, small(mount))
        assert mount.asked.count("POST /exports/") == 1


# Faults.


@pytest.mark.parametrize(
    ("where", "fault", "kind"),
    [
        (Match("api", "POST", "/exports/"), error(500), ServerFault),
        (Match("api", "POST", "/exports/"), throttled(3000), Throttled),
        (Match("api", "GET", "/exports/{export:path}"), error(503), ServerFault),
        (
            Match("api", "GET", "/exports/{export:path}/download"),
            error(404, "not_found"),
            PictofsError,
        ),
        (Match("storage", None, ZIPS), error(503), ServerFault),
        (Match("storage", None, ZIPS), error(403), PictofsError),
        (Match("storage", None, ZIPS), Reset(after=500), ServerFault),
        (Match("storage", None, ZIPS), Close(after=500), ServerFault),
        (Match("storage", None, ZIPS), Truncate(2000), InvalidResponse),
        (Match("storage", None, ZIPS), Truncate(0), InvalidResponse),
    ],
    ids=str,
)
async def test_r2_an_export_that_fails_leaves_nothing_behind(
    rig: Rig, where: Match, fault: Any, kind: type[PictofsError]
) -> None:
    async with rig.mount(key=rig.standin.keys["admin"]) as mount:
        rig.standin.faults.add(Fault(where, fault))
        assert isinstance(await export(mount), kind)
        assert exports_left(rig) == 0
        assert litter(rig) == []

        rig.standin.faults.clear()
        mount.forget_log()
        rig.clock.advance(4000)
        await all_right(mount, rig)

        assert fetched(mount) == 30


async def test_a_transfer_that_breaks_is_made_again(rig: Rig) -> None:
    async with rig.mount(key=member(rig)) as mount:
        rig.fault(Reset(after=500), "storage", ZIPS, times=1)
        assert await export(mount) is None
        await all_right(mount, rig)
        assert fetched(mount) == 1


async def test_q5_a_viewer_may_not(rig: Rig) -> None:
    async with rig.mount() as mount:
        assert isinstance(await export(mount), Forbidden)
        assert mount.asked[-1] == "POST /exports/"


async def test_an_export_that_the_server_gives_up(rig: Rig) -> None:
    def fail(body: Any) -> Any:
        body["data"] |= {"status": "failed", "error_message": "out of paper"}
        return body

    async with rig.mount(key=rig.standin.keys["admin"]) as mount:
        rig.standin.faults.add(Fault(Match("api", "GET", "/exports/{export:path}"), Mutate(fail)))
        failure = await export(mount)
        assert isinstance(failure, ServerFault)
        assert "out of paper" in str(failure)
        assert exports_left(rig) == 0


async def test_an_export_that_is_never_ready(rig: Rig) -> None:
    rig.standin.organization.switches.export_polls = 1_000_000
    async with rig.mount(key=rig.standin.keys["admin"]) as mount:
        assert isinstance(await export(mount), TimedOut)
        assert 1700 < sum(rig.clock.sleeps) <= 1800
        assert rig.clock.sleeps[:4] == [0.5, 1.0, 2.0, 4.0]
        assert len(mount.asked) < 60
        assert exports_left(rig) == 0


async def test_a_url_that_fails_is_asked_for_by_one_series_of_retries(rig: Rig) -> None:
    async with rig.mount(key=rig.standin.keys["admin"], max_retries=2) as mount:
        rig.standin.faults.add(
            Fault(Match("api", "GET", "/exports/{export:path}/download"), error(503))
        )
        assert isinstance(await export(mount), ServerFault)
        assert mount.asked.count("GET /exports/{export:path}/download") == 3
        assert exports_left(rig) == 0


async def test_r2_a_removal_that_fails_is_made_again(rig: Rig) -> None:
    async with rig.mount(key=rig.standin.keys["admin"]) as mount:
        rig.standin.faults.add(Fault(Match("api", "DELETE"), error(503), times=2))
        assert await export(mount) is None
        assert exports_left(rig) == 0


# Archives that are not what they should be.


def changed(files: Files, place: int, **fields: Any) -> Files:
    name = sorted(files)[place]
    return files | {name: json.dumps(json.loads(files[name]) | fields).encode()}


HOSTILE: dict[str, tuple[Callable[[Files], Files | list[tuple[str, bytes]]], int]] = {
    "none": (lambda files: {}, 30),
    "no-json": (lambda files: files | {"a.json": b"{", "b.json": b"", "c.json": b"[" * 100_000}, 0),
    "unknown-image": (lambda files: changed(files, 3, image_uuid=uuid_for("nobody", 1)), 1),
    "no-image": (lambda files: changed(files, 3, image_uuid=None), 1),
    "other-type": (lambda files: changed(files, 3, image_uuid=5), 1),
    "more-keys": (lambda files: changed(files, 3, extra=1), 1),
    "array": (lambda files: files | {sorted(files)[3]: b"[]"}, 1),
    "too-large": (lambda files: changed(files, 3, image=" " * 200_000), 1),
    "bomb": (lambda files: files | {f"{n}.json": b" " * 90_000 for n in range(100)}, 0),
    "twice": (lambda files: [*files.items(), ("again.json", files[sorted(files)[3]])], 1),
    "claimed": (
        lambda files: changed(
            files, 3, image_uuid=json.loads(files[sorted(files)[4]])["image_uuid"]
        ),
        2,
    ),
    "elsewhere": (
        lambda files: {f"../../{n}/x.json": body for n, body in enumerate(files.values())},
        0,
    ),
    "absolute": (
        lambda files: {f"/etc/{n}.JSON": body for n, body in enumerate(files.values())},
        0,
    ),
    "with-images": (lambda files: files | {"images/a.jpg": b"\xff" * 500_000, "README": b"?"}, 0),
    "folder": (lambda files: files | {"annotations/": b""}, 0),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_b2_a_bad_archive_stores_nothing_wrong(
    rig: Rig, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    change, missing = HOSTILE[name]
    async with rig.mount(
        key=member(rig), export_bounds=Bounds(1 << 20, 100_000, 2_000_000)
    ) as mount:
        rig.fault(Repack(change), "storage", ZIPS)
        assert await export(mount) is None

        mount.forget_log()
        await all_right(mount, rig)

        assert fetched(mount) == missing

        warned = [each for each in caplog.records if "left out" in each.message]

        assert len(warned) == (missing not in (0, 30) or name in {"no-json", "bomb"})


async def test_counts_of_what_is_left_out(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    def change(files: Files) -> Files:
        files = changed(files, 3, image_uuid=uuid_for("nobody", 1))
        return changed(files, 4, extra=1) | {"x.json": b"{"}

    async with rig.mount(key=member(rig)) as mount:
        rig.fault(Repack(change), "storage", ZIPS)
        assert await export(mount) is None

    assert (
        "left out 3 of 31 files, 1 malformed, 1 of another shape, 1 of unknown images"
        in caplog.text
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda files: {name: b"[" + body + b"]" for name, body in files.items()},
        lambda files: {
            name: json.dumps(json.loads(body)["annotations"]).encode()
            for name, body in files.items()
        },
        lambda files: {
            name: json.dumps(dict(sorted(json.loads(body).items()))).encode()
            for name, body in files.items()
        },
        lambda files: {name: body.replace(b"http", b"https") for name, body in files.items()},
        lambda files: {
            name: body.replace(b'"annotation_count":3,', b"") for name, body in files.items()
        },
    ],
    ids=["wrapped", "bare", "sorted", "other-urls", "fewer-keys"],
)
async def test_b2_files_that_the_api_would_send_otherwise_are_refused(
    rig: Rig, change: Callable[[Files], Files]
) -> None:
    async with rig.mount(key=member(rig)) as mount:
        rig.fault(Repack(change), "storage", ZIPS)
        failure = await export(mount)
        probes = fetched(mount)

        assert probes <= 2
        assert isinstance(failure, InvalidResponse) or probes == 0

        mount.forget_log()
        await all_right(mount, rig)

        assert fetched(mount) == 30 - probes


async def test_an_archive_that_is_too_large(rig: Rig) -> None:
    async with rig.mount(key=member(rig), export_bounds=Bounds(packed=3000)) as mount:
        assert isinstance(await export(mount), Invalid)
        assert litter(rig) == []


async def test_a_cache_that_takes_no_archive(rig: Rig) -> None:
    async with rig.mount(key=member(rig), cache_size=4096) as mount:
        assert await export(mount) is not None
        assert litter(rig) == []


class Meanwhile:
    """A fault: the archive is on its way until `go` is set."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()

    async def __call__(self, exchange: Exchange) -> None:
        answer = await exchange.collect()
        self.begun.set()
        await asyncio.to_thread(self.go.wait, 20)
        await exchange.answer(answer)


@pytest.mark.parametrize("heard", ["by a reader", "by a listing"])
async def test_what_was_heard_of_since_the_export_began_is_newer(rig: Rig, heard: str) -> None:
    image = list(rig.standin.organization["small"].images.values())[7]
    path = f"/datasets/small/annotations{image.directory_path}/{image.filename}.json"

    async with rig.mount(key=member(rig)) as mount, trio.open_nursery() as nursery:
        await mount.list("/datasets/small/annotations/part-000")
        meanwhile = Meanwhile()
        rig.fault(meanwhile, "storage", ZIPS)
        nursery.start_soon(export, mount)
        await trio.to_thread.run_sync(meanwhile.begun.wait)
        rig.standin.organization.set_annotations(image, [])

        if heard == "by a reader":
            assert await mount.read(path) == annotation_bytes(rig.standin, image)
        else:
            rig.clock.advance(4000)
            await mount.library.listing.all_images(small(mount))

        meanwhile.go.set()
        await mount.settle()
        mount.forget_log()
        await all_right(mount, rig)

        assert fetched(mount) == (heard == "by a listing")


# Begun by reads.


async def test_the_third_read_begins_an_export(rig: Rig) -> None:
    async with rig.mount(key=member(rig), bulk_annotations=True) as mount:
        paths = list(await mount.list("/datasets/small/annotations/part-000"))
        for place, name in enumerate(paths[:3]):
            assert mount.asked.count("POST /exports/") == 0, place
            await mount.read(f"/datasets/small/annotations/part-000/{name}")
        await mount.settle()
        assert mount.asked.count("POST /exports/") == 1
        await all_right(mount, rig)
        assert fetched(mount) == 4
        assert mount.asked.count("POST /exports/") == 1


async def test_reads_begin_none_unless_that_is_wanted(rig: Rig) -> None:
    async with rig.mount(key=member(rig)) as mount:
        await all_right(mount, rig)
        assert mount.asked.count("POST /exports/") == 0


async def test_reads_begin_none_where_most_is_cached(rig: Rig) -> None:
    images = list(rig.standin.organization["small"].images.values())
    paths = [f"/datasets/small/annotations{i.directory_path}/{i.filename}.json" for i in images]
    async with rig.mount(key=member(rig)) as mount:
        for path in paths[:20]:
            await mount.read(path)
    async with rig.mount(key=member(rig), bulk_annotations=True) as mount:
        for path in paths:
            await mount.read(path)
        await mount.settle()
        assert mount.asked.count("POST /exports/") == 0


async def test_reads_go_on_where_none_may_be_made(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    async with rig.mount(bulk_annotations=True) as mount:
        await all_right(mount, rig)
        await mount.settle()
        assert mount.asked.count("POST /exports/") == 1
        assert fetched(mount) == 30
        assert caplog.text.count("annotations come one by one") == 1


async def test_an_export_leaves_the_reserve(rig: Rig) -> None:
    """What reads begin stops before what is kept for a person; the removal is owed all the same."""
    rig.standin.organization.switches.hourly_limit = 70

    async with rig.mount(key=rig.standin.keys["admin"], bulk_annotations=True) as mount:
        images = list(rig.standin.organization["small"].images.values())
        await mount.list("/datasets/small/annotations/part-000")

        for image in images[:25]:
            await mount.read(
                f"/datasets/small/annotations{image.directory_path}/{image.filename}.json"
            )

        await mount.settle()

        assert exports_left(rig) == 0
