"""How often was refreshed, by whichever node: numbers that are part of the names of shared records.

After a refresh every record has another name, so that no node can take an answer of before for one
of after. There is a number for each dataset, one for all of them together, and one that grows with
each of those and with each change of the list of datasets.

A number that the engine lost is put back by a node that knows it. A node that knows none begins one
that is as large as any: to others that looks like a refresh at worst, and never like none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress

import trio

from pictofs.errors import PictofsError
from pictofs.store.catalog.catalog import Catalog
from pictofs.store.shared.port import SharedStore
from pictofs.threads import in_thread

ANY = ""
"""The number that grows with each other one, and with each change of the list of datasets."""
ALL = "*"
"""The number of all datasets together."""
LIFE_S = 7 * 86_400.0
"""Seconds for which a number lives in the engine after a node has last looked at it."""
LOOK_AT_ALL_EVERY = 5
"""Looks after which every number is looked at, and put back if it was lost; meanwhile `ANY` alone
is, unless it has grown."""


class Generations:
    """The numbers as one node knows them."""

    def __init__(
        self, store: SharedStore, catalog: Catalog, common_time: Callable[[], float | None]
    ) -> None:
        """`common_time`: Unix seconds by the server's clock; None: not known yet."""
        self._store = store
        self._catalog = catalog
        self._common_time = common_time
        self._known: dict[str, int] = {}
        self._owed: set[str] = set()
        """Numbers that are to be raised, and could not be raised yet."""
        self._raising = trio.Lock()
        self.looks = 0
        """How often was looked for what others have raised."""
        self._is_whole = True
        """Whether the next look is at every number."""

    async def of_list(self) -> str | None:
        """What names of organization-wide records hold; None: share none now."""
        number = await self._number(ANY)
        return None if number is None else str(number)

    async def of(self, dataset: str) -> str | None:
        """What names of a dataset's records hold, by its id; None: share none now."""
        own = await self._number(dataset)
        of_all = await self._number(ALL)
        return None if own is None or of_all is None else f"{of_all}.{own}"

    async def _number(self, name: str) -> int | None:
        # What is asked for after a refresh must not be put under a name of before.
        if self._owed:
            return None
        if name in self._known:
            return self._known[name]

        # A mount of before may have known it. What has grown since is found out by `look`.
        known = self._remembered(name)
        start = known
        if start is None:
            start = await self._number(ANY) if name != ANY else self._now()
        if start is None:
            return None

        found = await self._store.count(
            _count(name), ttl=LIFE_S, start=start, at_least=known, extend=True
        )
        if found is None or self._owed:
            return None
        if known is None:
            await self._note(name, found.value)
        else:
            self._known.setdefault(name, known)

        return self._known[name]

    async def raised(self, names: Iterable[str]) -> None:
        """Raise the numbers of datasets (ids, or `ALL`), or with none of them `ANY` alone.

        If the engine can't be asked, `look` raises them later, and nothing is shared until then.
        """
        self._owed.update((*names, ANY))
        await self._raise_owed()

    async def _raise_owed(self) -> None:
        async with self._raising:
            # `ANY` comes last: whoever sees it grown looks at the others.
            for name in sorted(self._owed, reverse=True):
                now = self._now()
                if now is None:
                    return

                least = max(now, self._known.get(name) or self._remembered(name) or 0)
                found = await self._store.count(
                    _count(name), ttl=LIFE_S, start=least, at_least=least, change=1, extend=True
                )
                if found is None:
                    return

                await self._note(name, found.value)
                self._owed.discard(name)

    async def look(self) -> list[str]:
        """Look for what other nodes have raised, and put back what was lost.

        Returns the ids of datasets that were refreshed since the last look; `ALL` for all.
        """
        if self._owed:
            await self._raise_owed()

        is_whole = self._is_whole or self.looks % LOOK_AT_ALL_EVERY == 0
        self._is_whole = False
        self.looks += 1
        grown = []
        for name in sorted(self._known):  # `ANY` is the first
            # Another mount of the same cache may have seen it grow, and expired the catalog.
            known = max(self._known[name], self._remembered(name) or 0)
            found = await self._store.count(
                _count(name), ttl=LIFE_S, start=known, at_least=known, extend=True
            )
            if found is None:
                # `ANY` may be known by now, and what grew with it not.
                self._is_whole = True
                break

            if found.value > known and name != ANY:
                grown.append(name)
            is_whole = is_whole or found.value > known
            if found.value > self._known[name]:
                await self._note(name, found.value)
            if not is_whole:
                break

        return grown

    async def _note(self, name: str, number: int) -> None:
        self._known[name] = max(number, self._known.get(name, number))
        with suppress(PictofsError):
            await in_thread(self._catalog.set_meta, _count(name), self._known[name])

    def _remembered(self, name: str) -> int | None:
        found = self._catalog.meta(_count(name))
        return found if isinstance(found, int) else None

    def _now(self) -> int | None:
        """Milliseconds, so that a number that is begun anew is larger than those of before."""
        now = self._common_time()
        return None if now is None else int(now * 1000)


def _count(name: str) -> str:
    return f"1/refresh/{name}" if name else "1/refresh"
