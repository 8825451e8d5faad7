"""`with pictofs.mounted() as root` on real mounts of the stand-in."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from mounting import Hold

import pictofs
from pictofs.app import mount_table, mounting
from pictofs.errors import Conflict, Invalid, NoSuchEntry, Unauthorized
from standin import PRESETS, StandIn
from standin.faults import Fault, Match

pytestmark = pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs /dev/fuse")


@pytest.fixture(scope="module")
def server() -> Iterator[StandIn]:
    with StandIn(PRESETS["small"]()) as running:
        yield running


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: StandIn) -> Iterator[Path]:
    """A home folder of its own, with a key; nothing is left mounted or lying about."""
    for name in list(os.environ):
        if name.upper().startswith(("PICTO", "XDG_")):
            monkeypatch.delenv(name)

    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("PICTOGRAPH_BASE_URL", server.api_url)
    monkeypatch.setenv("PICTOGRAPH_API_KEY", server.keys["viewer"])
    yield tmp_path
    left = [mount.path for mount in mount_table.all_mounts() if mount.path.is_relative_to(tmp_path)]
    for path in left:
        mounting.detach(path, lazy=True)

    assert left == []
    assert list(temporary.iterdir()) == []


def names(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "datasets").iterdir())


def test_m4_a_block(home: Path) -> None:
    with pictofs.mounted() as root:
        assert isinstance(root, Path)
        assert root.is_relative_to(home / "tmp")
        assert names(root) == ["small"]
        assert len(list((root / "datasets/small/images").rglob("*.jpg"))) > 0
    assert not root.exists()


def test_m4_a_place_of_ones_own(
    home: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PICTOGRAPH_BASE_URL")
    (home / "picto").mkdir()
    with pictofs.mounted(server.api_url, mountpoint="~/picto") as root:
        assert root == home / "picto"
        assert names(root) == ["small"]
    assert list((home / "picto").iterdir()) == []


def test_m4_after_an_exception_nothing_is_mounted() -> None:
    def fail() -> None:
        with pictofs.mounted() as root:
            seen.append(root)
            raise ZeroDivisionError

    seen: list[Path] = []
    with pytest.raises(ZeroDivisionError):
        fail()
    assert not seen[0].exists()


def test_m4_what_is_in_use_is_unmounted_lazily() -> None:
    with pictofs.mounted() as root:
        image = next((root / "datasets/small/images").rglob("*.jpg"))
        reading = image.open("rb")
    with reading:
        assert mount_table.mount_at(root) is None
        assert not root.exists()


def test_m4_who_unmounts_before_does_no_harm() -> None:
    with pictofs.mounted() as root:
        mounting.unmount(root)
    assert not root.exists()


def test_two_at_once_within_an_event_loop() -> None:
    """As in a notebook, whose cells run within a loop."""

    async def cell() -> list[str]:
        with pictofs.mounted() as first, pictofs.mounted() as second:
            assert first != second
            return await asyncio.to_thread(lambda: names(first) + names(second))

    assert asyncio.run(cell()) == ["small", "small"]


def test_settings_by_name(home: Path) -> None:
    with pictofs.mounted(
        cache_dir=home / "elsewhere",
        cache_size="20MB",
        metadata_ttl=5,
        umask=0o077,
        offline=False,
        prefetch=None,
    ) as root:
        assert (home / "elsewhere/catalog").is_dir()
        assert root.joinpath("datasets").stat().st_mode & 0o777 == 0o700
        assert names(root) == ["small"]


def test_keys_of_files_and_profiles(
    home: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PICTOGRAPH_API_KEY")
    key = server.keys["viewer"]
    (home / "key").write_text(key)
    (home / "key").chmod(0o644)

    with (
        pytest.warns(UserWarning, match="holds a key and is open to other users"),
        pictofs.mounted(api_key_file="~/key") as root,
    ):
        assert names(root) == ["small"]

    (home / ".pictograph").mkdir()
    (home / ".pictograph/config.toml").write_text(
        f'[lab]\napi_key = "{key}"\nbase_url = "{server.api_url}"\n'
    )
    (home / ".pictograph/config.toml").chmod(0o600)
    with pictofs.mounted(profile="lab") as root:
        assert names(root) == ["small"]


def test_what_is_wrong_is_said_in_the_words_of_the_command(
    home: Path, monkeypatch: pytest.MonkeyPatch, server: StandIn
) -> None:
    with pytest.raises(NoSuchEntry, match=r"^.*/nowhere does not exist; create it by `mkdir -p"):
        pictofs.mounted(mountpoint=home / "nowhere").__enter__()
    with pytest.raises(Conflict, match="is not empty"):
        pictofs.mounted(mountpoint=home).__enter__()
    with pytest.raises(Invalid, match=r"^--cache-size: 'much' won't do: write a size"):
        pictofs.mounted(cache_size="much").__enter__()
    monkeypatch.setenv("PICTOGRAPH_API_KEY", "pk_live_" + "0" * 64)
    with pytest.raises(Unauthorized, match="key") as caught:
        pictofs.mounted().__enter__()

    assert caught.value.exit_code == 2

    monkeypatch.delenv("PICTOGRAPH_API_KEY")
    with pytest.raises(Unauthorized, match=r"^no API key; run `pictofs login`"):
        pictofs.mounted().__enter__()


def test_settings_that_there_are_not() -> None:
    for wrong, words in (
        ({"cache": "1GB"}, "'cache' is no setting of a mount; there is: base_url, timeout"),
        ({"api_key": "x"}, "A key belongs in PICTOGRAPH_API_KEY, a profile or a file"),
        ({"foreground": True}, "'foreground' is no setting"),
        ({"fuse_fd": 5}, "'fuse_fd' is no setting"),
        ({"offline": "yes"}, "offline is True or False, not 'yes'"),
    ):
        with pytest.raises(TypeError, match=words):
            pictofs.mounted(**wrong).__enter__()  # type: ignore[arg-type]


def test_a_block_that_is_left_open_ends_with_its_process() -> None:
    program = "import pictofs; block = pictofs.mounted(); print(block.__enter__())"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not Path(done.stdout.strip()).exists()


def test_an_interruption_while_it_mounts_leaves_nothing(server: StandIn) -> None:
    """As a notebook interrupts a cell: its process alone gets the signal."""
    hold = Hold()
    server.faults.add(Fault(on=Match(path="/datasets/"), do=hold))

    try:
        program = "import pictofs; pictofs.mounted().__enter__()"
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

        assert hold.waiting.wait(30)

        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        hold.open()
        server.faults.clear()

    assert said.splitlines()[-1] == "KeyboardInterrupt"


def test_importing_is_light() -> None:
    program = "import pictofs, sys; print([name for name in sys.modules if 'pictofs.' in name])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n"
