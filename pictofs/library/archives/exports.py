"""The finished exports of each dataset, and their archives.

The list of a dataset's exports costs one request, is fresh for as long as a listing is, and is kept
in the catalog with what identifies each archive that was looked into: its length, the version that
the server named, and a digest of its directory. The directory itself is in the cache. So what was
seen once is there after a remount, and without the server.

`annotations.export_list` has a list of its own: the whole organization's, looked at once an hour, in
which a dataset's exports may be cut off.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import OrderedDict
from contextlib import suppress
from functools import partial
from typing import NamedTuple, TypeVar

import msgspec
import trio

from pictofs.api.client import Api
from pictofs.api.storage import Storage
from pictofs.clock import Clock
from pictofs.errors import Corrupt, DiskFull, NoSuchEntry, PictofsError, Stale
from pictofs.library.archives.archive import AT_ONCE, Members, Tools
from pictofs.library.archives.index import NODE_BITS, Index, Limits, Node, read_directory
from pictofs.library.archives.ranges import ArchiveBytes, Windows
from pictofs.library.archives.zip_format import BadArchive, find_directory
from pictofs.library.connectivity import UNAVAILABLE, Connectivity
from pictofs.library.content.cache import ContentCache
from pictofs.library.content.content import Content
from pictofs.library.content.source import Source
from pictofs.library.listing.invalidation import DentryInvalidations
from pictofs.library.listing.listing import Listing
from pictofs.library.single_flight import SingleFlight
from pictofs.library.stats import ReadStats
from pictofs.model.inode import KEY_BITS, NodeKind, key_of, number
from pictofs.model.records import FINISHED, Export, export_entries
from pictofs.store.catalog.catalog import Catalog
from pictofs.store.catalog.rows import DatasetRow, RemovedDentry
from pictofs.threads import in_thread

log = logging.getLogger(__name__)
T = TypeVar("T")

PAGE = 1000
PAGES = 10
"""Pages of a dataset's exports that are read; older ones are not shown."""
INDEX_BYTES = 64 << 20
"""Bytes of archives' directories that are kept in memory. A larger one is there alone."""
GONE_MAX = 100_000
"""Keys of what is gone that are remembered: the kernel is told to look again, and not that nothing is
there."""
META = "exports:"
"""How the names of lists begin in the catalog's table `meta`; the dataset's key follows."""
_NODE_MASK = (1 << NODE_BITS) - 1
_TAG_BITS = KEY_BITS - NODE_BITS
FOLDER, EXPORT, MEMBER = 1, 2, 0
"""The version bits of inodes of the kind EXPORT: `exports/` itself, whose key is the dataset's; an
export's folder, whose key is made of the export's id; what is in an archive."""


class Proof(msgspec.Struct):
    """What identifies an archive."""

    total: int
    """Bytes."""
    version: str | None
    """The version that the server named."""
    digest: str
    """Of its directory and its length."""


class KnownExport(msgspec.Struct):
    """A finished export in a dataset's list."""

    identity: str
    name: str
    """The server's."""
    entry: str
    """Its name in `exports/`."""
    created_ns: int
    file_size: int
    """Bytes by the list; 0 if unknown."""
    proof: Proof | None = None
    """None if nobody has looked into it yet."""


class _List(msgspec.Struct):
    """The exports of one dataset."""

    at: float
    """Wall-clock seconds when the server was asked."""
    exports: list[KnownExport]


class Place(NamedTuple):
    """Where a node is: the key of the dataset, and the export."""

    dataset: int
    export: KnownExport


