"""`python -m standin`: run a stand-in until it is told to stop; one line of JSON says where it listens."""

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
    parser.add_argument("--port", type=int, default=0, help="of the API host; 0 lets the system choose")
    parser.add_argument("--storage-port", type=int, default=0)
    parser.add_argument(
        "--latency", type=float, default=0.0, help="seconds before each answer, at both hosts"
    )
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
    """The name and value of `name=json`."""
    name, _, value = assignment.partition("=")
    return name, json.loads(value)


def main() -> None:
    """Run until SIGTERM or SIGINT."""
    asked = _arguments()
    # Blocked before any thread starts, so that the wait below is where the signal arrives.
    awaited = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    running = StandIn(
        _spec(asked),
        api_port=asked.port,
        storage_port=asked.storage_port,
        api_latency=asked.latency if asked.api_latency is None else asked.api_latency,
        storage_latency=asked.latency if asked.storage_latency is None else asked.storage_latency,
        **dict(map(_switch, asked.set)),
    )
    gc.freeze()  # a large organization is never garbage, and need not be looked through again
    with running:
        line = {"api": running.api_url, "storage": running.storage_url, "keys": running.keys}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
        signal.sigwait(awaited)


if __name__ == "__main__":
    main()
