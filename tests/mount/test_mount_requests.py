"""What reading costs: API requests counted one by one, signed URLs in batches and without the
key."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mounting import (
    Mount,
    Mounting,
    Serving,
    Spent,
    active,
    annotation_bytes,
    eventually,
    image_bytes,
)

from standin import Organization, Spec, StandIn
from standin.faults import Fault, Match, error, throttled
from standin.records import Image

EMBED, URLS = "/datasets/{dataset}", "/datasets/{dataset}/download"


def files(server: StandIn, mount: Mount, name: str = "dataset-0") -> list[tuple[Path, Image]]:
    """The images of a dataset and their paths in the mount, a stride of them that covers every
    directory."""
    dataset = server.organization[name]
    return [
        (mount.datasets / name / "images" / image.directory_path.strip("/") / image.filename, image)
        for image in active(dataset)
    ]


def find(mount: Mount, name: str = "dataset-0") -> int:
    """How many lines `find images annotations` prints."""
    said = subprocess.check_output(["find", "images", "annotations"], cwd=mount.datasets / name)
    return said.count(b"\n")


def read(chosen: list[tuple[Path, Image]]) -> None:
    for path, image in chosen:
        assert path.read_bytes() == image_bytes(image)


def test_q2_1_000_datasets_cost_2_requests(mounted: Mounting, serving: Serving) -> None:
    server = serving(Spec.uniform(datasets=1000, images=1, size=500))
    before = Spent(server)
    assert len(os.listdir(mounted(server).datasets)) == 1000
    assert len(before.api) <= 2


def test_q1_find_reads_and_a_remount_of_10_000_images(mounted: Mounting, serving: Serving) -> None:
    server = serving(Spec.uniform(images=10_000, size=500, directories=50))
    mount = mounted(server, home="one")
    before = Spent(server)

    assert find(mount) == 2 * 10_000 + 2 * 50 + 2
    assert len(before.api) <= 4

    before = Spent(server)
    listed = subprocess.check_output(["ls", "-lR", mount.datasets / "dataset-0/annotations"])

    assert listed.count(b".json") == 10_000
    assert len(before.all) == 1  # Q5: whether an export is there that tells the sizes

    before = Spent(server)
    subprocess.check_output(["ls", "-lR", mount.datasets / "dataset-0/annotations/part-007"])

    assert before.all == []

    chosen = files(server, mount)[::33][:300]
    before = Spent(server)
    read(chosen)

    assert len(before.api) <= 2

    before = Spent(server)
    read(chosen)

    assert before.api == []

    mount.unmount()
    before = Spent(server)
    mount = mounted(server, home="one")

    assert find(mount) == 2 * 10_000 + 2 * 50 + 2

    read(chosen)

    assert len(before.api) <= 2

    fetched = [each.path for each in server.log.requests(host="storage")]

    assert len(fetched) == len(set(fetched))


@pytest.mark.parametrize("directories", [1, 50])
def test_q3_one_path_in_100_000_images_costs_3_requests(
    mounted: Mounting, serving: Serving, directories: int
) -> None:
    server = serving(Spec.uniform(images=100_000, size=500, directories=directories))
    before = Spent(server)
    mount = mounted(server)
    mounting = len(before.api)

    assert mounting == 1

    path, image = files(server, mount)[54_321]

    assert path.stat().st_size == image.size
    assert len(before.api) - mounting <= 3

    before = Spent(server)
    read([(path, image)])

    assert len(before.api) <= 1


def test_q3_opening_one_path_at_once_costs_3_requests(mounted: Mounting, serving: Serving) -> None:
    server = serving(Spec.uniform(images=100_000, size=500, directories=7))
    mount = mounted(server)
    before = Spent(server)
    read([files(server, mount)[54_321]])
    assert len(before.api) <= 3


def test_q4_a_dataset_of_12_500_images_of_mixed_status_costs_20_requests(
    mounted: Mounting, serving: Serving
) -> None:
    server = serving(Spec.uniform(images=12_500, size=500, directories=5))
    before = Spent(server)
    mount = mounted(server)
    every = "find . -type f -print0 | xargs -0 -n 200 -P 4 cat | wc -c"
    total = subprocess.check_output(every, shell=True, cwd=mount.datasets / "dataset-0/images")
    assert int(total) == 12_500 * 500
    assert len(before.api) <= 20
    read(files(server, mount)[::500])


def test_k1_bytes_come_from_storage_without_the_key(mounted: Mounting, serving: Serving) -> None:
    server = serving(Spec.uniform(images=60, size=500))
    mount = mounted(server)
    read(files(server, mount))
    requests = server.log.requests(host="storage")
    assert len(requests) >= 50
    assert not any(each.has_key for each in requests)
    assert server.log.key_leaks == []
    assert len({each.path for each in requests}) == len(requests)


def test_q4_expired_urls_are_replaced_by_one_batch(mounted: Mounting, serving: Serving) -> None:
    server = serving(Spec.uniform(images=1000, size=500))
    mount = mounted(server)
    chosen = files(server, mount)
    read(chosen[:100])
    # Their clock runs ahead of ours: what we hold for good is refused.
    server.clock.advance(100_000)
    before = Spent(server)
    server.faults.clear()
    read(chosen[::3])
    refused = [each for each in server.log.requests(host="storage") if each.status == 403]

    assert len([each for each in before.api if each.startswith(URLS)]) <= 2
    assert len(refused) <= 40
    assert len(before.api) <= 10


@pytest.mark.parametrize("status", [400, 403])
def test_an_expired_url_is_told_by_either_status(
    mounted: Mounting, serving: Serving, status: int
) -> None:
    server = serving(Spec.uniform(images=50, size=500), expired_status=status)
    mount = mounted(server)
    chosen = files(server, mount)
    read(chosen[:3])
    server.clock.advance(100_000)
    read(chosen)


def test_c5_one_file_is_downloaded_once_for_many_readers(
    mounted: Mounting, serving: Serving
) -> None:
    server = serving(Spec.uniform(images=3, size=100_000), storage_latency=0.1, api_latency=0.1)
    mount = mounted(server)
    paths = [path for path, _ in files(server, mount)]
    readers = [subprocess.Popen(["cat", *paths], stdout=subprocess.PIPE) for _ in range(8)]
    truth = b"".join(image_bytes(image) for _, image in files(server, mount))
    assert {reader.communicate(timeout=60)[0] for reader in readers} == {truth}
    sent = [each.path for each in server.log.requests() if each.bytes == 100_000]
    assert len(sent) == len({path.rpartition("/")[2] for path in sent}) == 3


def test_q5_annotations_cost_one_request_each_and_then_none(
    mounted: Mounting, serving: Serving
) -> None:
    server = serving(Spec.uniform(images=40, size=500))
    mount = mounted(server)
    folder = mount.datasets / "dataset-0/annotations"

    for _ in range(2):
        for image in server.organization["dataset-0"].images.values():
            assert (folder / f"{image.filename}.json").read_bytes() == annotation_bytes(
                server, image
            )

    fetched = server.log.requests(host="api", route="/annotations/{image_id:uuid}/file")

    assert len(fetched) == len({each.path for each in fetched}) == 40


def test_e1_a_spent_budget_is_ebusy_and_heals(mounted: Mounting, serving: Serving) -> None:
    server = serving(Spec.uniform(images=3, size=500))
    mount = mounted(server)
    chosen = files(server, mount)
    for path, _ in chosen:
        path.stat()
    mount.expected += [r"open: .*429", "serving from the cache alone"]
    fault = server.faults.add(Fault(on=Match(host="api"), do=throttled(retry_after=3000)))
    with pytest.raises(OSError, match="busy") as caught:
        chosen[0][0].read_bytes()

    assert caught.value.errno == errno.EBUSY

    server.faults.remove(fault)
    mount.pictofs(
        "refresh", mount.root
    )  # whoever says so asks at once; otherwise a probe a minute does (O6)
    eventually(lambda: _reads(chosen[0][0]), image_bytes(chosen[0][1]))


def test_t6_an_open_waits_for_the_limit(mounted: Mounting, serving: Serving) -> None:
    server = serving(Spec.uniform(images=3, size=500))
    mount = mounted(server, "--max-retries", "0", "--wait-for-limit", "60", "--prefetch", "off")
    chosen = files(server, mount)
    for path, _ in chosen:
        path.stat()
    mount.expected += ["no signed URLs", "serving from the cache alone"]
    fault = server.faults.add(Fault(on=Match(host="api"), do=throttled(retry_after=2), times=1))

    assert chosen[0][0].read_bytes() == image_bytes(chosen[0][1])
    assert fault.hits == 1

    server.faults.add(Fault(on=Match(host="api"), do=throttled(retry_after=50)))
    annotation = mount.datasets / "dataset-0/annotations" / f"{chosen[0][1].filename}.json"
    reader = subprocess.Popen([sys.executable, "-c", "import sys; open(sys.argv[1])", annotation])
    eventually(lambda: mount.log().count("open: waiting for"), 2)
    rate = mount.status()["rate"]

    assert rate["spent_until"] > time.time()
    assert rate["wait"] == 60
    assert chosen[0][0].read_bytes() == image_bytes(chosen[0][1])

    reader.send_signal(signal.SIGINT)

    assert reader.wait(20) == -signal.SIGINT


def _reads(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def test_e2_a_server_that_fails_now_and_then_is_not_noticed(
    mounted: Mounting, serving: Serving
) -> None:
    server = serving(Spec.uniform(images=30, size=500))
    mount = mounted(server)
    for host in ("api", "storage"):
        server.faults.add(Fault(on=Match(host=host), do=error(503), probability=0.1, seed=7))
    read(files(server, mount))


def test_e2_a_dataset_that_storage_has_lost_one_image_of(
    mounted: Mounting, serving: Serving
) -> None:
    """One bad item never hides its neighbours."""
    organization = Organization()
    dataset = organization.add_dataset("some")
    for number in range(6):
        organization.add_image(dataset, f"{number}.jpg", size=500)
    server = serving(organization)
    mount = mounted(server)
    mount.expected.append("open: ")
    chosen = files(server, mount, "some")
    lost = chosen[3][1]
    server.faults.add(Fault(on=Match(path=lost.id), do=error(404, "not_found")))

    for path, image in chosen:
        if image is lost:
            with pytest.raises(OSError, match=r"No such file|Input"):
                path.read_bytes()
        else:
            read([(path, image)])


def test_images_that_no_batch_reaches_keep_nobody_waiting(
    mounted: Mounting, serving: Serving
) -> None:
    """10,500 images of one status: the last 500 cost a request each, and what is fetched ahead is
    the rest."""
    server = serving(Spec.uniform(images=10_500, size=500, statuses="new"))
    mount = mounted(server)
    os.listdir(mount.datasets / "dataset-0/images")
    chosen = files(server, mount)
    before = Spent(server)
    read(chosen[:60])

    assert len(before.api) <= 62

    before = Spent(server)
    read(chosen[600:660])

    assert before.api == []
    assert "trying again" not in mount.log()
    assert "fetching nothing ahead" not in mount.log()
