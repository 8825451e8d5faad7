"""Fixtures for every ring: stand-ins that are checked for leaked keys, and real mounts of them."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from standin import Organization, Spec, StandIn

pytest.register_assert_rewrite("mounting")
from mounting import HOSTILE_NAMES, ForeignFolder, Mount, Mounting, Serving  # noqa: E402 - it is rewritten only if that was said before

# A shell's background job ignores Ctrl-C, one below nohup SIGHUP, and so would every program that
# the tests start and signal: what is ignored stays so across exec.
signal.signal(signal.SIGINT, signal.default_int_handler)
for each in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
    signal.signal(each, signal.SIG_DFL)
signal.pthread_sigmask(
    signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM)
)

# Each client reads the authorities that it trusts, which takes 50 ms where they are the usual 150.
# No server of a test has a certificate of theirs. test_api_client.py asks once as a user does.
os.environ["SSL_CERT_FILE"] = str(Path(__file__).parent / "authority.pem")

# An example may take long where the machine is busy; that is no failure, and no test here measures
# time.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

SLOWEST = (
    "library/test_library_lengths.py",
    "library/test_sharing_cost.py",
    "user/test_another_user.py",
    "mount/test_mount_requests.py",
    "model/test_model.py",
    "mount/test_mount_changes.py",
    "library/test_download_job.py",
    "mount/test_mount_declared_order.py",
    "examples/test_examples.py",
    "cli/test_dataset_command.py",
    "mount/test_mount_remount.py",
    "mount/test_mount_tools.py",
    "cli/test_download_command.py",
    "cli/test_mount_command.py",
    "mount/test_mount_download.py",
    "library/test_export.py",
    "docs/test_pages_run.py",
    "endurance/test_endurance_kill.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slowest files: a worker takes whole ones, and would be alone with one that
    came last."""
    place = {Path(__file__).parent / name: number for number, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


@contextmanager
def _serving() -> Iterator[Serving]:
    with ExitStack() as stack:
        started = []

        def serve(made_of: Organization | Spec, **switches: Any) -> StandIn:
            started.append(stack.enter_context(StandIn(made_of, **switches)))
            return started[-1]

        yield serve
        for server in started:
            assert not server.log.key_leaks


@contextmanager
def _mounting(folder: Path) -> Iterator[Mounting]:
    if not os.path.exists("/dev/fuse"):
        pytest.skip("needs /dev/fuse")
    made: list[Mount] = []

    def mount(server: StandIn, *options: str, home: str | None = None, **settings: Any) -> Mount:
        made.append(Mount(server, folder / (home or f"home-{len(made)}"), *options, **settings))
        return made[-1]

    try:
        yield mount
        for each in made:
            if each.live:
                each.unmount()
    finally:
        for each in made:
            each.discard()


@pytest.fixture
def serving() -> Iterator[Serving]:
    """Starts stand-ins; afterwards no key may have reached storage."""
    with _serving() as serve:
        yield serve


@pytest.fixture
def mounted(tmp_path: Path, serving: Serving) -> Iterator[Mounting]:
    """Makes mounts; afterwards none may have met a bug or logged what was not expected.

    Settings: `home`, which two mounts one after the other may share (mount point, cache and log),
    `cache`, `key`.
    """
    with _mounting(tmp_path) as mount:
        yield mount


@pytest.fixture(scope="module")
def module_serving() -> Iterator[Serving]:
    """`serving` for the tests of a whole module."""
    with _serving() as serve:
        yield serve


@pytest.fixture(scope="module")
def module_mounted(
    tmp_path_factory: pytest.TempPathFactory, module_serving: Serving
) -> Iterator[Mounting]:
    """`mounted` for the tests of a whole module."""
    with _mounting(tmp_path_factory.mktemp("mounts")) as mount:
        yield mount


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 3 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m,mode=0700", "pictofs-test", folder]
    if subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("may not mount a tmpfs")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def foreign_folder(tmp_path: Path) -> Iterator[ForeignFolder]:
    """A folder to run commands in (`cwd=foreign_folder.path`); afterwards none may have imported
    what lies there."""
    made = ForeignFolder(tmp_path / "foreign")
    yield made
    assert made.imported == []


@pytest.fixture(params=HOSTILE_NAMES.values(), ids=HOSTILE_NAMES)
def hostile_folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with a name that programs trip over."""
    made = tmp_path / request.param
    made.mkdir()
    return made
