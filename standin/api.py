"""The API host: who asks, whether they may, which route answers, and in what envelope."""

from __future__ import annotations

import asyncio
import itertools
from email.utils import formatdate
from typing import Any

import msgspec

from standin.budget import Budget
from standin.exchange import RECORD, App, Headers, Receive, Send, framed, pour, read_body
from standin.faults import Faults
from standin.log import Log, Request
from standin.organization import Organization
from standin.records import Key
from standin.routes import table
from standin.routing import Answer, Call, Refusal, Route, Slice, WrongSlash, query_of
from standin.signing import Signer

_DAY = 86_400.0
_BYTE_ROUTES = ("/images/{image_id:uuid}", "/images/{dataset}/{path:path}")
_BODY_CAP = 10 * 1024 * 1024
_ENCODER = msgspec.json.Encoder()


class Api:
    """The ASGI application of the API host."""

    def __init__(
        self, organization: Organization, signer: Signer, origin: str, log: Log, faults: Faults
    ) -> None:
        self._organization = organization
        self._signer = signer
        self._origin = origin
        self._log = log
        self._faults = faults

        self._numbers = itertools.count(1)
        self._budget = Budget(organization.clock, organization.switches)
        self._idempotent: dict[tuple[str, str, str, str], tuple[float, Answer]] = {}

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer one request."""
        method = scope["method"]
        # An unknown path is refused later, since the log and the faults have to see it first.
        found: tuple[Route, dict[str, str]] | Refusal | WrongSlash
        try:
            found = table.find(method, scope["path"])
        except (Refusal, WrongSlash) as problem:
            found = problem

        headers: dict[bytes, bytes] = dict(scope["headers"])
        asked = headers.get(b"range")
        record = self._log.enter(
            Request(
                "api",
                method,
                scope["raw_path"].decode("latin-1"),
                scope["query_string"].decode("latin-1"),
                b"x-api-key" in headers,
                asked.decode("latin-1") if asked else None,
                found[0].template if isinstance(found, tuple) else None,
            )
        )
        scope[RECORD] = record

        async def app(scope: Any, receive: Receive, send: Send) -> None:
            body = await read_body(receive)
            if body is None:
                return

            answer = self._answer(record, found, headers, scope["query_string"], body)
            await _send(scope, send, record, answer)

        around: App = app
        if self._faults:
            around = self._faults.around(app, "api", method, record.path, record.route)

        latency = self._organization.switches.api_latency
        if latency:
            await asyncio.sleep(latency)

        if record.route in _BYTE_ROUTES:
            send = framed(scope, receive, send, self._organization.switches.api_framing)

        await around(scope, receive, send)

    def _answer(
        self,
        record: Request,
        found: tuple[Route, dict[str, str]] | Refusal | WrongSlash,
        headers: dict[bytes, bytes],
        query: bytes,
        body: bytes,
    ) -> Answer:
        """The answer to a request, with the headers that every answer has."""
        with self._organization.lock:
            try:
                answer = self._route(found, headers, query, body)
            except Refusal as refusal:
                answer = refusal.answer()
            except WrongSlash as wrong:
                suffix = f"?{query.decode('latin-1')}" if query else ""
                answer = Answer(None, 307, {"Location": f"{self._origin}{wrong.path}{suffix}"})

            extra = {"X-Request-Id": f"req_{next(self._numbers):08d}", **self._budget.headers()}
            if self._organization.switches.date_header:
                extra["Date"] = formatdate(self._organization.clock(), usegmt=True)

        record.status = answer.status
        return Answer(answer.content, answer.status, {**extra, **answer.headers}, answer.media_type)

    def _route(
        self,
        found: tuple[Route, dict[str, str]] | Refusal | WrongSlash,
        headers: dict[bytes, bytes],
        query: bytes,
        body: bytes,
    ) -> Answer:
        """Check what all routes have in common, then let the route answer."""
        if not isinstance(found, tuple):
            raise found

        route, params = found
        key = self._key(headers)
        # A request with a wrong key costs nothing; one that is refused with a good key does.
        self._budget.spend()

        if not key.may(route.role):
            raise Refusal(403, "forbidden", f"This action requires the {route.role} role or higher")

        fields = query_of(query)
        unknown = sorted(set(fields) - route.query)
        if unknown:
            raise Refusal(400, "bad_request", f"Unknown query parameter(s): {', '.join(unknown)}")
        if len(body) > _BODY_CAP:
            raise Refusal(413, "payload_too_large", "The request body is too large")

        call = Call(
            self._organization,
            key,
            self._signer,
            self._origin,
            route.method,
            params,
            fields,
            headers,
            body,
        )
        return self._once(call, route, key, headers)

    def _key(self, headers: dict[bytes, bytes]) -> Key:
        sent = headers.get(b"x-api-key", b"").decode("latin-1")
        key = self._organization.keys.get(sent)
        if key is None or key.revoked:
            raise Refusal(401, "unauthorized", "Invalid or missing API key")

        return key

    def _once(self, call: Call, route: Route, key: Key, headers: dict[bytes, bytes]) -> Answer:
        """Let the route answer; a repeated `Idempotency-Key` gets its first answer, for a day."""
        token = headers.get(b"idempotency-key", b"").decode("latin-1")
        if not token or call.method not in ("POST", "PUT", "PATCH"):
            return route.handler(call)

        now = call.clock()
        name = (key.secret, call.method, route.template, token)
        known = self._idempotent.get(name)
        if known is not None and known[0] > now - _DAY:
            return known[1]

        answer = route.handler(call)
        self._idempotent[name] = (now, answer)
        return answer


async def _send(scope: Any, send: Send, record: Request, answer: Answer) -> None:
    """Send an answer in the form its content has."""
    content = answer.content
    body: bytes | Slice
    if content is None:
        body = b""
    elif isinstance(content, bytes | Slice):
        body = content
    else:
        body = _ENCODER.encode(content)

    length = body.stop - body.start if isinstance(body, Slice) else len(body)
    headers: Headers = []
    for name, value in answer.headers.items():
        headers.append((name.lower().encode(), value.encode("latin-1")))

    if content is not None:
        headers.append((b"content-type", answer.media_type.encode()))

    # HTTP forbids Content-Length in a 204.
    if answer.status != 204:
        headers.append((b"content-length", b"%d" % length))

    record.bytes = length
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})

    # The server drops the body of an answer to HEAD; a slice need not even be made.
    if isinstance(body, Slice):
        stop = body.start if record.method == "HEAD" else body.stop
        await pour(scope, send, body.body, body.start, stop)
    else:
        await send({"type": "http.response.body", "body": body})
