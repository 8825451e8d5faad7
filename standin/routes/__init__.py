"""The API host's routes, one module per family; importing them fill the table."""

from standin.routes import (
    account,
    annotations,
    batch,
    classes,
    datasets,
    directories,
    exports,
    images,
    uploads,
)
from standin.routes.registry import table

__all__ = [
    "account",
    "annotations",
    "batch",
    "classes",
    "datasets",
    "directories",
    "exports",
    "images",
    "table",
    "uploads",
]
