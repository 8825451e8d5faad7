"""The operator's socket: who may use it, and that nothing sent to it ends it."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Struct

from pictofs.control import place, server
from pictofs.control.client import ask, stream
from pictofs.control.messages import Request, StatusRequest
from pictofs.control.server import ControlServer
from pictofs.errors import (
    Forbidden,
    Invalid,
    InvalidResponse,
    NoSuchEntry,
    PictofsError,
    ServerUnreachable,
    TimedOut,
)


class Echo(Request, tag="echo"):
    text: Any = None


class Count(Request, tag="count"):
    to: int
    fail: bool = False


class Bug(Request, tag="bug"):
    pass


class Odd(Request, tag="odd"):
    pass


class Text(Request, tag="text"):
    text: str


class Wait(Request, tag="wait"):
    pass


class Number(Struct):
    number: int


async def echo(message: Echo) -> Mapping[str, Any]:
    return {"you": message.text}


async def count(message: Count) -> AsyncGenerator[Number, None]:
    for number in range(message.to):
        yield Number(number)
    if message.fail:
        raise NoSuchEntry("no more numbers")


async def bug(message: Bug) -> Mapping[str, Any]:
    raise ZeroDivisionError


async def odd(message: Odd) -> Mapping[str, Any]:
    return {"odd": object()}


async def text(message: Text) -> Mapping[str, Any]:
    return {"bytes": len(message.text.encode())}


async def wait(message: Wait) -> Mapping[str, Any]:
    WAITING.append(trio.Event())
    await WAITING[-1].wait()
    return {}


WAITING: list[trio.Event] = []
"""What the requests of the operation `wait` wait for."""

HANDLERS: Mapping[type[Request], server.Handler] = {
    Echo: echo,
    Count: count,
    Bug: bug,
    Odd: odd,
    Text: text,
    Wait: wait,
}


@asynccontextmanager
async def serving(path: Path) -> AsyncIterator[Path]:
    async with trio.open_nursery() as nursery:
        await nursery.start(ControlServer(path, HANDLERS).serve)
        yield path
        nursery.cancel_scope.cancel()
    assert not await trio.Path(path).exists()


async def answers(path: Path, message: Request) -> list[dict[str, Any]]:
    return await trio.to_thread.run_sync(lambda: list(stream(path, message, dict[str, Any], 10)))


async def talk(path: Path, sent: bytes) -> list[dict[str, Any]]:
    """What the server says to raw bytes, until it closes."""
    stream = await trio.open_unix_socket(str(path))

    async with stream:
        try:
            await stream.send_all(sent)
            await stream.send_eof()
        except trio.BrokenResourceError:
            pass

        said = b""

        try:
            async for chunk in stream:
                said += chunk
        except trio.BrokenResourceError:
            pass

    return [json.loads(line) for line in said.splitlines()]


async def test_an_answer(tmp_path: Path) -> None:
    async with serving(tmp_path / "s") as path:
        assert await answers(path, Echo("hé\n\udcff")) == [{"you": "hé\n\udcff"}]


async def test_progress_then_done(tmp_path: Path) -> None:
    async with serving(tmp_path / "s") as path:
        assert await talk(path, b'{"op":"count","to":2}\n') == [
            {"number": 0},
            {"number": 1},
            {"done": True},
        ]
        assert await answers(path, Count(2)) == [{"number": 0}, {"number": 1}]


async def test_an_error_keeps_its_exit_code(tmp_path: Path) -> None:
    async with serving(tmp_path / "s") as path:
        with pytest.raises(PictofsError, match="no more numbers") as caught:
            await answers(path, Count(1, fail=True))
        assert caught.value.exit_code == NoSuchEntry.exit_code
        with pytest.raises(
            PictofsError, match=r"no operation 'status', only bug, count, echo, odd, text, wait"
        ) as caught:
            await answers(path, StatusRequest())
        assert caught.value.exit_code == Invalid.exit_code


async def test_a_bug_is_logged_and_answered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path / "s") as path:
        for message in (Bug(), Odd()):
            with pytest.raises(PictofsError, match="which is a bug"):
                await answers(path, message)
        assert await answers(path, Echo())
    assert "ZeroDivisionError" in caplog.text
    assert "Encoding objects of type object is unsupported" in caplog.text


async def test_half_a_surrogate_pair_is_no_bug(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path / "s") as path:
        with pytest.raises(PictofsError, match="half a surrogate pair") as caught:
            await answers(path, Text("\ud800"))
        assert caught.value.exit_code == Invalid.exit_code
        assert await answers(path, Echo())
    assert "bug" not in caplog.text


async def test_several_requests_on_one_connection(tmp_path: Path) -> None:
    async with serving(tmp_path / "s") as path:
        said = await talk(
            path, b'{"op":"echo","text":1}\nnonsense\n{"op":"echo","text":2}\n{"op":"echo"'
        )
    assert [answer.get("you") for answer in said] == [1, None, 2]
    assert "one JSON object a line" in said[1]["error"]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b'{"op":1}',
        b'{"op":null}',
        b'{"op":"text"}',
        b'{"op":"text","text":1}',
        b'{"op":"text","text":"","more":1}',
        b'{"op":"text","text":"","\\ud800":1}',
        b"\xff\xfe",
        b"[" * 60000,
        b"9" * 60000,
        b"\x00",
    ],
)
async def test_malformed_requests(tmp_path: Path, line: bytes) -> None:
    async with serving(tmp_path / "s") as path:
        (answer,) = await talk(path, line + b"\n")
        assert answer["exit_code"] == Invalid.exit_code
        assert await answers(path, Echo())


@settings(
    max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(
    st.lists(
        st.binary(max_size=200)
        | st.recursive(
            st.none() | st.integers() | st.text(), lambda c: st.dictionaries(st.text(), c)
        ).map(lambda value: json.dumps(value).encode() + b"\n")
    )
)
def test_garbage(tmp_path: Path, parts: list[bytes]) -> None:
    async def main() -> None:
        async with serving(tmp_path / "s") as path:
            sent = b"".join(parts)
            said = await talk(path, sent)
            assert len(said) == sent.count(b"\n")
            assert all("error" in answer for answer in said)
            assert await answers(path, Echo())

    trio.run(main)


async def test_a_line_without_end(tmp_path: Path) -> None:
    async with serving(tmp_path / "s") as path:
        said = await talk(path, b"x" * 1_000_000)
        assert all("at most" in answer["error"] for answer in said)
        assert await answers(path, Echo())


async def test_a_client_that_leaves_early(tmp_path: Path) -> None:
    async with serving(tmp_path / "s") as path:
        stream = await trio.open_unix_socket(str(path))
        await stream.send_all(b'{"op":"count","to":100000}\n')
        await stream.aclose()
        assert await answers(path, Echo())


async def test_a_silent_client_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "IDLE_SECONDS", 0.05)
    async with serving(tmp_path / "s") as path, await trio.open_unix_socket(str(path)) as stream:
        with trio.fail_after(10):
            assert await stream.receive_some(100) == b""


async def test_a_client_that_does_not_read_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "IDLE_SECONDS", 0.2)
    async with serving(tmp_path / "s") as path, await trio.open_unix_socket(str(path)) as stream:
        await stream.send_all(b'{"op":"count","to":1000000}\n')
        await trio.sleep(0.5)
        with trio.fail_after(10):
            said = b"".join([chunk async for chunk in stream])
    assert b'"done"' not in said


async def test_j7_idle_clients_make_way(tmp_path: Path) -> None:
    async with serving(tmp_path / "s") as path:
        before = len(os.listdir("/proc/self/fd"))
        streams = [
            await trio.open_unix_socket(str(path)) for _ in range(5 * server.MAX_CONNECTIONS)
        ]

        with trio.fail_after(20):
            assert await answers(path, Echo())

            # Ours, and the server's ends of a few of them.
            most = before + len(streams) + server.MAX_CONNECTIONS + 5
            while len(os.listdir("/proc/self/fd")) > most:  # noqa: ASYNC110 - only looking tells
                await trio.sleep(0.01)

            assert await streams[0].receive_some(1) == b""

        for stream in streams:
            await stream.aclose()


async def test_too_many_clients(tmp_path: Path) -> None:
    """Each of which waits for its answer: none can make way."""
    async with serving(tmp_path / "s") as path:
        streams = [await trio.open_unix_socket(str(path)) for _ in range(server.MAX_CONNECTIONS)]
        for stream in streams:
            await stream.send_all(b'{"op":"wait"}\n')
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(PictofsError, match="too many"):
            await answers(path, Echo())
        for stream, event in zip(streams, WAITING, strict=True):
            event.set()
            assert json.loads(await stream.receive_some(100)) == {"done": True}

        assert await answers(path, Echo())

        for stream in streams:
            await stream.aclose()


async def test_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server._Peer, "guest", lambda self: os.geteuid() + 1)
    async with serving(tmp_path / "s") as path:
        with pytest.raises(PictofsError, match=r"it is .*'s mount") as caught:
            await answers(path, Echo())
    assert caught.value.exit_code == Forbidden.exit_code


async def test_k5_a_guest_may_ask_what_is_for_guests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server._Peer, "guest", lambda self: 12345)
    async with trio.open_nursery() as nursery:
        path = tmp_path / "s"
        await nursery.start(ControlServer(path, HANDLERS, for_guests=(Echo, Wait)).serve)
        assert path.stat().st_mode & 0o777 == 0o666
        assert await answers(path, Echo("hello")) == [{"you": "hello"}]

        with pytest.raises(PictofsError, match="only its owner and root may do that") as caught:
            await answers(path, Count(to=1))
        assert caught.value.exit_code == Forbidden.exit_code

        # Guests leave connections to the owner.
        streams = [await trio.open_unix_socket(str(path)) for _ in range(server.MAX_GUESTS)]
        for each in streams:
            await each.send_all(b'{"op":"wait"}\n')
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(PictofsError, match="too many requests of other users"):
            await answers(path, Echo())
        monkeypatch.setattr(server._Peer, "guest", lambda self: None)
        assert await answers(path, Echo("owner")) == [{"you": "owner"}]

        nursery.cancel_scope.cancel()


async def test_only_the_owner_can_open_the_socket(tmp_path: Path) -> None:
    async with serving(tmp_path / "s") as path:
        assert path.stat().st_mode & 0o777 == 0o600


async def test_a_dead_processs_socket_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s"))
    async with serving(tmp_path / "s") as path:
        assert await answers(path, Echo())


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(ServerUnreachable, match="can't be talked to"):
        ask(tmp_path / "s", Echo(), dict[str, Any], 1)


@pytest.fixture
def rude(tmp_path: Path) -> Iterator[tuple[Path, list[bytes]]]:
    """A server that answers any request with the bytes in the list, and closes."""
    answers: list[bytes] = []

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1000)
                for answer in answers:
                    connection.sendall(answer)
                if not answers:
                    connection.recv(1000)  # silence until the client leaves

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield tmp_path / "s", answers
        thread.join(10)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"\n", InvalidResponse),
        (b"[]\n", InvalidResponse),
        (b'{"number":1}\n', ServerUnreachable),
        (b'{"done":true', InvalidResponse),
        (b'{"number":"1","done":true}\n', InvalidResponse),
        (b'{"done":true}\n', InvalidResponse),
        (b'{"error":"x","exit_code":"9"}\n', InvalidResponse),
        (b'{"error":"x","exit_code":9}\n', PictofsError),
    ],
)
def test_a_rude_server(
    rude: tuple[Path, list[bytes]], answer: bytes, kind: type[Exception]
) -> None:
    path, answers = rude
    answers.append(answer)
    with pytest.raises(kind):
        ask(path, Echo(), Number, 10)


def test_a_silent_server(rude: tuple[Path, list[bytes]]) -> None:
    with pytest.raises(TimedOut):
        ask(rude[0], Echo(), Number, 0.1)


def test_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime, cache = tmp_path / "run", tmp_path / "cache"
    runtime.mkdir()
    mountpoint = Path("/m")
    first = place.new_socket(mountpoint, cache, {"XDG_RUNTIME_DIR": str(runtime)})

    assert first.parent == runtime / "pictofs"
    assert first.parent.stat().st_mode & 0o777 == 0o700
    assert str(os.getpid()) in first.name

    for environ in (
        {},
        {"XDG_RUNTIME_DIR": "relative"},
        {"XDG_RUNTIME_DIR": str(tmp_path / "gone")},
    ):
        assert place.new_socket(mountpoint, cache, environ).parent == cache / "run"

    monkeypatch.setattr(place, "SHORT", tmp_path / "short")
    far = place.new_socket(mountpoint, tmp_path / ("x" * 100), {})

    assert far.parent == tmp_path / "short"
    assert place.new_socket(Path("/n"), cache, {}) != place.new_socket(mountpoint, cache, {})


def test_k5_a_place_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "SHARED", tmp_path / "none/pictofs")
    monkeypatch.setattr(place, "SHORT", tmp_path / "short")
    umask = os.umask(0o077)
    try:
        folder = place.new_shared_socket(Path("/m")).parent
    finally:
        os.umask(umask)

    assert folder == tmp_path / "short-shared"
    assert folder.stat().st_mode & 0o777 == 0o711

    folder.chmod(0o777)
    with pytest.raises(Forbidden, match="open to other users"):
        place.new_shared_socket(Path("/m"))


def test_a_folder_that_is_not_ours_alone_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"

    def refused(words: str) -> None:
        with pytest.raises(Forbidden, match=words):
            place.new_socket(Path("/m"), tmp_path, {})

    (tmp_path / "elsewhere").mkdir(mode=0o700)
    run.symlink_to("elsewhere")
    refused("symbolic link")
    run.unlink()
    run.mkdir(mode=0o755)
    refused("chmod 700")
    run.chmod(0o700)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    refused("another user")
