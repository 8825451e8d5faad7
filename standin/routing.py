"""Requests, answers and the table of routes, with the path rules of the framework the vendor uses.

Paths are matched decoded, so `%2F` in a dataset slot splits the segment; a wrong trailing slash is
answered with 307.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl

import msgspec
from starlette.routing import compile_path

from standin.clock import Clock
from standin.content import Body
from standin.dataset import Dataset, Selection
from standin.identity import is_uuid
from standin.organization import Organization
from standin.records import Image, Key, Role
from standin.signing import Signer
from standin.switches import Switches

T = TypeVar("T")
PREFIX = "/api/v1/developer"


class Refusal(Exception):
    """An error answer in the vendor's envelope."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        errors: list[dict[str, Any]] | None = None,
        headers: Mapping[str, str] | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.errors = errors
        self.headers = dict(headers or {})
        self.details = details

    def answer(self) -> Answer:
        """The error as an answer: `{"error": {code, message, details}, "detail": ...}`."""
        details: Any = dict(self.details) if self.details else None
        # `detail` is the older twin of `error`, which the vendor still sends.
        detail: Any = self.message
        if self.errors is not None:
            details = {"errors": self.errors}
            detail = self.errors

        error = {"code": self.code, "message": self.message, "details": details}
        return Answer({"error": error, "detail": detail}, self.status, self.headers)


def not_found(message: str) -> Refusal:
    """404, also for a thing that exists and that the key may not see."""
    return Refusal(404, "not_found", message)


def bad_request(message: str) -> Refusal:
    """400."""
    return Refusal(400, "bad_request", message)


def conflict(message: str, code: str = "conflict") -> Refusal:
    """409."""
    return Refusal(409, code, message)


def invalid(place: list[str | int], message: str, kind: str = "value_error") -> Refusal:
    """422 for the field at `place`, such as `["query", "limit"]`."""
    errors = [{"loc": place, "msg": message, "type": kind}]
    return Refusal(422, "validation_error", message, errors=errors)


class Slice(NamedTuple):
    """A part of a body to be sent, [start, stop)."""

    body: Body
    start: int
    stop: int


@dataclass(slots=True)
class Answer:
    """An answer. `content` is None (no body), bytes, a slice of a body, or what is sent as JSON."""

    content: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    media_type: str = "application/json"


def data(content: Any, status: int = 200) -> Answer:
    """The content in the `{"data": ...}` envelope."""
    return Answer({"data": content}, status)


