"""Telling systemd how a mount in the foreground is."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

from pictofs.model.printable import printable


def tell(*lines: str) -> None:
    """Send `lines` to systemd if it waits for them, by the protocol of sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return

    # An `@` stands for the NUL of an abstract address.
    if address[0] == "@":
        address = address.replace("@", "\0", 1)
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
        sending.connect(address)
        sending.send("\n".join(map(printable, lines)).encode())
