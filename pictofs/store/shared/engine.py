"""The shared engine on Valkey or Redis: the port of `port.py`, on coredis.

Two connections for as long as they live: calls that somebody waits for go by one, and so do the
wake-ups of those who wait for a lease; what is put goes by the other, from a queue, so that a large
record holds up no small one. A breaker leaves the engine alone after it failed.

Each call is given up after 0.1 s without a byte, and after 3 s in any case.
"""

from __future__ import annotations

import logging
import secrets
import ssl
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import trio

from pictofs.clock import Clock
from pictofs.config.shared import SharedAddress
from pictofs.store.shared.breaker import Breaker
from pictofs.store.shared.connection import (
    CALL_MAX_S,
    SILENCE_S,
    Command,
    EngineAway,
    Link,
    Lost,
    Refusal,
    Silent,
    connect,
    refusal,
    refusal_words,
    verifying_context,
)
from pictofs.store.shared.port import Count, Lease, Record, Waited
from pictofs.store.shared.scripts import COUNT, KEEP, RELEASE
from pictofs.store.shared.sealing import VALUE_MAX_BYTES, Sealer
from pictofs.store.shared.stats import Counts, SharedStats
from pictofs.threads import in_thread

log = logging.getLogger(__name__)

HOLD_S = 10.0
"""Seconds for which the engine keeps a lease unless it is told again: so long others wait for a
node that died. A live node tells it each third of that."""
POLL_S = 1.0
"""Seconds between two looks at a lease that is waited for, at most: a wake-up may get lost."""
PAUSE_S = 0.5
"""Seconds of the longest pause before a node goes alone."""
CROWD_S = 2.0
"""Seconds after a wait in which a node that goes alone may be one of many that do."""
NO_WRITES_S = 15.0
"""Seconds for which nothing is put and no lease is asked for after the engine refused a write."""
AHEAD_S = 60.0
"""Seconds by which a record may be of a time to come: clocks differ a little."""
STEADY_S = 1.0
"""Seconds that a connection must have lived for its end to be no failure of the engine."""

QUEUE_BYTES = 64 << 20
"""Bytes of the values that wait to be sent."""
QUEUE_ITEMS = 4096
"""Values that wait to be sent."""
BATCH_ITEMS = 32
BATCH_BYTES = 4 << 20
"""What is sent together, by numbers and by bytes before compression."""
PUT_SILENCE_S = 1.0
"""Seconds without an answer after which what is put is given up. Nobody waits for it."""
PUT_MAX_S = 5.0
"""Seconds after which it is given up in any case."""
SEALED_MAX_BYTES = 8 << 20
"""Bytes of a sealed value. A page of 10,000 images takes 0.4 MB, as many signed URLs 3.7 MB."""
GET_ITEMS = 64
"""Records that one command asks for."""
THREAD_FROM_BYTES = 64 << 10
"""Bytes from which sealing and opening go to a thread. Less takes the loop for 1 ms."""
FLUSH_POLL_S = 0.01
"""Seconds between two looks at whether everything was sent."""
SETTLE_S = 0.1
"""Seconds before another connection is made after one was lost."""


@dataclass(frozen=True)
class _Put:
    """A record that waits to be sent."""

    name: str
    value: bytes
    asked_at: float
    ttl: float


@dataclass(frozen=True)
class _Release:
    """A lease that waits to be given back."""

    name: str
    token: bytes


@dataclass
class _Held:
    """A lease that this node has."""

    name: str
    until: float
    """Monotonic seconds after which the engine is not told again."""


class _Bell:
    """Wakes one waiter."""

    def __init__(self) -> None:
        self.rung = trio.Event()


