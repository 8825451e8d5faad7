"""For training from a mount: tells it the order of each epoch, so that images are there before they are read.

    from pictofs.torch import PrefetchingSampler

    sampler = PrefetchingSampler(RandomSampler(dataset), dataset.paths)
    loader = DataLoader(dataset, batch_size=32, num_workers=4, sampler=sampler)

It needs no torch itself: any iterable of indices, or of lists of indices, will do for a sampler.
"""

from __future__ import annotations

import itertools
import json
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

from pictofs.app import mounts
from pictofs.control.order import MountRelativePath, OrderReply, send_order
from pictofs.errors import NoSuchEntry

__all__ = ["PrefetchingSampler"]

T = TypeVar("T")

AT_ONCE = 1_000_000
"""Images that are told together: an endless sampler is told piece by piece."""
PIECE_SECONDS = 60.0
"""How long the mount may take for one piece of an order, the first of which may list a dataset."""

_numbers = itertools.count(1)
_token = os.urandom(4).hex()  # process ids repeat, in containers


class PrefetchingSampler(Generic[T]):
    """A sampler that yields what another one yields, and tells the mount before each epoch what that will be.

    It is iterated in the main process alone, as every sampler is. `set_epoch`, `batch_size` and whatever else the
    sampler has is passed on. Where there is no mount, or it does not answer, it warns once and just yields.
    """

    def __init__(
        self,
        sampler: Iterable[T],
        paths: Sequence[str | os.PathLike[str]] | Callable[[int], str | os.PathLike[str]],
        mount: str | os.PathLike[str] | None = None,
        ahead: int | None = None,
    ) -> None:
        """`sampler`: yields indices, or lists of them (a batch sampler).

        `paths`: the file of each index, as a sequence or a function. Relative ones are relative to the current
        folder. `mount`: a folder in the mount; by default it is found by the first path. `ahead`: images to keep
        ahead of the reader; by default what a quarter of the cache holds.
        """
        self.sampler = sampler
        self._path = paths if callable(paths) else paths.__getitem__
        self._mount, self._ahead = mount, ahead
        self._number = next(_numbers)
        self._warned = False
        self._telling: _Telling | None = None

    def __iter__(self) -> Iterator[T]:
        """What the sampler yields, all of it drawn before the first is given: so it can be told."""
        drawn = iter(self.sampler)
        while epoch := list(_up_to(AT_ONCE, drawn)):
            self._tell(epoch)
            yield from epoch

    def __len__(self) -> int:
        """As many as the sampler has."""
        return len(self.sampler)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        """Whatever the sampler has: `set_epoch`, `batch_size`, `drop_last`, `generator`."""
        if name.startswith("__") or name == "sampler":
            raise AttributeError(name)
        return getattr(self.sampler, name)

    def __getstate__(self) -> dict[str, Any]:
        """Without the thread that may be telling the rest of an order."""
        return self.__dict__ | {"_telling": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """As it was."""
        self.__dict__.update(state)

    def _tell(self, epoch: list[T]) -> None:
        if self._telling is not None:
            self._telling.stop()
            self._telling = None
        names = (os.fspath(self._path(index)) for index in _indices(epoch))
        try:
            telling = _Telling(names, self._mount, self._ahead, f"{os.getpid()}-{_token}-{self._number}")
            telling.begin()
            self._telling = telling
        except Exception as error:  # whatever it is, training goes on without
            if not self._warned:
                self._warned = True
                warnings.warn(f"the order of reading is not told to a mount: {error}", stacklevel=3)


class _Telling:
    """One order on its way: the first piece at once, the rest by a thread while the epoch begins."""

    def __init__(
        self, names: Iterator[str], mount: str | os.PathLike[str] | None, ahead: int | None, by: str
    ) -> None:
        """Raises NoSuchEntry where there is no mount."""
        first = next(names, None)
        folder = Path(first).parent if first and mount is None else Path(mount or ".")
        base = mounts.resolve(folder)
        found = mounts.mount_of(base)
        if found is None or not found.ours:
            raise NoSuchEntry(f"{folder} lies in no pictofs mount")
        spelling = MountRelativePath(found.path, Path(os.path.realpath(".")))
        names = itertools.chain([] if first is None else [first], names)
        self._stopped = threading.Event()
        going_on = itertools.takewhile(lambda _: not self._stopped.is_set(), names)
        self._pieces: Iterator[OrderReply] = send_order(
            _control_socket(found.path),
            map(spelling, going_on),
            by=by,
            ahead=ahead,
            bound=True,
            timeout=PIECE_SECONDS,
        )
        self._thread = threading.Thread(target=self._finish, name="pictofs-order", daemon=True)

    def begin(self) -> None:
        """Tell the first piece. Raises PictofsError where the mount does not take it, or knows none of its paths."""
        heard = next(self._pieces)
        if heard.unknown and not heard.images:
            raise NoSuchEntry(f"it knows none of the paths, such as {heard.example}")
        if not heard.complete:
            self._thread.start()

    def _finish(self) -> None:
        with suppress(Exception):  # what is told so far is followed; the rest is read without
            for _ in self._pieces:
                pass

    def stop(self) -> None:
        """Tell no more of it; what is on its way is refused once another order is told."""
        self._stopped.set()


def _up_to(most: int, drawn: Iterator[T]) -> Iterator[T]:
    """What is drawn next, as far as it is at most so many images."""
    images = 0
    while images < most:
        try:
            item = next(drawn)
        except StopIteration:
            return
        images += len(item) if isinstance(item, Sequence) else 1
        yield item


def _indices(epoch: Iterable[Any]) -> Iterator[int]:
    for item in epoch:
        try:
            index = int(item)
        except (TypeError, ValueError, RuntimeError):  # a batch: a list, or a tensor
            yield from map(int, item)
        else:
            yield index


def _control_socket(mountpoint: Path) -> Path:
    """Where the mount takes orders. Raises NoSuchEntry, OSError where it does not say so."""
    with open(mountpoint / ".pictofs/status.json", encoding="utf-8") as stream:
        status = json.load(stream)
    return Path(status["control_socket"])
