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
from pictofs.fuse.operations import Operations
from pictofs.vfs.node import Attributes
from pictofs.vfs.tree import Tree

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
