"""`pictofs doctor`: what it finds, what it says to do, and that it neither hangs nor gives the key
away."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from mounting import (
    Mounting,
    Serving,
    Spent,
    eventually,
    files_below,
    inherited,
    needs_mount_namespace,
)
from starting import run_pictofs

from pictofs import programs
from pictofs.app import probe
from standin import Spec, StandIn
from standin.exchange import Exchange
from standin.faults import Fault, Hang, Match, error, html, throttled
from standin.spec import DatasetSpec

SMALL = Spec((DatasetSpec("small", images=30, size=5000, directories=3),))
NOBODY = 65534
AS_NOBODY = (
    *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
    # Only so that the interpreter can be read, wherever it lies.
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
)
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")


class Doctor:
    """Runs `pictofs doctor` with a home folder, a cache and a folder to mount on of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.place = folder / "mnt"
        self.place.mkdir()
        self.cache = folder / "cache"
        self.environ = {
            **inherited(),
            "HOME": str(folder),
            "XDG_RUNTIME_DIR": "",
            "NO_PROXY": "127.0.0.1",
            "PICTOFS_CACHE_DIR": str(self.cache),
        }
        self.code = -1
        self.out = ""

    def of(self, server: StandIn, role: str = "viewer") -> Doctor:
        """With the key and the URL of a stand-in."""
        self.environ |= {
            "PICTOGRAPH_BASE_URL": server.api_url,
            "PICTOGRAPH_API_KEY": server.keys[role],
        }
        return self

    def text(self, *arguments: str | Path, around: tuple[str, ...] = ()) -> str:
        """What it prints for people, about `self.place` alone."""
        command = ["doctor", self.place, *arguments]

        if around:
            outer = [*around, sys.executable, "-m", "pictofs", *map(str, command)]
            done = subprocess.run(
                outer,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=100,
            )
        else:
            done = run_pictofs(*command, env=self.environ, text=True)

        assert done.stderr == ""
        assert self.environ.get("PICTOGRAPH_API_KEY", "a secret") not in done.stdout

        self.code, self.out = done.returncode, done.stdout
        return done.stdout

    def __call__(
        self, *arguments: str | Path, around: tuple[str, ...] = ()
    ) -> dict[str, dict[str, Any]]:
        """Its findings by the name of the check, the worst of each."""
        findings = json.loads(self.text("--json", *arguments, around=around))
        worst = sorted(findings, key=lambda each: ["ok", "warn", "fail"].index(each["outcome"]))
        assert self.code == int(any(each["outcome"] == "fail" for each in findings))
        return {each["check"]: each for each in worst}


@pytest.fixture
def doctor(tmp_path: Path) -> Doctor:
    return Doctor(tmp_path)


def outcomes(found: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: each["outcome"] for name, each in found.items()}


@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs /dev/fuse")
def test_j2_a_sound_machine(doctor: Doctor, serving: Serving) -> None:
    server = serving(SMALL)
    spent = Spent(server)
    found = doctor.of(server)()

    assert {name for name, outcome in outcomes(found).items() if outcome != "ok"} <= {
        "disk",
        "updatedb",
    }  # it may be full
    assert doctor.code == 0
    assert len(spent.all) == found["API"]["requests"] == 1
    assert "takes the key and sees 1 dataset" in found["API"]["message"]
    assert found["key"]["message"] == "found: PICTOGRAPH_API_KEY"
    assert found["budget"]["message"] == "99,999 of 100,000 requests left"
    assert list(doctor.folder.iterdir()) == [doctor.place]  # nothing was made


def test_lines_for_people(doctor: Doctor) -> None:
    lines = doctor.text().splitlines()
    (at,) = (number for number, line in enumerate(lines) if line.startswith("fail key"))
    assert lines[at] == "fail key           no API key"
    assert lines[at + 1].strip() == (
        "-> run `pictofs login`, set PICTOGRAPH_API_KEY, or name a file by --api-key-file"
    )
    assert lines[-1].endswith(" failed; 0 API requests")
    assert doctor.code == 1


def test_j2_without_a_key_nobody_is_asked(doctor: Doctor, serving: Serving) -> None:
    server = serving(SMALL)
    doctor.of(server).environ.pop("PICTOGRAPH_API_KEY")
    spent = Spent(server)
    found = doctor()
    assert found["key"]["outcome"] == "fail"
    assert found["API"]["outcome"] == "warn"
    assert spent.all == []


