"""Converts the server's names into names that POSIX can carry, and back.

The rules (docs/semantics.md, N1 to N4):

- A name that POSIX can carry, and that does not look escaped, stays as it is.
- `/` becomes `‛s`, NUL `‛0`, a lone surrogate `‛u` with four hex digits, and the quote sign `‛`
  (U+201B) itself `‛‛`. The name `.` becomes `‛.`, `..` becomes `‛..`, and the empty name `‛e`.
- A name whose escaped form is longer than 255 bytes in UTF-8, and the later of two items with the
  same name, get a tag made from their identity: the front part, `‛~`, 16 hex digits, and the
  extension (`cat‛~00f1….jpg`). Otherwise a quote sign never precedes `~`, so that a tagged name is
  no other item's name.
- If a directory is too deep for a path, the rest of its path becomes one name with `/` in it.
"""

from __future__ import annotations

import hashlib
import os.path
import re

QUOTE = "\u201b"
NAME_MAX_BYTES = 255
"""Bytes of one path component (POSIX NAME_MAX on Linux)."""
DEPTH_MAX = 128
"""Nested folders in a dataset. `shutil.copytree` fails at about 300."""
DIRECTORY_MAX_BYTES = 2048
"""Bytes of a directory's path in a dataset, without its last folder.

It is half of Linux's PATH_MAX (4,096): the mount point, the dataset, the file name and a folded
last folder need up to 255 bytes each.
"""
NAME_CHARS_MAX = 4096
"""Characters of a name that are kept. N3 shortens a longer one wherever it is shown."""

_SPECIAL = re.compile(f"[/\x00{QUOTE}\ud800-\udfff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPED = re.compile(QUOTE + r"(s|0|e|\.\.?|u[0-9a-f]{4}|" + QUOTE + ")")
_MAX_EXTENSION = 20
_SHORT = (NAME_MAX_BYTES - _MAX_EXTENSION) // 4
"""Characters that always fit, whatever their encoding, with an extension after them."""


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
    """`name` without `/`, NUL and lone surrogates, and other than `.`, `..` and "".

    It may be longer than NAME_MAX_BYTES: see `entry_name`.
    """
    if name in ("", ".", ".."):
        return QUOTE + (name or "e")
    return _SPECIAL.sub(_quote, name)


def storable(text: str) -> str:
    """`text` with its lone surrogates quoted: UTF-8, and so the catalog, can't hold them."""
    if text.isascii():
        return text
    return _SURROGATE.sub(_quote, text)


def unescape(entry: str) -> str | None:
    """The server's name for `entry`.

    None if no name escapes to `entry`, or if it has a tag, so that only the identity tells.
    """

    def plain(match: re.Match[str]) -> str:
        code = match.group(1)
        if code in ("s", "0", "e"):
            return {"s": "/", "0": "\x00", "e": ""}[code]
        if code[0] == "u":
            return chr(int(code[1:], 16))

        return code

    name = _ESCAPED.sub(plain, entry)
    try:
        if entry_fits(entry) and escape(name) == entry:
            return name
    except UnicodeEncodeError:
        pass

    return None


def entry_fits(entry: str) -> bool:
    """Whether `entry` has at most NAME_MAX_BYTES."""
    return (
        len(entry) * 4 <= NAME_MAX_BYTES
        or len(entry.encode("utf-8", "surrogatepass")) <= NAME_MAX_BYTES
    )


def is_plain(name: str) -> bool:
    """Whether `name`, and `name` with `.json` after it, certainly is its own entry.

    This is a quick check: it is False for some names that are their own entry as well.
    """
    return 0 < len(name) <= _SHORT and name[0] != "." and _SPECIAL.search(name) is None


def bounded(name: str) -> str:
    """`name` with at most NAME_CHARS_MAX characters. N3's mark replaces the middle of a longer one.

    Its entry stays the same, because that only shows the front and the extension. The mark says
    that the server has no item of this name.
    """
    if len(name) <= NAME_CHARS_MAX:
        return name
    return name[: NAME_CHARS_MAX // 2] + QUOTE + "~" + name[-64:]


def split_directory(path: str) -> tuple[str, str]:
    """The parent path of a canonical directory other than `/`, and the directory's name in it.

    The part of a path that is too deep is folded into one name with `/` in it, which `entry_name`
    escapes like any other: if `y` is the last folder that fits, `/a/.../y/z` becomes the folder
    `y‛sz` next to `y`.
    """
    # Neither too deep nor, at 8 bytes a character, too long.
    if len(path) <= DEPTH_MAX:
        above, _, name = path.rpartition("/")
        return above or "/", name

    parts = path[1:].split("/")
    fit = _fitting(parts)
    return "/" + "/".join(parts[:fit]), "/".join(parts[fit:])


def _fitting(parts: list[str]) -> int:
    """How many of a path's parts are folders of their own, not counting the last part."""
    size = 0
    most = min(len(parts), DEPTH_MAX) - 1

    for place, part in enumerate(parts[:most]):
        size += 1 + min(NAME_MAX_BYTES, len(escape(part).encode("utf-8", "surrogatepass")))
        if size > DIRECTORY_MAX_BYTES:
            return place

    return most


def tagged(name: str, identity: str) -> str:
    """An entry for `name` that no other identity has: front part, tag and extension.

    It has at most NAME_MAX_BYTES.
    """
    tag = tag_of(identity)
    entry = escape(name)
    stem, extension = os.path.splitext(entry)
    if len(extension.encode()) > _MAX_EXTENSION:
        stem = entry
        extension = ""

    room = NAME_MAX_BYTES - len(tag.encode()) - len(extension.encode())
    front = stem.encode()[:room].decode("utf-8", "ignore")
    if (len(front) - len(front.rstrip(QUOTE))) % 2:
        front = front[:-1]  # never cut a quoted pair in two

    return front + tag + extension


def tag_of(identity: str) -> str:
    """What tells an entry from those of all other identities: the mark `‛~` and 16 hex digits."""
    return f"{QUOTE}~{tag_digest(identity):016x}"


def tag_digest(identity: str) -> int:
    """The 64 bits of a tag."""
    digest = hashlib.blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def entry_name(name: str, identity: str) -> str:
    """The entry of an item whose name no sibling shares."""
    entry = escape(name)
    if entry_fits(entry):
        return entry
    return tagged(name, identity)
