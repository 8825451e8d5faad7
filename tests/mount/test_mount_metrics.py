"""`.pictofs/metrics` and `--metrics-port` on real mounts, read by Prometheus' own parser."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
from mounting import Mount, Mounting, Serving, Spent, eventually, files_below
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from pictofs.app import mount_table
from pictofs.model.printable import printable
from standin import Spec
from standin.faults import Fault, Match, error
from standin.spec import DatasetSpec

SMALL = Spec((DatasetSpec("small", images=40, size=5000, directories=2),))


class Figures:
    """A scrape."""

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text)}

    def samples(self) -> Iterator[Sample]:
        for family in self.families.values():
            yield from family.samples

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of the samples of that name that have these labels."""
        found = [
            each
            for each in self.samples()
            if each.name == name and labels.items() <= each.labels.items()
        ]
        assert found, (name, labels)
        return sum(each.value for each in found)


def scrape(mount: Mount) -> Figures:
    return Figures((mount.root / ".pictofs/metrics").read_text())


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return int(server.getsockname()[1])


def test_j1_figures_are_those_of_what_was_done(mounted: Mounting, serving: Serving) -> None:
    server = serving(SMALL)
    mount = mounted(server, "--prefetch", "off")
    spent = Spent(server)
    contents = files_below(mount.datasets)
    before = scrape(mount)

    assert files_below(mount.datasets) == contents  # from the kernel's pages: opens, and no reads

    after = scrape(mount)

    assert after("pictofs_operations_total", operation="open", errno="OK") >= 160
    assert after("pictofs_cache_misses_total") == 80
    assert after("pictofs_cache_hits_total") == 80
    assert after("pictofs_read_bytes_total") >= sum(map(len, contents.values()))

    # The list of datasets was asked for before `spent` began to count.
    foreground = [each for each in spent.api if not each.startswith("/exports/")]

    assert (
        after("pictofs_api_requests_total", status="200", purpose="foreground")
        == len(foreground) + 1
    )
    assert (
        after("pictofs_api_requests_total", method="GET", route="/annotations/{image}/file") == 40
    )
    assert after("pictofs_storage_requests_total", status="200") == len(spent.storage)
    assert after("pictofs_storage_received_bytes_total") == 5000 * len(spent.storage)
    assert after("pictofs_cache_files") == 80
    assert after("pictofs_server_reachable") == 1
    assert after("pictofs_server_last_contact_timestamp_seconds") > mount.status()["started_at"]
    assert after("pictofs_rate_limit_requests") > after("pictofs_rate_remaining_requests") > 0

    with open(next(mount.datasets.glob("small/images/*/*"))):
        eventually(lambda: scrape(mount)("pictofs_open_files"), 1)

    assert after("pictofs_operations_in_flight") == 1  # the scrape's own
    assert after("pictofs_bugs_total") == 0

    for each in before.samples():
        if each.name.endswith(("_total", "_bucket", "_count", "_sum")) and each.name.startswith(
            "pictofs_"
        ):
            assert after(each.name, **each.labels) >= each.value


def test_j1_histograms_count_every_operation(mounted: Mounting, serving: Serving) -> None:
    mount = mounted(serving(SMALL))
    files_below(mount.datasets)

    assert not (mount.root / "nothing").exists()

    figures = scrape(mount)
    name = "pictofs_operation_duration_seconds"
    kinds = {each.labels["operation"] for each in figures.samples() if each.name == f"{name}_count"}

    assert {"lookup", "getattr", "opendir", "readdir", "open", "read"} <= kinds

    for kind in kinds:
        counts = [
            each.value
            for each in figures.families[name].samples
            if each.name == f"{name}_bucket" and each.labels["operation"] == kind
        ]

        assert counts == sorted(counts)
        assert counts[-1] == figures(f"{name}_count", operation=kind)
        assert counts[-1] == figures("pictofs_operations_total", operation=kind)

    assert figures("pictofs_operations_total", operation="lookup", errno="ENOENT") == 1


def test_j1_asks_nobody_and_names_no_file(mounted: Mounting, serving: Serving) -> None:
    server = serving(SMALL)
    mount = mounted(server)
    files_below(mount.datasets)
    server.faults.add(Fault(Match(), error(503)))
    spent = Spent(server)
    text = (mount.root / ".pictofs/metrics").read_text()

    assert spent.all == []
    assert mount.key not in text
    assert "small" not in text

    names = {family.name for family in text_string_to_metric_families(text)}

    assert all(name.startswith("pictofs_") for name in names)


def test_j1_files_of_two_mounts_lie_side_by_side(mounted: Mounting, serving: Serving) -> None:
    """As in the folder of node_exporter's textfile collector: no series is in both."""
    server = serving(SMALL)
    mounts = [mounted(server, home=name) for name in ("one", "two")]
    series = []
    for mount in mounts:
        files_below(mount.datasets)
        for each in scrape(mount).samples():
            assert each.labels["mountpoint"] == str(mount.root)
            series.append((each.name, *sorted(each.labels.items())))

    assert len(series) == len(set(series))


def test_j1_a_mount_point_that_is_no_text(
    mounted: Mounting, serving: Serving, hostile_folder: Path
) -> None:
    mount = mounted(serving(SMALL), home=str(hostile_folder))
    label = printable(str(mount.root))
    assert scrape(mount)("pictofs_info", mountpoint=label) == 1


