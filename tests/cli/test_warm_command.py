"""`pictofs warm` on real mounts of the stand-in."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from mounting import Mount, Mounting, Serving, Spent, expected, files_below
from starting import Pictofs

from pictofs.model.shard import Shard
from standin import Spec
from standin.faults import Fault, Match, error
from standin.spec import DatasetSpec

pytestmark = pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs /dev/fuse")

SMALL = Spec((DatasetSpec("small", images=30, size=5000, directories=3),))


def start(mount: Mount, *arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return Pictofs(
        "warm", *arguments, env=mount.environ, stdout=pipe, stderr=pipe, text=True, **options
    )


def warm(mount: Mount, *arguments: str | Path) -> tuple[int, str, str]:
    process = start(mount, *arguments)
    out, err = process.communicate(timeout=90)
    assert "Traceback" not in err
    assert mount.key not in out + err
    return process.returncode, out, err


def objects(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def test_everything_lands_and_is_read_without_a_request(
    mounted: Mounting, serving: Serving
) -> None:
    server = serving(SMALL)
    mount = mounted(server)
    folder = mount.datasets / "small"
    code, out, _ = warm(mount, folder)

    assert code == 0
    assert re.search(r"60 of 60 files, 150 kB of 150 kB of images, 34 API requests$", out.strip())

    before = Spent(server)

    assert files_below(folder) == expected(server, server.organization["small"])
    assert before.all == []

    code, out, _ = warm(mount, "--check", mount.root)

    assert (code, out) == (0, f"{mount.root}: all 60 files are cached\n")

    code, out, _ = warm(mount, folder)

    assert (code, "0 API requests" in out) == (0, True)


def test_dry_run_then_run(mounted: Mounting, serving: Serving) -> None:
    server = serving(SMALL)
    mount = mounted(server)
    code, out, _ = warm(mount, "--dry-run", mount.datasets)

    assert code == 0
    assert "images: 30 files, 30 missing, 150 kB" in out
    assert "annotations: 30 files, 30 missing" in out
    assert "requests: 31 (1 for signed URLs, 30 for annotations)" in out
    assert "it allows all of them now" in out

    before = Spent(server)

    assert warm(mount, mount.datasets)[0] == 0
    assert len(before.api) == 31


def test_json(mounted: Mounting, serving: Serving) -> None:
    mount = mounted(serving(SMALL))
    code, out, err = warm(
        mount, "--json", "--images", mount.datasets / "small/annotations/part-001"
    )

    assert (code, err) == (0, "")

    *progress, result = objects(out)

    assert all(each["state"] in {"listing", "looking", "fetching", "done"} for each in progress)
    assert (result["state"], result["files"], result["missing"], result["failures"]) == (
        "done",
        10,
        0,
        [],
    )


def test_check_and_evict(mounted: Mounting, serving: Serving) -> None:
    server = serving(SMALL)
    mount = mounted(server)
    folder = mount.datasets / "small"
    code, out, _ = warm(mount, "--check", folder)

    assert (code, "60 of 60 files are missing" in out) == (1, True)

    warm(mount, folder)
    code, out, _ = warm(mount, "--evict", folder / "images")

    assert (code, "dropped 30 files" in out) == (0, True)

    code, out, _ = warm(mount, "--check", folder)

    assert (code, "30 of 60 files are missing" in out, "images: 30 files, 30 missing" in out) == (
        1,
        True,
        True,
    )


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["datasets/no"], 4),
        ([".pictofs"], 6),
        (["datasets", "--check", "--evict"], 6),
        (["datasets", "--workers", "0"], 6),
        (["datasets", "--split", "trian"], 6),
        (["datasets", "--status", "done"], 6),
        (["datasets", "--shard", "2/2"], 6),
        (["datasets", "--shard", "half"], 6),
        (["datasets", "--shard", "auto"], 6),
        (["datasets/small/by-split"], 6),
        (["datasets/small/by-split/holdout"], 6),
        (["datasets/small/by-split/val", "--split", "train"], 6),
    ],
)
def test_what_can_t_be_done(
    mounted: Mounting, serving: Serving, arguments: list[str], code: int
) -> None:
    mount = mounted(serving(SMALL))
    path, *options = arguments
    got, out, err = warm(mount, mount.root / path, *options)
    assert (got, out, err.count("error: ")) == (code, "", 1), err


def test_q10_launched_processes_fetch_a_share_each(mounted: Mounting, serving: Serving) -> None:
    server = serving(SMALL)
    mount = mounted(server)
    rows = server.organization["small"].images.values()
    shares = [[each for each in rows if Shard(index, 3).takes(each.id)] for index in range(3)]
    code, out, _ = warm(mount, "--dry-run", "--shard", "1/3", mount.datasets)

    assert code == 0
    assert out.startswith(f"{mount.datasets} (shard 1/3):\n  images: {len(shares[1])} files, ")

    # As srun starts them: all at once.
    before = Spent(server)
    running = [
        Pictofs(
            *("warm", "--json", "--shard", "auto", mount.datasets / "small"),
            env={**mount.environ, "SLURM_PROCID": str(index), "SLURM_NTASKS": "3"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(3)
    ]
    for index, process in enumerate(running):
        out, err = process.communicate(timeout=90)
        result = objects(out)[-1]

        assert (process.returncode, err) == (0, "")
        assert result["shard"] == {"index": index, "count": 3}
        assert result["files"] == 2 * len(shares[index])

    assert len([each for each in before.api if each.startswith("/annotations/")]) == 30
    assert len(before.storage) == 30
    assert warm(mount, "--check", mount.root)[0] == 0

    # Of 30 images some of 300 shards have none, and lack nothing.
    empty = next(i for i in range(300) if not any(Shard(i, 300).takes(each.id) for each in rows))
    assert warm(mount, "--check", "--shard", f"{empty}/300", mount.datasets)[0] == 0


def test_c14_a_disk_that_is_too_small_is_refused_and_named(
    mounted: Mounting, serving: Serving, small_disk: Path
) -> None:
    server = serving(Spec.uniform(images=60, size=100_000))
    mount = mounted(server, "--min-free", "500kB", cache=small_disk / "cache")
    why = rf"all of it takes 6\.14 MB \(0 B cached, .* disk of {small_disk}/cache/\S* lets .* free"
    remedy = rf"name less, make room on the disk of {small_disk}/.*--min-free"

    code, out, _ = warm(mount, "--images", "--dry-run", mount.datasets)

    assert code == 0
    assert re.search(rf"^  {why} 500 kB must stay free; {remedy}$", out, re.MULTILINE)

    before = Spent(server)
    code, out, err = warm(mount, "--images", "--json", mount.datasets)
    result = objects(out)[-1]

    assert (code, result["fits"]) == (1, False)
    assert re.fullmatch(rf"{why} 500 kB must stay free; {remedy}", result["obstacle"])
    assert re.search(rf"^error: {why} .*\n  Fix: {remedy}$", err, re.MULTILINE)
    assert before.all == []


def test_one_file_is_no_files(mounted: Mounting, serving: Serving) -> None:
    mount = mounted(serving(SMALL))
    image = mount.datasets / "small/images/part-000/image-000000.jpg"

    assert "images: 1 file, 1 missing, 5 kB" in warm(mount, "--dry-run", image)[1]
    assert "1 of 1 file is missing" in warm(mount, "--check", image)[1]
    assert "1 fetched, 0 were cached: 1 of 1 file, " in warm(mount, image)[1]
    assert "0 fetched, 1 was cached: 1 of 1 file, " in warm(mount, image)[1]
    assert warm(mount, "--check", image)[1] == f"{image}: the only file is cached\n"


def test_a_check_of_no_files_fails(mounted: Mounting, serving: Serving) -> None:
    mount = mounted(serving(Spec((DatasetSpec("empty", images=0),))))
    path = mount.datasets / "empty"
    assert warm(mount, "--check", path)[:2] == (1, f"{path}: there are no such files\n")


def test_what_was_never_listed_is_evicted(mounted: Mounting, serving: Serving) -> None:
    """Of another key, say, whose catalog knows nothing of what the cache holds."""
    server = serving(SMALL)
    first = mounted(server, home="one")
    warm(first, "--images", first.datasets)
    second = mounted(server, home="two", cache=first.cache, key=server.keys["member"])
    folder = second.datasets / "small/images"

    code, out, _ = warm(second, "--evict", folder)

    assert (code, out) == (0, f"{folder}: dropped 30 files from the cache\n")


def test_the_path_that_was_asked_for_is_named(mounted: Mounting, serving: Serving) -> None:
    mount = mounted(serving(SMALL))
    folder = mount.datasets / "small/images"
    assert warm(mount, folder)[1].startswith(f"{folder}: ")
    assert warm(mount, "--dry-run", folder)[1].startswith(f"{folder}:\n")
    both = warm(mount, folder, mount.datasets / "small/annotations")[1]
    assert both.startswith(f"{folder} and 1 more: ")


def test_a_view_is_warmed_by_its_path(mounted: Mounting, serving: Serving) -> None:
    server = serving(SMALL)
    mount = mounted(server)
    dataset = mount.datasets / "small"
    every = server.organization["small"].images.values()
    val = sum(image.split == "val" for image in every)
    unassigned = sum(image.split is None for image in every)
    assert val
    assert unassigned

    view = dataset / "by-split/val"
    code, out, _ = warm(mount, view)

    assert code == 0
    assert out.startswith(f"{view}: {2 * val} fetched, ")
    assert warm(mount, "--check", view)[0] == 0
    assert warm(mount, "--check", dataset / "images")[0] == 1
    assert warm(mount, "--check", "--split", "val", dataset)[0] == 0

    both = warm(mount, "--check", view, dataset / "by-split/unassigned/images")[1].splitlines()

    assert both == [
        f"{view}: all {2 * val} files are cached",
        f"{dataset}/by-split/unassigned/images: {unassigned} of {unassigned} files are missing",
        f"  images: {unassigned} files, {unassigned} missing, {unassigned * 5} kB",
    ]


def test_q9_a_dry_run_answers_at_once_where_the_limit_is_small(
    mounted: Mounting, serving: Serving
) -> None:
    mount = mounted(serving(SMALL, hourly_limit=40))
    code, out, _ = warm(mount, "--dry-run", mount.datasets / "small")
    assert code == 0
    assert "images: 30 files, 30 missing" in out
    assert re.search(r"budget: \d+ of 40 an hour left, 50 are kept .*; more than it allows", out)


def test_a_path_outside_of_any_mount(mounted: Mounting, serving: Serving, tmp_path: Path) -> None:
    mount = mounted(serving(SMALL))
    assert warm(mount, tmp_path)[0] == 4


def test_failures_are_told_at_the_end(mounted: Mounting, serving: Serving) -> None:
    server = serving(SMALL)
    mount = mounted(server)
    lost = list(server.organization["small"].images.values())[4]
    fault = server.faults.add(Fault(on=Match(path=lost.id), do=error(404, "not_found")))
    code, out, _ = warm(mount, "--images", mount.datasets)
    assert code == 1
    assert f"datasets/small/images{lost.directory_path}/{lost.filename}: " in out
    assert "29 of 30 files" in out
    server.faults.remove(fault)
    assert warm(mount, mount.datasets)[0] == 0


def test_a_spent_budget_ends_it_with_8(mounted: Mounting, serving: Serving) -> None:
    server = serving(SMALL, hourly_limit=65)
    mount = mounted(server)
    code, out, err = warm(mount, "--no-wait", mount.datasets)
    assert code == 8
    assert "kept for interactive use" in err
    assert re.search(r" of 60 files", out)
    # A person's own reads still pass.
    assert (mount.datasets / "small/annotations/part-000/image-000000.jpg.json").read_bytes()


def test_it_says_until_when_it_waits(mounted: Mounting, serving: Serving) -> None:
    server = serving(SMALL, hourly_limit=65)
    mount = mounted(server)
    process = start(mount, mount.datasets)

    assert process.stderr is not None

    for line in process.stderr:
        if re.match(r"waiting for the request budget until \d\d:\d\d: ", line):
            break
    else:
        raise AssertionError("it did not wait")

    process.send_signal(signal.SIGINT)

    assert process.wait(20) == 130


def test_ctrl_c_ends_the_mount_s_side_too(mounted: Mounting, serving: Serving) -> None:
    server = serving(Spec.uniform(images=2000, size=500), storage_latency=0.05)
    mount = mounted(server)
    process = start(mount, "--images", "--workers", "4", "--json", mount.datasets)

    assert process.stdout is not None

    for line in process.stdout:
        if json.loads(line)["files_done"] > 20:
            break

    process.send_signal(signal.SIGINT)

    assert process.wait(20) == 130

    time.sleep(1.5)
    before = Spent(server)
    time.sleep(0.5)

    assert before.all == []

    code, out, _ = warm(mount, "--images", "--json", mount.datasets)
    result = objects(out)[-1]

    assert (code, result["missing"]) == (0, 0)
    assert len(server.log.requests(host="storage")) <= 2005


def on_a_terminal(mount: Mount, *arguments: str) -> str:
    """What a terminal is told by a run that ends with 0."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "pictofs", "warm", *arguments, str(mount.datasets)],
        env=mount.environ | {"TERM": "xterm", "COLUMNS": "150", "CI": ""},
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

    return shown.decode()


