"""A look at the shared engine, for `pictofs doctor`: it changes nothing there."""

from __future__ import annotations

import ssl
from typing import Any

import msgspec
import trio

from pictofs.config.shared import SharedAddress
from pictofs.store.shared.connection import (
    Command,
    EngineAway,
    Link,
    Lost,
    Silent,
    connect,
    refusal_words,
    verifying_context,
)

_CALLS = 10
"""Calls whose median is the round trip."""
_SILENCE_S = 1.0
"""Seconds to wait for an answer. A mount waits for a tenth of that: see `round_trip`."""
_TEXT_MAX = 64
"""Characters of what the engine says of itself that are told on."""
_INFO: Command = (b"INFO", b"everything")


class EngineProbe(msgspec.Struct, frozen=True, kw_only=True):
    """What was found. What the engine does not say, or not to this user, is None."""

    reachable: bool
    """Whether it can be used."""
    reason: str | None = None
    """Why it can't, in plain words."""
    tls: bool = False
    has_password: bool = False
    round_trip: float | None = None
    """Seconds."""
    product: str | None = None
    """`valkey` or `redis`."""
    version: str | None = None
    role: str | None = None
    """`master` or `slave`; what is a replica can't be written."""
    memory_policy: str | None = None
    """What it does when its memory is full; `noeviction` takes nothing more then."""
    memory_limit: int | None = None
    """Bytes; 0: none."""
    memory_used: int | None = None
    """Bytes."""
    evicted: int | None = None
    """Records that it threw away because its memory was full."""
    persists: bool | None = None
    """Whether it writes what it holds to a disk."""
    clients: int | None = None
    """Connections, from all nodes."""


async def probe(address: SharedAddress, context: ssl.SSLContext | None = None) -> EngineProbe:
    """What there is to say of an engine. Takes 13 s at most, and raises nothing.

    `context`: for TLS; None: the system's authorities.
    """
    if context is None and address.tls:
        context = verifying_context()

    found: list[EngineProbe] = []
    reason = "it failed in an unforeseen way"
    try:
        async with trio.open_nursery() as nursery:
            link = await connect(address, nursery, context)
            found.append(await _looked(link, address))
            nursery.cancel_scope.cancel()
    except* (EngineAway, Silent, Lost) as group:
        reason = _reason(group)

    if found:
        return found[0]
    return EngineProbe(
        reachable=False,
        reason=reason,
        tls=address.tls,
        has_password=address.password is not None,
    )


async def _looked(link: Link, address: SharedAddress) -> EngineProbe:
    times = []
    for _ in range(_CALLS):
        began = trio.current_time()
        (answer,) = await link.call((b"PING",), silence=_SILENCE_S, longest=_SILENCE_S)
        if isinstance(answer, Exception):
            raise EngineAway(refusal_words(answer))
        times.append(trio.current_time() - began)

    save_rules: Command = (b"CONFIG", b"GET", b"save")
    info, save = await link.call(_INFO, save_rules, silence=_SILENCE_S, longest=_SILENCE_S)
    said = _lines(info)
    persists = None
    if isinstance(save, dict) and isinstance(save.get(b"save"), bytes):
        persists = bool(save[b"save"].strip()) or said.get("aof_enabled") == "1"

    is_valkey = said.get("server_name") == "valkey" or "valkey_version" in said
    product = None
    if said:
        product = "valkey" if is_valkey else "redis"

    return EngineProbe(
        reachable=True,
        tls=address.tls,
        has_password=address.password is not None,
        round_trip=sorted(times)[len(times) // 2],
        product=product,
        version=said.get("valkey_version") or said.get("redis_version"),
        role=said.get("role"),
        memory_policy=said.get("maxmemory_policy"),
        memory_limit=_whole(said.get("maxmemory")),
        memory_used=_whole(said.get("used_memory")),
        evicted=_whole(said.get("evicted_keys")),
        persists=persists,
        clients=_whole(said.get("connected_clients")),
    )


def _lines(info: Any) -> dict[str, str]:
    """The answer to INFO, as far as it is text of a sensible length."""
    if not isinstance(info, bytes):
        return {}

    said = {}
    for line in info[: 1 << 20].decode("ascii", "replace").splitlines():
        word, colon, value = line.partition(":")
        if colon and value.isprintable() and len(value) <= _TEXT_MAX:
            said[word] = value

    return said


def _whole(text: str | None) -> int | None:
    if text is None or not (text.isascii() and text.isdigit()) or len(text) > 18:
        return None
    return int(text)


def _reason(group: BaseExceptionGroup[BaseException]) -> str:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]

    if isinstance(error, Silent):
        return f"no answer within {_SILENCE_S:g} s"
    if isinstance(error, Lost):
        return "it breaks connections off"
    return str(error)
