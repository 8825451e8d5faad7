"""The API host's routes, one module per family; importing them fills the table."""

from standin.routes import annotations, datasets, directories, images
from standin.routes.registry import table

__all__ = ["annotations", "datasets", "directories", "images", "table"]
