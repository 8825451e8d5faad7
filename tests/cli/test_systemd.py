"""A mount as a systemd unit: what it says to systemd, and what systemd says of the unit file."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from mounting import Mounting, Serving, run

from standin import PRESETS

UNITS = Path(__file__).parents[2] / "packaging/systemd"
UNIT = UNITS / "pictofs@.service"
SYSTEM_UNIT = UNITS / "system/pictofs@.service"


@pytest.mark.parametrize("abstract", [False, True])
def test_m1_m2_a_mount_in_the_foreground_tells_systemd(
    mounted: Mounting,
    serving: Serving,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    abstract: bool,
) -> None:
    name = f"@pictofs-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(name.replace("@", "\0") if abstract else name)
        systemd.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        server = serving(PRESETS["small"]())
        mount = mounted(server)
        words = f"STATUS={server.api_url} is mounted at {mount.root}"

        assert systemd.recv(4096).decode().splitlines() == ["READY=1", words]
        assert os.listdir(mount.datasets) == ["small"]

        mount.unmount()  # SIGTERM, and exit code 0

        assert systemd.recv(4096) == b"STOPPING=1"


def test_a_mount_in_the_background_tells_nobody(
    mounted: Mounting, serving: Serving, tmp_path: Path
) -> None:
    """It may have been started by a unit that is not its own."""
    mount = mounted(serving(PRESETS["small"]()))
    place = tmp_path / "second"
    place.mkdir()

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)
        environ = {**mount.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")}
        for command in ("mount", "unmount"):
            run(sys.executable, "-m", "pictofs", command, place, env=environ)
        with pytest.raises(BlockingIOError):
            systemd.recv(4096)


def test_a_socket_that_nobody_reads_does_no_harm(
    mounted: Mounting, serving: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "none"))
    assert os.listdir(mounted(serving(PRESETS["small"]())).datasets) == ["small"]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_the_unit_file(tmp_path: Path) -> None:
    """systemd finds nothing to say about it, with the program where pipx puts it."""
    units = tmp_path / ".config/systemd/user"
    (tmp_path / ".local/bin").mkdir(parents=True)
    (tmp_path / ".local/bin/pictofs").symlink_to(sys.executable)
    units.mkdir(parents=True)
    unit = units / UNIT.name.replace("@", "@picto")
    shutil.copy(UNIT, unit)
    environ = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        ["systemd-analyze", "verify", "--user", unit], env=environ, capture_output=True, text=True
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_the_unit_file_of_the_machine(tmp_path: Path) -> None:
    unit = tmp_path / "pictofs@srv-picto.service"
    text = SYSTEM_UNIT.read_text()
    assert "ExecStart=/opt/pictofs/bin/pictofs mount " in text
    unit.write_text(text.replace("/opt/pictofs/bin/pictofs", sys.executable))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts for all, as the unit of the machine does")
def test_the_line_of_the_machines_unit_mounts(
    mounted: Mounting, serving: Serving, tmp_path: Path
) -> None:
    """Its options are those of this version, and SIGTERM ends it with 0."""
    mount = mounted(serving(PRESETS["small"]()))
    key = tmp_path / "key"
    key.touch(0o600)
    key.write_text(mount.environ.pop("PICTOGRAPH_API_KEY"))
    place = tmp_path / "place"
    place.mkdir()
    (line,) = [each for each in SYSTEM_UNIT.read_text().splitlines() if "ExecStart=" in each]
    words = line.partition("=")[2].split()[1:]
    known = {"/etc/pictofs/%i.key": str(key), "%f": str(place), "$PICTOFS_OPTIONS": "--writable"}
    command = [known.get(word, word) for word in words]

    process = subprocess.Popen(
        [sys.executable, "-m", "pictofs", *command], env=mount.environ, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert b"is mounted at" in process.stdout.readline()
    assert os.listdir(place / "datasets") == ["small"]

    process.terminate()
    assert process.wait(30) == 0
    process.stdout.close()
