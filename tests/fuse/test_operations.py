"""What a request is answered where something goes wrong below."""

from __future__ import annotations

import errno
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
