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
        """`{"error": {code, message, details}, "detail": ...}`; the latter is the older twin."""
        details: Any = dict(self.details) if self.details else None
        if self.errors is not None:
            details = {"errors": self.errors}
        body = {
            "error": {"code": self.code, "message": self.message, "details": details},
            "detail": self.errors if self.errors is not None else self.message,
        }
        return Answer(body, self.status, self.headers)


def not_found(message: str) -> Refusal:
    """404, also for what a key may not see."""
    return Refusal(404, "not_found", message)


def bad_request(message: str) -> Refusal:
    """400."""
    return Refusal(400, "bad_request", message)


def conflict(message: str, code: str = "conflict") -> Refusal:
    """409."""
    return Refusal(409, code, message)


def invalid(place: list[str | int], message: str, kind: str = "value_error") -> Refusal:
    """422 with the field's place."""
    errors = [{"loc": place, "msg": message, "type": kind}]
    return Refusal(422, "validation_error", message, errors=errors)


class Slice(NamedTuple):
    """A part of a body to be sent, [start, stop)."""

    body: Body
    start: int
    stop: int


@dataclass(slots=True)
class Answer:
    """An answer: JSON of `content`, or nothing (None), raw bytes, or a slice of a body."""

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
        """The behaviour that is asked for."""
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
        """An integer of the query; over the cap it is 422, or clamped where the switch says so."""
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
        """The page's place; 0 where pages repeat."""
        return 0 if self.switches.repeating_pages else self.number("offset", 0)

    def at_most(self, limit: int) -> int:
        """A limit, cut down to the stand-in's own cap of pages of images."""
        return min(limit, self.switches.image_page_cap or limit)

    def is_served(self, status: int) -> None:
        """Refuse a route that a switch says is missing."""
        if status == 405:
            raise Refusal(405, "method_not_allowed", "Method Not Allowed")
        if status == 404:
            raise not_found("Not Found")

    def fraction(self, name: str) -> float | None:
        """A float of the query, or None when absent."""
        text = self.query.get(name)
        try:
            return None if text is None else float(text)
        except ValueError:
            raise invalid(["query", name], "Input should be a valid number", "float_parsing") from None

    def flag(self, name: str, default: bool = False) -> bool:
        """A boolean of the query."""
        text = self.query.get(name)
        if text is None:
            return default
        if text.lower() not in ("true", "false", "1", "0"):
            raise invalid(["query", name], "Input should be a valid boolean", "bool_parsing")
        return text.lower() in ("true", "1")

    def choice(self, name: str, allowed: tuple[str, ...], default: str) -> str:
        """A word of the query out of a few."""
        text = self.query.get(name, default)
        if text not in allowed:
            raise invalid(["query", name], f"Input should be one of {', '.join(allowed)}", "literal_error")
        return text

    def body(self, shape: type[T]) -> T:
        """The JSON body in a strict shape; anything else is 422."""
        try:
            return msgspec.json.decode(self.raw_body or b"null", type=shape)
        except msgspec.ValidationError as problem:
            text, _, place = str(problem).partition(" - at `$")
            parts = re.findall(r"\w+", place)
            raise invalid(["body", *parts], text, "value_error") from None
        except msgspec.DecodeError as problem:
            raise invalid(["body"], f"JSON decode error: {problem}", "json_invalid") from None

    # What the request is about.

    def dataset(self, reference: str | None = None) -> Dataset:
        """The dataset of a name or UUID (by default that in the route's slot), if the key may see it."""
        wanted = self.params["dataset"] if reference is None else reference
        found = self.organization.dataset(wanted)
        if found is None or not self.sees(found):
            raise not_found(f"Dataset '{wanted}' not found")
        return found

    def sees(self, dataset: Dataset) -> bool:
        """Whether the key's grants reach a dataset."""
        return self.key.grants is None or dataset.id in self.key.grants

    def granted(self, dataset: Dataset) -> tuple[str, ...] | None:
        """The directories of a dataset the key is limited to; None for all."""
        return None if self.key.grants is None else self.key.grants.get(dataset.id)

    def sees_image(self, image: Image) -> bool:
        """Whether the key's grants reach an image."""
        dataset = self.organization.datasets[image.dataset_id]
        limits = Selection(archived=True, granted=self.granted(dataset))
        return self.sees(dataset) and limits.takes(image)

    def image_by_id(self, image_id: str | None = None) -> Image:
        """The image of a UUID, wherever in the organization it is."""
        wanted = self.params["image_id"] if image_id is None else image_id
        found = self.organization.images.get(wanted.strip().lower()) if is_uuid(wanted) else None
        if found is None or not self.sees_image(found):
            raise not_found(f"Image '{wanted}' not found")
        return found

    def image(self) -> Image:
        """The image of the route's `{dataset}/{path}`. The path takes names only, never a UUID."""
        directory, _, filename = self.params["path"].rpartition("/")
        found = self.dataset().at(f"/{directory}" if directory else "/", filename)
        if found is None or not self.sees_image(found):
            raise not_found(f"Image '{self.params['path']}' not found in dataset '{self.params['dataset']}'")
        return found


Handler = Callable[[Call], Answer]


@dataclass(slots=True)
class Route:
    """A method and path template, who may use it, and the query parameters it knows."""

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
        self, method: str, template: str, *, role: Role = "viewer", query: str = ""
    ) -> Callable[[Handler], Handler]:
        """Register a handler; `query` names the parameters it knows."""

        def register(handler: Handler) -> Handler:
            self.routes.append(Route(method, template, handler, role, frozenset(query.split())))
            return handler

        return register

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        """The route of a request and its parameters; 307, 404 or 405 when there is none."""
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
    """The path exists with the other ending."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


def query_of(raw: bytes) -> dict[str, str]:
    """The parameters of a query; the last of a name counts."""
    return dict(parse_qsl(raw.decode("latin-1"), keep_blank_values=True))