@pytest.mark.parametrize(
    ("fault", "outcome", "message", "advice"),
    [
        (error(401, "unauthorized"), "fail", "refuses the key", "make a new key on the platform"),
        (error(403, "forbidden"), "fail", "forbids this key", "viewer"),
        (error(503), "fail", "HTTP 503", "try again later"),
        (throttled(900), "warn", "the request budget is spent", None),
        (html(), "fail", "in place of JSON", "login page"),
        (Hang(), "fail", "no answer in time", "proxy"),
    ],
    ids=["401", "403", "503", "429", "captive portal", "silence"],
)
def test_j2_a_server_that_does_not_work(
    doctor: Doctor, serving: Serving, fault: Any, outcome: str, message: str, advice: str | None
) -> None:
    server = serving(SMALL)
    server.faults.add(Fault(Match(), fault))
    spent = Spent(server)
    found = doctor.of(server)()["API"]
    assert found["outcome"] == outcome
    assert message in found["message"]
    assert (found["advice"] is None) if advice is None else (advice in found["advice"])
    assert len(spent.all) == 1


def test_nobody_listens(doctor: Doctor, serving: Serving) -> None:
    doctor.environ |= {
        "PICTOGRAPH_BASE_URL": "http://127.0.0.1:1",
        "PICTOGRAPH_API_KEY": "pk_live_x",
    }
    found = doctor()
    assert found["API"]["outcome"] == "fail"
    assert "can't be reached" in found["API"]["message"]
    assert "clock" not in found


def test_a_name_that_does_not_resolve(doctor: Doctor) -> None:
    doctor.environ |= {
        "PICTOGRAPH_BASE_URL": "https://no.invalid",
        "PICTOGRAPH_API_KEY": "pk_live_x",
    }
    assert doctor()["API"]["outcome"] == "fail"


