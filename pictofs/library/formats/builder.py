"""Has the files of a format made, once everything that goes into them is there."""

from __future__ import annotations

import logging
import socket
import subprocess
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import msgspec
import trio
from cachetools import TTLCache

from pictofs.clock import Clock
from pictofs.errors import (
    DiskFull,
    Forbidden,
    InvalidResponse,
    NoSuchEntry,
    PictofsError,
    ServerFault,
    Throttled,
)
from pictofs.formats.losses import Losses
from pictofs.library.annotations.annotations import Annotations
from pictofs.library.annotations.export import FEW, Exports
from pictofs.library.beside import CannotStart, end, start
from pictofs.library.connectivity import UNAVAILABLE
from pictofs.library.content.cache import ContentCache
from pictofs.library.content.source import Source
from pictofs.library.formats.build import PULSE_S, BuildJob, Built, build
from pictofs.library.formats.dimensions import Dimensions
from pictofs.library.listing.listing import Listing
from pictofs.library.single_flight import SingleFlight
from pictofs.model.formats import Format
from pictofs.store.catalog.catalog import Catalog
from pictofs.store.catalog.rows import ImageRow
from pictofs.threads import in_thread

log = logging.getLogger(__name__)

WORKERS = 16
"""Annotation files fetched at once: half as many as the API's connections."""
ROUNDS = 4
"""How often what is missing is brought before the build is given up.

Files may be edited, or evicted from a small cache, while others are fetched.
"""
BUILDS = 2
"""Processes at once: each takes a core, and 0.1 GB. The next one is for who has waited longest. A
place is given back by a process that stands still, too, as it is killed."""
SILENT_PULSES = 120
"""Checks without a sign of progress after which a process is killed. A million images take 10 s to
be searched for equal names, and a slow disk a minute for a gigabyte. Checks are counted instead of
seconds, because a mount that was stopped must not take that time for its process's silence."""
STARTS = 2
"""How often a process is started before one that stands still is an error."""
ANSWER_MAX_BYTES = 64 << 20
"""Bytes of the process's answer: the keys of a million images have 20 MB."""
UNREADABLE = (Forbidden, InvalidResponse, ServerFault)
"""Errors that may concern one annotation file alone."""
UNREADABLE_SHARE = 0.01
"""Of the images of a build, one at least, so many may be left out for such an error. If there are
more, nothing is made: labels that nobody misses are worse than an error."""
UNREADABLE_MAX = 65_536
"""Files for which that is remembered: 100 bytes each."""
UNREADABLE_S = 300.0
"""Seconds after which the server is asked again for such a file."""
RELIST_AFTER_S = 15.0
"""Seconds for which a listing is believed that has an image which the server denies."""
BELIEVED_S = 60.0
"""Seconds for which a build is right although an annotation file is due that could not be
confirmed."""

_Key = tuple[int, str | None, Format]
"""Key of a dataset, status of the images, format."""


class _State(NamedTuple):
    """What tells in the catalog that the inputs of a build have changed."""

    seq: int
    """Another one if the dataset was removed and came back."""
    name: str
    input_changes: int
    classes_changes: int
    annotations_due: float | None


class _Known(NamedTuple):
    built: Built
    state: _State | None
    at: float
    """Seconds of the monotonic clock."""


