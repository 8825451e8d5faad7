"""`pictofs dataset` against the stand-in, with and without a mount, in every role."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pictograph
import pytest
from mounting import (
    Hold,
    Mounting,
    Serving,
    Spent,
    eventually,
    finished_export,
    inherited,
)
from starting import Pictofs, run_pictofs

from standin import Organization, StandIn
from standin.faults import Fault, Match, Mutate, Reset, error
from standin.wire import dataset_row

UUID = "0123abcd-0000-4000-8000-000000000001"


def house() -> Organization:
    organization = Organization(seed="prompt")
    signs = organization.add_dataset("street signs", description="Signs of streets")
    for number in range(12):
        status = "complete" if number < 5 else "new"
        organization.add_image(signs, f"{number}.jpg", "/cam1", size=1000, status=status)
    archived = organization.add_image(signs, "old.jpg", "/cam1", size=1000)
    organization.archive_image(archived)
    organization.add_dataset("ünï 画像\x1b[31m\n2")
    organization.archive_dataset(organization.add_dataset("put away"))
    return organization


@pytest.fixture
def server(serving: Serving) -> StandIn:
    return serving(house())


def environ(server: StandIn, role: str = "admin", **more: str) -> dict[str, str]:
    access = {"PICTOGRAPH_API_KEY": server.keys[role], "PICTOGRAPH_BASE_URL": server.api_url}
    return (
        inherited()
        | access
        | {"NO_PROXY": "127.0.0.1", "PICTOGRAPH_MAX_RETRIES": "0", "HOME": "/nonexistent"}
        | more
    )


def dataset(
    server: StandIn, *arguments: str | Path, role: str = "admin", **more: str
) -> tuple[int, str, str]:
    """Exit code, output and errors of a command; what it prints holds no key, no traceback."""
    done = run_pictofs("dataset", *arguments, env=environ(server, role, **more))
    out, err = done.stdout.decode(), done.stderr.decode()
    assert "Traceback" not in err
    assert not any(key in out + err for key in server.keys.values())
    assert err.count("error: ") == (done.returncode != 0), err
    return done.returncode, out, err


def test_list(server: StandIn) -> None:
    code, out, _ = dataset(server, "list", role="viewer")
    lines = [line.split() for line in out.splitlines()]
    assert code == 0
    assert lines[0] == ["name", "images", "complete", "size", "created", "id"]
    assert out.splitlines()[1].startswith(r"ünï 画像\x1b[31m\n2")
    assert lines[2][:6] == ["street", "signs", "12", "5", "12", "kB"]
    assert lines[2][-1] == server.organization["street signs"].id
    assert "put away" not in out
    assert dataset(server, "list", "--archived")[1].splitlines()[1].startswith("put away ")


def test_list_as_json_is_what_the_api_says(server: StandIn) -> None:
    with pictograph.Client(server.keys["viewer"], base_url=server.api_url) as client:
        for arguments, archived in (([], False), (["--archived"], True)):
            _, out, _ = dataset(server, "list", "--json", *arguments, role="viewer")
            assert [each["id"] for each in json.loads(out)] == [
                each.id for each in client.datasets.list(archived=archived)
            ]


@pytest.mark.parametrize(
    ("limit", "asked"), [(None, [1000, 1000]), (1, [1]), (1002, [1000, 2]), (5000, [1000, 1000])]
)
def test_list_asks_for_no_more_than_the_limit(
    serving: Serving, limit: int | None, asked: list[int]
) -> None:
    organization = Organization()
    for number in range(1005):
        organization.add_dataset(f"set-{number}")
    server = serving(organization)
    spent = Spent(server)
    _, out, _ = dataset(server, "list", "--json", *(["--limit", str(limit)] if limit else []))
    assert len({each["id"] for each in json.loads(out)}) == min(limit or 1005, 1005)
    assert [int(each.partition("limit=")[2].partition("&")[0]) for each in spent.api] == asked


def test_show(server: StandIn) -> None:
    wanted = server.organization["street signs"]
    for arguments in (["street signs"], [wanted.id], ["--id", wanted.id.upper()]):
        code, out, _ = dataset(server, "show", *arguments, role="viewer")
        assert code == 0
        for words in (wanted.id, "Signs of streets", "12, of which 5 complete", "12 kB"):
            assert words in out
    assert "archived          yes" in dataset(server, "show", "put away")[1]


def test_show_tells_classes_types_views_and_readme(server: StandIn) -> None:
    signs = server.organization["street signs"]
    signs.annotation_types = ["bbox", "polygon"]
    signs.classes = [
        {"name": "stop", "type": "box"},
        {"name": "yield", "type": "box"},
        {"name": "road\x1b[31m", "type": "polygon"},
        {"name": None},
        "odd",
    ]
    signs.readme = "# Signs\n\nTwo cameras.\x1b[31m"
    out = dataset(server, "show", "street signs", role="viewer", COLUMNS="120")[1]

    assert "annotation types  bbox, polygon" in out
    assert r"stop, yield (box); road\x1b[31m (polygon)" in out
    assert "by-status/ and by-split/ in its folder" in out  # V9
    assert out.endswith("\n\n# Signs\n\nTwo cameras.\\x1b[31m\n")

    created, updated = re.findall(r"(?:created|updated) +(.*?) *\n", out)

    assert len(created) == len(updated) == len("2026-03-01 09:00")


def test_the_vendor_s_words_work(server: StandIn, tmp_path: Path) -> None:
    card = tmp_path / "card.md"
    card.write_text("# Größer\n")

    assert dataset(server, "get", "street signs") == dataset(server, "show", "street signs")

    code, out, _ = dataset(
        server, "update", "street signs", "--new-name", "signs", "--readme", card, "--json"
    )

    assert code == 0
    assert json.loads(out)["name"] == "signs"
    assert server.organization["signs"].readme == "# Größer\n"
    assert run_pictofs("datasets", "list", env=environ(server)).returncode == 0
    assert json.loads(dataset(server, "create", "new", "--readme", card, "--json")[1])["id"]
    assert json.loads(dataset(server, "delete", "new", "--yes", "--json")[1])["name"] == "new"


def test_a_readme_that_is_none(server: StandIn, tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"\xe9")
    for arguments in (["--readme", tmp_path], ["--readme", tmp_path / "latin"]):
        assert dataset(server, "update", "street signs", *arguments)[0] == 6
    assert dataset(server, "create", "new", "--readme", tmp_path, "--description", "x")[0] == 6


def test_a_narrow_terminal_shows_name_and_id(server: StandIn, terminal: tuple[int, int]) -> None:
    ours, theirs = terminal
    os.set_blocking(ours, False)
    process = Pictofs("dataset", "list", env=environ(server, COLUMNS="80"), stdout=theirs)
    assert process.wait(30) == 0
    line = next(each for each in os.read(ours, 65536).decode().splitlines() if "street" in each)
    assert line.startswith("street signs ")
    assert line.endswith(server.organization["street signs"].id)
    assert len(line) <= 80


def test_show_as_json_is_the_api_s_object(server: StandIn) -> None:
    _, out, _ = dataset(server, "show", "street signs", "--json")
    assert out == json.dumps(json.loads(out), indent=2) + "\n"
    organization = server.organization
    assert json.loads(out) == dataset_row(organization["street signs"], organization)


def test_names_that_the_api_can_t_address(serving: Serving) -> None:
    organization = Organization()
    for name in ("a/b", "..", UUID, f" {UUID} "):
        organization.add_dataset(name)
    server = serving(organization)

    for name in ("a/b", "..", UUID, f" {UUID} "):
        wanted = next(each for each in organization.datasets.values() if each.name == name)
        assert dataset(server, "update", name, "--description", "found")[0] == 0
        assert wanted.description == "found"

        if name in (
            "a/b",
            UUID,
        ):  # a kind of each: a name that no path can hold, and one like an id
            assert wanted.id in dataset(server, "show", name)[1]
            assert dataset(server, "delete", name, "--yes")[0] == 0
            assert wanted.id not in organization.datasets


@pytest.mark.parametrize("role", ["viewer", "member", "admin"])
def test_changes_by_role(server: StandIn, role: str) -> None:
    organization = server.organization
    writes, deletes = role != "viewer", role == "admin"
    code, out, err = dataset(server, "create", "new", "--description", "Made here", role=role)

    assert code == (0 if writes else 3), err

    if not writes:
        organization.add_dataset("new")
    made = organization["new"]

    assert (out == f"created new ({made.id})\n") == writes
    assert (made.description == "Made here") == writes

    change = ["update", "new", "--rename", "renamed", "--description", ""]

    assert dataset(server, *change, role=role)[0] == (0 if writes else 3)
    assert made.name == ("renamed" if writes else "new")
    assert not made.description

    code, out, _ = dataset(server, "delete", made.name, "--yes", role=role)

    assert code == (0 if deletes else 3)
    assert (made.id not in organization.datasets) == deletes


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["show", "nothing"], 4),
        (["show", "a/b"], 4),
        (["show", "--id", UUID], 4),
        (["show", UUID], 4),
        (["show", "--id", "street signs"], 6),
        (["show"], 6),
        (["show", "street signs", "--id", UUID], 6),
        (["update", "nothing", "--rename", "x"], 4),
        (["update", "street signs"], 6),
        (["delete", "nothing", "--yes"], 4),
        (["delete", "street signs"], 6),
        (["create", "street signs"], 5),
        (["create", "put away"], 5),
        (["create", " "], 6),
        (["create", "a/b"], 6),
        (["update", "put away", "--rename", "street signs"], 5),
        (["list", "--limit", "0"], 6),
        (["list", "--timeout", "no"], 6),
    ],
)
def test_what_can_t_be_done(server: StandIn, arguments: list[str], code: int) -> None:
    before = {each.id: each.name for each in server.organization.datasets.values()}
    assert dataset(server, *arguments)[:2] == (code, "")
    assert {each.id: each.name for each in server.organization.datasets.values()} == before


def test_a_key_that_is_no_key(server: StandIn) -> None:
    assert dataset(server, "list", PICTOGRAPH_API_KEY="pk_live_5ec2e7")[0] == 2
    assert dataset(server, "list", PICTOGRAPH_API_KEY="")[0] == 2


def test_the_key_rules_are_those_of_mount(server: StandIn, tmp_path: Path) -> None:
    (tmp_path / ".pictograph").mkdir()
    profile = tmp_path / ".pictograph/config.toml"
    profile.write_text(
        f'[other]\napi_key = "{server.keys["viewer"]}"\nbase_url = "{server.api_url}"\n'
    )
    profile.chmod(0o600)
    key = tmp_path / "key"
    key.write_text(server.keys["viewer"])
    key.chmod(0o600)
    none = {"PICTOGRAPH_API_KEY": "", "PICTOGRAPH_BASE_URL": "", "HOME": str(tmp_path)}

    assert dataset(server, "list", **none)[0] == 2
    assert dataset(server, "list", "--profile", "other", **none)[0] == 0
    assert (
        dataset(server, "list", "--api-key-file", key, "--base-url", server.api_url, **none)[0] == 0
    )


@pytest.mark.parametrize(
    ("fault", "code"),
    [(error(503), 9), (error(429, retry_after=900), 8), (error(402), 7), (Reset(), 9)],
    ids=["503", "429", "402", "reset"],
)
def test_a_server_that_fails(server: StandIn, fault: Any, code: int) -> None:
    server.faults.add(Fault(Match(), fault))
    for arguments in (["list"], ["create", "new"], ["delete", "street signs", "--yes"]):
        assert dataset(server, *arguments)[0] == code


def test_a_server_that_is_not_there(server: StandIn) -> None:
    server.stop()
    assert dataset(server, "list")[0] == 9


def test_a_server_that_says_nothing(server: StandIn) -> None:
    hold = Hold()
    server.faults.add(Fault(Match(), hold))
    assert dataset(server, "list", "--timeout", "0.5")[0] == 9
    hold.open()


def test_ctrl_c(server: StandIn) -> None:
    hold = Hold()
    server.faults.add(Fault(Match(), hold))
    process = Pictofs("dataset", "list", env=environ(server), stderr=subprocess.PIPE)
    assert hold.waiting.wait(30)
    process.send_signal(signal.SIGINT)
    assert (process.communicate(timeout=30)[1], process.returncode) == (b"", 130)
    hold.open()


def test_a_created_dataset_is_created_once(server: StandIn) -> None:
    """The answer is lost after the server has made it; the repetition carries the same
    Idempotency-Key."""
    server.faults.add(Fault(Match(method="POST"), Reset(after=0), times=1))
    assert dataset(server, "create", "new", PICTOGRAPH_MAX_RETRIES="3")[0] == 0
    assert [each.name for each in server.organization.datasets.values()].count("new") == 1


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    both = pty.openpty()
    yield both
    for each in both:
        os.close(each)


@pytest.mark.parametrize(
    ("typed", "code"), [("street signs\n", 0), ("yes\n", 6), ("\n", 6), ("\x04", 6)]
)
def test_delete_asks_for_the_name(
    server: StandIn, terminal: tuple[int, int], typed: str, code: int
) -> None:
    ours, theirs = terminal
    streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    process = Pictofs("dataset", "delete", "street signs", env=environ(server), **streams)
    shown = ""
    while "Type its name" not in shown:
        shown += os.read(ours, 65536).decode()

    assert "street signs goes for good, with 12 images and 1 archived one, 12 kB." in shown

    os.write(ours, typed.encode())

    assert process.wait(30) == code
    assert (server.organization.dataset("street signs") is None) == (code == 0)


def test_a_mount_shows_it_at_once(server: StandIn, mounted: Mounting) -> None:
    """A mount of another key even: its list of datasets is asked for again, and nothing else."""
    mount = mounted(server)
    frozen = mounted(server, "--frozen")
    before = sorted(os.listdir(mount.datasets))

    assert sorted(os.listdir(frozen.datasets)) == before

    spent = Spent(server)
    for arguments in (["create", "new"], ["update", "new", "--rename", "newer"]):
        assert dataset(server, *arguments)[0] == 0

    assert sorted(os.listdir(mount.datasets)) == sorted([*before, "newer"])
    assert dataset(server, "delete", "newer", "--yes")[0] == 0
    assert sorted(os.listdir(mount.datasets)) == before == sorted(os.listdir(frozen.datasets))

    listed = [each for each in spent.api if each.startswith("/datasets/?limit")]

    assert len(listed) == 3


def test_show_prints_what_dataset_json_holds(server: StandIn, mounted: Mounting) -> None:
    mount = mounted(server)
    for path in mount.datasets.iterdir():
        dataset_id = os.getxattr(path, "user.pictograph.id").decode()
        out = dataset(server, "show", "--id", dataset_id, "--json", role="viewer")[1]
        assert (path / "dataset.json").read_bytes() == out.encode()


def test_a_mount_that_hangs_holds_nothing_up(server: StandIn, mounted: Mounting) -> None:
    mount = mounted(server)
    os.kill(mount.pid, signal.SIGSTOP)
    try:
        assert dataset(server, "create", "new")[0] == 0
    finally:
        os.kill(mount.pid, signal.SIGCONT)
    eventually(lambda: mount.status()["bugs"], 0)


@pytest.mark.parametrize("named", ["street signs", "the id"])
@pytest.mark.parametrize("do", [("delete", "--yes"), ("update", "--rename", "mine")])
def test_k10_another_dataset_than_the_one_that_was_named(
    server: StandIn, named: str, do: tuple[str, ...]
) -> None:
    """A proxy's cache, or a server that looks names up loosely, answers with another: it is left
    alone."""
    organization = server.organization
    other = organization["put away"]
    name = organization["street signs"].id if named == "the id" else named
    answer = dataset_row(other, organization)
    server.faults.add(Fault(Match("api", "GET"), Mutate(lambda body: {**body, "data": answer})))
    command, *options = do
    code, _, err = dataset(server, command, name, *options)

    assert code == 1
    assert "another dataset than the one whose id" in err or "gave 'put away'" in err
    assert {each.name for each in organization.datasets.values()} >= {"put away", "street signs"}


def exports_of(server: StandIn) -> None:
    """A finished export, one that can't be made, and one that nobody has looked at."""
    finished_export(server, "street signs", "july/1", include_images=True)
    organization = server.organization
    signs = organization["street signs"]
    organization.add_export(signs, "broken", b"", status="failed", format="dota")
    organization.add_export(organization["put away"], "of another", b"")


