"""The process that makes the files of a format; `pictofs.library.formats.builder` starts it."""

from __future__ import annotations

import logging
import signal
import socket
from contextlib import suppress

import msgspec

from pictofs.errors import DiskFull, PictofsError
from pictofs.library.formats.build import BuildJob, Built, build


def _received(channel: socket.socket) -> bytes:
    """All that the mount sends."""
    data = bytearray()
    while piece := channel.recv(1 << 16):
        data += piece
    return bytes(data)


def _outcome(message: bytes) -> Built:
    try:
        return build(msgspec.json.decode(message, type=BuildJob))
    except PictofsError as error:
        return Built(refused=str(error), disk_full=isinstance(error, DiskFull))


def _main() -> None:
    with socket.socket(fileno=0) as channel, suppress(OSError):
        channel.sendall(msgspec.json.encode(_outcome(_received(channel))))


if __name__ == "__main__":
    # Signals that the mount ignores or blocks are inherited, and not meant for this process.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # Ctrl-C is meant for the mount, which then ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.disable()  # the mount tells what goes wrong
    _main()
