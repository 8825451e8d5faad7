"""Without the server: never asked with --offline, and found again without a remount."""

from __future__ import annotations

import os
import time

import pytest
from mounting import Mounting, Serving, Spent, eventually, expected, files_below, walk

from standin import PRESETS, Spec
from standin.faults import Fault, Match, error


def test_o5_offline_never_asks(mounted: Mounting, serving: Serving) -> None:
    server = serving(Spec.uniform(images=12, size=500))
    mount = mounted(server, "--prefetch", "off", home="one")
    known, unread = sorted(walk(mount.datasets / "dataset-0/images"))[:2]
    data = known.read_bytes()
    mount.unmount()
    before = Spent(server)
    mount = mounted(server, "--offline", "--metadata-ttl", "0", home="one")
    mount.expected += ["offline", "network", "no signed URLs"]

    assert known.read_bytes() == data
    assert len(os.listdir(known.parent)) == 12

    with pytest.raises(OSError, match="Network is unreachable"):
        unread.read_bytes()
    with pytest.raises(AssertionError, match=r"."):
        mount.pictofs("refresh", mount.root)

    assert before.all == []


def test_o5_offline_without_a_cache_is_no_mount(mounted: Mounting, serving: Serving) -> None:
    server = serving(PRESETS["small"]())
    before = Spent(server)
    with pytest.raises(AssertionError, match=r"(?i)offline|network"):
        mounted(server, "--offline")
    assert before.all == []


@pytest.mark.long  # for the 15 s of O3
def test_o3_the_same_mount_finds_the_server_again(mounted: Mounting, serving: Serving) -> None:
    server = serving(PRESETS["small"]())
    truth = expected(server, server.organization["small"])
    mount = mounted(server, "--max-retries", "0", "--metadata-ttl", "0", "--prefetch", "off")
    mount.expected += [
        "serving from the cache alone",
        "fail",
        "could not",
        "no signed URLs",
        "internal",
    ]
    listed = sorted(walk(mount.datasets / "small"))
    started = time.time()
    fault = server.faults.add(Fault(on=Match(), do=error(503)))

    for path in listed[:2]:
        with pytest.raises(OSError, match=r"Input/output error|Network"):
            path.read_bytes()

    os.listdir(mount.datasets)
    eventually(lambda: os.listdir(mount.datasets) and mount.status()["online"], False)
    since = mount.status()["offline_since"]

    assert started - 1 <= since <= time.time() + 1
    assert "offline for" in mount.pictofs("status", mount.root)

    server.faults.remove(fault)

    assert files_below(mount.datasets / "small") == truth

    # One look each 15 s asks again.
    eventually(lambda: os.listdir(mount.datasets) and mount.status()["online"], True)