class SharedEngine:
    """The port, for one API key at one server. `run` has to be running."""

    def __init__(
        self,
        address: SharedAddress,
        api_key: str,
        server: str,
        *,
        clock: Clock,
        common_time: Callable[[], float],
        context: ssl.SSLContext | None = None,
    ) -> None:
        """`server`: the API's base URL. `common_time`: Unix seconds by a clock that all nodes
        share. `context`: for TLS; None: the system's authorities. The API key is not kept, only
        what is derived from it."""
        self._address = address
        self._sealer = Sealer(api_key, server)
        self._clock = clock
        self._common_time = common_time
        self._context = context
        if context is None and address.tls:
            self._context = verifying_context()

        self._breaker = Breaker(clock)
        self._counts = Counts()
        self._reads: Link | None = None
        self._connected = trio.Event()
        """Set when a connection was made, or could not be made."""
        self._ended = trio.Event()
        self._told: str | None = None
        """Why the engine was left alone, as the log has it; None if it said that it answers."""

        self._queue: deque[_Put | _Release] = deque()
        self._queued_bytes = 0
        self._queued = trio.Event()
        self._unanswered = 0
        """Of the queue's last batch."""
        self._no_writes_until = 0.0
        self._takes_writes = True
        """Whether the last write was taken, as far as the log has it."""
        self._held: dict[bytes, _Held] = {}
        """By token."""
        self._bells: dict[bytes, set[_Bell]] = {}
        """By channel."""
        self._woken_at = -CROWD_S

    # The connections.

    async def run(self) -> None:
        """Keep the connections for as long as it is not cancelled. Never fails."""
        while True:
            if self._breaker.is_resting:
                await self._clock.sleep(self._breaker.rest_left)
                self._breaker.probe()

            began = self._clock.monotonic()
            reason = await self._session()
            self._end_session()
            if reason is None and self._clock.monotonic() - began < STEADY_S:
                reason = "it breaks connections off"

            if reason is not None and self._breaker.state != "open":
                self._breaker.open(reason)
            if self._breaker.state == "open":
                self._drop_queue()
                self._tell()
            else:
                self._breaker.state = "connecting"
                await self._clock.sleep(SETTLE_S)

    async def _session(self) -> str | None:
        """Connect, and serve until a connection breaks or the breaker opens.

        Returns why it could not, in words; None if it could.
        """
        reason: str | None = None
        try:
            async with trio.open_nursery() as nursery:
                reads = await connect(self._address, nursery, self._context)
                writes = await connect(self._address, nursery, self._context)
                await self._greet(reads)

                self._ended = ended = trio.Event()
                for link in (reads, writes):
                    nursery.start_soon(_when_lost, link, ended)
                    nursery.start_soon(link.watch)
                nursery.start_soon(self._listen, reads)
                nursery.start_soon(self._send_queue, writes)
                nursery.start_soon(self._keep_leases, reads)

                self._reads = reads
                self._breaker.close()
                self._connected.set()
                self._tell()
                await ended.wait()
                nursery.cancel_scope.cancel()
        except* EngineAway as group:
            reason = str(_first(group))
        except* Exception:
            # Whatever the engine brings about, the mount goes on without it.
            log.debug("the shared engine failed in an unforeseen way", exc_info=True)
            reason = "it failed in an unforeseen way"

        return reason

    async def _greet(self, link: Link) -> None:
        """Ask something small. Raises EngineAway unless it is answered in time."""
        # It has no answer, unless it is refused: then that is taken for the next one's.
        link.send(b"SUBSCRIBE", self._sealer.channel(""))
        try:
            (answer,) = await link.call((b"PING",), silence=SILENCE_S, longest=CALL_MAX_S)
        except Silent:
            raise EngineAway(f"no answer within {SILENCE_S:g} s") from None
        except Lost:
            raise EngineAway("it breaks connections off") from None

        if isinstance(answer, Exception):
            raise EngineAway(refusal_words(answer))

    def _end_session(self) -> None:
        self._reads = None
        # Whoever waits for the connection goes without it.
        self._connected.set()
        self._connected = trio.Event()
        for bells in self._bells.values():
            for bell in bells:
                bell.rung.set()

    def _tell(self) -> None:
        """Log that the engine is left alone, or that it is asked again, once for each reason."""
        reason = self._breaker.reason
        if reason == self._told:
            return

        self._told = reason
        if reason is None:
            log.info("the shared engine %s answers", self._address)
        else:
            log.warning(
                "going on without the shared engine %s: %s; the next attempt is in %.0f s",
                self._address,
                reason,
                self._breaker.rest_left,
            )

    async def _link(self) -> Link | None:
        """The connection for calls, awaited a moment while it is being made."""
        if self._breaker.state == "connecting" and self._reads is None:
            with trio.move_on_after(SILENCE_S):
                await self._connected.wait()

        return self._reads

    async def _call(self, *commands: Command, undo: Command | None = None) -> list[Any] | None:
        """The answers to `commands`, errors among them; None if there are none in time.

        `undo` is sent behind them if their answers are not known.
        """
        link = await self._link()
        if link is None:
            self._counts.skipped += 1
            # Whoever asks again and again must not hold up the tasks that connect.
            await trio.lowlevel.checkpoint()
            return None

        began = self._clock.monotonic()
        answers: list[Any] | None = None
        try:
            answers = await link.call(*commands, silence=SILENCE_S, longest=CALL_MAX_S)
        except Silent:
            self._failed(link)
        except Lost:
            self._counts.errors += 1
            await trio.lowlevel.checkpoint()
        finally:
            # Behind them on the same connection: by another one it might come before them.
            if answers is None and undo is not None:
                link.post(undo)

        if answers is None:
            return None

        self._counts.took(self._clock.monotonic() - began)
        self._heard(answers)
        return answers

    def _failed(self, link: Link | None) -> None:
        """Note that the engine was silent."""
        self._counts.errors += 1
        # A connection of before says nothing of the one of now.
        is_current = link is None or link is self._reads
        if is_current and self._breaker.failed(f"no answer within {SILENCE_S:g} s"):
            self._trip()

    def _trip(self) -> None:
        """End the session, because the breaker has opened."""
        self._reads = None
        self._ended.set()

    def _heard(self, answers: Sequence[Any]) -> None:
        """Note answers that came in time, and what errors among them mean."""
        self._breaker.answered()
        for answer in answers:
            if not isinstance(answer, Exception):
                continue

            self._counts.errors += 1
            meaning = refusal(answer)
            if meaning is Refusal.AWAY and not self._breaker.is_resting:
                self._breaker.open(refusal_words(answer))
                self._trip()
            elif meaning is Refusal.NO_WRITES:
                self._no_writes_until = self._clock.monotonic() + NO_WRITES_S
                if self._takes_writes:
                    self._takes_writes = False
                    words = refusal_words(answer)
                    log.warning("the shared engine %s takes nothing: %s", self._address, words)

    @property
    def _may_write(self) -> bool:
        return self._clock.monotonic() >= self._no_writes_until

    # Records.

    async def get(self, names: Sequence[str]) -> dict[str, Record]:
        """See `SharedStore`."""
        wanted = list(dict.fromkeys(names))
        if not wanted:
            return {}

        groups = [wanted[at : at + GET_ITEMS] for at in range(0, len(wanted), GET_ITEMS)]
        commands: list[Command] = [(b"MGET", *map(self._sealer.record, each)) for each in groups]
        answers = await self._call(*commands)

        sealed: dict[str, bytes] = {}
        for group, answer in zip(groups, answers or (), strict=False):
            if isinstance(answer, list) and len(answer) == len(group):
                pairs = zip(group, answer, strict=True)
                sealed |= {name: value for name, value in pairs if isinstance(value, bytes)}

        if sum(map(len, sealed.values())) >= THREAD_FROM_BYTES:
            found = await in_thread(self._opened, sealed)
        else:
            found = self._opened(sealed)

        self._counts.hits += len(found)
        self._counts.misses += len(wanted) - len(found)
        return found

    def _opened(self, sealed: dict[str, bytes]) -> dict[str, Record]:
        found = {}
        for name, value in sealed.items():
            opened = self._sealer.open(name, value)
            if opened is None:
                self._counts.unusable += 1
                continue

            age = self._common_time() - opened.asked_at
            if not -AHEAD_S <= age < opened.ttl:
                self._counts.outdated += 1
                continue

            found[name] = Record(opened.value, max(0.0, age))

        return found

    def put(self, name: str, value: bytes, ttl: float, *, age: float = 0.0) -> bool:
        """See `SharedStore`."""
        is_full = len(self._queue) >= QUEUE_ITEMS or self._queued_bytes + len(value) > QUEUE_BYTES
        is_away = self._breaker.is_resting or not self._may_write
        if is_full or is_away or len(value) > VALUE_MAX_BYTES:
            self._counts.dropped += 1
            return False

        self._queued_bytes += len(value)
        self._enqueue(_Put(name, value, self._common_time() - age, ttl))
        return True

    def _enqueue(self, item: _Put | _Release) -> None:
        self._queue.append(item)
        self._queued.set()

    def _drop_queue(self) -> None:
        self._counts.dropped += sum(isinstance(item, _Put) for item in self._queue)
        self._queue.clear()
        self._queued_bytes = 0

    def _batch(self) -> list[_Put | _Release]:
        """What is sent next."""
        batch: list[_Put | _Release] = []
        size = 0
        while self._queue and len(batch) < BATCH_ITEMS and size < BATCH_BYTES:
            item = self._queue.popleft()
            batch.append(item)
            if isinstance(item, _Put):
                size += len(item.value)
                self._queued_bytes -= len(item.value)

        return batch

    async def _send_queue(self, link: Link) -> None:
        """Send what is put, and give leases back, one batch after the other."""
        while True:
            if not self._queue:
                self._queued = trio.Event()
                await self._queued.wait()

            batch = self._batch()
            self._unanswered = len(batch)
            size = sum(len(item.value) for item in batch if isinstance(item, _Put))
            if size >= THREAD_FROM_BYTES:
                commands = await in_thread(self._commands, batch)
            else:
                commands = self._commands(batch)

            answers: list[Any] | None = None
            try:
                answers = await link.call(
                    *(command for command, _ in commands), silence=PUT_SILENCE_S, longest=PUT_MAX_S
                )
            except Silent:
                self._failed(None)
            except Lost:
                return
            finally:
                self._unanswered = 0
                if answers is None:
                    self._counts.dropped += sum(is_put for _, is_put in commands)

            if answers is None:
                continue

            self._heard(answers)
            for (_, is_put), answer in zip(commands, answers, strict=True):
                if is_put and answer == b"OK":
                    self._counts.puts += 1
                    self._takes_writes = True
                elif is_put:
                    self._counts.dropped += 1
                elif answer == 0:
                    self._counts.lost += 1

    async def flush(self, longest: float) -> None:
        """Wait until what was put, and given back, is there: `longest` seconds at most.

        Without it a process that ends leaves others to wait for its leases.
        """
        end = self._clock.monotonic() + longest
        while (self._queue or self._unanswered) and self._reads is not None:
            if self._clock.monotonic() >= end:
                return
            await self._clock.sleep(FLUSH_POLL_S)

    def _commands(self, batch: Sequence[_Put | _Release]) -> list[tuple[Command, bool]]:
        """The commands of a batch, and whether each puts a record."""
        commands: list[tuple[Command, bool]] = []
        for item in batch:
            if isinstance(item, _Release):
                commands.append((self._giving_back(item.name, item.token), False))
                continue

            left = item.asked_at + item.ttl - self._common_time()
            sealed = self._sealer.seal(item.name, item.value, item.asked_at, item.ttl)
            if left <= 0 or len(sealed) > SEALED_MAX_BYTES or not self._may_write:
                self._counts.dropped += 1
                continue

            key = self._sealer.record(item.name)
            commands.append(((b"SET", key, sealed, b"PX", _milliseconds(left)), True))

        return commands

    # Turns.

    def _giving_back(self, name: str, token: bytes) -> Command:
        lease = self._sealer.lease(name)
        return (b"EVAL", RELEASE, 1, lease, token, self._sealer.channel(name))

    async def lease(self, name: str, longest: float) -> Lease | None:
        """See `SharedStore`."""
        token = secrets.token_bytes(16)
        hold = _milliseconds(min(HOLD_S, longest))
        take: Command = (b"SET", self._sealer.lease(name), token, b"NX", b"PX", hold)
        is_asked = self._may_write and not self._breaker.is_resting
        answers: list[Any] | None = None
        if is_asked:
            # The engine may give the lease, and the answer be late, or the caller be gone.
            look: Command = (b"MGET", self._sealer.record(name))
            answers = await self._call(take, look, undo=self._giving_back(name, token))

        match answers:
            case [b"OK", record]:
                self._counts.leases += 1
                self._held[token] = _Held(name, self._clock.monotonic() + longest)
                try:
                    return Lease(name, token, await self._found(name, record))
                except trio.Cancelled:
                    self.release(Lease(name, token))
                    raise
            case [None, _]:
                return None

        self._counts.alone += 1
        if is_asked or self._clock.monotonic() - self._woken_at < CROWD_S:
            await self._clock.sleep(PAUSE_S * self._clock.chance())
        return Lease(name, None)

    async def _found(self, name: str, answer: Any) -> Record | None:
        """The record in the answer to `MGET` of its name."""
        match answer:
            case [bytes(sealed)]:
                if len(sealed) >= THREAD_FROM_BYTES:
                    found = await in_thread(self._opened, {name: sealed})
                else:
                    found = self._opened({name: sealed})
                self._counts.hits += len(found)
                return found.get(name)

        return None

    def release(self, lease: Lease) -> None:
        """See `SharedStore`."""
        if lease.token is None:
            return

        self._held.pop(lease.token, None)
        if not self._breaker.is_resting:
            self._enqueue(_Release(lease.name, lease.token))

    async def _keep_leases(self, link: Link) -> None:
        """Tell the engine again and again of the leases that this node has."""
        while True:
            await self._clock.sleep(HOLD_S / 3)
            now = self._clock.monotonic()
            for token in [token for token, held in self._held.items() if held.until <= now]:
                del self._held[token]

            tokens = list(self._held)
            if not tokens:
                continue

            commands: list[Command] = []
            for token in tokens:
                held = self._held[token]
                hold = _milliseconds(min(HOLD_S, held.until - now))
                commands.append((b"EVAL", KEEP, 1, self._sealer.lease(held.name), token, hold))

            try:
                answers = await link.call(*commands, silence=SILENCE_S, longest=CALL_MAX_S)
            except Silent:
                self._failed(link)
                continue
            except Lost:
                return

            self._heard(answers)
            for token, answer in zip(tokens, answers, strict=True):
                if answer == 0:
                    self._held.pop(token, None)

    async def wait(self, name: str, timeout: float) -> Waited:
        """See `SharedStore`."""
        self._counts.waits += 1
        end = self._clock.monotonic() + timeout * (1 - 0.25 * self._clock.chance())
        try:
            with self._listening(self._sealer.channel(name)) as bell:
                while True:
                    state = await self._look(name)
                    left = end - self._clock.monotonic()
                    if state is not Waited.HELD or left <= 0:
                        return state

                    poll = POLL_S * (0.5 + 0.5 * self._clock.chance())
                    with trio.move_on_after(min(poll, left)):
                        await bell.rung.wait()
                    bell.rung = trio.Event()
        finally:
            self._woken_at = self._clock.monotonic()

    async def _look(self, name: str) -> Waited:
        """Whether a record is there, or somebody is at it."""
        # In this order: a holder puts the record first, and gives the lease back then.
        lease: Command = (b"EXISTS", self._sealer.lease(name))
        record: Command = (b"EXISTS", self._sealer.record(name))
        answers = await self._call(lease, record)
        if answers is None or not all(answer in (0, 1) for answer in answers):
            return Waited.UNKNOWN

        is_held, is_there = answers
        if is_there:
            return Waited.RECORD
        return Waited.HELD if is_held else Waited.FREE

    @contextmanager
    def _listening(self, channel: bytes) -> Iterator[_Bell]:
        """A bell that rings when a lease is given back, or the connection is lost."""
        bell = _Bell()
        bells = self._bells.setdefault(channel, set())
        bells.add(bell)
        if len(bells) == 1 and self._reads is not None:
            self._reads.send(b"SUBSCRIBE", channel)

        try:
            yield bell
        finally:
            bells.discard(bell)
            if not bells:
                del self._bells[channel]
                if self._reads is not None:
                    self._reads.send(b"UNSUBSCRIBE", channel)

    async def _listen(self, link: Link) -> None:
        """Ring the bells of channels on which something is said."""
        for channel in self._bells:
            link.send(b"SUBSCRIBE", channel)

        async for message in link.messages():
            is_message = isinstance(message, list) and len(message) == 3
            if not is_message or message[0] != b"message" or not isinstance(message[1], bytes):
                continue

            for bell in self._bells.get(message[1], ()):
                bell.rung.set()

    # Numbers.

    async def count(
        self,
        name: str,
        *,
        ttl: float,
        start: int | None = None,
        change: int = 0,
        at_least: int | None = None,
        at_most: int | None = None,
        keep: int | None = None,
        extend: bool = False,
    ) -> Count | None:
        """See `SharedStore`."""
        arguments: list[bytes | int] = [COUNT, 1, self._sealer.count(name)]
        arguments += [_number(each) for each in (start, change, at_least, at_most, keep)]
        arguments += [_milliseconds(ttl), int(extend)]
        answers = await self._call((b"EVAL", *arguments))
        match answers:
            case [[int(value), int(changed)]]:
                return Count(value, changed == 1)
        return None

    # What it has done.

    def stats(self) -> SharedStats:
        """Everything counted so far."""
        counts = asdict(self._counts)
        counts["buckets"] = tuple(counts["buckets"])
        return SharedStats(
            **counts,
            queued=len(self._queue),
            breaker=self._breaker.state,
            reason=self._breaker.reason,
            opened=self._breaker.opened,
        )


async def _when_lost(link: Link, ended: trio.Event) -> None:
    await link.lost.wait()
    ended.set()


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _number(value: int | None) -> bytes:
    return b"" if value is None else b"%d" % value
