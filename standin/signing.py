"""Signed URLs in the shape of Google's V4, with an HMAC where Google has an RSA signature."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from datetime import UTC, datetime
from enum import Enum
from functools import lru_cache

from standin.clock import Clock
from standin.switches import Switches

BUCKET = "pictograph-standin"
_SECRET = b"the stand-in signs only for itself"
_MARK = b"&X-Goog-Signature="


class Verdict(Enum):
    """Whether a signature is good, and the error code of the storage host if it is not."""

    GOOD = "good"
    WRONG = "SignatureDoesNotMatch"
    EXPIRED = "ExpiredToken"


class Signer:
    """Signs URLs of the storage host, and checks them."""

    def __init__(self, origin: str, clock: Clock, switches: Switches) -> None:
        self._origin = origin
        self._clock = clock
        self._switches = switches

    def batch(self, method: str = "GET", headers: str = "host") -> Callable[[str], str]:
        """A function from object names to signed URLs, all of one moment.

        Object names must consist of characters that need no escaping in a URL.
        """
        moment = datetime.fromtimestamp(self._clock(), UTC)
        query = (
            "X-Goog-Algorithm=GOOG4-RSA-SHA256"
            f"&X-Goog-Credential=storage%40pictograph-standin.iam.gserviceaccount.com"
            f"%2F{moment:%Y%m%d}%2Fauto%2Fstorage%2Fgoog4_request"
            f"&X-Goog-Date={moment:%Y%m%dT%H%M%SZ}"
            f"&X-Goog-Expires={self._switches.url_lifetime}&X-Goog-SignedHeaders={headers}"
        )

        # All that the URLs share is made once, as a listing has up to 10,000 of them.
        prefix = f"{method}\n{query}\n".encode()
        start = f"{self._origin}/{BUCKET}/"
        middle = f"?{query}{_MARK.decode()}"

        def sign(name: str) -> str:
            return start + name + middle + _sign(prefix + name.encode())

        return sign

    def judge(self, method: str, name: str, query: bytes) -> Verdict:
        """Whether the query signs this method on this object, and has not expired."""
        signed, _, signature = query.partition(_MARK)
        expected = _sign(method.encode() + b"\n" + signed + b"\n" + name.encode())
        if not hmac.compare_digest(expected.encode(), signature):
            return Verdict.WRONG

        if self._clock() > _deadline(signed):
            return Verdict.EXPIRED

        return Verdict.GOOD


def _sign(message: bytes) -> str:
    return hmac.digest(_SECRET, message, "sha256").hex()


@lru_cache(maxsize=1024)
def _deadline(query: bytes) -> float:
    fields = dict(part.split("=", 1) for part in query.decode().split("&"))
    issued = datetime.strptime(fields["X-Goog-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    return issued.timestamp() + int(fields["X-Goog-Expires"])