def test_y12_exports_lists_finished_and_unfinished_ones(server: StandIn) -> None:
    exports_of(server)
    code, out, _ = dataset(server, "exports", "street signs", role="viewer")
    heads, *lines = out.splitlines()

    assert code == 0
    assert heads.split() == [
        *("name", "format", "status", "images", "annotations", "size", "created", "path")
    ]
    assert lines[0].split()[:6] == ["broken", "dota", "failed", "-", "-", "-"]
    assert lines[0].split()[-1] == "-"
    assert lines[1].split()[:4] == ["july/1", "pictograph", "completed", "12"]
    assert lines[1].endswith("datasets/street signs/exports/july‛s1")
    assert len(lines) == 2


def test_y12_exports_as_json_is_what_the_api_says(server: StandIn) -> None:
    exports_of(server)
    code, out, _ = dataset(server, "exports", "--json", "street signs", role="viewer")
    found = json.loads(out)
    with pictograph.Client(server.keys["viewer"], base_url=server.api_url) as client:
        known = client.exports.list(dataset_name="street signs")

    assert code == 0
    assert [each["id"] for each in found] == [each.id for each in known]
    assert [each["path"] for each in found] == [
        None,
        "datasets/street signs/exports/july‛s1",
    ]
    assert "X-Goog-Signature" not in out
    assert dataset(server, "exports", "no such")[0] == 4


def test_y12_the_path_is_that_of_a_mount(server: StandIn, mounted: Mounting) -> None:
    exports_of(server)
    found = json.loads(dataset(server, "exports", "--json", "street signs")[1])
    folder = mounted(server).root / found[1]["path"]
    assert len(os.listdir(folder / "annotations")) == 12
