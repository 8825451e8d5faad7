"""mount(8), umount(8) and fstab(5) on real mounts of the stand-in, with helpers where mount(8)
looks for them.

Each test has a mount namespace of its own, in which /usr/sbin is a copy that holds the helper.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from mounting import eventually, inherited, needs_mount_namespace

from pictofs.cli import fstab
from pictofs.config import MountSettings, declared
from pictofs.errors import Invalid
from standin import PRESETS, StandIn

SECRET = "pk_live_" + "5ec2e7" * 10
needs_root = pytest.mark.skipif(
    not os.path.exists("/dev/fuse") or os.geteuid() != 0,
    reason="needs root and /dev/fuse",
)


@pytest.fixture(scope="module")
def server() -> Iterator[StandIn]:
    with StandIn(PRESETS["small"]()) as running:
        yield running


class Machine:
    """A machine with pictofs in /usr/local/sbin (mount.fuse has a PATH of its own) and, where
    wanted, helpers."""

    def __init__(self, folder: Path, server: StandIn, *helpers: str) -> None:
        self.root = folder
        self.key = folder / "key"
        self.key.write_text(server.keys["viewer"])
        self.key.chmod(0o600)
        self.place = folder / "a b"
        self.place.mkdir()
        for name in ("bin", "sbin", "own"):
            (folder / name).mkdir()
        for name, entry in (("pictofs", "pictofs.cli"), ("mount.pictofs", "pictofs.cli.fstab")):
            program = folder / "bin" / name
            program.write_text(
                f"#!{sys.executable}\nimport sys\nfrom {entry} import main\nsys.exit(main())\n"
            )
            program.chmod(0o755)

        self.helpers = helpers
        self.options = f"base_url={server.api_url},api_key_file={self.key},cache_dir={folder}/cache"
        self.environ = {
            **inherited(),
            "HOME": str(folder),
            "XDG_RUNTIME_DIR": "",
            "NO_PROXY": "127.0.0.1",
            "PLACE": str(self.place),
        }

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run a script there. It unmounts what it mounts: a mount's process keeps its namespace
        alive."""
        links = "".join(
            f"ln -sf {self.root}/bin/mount.pictofs sbin/{name}\n" for name in self.helpers
        )
        setup = (
            f"set -e; cd {shlex.quote(str(self.root))}\n"
            f"mount --bind /usr/sbin own; for each in own/*; do ln -sf $PWD/$each sbin/; done\n"
            f"{links}mount --bind sbin /usr/sbin; mount --bind bin /usr/local/sbin\n"
        )
        return subprocess.run(
            ["unshare", "--mount", "bash", "-c", setup + script],
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=100,
        )

    def fails(self, code: int, script: str) -> str:
        """What a failing script writes."""
        done = self.run(script)
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("error: ") == 1
        return done.stderr


def processes_of(place: Path) -> int:
    """How many processes have the mount point in their command line."""
    found = 0
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            found += os.fsencode(place) in entry.read_bytes().split(b"\0")
    return found


Machines = Callable[..., Machine]


@pytest.fixture
def machine(tmp_path: Path, server: StandIn) -> Machines:
    return lambda *helpers: Machine(tmp_path, server, *helpers)


