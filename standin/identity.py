"""Identifiers that are the same in every run, and the shape that tells them from names."""

from __future__ import annotations

import hashlib
import re

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)


def uuid_for(*parts: object) -> str:
    """The UUID (version 5 in its bits) that these parts always give."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=16).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-a{digest[17:20]}-{digest[20:]}"


def is_uuid(text: str) -> bool:
    """Whether the whole stripped text has the shape 8-4-4-4-12; anything else is a name."""
    return _UUID.fullmatch(text.strip()) is not None
