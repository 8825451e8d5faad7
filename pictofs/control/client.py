"""The command line's side of the socket."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from pictofs.control.messages import Failure, Request, to_answer
from pictofs.errors import Forbidden, InvalidResponse, PictofsError, ServerUnreachable, TimedOut

A = TypeVar("A")


def ask(path: Path, message: Request, answer: type[A], timeout: float) -> A:
    """The last object of the answer to `message`; see `stream`."""
    *_, last = stream(path, message, answer, timeout)
    return last


def stream(path: Path, message: Request, answer: type[A], timeout: float) -> Iterator[A]:
    """Send `message` to the mount that listens at `path`, and yield the objects of its answer.

    Each is an `answer`. There is at least one. Nothing is sent before the first `next`. `timeout`:
    seconds that each line may take.

    Raises:
        Forbidden: the socket is closed to this user.
        ServerUnreachable: nobody listens there, or the mount ended in between.
        TimedOut: a line took too long.
        InvalidResponse: a line is not an `answer`.
        PictofsError: the mount's own error, with its exit code.
    """
    told = False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(str(path))

            # A mount that refuses at once closes before it reads, but its reason can be read.
            with suppress(BrokenPipeError):
                connection.sendall(json.dumps(msgspec.to_builtins(message)).encode() + b"\n")

            for line in connection.makefile("rb"):
                found = _parse(line)
                done = found.pop("done", False)

                # What was told object by object ends with one that holds nothing else.
                if found or not told:
                    yield to_answer(found, answer)
                    told = True
                if done:
                    return
        except TimeoutError:
            raise TimedOut(f"the mount did not answer within {timeout:g} s") from None
        except PermissionError:
            raise Forbidden(
                f"the mount is another user's, and its socket {path} is closed to you"
            ) from None
        except FileNotFoundError:
            raise ServerUnreachable(
                f"the mount can't be talked to: there is no {path} here; "
                "if it lives in a container, run the command there"
            ) from None
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
        told = to_answer(answer, Failure)
        failure = PictofsError(told.error, hint=told.hint)
        failure.exit_code = told.exit_code
        failure.docs = told.docs
        raise failure

    return answer
