"""The process that writes the pages of a large listing.

`pictofs.library.listing.page_writer` starts it and talks to it.
"""

from __future__ import annotations

import logging
import signal
import socket
import sys
from contextlib import closing, suppress
from pathlib import Path
from queue import Queue
from threading import Thread

import msgspec

from pictofs import __version__
from pictofs.api import decode
from pictofs.errors import PictofsError
from pictofs.library.listing.page_writer import (
    HEADER,
    MESSAGE_MAX,
    Hello,
    PageJob,
    PageOutcome,
    Setup,
    ids_digest,
)
from pictofs.model.records import Image, Page
from pictofs.store.catalog.catalog import Catalog
from pictofs.store.catalog.images import ImageTable


def _receive(channel: socket.socket) -> bytes:
    """The next message, b"" at the end."""
    size = HEADER.unpack(_exactly(channel, HEADER.size) or HEADER.pack(0))[0]
    return _exactly(channel, size)


def _exactly(channel: socket.socket, size: int) -> bytes:
    data = bytearray(size)
    view = memoryview(data)
    got = 0
    while got < size:
        more = channel.recv_into(view[got:])
        if not more:
            return b""
        got += more

    return bytes(data)


def _send(channel: socket.socket, message: msgspec.Struct) -> None:
    data = msgspec.json.encode(message)
    channel.sendall(HEADER.pack(len(data)) + data)


def _decoded(job: PageJob, body: bytes) -> Page[Image] | PageOutcome:
    """A page that can be written, or why it can't."""
    try:
        dataset, page = decode.dataset_images(body)
    except PictofsError as error:
        return PageOutcome(refused=True, error=str(error)[:MESSAGE_MAX])

    if dataset.id.lower() != job.dataset_id.lower() or page is None or page.summary:
        return PageOutcome(refused=True)
    return page


def _written(images: ImageTable, job: PageJob, page: Page[Image]) -> PageOutcome:
    digest = ids_digest(page.rows)
    if page.rows and digest == job.first_digest:
        return PageOutcome(refused=True)

    try:
        gone = images.put(job.dataset, job.dataset_id, page.rows, job.seen, moves=False)
    except PictofsError as error:
        return PageOutcome(refused=True, error=str(error)[:MESSAGE_MAX])

    return PageOutcome(
        received=page.received,
        total=page.total,
        has_more=page.has_more,
        rows=len(page.rows),
        digest=digest,
        gone=gone,
    )


def _main() -> None:
    with socket.socket(fileno=0) as channel, suppress(OSError, PictofsError):
        _send(channel, Hello(__version__))
        setup = msgspec.json.decode(_receive(channel) or b"null", type=Setup | None)
        if setup is None or setup.version != __version__:
            return

        with closing(Catalog(Path(setup.catalog))) as catalog:
            images = ImageTable(catalog.database)

            # While SQLite writes a page, without the interpreter's lock, the next one is decoded.
            decoded: Queue[tuple[PageJob, Page[Image] | PageOutcome] | None] = Queue(3)
            writing = Thread(target=_write, args=(channel, images, decoded))
            writing.start()
            try:
                while message := _receive(channel):
                    job = msgspec.json.decode(message, type=PageJob)
                    decoded.put((job, _decoded(job, _receive(channel))))
            finally:
                decoded.put(None)
                writing.join()


def _write(
    channel: socket.socket,
    images: ImageTable,
    decoded: Queue[tuple[PageJob, Page[Image] | PageOutcome] | None],
) -> None:
    """Write pages as they come, and say how it went, until None comes."""
    while (found := decoded.get()) is not None:
        job, page = found
        outcome = page if isinstance(page, PageOutcome) else _written(images, job, page)

        # The mount may be gone. Pages that come all the same are taken, so that nobody waits.
        with suppress(OSError):
            _send(channel, outcome)


if __name__ == "__main__":
    # Signals that the mount ignores or blocks are inherited, and not meant for this process.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # Ctrl-C is meant for the mount, which then ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.setswitchinterval(0.0005)
    logging.disable()  # the mount decodes what this process refuses, and logs it
    _main()
