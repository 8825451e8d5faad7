"""FUSE requests, translated and delegated. Names are bytes in the kernel and str from here on."""

from __future__ import annotations

import errno
import functools
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from time import perf_counter
from typing import Any, ParamSpec, TypeVar

import pyfuse3
import trio

from pictofs.errors import PictofsError, Throttled, TimedOut
from pictofs.fuse.access import AccessLog
from pictofs.fuse.interrupts import InterruptWatcher
from pictofs.fuse.stats import OperationStats
from pictofs.model.names import NAME_MAX_BYTES
from pictofs.vfs.node import Attributes
from pictofs.vfs.tree import OpenFile, Tree
from pictofs.vfs.xattrs import listed

log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")

BLOCK = 4096
LIMIT_LOOK_S = 60.0
"""Seconds between two attempts while the limit of requests is waited for.

It may be raised before its time, and the API is asked once a minute whether it was.
"""
LIMIT_WAITS_MAX = 256
"""Opens that wait for the limit at once: half of what the session handles, as T2 asks."""
FREE_BYTES = 1 << 50
"""What `df` shows as free: a petabyte, as gcsfuse, goofys and rclone say of what has no bounds.

With nothing free it would be full, which monitors of disks take for an emergency.
"""
FREE_FILES = 1_000_000_000
WRITES = os.O_WRONLY | os.O_RDWR | os.O_TRUNC
"""Flags of `open` for writing. The kernel takes O_TRUNC for done."""
SIGNED_MAX = 2**63 - 1
"""The greatest number that a C structure of the kernel takes as a size, a time or a count.

What a server says is bounded where it comes in, but a sum of it is not, nor what is in a damaged
catalog.
"""


