"""The process that makes the files of a format; `pictofs.library.formats.builder` starts it.

It answers in JSON. Before that it sends a blank, which means nothing in JSON, for each second in
which it has made progress: the mount kills one that stands still.
"""

from __future__ import annotations

import logging
import signal
import socket
import time
from contextlib import suppress

import msgspec

from pictofs.errors import DiskFull, PictofsError
from pictofs.library.formats.build import PULSE_S, BuildJob, Built, build


def _received(channel: socket.socket) -> bytes:
    """All that the mount sends."""
    data = bytearray()
    while piece := channel.recv(1 << 16):
        data += piece
    return bytes(data)


class _Pulse:
    """Tells the mount of progress, once a second at most."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._told_at = 0.0

    def __call__(self) -> None:
        now = time.monotonic()
        if now >= self._told_at + PULSE_S:
            self._told_at = now
            self._channel.sendall(b" ")


def _outcome(message: bytes, pulse: _Pulse) -> Built:
    try:
        return build(msgspec.json.decode(message, type=BuildJob), pulse)
    except PictofsError as error:
        return Built(refused=str(error), disk_full=isinstance(error, DiskFull))


def _main() -> None:
    with socket.socket(fileno=0) as channel, suppress(OSError):
        channel.sendall(msgspec.json.encode(_outcome(_received(channel), _Pulse(channel))))


if __name__ == "__main__":
    # Signals that the mount ignores or blocks are inherited, and not meant for this process.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # Ctrl-C is meant for the mount, which then ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.disable()  # the mount tells what goes wrong
    _main()
