"""Programs of others that test file systems, on the mount. What is left out, and why, is in docs/suites.md."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import Mounting, Serving
from mounting import Mount, run

from standin import Organization

FIO = shutil.which("fio")
needs_fio = pytest.mark.skipif(FIO is None, reason="needs fio, of Debian's package of that name")
SIZES = {"small.bin": 65_536, "middle.bin": 1 << 20, "large.bin": 12 << 20}
"""One of a single piece, one of many, one above 8 MiB that is served while it arrives."""
BLOCK = 4096


def fio(folder: Path, *arguments: str) -> str:
    """One job per file of `SIZES`; fio fails by the first block that is not what it wrote."""
    jobs = []
    for name, size in SIZES.items():
        jobs += [f"--name={name}", f"--filename={name}", f"--size={size}"]
    common = [
        "--verify=crc32c",
        "--verify_fatal=1",
        f"--bs={BLOCK}",
        "--verify_state_save=0",
        "--ioengine=psync",
    ]
    # `cwd`: fio takes a colon in a path for the end of it.
    return run(str(FIO), *common, *arguments, *jobs, cwd=folder)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files whose blocks carry their own checksums."""
    folder = tmp_path_factory.mktemp("fio")
    fio(folder, "--rw=write", "--do_verify=0")
    return folder


@pytest.fixture
def mount(mounted: Mounting, serving: Serving, written: Path) -> Mount:
    organization = Organization()
    dataset = organization.add_dataset("fio")
    for name in SIZES:
        organization.add_image(dataset, name, blob=(written / name).read_bytes())

    return mounted(serving(organization))


@needs_fio
@pytest.mark.parametrize(
    "how",
    [
        ("--rw=read",),
        ("--rw=randread", "--invalidate=1"),
        ("--rw=randread", "--ioengine=mmap"),
        ("--rw=randread", "--ioengine=libaio", "--iodepth=16"),
        ("--rw=read", "--direct=1"),
    ],
    ids=" ".join,
)
def test_b1_b6_fio_verifies_what_it_wrote(mount: Mount, how: tuple[str, ...]) -> None:
    said = fio(mount.datasets / "fio/images", "--readonly", *how)
    assert said.count("err= 0") == len(SIZES)


@needs_fio
def test_b1_fio_would_find_a_wrong_byte(written: Path, tmp_path: Path) -> None:
    for name in SIZES:
        shutil.copy(written / name, tmp_path / name)
    with open(tmp_path / "middle.bin", "r+b") as file:
        file.seek(500_000)
        file.write(b"wrong")
    with pytest.raises(AssertionError, match="verify"):
        fio(tmp_path, "--readonly", "--rw=read")


@needs_fio
def test_r1_fio_can_not_write(mount: Mount) -> None:
    command = [str(FIO), "--name=w", "--filename=small.bin", "--rw=write", "--bs=4k", "--size=64k"]
    done = subprocess.run(command, cwd=mount.datasets / "fio/images", capture_output=True, timeout=60)
    assert done.returncode != 0
    assert b"Read-only file system" in done.stdout + done.stderr
