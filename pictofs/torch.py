"""Tells a mount the order of each training epoch, so that images are cached before they are read.

    from pictofs.torch import PrefetchingSampler

    sampler = PrefetchingSampler(RandomSampler(dataset), dataset.paths)
    loader = DataLoader(dataset, batch_size=32, num_workers=4, sampler=sampler)

Torch itself is not needed: a sampler is any iterable of indices, or of lists of indices.
"""

from __future__ import annotations

import itertools
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

from pictofs.app import mount_table, running
from pictofs.control.order import MountRelativePath, OrderProgress, send_order
from pictofs.errors import NoSuchEntry

__all__ = ["PrefetchingSampler"]

T = TypeVar("T")

AT_ONCE = 1_000_000
"""Images in one order. An endless sampler makes several orders."""
PIECE_SECONDS = 60.0
"""How long the mount may take for one piece of an order. The first may list a dataset."""

_numbers = itertools.count(1)
_token = os.urandom(4).hex()  # process ids repeat, in containers


class PrefetchingSampler(Generic[T]):
    """Yields what another sampler yields, and tells the mount the order before each epoch.

    Like every sampler, it is iterated in the main process only. It has the other sampler's
    attributes, such as `set_epoch` and `batch_size`. If there is no mount, or the mount does not
    answer, it warns once and only yields.
    """

    def __init__(
        self,
        sampler: Iterable[T],
        paths: Sequence[str | os.PathLike[str]] | Callable[[int], str | os.PathLike[str]],
        mount: str | os.PathLike[str] | None = None,
        ahead: int | None = None,
    ) -> None:
        """`sampler`: yields indices, or lists of them (a batch sampler).

        `paths`: the file of each index, as a sequence or a function. A relative path starts at the
        current folder. `mount`: a folder in the mount; by default the first path's. `ahead`: images
        to keep ahead of the reader; by default as many as a quarter of the cache holds.
        """
        self.sampler = sampler
        self._path = paths if callable(paths) else paths.__getitem__
        self._mount = mount
        self._ahead = ahead
        self._number = next(_numbers)
        self._warned = False
        self._telling: _Telling | None = None

    def __iter__(self) -> Iterator[T]:
        """What the sampler yields, up to `AT_ONCE` images drawn in advance to send their order."""
        drawn = iter(self.sampler)
        while epoch := list(_up_to(AT_ONCE, drawn)):
            self._tell(epoch)
            yield from epoch

    def __len__(self) -> int:
        """The sampler's length."""
        return len(self.sampler)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        """The sampler's attribute: `set_epoch`, `batch_size`, `drop_last`, `generator`."""
        if name.startswith("__") or name == "sampler":
            raise AttributeError(name)
        return getattr(self.sampler, name)

    def __getstate__(self) -> dict[str, Any]:
        """The state without the order being sent, whose thread can't be pickled."""
        return self.__dict__ | {"_telling": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the state."""
        self.__dict__.update(state)

    def _tell(self, epoch: list[T]) -> None:
        if self._telling is not None:
            self._telling.stop()
            self._telling = None

        names = (os.fspath(self._path(index)) for index in _indices(epoch))
        try:
            telling = _Telling(
                names, self._mount, self._ahead, f"{os.getpid()}-{_token}-{self._number}"
            )
            telling.begin()
            self._telling = telling
        except Exception as error:
            # Whatever it is, training goes on without a prefetch.
            if not self._warned:
                self._warned = True
                warnings.warn(f"the order of reading is not told to a mount: {error}", stacklevel=3)


class _Telling:
    """Sends one order: the first piece at once, the rest in a thread while the epoch begins."""

    def __init__(
        self, names: Iterator[str], mount: str | os.PathLike[str] | None, ahead: int | None, by: str
    ) -> None:
        """Raises NoSuchEntry if there is no mount."""
        first = next(names, None)
        folder = Path(mount or ".")
        if first and mount is None:
            folder = Path(first).parent

        base = mount_table.resolve(folder)
        mountpoint = running.mountpoint_of(base)
        spelling = MountRelativePath(mountpoint, Path(os.path.realpath(".")))
        names = itertools.chain([] if first is None else [first], names)
        self._stopped = threading.Event()
        going_on = itertools.takewhile(lambda _: not self._stopped.is_set(), names)
        self._pieces: Iterator[OrderProgress] = send_order(
            running.control_socket(mountpoint, fork=False),
            map(spelling, going_on),
            by=by,
            ahead=ahead,
            bound=True,
            timeout=PIECE_SECONDS,
        )
        self._thread = threading.Thread(target=self._finish, name="pictofs-order", daemon=True)

    def begin(self) -> None:
        """Send the first piece.

        Raises PictofsError if the mount does not accept it, or knows none of its paths.
        """
        heard = next(self._pieces)
        if heard.unknown and not heard.images:
            raise NoSuchEntry(f"it knows none of the paths, such as {heard.example}")

        if not heard.complete:
            self._thread.start()

    def _finish(self) -> None:
        # On an error the mount follows what it got so far, and the rest is not prefetched.
        with suppress(Exception):
            for _ in self._pieces:
                pass

    def stop(self) -> None:
        """Send no further pieces. The mount refuses one under way once another order has begun."""
        self._stopped.set()


def _up_to(most: int, drawn: Iterator[T]) -> Iterator[T]:
    """The next items, until they have `most` images or more."""
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
        except (TypeError, ValueError, RuntimeError):
            # A batch, as a list or a tensor.
            yield from map(int, item)
        else:
            yield index
