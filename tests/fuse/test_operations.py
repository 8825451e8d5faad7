"""What a request is answered where something goes wrong below."""

from __future__ import annotations

import errno
import inspect
import logging
from typing import Any, cast

import pyfuse3
import pytest
import trio

from pictofs import errors
from pictofs.errors import Throttled
from pictofs.fuse.operations import LIMIT_WAITS_MAX, Operations
from pictofs.vfs.node import Attributes
from pictofs.vfs.tree import OpenFile, Tree

INODE = pyfuse3.InodeT(1)
NOBODY = cast(pyfuse3.RequestContext, None)


class Broken:
    """A tree in which nothing can be looked up."""

    def __init__(self, failure: BaseException | None) -> None:
        self._failure = failure

    async def lookup(self, parent: int, name: str) -> Attributes:
        if self._failure is None:
            await trio.sleep_forever()
        raise cast(BaseException, self._failure)

    attributes: Any = lookup


def operations(failure: BaseException | None) -> Operations:
    return Operations(cast(Tree, Broken(failure)), timeout=5, uid=0, gid=0, umask=0)


async def code_of(made: Operations, name: bytes = b"name") -> int:
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await made.lookup(INODE, pyfuse3.FileNameT(name), NOBODY)
    number: int = caught.value.errno
    return number


async def test_e1_a_bug_is_eio_and_is_told_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    made = operations(KeyError("a bug"))
    for count in (1, 2):
        assert await code_of(made) == errno.EIO
        assert made.bugs == count
    assert "please report this" in caplog.text
    assert "Traceback" in caplog.text
    assert "KeyError: 'a bug'" in caplog.text


@pytest.mark.parametrize("kind", [each for each in vars(errors).values() if isinstance(each, type)])
async def test_e1_each_error_has_the_errno_of_its_class(
    kind: type[errors.PictofsError], caplog: pytest.LogCaptureFixture
) -> None:
    made = operations(kind("it failed"))
    assert await code_of(made) == kind.errno
    assert made.bugs == 0
    logged = [record.levelno for record in caplog.records]
    assert logged == ([] if kind.errno in (errno.ENOENT, errno.ESTALE) else [logging.WARNING])


async def test_t1_what_takes_too_long_is_etimedout(autojump_clock: trio.testing.MockClock) -> None:
    assert await code_of(operations(None)) == errno.ETIMEDOUT
    assert trio.current_time() == 5


class Spent:
    """A tree whose files can be opened once the limit of requests is there again."""

    def __init__(self, reset: float | None, *, told: bool = True) -> None:
        """`reset`: on trio's clock; None if an open is never answered. `told`: by the server."""
        self._reset = reset
        self._told = told
        self.attempts = 0

    def reopen(self, inode: int) -> OpenFile | None:
        return None

    async def open(self, inode: int) -> OpenFile:
        self.attempts += 1
        if self._reset is None:
            await trio.sleep_forever()

        left = cast(float, self._reset) - trio.current_time()
        if left > 0:
            raise Throttled("the limit is spent", retry_after=left if self._told else None)
        return OpenFile(1, cast(Any, None), cast(Any, None), False, False, False, True)


def waiting(tree: Spent, wait: float) -> Operations:
    return Operations(cast(Tree, tree), timeout=5, uid=0, gid=0, umask=0, wait_for_limit=wait)


async def open_code(made: Operations) -> int:
    """The errno of an open, 0 if it is well."""
    try:
        await made.open(INODE, pyfuse3.FlagT(0), cast(Any, SomeThread()))
    except pyfuse3.FUSEError as error:
        return cast(int, error.errno)
    return 0


class SomeThread:
    """Who asks."""

    pid = 0


@pytest.mark.parametrize("told", [True, False])
async def test_t6_an_open_waits_for_the_limit(
    autojump_clock: trio.testing.MockClock, told: bool
) -> None:
    made = waiting(tree := Spent(3000, told=told), 3600)
    assert await open_code(made) == 0
    assert trio.current_time() == 3000
    assert tree.attempts == 51


@pytest.mark.parametrize("wait", [0, 2999])
async def test_t6_it_does_not_wait_in_vain(
    autojump_clock: trio.testing.MockClock, wait: float
) -> None:
    made = waiting(tree := Spent(3000), wait)
    assert await open_code(made) == errno.EBUSY
    assert (trio.current_time(), tree.attempts) == (0, 1)


async def test_t6_a_server_that_does_not_answer_is_not_waited_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    assert await open_code(waiting(Spent(None), 3600)) == errno.ETIMEDOUT
    assert trio.current_time() == 5


