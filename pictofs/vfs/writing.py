"""`README.md` while it is written: kept in memory for each open file handle, and sent as a whole.

A program writes a file in pieces, but the API takes a text as a whole. So each handle that is open
for writing has a text of its own, which nobody else reads. `close` and `fsync` send it if it has
changed since it was last sent; then the catalog has it, and the path leads to it. Of two handles,
the one that is closed last wins.

A text that was only emptied by O_TRUNC is not sent before the last `close`: for `> README.md` a
shell opens the file, copies the descriptor and closes the first one before anything is written.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Hashable

import trio

from pictofs.errors import AlreadyExists, TooLarge
from pictofs.library.library import Library
from pictofs.library.listing.edits import DESCRIPTION_MAX_BYTES, Edits
from pictofs.model.inode import Inode, NodeKind, number
from pictofs.store.catalog.datasets import README
from pictofs.vfs.node import Attributes, exactly, file
from pictofs.vfs.nodes.dataset_file import DatasetFile

log = logging.getLogger(__name__)


class WrittenText:
    """What one handle reads and writes: the content of an open file."""

    def __init__(
        self,
        data: bytes,
        *,
        emptied: bool,
        append: bool,
        now_ns: Callable[[], int],
        send: Callable[[bytes], Awaitable[int]],
    ) -> None:
        """`emptied`: whether opening the file cut off a text. `append`: whether everything is
        written to the end (O_APPEND). `now_ns`: the time. `send`: sends a text to the server, and
        gives the time that the file has then (both times in nanoseconds since the epoch)."""
        self.version: Hashable = object()  # like no version that another handle reads
        self._data = bytearray(data)
        self._emptied = emptied
        self._append = append
        self._now_ns = now_ns
        self._send = send
        self._changes = 0
        self._sent = 0  # the number of changes when the text was last sent
        # Whether some bytes were refused, so that the text is not the one that was meant.
        self._cut_off = False
        self._sending = trio.Lock()
        self.mtime_ns = now_ns()
        """The time of the last change; once it is sent, the server's."""

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self._data)

    async def read(self, offset: int, length: int) -> bytes:
        """Bytes of the text, with everything that was written so far."""
        return bytes(self._data[offset : offset + length])

    def write(self, offset: int, data: bytes) -> int:
        """Store bytes at `offset`, and return how many. A gap before them is filled with NULs.

        Raises TooLarge.
        """
        if self._append:
            offset = len(self._data)

        end = offset + len(data)
        if end > DESCRIPTION_MAX_BYTES:
            self._cut_off = True

        _refuse_above_limit(end)

        if offset > len(self._data):
            self._data.extend(bytes(offset - len(self._data)))

        self._data[offset:end] = data
        self._changed()
        return len(data)

    def truncate(self, size: int) -> None:
        """Cut the text to `size` bytes, or fill it up with NULs. Raises TooLarge."""
        _refuse_above_limit(size)
        self._cut_off = False
        del self._data[size:]
        self._data.extend(bytes(size - len(self._data)))
        self._changed()

    def _changed(self) -> None:
        self._emptied = False
        self._changes += 1
        self.mtime_ns = self._now_ns()

    async def save(self) -> None:
        """Send the text if it has changed since it was last sent.

        Raises what `Edits.describe` raises; TooLarge if some bytes were refused and the text was
        not truncated since.
        """
        async with self._sending:
            if self._cut_off:
                _refuse_above_limit(DESCRIPTION_MAX_BYTES + 1)

            changes = self._changes
            if changes == self._sent:
                return

            sent_ns = await self._send(bytes(self._data))

            self._sent = changes
            if self._changes == changes:
                self.mtime_ns = sent_ns

    async def finish(self) -> None:
        """Send a text that was emptied and never written to: the last descriptor is closed. What
        `save` failed to send stays unsent."""
        if self._emptied:
            self._changed()
            await self.save()

    def close(self) -> None:
        """Do nothing: nothing is held."""


class ReadmeWriter:
    """Opens the readmes of datasets for writing."""

    def __init__(self, library: Library, readmes: DatasetFile) -> None:
        self._library = library
        self._readmes = readmes

    async def open(
        self, edits: Edits, inode: Inode, *, truncate: bool, append: bool
    ) -> tuple[Attributes, WrittenText]:
        """Open an existing readme. Raises NoSuchEntry, Stale."""
        attributes, data = await self._readmes.current(inode)
        text = self._text(
            edits, inode.key, b"" if truncate else data, emptied=truncate, append=append
        )
        return attributes, text

    async def create(
        self, edits: Edits, dataset: int, *, exclusive: bool, truncate: bool, append: bool
    ) -> tuple[Attributes, WrittenText]:
        """A new readme for the dataset with the key `dataset`. Nobody else sees it before it is
        sent.

        If the dataset has got one meanwhile, that is opened; with `exclusive` AlreadyExists is
        raised. Raises NoSuchEntry if the dataset is gone.
        """
        row = await self._library.listing.dataset(dataset)
        found = self._readmes.of(row)
        if found is None:
            text = self._text(edits, dataset, b"", emptied=False, append=append)
            new = file(number(NodeKind.README, dataset), 0, text.mtime_ns, keep=0.0, keep_entry=0.0)
            return new, text

        if exclusive:
            raise AlreadyExists(f"the dataset has a {README}")

        attributes, data = found
        text = self._text(
            edits, dataset, b"" if truncate else data, emptied=truncate, append=append
        )
        return attributes, text

    async def truncate(self, edits: Edits, inode: Inode, size: int) -> Attributes:
        """Cut a readme to `size` bytes on the server, or fill it up; the attributes afterwards.

        Raises TooLarge, NoSuchEntry, Stale.
        """
        attributes, text = await self.open(edits, inode, truncate=False, append=False)
        if size != text.size:
            text.truncate(size)
            await text.save()

        return exactly(attributes, size)._replace(mtime_ns=text.mtime_ns)

    def _text(
        self, edits: Edits, dataset: int, data: bytes, *, emptied: bool, append: bool
    ) -> WrittenText:
        async def send(data: bytes) -> int:
            return await self._send(edits, dataset, data)

        return WrittenText(data, emptied=emptied, append=append, now_ns=self._now_ns, send=send)

    def _now_ns(self) -> int:
        return int(self._library.clock.wall() * 1e9)

    async def _send(self, edits: Edits, dataset: int, data: bytes) -> int:
        """Make `data` the dataset's readme unless it is already; the time that the file has then,
        in nanoseconds since the epoch."""
        row = await self._library.listing.dataset(dataset)
        found = self._readmes.of(row)
        if data != (found[1] if found else b""):
            await edits.describe(dataset, data)
            found = self._readmes.of(row)
            if found is None and data:
                log.warning(
                    "the server has taken a text for %s, and gives no readme back: none is shown",
                    README,
                )

        return found[0].mtime_ns if found else self._now_ns()


def _refuse_above_limit(size: int) -> None:
    """Raise TooLarge if a text of `size` bytes is longer than the API takes."""
    if size > DESCRIPTION_MAX_BYTES:
        raise TooLarge(f"{README} can't have more than {DESCRIPTION_MAX_BYTES:,} bytes")
