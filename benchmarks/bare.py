"""`python -m benchmarks.bare MOUNTPOINT FILES BYTES`: the floor, a file system that does nothing.

Its handlers answer from a dict. What a program waits for is the kernel, pyfuse3 and trio alone.
"""

from __future__ import annotations

import errno
import stat
import sys

import pyfuse3
import trio

FOREVER_S = 1e6
FIRST = pyfuse3.ROOT_INODE + 1


class Bare(pyfuse3.Operations):
    """One folder of files that all have the same bytes, which the kernel may keep."""

    def __init__(self, files: int, size: int) -> None:
        super().__init__()
        self.names = {b"%06d.jpg" % number: FIRST + number for number in range(files)}
        self.data = bytes(size)

    def _attributes(self, inode: int) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        entry.st_mode = stat.S_IFREG | 0o444
        entry.st_size = len(self.data)
        if inode == pyfuse3.ROOT_INODE:
            entry.st_mode = stat.S_IFDIR | 0o555

        entry.attr_timeout = FOREVER_S
        entry.entry_timeout = FOREVER_S
        return entry

    async def lookup(self, parent_inode, name, ctx=None):
        if name not in self.names:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return self._attributes(self.names[name])

    async def getattr(self, inode, ctx=None):
        return self._attributes(inode)

    async def opendir(self, inode, ctx):
        return inode

    async def readdir(self, fh, start_id, token):
        for name, inode in list(self.names.items())[start_id:]:
            entry = self._attributes(inode)
            if not pyfuse3.readdir_reply(token, name, entry, inode - FIRST + 1):
                return

    async def open(self, inode, flags, ctx):
        return pyfuse3.FileInfo(fh=inode, keep_cache=True)

    async def read(self, fh, off, size):
        return self.data[off : off + size]

    async def flush(self, fh):
        raise pyfuse3.FUSEError(errno.ENOSYS)

    async def release(self, fh):
        pass

    async def forget(self, inode_list):
        pass


def main() -> None:
    """Serve until unmounted."""
    mountpoint, files, size = sys.argv[1:]
    options = {*pyfuse3.default_options, "fsname=bare", "ro", "default_permissions"}
    pyfuse3.init(Bare(int(files), int(size)), mountpoint, options)
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close()


if __name__ == "__main__":
    main()
