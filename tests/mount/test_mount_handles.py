"""File handles, as an NFS server gives them to its clients: good for as long as the file is
there."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from mounting import Mount, Mounting, Serving, eventually, walk

from standin import PRESETS, StandIn

AT_FDCWD = -100
HANDLE_MAX = 128
DROP_CACHES = Path("/proc/sys/vm/drop_caches")

_libc = ctypes.CDLL(None, use_errno=True)

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root opens by handle and drops caches"
)


class Handle(ctypes.Structure):
    """struct file_handle."""

    _fields_ = [
        ("bytes", ctypes.c_uint),
        ("type", ctypes.c_int),
        ("handle", ctypes.c_ubyte * HANDLE_MAX),
    ]


def handle_of(path: Path) -> Handle:
    """The handle of a path."""
    handle, mount_id = Handle(bytes=HANDLE_MAX), ctypes.c_int()
    code = _libc.name_to_handle_at(
        AT_FDCWD, os.fsencode(path), ctypes.byref(handle), ctypes.byref(mount_id), 0
    )
    assert code == 0, os.strerror(ctypes.get_errno())
    return handle


def opened(root: int, handle: Handle, flags: int = os.O_RDONLY) -> int:
    """A descriptor of what a handle stands for; raises OSError."""
    descriptor = _libc.open_by_handle_at(root, ctypes.byref(handle), flags)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(descriptor)


def forget() -> None:
    """Have the kernel drop every inode that nobody has open."""
    try:
        DROP_CACHES.write_text("2")
    except OSError:
        pytest.skip("caches can't be dropped here")


@pytest.fixture
def server(serving: Serving) -> StandIn:
    return serving(PRESETS["small"]())


@pytest.fixture
def mount(mounted: Mounting, server: StandIn) -> Mount:
    return mounted(server, "--metadata-ttl", "1")


@pytest.fixture
def root(mount: Mount) -> Iterator[int]:
    descriptor = os.open(mount.root, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def test_i4_a_handle_outlives_the_memory_of_the_kernel(mount: Mount, root: int) -> None:
    files = {path: path.read_bytes() for path in walk(mount.datasets / "small")}
    handles = {path: (handle_of(path), path.stat().st_ino) for path in files}
    forget()
    for path, (handle, inode) in handles.items():
        descriptor = opened(root, handle)
        with open(descriptor, "rb") as file:
            assert os.fstat(descriptor).st_ino == inode
            assert file.read() == files[path]


def test_i4_a_folder_is_found_again_with_the_way_to_it(mount: Mount, root: int) -> None:
    folders = [Path(base) for base, _, _ in os.walk(mount.root)]
    assert len(folders) > 6
    handles = {path: handle_of(path) for path in folders}
    names = {path: sorted(os.listdir(path)) for path in folders}
    forget()
    for path, handle in handles.items():
        descriptor = opened(root, handle, os.O_RDONLY | os.O_DIRECTORY)
        assert os.readlink(f"/proc/self/fd/{descriptor}") == str(path)
        assert sorted(os.listdir(descriptor)) == names[path]
        os.close(descriptor)


def test_i4_files_of_views_and_links_are_found_by_their_handles(mount: Mount, root: int) -> None:
    view = mount.datasets / "small/by-status"
    for path in walk(view):
        handle, data = handle_of(path), path.read_bytes()
        forget()
        with open(opened(root, handle), "rb") as file:
            assert file.read() == data
        return


def test_i4_the_handle_of_what_is_gone_is_stale(mount: Mount, server: StandIn, root: int) -> None:
    image = next(iter(server.organization["small"].images.values()))
    path = next(
        path for path in walk(mount.datasets / "small/images") if path.name == image.filename
    )
    handle = handle_of(path)
    server.organization.remove_image(image)
    mount.pictofs("refresh", mount.root)
    eventually(path.exists, False)
    forget()
    with pytest.raises(OSError, match="Stale") as stale:
        opened(root, handle)

    assert stale.value.errno == errno.ESTALE
