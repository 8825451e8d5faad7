"""A plain folder of the user's that gets copies of files: each is there whole, or not at all.

    ROOT/<folders>/<file>             finished files, and whatever else the user keeps there
    ROOT/.pictofs-download/<number>   files on their way; the next run removes those of a killed one

Paths are relative to ROOT, in parts. When something is written, no symbolic link below ROOT is
followed, whatever the parts say: each folder is opened from the one above it. There is no fsync:
after a power cut sizes and checksums show what is whole.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

import google_crc32c

from pictofs.errors import AlreadyExists, Conflict, DiskFull, Forbidden, Invalid, PictofsError
from pictofs.store.checksum import checksum

PARTIAL = b".pictofs-download"

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a named pipe must not hang the event loop.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_IN_THE_WAY = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENOTEMPTY)
_DENIED = (errno.EACCES, errno.EPERM)
_NAMES = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)
_NO_RANGES = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)
"""Errors of `copy_file_range` at which the bytes are copied by this process instead."""

_NO_LINKS = (errno.EPERM, errno.EXDEV, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOENT)
"""Errors of `link` at which the file is brought again instead."""

_PIECE = 1 << 20

_GRAINS = (1, 100, 1_000, 1_000_000, 10_000_000, 1_000_000_000, 2_000_000_000)
"""Nanoseconds to which file systems cut times: 1 for most, 100 NTFS, 10 ms exFAT, 2 s FAT."""

_MOMENT = 1_700_000_001_123_456_789
"""Nanoseconds since the epoch: a time that each of them keeps differently."""


class FolderUnusable(DiskFull):
    """The folder's disk takes no more: full, read-only, gone."""


