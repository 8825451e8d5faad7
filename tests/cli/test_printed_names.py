"""Names and words of others on a terminal and in logs: nothing in them is acted upon, or passes for
another line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from mounting import Mount, Mounting, Serving, inherited
from starting import run_pictofs

from pictofs.model.printable import printable
from standin import Organization, StandIn
from standin.faults import Fault, Match, Respond

NAME = "a\x1b]52;c;cm0=\x07\x1b[2J[red]b[blink]\u202egpj\x9b31m\r2026-01-01 00:00:00,000 INFO pictofs: forged"
"""Sets the clipboard, clears the screen, turns letters round, begins a line anew. (A line break
comes extra.)"""
WORDS = NAME.replace("forged", "forged\nsecond line")


def house() -> Organization:
    organization = Organization(seed="names")
    dataset = organization.add_dataset(NAME, description=WORDS)
    organization.add_image(dataset, f"{NAME}.jpg", f"/{NAME}", size=1000)
    return organization


@pytest.fixture
def server(serving: Serving) -> StandIn:
    return serving(house())


def harmless(text: str) -> bool:
    """Lines of what is printed, and nothing that moves or hides it."""
    return all(
        unicodedata.category(char) not in ("Cc", "Cf", "Zl", "Zp")
        for char in text.replace("\n", "")
    )


def said(environ: dict[str, str], *arguments: str | Path) -> str:
    """All that a command prints, on a terminal that has colours."""
    done = run_pictofs(*arguments, env={**environ, "COLUMNS": "300"})
    return (done.stdout + done.stderr).decode()


@pytest.fixture
def environ(server: StandIn, tmp_path: Path) -> dict[str, str]:
    return {
        **inherited(),
        "HOME": str(tmp_path),
        "PICTOFS_CACHE_DIR": str(tmp_path / "cache"),
        "PICTOGRAPH_BASE_URL": server.api_url,
        "PICTOGRAPH_API_KEY": server.keys["admin"],
        "PICTOGRAPH_MAX_RETRIES": "0",
    }


@pytest.mark.parametrize(
    "command",
    [
        ("dataset", "list"),
        ("dataset", "show", NAME),
        ("dataset", "show", WORDS),
        ("dataset", "update", NAME, "--description", "new"),
        ("dataset", "delete", NAME, "--yes"),
        ("download", WORDS, "here"),
        ("download", NAME, f"{{home}}/{NAME}"),
        ("mount", f"/nowhere/{WORDS}"),
        ("unmount", f"/{WORDS}"),
        ("status", f"/{WORDS}"),
        ("top", "--once", f"/{WORDS}"),
        ("warm", f"/{WORDS}"),
        ("prefetch", f"/{WORDS}", "--order", WORDS),
        ("cache", "info", "--cache-dir", f"/{WORDS}"),
        ("mount", "--umask", WORDS, "/mnt"),
        (WORDS,),
        ("mount", f"--{WORDS}"),
    ],
)
def test_k8_commands(environ: dict[str, str], tmp_path: Path, command: tuple[str, ...]) -> None:
    printed = said(environ, *[each.replace("{home}", str(tmp_path)) for each in command])
    assert printed
    assert harmless(printed), printed
    assert not re.search("^(2026|second)", printed, re.MULTILINE)


def test_k8_what_a_server_says(environ: dict[str, str], server: StandIn) -> None:
    body = json.dumps(
        {"error": {"code": NAME, "message": WORDS, "detail": WORDS}, "detail": WORDS}
    ).encode()
    headers = {"content-type": "application/json", "x-request-id": "id"}

    for status in (400, 402, 403, 404, 409, 422, 500):
        server.faults.clear()
        server.faults.add(Fault(Match("api"), Respond(status, body, headers)))

        for command in (("dataset", "list"), ("dataset", "show", NAME), ("doctor", "/nowhere")):
            printed = said(environ, *command)
            assert harmless(printed), printed
            assert not re.search("^(2026|second)", printed, re.MULTILINE)


@pytest.fixture
def mount(mounted: Mounting, server: StandIn) -> Mount:
    return mounted(server, "--log-level", "debug", home=f"home {NAME}")


@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs /dev/fuse")
def test_k8_a_mount_and_its_log(mount: Mount) -> None:
    mount.expected.append("")
    (folder,) = mount.datasets.iterdir()
    (image,) = (folder / "images").rglob("*.jpg")

    assert len(image.read_bytes()) == 1000

    for command in (
        ("status",),
        ("top", "--once", mount.root),
        ("refresh", folder),
        ("warm", folder),
        ("warm", "--dry-run", folder),
        ("warm", "--check", folder),
        ("warm", "--evict", folder),
        ("doctor", mount.root),
    ):
        printed = said(mount.environ, *command)
        assert printed
        assert harmless(printed), printed
        assert not re.search("^(2026|second)", printed, re.MULTILINE)

    assert json.loads(said(mount.environ, "status", "--json"))  # for programs a name is exact

    mount.unmount()

    assert harmless(mount.log())
    assert not re.search("^2026-01-01", mount.log(), re.MULTILINE)


def test_k8_tracebacks_in_a_log() -> None:
    code = (
        "import logging, sys; from pictofs.app.logs import TextFormatter\n"
        "handler = logging.StreamHandler(sys.stdout); handler.setFormatter(TextFormatter())\n"
        "logging.getLogger().addHandler(handler)\n"
        f"words = {WORDS!r}\n"
        "try:\n    raise ValueError(words)\n"
        "except ValueError:\n    logging.exception('%s', words)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, *others = done.stdout.splitlines()

    assert harmless(done.stdout)
    assert " ERROR root: " in first
    assert others
    assert all(each.startswith("  ") for each in others)


def test_k8_what_is_readable_stays() -> None:
    assert printable("ünï 画像 [red]") == "ünï 画像 [red]"
    assert printable("\ud83d\x7f") == "\\ud83d\\x7f"
