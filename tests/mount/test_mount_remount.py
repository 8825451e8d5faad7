"""What outlives a mount, a server, a process: remounts, offline, two mounts on one cache."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mounting import Mount, Mounting, Serving, Spent, expected, files_below, image_bytes, run, walk

from standin import PRESETS, Spec, StandIn
from standin.faults import Fault, Hang, Match

AWAY = (
    "serving from the cache alone|connect|refused|unreachable|could not be completed|no signed URLs"
)


def test_q1_c6_a_second_reading_costs_no_request_at_all(
    mounted: Mounting, serving: Serving
) -> None:
    server = serving(PRESETS["small"]())
    truth = expected(server, server.organization["small"])
    mount = mounted(server, home="one")

    assert files_below(mount.datasets / "small") == truth

    before = Spent(server)

    assert files_below(mount.datasets / "small") == truth
    assert before.all == []

    mount.unmount()
    # One request tells whether the key is still good, unless that is known for the TTL.
    before = Spent(server)
    mount = mounted(server, home="one")

    assert files_below(mount.datasets / "small") == truth
    assert len(before.all) <= 1


def test_o1_offline_everything_cached_is_listed_and_read(
    mounted: Mounting, serving: Serving
) -> None:
    server = serving(PRESETS["small"]())
    truth = expected(server, server.organization["small"])
    # Nothing stays fresh: each look would ask, if anybody answered.
    mount = mounted(server, "--metadata-ttl", "0", "--max-retries", "0", home="one")
    mount.expected.append(AWAY)

    assert files_below(mount.datasets / "small") == truth

    server.stop()
    for _ in range(2):
        assert files_below(mount.datasets / "small") == truth

    assert not mount.status()["online"]

    mount.unmount()
    mount = mounted(server, "--metadata-ttl", "0", "--max-retries", "0", home="one")
    mount.expected.append(AWAY)

    assert files_below(mount.datasets / "small") == truth
    assert (mount.datasets / "small/images").is_dir()
    assert not (mount.datasets / "nothing of that name").exists()


def test_o2_offline_what_is_not_cached_fails_by_a_network_error(
    mounted: Mounting, serving: Serving
) -> None:
    server = serving(Spec.uniform(images=20, size=500, directories=2))
    mount = mounted(server, "--max-retries", "0", "--prefetch", "off")
    mount.expected.append(AWAY)
    images = mount.datasets / "dataset-0/images"
    known = sorted(walk(images))
    data = known[0].read_bytes()
    server.stop()
    with pytest.raises(OSError, match="Network is unreachable"):
        known[1].read_bytes()
    with pytest.raises(OSError, match="Network is unreachable"):
        (mount.datasets / "dataset-0/annotations" / known[0].relative_to(images)).with_suffix(
            ".jpg.json"
        ).read_bytes()

    assert known[0].read_bytes() == data
    assert sorted(walk(images)) == known


def test_o2_offline_a_folder_that_was_never_listed_fails_and_is_not_empty(
    mounted: Mounting, serving: Serving
) -> None:
    server = serving(Spec.uniform(images=20, size=500))
    mount = mounted(server, "--max-retries", "0")
    mount.expected.append(AWAY)
    server.stop()
    assert os.listdir(mount.datasets) == ["dataset-0"]
    with pytest.raises(OSError, match="Network is unreachable"):
        os.listdir(mount.datasets / "dataset-0/images")


def test_t1_t2_a_server_that_hangs_is_a_timeout_and_the_cache_stays_readable(
    mounted: Mounting, serving: Serving
) -> None:
    server = serving(Spec.uniform(images=20, size=500))
    mount = mounted(server, "--timeout", "1", "--max-retries", "0", "--prefetch", "off")
    mount.expected += [AWAY, "no answer within", "timed out", "in time"]
    known = sorted(walk(mount.datasets / "dataset-0/images"))
    data = known[0].read_bytes()
    server.faults.add(Fault(on=Match(), do=Hang()))
    with pytest.raises(TimeoutError):
        known[1].read_bytes()

    assert known[0].read_bytes() == data
    assert sorted(walk(mount.datasets / "dataset-0/images")) == known


def test_o3_the_server_comes_back(mounted: Mounting, serving: Serving) -> None:
    server = serving(Spec.uniform(images=20, size=500))
    mount = mounted(server, "--max-retries", "0", "--prefetch", "off", "--metadata-ttl", "0")
    mount.expected.append(AWAY)
    known = sorted(walk(mount.datasets / "dataset-0/images"))
    ports = [int(url.rpartition(":")[2]) for url in (server.api_url, server.storage_url)]
    server.stop()
    with pytest.raises(OSError, match="Network is unreachable"):
        known[1].read_bytes()
    with StandIn(server.organization, api_port=ports[0], storage_port=ports[1]) as again:
        image = again.organization["dataset-0"].at("/", known[1].name)
        assert image is not None
        assert known[1].read_bytes() == image_bytes(image)


def test_c7_a_killed_mount_leaves_a_cache_that_is_right(
    mounted: Mounting, serving: Serving
) -> None:
    server = serving(Spec.uniform(images=60, size=200_000, directories=2))
    truth = expected(server, server.organization["dataset-0"])
    mount = mounted(server, home="one")
    reader = subprocess.Popen(
        ["cp", "-r", mount.datasets, mount.root.parent / "cut"], stderr=subprocess.DEVNULL
    )
    while len(server.log.requests(host="storage")) < 20:
        os.sched_yield()
    mount.kill()
    reader.wait(30)
    with pytest.raises(OSError, match="not connected"):
        os.listdir(mount.datasets)
    mount = mounted(server, home="one")
    mount.expected.append("was left over by a mount that died")

    assert files_below(mount.datasets / "dataset-0") == truth


def test_c5_two_mounts_share_one_cache(mounted: Mounting, serving: Serving, tmp_path: Path) -> None:
    server = serving(Spec.uniform(images=150, size=30_000, directories=3))
    truth = expected(server, server.organization["dataset-0"])
    one = mounted(server, cache=tmp_path / "shared")
    two = mounted(server, cache=tmp_path / "shared")
    readers = [
        subprocess.Popen(["cp", "-r", mount.datasets / "dataset-0", tmp_path / name])
        for mount, name in ((one, "one"), (two, "two"))
    ]

    assert [reader.wait(60) for reader in readers] == [0, 0]
    assert files_below(tmp_path / "one") == files_below(tmp_path / "two") == truth

    sent = [each.path.rpartition("/")[2] for each in server.log.requests() if each.bytes == 30_000]

    assert len(sent) == len(set(sent)) == 150


def test_c6_the_second_mount_on_a_cache_needs_no_download(
    mounted: Mounting, serving: Serving, tmp_path: Path
) -> None:
    server = serving(PRESETS["small"]())
    truth = expected(server, server.organization["small"])
    one = mounted(server, cache=tmp_path / "shared")

    assert files_below(one.datasets / "small") == truth

    before = Spent(server)
    # Another key has a catalog of its own, and the same bytes.
    two = mounted(server, cache=tmp_path / "shared", key=server.keys["member"])

    assert files_below(two.datasets / "small") == truth
    assert before.storage == []
    assert not [each for each in before.api if each.startswith("/images/{image_id")]


def test_c1_a_cache_smaller_than_the_dataset_stays_within_its_bound(
    mounted: Mounting, serving: Serving
) -> None:
    server = serving(Spec.uniform(images=300, size=100_000))
    truth = expected(server, server.organization["dataset-0"])
    mount = mounted(server, "--cache-size", "20MB")
    for _ in range(2):
        assert files_below(mount.datasets / "dataset-0") == truth
        usage = mount.status()["cache"]
        assert usage["used"] <= usage["limit"] == 20_000_000
        assert disk_usage(mount.cache / "content") <= 21_000_000


def disk_usage(folder: Path) -> int:
    return int(run("du", "-s", "--block-size=1", folder).split()[0])


def test_k4_the_cache_is_closed_to_other_users(mounted: Mounting, serving: Serving) -> None:
    mount = mounted(serving(PRESETS["small"]()))
    files_below(mount.datasets / "small")
    for base, folders, files in os.walk(mount.cache):
        assert os.stat(base).st_mode & 0o777 == 0o700 or base == str(mount.cache)
        for name in files:
            assert os.lstat(os.path.join(base, name)).st_mode & 0o077 == 0, name
        assert all(not os.path.islink(os.path.join(base, name)) for name in folders)


def test_k2_the_key_is_nowhere_on_disk_and_in_no_command_line(
    mounted: Mounting, serving: Serving
) -> None:
    mount = mounted(serving(PRESETS["small"]()), "--log-level", "debug")
    files_below(mount.datasets / "small")
    mount.pictofs("status", mount.root)
    secret = mount.key.removeprefix("pk_live_").encode()

    for path in walk(mount.root.parent):
        if mount.root not in path.parents and path.is_file():
            assert secret not in path.read_bytes()

    # Started as users start it: what the fixture starts shows its starter's command line.
    second = mount.root.parent / "second"
    second.mkdir()
    command = [sys.executable, "-m", "pictofs", "mount", "--foreground", second]

    with subprocess.Popen(command, env=mount.environ, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        words = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
        mount.pictofs("unmount", second)

    assert b"--foreground" in words
    assert not [word for word in words if secret in word]


def test_a_mount_of_a_cache_that_was_emptied_meanwhile(mounted: Mounting, serving: Serving) -> None:
    server = serving(PRESETS["small"]())
    truth = expected(server, server.organization["small"])
    mount: Mount = mounted(server)
    assert files_below(mount.datasets / "small") == truth
    run("sh", "-c", 'rm -r "$0"/*', mount.cache / "content")
    assert files_below(mount.datasets / "small") == truth


def test_c13_a_key_that_takes_the_place_of_another(
    mounted: Mounting, serving: Serving, tmp_path: Path
) -> None:
    """What was read stays read, where the server names the organization; listings are renewed."""
    server = serving(PRESETS["small"]())
    truth = expected(server, server.organization["small"])
    old = mounted(server, cache=tmp_path / "shared")
    assert files_below(old.datasets / "small") == truth
    old.unmount()

    before = Spent(server)
    new = mounted(server, cache=tmp_path / "shared", key=server.keys["member"])
    assert len(before.api) == 2  # whose key it is, and the list of datasets
    assert files_below(new.datasets / "small") == truth
    assert before.storage == []
    assert not [each for each in before.api if each.startswith("/annotations/")]
    assert [each for each in before.api if each.startswith("/datasets/{dataset}?include_images")]

    new.unmount()
    before = Spent(server)
    mounted(server, cache=tmp_path / "shared", key=server.keys["member"])
    assert len(before.api) <= 1


def test_c13_another_organization_inherits_nothing(
    mounted: Mounting, serving: Serving, tmp_path: Path
) -> None:
    server = serving(PRESETS["small"]())
    old = mounted(server, cache=tmp_path / "shared")
    files_below(old.datasets)
    old.unmount()

    server.organization.id = "another"
    before = Spent(server)
    new = mounted(server, cache=tmp_path / "shared", key=server.keys["member"])
    files_below(new.datasets)
    assert [each for each in before.api if each.startswith("/annotations/")]
