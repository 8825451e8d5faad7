from __future__ import annotations

import json
import signal
import subprocess
import sys

import httpx
import pytest

from standin import PRESETS, StandIn


def test_unknown_switch_is_an_error() -> None:
    with pytest.raises(TypeError, match="no such switch"):
        StandIn(PRESETS["small"](), latencey=1)


def test_two_at_once_and_again() -> None:
    with StandIn(PRESETS["small"]()) as one, StandIn(PRESETS["small"](), url_lifetime=5) as two:
        assert len({one.api_url, one.storage_url, two.api_url, two.storage_url}) == 4
        assert (one.switches.url_lifetime, two.switches.url_lifetime) == (900, 5)
    with pytest.raises(httpx.ConnectError):
        httpx.get(one.api_url)


def test_a_taken_port_is_reported() -> None:
    with StandIn(PRESETS["small"]()) as one:
        port = int(one.api_url.rsplit(":", 1)[1])
        with pytest.raises(OSError, match="in use"):
            StandIn(PRESETS["small"](), api_port=port).start()


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_command_line(stop: signal.Signals) -> None:
    command = [sys.executable, "-m", "standin", "--images", "5", "--size", "2000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        assert set(told["keys"]) == {"viewer", "member", "admin"}
        headers = {"X-API-Key": told["keys"]["viewer"]}
        rows = httpx.get(f"{told['api']}/api/v1/developer/datasets/", headers=headers).json()["data"]
        assert (rows[0]["image_count"], rows[0]["total_size"]) == (5, 10_000)
        process.send_signal(stop)
        assert process.wait(timeout=5) == 0