@needs_root
@needs_mount_namespace
@pytest.mark.parametrize(
    ("kind", "helpers"),
    [
        ("pictofs", ["mount.pictofs"]),
        ("fuse.pictofs", ["mount.fuse.pictofs"]),
        ("fuse.pictofs", []),  # by /sbin/mount.fuse
    ],
)
def test_mount_and_umount(machine: Machines, kind: str, helpers: list[str]) -> None:
    here = machine(*helpers)
    done = here.run(
        f'mount -t {kind} pictofs "$PLACE" -o {here.options},umask=077,_netdev\n'
        'ls "$PLACE/datasets"; stat -c %a "$PLACE"; findmnt -n -o SOURCE,FSTYPE "$PLACE"\n'
        'umount "$PLACE"; ls -A "$PLACE"\n'
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["small", "700", "pictofs", "fuse.pictofs"]
    eventually(lambda: processes_of(here.place), 0)


@needs_root
@needs_mount_namespace
@pytest.mark.parametrize("kind", ["pictofs", "fuse.pictofs"])
def test_fstab(machine: Machines, kind: str) -> None:
    """Mounted once by `mount -a`, however often that is run, and by anybody who names the
    folder."""
    here = machine("mount.pictofs")
    table = here.root / "fstab"
    place = str(here.place).replace(" ", "\\040")
    options = f"defaults,nofail,_netdev,x-systemd.automount,user,allow_other,metadata_ttl=30,{here.options}"
    table.write_text(f"# datasets\npictofs {place} {kind} {options} 0 0\n")
    done = here.run(
        f"mount -a -T {table}; mount -a -T {table}\n"
        'findmnt -n -o FSTYPE "$PLACE"; umount "$PLACE"\n'
        f'mount -T {table} "$PLACE"; ls "$PLACE/datasets"; umount "$PLACE"\n'
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["fuse.pictofs", "small"]


@needs_root
@needs_mount_namespace
def test_what_mount_says_when_it_fails(machine: Machines, server: StandIn) -> None:
    here = machine("mount.pictofs")
    mount = 'mount -t pictofs pictofs "$PLACE" -o'

    assert "there is no option 'cachedir': did you mean cache_dir?" in here.fails(
        1, f"{mount} cachedir=/x"
    )
    assert "there is no option 'foreground'" in here.fails(1, f"{mount} foreground")
    assert "write offline alone, without a value" in here.fails(1, f"{mount} offline=1")
    assert "write umask=..." in here.fails(1, f"{mount} umask")
    assert "--umask: '9' won't do" in here.fails(1, f"{mount} {here.options},umask=9")

    said = here.fails(1, f"{mount} api_key={SECRET}")

    assert "everyone who can read /etc/fstab" in said
    assert "5ec2e7" not in said
    assert "no API key" in here.fails(32, f"{mount} ro")
    assert "write pictofs in the place of 'lab'" in here.fails(1, 'mount -t pictofs lab "$PLACE"')
    assert "write pictofs in the place of 'lab'" in here.fails(
        1, 'mount -t fuse.pictofs lab "$PLACE"'
    )

    here.key.write_text(SECRET)

    assert "the API key from --api-key-file" in here.fails(32, f"{mount} {here.options}")


@needs_root
@needs_mount_namespace
def test_the_flags_of_mount(machine: Machines) -> None:
    here = machine("mount.pictofs")
    done = here.run(
        f'mount -f -t pictofs pictofs "$PLACE" -o {here.options}; ls -A "$PLACE"\n'
        f'mount -s -v -t pictofs pictofs "$PLACE" -o cachedir=/x,{here.options}; ls "$PLACE/datasets"\n'
        'umount "$PLACE"\n'
    )
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "small"
    assert f"is mounted at {here.place}" in done.stdout
    eventually(lambda: processes_of(here.place), 0)


def test_every_setting_is_an_option() -> None:
    for item in declared(MountSettings):
        if item.name in ("foreground", "fuse_fd"):
            continue
        written = item.name if item.parse is None else f"{item.name}=1"
        assert list(fstab._given(f"rw,{written},x-a=b", sloppy=False)) == [item.name]


def test_values_in_quotes_hold_commas() -> None:
    given = fstab._given('rw,cache_dir="/a,b",offline', sloppy=False)
    assert given == {"cache_dir": "/a,b", "offline": True}
    with pytest.raises(Invalid, match="ro and writable exclude"):
        fstab._given("ro,writable", sloppy=False)
    with pytest.raises(Invalid, match="did you mean offline"):
        fstab._given("of_line", sloppy=False)
