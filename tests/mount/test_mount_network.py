"""Networks as people have them: connections that die without a sign, servers that are slow, limits
that are spent."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mounting import Mounting, Serving, Spent, eventually, files_below, image_bytes

from pictofs.errors import Throttled
from standin import Fault, Match, Spec
from standin.dataset import Dataset
from standin.faults import Hang, Silent, error, throttled

FILES = 60


def spec(files: int = FILES) -> Spec:
    return Spec.uniform(1, files, 5000, directories=1)


def images(root: Path) -> list[Path]:
    """The image files of the only dataset, as listed."""
    (dataset,) = (root / "datasets").iterdir()
    return sorted(path for path in dataset.glob("images/**/*") if path.is_file())


def contents(server_dataset: Dataset) -> set[bytes]:
    return {image_bytes(image) for image in server_dataset.images.values()}


def test_t4_a_mount_reads_on_when_every_connection_has_died(
    serving: Serving, mounted: Mounting
) -> None:
    server = serving(spec())
    mount = mounted(server, "--prefetch", "off", "--metadata-ttl", "1")
    paths = images(mount.root)
    (dataset,) = server.organization.datasets.values()

    with ThreadPoolExecutor(16) as pool:
        got = list(pool.map(Path.read_bytes, paths[: FILES // 2]))
        server.faults.add(Fault(Match(), Silent()))
        got += pool.map(Path.read_bytes, paths[FILES // 2 :])

    assert set(got) == contents(dataset)

    server.faults.add(Fault(Match(), Silent()))
    server.organization.add_dataset("new")
    eventually(lambda: "new" in os.listdir(mount.datasets), True)


def test_t4_the_worker_goes_on_when_every_connection_has_died(
    serving: Serving, mounted: Mounting
) -> None:
    server = serving(spec(200))
    mount = mounted(server)
    paths = images(mount.root)
    (dataset,) = server.organization.datasets.values()
    got = [path.read_bytes() for path in paths[:50]]
    server.faults.add(Fault(Match(), Silent()))
    got += [path.read_bytes() for path in paths[50:]]
    assert set(got) == contents(dataset)


@pytest.mark.parametrize("do", [Hang(), error(503)], ids=["silent", "503"])
def test_f7_what_is_known_is_shown_before_the_server_has_answered(
    serving: Serving, mounted: Mounting, do: object
) -> None:
    server = serving(spec(10))
    mount = mounted(server, "--metadata-ttl", "1", "--timeout", "300", "--prefetch", "off")
    mount.expected = ["serving from the cache alone"]
    before = files_below(mount.datasets)
    fault = server.faults.add(Fault(on=Match("api"), do=do))  # type: ignore[arg-type]
    eventually(lambda: fault.hits > 0 or not os.listdir(mount.datasets), True)

    # An attempt may take 100 s: whoever waited for one would not be back in time.
    assert set(files_below(mount.datasets)) == set(before)

    server.faults.remove(fault)


def test_o6_a_spent_limit_is_not_asked_for_at_each_open(
    serving: Serving, mounted: Mounting
) -> None:
    server = serving(spec(400))
    mount = mounted(server, "--prefetch", "off")
    mount.expected = [r"no signed URLs", r"rate limit", r"EBUSY", r"not asked again", r"HTTP 429"]
    paths = images(mount.root)
    cached = paths[0].read_bytes()
    server.faults.add(Fault(on=Match("api"), do=throttled(3598)))
    spent = Spent(server)

    for _ in range(2):
        for path in paths[1:]:
            with pytest.raises(OSError, match="busy") as caught:
                path.read_bytes()
            assert caught.value.errno == Throttled.errno
        assert paths[0].read_bytes() == cached

    assert os.listdir(mount.datasets)
    # One that was refused, and one a minute that looks.
    assert 1 <= len(spent.api) <= 3

    server.faults.clear()
    mount.pictofs("refresh", mount.datasets)

    assert paths[1].read_bytes()


def test_o6_a_revoked_key_is_not_shown_at_each_open(serving: Serving, mounted: Mounting) -> None:
    server = serving(spec(200))
    mount = mounted(server, "--prefetch", "off")
    mount.expected = [r"refused the API key from ", r"no signed URLs"]
    paths = images(mount.root)
    server.faults.add(Fault(on=Match("api"), do=error(401, "unauthorized")))
    spent = Spent(server)
    for path in paths:
        with pytest.raises(PermissionError):
            path.read_bytes()
    assert 1 <= len(spent.api) <= 4


def test_k6_a_hostile_server_gets_nothing_from_this_machine(
    serving: Serving, mounted: Mounting
) -> None:
    """The machine's own metadata service is the address that such a server wants most."""
    from standin.faults import each_row

    server = serving(spec(20))

    def elsewhere(row: dict[str, object]) -> dict[str, object]:
        url = str(row["image_url"])
        return row | {"image_url": "https://169.254.169.254/latest" + url[url.index("/", 8) :]}

    server.faults.add(
        Fault(on=Match("api", None, "/datasets/{dataset}/download"), do=each_row(elsewhere))
    )
    mount = mounted(server, "--prefetch", "off")
    paths = images(mount.root)
    (dataset,) = server.organization.datasets.values()
    wanted = {image.filename: image_bytes(image) for image in dataset.images.values()}
    for path in paths:  # by the API's own route, where a URL is not taken
        assert path.read_bytes() == wanted[path.name]

    assert "no server can be at 169.254.169.254" in mount.log()
