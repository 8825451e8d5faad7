"""`pictofs download`, in a process of its own: no mount, no kernel."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pictograph
import pytest
from mounting import Serving, Spent, files_below, images_and_notes, run
from starting import Pictofs

from standin import Organization, Spec, StandIn
from standin.faults import Delay, Fault, Match, error
from standin.spec import DatasetSpec

SMALL = Spec((DatasetSpec("small", images=30, size=5000, directories=3),))
STOPPED = "stopped: what has come stays, and the same command goes on from there\n"

Start = Callable[..., subprocess.Popen[str]]
Download = Callable[..., tuple[int, str, str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Begins downloads with a home folder of their own; none is left at the end."""
    begun: list[subprocess.Popen[str]] = []

    def begin(
        server: StandIn, *arguments: str | Path, role: str = "viewer", **more: str
    ) -> subprocess.Popen[str]:
        environ = {
            name: value
            for name, value in os.environ.items()
            if not name.upper().startswith("PICTO")
        }
        environ |= {
            "HOME": str(tmp_path),
            "TMPDIR": str(tmp_path),
            "NO_PROXY": "127.0.0.1",
            "PICTOFS_CACHE_DIR": str(tmp_path / "cache"),
            "PICTOGRAPH_BASE_URL": server.api_url,
            "PICTOGRAPH_API_KEY": server.keys[role],
        }
        begun.append(
            Pictofs(
                *("download", *arguments),
                env=environ | more,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return begun[-1]

    yield begin

    for process in begun:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def download(start: Start) -> Download:
    """Exit code, output and errors of a download."""

    def ended(server: StandIn, *arguments: str | Path, **more: str) -> tuple[int, str, str]:
        process = start(server, *arguments, **more)
        out, err = process.communicate(timeout=90)
        assert "Traceback" not in err
        assert not any(key in out + err for key in server.keys.values())
        return process.returncode, out, err

    return ended


def objects(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.parametrize("role", ["viewer", "member"])
def test_d1_everything_lands_once(
    download: Download, serving: Serving, tmp_path: Path, role: str
) -> None:
    server, out = serving(SMALL), tmp_path / "out"
    code, said, _ = download(server, "small", out, role=role)

    assert (code, said) == (
        0,
        f"{out}: 60 fetched, 0 were right: "
        "60 of 60 files, 150 kB of 150 kB of images, 35 API requests\n",
    )
    assert files_below(out) == images_and_notes(server, server.organization["small"])
    assert sorted(os.listdir(out)) == ["annotations", "images"]

    before = Spent(server)
    code, said, _ = download(server, "small", out, role=role)

    assert (code, said.strip().endswith("1 API request"), before.storage) == (0, True, [])


def test_json(download: Download, serving: Serving, tmp_path: Path) -> None:
    server, out = serving(SMALL), tmp_path / "out"
    lost = next(iter(server.organization["small"].images.values()))
    server.faults.add(Fault(on=Match(path=lost.id), do=error(404, "not_found")))
    code, said, err = download(server, "small", out, "--json", "--mode", "images_only")

    assert (code, err) == (1, "")

    *progress, result = objects(said)

    assert all(each["state"] in {"listing", "looking", "fetching", "done"} for each in progress)
    assert {
        name: result[name]
        for name in (
            "state",
            "dataset",
            "dataset_id",
            "images_downloaded",
            "annotations_downloaded",
            "success",
        )
    } == {
        "state": "done",
        "dataset": "small",
        "dataset_id": server.organization["small"].id,
        "images_downloaded": 29,
        "annotations_downloaded": 0,
        "success": False,
    }

    (failure,) = result["failures"]

    assert (failure["kind"], failure["path"]) == (
        "image",
        f"images{lost.directory_path}/{lost.filename}",
    )

    server.faults.clear()
    code, said, _ = download(server, "small", out, "--json", "--mode", "images_only")

    assert (code, objects(said)[-1]["images_downloaded"]) == (0, 1)


def test_d6_failures_are_told_at_the_end(
    download: Download, serving: Serving, tmp_path: Path
) -> None:
    server = serving(SMALL)
    lost = list(server.organization["small"].images.values())[4]
    server.faults.add(Fault(on=Match(path=lost.id), do=error(404, "not_found")))
    code, said, _ = download(server, "small", tmp_path / "out")

    assert code == 1

    first, *failures = said.splitlines()

    assert "58 of 60 files" in first
    assert "2 failed" in first
    assert [line.split(":")[0].strip() for line in failures] == [
        f"images{lost.directory_path}/{lost.filename}",
        f"annotations{lost.directory_path}/{lost.filename}.json",
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["no-such", "out"], 4, "there is no dataset 'no-such'"),
        (["small", "out", "--workers", "0"], 6, "workers"),
        (["small", "out", "--mode", "some"], 6, "mode"),
        (["small", "file"], 5, "in the way"),
        (["small"], 6, "DIR"),
        (["small", "out", "--base-url", "http://127.0.0.1:1"], 9, "can't be reached"),
        (["small", "out", "--base-url", "http://example.com"], 6, "unencrypted"),
    ],
)
def test_what_can_t_be_done(
    download: Download,
    serving: Serving,
    tmp_path: Path,
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    (tmp_path / "file").write_bytes(b"")
    spelled = [str(tmp_path / each) if each in ("out", "file") else each for each in arguments]
    got, out, err = download(serving(SMALL), *spelled, "--max-retries", "0")
    assert (got, out, err.count("error: ")) == (code, "", 1), err
    assert words in err


def test_a_key_that_is_refused(download: Download, serving: Serving, tmp_path: Path) -> None:
    code, _, err = download(
        serving(SMALL), "small", tmp_path / "out", PICTOGRAPH_API_KEY="pk_live_wrong"
    )
    assert (code, err.count("error: ")) == (2, 1)


def test_d3_kill_9_at_any_moment(
    start: Start, download: Download, serving: Serving, tmp_path: Path
) -> None:
    """Each run is killed after some more files; together they ask hardly more than one run
    would."""
    server, out = serving(Spec.uniform(images=200, size=40_000, directories=3)), tmp_path / "out"
    server.faults.add(Fault(on=Match("storage"), do=Delay(0.02)))
    wanted = images_and_notes(server, server.organization["dataset-0"])
    workers, kills = 4, 0

    for share in (0.1, 0.3, 0.5, 0.7):
        process = start(server, "dataset-0", out, "--json", "--workers", str(workers))
        assert process.stdout is not None

        for line in process.stdout:
            if json.loads(line)["files_done"] > share * 400:
                break

        process.kill()
        process.wait()
        kills += 1
        for path, data in files_below(out).items():
            assert path.startswith(".pictofs-download/") or data == wanted[path], path

    code, _, _ = download(server, "dataset-0", out, "--workers", str(workers))

    assert code == 0
    assert files_below(out) == wanted
    assert sorted(os.listdir(out)) == ["annotations", "images"]
    # What was under way is lost, no more: in each run at most a file of each worker, of both kinds.
    assert len(server.log.requests(host="storage")) <= 200 + kills * workers

    notes = server.log.requests(host="api", route="/annotations/{image_id:uuid}/file")

    assert len(notes) <= 200 + kills * workers

    others = len(server.log.requests(host="api")) - len(notes)

    # The list of datasets, that of exports and a batch of URLs each; one listing.
    assert others <= 5 + 3 * kills


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_d3_ctrl_c(
    start: Start, download: Download, serving: Serving, tmp_path: Path, number: signal.Signals
) -> None:
    server, out = (
        serving(Spec.uniform(images=2000, size=500), storage_latency=0.05),
        tmp_path / "out",
    )
    process = start(server, "dataset-0", out, "--mode", "images_only", "--workers", "4", "--json")

    assert process.stdout is not None

    for line in process.stdout:
        if json.loads(line)["files_done"] > 20:
            break

    process.send_signal(number)
    _, err = process.communicate(timeout=20)

    assert (process.returncode, err) == (130, STOPPED)
    assert sorted(os.listdir(out)) == ["images"]

    server.switches.storage_latency = 0
    code, said, _ = download(server, "dataset-0", out, "--mode", "images_only", "--json")

    assert (code, objects(said)[-1]["missing"]) == (0, 0)
    assert len(server.log.requests(host="storage")) <= 2004


def test_d5_a_spent_budget_ends_it_with_8(
    download: Download, serving: Serving, tmp_path: Path
) -> None:
    server, out = serving(SMALL, hourly_limit=65), tmp_path / "out"
    code, said, err = download(server, "small", out, "--no-wait")
    assert code == 8
    assert "kept for interactive use" in err
    assert re.search(r"(\d+) of 60 files", said)
    assert len(files_below(out / "images")) == 30  # which cost no request each


def test_it_says_until_when_it_waits(start: Start, serving: Serving, tmp_path: Path) -> None:
    process = start(serving(SMALL, hourly_limit=65), "small", tmp_path / "out")
    assert process.stderr is not None
    for line in process.stderr:
        if re.match(r"waiting for the request budget until \d\d:\d\d: ", line):
            break
    else:
        raise AssertionError("it did not wait")
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130


def test_q9_a_listing_that_waits_is_told_before_there_is_a_file(
    start: Start, serving: Serving, tmp_path: Path
) -> None:
    process = start(serving(SMALL, hourly_limit=50), "small", tmp_path / "out")
    assert process.stderr is not None
    first = process.stderr.readline()
    process.send_signal(signal.SIGINT)
    said, err = process.communicate(timeout=20)

    assert re.fullmatch(r"waiting for the request budget until \d\d:\d\d\n", first)
    assert (process.returncode, said, err) == (130, "", STOPPED)


def test_bulk_annotations(download: Download, serving: Serving, tmp_path: Path) -> None:
    server, out = serving(Spec.uniform(images=500, size=500, directories=3)), tmp_path / "out"
    code, said, _ = download(server, "dataset-0", out, "--bulk-annotations", role="admin")
    assert code == 0
    assert said.strip().endswith("11 API requests")
    assert files_below(out) == images_and_notes(server, server.organization["dataset-0"])
    assert server.organization.exports == {}


def test_a_bar_on_a_terminal(serving: Serving, tmp_path: Path) -> None:
    server = serving(SMALL, storage_latency=0.2)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "pictofs",
            "download",
            "--workers",
            "2",
            "small",
            str(tmp_path / "out"),
        ],
        env=os.environ
        | {
            "HOME": str(tmp_path),
            "PICTOGRAPH_BASE_URL": server.api_url,
            "PICTOGRAPH_API_KEY": server.keys["viewer"],
            "PICTOFS_CACHE_DIR": str(tmp_path / "cache"),
            "TERM": "xterm",
            "CI": "",
            "COLUMNS": "150",
        },
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""

    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:
            break

        if not piece:
            break
        shown += piece

    os.close(ours)

    assert process.wait(30) == 0

    text = shown.decode()

    assert "fetching" in text
    assert "━" in text
    assert "60 of 60 files" in text


def test_d3_a_full_disk_is_one_line(download: Download, serving: Serving, tmp_path: Path) -> None:
    server, disk = serving(Spec.uniform(images=60, size=100_000)), tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m,mode=0700", "pictofs-test", disk]
    if subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("may not mount a tmpfs")
    try:
        code, said, err = download(server, "dataset-0", disk / "out", "--mode", "images_only")
        assert code == 1
        assert [line for line in err.splitlines() if not line.startswith("fetching")] == [
            f"6 MB are missing, and the disk of {disk}/out has 3.15 MB left",
            f"error: {disk}/out: writing failed: No space left on device",
        ]

        landed = files_below(disk / "out/images")

        assert f"{len(landed)} of 60 files" in said

        wanted = images_and_notes(server, server.organization["dataset-0"])

        assert 20 < len(landed) < 60
        assert all(data == wanted[f"images/{name}"] for name, data in landed.items())

        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        code, said, err = download(server, "dataset-0", disk / "out", "--mode", "images_only")

        assert (code, said, err.count("error: ")) == (1, "", 1)
        assert "Read-only file system" in err
    finally:
        run("umount", "--lazy", disk)


def test_d1_it_equals_the_vendors_download(
    download: Download, serving: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """File by file; of equal names the vendor's flat folder keeps one."""
    organization = Organization(seed="download")
    signs = organization.add_dataset("road signs")
    places = [
        ("ünï cödé 画像.png", "/cam1"),
        ("with space.jpg", "/"),
        ("same.jpg", "/cam1"),
        ("same.jpg", "/cam2"),
    ]

    for number, (name, directory) in enumerate(places):
        organization.add_image(
            signs, name, directory, size=14_000 + number, annotation_count=number
        )

    server = serving(organization)

    assert download(server, "road signs", tmp_path / "ours")[0] == 0

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    with pictograph.Client(server.keys["viewer"], base_url=server.api_url) as client:
        # One at a time: two of one name would also take each other's temporary file away.
        report = client.datasets.download("road signs", tmp_path / "theirs", max_workers=1)

    assert report.success

    by_name: dict[str, list[bytes]] = {}
    for path, data in files_below(tmp_path / "ours").items():
        by_name.setdefault(os.path.basename(path), []).append(data)
    theirs = files_below(tmp_path / "theirs")

    assert theirs.keys() == by_name.keys()
    assert all(data in by_name[name] for name, data in theirs.items())
    assert len(files_below(tmp_path / "ours")) == 8 > len(theirs) == 6


def test_two_at_once(start: Start, download: Download, serving: Serving, tmp_path: Path) -> None:
    server, out = (
        serving(Spec.uniform(images=500, size=500), storage_latency=0.05),
        tmp_path / "out",
    )
    first = start(server, "dataset-0", out, "--mode", "images_only", "--workers", "2", "--json")

    assert first.stdout is not None

    first.stdout.readline()
    code, _, err = download(server, "dataset-0", out)

    assert (code, "another pictofs download" in err) == (5, True)

    first.send_signal(signal.SIGINT)

    assert first.wait(20) == 130
