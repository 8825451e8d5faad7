"""Programs of others that test file systems, on the mount. What is left out, and why, is in
docs/suites.md."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from mounting import Mount, Mounting, Serving, run, walk

from standin import Organization

FIO, GO = shutil.which("fio"), shutil.which("go")
needs_fio = pytest.mark.skipif(FIO is None, reason="needs fio, of Debian's package of that name")
needs_go = pytest.mark.skipif(GO is None, reason="needs go, of Debian's package golang-go")
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
    done = subprocess.run(
        command, cwd=mount.datasets / "fio/images", capture_output=True, timeout=60
    )
    assert done.returncode != 0
    assert b"Read-only file system" in done.stdout + done.stderr


@needs_go
def test_l2_r1_gos_test_of_read_only_file_systems(
    mounted: Mounting, serving: Serving, tmp_path: Path
) -> None:
    program = tmp_path / "fstest"
    source = Path(__file__).with_name("fstest.go")
    cache = {
        **os.environ,
        "GOCACHE": str(tmp_path / "go"),
        "GO111MODULE": "off",
        "CGO_ENABLED": "0",
    }
    run(str(GO), "build", "-o", program, source, env=cache)
    organization = Organization()

    for name in ("one", "other"):
        dataset = organization.add_dataset(name)
        for number in reversed(
            range(12)
        ):  # the newest is listed first, and Go wants folders in order
            organization.add_image(dataset, f"{number:03d}.jpg", f"/part-{number % 3}", size=5000)

    # Go compares what a folder says of a file with what the file says once it is open.
    mount = mounted(serving(organization), "--annotation-sizes", "exact")
    names = [str(path.relative_to(mount.datasets)) for path in walk(mount.datasets)]

    assert len(names) == 48

    run(program, mount.datasets, *names)
    with pytest.raises(AssertionError):
        run(program, mount.datasets, "one/images/that-is-not-there.jpg")