class Folder:
    """One folder, for one process at a time. Every method may block, but only large copies for
    long."""

    def __init__(self, root: Path) -> None:
        """Open or make `root`, which may be a link, and remove the partial files of a killed run.

        Raises Conflict if another process is writing to it, AlreadyExists for a file in its place,
        Forbidden, FolderUnusable.
        """
        self.root = root
        self._numbers = itertools.count()

        with self._errors("making it"):
            root.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

        try:
            self._lock()
            with self._errors("making it"):
                self._partial = self._open_partial()
                self._grain = self._probed()
        except BaseException:
            os.close(self._fd)
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(
                f"another pictofs download is writing to {self.root}: wait for its end"
            ) from error
        except OSError:
            pass  # a file system without locks, as NFS may be

    def _open_partial(self) -> int:
        with suppress(FileExistsError):
            os.mkdir(PARTIAL, 0o700, dir_fd=self._fd)

        fd = os.open(PARTIAL, _FOLDER & ~os.O_PATH, dir_fd=self._fd)
        try:
            for name in os.listdir(fd):
                os.unlink(name, dir_fd=fd)
        except BaseException:
            os.close(fd)
            raise

        return fd

    def _probed(self) -> int:
        """The nanoseconds to which the file system cuts times."""
        with self.partial_file() as partial_file:
            kept = partial_file.timed(_MOMENT)

        return next((grain for grain in _GRAINS if kept == _MOMENT - _MOMENT % grain), _GRAINS[-1])

    def close(self) -> None:
        """Release the folder for others, and leave only finished files in it."""
        os.close(self._partial)
        with suppress(OSError):
            os.rmdir(PARTIAL, dir_fd=self._fd)
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def free(self) -> int:
        """Free bytes of the disk."""
        found = os.fstatvfs(self._fd)
        return found.f_bavail * found.f_frsize

    # Questions: 3 us, or 15 us for an annotation file that is read through.

    def holds(self, path: Sequence[str], size: int, mtime_ns: int) -> bool:
        """Whether there is a file of `size` bytes and that time."""
        try:
            found = os.stat(b"/".join(_spelled(path)), dir_fd=self._fd, follow_symlinks=False)
        except OSError:
            return False
        same_time = found.st_mtime_ns // self._grain == mtime_ns // self._grain
        return stat.S_ISREG(found.st_mode) and found.st_size == size and same_time

    def holds_content(self, path: Sequence[str], size: int, crc32c: int) -> bool:
        """Whether there is a file of `size` bytes and that checksum."""
        try:
            fd = os.open(b"/".join(_spelled(path)), _READ, dir_fd=self._fd)
        except OSError:
            return False

        try:
            found = os.fstat(fd)
            return (
                stat.S_ISREG(found.st_mode)
                and found.st_size == size
                and checksum(fd, size) == crc32c
            )
        except OSError:
            return False
        finally:
            os.close(fd)

    def holds_bytes(self, path: Sequence[str], data: bytes) -> bool:
        """Whether there is a file of that content."""
        return self.holds_content(path, len(data), google_crc32c.value(data))

    # Changes.

    def link(self, there: Sequence[str], path: Sequence[str]) -> bool:
        """Give the file at `there` the name `path`, too; a regular file of that name is replaced.

        False if the file system has no hard links, or the file no more. Raises what
        `PartialFile.commit` raises.
        """
        name = b"%d" % next(self._numbers)
        *folders, source = _spelled(there)
        with self._errors(f"linking {'/'.join(path)}"):
            at = self._open(folders)
            try:
                os.link(
                    source, name, src_dir_fd=at, dst_dir_fd=self._partial, follow_symlinks=False
                )
            except OSError as error:
                if error.errno in _NO_LINKS:
                    return False
                raise
            finally:
                self._close(at)

            try:
                self._commit(name, path)
            finally:
                # Of a link to the very same file `rename` does nothing, and leaves both.
                self._discard(name)

        return True

    def make(self, path: Sequence[str]) -> None:
        """Make a folder at `path`, if there is none. Raises AlreadyExists if something else is
        there."""
        with self._errors(f"making {'/'.join(path)}"):
            self._close(self._open(_spelled(path)))

    def put(self, path: Sequence[str], data: bytes, mtime_ns: int) -> None:
        """Write a file of that content and time; 80 us for 100 KiB. Raises what `commit` raises."""
        with self.partial_file() as partial_file:
            partial_file.write(0, data)
            partial_file.commit(path, mtime_ns)

    def partial_file(self) -> PartialFile:
        """A file that has no name yet. Raises FolderUnusable."""
        name = b"%d" % next(self._numbers)
        with self._errors("starting a file"):
            return PartialFile(self, name, os.open(name, _NEW, 0o666, dir_fd=self._partial))

    def _open(self, names: Sequence[bytes]) -> int:
        """A descriptor of the folder at `names`, to be closed by `_close`. Missing folders are
        made."""
        at = self._fd
        try:
            for name in names:
                try:
                    below = os.open(name, _FOLDER, dir_fd=at)
                except FileNotFoundError:
                    with suppress(FileExistsError):
                        os.mkdir(name, dir_fd=at)

                    below = os.open(name, _FOLDER, dir_fd=at)

                self._close(at)
                at = below
        except BaseException:
            self._close(at)
            raise

        return at

    def _close(self, fd: int) -> None:
        if fd != self._fd:
            os.close(fd)

    def _commit(self, name: bytes, path: Sequence[str]) -> None:
        """Rename a partial file to `path`, over a regular file. Raises OSError, AlreadyExists,
        Invalid."""
        *folders, target = _spelled(path)
        at = self._open(folders)
        try:
            with suppress(FileNotFoundError):
                mode = os.stat(target, dir_fd=at, follow_symlinks=False).st_mode
                if not stat.S_ISREG(mode):
                    raise AlreadyExists(f"{_kind(mode)} is in the way: {self._shown(path)}")

            os.rename(name, target, src_dir_fd=self._partial, dst_dir_fd=at)
        finally:
            self._close(at)

    def _discard(self, name: bytes) -> None:
        with suppress(OSError):
            os.unlink(name, dir_fd=self._partial)

    def _shown(self, path: Sequence[str]) -> str:
        return "/".join([str(self.root), *path])

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        """Raise the project's errors in place of OSError."""
        try:
            yield
        except OSError as error:
            raise self._named(doing, error) from error

    def _named(self, doing: str, error: OSError) -> PictofsError:
        said = f"{self.root}: {doing} failed: {error.strerror or error}"
        if error.errno in _IN_THE_WAY:
            return AlreadyExists(f"{said}: a file or a symbolic link is in the way")
        if error.errno in _DENIED:
            return Forbidden(said)
        if error.errno in _NAMES:
            return Invalid(f"{said}: its file system can't hold such a name")

        return FolderUnusable(said)