def _guarded(handle: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Mark a handler that no exception leaves: `Operations` takes no other."""
    handle.guards = True  # type: ignore[attr-defined]
    return handle


def handler(
    work: Callable[P, Coroutine[Any, Any, T]], *, waits_for_limit: bool = False
) -> Callable[P, Coroutine[Any, Any, T]]:
    """Give a request its deadline, and its failure an errno.

    Anything but a FUSEError that leaves a handler would end the whole mount. `waits_for_limit`: the
    wait for the limit of requests comes on top of the deadline.
    """
    name = work.__name__

    @functools.wraps(work)
    async def handle(*args: P.args, **kwargs: P.kwargs) -> T:
        operations: Operations = args[0]  # type: ignore[assignment]
        counts = operations.counts[name]
        counts.under_way += 1
        code = 0
        answer = None
        if not operations.asked.is_set():
            operations.asked.set()
        started = perf_counter()
        most = operations.timeout
        if waits_for_limit:
            most += operations.wait_for_limit

        try:
            # Not trio.fail_after: its generator costs 10 us more, on four requests for each file.
            with trio.CancelScope(relative_deadline=most) as scope:
                operations.interrupts.enter(scope, operations.thread_of(args))
                try:
                    answer = await work(*args, **kwargs)
                    return answer
                finally:
                    interrupted = operations.interrupts.leave(scope)

            assert scope.cancelled_caught
            if interrupted:
                log.info("%s: given up, a signal ends who asked", name)
                raise pyfuse3.FUSEError(errno.EINTR)

            log.warning("%s: no answer within %g s", name, most)
            raise pyfuse3.FUSEError(errno.ETIMEDOUT)
        except Exception as error:
            code = operations.errno_of(name, error)
            raise pyfuse3.FUSEError(code) from None
        finally:
            seconds = perf_counter() - started
            counts.done(code, seconds)
            if operations.log_access is not None:
                operations.log_access(name, args[1:], answer, code, seconds)

    return _guarded(handle)


def at_once(
    attempt: Callable[P, T | None],
) -> Callable[[Callable[P, Coroutine[Any, Any, T]]], Callable[P, Coroutine[Any, Any, T]]]:
    """Have `attempt` answer a request without a wait, if it can; else it returns None.

    What doesn't wait needs no deadline and can't be interrupted, which saves 8 us.
    """

    def decorate(
        handle: Callable[P, Coroutine[Any, Any, T]],
    ) -> Callable[P, Coroutine[Any, Any, T]]:
        name = handle.__name__

        @functools.wraps(handle)
        async def answer_or_handle(*args: P.args, **kwargs: P.kwargs) -> T:
            operations: Operations = args[0]  # type: ignore[assignment]
            started = perf_counter()
            try:
                answer = attempt(*args, **kwargs)
            except Exception as error:
                raise pyfuse3.FUSEError(operations.errno_of(name, error)) from None

            if answer is None:
                return await handle(*args, **kwargs)

            counts = operations.counts[name]
            counts.under_way += 1
            seconds = perf_counter() - started
            counts.done(0, seconds)
            if operations.log_access is not None:
                operations.log_access(name, args[1:], answer, 0, seconds)

            return answer

        return _guarded(answer_or_handle)

    return decorate


def closing(work: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, Coroutine[Any, Any, None]]:
    """The same for what nobody waits for.

    It is not counted, and its failure is told to the log alone.
    """

    @functools.wraps(work)
    async def handle(*args: P.args, **kwargs: P.kwargs) -> None:
        operations: Operations = args[0]  # type: ignore[assignment]
        try:
            await work(*args, **kwargs)
        except Exception as error:
            operations.errno_of(work.__name__, error)

    return _guarded(handle)


def _refusal(name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
    """The handler of a change that no mount makes."""

    async def refuse(operations: Operations, *_: Any) -> None:
        operations.tree.refuse()

    refuse.__name__ = name
    return handler(refuse)


def _of_writable(work: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """A handler that a mount which is not writable does not have.

    So the kernel asks no second time: `close` of each file that was read would otherwise wait for
    an answer.
    """
    handle = handler(work)

    @functools.wraps(work)
    async def handle_if_writable(*args: P.args, **kwargs: P.kwargs) -> T:
        operations: Operations = args[0]  # type: ignore[assignment]
        if not operations.writable:
            raise pyfuse3.FUSEError(errno.ENOSYS)
        return await handle(*args, **kwargs)

    return _guarded(handle_if_writable)


def _new(name: pyfuse3.FileNameT) -> str:
    """A name that is to be given or taken, which the kernel has not looked up as it is."""
    if len(name) > NAME_MAX_BYTES:
        raise pyfuse3.FUSEError(errno.ENAMETOOLONG)
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise pyfuse3.FUSEError(errno.EINVAL) from None


def _take_back(inode: pyfuse3.InodeT, opened: OpenFile) -> None:
    """Have the kernel forget every size that it was told of a file which is being opened.

    Attributes alone can't deadlock. The kernel asks for the size again if a program asks, or reads
    past the one it has. `sendfile`, `splice` and a page fault do neither, and go by the size that
    the kernel had last. That one grows if a byte is stored behind it; the byte goes again with all
    pages, before anybody can see it. This waits for pages that are being read, and so only a file
    that nobody else has open is grown.
    """
    # The kernel may have forgotten the inode: the program that wanted to open it is gone.
    with suppress(FileNotFoundError):
        pyfuse3.invalidate_inode(inode, attr_only=not opened.renew_pages)
        if opened.renew_pages and opened.attributes.size:
            pyfuse3.notify_store(inode, opened.attributes.size - 1, b"\0")
            pyfuse3.invalidate_inode(inode)


def _signed(number: int) -> int:
    """The nearest number that a C structure of the kernel takes."""
    return min(max(number, 0), SIGNED_MAX)


def _info(opened: OpenFile) -> pyfuse3.FileInfo:
    """What the kernel is told of an open file."""
    handle = pyfuse3.FileHandleT(opened.handle)
    return pyfuse3.FileInfo(fh=handle, keep_cache=opened.keep, direct_io=opened.direct)


class Operations(pyfuse3.Operations):
    """A tree below a kernel."""

    enable_writeback_cache = False
    supports_dot_lookup = True

    def __init__(
        self,
        tree: Tree,
        *,
        timeout: float,
        uid: int,
        gid: int,
        umask: int,
        wait_for_limit: float = 0.0,
        writable: bool = False,
    ) -> None:
        """`timeout`: seconds that a request may take. `uid`, `gid`: the owner that files show.

        `wait_for_limit`: seconds that an open may wait for the limit of requests besides.
        """
        super().__init__()

        self.writable = writable
        self.timeout = timeout
        self.wait_for_limit = wait_for_limit
        self._limit_waits = 0
        """Opens that wait for the limit now."""
        self.asked = trio.Event()
        """Set once a request has come: then the kernel and the mount have agreed on how to talk."""
        self.bugs = 0
        self.counts: defaultdict[str, OperationStats] = defaultdict(OperationStats)
        """Requests by kind: the handler's name."""
        self.log_access: AccessLog | None = None
        """Told of each request, if somebody wants to read of them."""

        self.interrupts = InterruptWatcher()
        self.tree = tree
        self._openers: dict[int, int] = {}
        """Threads by the handles that they opened: pyfuse3 does not say which one reads."""
        self._uid = uid
        self._gid = gid
        self._mask = ~umask

    def errno_of(self, name: str, error: Exception) -> int:
        """What the kernel is told if the handler `name` has failed; the log is told more."""
        if isinstance(error, pyfuse3.FUSEError):
            code: int = error.errno
            return code
        if isinstance(error, PictofsError):
            if error.errno not in (errno.ENOENT, errno.ESTALE):
                log.warning("%s: %s", name, error)
            return error.errno

        self.bugs += 1
        log.error(
            "%s failed in a way that should not happen; please report this", name, exc_info=error
        )
        return errno.EIO

    def thread_of(self, arguments: tuple[Any, ...]) -> int:
        """The number of the thread that makes a request with these arguments.

        0 if it is not known.
        """
        last = arguments[-1]
        if type(last) is pyfuse3.RequestContext:
            thread: int = last.pid
            return thread

        return self._openers.get(arguments[1], 0)

    def _entry(self, attributes: Attributes) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_uid = self._uid
        entry.st_gid = self._gid
        entry.st_blksize = 1 << 17
        self._fill(entry, attributes)
        return entry

    def _fill(self, entry: pyfuse3.EntryAttributes, attributes: Attributes) -> None:
        inode, mode, size, blocks, mtime_ns, keep, keep_entry = attributes

        entry.st_ino = pyfuse3.InodeT(inode)
        entry.st_mode = pyfuse3.ModeT(mode & self._mask)
        entry.st_size = size if 0 <= size <= SIGNED_MAX else _signed(size)
        entry.st_blocks = blocks if 0 <= blocks <= SIGNED_MAX else _signed(blocks)

        # A comparison takes 50 ns, `_signed` 250, for each entry of a listing.
        if not 0 <= mtime_ns <= SIGNED_MAX:
            mtime_ns = _signed(mtime_ns)
        entry.st_mtime_ns = mtime_ns
        entry.st_ctime_ns = mtime_ns
        entry.st_atime_ns = mtime_ns

        entry.attr_timeout = keep
        entry.entry_timeout = keep_entry

    @handler
    async def lookup(
        self, parent_inode: pyfuse3.InodeT, name: pyfuse3.FileNameT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """An entry of a folder."""
        try:
            text = name.decode()
        except UnicodeDecodeError:
            # No entry is called so: names are escaped.
            raise pyfuse3.FUSEError(errno.ENOENT) from None

        return self._entry(await self.tree.lookup(parent_inode, text))

    @handler
    async def getattr(
        self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """What stat shows."""
        return self._entry(await self.tree.attributes(inode))

    @handler
    async def getxattr(
        self, inode: pyfuse3.InodeT, name: pyfuse3.XAttrNameT, ctx: pyfuse3.RequestContext
    ) -> bytes:
        """An extended attribute."""
        if not name.startswith(b"user."):
            # `ls -l` asks for an ACL of each file of a device, until it hears that there are none.
            raise pyfuse3.FUSEError(errno.EOPNOTSUPP)

        value = (await self.tree.xattrs(inode)).get(name.decode(errors="replace"))
        if value is None:
            raise pyfuse3.FUSEError(pyfuse3.ENOATTR)
        return value

    @handler
    async def listxattr(
        self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext
    ) -> Sequence[pyfuse3.XAttrNameT]:
        """The names of extended attributes that are short enough to be copied."""
        return [pyfuse3.XAttrNameT(name.encode()) for name in listed(await self.tree.xattrs(inode))]

    # Changes. Of a mount that is not --writable the kernel asks none of these, and the tree refuses
    # them all.

    @handler
    async def mkdir(
        self,
        parent_inode: pyfuse3.InodeT,
        name: pyfuse3.FileNameT,
        mode: pyfuse3.ModeT,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        """A new folder; its mode is not for the caller to choose."""
        return self._entry(await self.tree.make_folder(parent_inode, _new(name)))

    @handler
    async def rmdir(
        self, parent_inode: pyfuse3.InodeT, name: pyfuse3.FileNameT, ctx: pyfuse3.RequestContext
    ) -> None:
        """A folder goes."""
        await self.tree.remove_folder(parent_inode, _new(name))

    @handler
    async def rename(
        self,
        parent_inode_old: pyfuse3.InodeT,
        name_old: pyfuse3.FileNameT,
        parent_inode_new: pyfuse3.InodeT,
        name_new: pyfuse3.FileNameT,
        flags: pyfuse3.FlagT,
        ctx: pyfuse3.RequestContext,
    ) -> None:
        """A folder gets another name. What has that name is never replaced, flags or none."""
        if flags & ~pyfuse3.RENAME_NOREPLACE:
            raise pyfuse3.FUSEError(errno.EINVAL)
        await self.tree.rename(parent_inode_old, _new(name_old), parent_inode_new, _new(name_new))

    @handler
    async def setxattr(
        self,
        inode: pyfuse3.InodeT,
        name: pyfuse3.XAttrNameT,
        value: bytes,
        ctx: pyfuse3.RequestContext,
    ) -> None:
        """An extended attribute gets a value.

        XATTR_CREATE and XATTR_REPLACE are pyfuse3's, by `getxattr`.
        """
        await self.tree.set_xattr(inode, name.decode(errors="replace"), value)

    @handler
    async def removexattr(
        self, inode: pyfuse3.InodeT, name: pyfuse3.XAttrNameT, ctx: pyfuse3.RequestContext
    ) -> None:
        """An extended attribute loses its value."""
        text = name.decode(errors="replace")
        if text not in await self.tree.xattrs(inode):
            raise pyfuse3.FUSEError(pyfuse3.ENOATTR)
        await self.tree.set_xattr(inode, text, b"")

    @handler
    async def create(
        self,
        parent_inode: pyfuse3.InodeT,
        name: pyfuse3.FileNameT,
        mode: pyfuse3.ModeT,
        flags: pyfuse3.FlagT,
        ctx: pyfuse3.RequestContext,
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        """A new file, and a handle for writing it; its mode is not for the caller to choose."""
        opened = await self.tree.create(
            parent_inode,
            name.decode(errors="replace"),
            exclusive=bool(flags & os.O_EXCL),
            truncate=bool(flags & os.O_TRUNC),
            append=bool(flags & os.O_APPEND),
        )
        self._openers[opened.handle] = ctx.pid
        return _info(opened), self._entry(opened.attributes)

    @handler
    async def setattr(
        self,
        inode: pyfuse3.InodeT,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: pyfuse3.FileHandleT | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        """A file gets another size.

        Owner and mode must stay; a time is the server's, and nobody is told so: programs that copy
        a file with its times would otherwise fail once its content is there.
        """
        self.tree.check_writable(inode)

        shown = self._entry(await self.tree.attributes(inode))
        if (
            (fields.update_mode and (attr.st_mode ^ shown.st_mode) & 0o7777)
            or (fields.update_uid and attr.st_uid != shown.st_uid)
            or (fields.update_gid and attr.st_gid != shown.st_gid)
        ):
            self.tree.refuse()

        if fields.update_size:
            return self._entry(await self.tree.resize(inode, attr.st_size, fh))
        return shown

    @handler
    async def write(self, fh: pyfuse3.FileHandleT, off: int, buf: bytes) -> int:
        """Bytes for an open file."""
        return self.tree.write(fh, off, buf)

    @_of_writable
    async def flush(self, fh: pyfuse3.FileHandleT) -> None:
        """`close`, which says whether the server has taken what was written."""
        await self.tree.save(fh)

    @_of_writable
    async def fsync(self, fh: pyfuse3.FileHandleT, datasync: bool) -> None:
        """The same, and the file stays open."""
        await self.tree.save(fh)

    mknod = _refusal("mknod")
    symlink = _refusal("symlink")
    link = _refusal("link")
    unlink = _refusal("unlink")

    @handler
    async def readlink(
        self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.FileNameT:
        """Where a symbolic link leads."""
        return pyfuse3.FileNameT((await self.tree.target(inode)).encode())

    @closing
    async def forget(self, inode_list: Sequence[tuple[pyfuse3.InodeT, int]]) -> None:
        """Nothing is kept for an inode that is not open."""

    @handler
    async def opendir(
        self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.FileHandleT:
        """A handle for a folder."""
        handle = self.tree.open_folder(inode)
        self._openers[handle] = ctx.pid
        return pyfuse3.FileHandleT(handle)

    @handler
    async def readdir(
        self, fh: pyfuse3.FileHandleT, start_id: int, token: pyfuse3.ReaddirToken
    ) -> None:
        """Entries, as many as the kernel takes."""
        entry = pyfuse3.EntryAttributes()
        entry.st_uid = self._uid
        entry.st_gid = self._gid
        entry.st_blksize = 1 << 17

        # One batch: a short reply at once, rather than wait for a page.
        batch = await self.tree.read_folder(fh, start_id)
        differs = self.tree.shows_other_sizes
        reply = pyfuse3.readdir_reply
        for name, attributes, cookie in batch:
            self._fill(entry, self.tree.shown(attributes) if differs else attributes)
            if not reply(token, pyfuse3.FileNameT(name.encode()), entry, cookie):
                return

    @closing
    async def releasedir(self, fh: pyfuse3.FileHandleT) -> None:
        """A folder is closed."""
        self._openers.pop(fh, None)
        self.tree.close_folder(fh)

    def _open_at_once(
        self, inode: pyfuse3.InodeT, flags: pyfuse3.FlagT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.FileInfo | None:
        if flags & WRITES:
            return None

        opened = self.tree.reopen(inode)
        return None if opened is None else self._hand_out(inode, opened, ctx)

    async def _open_to_read(self, inode: pyfuse3.InodeT) -> OpenFile:
        """Open a file, and wait for the limit of requests if that is what it takes.

        Raises Throttled if the limit comes back too late for that.
        """
        if not self.wait_for_limit:
            return await self.tree.open(inode)

        end = trio.current_time() + self.wait_for_limit
        while True:
            try:
                with trio.move_on_after(self.timeout):
                    return await self.tree.open(inode)
                raise TimedOut(f"no answer within {self.timeout:g} s")
            except Throttled as error:
                wait = LIMIT_LOOK_S if error.retry_after is None else max(1.0, error.retry_after)
                if trio.current_time() + wait > end or self._limit_waits >= LIMIT_WAITS_MAX:
                    raise
                if not self._limit_waits:
                    log.info("open: waiting for %.0f s: %s", wait, error)

            self._limit_waits += 1
            try:
                await trio.sleep(min(wait, LIMIT_LOOK_S))
            finally:
                self._limit_waits -= 1

    @at_once(_open_at_once)
    @functools.partial(handler, waits_for_limit=True)
    async def open(
        self, inode: pyfuse3.InodeT, flags: pyfuse3.FlagT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.FileInfo:
        """A handle for a file. The kernel keeps its pages: another version has another inode."""
        if flags & WRITES:
            truncate = bool(flags & os.O_TRUNC)
            append = bool(flags & os.O_APPEND)
            opened = await self.tree.open_to_write(inode, truncate=truncate, append=append)
        else:
            opened = await self._open_to_read(inode)

        return self._hand_out(inode, opened, ctx)

    def _hand_out(
        self, inode: pyfuse3.InodeT, opened: OpenFile, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.FileInfo:
        if opened.renew_size:
            try:
                _take_back(inode, opened)
            except BaseException:
                self.tree.close(opened.handle)
                raise

        self._openers[opened.handle] = ctx.pid
        return _info(opened)

    def _read_at_once(self, fh: pyfuse3.FileHandleT, off: int, size: int) -> bytes | None:
        return self.tree.read_at_once(fh, off, size)

    @at_once(_read_at_once)
    @handler
    async def read(self, fh: pyfuse3.FileHandleT, off: int, size: int) -> bytes:
        """Bytes of an open file."""
        return await self.tree.read(fh, off, size)

    @closing
    async def release(self, fh: pyfuse3.FileHandleT) -> None:
        """A file is closed."""
        self._openers.pop(fh, None)
        await self.tree.finish(fh)

    @handler
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        """Figures of the whole organization, from the catalog alone.

        `df` must not wait for a network.
        """
        size, files = self.tree.space()
        used = -(-size // BLOCK)
        free = FREE_BYTES // BLOCK

        data = pyfuse3.StatvfsData()
        data.f_bsize = BLOCK
        data.f_frsize = BLOCK
        data.f_blocks = min(used + free, SIGNED_MAX)
        data.f_bfree = free
        data.f_bavail = free
        data.f_files = min(files + FREE_FILES, SIGNED_MAX)
        data.f_ffree = FREE_FILES
        data.f_favail = FREE_FILES
        data.f_namemax = NAME_MAX_BYTES

        return data