def test_j1_failures_show(mounted: Mounting, serving: Serving) -> None:
    server = serving(SMALL)
    mount = mounted(server, "--max-retries", "1", "--timeout", "5")
    mount.expected += ["open: ", "serving from the cache", "readdir: "]
    image = next(mount.datasets.glob("small/images/*/*"))
    server.faults.add(Fault(Match(host="api"), error(500)))
    with pytest.raises(OSError, match="Input/output error"):
        image.read_bytes()
    figures = scrape(mount)

    assert figures("pictofs_operations_total", operation="open", errno="EIO") == 1
    assert figures("pictofs_api_requests_total", status="500") == 2
    assert figures("pictofs_request_retries_total") == 1
    assert figures("pictofs_request_failures_total", error="ServerFault") == 1


def test_j1_evictions(mounted: Mounting, serving: Serving) -> None:
    mount = mounted(
        serving(Spec((DatasetSpec("d", images=30, size=100_000),))), "--cache-size", "1MB"
    )
    files_below(mount.datasets / "d/images")
    figures = scrape(mount)
    assert figures("pictofs_cache_evictions_total") > 15
    assert figures("pictofs_cache_evicted_bytes_total") > 1_500_000
    assert figures("pictofs_cache_bytes") <= figures("pictofs_cache_limit_bytes") == 1_000_000


def test_j1_what_is_fetched_ahead_counts_too(mounted: Mounting, serving: Serving) -> None:
    server = serving(Spec((DatasetSpec("d", images=200, size=20_000),)))
    mount = mounted(server, "--cache-size", "2MB", "--prefetch", "off")
    folder = mount.datasets / "d/images"
    names = sorted(str(path) for path in folder.rglob("*.jpg"))
    order = mount.root.parent / "order"
    order.write_text("\n".join(names))
    mount.pictofs("prefetch", folder, "--order", order)
    for name in names:
        Path(name).read_bytes()
    made = [each for each in server.log.requests() if each.host == "storage"]
    eventually(lambda: scrape(mount)("pictofs_storage_requests_total", status="200"), len(made))
    figures = scrape(mount)

    assert figures("pictofs_storage_requests_total", purpose="background") > 50
    assert figures("pictofs_prefetch_fetched_total", kind="images") > 50
    assert figures("pictofs_cache_evictions_total") >= 80


def test_j1_served_at_a_port(mounted: Mounting, serving: Serving) -> None:
    port = free_port()
    mount = mounted(serving(SMALL), "--prefetch", "off", "--metrics-port", str(port))
    files_below(mount.datasets)

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        served = Figures(answer.read().decode())

    assert served("pictofs_cache_misses_total") == scrape(mount)("pictofs_cache_misses_total") == 80

    more = served.families.keys() - scrape(mount).families.keys()
    assert more
    assert all(name.startswith("process_") for name in more)

    listening = Path(f"/proc/{mount.pid}/net/tcp").read_text()

    assert f" 0100007F:{port:04X} 00000000:0000 0A" in listening

    mount.unmount()
    with closing(socket.create_server(("127.0.0.1", port))):
        pass  # it is free again


@pytest.mark.parametrize("foreground", [True, False])
def test_m1_j1_a_port_that_is_taken(
    foreground: bool, mounted: Mounting, serving: Serving, tmp_path: Path
) -> None:
    mount = mounted(serving(SMALL))
    place = tmp_path / "other"
    place.mkdir()

    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [
                *(
                    sys.executable,
                    "-m",
                    "pictofs",
                    "mount",
                    str(place),
                    "--metrics-port",
                    str(port),
                ),
                *(["--foreground"] if foreground else []),
            ],
            env=mount.environ,
            capture_output=True,
            text=True,
            timeout=60,
        )

    assert done.returncode == 5
    assert done.stderr.splitlines()[-1] == (
        f"error: metrics can't be served at 127.0.0.1:{port}: Address already in use; "
        "name another port by --metrics-port"
    )
    assert "Traceback" not in done.stderr
    assert mount_table.mount_at(place) is None


def test_operations_are_in_the_status(mounted: Mounting, serving: Serving) -> None:
    mount = mounted(serving(SMALL))
    files_below(mount.datasets)
    operations = mount.status()["operations"]
    assert operations["open"]["ended"] >= 80
    assert operations["open"]["failed"] == 0


def test_j7_idle_connections_take_nothing_away(mounted: Mounting, serving: Serving) -> None:
    """Anybody on this machine may connect: files are opened, and figures given, all the same."""
    server = serving(SMALL)
    port = free_port()
    mount = mounted(server, "--metrics-port", str(port))
    before = len(os.listdir(f"/proc/{mount.pid}/fd"))

    with ExitStack() as stack:
        for number in range(300):
            idle = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            if number % 2:
                idle.sendall(b"GET /metrics HTTP/1.1\r\nX-Slow: ")

        eventually(lambda: len(os.listdir(f"/proc/{mount.pid}/fd")) <= before + 20, True)
        url = f"http://127.0.0.1:{port}/metrics"
        figures = Figures(urllib.request.urlopen(url, timeout=10).read().decode())

        assert figures("pictofs_server_reachable") == 1

        idle.settimeout(20)
        with suppress(ConnectionResetError):  # the last one is let go by its time
            assert idle.recv(1) == b""

    assert len(files_below(mount.datasets)) == 81


def test_j7_what_is_no_scrape(mounted: Mounting, serving: Serving) -> None:
    port = free_port()
    mounted(serving(SMALL), "--metrics-port", str(port))

    for request, status in (
        (b"GET /secret HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"GET / HTTP/1.0\r\n\r\n", b"200"),
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", b"200"),
        (b"x" * 20_000, b"431"),
        (b"\r\n\r\n", b"405"),
    ):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(request)
            assert connection.recv(12).split()[1] == status
