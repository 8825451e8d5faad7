"""The messages between clients and a mount: a struct for each, on both ends.

A request is a JSON object whose `op` names its class. An answer is any number of objects, of which
the last one also holds `done`; or a `Failure`. A mount refuses fields that it does not know: it
would not do what they ask for. A client passes over them: a newer mount may tell more.

The answer to `status` is `pictofs.model.status.Status`. What `warm` tells is JSON that users get as
it is, so it stays a plain object.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from pictofs.errors import Invalid, InvalidResponse
from pictofs.model.records import FileKind

R = TypeVar("R", bound="Request")
A = TypeVar("A")

WarmMode = Literal["fetch", "look", "evict"]


class Request(
    msgspec.Struct, tag_field="op", kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """What every request holds."""

    peer: int = 0
    """The id of the process that asks, which the mount fills in; 0 if it can't be seen."""
    guest: int | None = None
    """The user who asks, which the mount fills in; None for its owner and root."""


class Failure(msgspec.Struct):
    """The end of an answer by an error."""

    error: str
    exit_code: int = 1
    hint: str = ""
    docs: str = ""


class RefreshRequest(Request, tag="refresh"):
    """Asks the server anew what a dataset holds, or all of them."""

    path: str = "."
    """Below the mount point; `.` is all of it."""


class RefreshReply(msgspec.Struct):
    """How many datasets were listed again."""

    datasets: int


class DatasetsRequest(Request, tag="datasets"):
    """Another program has changed the list of datasets, so look at it now."""


class DatasetsReply(msgspec.Struct):
    """It has been looked at."""


class StatusRequest(Request, tag="status"):
    """Asks for what status.json holds."""


class WarmRequest(Request, tag="warm"):
    """Asks to fetch everything below some paths, to look what is missing there, or to drop it."""

    paths: list[str]
    """Below the mount point; `.` is all of it."""
    mode: WarmMode = "fetch"
    kinds: list[FileKind] | None = None
    status: str | None = None
    split: str | None = None
    shard: tuple[int, int] | None = None
    """Which one of how many, from 0 on."""
    workers: int = 16
    bulk: bool = False
    wait: bool = True


class OrderRequest(Request, tag="order"):
    """Tells a piece of an order, as short as a request must be."""

    by: str
    """Whose order it is."""
    paths: list[str]
    """Below the mount point."""
    order: int | None = None
    """What the answer to the first piece said.

    None in the first piece: what `by` told before is forgotten.
    """
    ahead: Annotated[int, msgspec.Meta(ge=0)] | None = None
    """Images to keep ahead of the reader.

    None for what the cache allows, 0 for none, which ends the order.
    """
    last: bool = False
    """No more is to come."""
    bound: bool = False
    """The order ends with the process that sends it."""


class OrderReply(msgspec.Struct):
    """How many paths of a piece were understood."""

    order: int
    images: int
    annotations: int
    """Annotation files. They are not fetched ahead, because each costs a request."""
    unknown: int
    example: str | None
    """The first unknown path."""
    ahead: int
    """Images that the mount keeps ahead of the reader."""


def to_request(message: Mapping[str, Any], kind: type[R]) -> R:
    """The request that `message` is. Raises Invalid if it is no such request."""
    try:
        return msgspec.convert(message, kind)
    except msgspec.ValidationError as error:
        raise Invalid(f"the request can't be understood: {error}") from None


def to_answer(message: Mapping[str, Any], kind: type[A]) -> A:
    """The answer that `message` is. Raises InvalidResponse if it is no such answer."""
    try:
        return msgspec.convert(message, kind)
    except (msgspec.ValidationError, UnicodeError) as error:
        raise InvalidResponse(
            f"the mount's answer can't be understood, it may be of another version: {error}"
        ) from None
