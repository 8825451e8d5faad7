"""The command line's side of the socket."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pictofs.errors import InvalidResponse, PictofsError, ServerUnreachable, TimedOut


def request(path: Path, message: Mapping[str, Any], timeout: float) -> Iterator[dict[str, Any]]:
    """Send `message` to the mount that listens at `path`, and yield the objects of its answer.

    The last one holds `done`. Nothing is sent before the first `next`. `timeout`: seconds that each
    line may take.

    Raises:
        ServerUnreachable: nobody listens there, or the mount ended in between.
        TimedOut: a line took too long.
        InvalidResponse: a line is not a JSON object.
        PictofsError: the mount's own error, with its exit code.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(str(path))

            # A mount that refuses at once closes before it reads, but its reason can be read.
            with suppress(BrokenPipeError):
                connection.sendall(json.dumps(message).encode() + b"\n")

            for line in connection.makefile("rb"):
                answer = _parse(line)
                yield answer
                if answer.get("done"):
                    return
        except TimeoutError:
            raise TimedOut(f"the mount did not answer within {timeout:g} s") from None
        except OSError as error:
            raise ServerUnreachable(
                f"the mount can't be talked to at {path}: {error.strerror}"
            ) from None

    raise ServerUnreachable("the mount ended before it answered")


def _parse(line: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(line)
    except ValueError:
        raise InvalidResponse("the mount answered with something else than JSON") from None

    if not isinstance(answer, dict):
        raise InvalidResponse("the mount answered with something else than an object")

    if "error" in answer:
        failure = PictofsError(str(answer["error"]))
        failure.exit_code = int(answer.get("exit_code", 1))
        raise failure

    return answer
