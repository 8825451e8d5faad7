"""Everything that can go wrong, with the errno a program sees and the exit code a shell sees.

This is the only table of errnos and exit codes. The exit codes are those of the vendor's command
line, so that scripts can check both alike: 1 failed, 2 authentication, 3 forbidden, 4 not found,
5 conflict, 6 invalid, 7 payment, 8 rate limited, 9 unavailable.
"""

from __future__ import annotations

import errno

TROUBLESHOOTING = "pictofs help troubleshooting"
OTHER_USERS = "pictofs help other-users"
AUTHENTICATION = "https://pictograph.io/docs/authentication"
LIMITS = "https://pictograph.io/docs/error-handling"


class PictofsError(Exception):
    """An expected failure. The message is one line for a person and never holds the API key."""

    errno: int = errno.EIO
    exit_code: int = 1
    docs: str = ""
    """Where more is told: a URL, or a command that shows it; "" if the message says it all."""
    final: bool = False
    """Whether nothing is gained by another attempt: enough have been made, or all would fail."""

    def __init__(self, message: str = "", *, hint: str = "") -> None:
        """`hint`: what the person can do about it; `str` has it behind the message."""
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class NoSuchEntry(PictofsError):
    """The item does not exist, or the key may not see it (the API answers 404 to both)."""

    errno = errno.ENOENT
    exit_code = 4


class AlreadyExists(PictofsError):
    """An item of that name exists."""

    errno = errno.EEXIST
    exit_code = 5


class NotEmpty(PictofsError):
    """A folder to be removed is not empty."""

    errno = errno.ENOTEMPTY
    exit_code = 5


class NotADirectory(PictofsError):
    """A folder was needed and the item is a file."""

    errno = errno.ENOTDIR
    exit_code = 6


class IsADirectory(PictofsError):
    """A file was needed and the item is a folder."""

    errno = errno.EISDIR
    exit_code = 6


class Stale(PictofsError):
    """The kernel's inode has an outdated content. On ESTALE it looks the path up again."""

    errno = errno.ESTALE


class ReadOnly(PictofsError):
    """The mount or the item can't be changed."""

    errno = errno.EROFS
    exit_code = 3


class NotSupported(PictofsError):
    """The API has no operation for this."""

    errno = errno.EOPNOTSUPP
    exit_code = 6


class Unauthorized(PictofsError):
    """The API refused the key (401)."""

    errno = errno.EACCES
    exit_code = 2
    docs = AUTHENTICATION


class Forbidden(PictofsError):
    """The key's role is too low (403), or what is on this machine is another user's."""

    errno = errno.EACCES
    exit_code = 3
    docs = OTHER_USERS
    """The API's has the page on API keys."""


class Invalid(PictofsError):
    """The request can't be understood: a bad option, or a 400 or 422 from the API."""

    errno = errno.EINVAL
    exit_code = 6


class TooLarge(PictofsError):
    """A text is larger than what is read of the API's objects."""

    errno = errno.EFBIG
    exit_code = 6


class Conflict(PictofsError):
    """The item is in a state that forbids this now, such as cold storage (409)."""

    errno = errno.EBUSY
    exit_code = 5


class Throttled(PictofsError):
    """The rate limit is spent for longer than an operation may wait (429).

    EBUSY and not EAGAIN: Python's buffered reader takes EAGAIN for "no data".
    """

    errno = errno.EBUSY
    exit_code = 8
    docs = LIMITS

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        """`retry_after`: seconds, as the server asks; None if it does not say."""
        super().__init__(
            message, hint="" if retry_after is None else f"try again in {retry_after:.0f} s"
        )
        self.retry_after = retry_after


class QuotaExceeded(PictofsError):
    """The plan's credits or limits are used up (402)."""

    errno = errno.EDQUOT
    exit_code = 7
    docs = LIMITS


class TimedOut(PictofsError):
    """The deadline passed before an answer came."""

    errno = errno.ETIMEDOUT
    exit_code = 9
    docs = TROUBLESHOOTING


class ServerUnreachable(PictofsError):
    """The server can't be reached, and the cache does not hold the answer."""

    errno = errno.ENETUNREACH
    exit_code = 9
    docs = TROUBLESHOOTING


class DiskFull(PictofsError):
    """The cache can't grow: its size limit, the reserve of free space or the disk is reached."""

    errno = errno.ENOSPC


class TooManyFiles(PictofsError):
    """The mount's process, or the machine, can't open more files (ulimit -n).

    ENFILE and not EMFILE, which would mean the limit of the program that reads.
    """

    errno = errno.ENFILE


class ServerFault(PictofsError):
    """The server failed (5xx) or broke off a transfer, and retries did not help."""

    exit_code = 9
    docs = TROUBLESHOOTING


class InvalidResponse(PictofsError):
    """The server's answer breaks the contract: not JSON, a wrong shape, an impossible value."""

    docs = TROUBLESHOOTING


class Corrupt(PictofsError):
    """Bytes have the wrong length or the wrong checksum."""


class UrlExpired(PictofsError):
    """A signed URL is no longer accepted (400, 401 or 403 from storage); a new one is needed."""


class NoSignedUrl(PictofsError):
    """No batch of signed URLs has the image. Its bytes take a request of their own."""


class MountFailed(PictofsError):
    """The mount can't be made; message or hint say what to do."""

    docs = TROUBLESHOOTING


_BY_EXIT_CODE: dict[int, type[PictofsError]] = {
    2: Unauthorized,
    3: Forbidden,
    4: NoSuchEntry,
    5: Conflict,
    6: Invalid,
    7: QuotaExceeded,
    8: Throttled,
    9: ServerUnreachable,
}


def from_exit_code(
    exit_code: int, message: str, *, hint: str = "", docs: str | None = None
) -> PictofsError:
    """The error by which another process ended, as far as its exit code tells.

    `docs` None: the page of the class.
    """
    failure = _BY_EXIT_CODE.get(exit_code, PictofsError)(message)
    failure.exit_code = exit_code
    failure.hint = hint
    if docs is not None:
        failure.docs = docs

    return failure
