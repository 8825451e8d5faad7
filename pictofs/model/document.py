"""The API's objects as JSON text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def document(raw: Mapping[str, Any]) -> bytes:
    """An API object as `dataset.json` holds it and `pictofs dataset show --json` prints it.

    Indented by 2, ASCII-escaped (a lone surrogate has no UTF-8), in the server's order, with a
    newline at the end.
    """
    return json.dumps(raw, indent=2).encode("ascii") + b"\n"