async def test_t2_opens_that_wait_for_the_limit_leave_room_for_others(
    autojump_clock: trio.testing.MockClock,
) -> None:
    made = waiting(Spent(100), 3600)
    codes = []

    async def one() -> None:
        codes.append(await open_code(made))

    async with trio.open_nursery() as nursery:
        for _ in range(LIMIT_WAITS_MAX + 3):
            nursery.start_soon(one)

    assert codes == [errno.EBUSY] * 3 + [0] * LIMIT_WAITS_MAX


async def test_n2_bytes_that_no_name_has_are_not_there() -> None:
    assert await code_of(operations(KeyError("not asked")), b"\xff\xfe") == errno.ENOENT


async def test_m2_what_is_cancelled_from_above_stays_cancelled() -> None:
    made = operations(None)
    with trio.move_on_after(0) as scope:
        await made.lookup(INODE, pyfuse3.FileNameT(b"name"), NOBODY)
    assert scope.cancelled_caught


HANDLERS = [
    name for name, each in vars(pyfuse3.Operations).items() if inspect.iscoroutinefunction(each)
]
ARGUMENTS = {
    "forget": ([(INODE, 1)],),
    "read": (1, 0, 4096),
    "readdir": (1, 0, None),
    "release": (1,),
    "releasedir": (1,),
}
"""Of handlers that get something else than an inode, a name and so on."""
NAMES = {
    "lookup",
    "create",
    "mknod",
    "symlink",
    "unlink",
    "mkdir",
    "rmdir",
    "getxattr",
    "setxattr",
    "removexattr",
}
QUIET = {"forget", "release", "releasedir"}
"""Handlers whose failure the kernel does not hear of."""


class Exploding:
    """A tree of which nothing works, in a way that nobody has thought of."""

    def __getattr__(self, name: str) -> Any:
        raise RecursionError(f"{name} is broken")


def arguments_of(name: str) -> tuple[Any, ...]:
    """Some arguments of a handler."""
    if name in ARGUMENTS:
        return ARGUMENTS[name]
    if name not in vars(Operations):
        return (0,) * (len(inspect.signature(getattr(pyfuse3.Operations, name)).parameters) - 1)
    if name == "statfs":
        return (NOBODY,)
    if name in ("rename", "link"):
        return (INODE, b"a", INODE, b"b", 0, NOBODY)
    return (INODE, b"user.x", NOBODY) if name in NAMES else (INODE, 0, NOBODY)


@pytest.mark.parametrize("name", HANDLERS)
async def test_e1_no_exception_leaves_a_handler(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = Operations(cast(Tree, Exploding()), timeout=5, uid=0, gid=0, umask=0, writable=True)
    arguments = arguments_of(name)

    if name in QUIET - {"forget"}:
        assert await getattr(made, name)(*arguments) is None
    elif name == "forget":
        assert await made.forget(*arguments) is None
        assert await made.forget(cast(Any, 5)) is None
        return
    else:
        with pytest.raises(pyfuse3.FUSEError) as caught:
            await getattr(made, name)(*arguments)
        if name not in vars(Operations):  # pyfuse3's own says that there is none
            assert caught.value.errno == errno.ENOSYS
            return

        assert caught.value.errno == errno.EIO

    assert made.bugs == 1
    assert "please report this" in caplog.text


@pytest.mark.parametrize("name", [name for name in HANDLERS if name in vars(Operations)])
def test_e1_every_handler_is_wrapped(name: str) -> None:
    assert hasattr(vars(Operations)[name], "guards")


async def test_e1_arguments_that_nobody_expects_leave_no_handler_either() -> None:
    made = Operations(cast(Tree, Exploding()), timeout=5, uid=0, gid=0, umask=0)
    with pytest.raises(pyfuse3.FUSEError):
        await made.read(cast(Any, []), cast(Any, {}), cast(Any, None))
    with pytest.raises(pyfuse3.FUSEError):
        await cast(Any, made).statfs()


class Absurd:
    """A tree with numbers that no C structure takes."""

    async def lookup(self, parent: int, name: str) -> Attributes:
        numbers = {"huge": 10**30, "negative": -5, "edge": 2**63}
        number = numbers[name]
        return Attributes(7, 0o100644, number, number, number, 1.0, 1.0)

    def space(self) -> tuple[int, int]:
        return 10**30, 2**70


@pytest.mark.parametrize("name", ["huge", "negative", "edge"])
async def test_s7_numbers_that_no_structure_takes_are_bounded(name: str) -> None:
    made = Operations(cast(Tree, Absurd()), timeout=5, uid=0, gid=0, umask=0)
    found = await made.lookup(INODE, pyfuse3.FileNameT(name.encode()), NOBODY)
    wanted = 0 if name == "negative" else 2**63 - 1
    assert (found.st_size, found.st_blocks) == (wanted, wanted)
    assert found.st_mtime_ns == wanted
    figures = await made.statfs(NOBODY)
    assert (figures.f_blocks, figures.f_files) == (2**63 - 1, 2**63 - 1)
    assert made.bugs == 0
