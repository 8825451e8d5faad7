"""Takes the pictures of README.md: `make screens`. Real commands on a terminal, against a stand-in.

The terminal is emulated by pyte and drawn by rich. What is mounted is /tmp/picto, which must not
exist.
"""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ

import pyte
from rich.console import CONSOLE_SVG_FORMAT, Console
from rich.text import Text

from pictofs.app import mount_table, mounting
from standin import PRESETS, StandIn

ROOT = Path("/tmp/picto")
PICTURES = Path(__file__).with_name("screens")
COLUMNS = 100
LATENCY = 0.25
"""Seconds that a download takes: so that there is something to see."""
SECONDS = 120
# Without the fonts that rich would have the reader's browser fetch.
FORMAT = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)


class Screen:
    """A command on a terminal of a fixed size."""

    def __init__(self, rows: int, command: list[str], environ: dict[str, str]) -> None:
        self._said = pyte.ByteStream(screen := pyte.Screen(COLUMNS, rows))
        self._screen = screen
        self._terminal, slave = pty.openpty()
        ioctl(slave, TIOCSWINSZ, struct.pack("HHHH", rows, COLUMNS, 0, 0))
        environ = {**environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pictofs", *command],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environ,
        )
        os.close(slave)

    @property
    def text(self) -> str:
        """What is to be seen."""
        return "\n".join(self._screen.display)

    def until(self, enough: Callable[[str], object]) -> None:
        """Watch until the text is as it is to be, or the command has ended."""
        end = time.monotonic() + SECONDS
        while not enough(self.text):
            if time.monotonic() > end:
                raise SystemExit(f"this never came to what was waited for:\n{self.text}")
            if select.select([self._terminal], [], [], 0.1)[0]:
                try:
                    self._said.feed(os.read(self._terminal, 65536))
                except OSError:
                    return

    def save(self, name: str, command: str, most: int = 100) -> None:
        """Draw it, with the command above it; `most` lines."""
        console = Console(
            record=True, width=COLUMNS, file=open(os.devnull, "w"), force_terminal=True
        )
        console.print(Text(f"$ {command}", style="bold"))
        lines = [self._line(row) for row in range(self._screen.lines)]
        while lines and not lines[-1].plain.strip():
            lines.pop()
        del lines[most:]
        for line in lines:
            console.print(line, no_wrap=True, overflow="crop")
        PICTURES.mkdir(exist_ok=True)
        target = PICTURES / f"{name}.svg"
        console.save_svg(str(target), title="pictofs", code_format=FORMAT, unique_id=name)

    def _line(self, row: int) -> Text:
        line = Text()
        for column in range(COLUMNS):
            cell = self._screen.buffer[row][column]
            words = [name for name in ("bold", "reverse") if getattr(cell, name)]
            words += [] if cell.fg == "default" else [_color(cell.fg)]
            # Blanks that differ from what surrounds them are left out, so that each word has a
            # place of its own:
            # not every program that shows pictures keeps blanks at the front of one.
            blank = cell.data == " " and not cell.reverse
            line.append(cell.data, "not bold" if blank else " ".join(words) or "none")

        return line

    def end(self) -> None:
        """As Ctrl-C does."""
        self._process.send_signal(signal.SIGINT)
        self.until(lambda _: self._process.poll() is not None)
        os.close(self._terminal)


def _color(name: str) -> str:
    if re.fullmatch("[0-9a-f]{6}", name):
        return f"#{name}"
    return (
        name.replace("brown", "yellow")
        .replace("bright", "bright_")
        .replace("bright_bright_", "bright_")
    )


def _pictofs(environ: dict[str, str], *arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "pictofs", *arguments],
        env=environ,
        check=True,
        stdout=subprocess.DEVNULL,
    )


def _demo(environ: dict[str, str]) -> None:
    screen = Screen(70, ["demo", str(ROOT)], environ)
    screen.until(lambda text: "Ctrl-C" in text)
    screen.save("demo", "pictofs demo /tmp/picto", 46)
    screen.end()


def _warm(environ: dict[str, str]) -> None:
    screen = Screen(8, ["warm", str(ROOT / "datasets/street-signs")], environ)
    screen.until(lambda text: re.search(r"\b[67]\d%.* left", text))
    screen.save("warm", "pictofs warm /tmp/picto/datasets/street-signs")
    screen.until(lambda text: "480 of 480" in text or "fetched" in text)
    screen.end()


def _top(environ: dict[str, str]) -> None:
    """Somebody reads every image, in another order each time, through a cache that holds half of
    them."""
    reading = "while true; do find . -name '*.jpg' | shuf | xargs -n 4 -P 6 cat > /dev/null; done"
    reader = subprocess.Popen(
        ["bash", "-c", reading], cwd=ROOT / "datasets/street-signs/images", start_new_session=True
    )
    screen = Screen(30, ["top", str(ROOT)], environ)

    try:
        end = time.monotonic() + 50
        screen.until(lambda _: time.monotonic() > end)
        screen.save("top", "pictofs top /tmp/picto")
        screen.end()
    finally:
        os.killpg(reader.pid, signal.SIGTERM)
        reader.wait()


def main() -> None:
    """Take all three."""
    ROOT.mkdir()

    with (
        tempfile.TemporaryDirectory() as home,
        StandIn(PRESETS["sample"](), storage_latency=LATENCY) as server,
    ):
        environ = {
            **{
                name: text
                for name, text in os.environ.items()
                if not name.startswith(("PICTO", "XDG_"))
            },
            "HOME": home,
            "TMPDIR": home,
        }
        try:
            _demo(environ)
            environ |= {
                "PICTOGRAPH_BASE_URL": server.api_url,
                "PICTOGRAPH_API_KEY": server.keys["viewer"],
            }
            options = ("--prefetch", "off", "--cache-dir", f"{home}/cache")
            _pictofs(environ, "mount", *options, str(ROOT))
            _warm(environ)
            _pictofs(environ, "unmount", str(ROOT))
            options = ("--prefetch", "off", "--cache-dir", f"{home}/small", "--cache-size", "10MB")
            _pictofs(environ, "mount", *options, str(ROOT))
            _top(environ)
        finally:
            if mount_table.mount_at(ROOT):
                mounting.detach(ROOT, lazy=True)
            ROOT.rmdir()


if __name__ == "__main__":
    main()
