"""The table that the route modules fill, and the helpers they share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from standin.dataset import Dataset
from standin.routing import Answer, Table, conflict

table = Table()
on = table.on


def page(rows: Sequence[Any], total: int, limit: int, offset: int) -> Answer:
    """A page in its envelope, `{"data": [...], "pagination": {...}}`."""
    paging = {
        "limit": limit,
        "offset": offset,
        "total": total,
        "has_more": offset + len(rows) < total,
    }
    return Answer({"data": rows, "pagination": paging})


def refuse_cold(dataset: Dataset) -> None:
    """Raise 409 `dataset_cold` if a dataset is frozen, or is being frozen or restored."""
    if dataset.storage_class == "coldline" or dataset.storage_state != "idle":
        problem = f"Dataset '{dataset.name}' is in cold storage; restore it first"
        raise conflict(problem, "dataset_cold")


def object_of(image_id: str) -> str:
    """The name of the storage object that holds an image's bytes."""
    return f"images/{image_id}"
