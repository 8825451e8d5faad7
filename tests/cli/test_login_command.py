"""`pictofs login`: a key that the server takes, kept where both command lines find it."""

from __future__ import annotations

import importlib
import os
import pty
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from mounting import Serving, Spent, inherited
from starting import Pictofs, run_pictofs

from pictofs.config import find_access, save_profile
from pictofs.errors import Invalid
from standin import Spec, StandIn

Login = Callable[..., subprocess.CompletedProcess[bytes]]
URL = "https://api.pictograph.io"


@pytest.fixture
def server(serving: Serving) -> StandIn:
    return serving(Spec.uniform(images=1, size=10, datasets=3))


@pytest.fixture
def environ(server: StandIn, tmp_path: Path) -> dict[str, str]:
    return {
        **inherited(),
        "HOME": str(tmp_path),
        "NO_PROXY": "127.0.0.1",
        "PICTOGRAPH_BASE_URL": server.api_url,
    }


@pytest.fixture
def login(environ: dict[str, str]) -> Login:
    def run(key: str, *options: str, **more: str) -> subprocess.CompletedProcess[bytes]:
        return run_pictofs("login", *options, env=environ | more, input=key.encode())

    return run


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / ".pictograph/config.toml"


def test_k11_a_key_from_standard_input_is_kept(
    login: Login, server: StandIn, environ: dict[str, str], file: Path
) -> None:
    key = server.keys["viewer"]
    spent = Spent(server)
    done = login(key + "\n")

    assert done.returncode == 0, done.stderr
    assert done.stdout.decode() == (
        f"{server.api_url} takes the key, sees 3 datasets; kept as profile 'default' in {file}\n"
    )
    warning = b"warning: profile 'default' leads to a server on this machine, while that runs"
    assert done.stderr.splitlines() == [warning]
    assert len(spent.all) == 1
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert os.listdir(file.parent) == [file.name]

    # Nothing else is needed from here on.
    del environ["PICTOGRAPH_BASE_URL"]
    assert run_pictofs("dataset", "list", env=environ).returncode == 0


def test_k11_a_key_that_is_typed_is_not_shown(
    server: StandIn, environ: dict[str, str], file: Path
) -> None:
    key = server.keys["viewer"]
    terminal, end = pty.openpty()
    process = Pictofs("login", "--profile", "lab", env=environ, stdin=end, stdout=end, stderr=end)
    os.close(end)

    shown = b""
    while b"API key" not in shown:
        shown += os.read(terminal, 4096)
    os.write(terminal, key.encode() + b"\n")
    try:
        while more := os.read(terminal, 4096):
            shown += more
    except OSError:
        pass  # the other end is closed
    os.close(terminal)

    assert process.wait(30) == 0, shown
    assert b"kept as profile 'lab'" in shown
    assert b"--profile lab" in shown
    assert key.encode() not in shown
    assert key in file.read_text()


def test_k11_a_key_that_is_refused_is_not_kept(login: Login, file: Path) -> None:
    done = login("pk_live_nobody")
    assert done.returncode == 2
    assert b" refused the API key (HTTP 401)" in done.stderr
    assert b"pk_live_nobody" not in done.stderr
    assert not file.exists()


@pytest.mark.parametrize("key", ["", "\n", "two words\n"])
def test_k11_what_is_no_key_costs_no_request(login: Login, server: StandIn, key: str) -> None:
    spent = Spent(server)
    assert login(key).returncode == 6
    assert login("pk", "--profile", "a b").returncode == 6
    assert spent.all == []


def test_k11_a_variable_that_goes_before_the_profile_is_warned_of(
    login: Login, server: StandIn
) -> None:
    done = login(server.keys["viewer"], PICTOGRAPH_API_KEY="pk_other")
    assert done.returncode == 0
    assert b"warning: PICTOGRAPH_API_KEY is set" in done.stderr


def test_k11_other_profiles_are_kept_to_the_letter(tmp_path: Path, file: Path) -> None:
    file.parent.mkdir()
    others = "# mine\n\n[lab]  # of the lab\napi_key = 'a'\nnote = 1\n\n[x.y]\nz = [\n 1,\n]\n"
    file.write_text(
        f"{others}\n[default] # d\nbase_url = 'https://old.example'\nn = 5\napi_key='b'\n"
    )
    save_profile(tmp_path, "default", 'c"\\', URL)
    save_profile(tmp_path, "new", "d", "https://new.example")

    assert file.read_text() == (
        f'{others}\n[default] # d\napi_key = "c\\"\\\\"\nn = 5\n'
        '\n[new]\napi_key = "d"\nbase_url = "https://new.example"\n'
    )


@pytest.mark.parametrize(
    "text",
    ['default.api_key = "a"\n', 'default = {api_key = "a"}\n', '["default"]\n', "[default\n"],
)
def test_k11_a_file_that_is_not_understood_is_left_alone(
    tmp_path: Path, file: Path, text: str
) -> None:
    file.parent.mkdir()
    file.write_text(text)
    with pytest.raises(Invalid, match=r"is not TOML|only you can change"):
        save_profile(tmp_path, "default", "k", URL)
    assert file.read_text() == text
    assert os.listdir(file.parent) == [file.name]


def test_k11_a_line_in_a_text_is_no_table(tmp_path: Path, file: Path) -> None:
    file.parent.mkdir()
    text = 'note = """\n[default]\n"""\n'
    file.write_text(text)
    with pytest.raises(Invalid, match="only you can change"):
        save_profile(tmp_path, "default", "k", URL)
    assert file.read_text() == text


def test_k11_an_open_file_is_closed_and_a_link_stays(tmp_path: Path, file: Path) -> None:
    file.parent.mkdir()
    own = tmp_path / "dotfiles.toml"
    own.write_text("")
    own.chmod(0o644)
    file.symlink_to(own)
    save_profile(tmp_path, "default", "k", URL)
    assert file.is_symlink()
    assert stat.S_IMODE(own.stat().st_mode) == 0o600
    assert find_access(profile=None, key_file=None, environ={}, home=tmp_path).api_key == "k"


def test_k11_the_vendor_reads_it(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_profile(tmp_path, "lab", "pk_live_lab", "https://lab.example")
    vendor = importlib.import_module("pictograph.cli._config")
    monkeypatch.setattr(vendor, "CONFIG_PATH", file)
    found = vendor.load_config("lab")
    assert (found.api_key, found.base_url) == ("pk_live_lab", "https://lab.example")