class PartialFile:
    """A file on its way. As a context manager it is discarded unless committed."""

    def __init__(self, folder: Folder, name: bytes, fd: int) -> None:
        """Made by `Folder.partial_file`."""
        self._folder = folder
        self._name = name
        self._fd = fd
        self._landed = False

    def write(self, offset: int, data: bytes) -> None:
        """Write all of `data`. Raises FolderUnusable."""
        with self._folder._errors("writing"):
            done = os.pwrite(self._fd, data, offset)
            while done < len(data):
                done += os.pwrite(self._fd, memoryview(data)[done:], offset + done)

    def copy(self, fd: int, size: int) -> None:
        """Take the first `size` bytes of another file, by reference if the file system can.

        Raises FolderUnusable, also if the other file has fewer bytes.
        """
        with self._folder._errors("writing"):
            done = 0
            while done < size:
                moved = self._moved(fd, done, size - done)
                if not moved:
                    raise OSError(errno.EIO, "the file to copy was cut")

                done += moved

    def _moved(self, fd: int, offset: int, count: int) -> int:
        """Copy at most `count` bytes at `offset` from `fd`; how many."""
        try:
            return os.copy_file_range(fd, self._fd, count, offset, offset)
        except OSError as error:
            if error.errno not in _NO_RANGES:
                raise
        return os.pwrite(self._fd, os.pread(fd, min(count, _PIECE), offset), offset)

    def truncate(self) -> None:
        """Drop what was written, to begin anew. Raises FolderUnusable."""
        with self._folder._errors("writing"):
            os.ftruncate(self._fd, 0)

    def timed(self, mtime_ns: int) -> int:
        """Set the time of the file; the time that the file system keeps, in nanoseconds."""
        os.utime(self._fd, ns=(mtime_ns, mtime_ns))
        return os.fstat(self._fd).st_mtime_ns

    def commit(self, path: Sequence[str], mtime_ns: int) -> None:
        """Give the file its name and time. A regular file of that name is replaced.

        Raises AlreadyExists if a folder, a link or anything else is in the way, Invalid for a name
        that the disk can't hold, Forbidden, FolderUnusable.
        """
        with self._folder._errors(f"writing {'/'.join(path)}"):
            os.utime(self._fd, ns=(mtime_ns, mtime_ns))
            self._folder._commit(self._name, path)

        self._landed = True

    def close(self) -> None:
        """Close the file, and discard it unless committed. Never fails."""
        if self._fd < 0:
            return

        fd = self._fd
        self._fd = -1
        os.close(fd)
        if not self._landed:
            self._folder._discard(self._name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _spelled(path: Sequence[str]) -> list[bytes]:
    """The parts as bytes. Raises Invalid for a part that is no file name: it might lead
    elsewhere."""
    names = [part.encode() for part in path]
    for name in names:
        if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
            raise Invalid(f"{name!r} is no name of a file")
    return names


def _kind(mode: int) -> str:
    if stat.S_ISLNK(mode):
        return "a symbolic link"
    return "a folder" if stat.S_ISDIR(mode) else "something that is no file"
