"""What the API says, asked for by one node of a cluster and shared with the others.

Shared are the API's answers as they came. What judges an answer runs on every node, so that a
record can do nothing that an answer of the server could not do. Each value comes with its age, and
whoever notes when something was asked for subtracts that: no node believes anything for longer than
if it had asked by itself.

A node that has not heard the server's time yet takes no record, because it could not tell how old
one is: the first question of each node goes to the server.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

import msgspec
import trio

from pictofs.api import decode as wire
from pictofs.api.client import Api
from pictofs.api.paging import read_datasets
from pictofs.api.stats import RequestStats
from pictofs.api.transport import Answer
from pictofs.clock import Clock
from pictofs.errors import InvalidResponse
from pictofs.library.generations import Generations
from pictofs.model.records import Dataset, Directory, Export, Image, Page, SignedUrl
from pictofs.store.catalog.catalog import Catalog
from pictofs.store.catalog.rows import ImageRow
from pictofs.store.shared.port import Record, SharedStore
from pictofs.store.shared.turns import shared

log = logging.getLogger(__name__)
T = TypeVar("T")

MARGIN_S = 2.0
"""Seconds that are added to the age of a record: a `Date` is cut to whole seconds, and is on its way
for a while."""
KNOWN_PATIENCE_S = 1.0
"""Seconds that a node waits for another one's answer if it has an older one: then it asks itself."""
LIST_LONGEST_S = 30.0
"""Seconds that one question may take before other nodes ask it, too."""
PASS_LONGEST_S = 300.0
"""The same of a pass over all pages of a listing."""
FILE_LONGEST_S = 15.0
"""The same of one annotation file, or one name."""
LIST_PATIENCE_S = 10.0
PASS_PATIENCE_S = 15.0
FILE_PATIENCE_S = 5.0
NAME_PATIENCE_S = 2.0
"""Seconds that a node waits for another one's answer of these kinds, but no more than a third of
what an operation may take."""
READER_PATIENCE_S = 2.0
"""The same of a batch of URLs that a reader waits for."""
DAY_S = 86_400.0
"""Seconds for which an annotation file is shared if it is fresh for ever."""
EXPORT_S = 3600.0
"""Seconds for which an export that a node has made serves the others."""
EXPORT_LONGEST_S = 1800.0
"""Seconds that making one may take, and that others wait for it. A node that dies loses its turn
after 10 s."""
EXPORT_URL_S = 120.0
"""Seconds for which the signed URL of an export is shared: nobody knows how long it is good."""
PUT_PATIENCE_S = 10.0
PUT_PAUSE_S = 0.05
"""Seconds that a file of an export waits until it is taken, and between two attempts."""
PAGE_EXTRA_S = 600.0
"""Seconds for which a page is shared beyond its listing: it came before."""
LONE_S = 900.0
"""Seconds in which one lone read of a dataset is made for all nodes."""
CROWD_S = 1.0
"""Seconds at most, by chance, before a batch of URLs is fetched from the engine, of 3.7 MB: nodes
that were woken together would have it at once."""
TOGETHER = 64
"""Records that are asked for by one call."""


class Heard(NamedTuple, Generic[T]):
    """What the API said."""

    value: T
    age: float
    """Seconds since it was asked for, at least."""
    is_own: bool
    """Whether this node has asked for it."""


class _Bodies(msgspec.Struct, array_like=True):
    """The answers of a walk over pages, in their order: where each begins, and its body."""

    pages: list[tuple[int, bytes]]


class _Urls(msgspec.Struct, array_like=True):
    """An answer with signed URLs."""

    body: bytes
    served_at: float
    """Unix seconds by the server's clock."""


class _Manifest(msgspec.Struct, array_like=True):
    """A pass over all pages of a listing, which the server's listing stood still for."""

    number: str
    """Tells its pages from those of other passes."""
    route: str
    """`embedded` or `pages`."""
    offsets: list[int]


class NotThere(Exception):
    """A page of a shared listing is gone."""


