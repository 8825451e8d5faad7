"""A model of what Linux remembers of a mount: names, attributes and pages, above `pictofs.fuse` and
without /dev/fuse.

`fs/fuse` of Linux, as far as it can show or cut something wrong:

- a name leads to its inode, and an inode has its attributes, for as long as the reply has said; each reply to `lookup`,
  `getattr` and `readdir` (which pyfuse3 always answers as if each entry was looked up) replaces what was known;
- `read` is cut at the size that is known, whatever the server could give; only attributes that ran out are asked for
  again. This is how a size that was told wrong, and for long, becomes a cut file without an error;
- pages stay until `open` answers without `keep_cache`, or the size or the time changes;
- what pyfuse3's notifications drop is dropped: attributes (and pages), or a name with all below it.

A folder's handle is read as a program with a small buffer does: a few entries at a time, with
anything in between.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pyfuse3
from rig import Mount

from pictofs.fuse.operations import Operations
from pictofs.model.inode import ROOT

PAGE = 4096
NOBODY = cast(pyfuse3.RequestContext, SimpleNamespace(pid=0, uid=0, gid=0))
_interrupts: ContextVar[Kernel] = ContextVar("kernel")
"""The kernel whose request is being answered, which notifications from its handler mean."""


@dataclass
class Known:
    """What is known of an inode."""

    mode: int
    size: int
    mtime_ns: int
    until: float

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.mode)


@dataclass
class _Reply:
    """A buffer of `readdir`."""

    folder: int
    room: int
    entries: list[tuple[str, int, int]] = field(default_factory=list)


@dataclass(eq=False)
class File:
    """A file that a program has open."""

    path: str
    inode: int
    handle: pyfuse3.FileHandleT
    direct: bool


@dataclass(eq=False)
class Folder:
    """A folder that a program has open, and how far it has read."""

    path: str
    inode: int
    handle: pyfuse3.FileHandleT
    cookie: int = 0
    names: list[str] = field(default_factory=list)


class Kernel:
    """One mount, as programs see it."""

    def __init__(self, mount: Mount) -> None:
        self.mount = mount
        self.operations = Operations(mount.tree, timeout=60, uid=0, gid=0, umask=0)
        self._names: dict[tuple[int, str], tuple[int, float]] = {}
        self._known: dict[int, Known] = {}
        self._pages: dict[int, dict[int, bytes]] = {}

    # What programs do.

    async def look(self, path: str, *, anew: bool = False) -> tuple[int, Known]:
        """`stat`. `anew`: ask for each part, whatever is known, as after ESTALE."""
        self._hear()
        inode = ROOT
        for name in path.strip("/").split("/"):
            found, until = self._names.get((inode, name), (0, 0.0))
            if anew or self._now >= until:
                found = await self._lookup(inode, name)
            inode = found
        return inode, await self._attributes(inode)

    async def open(self, path: str) -> File:
        """`open`, which looks the path up once more where the inode is stale."""
        inode, _ = await self.look(path)
        try:
            return await self._open(path, inode)
        except pyfuse3.FUSEError as error:
            if error.errno != errno.ESTALE:
                raise
        inode, _ = await self.look(path, anew=True)
        return await self._open(path, inode)

    async def size(self, file: File) -> int:
        """`fstat`."""
        return (await self._attributes(file.inode)).size

    def shown(self, file: File) -> int | None:
        """The size that is known of it and is believed now; None where it would be asked for."""
        known = self._known.get(file.inode)
        return known.size if known is not None and self._now < known.until else None

    async def read(self, file: File, offset: int, length: int) -> bytes:
        """`pread`."""
        if file.direct:
            with self._asks():
                return await self.operations.read(file.handle, offset, length)

        known = await self._attributes(file.inode)
        end = min(offset + length, known.size)
        pages = self._pages.setdefault(file.inode, {})
        first, last = offset // PAGE, -(-end // PAGE)
        missing = [number for number in range(first, last) if number not in pages]

        if missing:
            await self._fill(file, missing[0] * PAGE, (missing[-1] + 1) * PAGE)
            end = min(end, self._known[file.inode].size)

        data = b"".join(pages.get(number, b"").ljust(PAGE, b"\0") for number in range(first, last))
        return data[offset - first * PAGE : max(0, end - first * PAGE)]

    async def content(self, path: str, piece: int) -> bytes:
        """What `cat` reads: to the end."""
        file = await self.open(path)

        try:
            parts, at = [], 0
            while part := await self.read(file, at, piece):
                parts.append(part)
                at += len(part)

            if not file.direct:
                assert await self.size(file) == at, f"{path}: fstat and the content differ"
            return b"".join(parts)
        finally:
            await self.close(file)

    async def close(self, file: File) -> None:
        with self._asks():
            await self.operations.release(file.handle)

    async def open_folder(self, path: str) -> Folder:
        inode, known = await self.look(path)
        if not known.is_folder:
            raise pyfuse3.FUSEError(errno.ENOTDIR)
        with self._asks():
            return Folder(path, inode, await self.operations.opendir(pyfuse3.InodeT(inode), NOBODY))

    async def read_folder(self, folder: Folder, most: int) -> list[tuple[str, int]]:
        """`getdents` with a buffer of `most` entries: names and inodes; none at the end."""
        self._hear()
        reply = _Reply(folder.inode, most)
        with self._asks():
            token = cast(pyfuse3.ReaddirToken, reply)
            await self.operations.readdir(folder.handle, folder.cookie, token)
        for _, _, folder.cookie in reply.entries:
            pass
        folder.names += [name for name, _, _ in reply.entries]
        return [(name, inode) for name, inode, _ in reply.entries]

    async def close_folder(self, folder: Folder) -> None:
        with self._asks():
            await self.operations.releasedir(folder.handle)

    async def list(self, path: str, most: int = 24) -> list[tuple[str, int]]:
        """The entries of a folder, each of which comes once. 24: those of 4 KiB."""
        folder = await self.open_folder(path)
        found: list[tuple[str, int]] = []

        try:
            while batch := await self.read_folder(folder, most):
                found += batch
        finally:
            await self.close_folder(folder)

        names = [name for name, _ in found]

        assert len(set(names)) == len(names), f"{path}: an entry came twice"

        return found

    async def walk(self, path: str = "/datasets") -> dict[str, bytes | None]:
        """Path -> content of everything below `path`; None for folders."""
        return {name: data async for name, data in self._walked(path)}

    async def _walked(self, path: str) -> AsyncIterator[tuple[str, bytes | None]]:
        for name, listed in await self.list(path):
            below = f"{path}/{name}"
            inode, known = await self.look(below)
            assert inode == listed, below
            if known.is_folder:
                yield below, None
                async for each in self._walked(below):
                    yield each
            else:
                yield below, await self.content(below, 1 << 17)

    def forget_name(self, folder: int, name: str) -> None:
        """A program has changed what a name leads to, through this kernel."""
        self._names.pop((folder, name), None)

    # What pyfuse3 tells it.

    def told_entry(
        self, reply: Any, name: bytes, attributes: pyfuse3.EntryAttributes, cookie: int
    ) -> bool:
        """One entry of a folder; False where the program's buffer is full."""
        if len(reply.entries) >= reply.room:
            return False
        text = name.decode()
        reply.entries.append((text, attributes.st_ino, cookie))
        self._names[reply.folder, text] = attributes.st_ino, self._now + attributes.entry_timeout
        self._keep(attributes)
        return True

    def told_inode(self, inode: int, attr_only: bool = False) -> None:
        """Attributes are to be forgotten, and pages."""
        if inode in self._known:
            self._known[inode].until = 0.0
        if not attr_only:
            self._pages.pop(inode, None)

    def told_data(self, inode: int, offset: int, data: bytes) -> None:
        """Bytes for the pages; the size grows with them."""
        known = self._known.get(inode)
        if known is None:
            raise FileNotFoundError(inode)
        known.size = max(known.size, offset + len(data))
        self._pages.pop(inode, None)  # not whole pages: read anew

    def told_name(self, folder: int, name: bytes) -> None:
        """A name is to be forgotten, and all below it."""
        found = self._names.pop((folder, name.decode()), None)
        if found is None:
            raise FileNotFoundError(name)
        below = [found[0]]
        while below:
            inode = below.pop()
            for key in [key for key in self._names if key[0] == inode]:
                below.append(self._names.pop(key)[0])

    # Within.

    @property
    def _now(self) -> float:
        return self.mount.clock.monotonic()

    @contextmanager
    def _asks(self) -> Iterator[None]:
        token = _interrupts.set(self)
        try:
            yield
        finally:
            _interrupts.reset(token)

    def _hear(self) -> None:
        """Take what the session would pass on meanwhile."""
        incoming = self.mount.library.invalidations.incoming
        while incoming.statistics().current_buffer_used:
            folder, name = incoming.receive_nowait()
            with suppress(FileNotFoundError):
                self.told_name(folder, name.encode())

    def _keep(self, attributes: pyfuse3.EntryAttributes) -> int:
        inode, size, mtime_ns = attributes.st_ino, attributes.st_size, attributes.st_mtime_ns
        before = self._known.get(inode)
        if before is not None and (before.size, before.mtime_ns) != (size, mtime_ns):
            self._pages.pop(inode, None)
        until = self._now + attributes.attr_timeout
        self._known[inode] = Known(attributes.st_mode, size, mtime_ns, until)
        return int(inode)

    async def _lookup(self, folder: int, name: str) -> int:
        with self._asks():
            asked = pyfuse3.FileNameT(name.encode())
            found = await self.operations.lookup(pyfuse3.InodeT(folder), asked, NOBODY)
        self._names[folder, name] = found.st_ino, self._now + found.entry_timeout
        return self._keep(found)

    async def _attributes(self, inode: int) -> Known:
        known = self._known.get(inode)
        if known is None or self._now >= known.until:
            with self._asks():
                self._keep(await self.operations.getattr(pyfuse3.InodeT(inode), NOBODY))
        return self._known[inode]

    async def _open(self, path: str, inode: int) -> File:
        with self._asks():
            opened = await self.operations.open(pyfuse3.InodeT(inode), pyfuse3.FlagT(0), NOBODY)
        if not opened.keep_cache:
            self._pages.pop(inode, None)
        return File(path, inode, opened.fh, opened.direct_io)

    async def _fill(self, file: File, start: int, stop: int) -> None:
        """Fetch pages. A short answer is the file's end, and its size from then on."""
        known, pages = self._known[file.inode], self._pages[file.inode]

        while start < stop:
            asked = min(stop - start, 1 << 17)
            with self._asks():
                data = await self.operations.read(file.handle, start, asked)
            for place in range(0, len(data), PAGE):
                pages[(start + place) // PAGE] = data[place : place + PAGE]
            start += asked

            if len(data) < asked:
                known.size = min(known.size, start - asked + len(data))
                return


@contextmanager
def kernels() -> Iterator[None]:
    """pyfuse3's way to the kernel leads to the `Kernel` whose request is being answered."""
    before = {
        name: getattr(pyfuse3, name)
        for name in ("readdir_reply", "invalidate_inode", "invalidate_entry", "notify_store")
    }
    put = vars(pyfuse3)
    put["readdir_reply"] = lambda token, *entry: _interrupts.get().told_entry(token, *entry)
    put["invalidate_inode"] = lambda inode, attr_only=False: _interrupts.get().told_inode(
        inode, attr_only
    )
    put["notify_store"] = lambda inode, offset, data: _interrupts.get().told_data(
        inode, offset, data
    )
    put["invalidate_entry"] = lambda folder, name, deleted=0: _interrupts.get().told_name(
        folder, name
    )

    try:
        yield
    finally:
        put.update(before)