class At:
    """An answer at another time."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def __call__(self, exchange: Exchange) -> None:
        answer = await exchange.collect()
        answer.set_header(b"date", formatdate(time.time() + self._seconds, usegmt=True).encode())
        await exchange.answer(answer)


@pytest.mark.parametrize(
    ("ahead", "outcome", "message"),
    [
        (0, "ok", "server's"),
        (3600, "warn", "s behind the server's"),
        (-3600, "warn", "s ahead of the server's"),
    ],
)
def test_j2_clocks(
    doctor: Doctor, serving: Serving, ahead: float, outcome: str, message: str
) -> None:
    server = serving(SMALL)
    server.faults.add(Fault(Match(), At(ahead)))
    found = doctor.of(server)()["clock"]
    assert (found["outcome"], message in found["message"]) == (outcome, True)


def test_a_spent_budget(doctor: Doctor, serving: Serving) -> None:
    found = doctor.of(serving(SMALL, hourly_limit=40))()["budget"]
    assert found["outcome"] == "warn"
    assert found["message"].startswith("39 of 40 requests left: nothing is fetched ahead before ")


def test_keys_and_their_files(doctor: Doctor, serving: Serving) -> None:
    server = serving(SMALL)
    file = doctor.folder / "key"
    file.write_text(server.keys["viewer"])
    file.chmod(0o644)
    doctor.environ["PICTOGRAPH_BASE_URL"] = server.api_url
    found = doctor("--api-key-file", file)

    assert found["key"]["outcome"] == "warn"
    assert found["key"]["advice"] == f"chmod 600 {file}"
    assert found["API"]["outcome"] == "ok"

    doctor.environ["PICTOGRAPH_API_KEY"] = "copied-badly"

    assert "keys begin with pk_" in doctor()["key"]["message"]

    doctor.environ["PICTOGRAPH_API_KEY"] = "pk_live_ä"

    assert "non-ASCII" in doctor()["API"]["message"]

    found = doctor("--base-url", "http://example.org")

    assert found["settings"]["outcome"] == "fail"


def test_a_cache_with_damage_and_litter(
    doctor: Doctor, mounted: Mounting, serving: Serving
) -> None:
    mount = mounted(serving(SMALL), cache=doctor.cache)
    files_below(mount.datasets)
    doctor.environ |= {
        name: mount.environ[name] for name in ("PICTOGRAPH_BASE_URL", "PICTOGRAPH_API_KEY")
    }

    assert doctor()["contents"]["outcome"] == "ok"

    blobs = [path for path in doctor.cache.glob("content/??/*") if "~" not in path.name]

    assert len(blobs) == 60

    for blob in blobs:
        blob.write_bytes(blob.read_bytes()[:-40] + b"x" * 40)
    litter = doctor.cache / "content/00/aa~bb"
    litter.parent.mkdir(exist_ok=True)
    litter.touch()
    os.utime(litter, (0, 0))
    (doctor.cache / "catalog/x.db.broken-1").touch()
    found = doctor()

    assert found["contents"]["message"].startswith("50 files looked at, 50 damaged;")
    assert found["contents"]["advice"] == "pictofs cache verify"
    assert found["catalog"]["outcome"] == "warn"
    assert len(list(doctor.cache.glob("content/??/*"))) == 61  # it looked, and no more


def test_room(doctor: Doctor) -> None:
    found = doctor("--min-free", "99.9%")
    assert found["disk"]["outcome"] == "warn"
    assert "smaller --min-free" in found["disk"]["advice"]
    doctor.cache.write_text("a file")
    assert doctor()["cache"]["outcome"] == "fail"


def test_a_full_disk_fails(doctor: Doctor, small_disk: Path) -> None:
    with open(small_disk / "large", "wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))

    found = doctor("--cache-dir", small_disk)

    assert found["disk"]["outcome"] == "fail"
    assert found["disk"]["message"] == f"the disk of {small_disk} is full"
    assert found["disk"]["advice"] == "make room on it, or name another folder by --cache-dir"


def test_j8_the_cache_of_a_live_mount_is_looked_at(
    doctor: Doctor, mounted: Mounting, serving: Serving
) -> None:
    server = serving(SMALL)
    mount = mounted(server, "--cache-size", "40MB", cache=doctor.folder / "its cache")
    doctor.of(server).place = mount.root

    found = doctor()

    assert found["cache"]["message"].startswith(f"{mount.cache} ")
    assert " of 40 MB (--cache-size)" in found["cache size"]["message"]
    assert str(doctor.cache) in doctor("--cache-dir", doctor.cache)["cache"]["message"]

    moved = mount.cache.rename(doctor.folder / "moved")
    found = doctor()
    moved.rename(mount.cache)

    assert found["cache"]["outcome"] == "fail"
    assert found["cache"]["message"] == f"{mount.cache}, the cache of {mount.root}, is gone"
    assert found["cache"]["advice"] == f"pictofs unmount {mount.root}, and mount it again"


@root_only
def test_j8_another_s_mount_needs_nothing_of_one_s_own(
    doctor: Doctor, mounted: Mounting, serving: Serving
) -> None:
    mount = mounted(serving(SMALL), "--allow-other")
    doctor.place = mount.root

    found = doctor(around=AS_NOBODY)

    assert doctor.code == 0
    assert set(found) == {"checks", "mount"}
    assert found["mount"]["message"] == f"{mount.root}: live"
    assert found["checks"]["message"].startswith(f"{mount.root} is root's mount: ")


def test_j2_mounts(doctor: Doctor, mounted: Mounting, serving: Serving) -> None:
    mount = mounted(serving(SMALL))
    doctor.place = mount.root

    assert doctor()["mount"]["message"] == f"{mount.root}: live"

    os.kill(mount.pid, signal.SIGSTOP)

    try:
        found = doctor()["mount"]
    finally:
        os.kill(mount.pid, signal.SIGCONT)

    assert found["outcome"] == "fail"
    assert found["message"] == f"{mount.root}: its process {mount.pid} is stopped"
    assert found["advice"] == f"kill -CONT {mount.pid}, or pictofs unmount --lazy {mount.root}"

    eventually(lambda: probe.state_of(mount.root), "live")
    mount.kill()
    found = doctor()["mount"]

    assert (found["outcome"], found["advice"]) == (
        "fail",
        f"pictofs unmount {mount.root}, or mount it again",
    )

    mount.discard()

    assert doctor()["mount point"]["outcome"] == "ok"

    (mount.root / "file").touch()

    assert doctor()["mount point"]["outcome"] == "fail"


@root_only
def test_j2_as_another_user(doctor: Doctor, serving: Serving) -> None:
    found = doctor.of(serving(SMALL))(around=AS_NOBODY)
    assert found["rights"]["message"] == f"user {NOBODY}, mounts by fusermount3"
    assert found["fusermount3"]["outcome"] == "ok"
    assert found["API"]["outcome"] == "ok"
    assert (found["cache"]["outcome"], found["cache"]["advice"]) == (
        "fail",
        "name another folder by --cache-dir",
    )
    assert found["mount point"]["outcome"] == "fail"  # it is not theirs

    found = doctor(around=(*AS_NOBODY, "--no-new-privs"))

    assert "no_new_privs" in found["rights"]["message"]


@root_only
@needs_mount_namespace
def test_j2_in_a_container_without_fuse(doctor: Doctor) -> None:
    hidden = (
        "unshare",
        "--mount",
        "sh",
        "-c",
        'mount -t tmpfs none /dev; mknod -m 666 /dev/null c 1 3; exec "$@"',
        "-",
    )
    found = doctor(around=hidden)

    assert found["/dev/fuse"]["message"] == "it does not exist"
    assert "--device /dev/fuse" in found["/dev/fuse"]["advice"]

    found = doctor(around=("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"))

    assert found["rights"]["outcome"] == "fail"
    assert "--cap-add SYS_ADMIN" in found["rights"]["advice"]


@root_only
@needs_mount_namespace
def test_without_fusermount3(doctor: Doctor) -> None:
    helper = programs.which("fusermount3")
    if helper is None:
        pytest.skip("there is none anyway")
    hidden = ("unshare", "--mount", "sh", "-c", f'mount --bind /dev/null {helper}; exec "$@"', "-")
    assert doctor(around=hidden)["fusermount3"]["outcome"] == "warn"


@root_only
def test_j2_a_cache_on_a_disk_that_hangs(
    doctor: Doctor, mounted: Mounting, serving: Serving
) -> None:
    # A mount whose process is stopped hangs whoever touches it, as a dead NFS server does.
    server = serving(SMALL)
    mount = mounted(server)
    doctor.cache = mount.datasets / "small"
    doctor.of(server).environ["PICTOFS_CACHE_DIR"] = str(doctor.cache)
    os.kill(mount.pid, signal.SIGSTOP)

    try:
        found = doctor()
    finally:
        os.kill(mount.pid, signal.SIGCONT)

    assert found["cache"]["outcome"] == "fail"
    assert found["cache"]["message"].startswith("no answer within")

    with suppress(OSError):
        os.listdir(mount.datasets)


def test_j5_the_contract_is_compared_when_that_is_asked_for(
    serving: Serving, tmp_path: Path
) -> None:
    server = serving(SMALL, bytes_by_id=404)
    doctor = Doctor(tmp_path).of(server)
    assert "GET /images/{image}: answers 404" not in doctor.text()
    assert "GET /images/{image}: answers 404" in doctor.text("--contract")
    assert doctor.code == 0


def test_l6_what_mounts_have_found_out_is_told(
    serving: Serving, mounted: Mounting, tmp_path: Path
) -> None:
    server = serving(SMALL, embedded_listing="absent")
    doctor = Doctor(tmp_path).of(server)
    assert "differs" not in doctor.text()
    mount = mounted(server, cache=doctor.cache)
    mount.expected.append("this server differs: GET /images/ lists images")
    assert len(list((mount.datasets / "small/images/part-000").iterdir())) == 10
    assert mount.status()["server"]["listing"] == "pages"
    assert "differs: GET /images/ lists images" in doctor.text()


def test_fusermount3_out_of_path_is_found(doctor: Doctor) -> None:
    doctor.environ["PATH"] = str(doctor.folder)
    assert doctor()["fusermount3"]["outcome"] == "ok"


@root_only
@needs_mount_namespace
@pytest.mark.parametrize(
    ("line", "outcome"),
    [
        ('PRUNEFS = "NFS proc fuse.pictofs"', "ok"),
        ('PRUNEFS="NFS proc fuse"', "warn"),
        ('# PRUNEFS="fuse.pictofs"', "warn"),
        ("", "warn"),
    ],
)
def test_j2_crawlers(doctor: Doctor, line: str, outcome: str) -> None:
    """updatedb would list every mount of the machine once a day."""
    (doctor.folder / "updatedb.conf").write_text(f"{line}\n")
    script = (
        "mkdir upper work; mount -t tmpfs none work; mkdir work/upper work/work; "
        "mount -t overlay overlay -o lowerdir=/etc,upperdir=work/upper,workdir=work/work /etc; "
        'cp updatedb.conf /etc/updatedb.conf; exec "$@"'
    )
    around = ("unshare", "--mount", "sh", "-e", "-c", f"cd {doctor.folder}; {script}", "-")
    found = doctor(around=around)["updatedb"]

    assert found["outcome"] == outcome
    assert outcome == "ok" or "PRUNEFS" in found["advice"]
