"""The storage host: signed GET, HEAD and PUT of objects, as at Google's.

This is a bare ASGI callable without layers, because benchmarks measure clients against it.
"""

from __future__ import annotations

import asyncio
from email.utils import formatdate
from typing import Any
from xml.sax.saxutils import escape

from standin import content
from standin.content import Body, Stored
from standin.exchange import RECORD, App, Headers, Receive, Send, framed, pour, read_body
from standin.faults import Faults
from standin.identity import is_uuid
from standin.log import Log, Request
from standin.organization import Organization
from standin.records import Image
from standin.routes.images import byte_range
from standin.signing import BUCKET, Signer, Verdict

#: Up to how many bytes an answer is sent in one piece.
_WHOLE = 1 << 20
_PREFIX = f"/{BUCKET}/"


class Storage:
    """The ASGI application of the storage host."""

    def __init__(
        self,
        organization: Organization,
        signer: Signer,
        log: Log,
        faults: Faults,
    ) -> None:
        self._organization = organization
        self._signer = signer
        self._log = log
        self._faults = faults

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer one request."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        leaked = b"x-api-key" in headers or b"authorization" in headers
        asked = headers.get(b"range")
        path: str = scope["raw_path"].decode("latin-1")
        record = self._log.enter(
            Request(
                "storage",
                scope["method"],
                path,
                scope["query_string"].decode("latin-1"),
                leaked,
                asked.decode("latin-1") if asked else None,
            )
        )
        scope[RECORD] = record
        scope["standin.headers"] = headers

        if leaked:
            self._log.leak(record)

        app: App = self._answer
        if self._faults:
            app = self._faults.around(app, "storage", record.method, path, None)

        latency = self._organization.switches.storage_latency
        if latency:
            await asyncio.sleep(latency)

        send = framed(scope, receive, send, self._organization.switches.storage_framing)
        await app(scope, receive, send)

    async def _answer(self, scope: Any, receive: Receive, send: Send) -> None:
        record: Request = scope[RECORD]
        if record.has_key:
            await _refuse(send, record, 400, "InvalidArgument", "A credential was sent to storage")
            return

        if record.method not in ("GET", "HEAD", "PUT") or not record.path.startswith(_PREFIX):
            await _refuse(send, record, 404, "NoSuchBucket", "The specified bucket does not exist")
            return

        name = record.path[len(_PREFIX) :]
        # A URL that is signed for GET is good for HEAD too.
        signed_for = "PUT" if record.method == "PUT" else "GET"
        verdict = self._signer.judge(signed_for, name, scope["query_string"])
        if verdict is not Verdict.GOOD:
            status = 403
            if verdict is Verdict.EXPIRED:
                status = self._organization.switches.expired_status

            problem = "The signature is not valid for this request"
            await _refuse(send, record, status, verdict.value, problem)
            return

        if signed_for == "PUT":
            await self._put(name, scope, receive, send)
        else:
            await self._get(name, scope, send)

    async def _get(self, name: str, scope: Any, send: Send) -> None:
        record: Request = scope[RECORD]
        found = self._find(name)
        if found is None:
            await _refuse(send, record, 404, "NoSuchKey", "The specified key does not exist")
            return

        headers = self._headers(found)
        body: Body = found.body() if isinstance(found, Image) else found
        cut = self._cut(scope["standin.headers"], body)
        start = 0
        stop = body.size
        status = 200

        if cut is not None:
            start, stop = cut
            status = 206
            if start >= stop:
                headers.append((b"content-range", b"bytes */%d" % body.size))
                await _send(send, record, 416, headers, b"")
                return

            headers.append((b"content-range", b"bytes %d-%d/%d" % (start, stop - 1, body.size)))

        # The head of a large answer is sent before its body is made.
        if stop - start > _WHOLE or record.method == "HEAD":
            record.status = status
            record.bytes = stop - start
            headers.append((b"content-length", b"%d" % record.bytes))
            await send({"type": "http.response.start", "status": status, "headers": headers})
            if record.method == "HEAD":
                stop = start

            await pour(scope, send, body, start, stop)
        elif isinstance(found, Image) and found.blob is None and status == 200:
            # Small generated bodies are cached, as benchmarks read them again and again.
            whole = content.whole(found.seed, found.size, found.look, found.png)
            await _send(send, record, status, headers, whole)
        else:
            await _send(send, record, status, headers, body.read(start, stop))

    def _find(self, name: str) -> Image | Stored | None:
        kind, _, identifier = name.partition("/")
        if kind == "images" and is_uuid(identifier):
            return self._organization.images.get(identifier)

        return self._organization.blobs.get(name)

    def _cut(self, headers: dict[bytes, bytes], body: Body) -> tuple[int, int] | None:
        """The range that is asked for; None if `If-Range` names another version of the object."""
        asked = headers.get(b"range")
        if asked is None or not self._organization.switches.storage_range:
            return None

        known = headers.get(b"if-range")
        if known is not None:
            # Only a strong tag that the host tells can match; weak tags and dates never do.
            tagged = "etag" in self._organization.switches.storage_validators
            if not tagged or known.decode("latin-1") != body.etag():
                return None

        return byte_range(asked.decode("latin-1"), body.size)

    def _headers(self, found: Image | Stored) -> Headers:
        switches = self._organization.switches
        # What is no image is the archive of an export, with a date that never changes.
        body: Body
        if isinstance(found, Image):
            body = found.body()
            moment = found.stored_at or found.created_at
            media_type = found.content_type
        else:
            body = found
            moment = 1.0
            media_type = "application/zip"

        told = {
            "etag": (b"etag", body.etag().encode()),
            "weak-etag": (b"etag", b"W/" + body.etag().encode()),
            "generation": (b"x-goog-generation", b"%d" % (moment * 1_000_000)),
            "modified": (b"last-modified", formatdate(moment, usegmt=True).encode()),
        }
        headers = [
            (b"content-type", media_type.encode()),
            (b"date", formatdate(self._organization.clock(), usegmt=True).encode()),
        ]
        headers += [told[name] for name in sorted(switches.storage_validators)]

        if switches.storage_range:
            headers.append((b"accept-ranges", b"bytes"))

        if switches.hash_header:
            checksum = found.crc32c() if isinstance(found, Image) else content.crc32c(body)
            headers.append((b"x-goog-hash", checksum))
            if switches.md5_header:
                headers.append((b"x-goog-hash", content.md5(body)))

        return headers

    async def _put(self, name: str, scope: Any, receive: Receive, send: Send) -> None:
        record: Request = scope[RECORD]
        headers: dict[bytes, bytes] = scope["standin.headers"]

        data = await read_body(receive)
        # An upload that was cut off stores nothing.
        if data is None or int(headers.get(b"content-length", len(data))) != len(data):
            return

        declared = self._organization.declared_types.get(name)
        if declared is not None and headers.get(b"content-type", b"").decode() != declared:
            problem = "Content-Type differs from the signed one"
            await _refuse(send, record, 403, Verdict.WRONG.value, problem)
            return

        with self._organization.lock:
            self._organization.blobs[name] = Stored(data)

        await _send(send, record, 200, [], b"")


async def _send(send: Send, record: Request, status: int, headers: Headers, body: bytes) -> None:
    record.status = status
    record.bytes = len(body)
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _refuse(send: Send, record: Request, status: int, code: str, message: str) -> None:
    """Send an error as XML, as Google's storage does."""
    error = f"<Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
    text = f"<?xml version='1.0' encoding='UTF-8'?>{error}"
    headers = [(b"content-type", b"application/xml; charset=UTF-8")]
    await _send(send, record, status, headers, text.encode())