class ExportArchives:
    """The exports that datasets show in `exports/`."""

    def __init__(
        self,
        api: Api,
        storage: Storage,
        source: Source,
        listing: Listing,
        catalog: Catalog,
        cache: ContentCache,
        single_flight: SingleFlight,
        connectivity: Connectivity,
        invalidations: DentryInvalidations,
        read_stats: ReadStats,
        clock: Clock,
        *,
        ttl: float,
        frozen: bool,
        limits: Limits | None = None,
    ) -> None:
        """`ttl`: seconds for which a list is fresh. `frozen`: what is known stays fresh."""
        self._api = api
        self._storage = storage
        self._listing = listing
        self._catalog = catalog
        self._cache = cache
        self._single_flight = single_flight
        self._connectivity = connectivity
        self._invalidations = invalidations
        self._clock = clock
        self._ttl = ttl
        self._frozen = frozen
        self._limits = limits or Limits()
        self._windows = Windows()
        self._tools = Tools(source, cache, single_flight, read_stats, trio.CapacityLimiter(AT_ONCE))

        self._lists: dict[int, _List] = {}
        # By the key of an export's folder, and by what the keys of its members begin with.
        self._places: dict[int, Place] = {}
        self._tags: dict[int, int] = {}
        self._all_known = False
        # Keys of both kinds that the kernel may still have.
        self._gone: set[int] = set()
        # What to look at again, by the keys of datasets and of exports' folders.
        self._invalid: set[int] = set()
        self._doubted: set[int] = set()
        self._bytes: dict[int, ArchiveBytes] = {}
        self._indexes: OrderedDict[int, Index] = OrderedDict()

    # The list.

    async def exports(self, dataset: int) -> list[KnownExport]:
        """The finished exports of a dataset, the oldest first, as fresh as the TTL asks.

        Raises NoSuchEntry if the dataset is gone, and what keeps the server from answering if the
        list was never read.
        """
        row = await self._listing.dataset(dataset)
        known = self._list(dataset)
        if known is None or not self._is_fresh(dataset, known):
            await self._listing.renew(
                ("exports", dataset), partial(self._read_list, row), have=known is not None
            )
            known = self._list(dataset)

        return [] if known is None else known.exports

    async def find(self, dataset: int, entry: str) -> KnownExport:
        """The export that is called `entry` in the list. Raises NoSuchEntry."""
        for export in await self.exports(dataset):
            if export.entry == entry:
                return export

        raise NoSuchEntry(f"the dataset has no finished export {entry!r}")

    def fresh_for(self, dataset: int) -> float:
        """Seconds for which the kernel may keep an entry: until the list is asked for again."""
        if self._frozen:
            return self._ttl
        if self._connectivity.backing_off:
            return 1.0

        known = self._lists.get(dataset)
        at = 0.0 if known is None else known.at
        return min(self._ttl, max(0.0, at + self._ttl - self._clock.wall()))

    def invalidate(self, dataset: int | None) -> None:
        """Have the next look ask the server for the list, and for each archive whether it is the
        same. `dataset`: its key; None: all."""
        datasets = list(self._lists) if dataset is None else [dataset]
        self._invalid.update(datasets)
        for key in datasets:
            known = self._list(key)
            for export in [] if known is None else known.exports:
                self._doubted.add(folder_key(export))

    def _is_fresh(self, dataset: int, known: _List) -> bool:
        if dataset in self._invalid:
            return False
        return self._frozen or 0 <= self._clock.wall() - known.at < self._ttl

    async def _read_list(self, row: DatasetRow) -> bool:
        """Returns True: the server was asked."""
        at = self._clock.wall()
        found = await read_exports(self._api, row.name, row.id, status=FINISHED)
        before = self._list(row.key)
        known = [] if before is None else before.exports
        same = {_claims(each): each for each in known}

        # The same object for the same archive: somebody may be looking into it.
        exports: list[KnownExport] = []
        for entry, each in export_entries(found).items():
            made = KnownExport(each.identity, each.name, entry, each.created_ns, each.file_size)
            export = same.get(_claims(made), made)
            export.name = made.name
            export.entry = entry
            exports.append(export)

        shown = {folder_key(each): each.entry for each in known}
        self._take(row.key, _List(at, exports))
        self._invalid.discard(row.key)
        for export in exports:
            shown.pop(folder_key(export), None)
        self._invalidations.tell(
            RemovedDentry(number(NodeKind.EXPORT, row.key, FOLDER), entry)
            for entry in shown.values()
        )
        await self._save(row.key)
        return True

    def _list(self, dataset: int) -> _List | None:
        """The list of a dataset as far as it is known. Inline."""
        known = self._lists.get(dataset)
        if known is None:
            text = self._catalog.meta(f"{META}{dataset}")
            if text is None:
                return None
            try:
                known = msgspec.json.decode(text, type=_List)
            except msgspec.MsgspecError:
                return None
            self._take(dataset, known)

        return known

    def _take(self, dataset: int, known: _List) -> None:
        before = self._lists.get(dataset)
        self._lists[dataset] = known
        kept = {id(export) for export in known.exports}
        for export in [] if before is None else before.exports:
            if id(export) not in kept:
                self._forget(export)
        for export in known.exports:
            self._places[folder_key(export)] = Place(dataset, export)
            if export.proof is not None:
                self._tags.setdefault(_tag(export), folder_key(export))

    def _forget(self, export: KnownExport) -> None:
        """Forget an export that is gone, or its archive if that is another one."""
        if len(self._gone) >= GONE_MAX:
            self._gone.clear()

        self._places.pop(folder_key(export), None)
        self._doubted.discard(folder_key(export))
        self._gone.add(folder_key(export))
        self._forget_archive(export)

    def _forget_archive(self, export: KnownExport) -> None:
        self._bytes.pop(folder_key(export), None)
        self._windows.drop(export.identity)
        if export.proof is not None:
            self._tags.pop(_tag(export), None)
            self._gone.add(_tag(export))
            self._indexes.pop(_tag(export), None)

    async def _save(self, dataset: int) -> None:
        """Write a list down. If there is no room on the disk, it is asked for again another time."""
        with suppress(DiskFull):
            text = json.dumps(msgspec.to_builtins(self._lists[dataset]))
            await in_thread(self._catalog.set_meta, f"{META}{dataset}", text)

    # Nodes.

    def place(self, key: int) -> Place:
        """The export of an export's folder. Raises Stale if it was in a list and is no more,
        NoSuchEntry if it never was."""
        return self._known(self._places, key)

    def place_of_member(self, key: int) -> tuple[Place, int]:
        """The export that a file or folder of an archive belongs to, and the number of the node.

        Raises Stale if the archive is another one by now, NoSuchEntry if it was never known.
        """
        tag = key >> NODE_BITS
        return self._places[self._known(self._tags, tag)], key & _NODE_MASK

    def _known(self, table: dict[int, T], key: int) -> T:
        if key not in table and not self._all_known:
            # A handle of an earlier mount: the lists that were not looked at since.
            self._all_known = True
            for row in self._catalog.datasets_after(0, 1 << 30):
                self._list(row.key)

        found = table.get(key)
        if found is None and key in self._gone:
            raise Stale("the export is not there any more, or has another archive")
        if found is None:
            raise NoSuchEntry("there is no such export")
        return found

    async def index(self, place: Place) -> Index:
        """The directory of an export's archive.

        Raises BadArchive if it is not read as a zip archive, and what keeps it from coming.
        """
        export = place.export
        key = folder_key(export)
        found = self._resident(export) or await self._cached(export)
        if found is None or key in self._doubted:
            try:
                found = await self._single_flight.share(
                    ("archive", key), partial(self._look_into, place)
                )
            except UNAVAILABLE:
                if found is None:
                    raise
                self._doubted.discard(key)

        if self._tags.get(_tag(export)) != key:
            raise Corrupt(f"{_words(place)} can't be told from another one")
        return found

    def resident(self, place: Place) -> Index | None:
        """The directory of an export's archive if it is in memory. Inline."""
        return self._resident(place.export)

    def member_key(self, export: KnownExport, node: int) -> int:
        """The key of a file or folder of an archive that was looked into."""
        return _tag(export) << NODE_BITS | node

    async def open(self, place: Place, node: Node) -> Content:
        """The content of a member. Raises Stale if the archive is another one by now, and what
        `Members.open` raises."""
        index = await self.index(place)
        members = Members(_words(place), place.export.identity, self._bytes_of(place), self._tools)
        try:
            return await members.open(index, node)
        except Stale:
            await self._changed(place)
            raise

    def _resident(self, export: KnownExport) -> Index | None:
        if export.proof is None:
            return None

        found = self._indexes.get(_tag(export))
        if found is not None:
            self._indexes.move_to_end(_tag(export))
        return found

    async def _cached(self, export: KnownExport) -> Index | None:
        """The directory as the cache has it."""
        proof = export.proof
        if proof is None:
            return None

        blob = await self._cache.verified(self._index_name(export, proof))
        if blob is None:
            return None
        with blob:
            data = await in_thread(blob.pread, 0, blob.size)

        with suppress(BadArchive):
            found = Index(data)
            if (found.digest, found.total) == (proof.digest, proof.total):
                return self._keep(export, found)

        return None

    def _keep(self, export: KnownExport, index: Index) -> Index:
        self._indexes[_tag(export)] = index
        while (
            len(self._indexes) > 1
            and sum(each.size for each in self._indexes.values()) > INDEX_BYTES
        ):
            self._indexes.popitem(last=False)

        return index

    def _index_name(self, export: KnownExport, proof: Proof) -> str:
        return self._cache.blob_name(f"{export.identity} index {proof.digest}")

    def _new_bytes(self, place: Place) -> ArchiveBytes:
        async def sign() -> str:
            row = self._catalog.dataset(place.dataset)
            if row is None:
                raise NoSuchEntry("the dataset is gone")
            return await self._api.export_download_url(row.name, place.export.name)

        return ArchiveBytes(
            _words(place),
            place.export.identity,
            sign,
            self._storage,
            self._tools.source,
            self._cache,
            self._single_flight,
            self._windows,
        )

    def _bytes_of(self, place: Place) -> ArchiveBytes:
        key = folder_key(place.export)
        found = self._bytes.get(key)
        if found is None:
            found = self._bytes[key] = self._new_bytes(place)
            if place.export.proof is not None:
                found.believe(place.export.proof.total, place.export.proof.version)

        return found

    async def _look_into(self, place: Place) -> Index:
        """Read the directory of an archive."""
        export = place.export
        data = self._new_bytes(place)
        tail = await data.tail(export.file_size)
        try:
            where = find_directory(tail, data.total)
            if where.size > self._limits.directory_bytes:
                raise BadArchive(f"its directory has {where.size:,} bytes: too many")

            begins = data.total - len(tail)
            raw = tail[where.start - begins :][: where.size] if where.start >= begins else b""
            if where.start < begins:
                raw = await data.read(where.start, where.start + where.size)
            made = await in_thread(
                read_directory, raw, where.start, where.members, data.total, self._limits
            )
        except BadArchive as error:
            raise BadArchive(f"{_words(place)} can't be shown: {error.message}") from error

        index = Index(made)
        await self._learn(place, index, data, made)
        return index

    async def _learn(self, place: Place, index: Index, data: ArchiveBytes, made: bytes) -> None:
        """Take an archive for what it is now."""
        export = place.export
        key = folder_key(export)
        before = export.proof
        if before is not None and before.digest != index.digest:
            await self._changed(place)

        export.proof = Proof(index.total, data.version, index.digest)
        self._tags.setdefault(_tag(export), key)
        self._bytes[key] = data
        self._doubted.discard(key)
        self._keep(export, index)
        with suppress(PictofsError):
            put = self._cache.blob_cache.put
            name = self._index_name(export, export.proof)
            (await self._cache.disk.call(put, name, made, None)).close()
        if before != export.proof:
            await self._save(place.dataset)

    async def _changed(self, place: Place) -> None:
        """Forget an archive that is another one by now, and have the kernel forget it."""
        export = place.export
        if export.proof is None:
            return

        log.info("%s has another archive than before", _words(place))
        self._forget_archive(export)
        export.proof = None
        self._invalidations.tell(
            [RemovedDentry(number(NodeKind.EXPORT, place.dataset, FOLDER), export.entry)]
        )
        await self._save(place.dataset)