@dataclass(slots=True)
class Call:
    """One API request with all that a handler needs to answer it."""

    organization: Organization
    key: Key
    signer: Signer
    origin: str
    method: str
    params: dict[str, str]
    query: dict[str, str]
    headers: dict[bytes, bytes]
    raw_body: bytes

    @property
    def switches(self) -> Switches:
        """The switches of the organization."""
        return self.organization.switches

    @property
    def clock(self) -> Clock:
        """The stand-in's time."""
        return self.organization.clock

    @property
    def base(self) -> str:
        """The API root as clients see it."""
        return self.origin + PREFIX

    # The query.

    def number(self, name: str, default: int, cap: int | None = None, least: int = 0) -> int:
        """An integer of the query; one over the cap is 422, or clamped if the switch says so."""
        text = self.query.get(name)
        if text is None:
            return default
        if not re.fullmatch(r"-?\d+", text):
            raise invalid(["query", name], "Input should be a valid integer", "int_parsing")

        value = int(text)
        if value < least:
            problem = f"Input should be greater than or equal to {least}"
            raise invalid(["query", name], problem, "greater_than_equal")

        if cap is not None and value > cap:
            if self.switches.over_cap == "clamp":
                return cap

            raise invalid(["query", name], f"Input should be at most {cap}", "less_than_equal")

        return value

    @property
    def offset(self) -> int:
        """The `offset` of the query; always 0 if the switch makes pages repeat."""
        return 0 if self.switches.repeating_pages else self.number("offset", 0)

    def at_most(self, limit: int) -> int:
        """A limit of a page of images, cut down to the cap that the switch sets."""
        return min(limit, self.switches.image_page_cap or limit)

    def is_served(self, status: int) -> None:
        """Refuse a route that a switch says is missing."""
        if status == 405:
            raise Refusal(405, "method_not_allowed", "Method Not Allowed")
        if status == 404:
            raise not_found("Not Found")

    def fraction(self, name: str) -> float | None:
        """A float of the query, None if it is absent."""
        text = self.query.get(name)
        if text is None:
            return None

        try:
            return float(text)
        except ValueError:
            problem = "Input should be a valid number"
            raise invalid(["query", name], problem, "float_parsing") from None

    def flag(self, name: str, default: bool = False) -> bool:
        """A boolean of the query: `true`, `false`, `1` or `0`, in either case."""
        text = self.query.get(name)
        if text is None:
            return default
        if text.lower() not in ("true", "false", "1", "0"):
            raise invalid(["query", name], "Input should be a valid boolean", "bool_parsing")

        return text.lower() in ("true", "1")

    def choice(self, name: str, allowed: tuple[str, ...], default: str) -> str:
        """A word of the query; one that is not allowed is 422."""
        text = self.query.get(name, default)
        if text not in allowed:
            problem = f"Input should be one of {', '.join(allowed)}"
            raise invalid(["query", name], problem, "literal_error")

        return text

    def body(self, shape: type[T]) -> T:
        """The JSON body, decoded into a strict shape; any other body is 422."""
        try:
            return msgspec.json.decode(self.raw_body or b"null", type=shape)
        except msgspec.ValidationError as problem:
            # msgspec words it as "Expected `str`, got `int` - at `$.images[...].filename`".
            text, _, place = str(problem).partition(" - at `$")
            parts = re.findall(r"\w+", place)

            raise invalid(["body", *parts], text, "value_error") from None
        except msgspec.DecodeError as problem:
            raise invalid(["body"], f"JSON decode error: {problem}", "json_invalid") from None

    # What the request is about.

    def dataset(self, reference: str | None = None) -> Dataset:
        """The dataset of a name or UUID, by default that of the path; 404 if the key sees none."""
        wanted = self.params["dataset"] if reference is None else reference
        found = self.organization.dataset(wanted)
        if found is None or not self.sees(found):
            raise not_found(f"Dataset '{wanted}' not found")

        return found

    def sees(self, dataset: Dataset) -> bool:
        """Whether the key's grants reach a dataset."""
        return self.key.grants is None or dataset.id in self.key.grants

    def granted(self, dataset: Dataset) -> tuple[str, ...] | None:
        """The directories of a dataset that the key is limited to; None if it sees all of them."""
        if self.key.grants is None:
            return None

        return self.key.grants.get(dataset.id)

    def sees_image(self, image: Image) -> bool:
        """Whether the key's grants reach an image."""
        dataset = self.organization.datasets[image.dataset_id]
        limits = Selection(archived=True, granted=self.granted(dataset))
        return self.sees(dataset) and limits.takes(image)

    def image_by_id(self, image_id: str | None = None) -> Image:
        """The image of a UUID, in any dataset; 404 if the key sees none."""
        wanted = self.params["image_id"] if image_id is None else image_id
        found: Image | None = None
        if is_uuid(wanted):
            found = self.organization.images.get(wanted.strip().lower())

        if found is None or not self.sees_image(found):
            raise not_found(f"Image '{wanted}' not found")

        return found

    def image(self) -> Image:
        """The image of the route's `{dataset}/{path}`; 404 if the key sees none.

        The path holds names only, never a UUID.
        """
        directory, _, filename = self.params["path"].rpartition("/")
        found = self.dataset().at(f"/{directory}" if directory else "/", filename)
        if found is None or not self.sees_image(found):
            path = self.params["path"]
            raise not_found(f"Image '{path}' not found in dataset '{self.params['dataset']}'")

        return found


Handler = Callable[[Call], Answer]


@dataclass(slots=True)
class Route:
    """A method and a path template, the role they need, and the query parameters they take."""

    method: str
    template: str
    handler: Handler
    role: Role = "viewer"
    query: frozenset[str] = frozenset()
    pattern: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        self.pattern = compile_path(PREFIX + self.template)[0]


class Table:
    """The routes, tried in order."""

    def __init__(self) -> None:
        self.routes: list[Route] = []

    def on(
        self,
        method: str,
        template: str,
        *,
        role: Role = "viewer",
        query: str = "",
    ) -> Callable[[Handler], Handler]:
        """Register a handler; `query` names the parameters it takes, with spaces between them."""

        def register(handler: Handler) -> Handler:
            self.routes.append(Route(method, template, handler, role, frozenset(query.split())))
            return handler

        return register

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        """The route of a request, and the parameters in its path.

        Raises `WrongSlash` (307) if the path exists with the other ending, else `Refusal` (404 for
        an unknown path, 405 for an unknown method).
        """
        allowed: list[str] = []
        for route in self.routes:
            match = route.pattern.match(path)
            if match is None:
                continue
            if route.method == method or (method == "HEAD" and route.method == "GET"):
                return route, match.groupdict()

            allowed.append(route.method)

        if allowed:
            headers = {"Allow": ", ".join(sorted(set(allowed)))}
            raise Refusal(405, "method_not_allowed", "Method Not Allowed", headers=headers)

        raise self._unknown(path)

    def _unknown(self, path: str) -> Refusal | WrongSlash:
        other = path[:-1] if path.endswith("/") else f"{path}/"
        if any(route.pattern.match(other) for route in self.routes):
            return WrongSlash(other)

        return not_found("Not Found")


class WrongSlash(Exception):
    """The path exists only with the other ending; `path` is the right one."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


def query_of(raw: bytes) -> dict[str, str]:
    """The parameters of a query string; the last one of a name counts."""
    return dict(parse_qsl(raw.decode("latin-1"), keep_blank_values=True))