class Pages:
    """The bodies of a listing's pages, from the API, and shared as they come."""

    def __init__(self, share: Callable[[str, int, bytes], bool] | None) -> None:
        """`share`: puts a page, by the number of its pass and its offset; None: share none."""
        self._share = share
        self._number = ""
        self._offsets: list[int] = []
        self.is_whole = share is not None
        """Whether every page of the last pass was put."""

    async def get(self, offset: int, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """The page at an offset."""
        answer = await ask()
        if self._share is None:
            return answer

        if offset == 0:
            # Another pass: its pages must not be mixed with those of the last one.
            self._number = secrets.token_hex(8)
            self._offsets = []
            self.is_whole = True
        self._offsets.append(offset)
        self.is_whole &= self._share(self._number, offset, answer.body)
        return answer

    def manifest(self, route: str) -> bytes:
        """What tells other nodes of the last pass."""
        return msgspec.msgpack.encode(_Manifest(self._number, route, sorted(self._offsets)))


class SharedPages(Pages):
    """The same from records, and nothing else."""

    def __init__(self, manifest: _Manifest, find: Callable[[str, int], Awaitable[bytes]]) -> None:
        super().__init__(None)
        self._manifest = manifest
        self._find = find

    async def get(self, offset: int, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """The page at an offset. Raises NotThere."""
        if offset not in self._manifest.offsets:
            raise NotThere
        return Answer(await self._find(self._manifest.number, offset), None)


@dataclass(eq=False)
class _Look:
    """A record that is being asked for together with others."""

    name: str
    found: Record | None = None
    done: trio.Event = field(default_factory=trio.Event)


class _Together:
    """The store, but records that several tasks ask for at once are asked for by one call."""

    def __init__(self, store: SharedStore) -> None:
        self._store = store
        self._looks: list[_Look] = []
        self.get_all = store.get
        self.lease = store.lease
        self.put = store.put
        self.release = store.release
        self.wait = store.wait
        self.count = store.count

    async def get(self, names: Sequence[str]) -> dict[str, Record]:
        """See `SharedStore`; of one name."""
        (name,) = names
        look = _Look(name)
        self._looks.append(look)
        # Whoever comes in this turn of the loop joins.
        await trio.lowlevel.checkpoint()
        if look in self._looks:
            looks = self._looks[:TOGETHER]
            del self._looks[:TOGETHER]
            try:
                found = await self._store.get([each.name for each in looks])
                for each in looks:
                    each.found = found.get(each.name)
            finally:
                for each in looks:
                    each.done.set()

        await look.done.wait()
        return {} if look.found is None else {name: look.found}


@dataclass(frozen=True)
class _Question(Generic[T]):
    """Something to ask the API for."""

    ask: Callable[[], Awaitable[tuple[T, bytes]]]
    """Returns what it says, and what is shared of that."""
    read: Callable[[Record], Awaitable[T]]
    """What a record says. Raises InvalidResponse or a MsgspecError."""
    ttl: Callable[[T], float]
    """Seconds for which an answer is shared."""


class _Unsettled(Exception):
    """A listing was read, and others should not go by it."""


class Answers:
    """The questions that nodes share. Each raises what `Api` raises."""

    def __init__(
        self,
        api: Api,
        catalog: Catalog,
        clock: Clock,
        request_stats: RequestStats,
        store: SharedStore | None,
        *,
        ttl: float,
        timeout: float,
    ) -> None:
        """`store`: None: this node is by itself. `ttl`: seconds for which a listing is fresh.
        `timeout`: seconds that an operation may take."""
        self._api = api
        self._catalog = catalog
        self._clock = clock
        self._request_stats = request_stats
        self._store = None if store is None else _Together(store)
        self._ttl = ttl
        self._patience_most = timeout / 3
        self.generations: Generations | None = None
        """None if this node is by itself."""
        if store is not None:
            self.generations = Generations(store, catalog, self._common_time)

    @property
    def is_sharing(self) -> bool:
        """Whether records can be taken: there is an engine, and the server's time is known."""
        return self._store is not None and self._common_time() is not None

    def _common_time(self) -> float | None:
        return self._request_stats.server_time.at(self._clock.monotonic())

    # What exists.

    async def datasets(self, *, strict: bool, known: bool) -> Heard[list[Dataset]]:
        """The list of datasets. `strict`: by this node, now. `known`: there is an older list."""

        async def ask() -> tuple[list[Dataset], bytes]:
            pages = []

            async def page(offset: int, limit: int) -> Page[Dataset]:
                answer = await self._api.datasets_answer(offset, limit)
                pages.append((offset, answer.body))
                return await self._api.decoded(wire.datasets, answer)

            found = await read_datasets(page)
            return found, msgspec.msgpack.encode(_Bodies(pages))

        async def read(record: Record) -> list[Dataset]:
            bodies = dict(msgspec.msgpack.decode(record.value, type=_Bodies).pages)

            async def page(offset: int, _: int) -> Page[Dataset]:
                if offset not in bodies:
                    raise InvalidResponse("a page of the list of datasets is missing")
                return await self._api.decoded(wire.datasets, Answer(bodies[offset], None))

            return await read_datasets(page)

        async def name() -> str | None:
            generation = await self._list_generation()
            return None if generation is None else f"1/datasets/{generation}"

        return await self._turn(
            name,
            _Question(ask, read, lambda _: self._ttl),
            max_age=-1.0 if strict else self._list_max_age(),
            longest=LIST_LONGEST_S,
            patience=KNOWN_PATIENCE_S if known else LIST_PATIENCE_S,
            alone=strict,
        )

    async def tree(
        self, dataset: str, signature: str, *, known_at: float | None
    ) -> Heard[list[Directory]]:
        """A dataset's directories.

        `signature`: the dataset's, as this node knows it. `known_at`: wall-clock seconds at which
        older ones were asked for.
        """

        async def ask() -> tuple[list[Directory], bytes]:
            answer = await self._api.directory_tree_answer(dataset)
            return await self._api.decoded(wire.directories, answer), answer.body

        async def read(record: Record) -> list[Directory]:
            return await self._api.decoded(wire.directories, Answer(record.value, None))

        return await self._turn(
            lambda: self._list_name("tree", dataset, signature),
            _Question(ask, read, lambda _: self._ttl),
            max_age=self._list_max_age(known_at or 0.0),
            longest=LIST_LONGEST_S,
            patience=KNOWN_PATIENCE_S if known_at else LIST_PATIENCE_S,
        )

    async def named(
        self, dataset: str, signature: str, directory: str, filename: str
    ) -> Heard[Page[Image]]:
        """The images of a name in a directory of a dataset, by its path."""

        async def ask() -> tuple[Page[Image], bytes]:
            answer = await self._api.images_answer(
                dataset, directory=directory, filename=filename, limit=10
            )
            return await self._api.decoded(wire.images, answer), answer.body

        async def read(record: Record) -> Page[Image]:
            return await self._api.decoded(wire.images, Answer(record.value, None))

        return await self._turn(
            lambda: self._list_name("name", dataset, f"{signature}/{directory}\0{filename}"),
            _Question(ask, read, lambda _: self._ttl),
            max_age=self._list_max_age(),
            longest=FILE_LONGEST_S,
            patience=NAME_PATIENCE_S,
        )

    async def listing(
        self,
        dataset: str,
        signature: str,
        read: Callable[[Pages, str | None, float], Awaitable[str | None]],
        *,
        known_at: float | None,
    ) -> bool:
        """Have a dataset's images read by `read`, from the API or from records.

        `read` takes the pages, the route by which they came (None: it finds out), and the seconds
        since they were asked for. It returns the route if others may go by what it read. `known_at`:
        see `tree`. Returns whether the server was asked.
        """
        name = await self._list_name("listing", dataset, signature)
        store = self._store
        if name is None or store is None:
            await read(Pages(None), None, 0.0)
            return True

        def page_name(number: str, offset: int) -> str:
            return f"1/page/{dataset}/{number}/{offset}"

        def put(number: str, offset: int, body: bytes) -> bool:
            return store.put(page_name(number, offset), body, self._ttl + PAGE_EXTRA_S)

        async def find(number: str, offset: int) -> bytes:
            wanted = page_name(number, offset)
            found = (await store.get([wanted])).get(wanted)
            if found is None:
                raise NotThere
            return found.value

        has_asked = False

        async def ask() -> bytes:
            nonlocal has_asked
            has_asked = True
            pages = Pages(put)
            route = await read(pages, None, 0.0)
            if route is None or not pages.is_whole:
                raise _Unsettled
            return pages.manifest(route)

        max_age = self._list_max_age(known_at or 0.0)
        # Another one is looked for once: what was found lacks a page, or can't be read.
        for _ in range(2):
            try:
                record = await shared(
                    store,
                    name,
                    ask,
                    clock=self._clock,
                    ttl=self._ttl,
                    longest=PASS_LONGEST_S,
                    patience=self._patience(KNOWN_PATIENCE_S if known_at else PASS_PATIENCE_S),
                    max_age=max_age,
                )
            except _Unsettled:
                return True
            if has_asked:
                return True

            try:
                manifest = msgspec.msgpack.decode(record.value, type=_Manifest)
                await read(SharedPages(manifest, find), manifest.route, record.age + MARGIN_S)
            except (NotThere, InvalidResponse, msgspec.MsgspecError) as error:
                log.info("a shared listing does not serve: %r", error)
                max_age = min(max_age, record.age - 0.001)
            else:
                return False

        await read(Pages(None), None, 0.0)
        return True

    # Its content.

    async def annotation(self, image: ImageRow, since: float, ttl: float) -> Heard[bytes]:
        """An image's annotation file.

        `since`: wall-clock seconds; what was asked for before does not serve. `ttl`: seconds for
        which a file is fresh; 0: for ever.
        """

        async def ask() -> tuple[bytes, bytes]:
            data = await self._api.annotation_file(image.id)
            return data, data

        async def read(record: Record) -> bytes:
            return record.value

        return await self._turn(
            lambda: self._annotation_name(image),
            _Question(ask, read, lambda _: ttl or DAY_S),
            max_age=self._clock.wall() - since - MARGIN_S,
            longest=FILE_LONGEST_S,
            patience=FILE_PATIENCE_S,
        )

    async def _annotation_name(self, image: ImageRow) -> str | None:
        dataset = self._catalog.dataset(image.dataset)
        directory = self._catalog.directory(image.directory)
        if dataset is None or directory is None:
            return None

        # What F4 goes by.
        facts = (
            image.annotation_count,
            image.status,
            image.min_confidence,
            image.name,
            directory.path,
            dataset.name,
        )
        return await self._name("annotation", dataset.id, f"{image.id.lower()}/{facts!r}")

    async def urls(
        self,
        dataset: str,
        status: str | None,
        *,
        limit: int,
        since: float,
        has_reader: bool,
    ) -> Heard[list[SignedUrl]]:
        """A batch of signed URLs, of all images of a dataset or of those of a status.

        `since`: wall-clock seconds; what was asked for before does not serve.
        """

        async def ask() -> tuple[list[SignedUrl], bytes]:
            answer = await self._api.download_items_answer(dataset, status=status, limit=limit)
            found = await self._api.signed_urls(answer, self._clock.wall())
            if answer.served_at is None:
                return found, b""
            return found, msgspec.msgpack.encode(_Urls(answer.body, answer.served_at))

        async def read(record: Record) -> list[SignedUrl]:
            urls = msgspec.msgpack.decode(record.value, type=_Urls)
            asked_at = self._clock.wall() - record.age - MARGIN_S
            found = await self._api.signed_urls(Answer(urls.body, urls.served_at), asked_at)
            if self._life_of(found) <= 0:
                raise InvalidResponse("most of the shared URLs have come to their end")
            return found

        async def name() -> str | None:
            return f"1/urls/{dataset.lower()}/{status or '-'}" if self.is_sharing else None

        return await self._turn(
            name,
            _Question(ask, read, self._life_of),
            max_age=self._clock.wall() - since - MARGIN_S,
            longest=LIST_LONGEST_S,
            patience=READER_PATIENCE_S if has_reader else LIST_PATIENCE_S,
            crowd=CROWD_S,
        )

    def _life_of(self, urls: list[SignedUrl]) -> float:
        """Seconds until half of them have come to their end; 0 of none."""
        ends = sorted(each.expires_at for each in urls)
        return ends[len(ends) // 2] - self._clock.wall() if ends else 0.0

    async def may_read_alone(self, dataset: str) -> bool:
        """Whether this node is to take the API's route for a lone read of a dataset.

        One of all nodes does: from the second read on, whoever makes it, a batch of URLs is worth
        its request.
        """
        if self._store is None or not self.is_sharing:
            return True

        found = await self._store.count(f"1/lone/{dataset.lower()}", ttl=LONE_S, start=0, change=1)
        return found is None or found.value == 1

    async def exports(self, limit: int, *, ttl: float) -> Heard[Page[Export]]:
        """The newest completed exports of all datasets. `ttl`: seconds for which that serves."""

        async def ask() -> tuple[Page[Export], bytes]:
            answer = await self._api.exports_answer(limit, status="completed")
            return await self._api.decoded(wire.exports, answer), answer.body

        async def read(record: Record) -> Page[Export]:
            return await self._api.decoded(wire.exports, Answer(record.value, None))

        async def name() -> str | None:
            generation = await self._list_generation()
            return None if generation is None else f"1/exports/{generation}"

        return await self._turn(
            name,
            _Question(ask, read, lambda _: ttl),
            max_age=ttl - MARGIN_S,
            longest=LIST_LONGEST_S,
            patience=FILE_PATIENCE_S,
        )

    async def export_url(self, dataset: str, name: str, *, again: bool) -> str:
        """The signed URL of a completed export of a dataset, by its name. `again`: another one has
        just failed."""

        async def ask() -> tuple[str, bytes]:
            url = await self._api.export_download_url(dataset, name)
            return url, url.encode()

        async def read(record: Record) -> str:
            return record.value.decode("utf-8", "replace")

        async def record_name() -> str | None:
            return f"1/take/{dataset}\0{name}" if self.is_sharing else None

        heard = await self._turn(
            record_name,
            _Question(ask, read, lambda _: EXPORT_URL_S),
            max_age=-1.0 if again else EXPORT_URL_S,
            longest=LIST_LONGEST_S,
            patience=LIST_PATIENCE_S,
            alone=again,
        )
        return heard.value

    async def export(
        self,
        dataset: str,
        status: str | None,
        make: Callable[[], Awaitable[None]],
        take: Callable[[], Awaitable[bool]],
    ) -> None:
        """Have one node of all make an export of a dataset's annotation files, or of a status.

        `make` makes it, and puts its files. `take` takes them, if another node did that; it returns
        whether they were there.
        """
        name = await self._name("export", dataset, status or "-")
        if name is None or self._store is None:
            await make()
            return

        has_made = False

        async def ask() -> bytes:
            nonlocal has_made
            has_made = True
            await make()
            return b"made"

        max_age = EXPORT_S
        # Another one is made if the files of the first one are gone.
        for _ in range(2):
            record = await shared(
                self._store,
                name,
                ask,
                clock=self._clock,
                ttl=EXPORT_S,
                longest=EXPORT_LONGEST_S,
                patience=EXPORT_LONGEST_S,
                max_age=max_age,
            )
            if has_made or await take():
                return
            max_age = record.age - 0.001

    async def put_annotation(self, image: ImageRow, data: bytes, age: float, ttl: float) -> bool:
        """Share a file that came by an export which was made `age` seconds ago.

        `ttl`: see `annotation`. Waits while much waits to be sent; False if it was not taken.
        """
        name = await self._annotation_name(image)
        if name is None or self._store is None:
            return False

        began = self._clock.monotonic()
        while not self._store.put(name, data, ttl or DAY_S, age=age):
            if self._clock.monotonic() - began > PUT_PATIENCE_S:
                return False
            await self._clock.sleep(PUT_PAUSE_S)

        return True

    async def annotations(
        self, images: Sequence[tuple[ImageRow, float]]
    ) -> list[Heard[bytes] | None]:
        """The annotation files of some images that other nodes have put; None of others.

        Each image comes with its `since`, see `annotation`.
        """
        names = [await self._annotation_name(image) for image, _ in images]
        wanted = [name for name in names if name is not None]
        if self._store is None or not wanted:
            return [None] * len(images)

        found = await self._store.get_all(wanted)
        now = self._clock.wall()
        heard: list[Heard[bytes] | None] = []
        for name, (_, since) in zip(names, images, strict=True):
            record = None if name is None else found.get(name)
            if record is None or record.age > now - since - MARGIN_S:
                heard.append(None)
            else:
                heard.append(Heard(record.value, record.age + MARGIN_S, False))

        return heard

    # How.

    async def _turn(
        self,
        name: Callable[[], Awaitable[str | None]],
        question: _Question[T],
        *,
        max_age: float,
        longest: float,
        patience: float,
        alone: bool = False,
        crowd: float = 0.0,
    ) -> Heard[T]:
        """The answer to a question, by this node or another one.

        `name`: of the record; None: this node asks by itself, as it does with `alone`. `crowd`: see
        `shared`.
        """
        store = self._store
        began = self._clock.monotonic()
        if store is None:
            value, _ = await question.ask()
            return Heard(value, self._clock.monotonic() - began, True)

        own: T | None = None

        async def ask() -> bytes:
            nonlocal own
            own, body = await question.ask()
            return body

        named = None if alone or not self.is_sharing else await name()
        if named is not None:
            record = await shared(
                store,
                named,
                ask,
                clock=self._clock,
                ttl=lambda: 0.0 if own is None else question.ttl(own),
                longest=longest,
                patience=self._patience(patience),
                max_age=max_age,
                crowd=crowd,
            )
            if own is not None:
                return Heard(own, record.age, True)

            try:
                return Heard(await question.read(record), record.age + MARGIN_S, False)
            except (InvalidResponse, msgspec.MsgspecError) as error:
                log.info("a shared answer does not serve: %r", error)

        # The answer tells the server's time, so it may be shared even if none could be taken.
        began = self._clock.monotonic()
        value, body = await question.ask()
        age = self._clock.monotonic() - began
        named = await name() if self.is_sharing else None
        if named is not None and body:
            store.put(named, body, question.ttl(value), age=self._clock.monotonic() - began)
        return Heard(value, age, True)

    def _patience(self, seconds: float) -> float:
        return min(seconds, self._patience_most)

    def _list_max_age(self, known_at: float = 0.0) -> float:
        """Seconds of a record that says what exists, which still serves.

        It is no older than a listing may be, and was asked for after what is known, and after the
        last change or refresh that was made here.
        """
        since = max(known_at, self._catalog.meta("revised_at") or 0.0)
        return min(self._ttl, self._clock.wall() - since) - MARGIN_S

    @property
    def _shares_lists(self) -> bool:
        """Whether what exists is shared: not if it would be too old at once."""
        return self.is_sharing and self._ttl > MARGIN_S

    async def _list_generation(self) -> str | None:
        if self.generations is None or not self._shares_lists:
            return None
        return await self.generations.of_list()

    async def _list_name(self, kind: str, dataset: str, rest: str) -> str | None:
        return await self._name(kind, dataset, rest) if self._shares_lists else None

    async def _name(self, kind: str, dataset: str, rest: str) -> str | None:
        """The name of a dataset's record; None if there can't be one now."""
        if self.generations is None or not self.is_sharing:
            return None

        dataset = dataset.lower()
        generation = await self.generations.of(dataset)
        return None if generation is None else f"1/{kind}/{dataset}/{generation}/{rest}"
