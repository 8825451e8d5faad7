"""`--shared`: two nodes on one machine, and URLs whose password is never shown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from mounting import Mounting, Serving, files_below, inherited
from shared_rig import Engine, engine, free_port

from pictofs.config import LibrarySettings, resolve
from pictofs.errors import Invalid
from standin import PRESETS, StandIn

PASSWORD = "5ecret-of-the-engine"
URL = f"rediss://nodes:{PASSWORD}@engine.example:7000/3"
needs_fuse = pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs /dev/fuse")


def settings(environ: dict[str, str] | None = None, **given: str) -> LibrarySettings:
    return LibrarySettings(**resolve(LibrarySettings, given, environ or {}))


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Engine]:
    (tmp_path / "engine").mkdir()
    with engine(tmp_path / "engine") as made:
        yield made


def test_z7_a_password_is_refused_as_an_argument_and_not_shown() -> None:
    with pytest.raises(Invalid, match="every user of this machine can read an argument") as caught:
        settings(shared=URL)
    assert PASSWORD not in str(caught.value)


def test_z7_a_password_is_taken_from_the_variable_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text(URL + "\n")
    for found in (
        settings({"PICTOFS_SHARED": URL}),
        settings(shared_file=str(file)),
        settings({"PICTOFS_SHARED_FILE": str(file)}),
    ):
        assert found.engine is not None
        assert found.engine.password == PASSWORD
        assert str(found.engine) == "rediss://engine.example:7000/3"
        assert PASSWORD not in repr(found)


def test_z7_an_option_goes_before_its_variable() -> None:
    found = settings({"PICTOFS_SHARED": URL}, shared="redis://other:1/0")
    assert str(found.engine) == "redis://other:1/0"


def test_two_engines_are_one_too_many(tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text(URL)
    with pytest.raises(Invalid, match="two URLs"):
        settings({"PICTOFS_SHARED": URL}, shared_file=str(file))


def test_a_file_without_a_url_is_named(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="can't read the URL of the shared engine from"):
        settings(shared_file=str(tmp_path / "none"))


def test_without_the_option_nothing_of_it_is_imported() -> None:
    program = (
        "import sys, pictofs.cli.mount, pictofs.app.mount, pictofs.cli.download\n"
        "print({'coredis', 'cryptography.hazmat', 'pictofs.store.shared.engine'} & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("command", ["mount", "download"])
def test_without_the_extra_one_line_says_what_to_install(command: str, tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "import importlib.util\n"
        "real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name == 'coredis' else real(name, *a)\n"
        "from pictofs.cli import main\n"
        "sys.exit(main())\n"
    )
    folder = tmp_path / "mnt"
    folder.mkdir()
    arguments = [str(folder)] if command == "mount" else ["name", str(folder)]
    done = subprocess.run(
        [sys.executable, "-c", program, command, *arguments, "--shared", "redis://localhost"],
        env={
            **inherited(),
            "HOME": str(tmp_path),
            "PICTOGRAPH_API_KEY": "pk_live_of-the-tests",
            "PICTOGRAPH_BASE_URL": f"http://127.0.0.1:{free_port()}",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == Invalid.exit_code
    assert "sharing among nodes needs coredis" in done.stderr
    assert "pip install 'pictofs[cluster]'" in done.stderr
    assert "Traceback" not in done.stderr


def asked(server: StandIn) -> Counter[str]:
    return Counter(f"{each.method} {each.route}" for each in server.log.requests("api"))


@needs_fuse
def test_z1_two_nodes_on_one_machine_and_a_download(
    redis: Engine, mounted: Mounting, serving: Serving, tmp_path: Path
) -> None:
    server = serving(PRESETS["small"]())
    options = ("--shared", str(redis.address))
    first = mounted(server, *options)
    found = files_below(first.datasets / "small")
    server.log.clear()

    second = mounted(server, *options)
    assert files_below(second.datasets / "small") == found
    # All of it is shared, but where the machine is so busy that a node leaves the engine alone.
    assert asked(server).total() < 18

    shared = second.status()["shared"]
    assert shared["hits"] > 0
    assert shared["engine"] == str(redis.address)
    assert second.status()["annotations"]["from"]["shared"] > 0
    metrics = (second.root / ".pictofs/metrics").read_text()
    point = f'mountpoint="{second.root}"'
    assert f"pictofs_shared_engine_available{{{point}}}" in metrics
    assert "pictofs_shared_call_duration_seconds_bucket" in metrics

    said = subprocess.run(
        [sys.executable, "-m", "pictofs", "status", str(second.root)],
        env=second.environ,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "shared engine" in said
    assert "from other nodes" in " ".join(said.split())

    server.log.clear()
    folder = tmp_path / "copy"
    environ = {**second.environ, "PICTOFS_CACHE_DIR": str(tmp_path / "third")}
    subprocess.run(
        [sys.executable, "-m", "pictofs", "download", "small", str(folder), *options],
        env=environ,
        check=True,
        capture_output=True,
    )
    assert asked(server).total() < 18


@needs_fuse
def test_o5_offline_asks_no_engine(mounted: Mounting, serving: Serving) -> None:
    server = serving(PRESETS["small"]())
    first = mounted(server, home="one")
    found = files_below(first.datasets)
    first.unmount()
    url = f"redis://127.0.0.1:{free_port()}"
    mount = mounted(server, "--offline", "--shared", url, home="one")
    assert files_below(mount.datasets) == found
    assert mount.status()["shared"] is None


def test_doctor_looks_at_the_engine(redis: Engine, tmp_path: Path) -> None:
    with StandIn(PRESETS["small"]()) as server:
        environ = {
            **inherited(),
            "HOME": str(tmp_path),
            "PICTOGRAPH_API_KEY": server.keys["viewer"],
            "PICTOGRAPH_BASE_URL": server.api_url,
        }

        def found(url: str) -> list[tuple[str, str]]:
            command = [sys.executable, "-m", "pictofs", "doctor", "--json", "--shared", url]
            done = subprocess.run(command, env=environ, capture_output=True, text=True)
            lines = json.loads(done.stdout)
            return [
                (each["outcome"], each["message"])
                for each in lines
                if each["check"] == "shared engine"
            ]

        answers, plain, policy, bound = found(str(redis.address))
        assert answers[0] == "ok"
        assert "answers (redis" in answers[1]
        assert plain == ("ok", "without TLS: records are sealed all the same")
        assert policy[0] == bound[0] == "warn"
        assert "noeviction" in policy[1]

        ((outcome, message),) = found(f"redis://127.0.0.1:{free_port()}")
        assert outcome == "fail"
        assert "can't be used" in message
