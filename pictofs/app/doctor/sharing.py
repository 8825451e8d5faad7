"""Whether the shared engine can be used, and how it is set up: it is asked, and not changed."""

from __future__ import annotations

from collections.abc import Iterator

import trio

from pictofs.app.doctor.finding import Finding, fail, failed, ok, warn
from pictofs.config.shared import SharedAddress
from pictofs.errors import Invalid
from pictofs.model.printable import bytes_text
from pictofs.store.shared.extra import require_cluster

CHECK = "shared engine"
SECONDS = 15.0
"""That a look takes at most, and some to begin."""
SLOW_S = 0.02
"""Seconds of a round trip from which sharing costs more than some requests: a mount gives a call up
after 0.1 s."""


def check_sharing(address: SharedAddress) -> Iterator[Finding]:
    """Reach, security and memory, as the engine tells them."""
    try:
        require_cluster()
    except Invalid as error:
        yield failed(CHECK, error)
        return

    # Imported with the option alone: it takes half a second.
    from pictofs.store.shared.probe import probe  # noqa: PLC0415

    found = trio.run(probe, address)
    if not found.reachable:
        yield fail(
            CHECK,
            f"{address} can't be used: {found.reason}",
            "mounts go on without it; see whether it runs, and whether this machine may reach it",
        )
        return

    product = f"{found.product or 'an engine'} {found.version or ''}".strip()
    trip = found.round_trip or 0.0
    said = f"{address} answers ({product}), {1000 * trip:.1f} ms a round trip"
    if trip > SLOW_S:
        yield warn(CHECK, said, "put it nearer to the nodes: a mount gives a call up after 100 ms")
    else:
        yield ok(CHECK, said)

    if found.role == "slave":
        yield warn(CHECK, "it is a replica, which takes no records", "name its primary")
    if not found.tls and found.has_password:
        yield warn(
            CHECK,
            "its password crosses the network in plain (records do not)",
            "use rediss:// where others can listen",
        )
    elif not found.tls:
        yield ok(CHECK, "without TLS: records are sealed all the same")

    policy = found.memory_policy
    limit = found.memory_limit
    if policy is not None and not policy.startswith("allkeys"):
        yield warn(
            CHECK,
            f"maxmemory-policy is {policy}: once it is full it takes no records",
            "set maxmemory-policy allkeys-lru",
        )
    if limit == 0:
        yield warn(CHECK, "its memory is not bounded", "set maxmemory: pictofs help cluster")
    elif limit is not None and found.memory_used is not None:
        used = f"{bytes_text(found.memory_used)} of {bytes_text(limit)} used"
        yield ok(CHECK, f"{used}, {found.evicted or 0:,} records evicted")
