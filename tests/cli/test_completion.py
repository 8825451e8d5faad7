"""What Tab does, in real shells on a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mounting import Mount, Mounting, Serving

from pictofs.app import mount_table
from pictofs.cli import completion
from standin.spec import DatasetSpec, Spec

START = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
    "fish": ["fish", "--no-config", "-i"],
}
LOAD = {
    "bash": "source <(pictofs --show-completion bash)",
    "zsh": "autoload -Uz compinit; compinit -u -D; source <(pictofs --show-completion zsh)",
    "fish": "pictofs --show-completion fish | source",
}


class Terminal:
    """A shell with completion; the `pictofs` in it completes, and otherwise says what it was
    given."""

    def __init__(self, shell: str, folder: Path, environ: dict[str, str]) -> None:
        program = folder / "bin/pictofs"
        program.parent.mkdir()
        program.write_text(
            f"#!{sys.executable}\nimport json, os, sys\n"
            "if '_PICTOFS_COMPLETE' in os.environ or '--show-completion' in sys.argv:\n"
            "    from pictofs.cli import main\n    sys.exit(main())\n"
            "print('GOT', json.dumps(sys.argv[1:]), 'TOG')\n"
        )
        program.chmod(0o755)
        master, slave = pty.openpty()
        self._terminal = master
        self._process = subprocess.Popen(
            ["setsid", "--ctty", *START[shell]],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=folder,
            env={
                **environ,
                "PATH": f"{program.parent}:{os.environ['PATH']}",
                "TERM": "dumb",
                "COLUMNS": "200",
            },
        )
        os.close(slave)
        self._type(LOAD[shell] + "\n")
        self.given("pictofs loaded\n")

    def given(self, keys: str) -> list[str]:
        """What the command gets, after these keys."""
        self._type(keys)
        said, end = "", time.monotonic() + 30
        while not (found := re.search(r"GOT (.*?) TOG", said, re.DOTALL)):
            assert time.monotonic() < end, said
            if select.select([self._terminal], [], [], 1)[0]:
                said += os.read(self._terminal, 65536).decode()
        words: list[str] = json.loads(found.group(1).replace("\r", "").replace("\n", ""))
        return words

    def _type(self, keys: str) -> None:
        os.write(self._terminal, keys.encode())

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._terminal)


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    """What must not come to be: it would say that a dataset's name was run as a command."""
    return tmp_path / "evil"


@pytest.fixture
def mount(mounted: Mounting, serving: Serving, evil: Path) -> Mount:
    names = (
        "aerial tiles",
        "aerials\\$(touch evil)",
        "aerials`touch evil`",
        "street-signs",
        "Straße",
    )
    (evil.parent / "home").mkdir()
    (evil.parent / "home/.pictograph").mkdir()
    profiles = evil.parent / "home/.pictograph/config.toml"
    profiles.write_text('[laboratory]\napi_key = "x"\n[default]\napi_key = "x"\n')
    profiles.chmod(0o600)
    return mounted(serving(Spec(tuple(DatasetSpec(name, images=1) for name in names))), home="home")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_terminal(shell: str, mount: Mount, tmp_path: Path, evil: Path) -> None:
    if not shutil.which(shell):
        pytest.skip(f"needs {shell}")
    terminal = Terminal(shell, tmp_path, mount.environ)

    try:
        assert terminal.given("pictofs unmo\t\n") == ["unmount"]
        assert terminal.given("pictofs dataset sh\t\n") == ["dataset", "show"]
        assert terminal.given("pictofs mount --log-level de\t\n") == [
            "mount",
            "--log-level",
            "debug",
        ]
        assert terminal.given("pictofs mount --profile lab\t\n") == [
            "mount",
            "--profile",
            "laboratory",
        ]
        assert terminal.given(f"pictofs unmount {mount.root.parent}/\t\n") == [
            "unmount",
            str(mount.root),
        ]
        assert terminal.given("pictofs dataset show str\t\n") == ["dataset", "show", "street-signs"]
        assert terminal.given("pictofs dataset show aer\t\n") == ["dataset", "show", "aerial tiles"]
        assert terminal.given("pictofs dataset show Str\t\n") == ["dataset", "show", "Straße"]
        assert not evil.exists()
    finally:
        terminal.close()


def test_a_mount_that_is_gone_offers_nothing(mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    mount.kill()
    (gone,) = (each for each in mount_table.all_mounts() if each.path == mount.root)
    monkeypatch.setattr(mount_table, "all_mounts", lambda: [gone])
    assert completion.datasets("street") == []
    assert str(mount.root) in completion.mount_points("/")


def test_profiles_that_can_not_be_read_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert completion.profiles("") == []
    (tmp_path / ".pictograph").mkdir()
    (tmp_path / ".pictograph/config.toml").write_text("= nonsense")
    assert completion.profiles("") == []
