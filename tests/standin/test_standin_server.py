from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time

import httpx
import pytest

from standin import PRESETS, Fault, Match, StandIn, faults


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
    command = [
        sys.executable,
        "-m",
        "standin",
        "--images",
        "5",
        "--size",
        "2000",
        "--set",
        "hourly_limit=7",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None

        told = json.loads(process.stdout.readline())

        assert set(told["keys"]) == {"viewer", "member", "admin"}

        headers = {"X-API-Key": told["keys"]["viewer"]}
        answer = httpx.get(f"{told['api']}/api/v1/developer/datasets/", headers=headers)

        assert answer.headers["x-ratelimit-limit"] == "7"

        rows = answer.json()["data"]

        assert (rows[0]["image_count"], rows[0]["total_size"]) == (5, 10_000)

        process.send_signal(stop)

        assert process.wait(timeout=5) == 0


def test_stopping_ends_requests_quietly(caplog: pytest.LogCaptureFixture) -> None:
    """Requests that hang, wait or stream end with the hosts, and nothing is logged about them."""
    running = StandIn(PRESETS["small"]()).start()
    organization = running.organization
    organization.add_image(organization["small"], "large.jpg", size=2**30)
    running.faults.add(Fault(Match("api", path="/jobs"), faults.Hang()))
    running.faults.add(Fault(Match("api", path="/notifications"), faults.Delay(60)))
    headers = {"X-API-Key": running.keys["viewer"]}
    base = f"{running.api_url}/api/v1/developer"

    with httpx.Client(headers=headers) as client:
        request = client.build_request("GET", f"{base}/images/small/large.jpg")
        streaming = client.send(request, stream=True)
        waiting = [
            threading.Thread(
                target=pytest.raises, args=(httpx.TransportError, client.get, base + path)
            )
            for path in ("/jobs", "/notifications")
        ]
        for thread in waiting:
            thread.start()
        while running.log.count() < 3:
            time.sleep(0.001)
        begun = time.monotonic()
        running.stop()

        assert time.monotonic() - begun < 1

        for thread in waiting:
            thread.join()
        streaming.close()

    assert not caplog.records or {each.name for each in caplog.records} <= {"httpx"}