class Builder:
    """Makes each format of a dataset once for each state of what goes into it."""

    def __init__(
        self,
        catalog: Catalog,
        cache: ContentCache,
        annotations: Annotations,
        exports: Exports,
        dimensions: Dimensions,
        listing: Listing,
        single_flight: SingleFlight,
        source: Source,
        clock: Clock,
    ) -> None:
        self._source = source
        self._listing = listing
        self._catalog = catalog
        self._cache = cache
        self._annotations = annotations
        self._exports = exports
        self._dimensions = dimensions
        self._single_flight = single_flight
        self._clock = clock
        # By the key of an image, why its annotation file can't be had.
        self._unreadable: TTLCache[int, PictofsError] = TTLCache(
            UNREADABLE_MAX, UNREADABLE_S, clock.monotonic
        )
        self._known: dict[_Key, _Known] = {}
        self._places = trio.CapacityLimiter(BUILDS)

    def current(self, dataset: int, base: str | None, format_: Format) -> Built | None:
        """What was made last; None if nothing was, or if its inputs may have changed since.

        Inline.
        """
        known = self._known.get((dataset, base, format_))
        if known is None or known.state != self._state(dataset):
            return None
        return known.built

    def losses(self) -> Iterable[tuple[int, str | None, Format, Losses]]:
        """Of each build of this mount: the dataset's key, the status, the format, and what the
        format could not take."""
        for (dataset, base, format_), known in self._known.items():
            if known.built.losses is not None:
                yield dataset, base, format_, known.built.losses

    async def made(self, dataset: int, base: str | None, format_: Format) -> Built:
        """The files of a format as of now.

        What is missing is fetched, by an export that is there, one that may be made, or a request
        each. It goes on if the caller gives up, and the next one joins it. Raises what keeps it
        from coming, and DiskFull if the cache is too small.
        """
        key = (dataset, base, format_)
        known = self._known.get(key)
        if known is not None and self._is_right(key, known):
            return known.built

        flight = ("format", *key)
        joined = self._single_flight.in_progress(flight)
        built: Built = await self._single_flight.share(flight, partial(self._make, key))
        if joined and not self._is_right(key, self._known[key]):
            # It was begun before the caller asked, and something has changed meanwhile.
            built = await self._single_flight.share(flight, partial(self._make, key))
        return built

    def _is_right(self, key: _Key, known: _Known) -> bool:
        """Whether a build needs no look at its inputs. Inline: 50 us."""
        if known.state != self._state(key[0]):
            return False
        if known.built.unreadable and self._clock.monotonic() >= known.at + UNREADABLE_S:
            return False
        if self._is_due(known) and self._clock.monotonic() >= known.at + BELIEVED_S:
            return False
        return all(map(self._cache.has, known.built.blobs.values()))

    def _is_due(self, known: _Known) -> bool:
        """Whether an annotation file is to be confirmed again."""
        since = self._annotations.fresh_since
        confirmed_at = known.built.confirmed_at
        if since is None or confirmed_at is None:
            return False
        # A time to come, after the clock was set back, tells nothing.
        return not since <= confirmed_at <= self._clock.wall()

    def _state(self, dataset: int) -> _State | None:
        row = self._catalog.dataset(dataset)
        if row is None:
            return None
        return _State(
            row.seq, row.name, row.input_changes, row.classes_changes, row.annotations_due
        )

    async def _make(self, key: _Key) -> Built:
        dataset, base, format_ = key
        confirmed = False
        began = self._clock.wall()
        for _ in range(ROUNDS):
            async with self._places:
                # Not before: others may have waited for minutes.
                state = self._state(dataset)
                at = self._clock.monotonic()
                fresh_since = None if confirmed else self._annotations.fresh_since
                built = await _watched(self._job(key, began, fresh_since))
            if built.disk_full:
                raise DiskFull(built.refused)
            if built.refused:
                raise PictofsError(built.refused)
            if built.is_complete:
                self._known[key] = _Known(built, state, at)
                return built

            try:
                await self._bring(dataset, base, built)
            except NoSuchEntry as error:
                # The image may have been deleted since it was listed.
                if not await self._listing.relist(dataset, RELIST_AFTER_S):
                    raise PictofsError(f"formats/{format_} can't be made: {error}") from error
                continue

            # What could not be confirmed is better than nothing, as for a reader of one file.
            confirmed = True

        row = self._catalog.dataset(dataset)
        failed = f"formats/{format_} of {row.name if row else 'a dataset'} can't be made: "
        images = list(map(self._catalog.image, built.missing))
        if all(image is not None and self._annotations.is_cached(image) for image in images):
            raise PictofsError(
                failed + "it changes faster than its annotation files come", hint="try again"
            )

        raise DiskFull(
            failed + "its annotation files go from the cache while others are fetched",
            hint="mount with a larger --cache-size",
        )

    def _job(self, key: _Key, began: float, fresh_since: float | None) -> BuildJob:
        dataset, base, format_ = key
        blobs = self._cache.blob_cache
        return BuildJob(
            catalog=str(self._catalog.database.path),
            blobs=str(blobs.path),
            limit=blobs.limit,
            reserve=blobs.reserve,
            server=self._cache.server,
            dataset=dataset,
            base=base,
            format=format_,
            began=began,
            fresh_since=fresh_since,
            unsizable=sorted(self._dimensions.unknowable),
            unreadable=sorted(self._unreadable),
        )

    async def _bring(self, dataset: int, base: str | None, built: Built) -> None:
        """Fetch what a build lacks. Raises DiskFull if it would not be kept."""
        if built.missing:
            self._check_cache()
        if len(built.missing) + len(built.due) > FEW:
            await self._by_archive(dataset, base)

        due = partial(self._confirm, dataset)
        failed: dict[int, PictofsError] = {}
        most = max(1, int(built.images * UNREADABLE_SHARE)) - built.unreadable
        await _each(built.missing, partial(self._fetch, failed, most))
        if failed:
            await self._check_server(dataset, failed)
            self._unreadable.update(failed)

        # A server that is away, or a limit that is spent, leaves the files of before.
        with suppress(*UNAVAILABLE, Throttled):
            await _each(built.due, due)
        await _each(built.unsized, self._dimensions.learn)

    async def _by_archive(self, dataset: int, base: str | None) -> None:
        try:
            await self._exports.look()
            if self._exports.found(dataset) is not None:
                await self._exports.take(dataset)
            elif self._exports.automatic:
                await self._exports.fetch(dataset, base)
        except (Throttled, DiskFull):
            raise
        except PictofsError as error:
            log.info("annotations come one by one: %s", error)

    async def _fetch(self, failed: dict[int, PictofsError], most: int, key: int) -> None:
        """Fetch a file. Up to `most` that the server does not give are noted in `failed`."""
        image = self._catalog.image(key)
        if image is None or self._annotations.is_cached(image):
            return

        try:
            await self._source.retried(image.entry, partial(self._annotations.fetch, image))
        except UNREADABLE as error:
            failed[key] = error
            if len(failed) > most:
                raise _named(error, image) from error
        else:
            self._check_cache()

    async def _check_server(self, dataset: int, failed: dict[int, PictofsError]) -> None:
        """Raise one of the errors unless the server gives another file of the dataset: else it may
        be the server, or the API key, and not the file. One request."""
        rows, _ = self._catalog.shown_after(
            ImageRow,
            0,
            len(failed) + 1,
            dataset=dataset,
            directory=None,
            status=None,
            split=None,
        )
        try:
            for row in rows:
                if row.key not in failed and row.key not in self._unreadable:
                    await self._annotations.fetch(row)
                    return
        except UNREADABLE:
            pass

        key, error = next(iter(failed.items()))
        image = self._catalog.image(key)
        raise error if image is None else _named(error, image)

    def _check_cache(self) -> None:
        if not self._cache.usable:
            raise DiskFull("the cache takes no annotation files, of which formats/ is made")

    async def _confirm(self, dataset: int, key: int) -> None:
        image = self._catalog.image(key)
        if image is None or not self._annotations.is_due(image):
            return

        try:
            await self._annotations.fetch(image)
        except (*UNAVAILABLE, Throttled):
            raise  # the others would fare no better
        except PictofsError as error:
            log.info("the annotations of %s stay as they were: %s", image.entry, error)


