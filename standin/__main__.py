"""`python -m standin`: run a stand-in until SIGTERM or SIGINT.

It prints one line of JSON with its addresses and keys as soon as it listens.
"""

from __future__ import annotations

import argparse
import gc
import json
import signal
import sys
from typing import Any

from standin.presets import PRESETS
from standin.server import StandIn
from standin.spec import Spec


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m standin", description=__doc__)

    parser.add_argument("--preset", choices=sorted(PRESETS), default="sample")
    parser.add_argument("--images", type=int, help="like images per dataset, instead of a preset")
    parser.add_argument("--datasets", type=int, default=1)
    parser.add_argument("--size", type=int, default=102_400, help="bytes of each image")
    parser.add_argument("--directories", type=int, default=1)
    parser.add_argument("--annotations", type=int, default=3)
    parser.add_argument("--statuses", default="mixed", help="`mixed`, or one status for all")

    port_help = "of the API host; 0 lets the system choose"
    parser.add_argument("--port", type=int, default=0, help=port_help)
    parser.add_argument("--storage-port", type=int, default=0)

    latency_help = "seconds before each answer, at both hosts"
    parser.add_argument("--latency", type=float, default=0.0, help=latency_help)
    parser.add_argument("--api-latency", type=float)
    parser.add_argument("--storage-latency", type=float)

    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SWITCH=JSON",
        help="any other switch, for example --set url_lifetime=5 --set hash_header=false",
    )

    return parser.parse_args()


def _spec(asked: argparse.Namespace) -> Spec:
    if asked.images is None:
        return PRESETS[asked.preset]()

    return Spec.uniform(
        asked.datasets,
        asked.images,
        asked.size,
        directories=asked.directories,
        annotations=asked.annotations,
        statuses=asked.statuses,
    )


def _switch(assignment: str) -> tuple[str, Any]:
    """The name and the decoded value of `name=json`."""
    name, _, value = assignment.partition("=")
    return name, json.loads(value)


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    asked = _arguments()

    # Blocked before any thread starts, so that the wait below is where the signal arrives.
    awaited = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)

    api_latency = asked.api_latency
    if api_latency is None:
        api_latency = asked.latency

    storage_latency = asked.storage_latency
    if storage_latency is None:
        storage_latency = asked.latency

    running = StandIn(
        _spec(asked),
        api_port=asked.port,
        storage_port=asked.storage_port,
        api_latency=api_latency,
        storage_latency=storage_latency,
        **dict(map(_switch, asked.set)),
    )
    # A large organization never becomes garbage, so the collector need not visit it again.
    gc.freeze()

    with running:
        line = {"api": running.api_url, "storage": running.storage_url, "keys": running.keys}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
        signal.sigwait(awaited)


if __name__ == "__main__":
    main()