@pytest.mark.parametrize("mode", ["--dry-run", "--evict"])
def test_a_run_that_fetches_nothing_leaves_no_bar(
    mounted: Mounting, serving: Serving, mode: str
) -> None:
    mount = mounted(serving(SMALL))
    text = on_a_terminal(mount, mode)

    assert str(mount.datasets) in text

    # The last line of a bar that goes is wiped off: `ESC [2K`.
    bar, _, words = text.rpartition("\x1b[2K")
    assert bar
    assert "stopped" not in text
    assert "━" not in words


def test_a_bar_on_a_terminal(mounted: Mounting, serving: Serving) -> None:
    mount = mounted(serving(SMALL, storage_latency=0.2))
    text = on_a_terminal(mount, "--workers", "2")

    assert "fetching" in text
    assert "━" in text
    assert "60 of 60 files" in text


def test_bulk_annotations(mounted: Mounting, serving: Serving) -> None:
    server = serving(Spec.uniform(images=500, size=500, directories=3))
    mount = mounted(server, key=server.keys["admin"])
    before = Spent(server)
    code, out, _ = warm(mount, "--annotations", "--bulk-annotations", mount.datasets)

    assert code == 0
    assert "500 of 500 files" in out
    assert len(before.api) <= 9
    assert server.organization.exports == {}

    folder = mount.datasets / "dataset-0/annotations"
    files = {f"annotations/{name}": data for name, data in files_below(folder).items()}
    everything = expected(server, server.organization["dataset-0"])

    assert files == {
        name: data for name, data in everything.items() if name.startswith("annotations/")
    }
    assert len(before.api) <= 9


def test_reads_in_bulk(mounted: Mounting, serving: Serving) -> None:
    """`--bulk-annotations` of the mount: after three reads the rest comes by an export."""
    server = serving(Spec.uniform(images=500, size=500))
    mount = mounted(
        server, "--bulk-annotations", "export", "--prefetch", "off", key=server.keys["member"]
    )
    folder = mount.datasets / "dataset-0/annotations"
    names = sorted(os.listdir(folder))
    for name in names[:3]:
        (folder / name).read_bytes()
    end = time.monotonic() + 20
    while warm(mount, "--check", folder)[0] and time.monotonic() < end:
        time.sleep(0.2)
    before = Spent(server)
    for name in names:
        (folder / name).read_bytes()

    assert before.api == []

    fetched = server.log.requests(host="api", route="/annotations/{image_id:uuid}/file")

    assert len(fetched) == 4
