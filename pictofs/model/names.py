"""How the server's names become names that POSIX can carry, and back.

The rule (docs/semantics.md, N1 to N4):

- A name that POSIX carries, and that does not look escaped, stays as it is.
- `/` becomes `‛s`, NUL `‛0`, a lone surrogate `‛u` with four hex digits, and the quote sign `‛` (U+201B)
  itself `‛‛`. A name `.` becomes `‛.`, `..` becomes `‛..`, and the empty name `‛e`.
- A name whose escaped form is longer than 255 bytes in UTF-8, and the later of two items of one name, carry
  a tag made of their identity: the front part, `‛~`, 16 hex digits, and the extension (`cat‛~00f1….jpg`). A
  quote sign never stands before `~` otherwise, so that a tagged name is no other item's name.
- Of a directory that lies deeper than paths lead, the rest of its path is one name, with `/` in it.
"""

from __future__ import annotations

import hashlib
import os.path
import re

QUOTE = "\u201b"
NAME_MAX_BYTES = 255
"""Bytes of one path component (POSIX NAME_MAX on Linux)."""
DEPTH_MAX = 128
"""Folders below each other in a dataset: `shutil.copytree` takes about 300 before it ends."""
DIRECTORY_MAX_BYTES = 2048
"""Bytes of a directory's path in the mount, its last folder not counted: half of Linux's PATH_MAX (4,096),
as mount point, dataset, file name and a folded last folder need up to 255 bytes each."""
NAME_CHARS_MAX = 4096
"""Characters of a name that are kept. A longer one is cut by N3 wherever it is shown."""

_SPECIAL = re.compile(f"[/\x00{QUOTE}\ud800-\udfff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPED = re.compile(QUOTE + r"(s|0|e|\.\.?|u[0-9a-f]{4}|" + QUOTE + ")")
_MAX_EXTENSION = 20
_SHORT = (NAME_MAX_BYTES - _MAX_EXTENSION) // 4
"""Characters that fit whatever they are, an extension behind them included."""


def _quote(match: re.Match[str]) -> str:
    char = match.group()
    if char == "/":
        return QUOTE + "s"
    if char == "\x00":
        return QUOTE + "0"
    if char == QUOTE:
        return QUOTE + QUOTE
    return f"{QUOTE}u{ord(char):04x}"


def escape(name: str) -> str:
    """The form of `name` that holds no `/`, no NUL and no lone surrogate, and is not `.`, `..` or empty.

    It may be longer than NAME_MAX: see `entry_name`.
    """
    if name in ("", ".", ".."):
        return QUOTE + (name or "e")
    return _SPECIAL.sub(_quote, name)


def storable(text: str) -> str:
    """`text` with its lone surrogates quoted: UTF-8, and so the catalog, has no form for them."""
    return text if text.isascii() else _SURROGATE.sub(_quote, text)


def unescape(entry: str) -> str | None:
    """The server's name for `entry`, or None where no name escapes to it (or only an identity tells)."""

    def plain(match: re.Match[str]) -> str:
        code = match.group(1)
        if code in ("s", "0", "e"):
            return {"s": "/", "0": "\x00", "e": ""}[code]
        if code[0] == "u":
            return chr(int(code[1:], 16))
        return code

    name = _ESCAPED.sub(plain, entry)
    try:
        return name if entry_fits(entry) and escape(name) == entry else None
    except UnicodeEncodeError:
        return None


def entry_fits(entry: str) -> bool:
    """Whether `entry` is at most NAME_MAX bytes long."""
    return len(entry) * 4 <= NAME_MAX_BYTES or len(entry.encode("utf-8", "surrogatepass")) <= NAME_MAX_BYTES


def is_plain(name: str) -> bool:
    """Whether `name` is its own entry, and can have `.json` behind it, beyond doubt; others need a closer look."""
    return 0 < len(name) <= _SHORT and name[0] != "." and _SPECIAL.search(name) is None


def bounded(name: str) -> str:
    """`name`, of at most NAME_CHARS_MAX characters: the middle of a longer one becomes the mark of N3.

    The entry is the same either way: it shows the front and the extension alone. The mark tells that the
    server knows no item of this name.
    """
    if len(name) <= NAME_CHARS_MAX:
        return name
    return name[: NAME_CHARS_MAX // 2] + QUOTE + "~" + name[-64:]


def split_directory(path: str) -> tuple[str, str]:
    """The path above a canonical directory other than `/`, and the directory's name in it.

    What lies deeper than a path can lead to is folded into one name with `/` in it, which `entry_name` escapes
    as any other: `/a/.../y/z` is the folder `y‛sz` where `y` is the last that fits, and a sibling of `y`.
    """
    if len(path) <= DEPTH_MAX:  # neither too deep nor, at 8 bytes a character, too long
        above, _, name = path.rpartition("/")
        return above or "/", name
    parts = path[1:].split("/")
    fit = _fitting(parts)
    return "/" + "/".join(parts[:fit]), "/".join(parts[fit:])


def _fitting(parts: list[str]) -> int:
    """How many of a path's parts are folders of their own, the last one not counted."""
    size = 0
    most = min(len(parts), DEPTH_MAX) - 1
    for place, part in enumerate(parts[:most]):
        size += 1 + min(NAME_MAX_BYTES, len(escape(part).encode("utf-8", "surrogatepass")))
        if size > DIRECTORY_MAX_BYTES:
            return place
    return most


def tagged(name: str, identity: str) -> str:
    """An entry for `name` that no other identity has: front part, tag, extension; at most NAME_MAX bytes."""
    tag = f"{QUOTE}~{hashlib.blake2b(identity.encode('utf-8', 'surrogatepass'), digest_size=8).hexdigest()}"
    entry = escape(name)
    stem, extension = os.path.splitext(entry)
    if len(extension.encode()) > _MAX_EXTENSION:
        stem, extension = entry, ""
    room = NAME_MAX_BYTES - len(tag.encode()) - len(extension.encode())
    front = stem.encode()[:room].decode("utf-8", "ignore")
    if (len(front) - len(front.rstrip(QUOTE))) % 2:
        front = front[:-1]  # never cut a quoted pair in two
    return front + tag + extension


def entry_name(name: str, identity: str) -> str:
    """The folder entry of an item whose name no sibling shares."""
    entry = escape(name)
    return entry if entry_fits(entry) else tagged(name, identity)
