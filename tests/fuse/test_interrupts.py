"""Which requests are given up because a signal tells their process to end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import trio
from mounting import needs_pid_namespace

from pictofs.fuse.interrupts import InterruptWatcher, is_told_to_end

Stopped = Callable[[str], subprocess.Popen[bytes]]


@pytest.fixture
def stopped() -> Iterator[Stopped]:
    """Starts a stopped Python after some preparation: signals wait at its door."""
    with ExitStack() as stack:

        def start(preparation: str) -> subprocess.Popen[bytes]:
            code = (
                f"import os, signal, threading\n{preparation}\nos.kill(os.getpid(), signal.SIGSTOP)"
            )
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", code]))
            stack.callback(process.kill)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
            return process

        yield start


@pytest.mark.parametrize("name", ["SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM"])
@pytest.mark.parametrize("handler", ["signal.SIG_DFL", "print"])
def test_t3_a_signal_that_tells_to_end_is_seen(stopped: Stopped, name: str, handler: str) -> None:
    process = stopped(f"signal.signal(signal.{name}, {handler})")
    assert not is_told_to_end(process.pid)
    process.send_signal(signal.Signals[name])
    assert is_told_to_end(process.pid)


@pytest.mark.parametrize(
    ("preparation", "name"),
    [
        ("signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])", "SIGINT"),
        ("signal.signal(signal.SIGINT, signal.SIG_IGN)", "SIGINT"),
        ("signal.signal(signal.SIGALRM, print)", "SIGALRM"),
        ("signal.signal(signal.SIGUSR1, print)", "SIGUSR1"),
        ("", "SIGWINCH"),
    ],
)
def test_t3_a_signal_that_ends_nothing_is_not(
    stopped: Stopped, preparation: str, name: str
) -> None:
    process = stopped(preparation)
    process.send_signal(signal.Signals[name])
    assert not is_told_to_end(process.pid)


def test_t3_a_thread_is_looked_at_by_its_own_number(stopped: Stopped) -> None:
    blocks = "lambda: (signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]), ready.set(), ready2.wait())"
    process = stopped(
        "ready, ready2 = threading.Event(), threading.Event()\n"
        f"threading.Thread(target={blocks}, daemon=True).start()\nready.wait()"
    )
    process.send_signal(signal.SIGTERM)
    other = max(int(each) for each in os.listdir(f"/proc/{process.pid}/task"))
    assert other != process.pid
    assert is_told_to_end(process.pid)
    assert not is_told_to_end(other)  # it blocks the signal, and may go on


def test_t3_a_process_that_is_gone_tells_nothing() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    assert not is_told_to_end(process.pid)


async def test_t3_a_request_is_given_up_once_its_signal_has_waited(stopped: Stopped) -> None:
    told, other = stopped(""), stopped("")
    interrupts = InterruptWatcher()
    mine, others, unknown = trio.CancelScope(), trio.CancelScope(), trio.CancelScope()
    interrupts.enter(mine, told.pid)
    interrupts.enter(others, other.pid)
    interrupts.enter(unknown, 0)
    told.send_signal(signal.SIGTERM)
    interrupts.look()

    assert not mine.cancel_called  # it may be about to be delivered

    interrupts.look()

    assert [scope.cancel_called for scope in (mine, others, unknown)] == [True, False, False]
    assert [interrupts.leave(scope) for scope in (mine, others, unknown)] == [True, False, False]

    # The kernel goes on asking for the rest of a long read(), and no look comes between.
    more = trio.CancelScope()
    interrupts.enter(more, told.pid)

    assert more.cancel_called
    assert interrupts.leave(more)


async def test_t3_nobody_looks_while_nobody_asks(autojump_clock: trio.testing.MockClock) -> None:
    interrupts = InterruptWatcher()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(interrupts.watch)
        await trio.testing.wait_all_tasks_blocked()
        before = trio.lowlevel.current_statistics().seconds_to_next_deadline

        assert before == float("inf")

        scope = trio.CancelScope()
        interrupts.enter(scope, os.getpid())
        await trio.sleep(5)

        assert not interrupts.leave(scope)

        await trio.sleep(1)

        assert trio.lowlevel.current_statistics().seconds_to_next_deadline == float("inf")

        nursery.cancel_scope.cancel()


@needs_pid_namespace
def test_t3_numbers_of_another_namespace_are_not_looked_up() -> None:
    code = "import trio; from pictofs.fuse.interrupts import InterruptWatcher; trio.run(InterruptWatcher().watch)"
    # Its /proc is that of the namespace above: the watch ends at once instead of waiting for
    # requests.
    subprocess.run(
        ["unshare", "--pid", "--fork", sys.executable, "-c", code], check=True, timeout=60
    )