async def read_exports(
    api: Api, dataset: str, identity: str, *, status: str | None = None
) -> list[Export]:
    """The exports of a dataset, of one status or of all, the newest first: a request for each 1,000.

    `dataset`: its name. `identity`: its id. Raises what `Api` does.
    """
    rows: list[Export] = []
    offset = 0
    for _ in range(PAGES):
        page = await api.exports(PAGE, offset=offset, dataset=dataset, status=status)
        rows += page.rows
        offset += page.received
        is_short = page.has_more is None and page.received < PAGE
        if not page.received or page.has_more is False or is_short:
            break

    # A server may not heed the filters.
    return [
        each
        for each in rows
        if (each.dataset_id or identity).lower() == identity.lower()
        and status in (None, each.status)
    ]


def folder_key(export: KnownExport) -> int:
    """The key of an export's folder."""
    return key_of(f"export:{export.identity}")


def _tag(export: KnownExport) -> int:
    """What the keys of an archive's files and folders begin with: 30 bits of a hash.

    Among a thousand archives the chance that two share it is 5e-4. One of the two can't be read
    then.
    """
    assert export.proof is not None
    text = f"{export.identity}:{export.proof.digest}"
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") & ((1 << _TAG_BITS) - 1)


def _claims(export: KnownExport) -> tuple[str, int, int]:
    """What of a row of the list means the same archive as long as it is the same."""
    return export.identity, export.created_ns, export.file_size


def _words(place: Place) -> str:
    """What errors call an archive."""
    return f"the archive of the export {place.export.name!r}"