def _named(error: PictofsError, image: ImageRow) -> PictofsError:
    """The same error, with the name of the image."""
    named = type(error)(f"the annotation file of {image.entry}: {error}", hint=error.hint)
    named.final = error.final
    return named


async def _each(keys: list[int], work: Callable[[int], Awaitable[None]]) -> None:
    """Do `work` for each key, some at once. The first error ends it, and is raised."""
    remaining = iter(keys)
    errors: list[PictofsError] = []

    async def serve() -> None:
        for key in remaining:
            if errors:
                return
            try:
                await work(key)
            except PictofsError as error:
                errors.append(error)

    async with trio.open_nursery() as nursery:
        for _ in range(min(WORKERS, len(keys))):
            nursery.start_soon(serve)

    if errors:
        raise errors[0]


class _StandsStill(Exception):
    """A process makes no progress: it is stopped, or waits for what does not come."""


async def _watched(job: BuildJob) -> Built:
    """Build, and once more if the process stands still. Raises PictofsError."""
    for _ in range(STARTS):
        try:
            return await _built(job)
        except _StandsStill:
            log.warning("the process that makes formats/%s stands still, and is killed", job.format)

    raise PictofsError(
        f"the process that makes formats/{job.format} stands still, and was killed {STARTS} times",
        hint="does the disk of the cache answer? Try again",
    )


async def _send(stream: trio.SocketStream, message: bytes) -> None:
    """Send all of a message, and its end. Raises _StandsStill."""
    with trio.move_on_after(SILENT_PULSES * PULSE_S) as waiting:
        await stream.send_all(message)
        await stream.send_eof()
    if waiting.cancelled_caught:
        raise _StandsStill


async def _answer(stream: trio.SocketStream) -> bytes:
    """All that a process says until it ends. Raises _StandsStill."""
    answer = bytearray()
    silent = 0
    while silent < SILENT_PULSES:
        with trio.move_on_after(PULSE_S):
            piece = await stream.receive_some(1 << 16)
            if not piece:
                return bytes(answer)

            silent = -1
            answer += piece
            if len(answer) > ANSWER_MAX_BYTES:
                raise PictofsError("the process that makes files of a format says too much")

        silent += 1

    raise _StandsStill


async def _built(job: BuildJob) -> Built:
    """Build in a process of its own; in a thread if none can be started."""
    ours, theirs = socket.socketpair()
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    process: subprocess.Popen[bytes] | None = None
    try:
        with theirs:
            process = start("pictofs.library.formats.build_process", theirs)
        await _send(stream, msgspec.json.encode(job))
        return msgspec.json.decode(await _answer(stream), type=Built)
    except _StandsStill:
        if process is not None:
            process.kill()
        raise
    except CannotStart as error:
        log.info("files of a format are made by the mount itself: %s", error)
        return await in_thread(build, job)
    except (trio.BrokenResourceError, msgspec.MsgspecError) as error:
        raise PictofsError(
            f"the process that makes formats/{job.format} has ended without a word",
            hint="is there enough memory? Try again",
        ) from error
    finally:
        with trio.CancelScope(shield=True):
            # This makes the process end.
            await trio.aclose_forcefully(stream)
            if process is not None:
                await end(process)
