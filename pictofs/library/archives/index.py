"""An archive's directory as a tree, in 56 bytes and a name for each file and folder.

The index is one run of bytes, on the disk as in memory: a head, a record for each node, and the names. Node
0 is the archive's own folder. The entries of a folder are neighbours, sorted by name, so that a name
is found by halving. The numbers of nodes follow from the archive's directory alone: they are the
same on every machine, and inode numbers are made of them.

A million members take 56 MB and their names, and 0.35 GB while they are being read, the directory
itself included. More are refused.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from pictofs.library.archives.zip_format import (
    DEFLATED,
    LOCAL_BYTES,
    STORED,
    BadArchive,
    Expected,
    Member,
    read_members,
)
from pictofs.model.names import (
    DEPTH_MAX,
    entry_name,
    is_plain,
    split_directory,
    tagged,
    unescape,
)

MAGIC = b"pictozip1"
NODE_BITS = 21
"""Bits of a node's number."""

_HEAD = struct.Struct("<9sQ16sII")
_NODE = struct.Struct("<IIIIQQQIIIHBB")

READABLE = 0
_REASONS = {
    1: "it is encrypted",
    2: "it is packed in a way that is not read here (only stored and deflated members are)",
    3: "it is larger than what is read of an archive",
    4: "its packed content can't hold, or should not hold, as much as the archive says",
    5: "its bytes are not its own: other members of the archive lie in them",
    6: "what the archive's directory says of it is damaged",
}
"""Why a member is refused, by the state of its node."""
_ENCRYPTED, _UNKNOWN, _LARGE, _BOMB, _OVERLAPS, _DAMAGED = _REASONS
_FOLDER = 255

_DEFLATE_RATIO = 1032
"""The most bytes that one byte of deflated content can stand for."""
_SUSPICIOUS_BYTES = 16 << 20
_SUSPICIOUS_RATIO = 250
"""A member of more than `_SUSPICIOUS_BYTES` that unpacks to more than so many times its packed size
is taken for a trap. Text of labels is packed 10 to 30 times."""
_PREFIXES = 1024
"""Paths of folders that are remembered while a directory is read: 4 MB at most."""
_STEPS = 16_000_000
"""Folders on the paths of all members together; a path that is remembered counts once."""
_U64 = (1 << 64) - 1


@dataclass(frozen=True)
class Limits:
    """What an archive may have. Beyond that it, or the member, is refused."""

    directory_bytes: int = 128 << 20
    members: int = 1_000_000
    folders: int = 1 << 18
    member_bytes: int = 16 << 30
    """Bytes of one member, unpacked."""


class Node(NamedTuple):
    """A file or folder of an archive."""

    number: int
    parent: int
    name: str
    """Its entry in the folder."""
    size: int
    """Bytes, as the archive says."""
    packed: int
    offset: int
    crc: int
    name_crc: int
    name_length: int
    """Bytes of its path in the archive."""
    mtime: int
    """Seconds since the epoch; 0 if the archive does not say."""
    method: int
    state: int

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return self.state == _FOLDER

    @property
    def refusal(self) -> str | None:
        """Why it is not read, in words; None if it is."""
        return _REASONS.get(self.state)

    @property
    def expected(self) -> Expected:
        """What its local header must say."""
        return Expected(
            self.method, self.crc, self.packed, self.size, self.name_length, self.name_crc
        )


class Index:
    """The tree of an archive. Every method is inline: a name among a million takes 15 us."""

    def __init__(self, data: bytes) -> None:
        """`data`: what `read_directory` has made. Raises BadArchive if it is something else."""
        if len(data) < _HEAD.size:
            raise BadArchive("the index is damaged")

        magic, self.total, digest, self.count, names = _HEAD.unpack_from(data)
        if magic != MAGIC or len(data) != _HEAD.size + self.count * _NODE.size + names:
            raise BadArchive("the index is damaged")

        self.digest: str = digest.hex()
        """Stands for the archive's directory and its length."""
        self.size = len(data)
        """Bytes in memory."""
        self._data = data
        self._names = _HEAD.size + self.count * _NODE.size

    def node(self, number: int) -> Node | None:
        """The node of a number; None if there is none."""
        if not 0 <= number < self.count:
            return None

        fields = _NODE.unpack_from(self._data, _HEAD.size + number * _NODE.size)
        parent, _, _, _, size, packed, offset, crc, name_crc, mtime, length, method, state = fields
        name = self._name(number).decode()
        return Node(
            number, parent, name, size, packed, offset, crc, name_crc, length, mtime, method, state
        )

    def find(self, folder: int, name: str) -> Node | None:
        """The entry `name` of a folder; None if there is none."""
        try:
            wanted = name.encode()
        except UnicodeEncodeError:
            return None

        first, count = self._below(folder)
        low = first
        high = first + count
        while low < high:
            middle = (low + high) // 2
            if self._name(middle) < wanted:
                low = middle + 1
            else:
                high = middle

        if low == first + count or self._name(low) != wanted:
            return None
        return self.node(low)

    def entries(self, folder: int, after: int, most: int) -> Iterator[Node]:
        """At most `most` entries of a folder, but for the first `after` ones."""
        first, count = self._below(folder)
        for number in range(first + after, first + min(count, after + most)):
            node = self.node(number)
            assert node is not None
            yield node

    def path(self, number: int) -> str:
        """The path of a node below its archive's folder; empty for that itself."""
        parts: list[str] = []
        node = self.node(number)
        while node is not None and node.number and len(parts) <= DEPTH_MAX:
            parts.append(node.name)
            node = self.node(node.parent)

        return "/".join(reversed(parts))

    def _below(self, folder: int) -> tuple[int, int]:
        """The number of a folder's first entry, and how many it has."""
        first, count = struct.unpack_from("<II", self._data, _HEAD.size + folder * _NODE.size + 4)
        return first, count

    def _name(self, number: int) -> bytes:
        (start,) = struct.unpack_from("<I", self._data, _HEAD.size + number * _NODE.size + 12)
        end = len(self._data) - self._names
        if number + 1 < self.count:
            (end,) = struct.unpack_from(
                "<I", self._data, _HEAD.size + (number + 1) * _NODE.size + 12
            )

        return self._data[self._names + start : self._names + end]


def digest_of(raw: bytes, total: int) -> bytes:
    """16 bytes that stand for a directory and the length of its archive."""
    return hashlib.blake2b(raw, digest_size=16, salt=total.to_bytes(8, "little")).digest()


def read_directory(raw: bytes, start: int, count: int, total: int, limits: Limits) -> bytes:
    """The bytes of an `Index`. Blocks: 12 s for a million members.

    Args:
        raw: the central directory.
        start: where it is in the archive.
        count: the members, as the archive says.
        total: bytes of the archive.
        limits: what it may have.

    Raises:
        BadArchive: it is damaged, or has more than is read.
    """
    table = _Table(digest_of(raw, total), total, start, limits)
    found = 0
    for member in read_members(raw):
        found += 1
        if found > limits.members:
            raise BadArchive(f"it has more than {limits.members:,} members")
        table.add(member)

    # An old writer counts them modulo 65,536.
    if (found - count) % (1 << 16):
        raise BadArchive("its directory has another number of members than the archive says")

    table.refuse_overlaps()
    return table.written()


class _Table:
    """The nodes in the order of the archive, in columns of 4 and 8 bytes."""

    def __init__(self, digest: bytes, total: int, limit: int, limits: Limits) -> None:
        """`limit`: where the members end, in bytes from the start of the archive."""
        self._digest = digest
        self._total = total
        self._limit = limit
        self._limits = limits

        self._parent = array("I")
        self._name_at = array("I")
        self._name_size = array("H")
        self._names = bytearray()
        self._size = array("Q")
        self._packed = array("Q")
        self._offset = array("Q")
        self._crc = array("I")
        self._name_crc = array("I")
        self._mtime = array("I")
        self._length = array("H")
        self._method = array("B")
        self._state = array("B")

        self._folders: dict[tuple[int, str], int] = {}
        self._prefixes: dict[str, int] = {}
        self._steps = 0
        self._renamed: dict[int, bytes] = {}
        # Local headers: where each begins, where its member ends at least, and its node.
        self._starts = array("Q")
        self._ends = array("Q")
        self._owners = array("I")

        self._append(0, b"", _FOLDER)

    def _append(self, parent: int, name: bytes, state: int) -> int:
        self._parent.append(parent)
        self._name_at.append(len(self._names))
        self._name_size.append(len(name))
        self._names += name
        self._state.append(state)
        for column in (self._size, self._packed, self._offset, self._crc, self._name_crc):
            column.append(0)
        for column in (self._mtime, self._length, self._method):
            column.append(0)

        return len(self._state) - 1

    def add(self, member: Member) -> None:
        """Take a member; a name with `/` at its end is a folder."""
        path = _decoded(member.name)
        is_folder = path.endswith("/")
        above, name = _split(path.removesuffix("/") if is_folder else path)
        parent = self._folder(above)
        if is_folder:
            node = self._folder_in(parent, name)
            self._note_header(member, 0)
            if member.moment and node:
                self._mtime[node] = member.moment
            return

        entry = name if is_plain(name) else entry_name(name, f"{self._digest.hex()}:{path}")
        node = self._append(parent, entry.encode(), self._judge(member))
        self._size[node] = min(member.size, _U64)
        self._packed[node] = member.packed
        self._offset[node] = member.offset
        self._crc[node] = member.crc
        self._name_crc[node] = zlib.crc32(member.name)
        self._mtime[node] = member.moment
        self._length[node] = len(member.name)
        self._method[node] = min(member.method, 255)
        self._note_header(member, node)

    def _note_header(self, member: Member, node: int) -> None:
        if member.is_whole and member.offset < self._limit:
            self._starts.append(member.offset)
            self._ends.append(
                min(_U64, member.offset + LOCAL_BYTES + len(member.name) + member.packed)
            )
            self._owners.append(node)

    def _judge(self, member: Member) -> int:
        """The state of a member, as far as its own fields tell."""
        room = self._limit - member.offset - LOCAL_BYTES - len(member.name)
        if not member.is_whole or member.packed > room:
            return _DAMAGED
        if member.is_encrypted:
            return _ENCRYPTED
        if not member.is_known:
            return _UNKNOWN
        if member.method == STORED and member.size != member.packed:
            return _DAMAGED
        if member.size > self._limits.member_bytes:
            return _LARGE
        if member.method == DEFLATED:
            ratio = _DEFLATE_RATIO
            if member.size > _SUSPICIOUS_BYTES:
                ratio = _SUSPICIOUS_RATIO
            if member.size > ratio * (member.packed + 1):
                return _BOMB

        return READABLE

    def _folder(self, path: str | None) -> int:
        """The node of a folder, which is made where there is none, with those above it."""
        if path is None:
            return 0

        known = self._prefixes.get(path)
        if known is not None:
            return known

        node = 0
        for name in path.split("/"):
            self._steps += 1
            node = self._folder_in(node, name)

        if self._steps > _STEPS:
            raise BadArchive("its folders are nested too deeply")

        if len(self._prefixes) >= _PREFIXES:
            self._prefixes = {}
        self._prefixes[path] = node

        return node

    def _folder_in(self, parent: int, name: str) -> int:
        node = self._folders.get((parent, name))
        if node is None:
            if len(self._folders) >= self._limits.folders:
                raise BadArchive(f"it has more than {self._limits.folders:,} folders")

            entry = name
            if not is_plain(name):
                entry = entry_name(name, f"{self._digest.hex()}:{parent}/{name}")
            node = self._append(parent, entry.encode(), _FOLDER)
            self._folders[parent, name] = node

        return node

    def refuse_overlaps(self) -> None:
        """Refuse the members whose bytes reach into the next member, or into the directory.

        So all members together unpack no byte of the archive twice.
        """
        order: range | list[int] = range(len(self._starts))
        if any(self._starts[at] < self._starts[at - 1] for at in order[1:]):
            order = sorted(order, key=self._starts.__getitem__)

        following = self._limit
        for at in reversed(order):
            owner = self._owners[at]
            if self._ends[at] > following and owner and self._state[owner] == READABLE:
                self._state[owner] = _OVERLAPS

            following = min(following, self._starts[at])

    def written(self) -> bytes:
        """The bytes of the index: nodes numbered folder by folder, sorted by name in each."""
        count = len(self._state)
        by_parent = sorted(range(1, count), key=self._parent.__getitem__)
        first_of = array("I", bytes(4 * (count + 1)))
        for node in by_parent:
            first_of[self._parent[node] + 1] += 1
        for node in range(count):
            first_of[node + 1] += first_of[node]

        names = bytearray()
        nodes = bytearray(_NODE.size * count)
        # Nodes in the order of their numbers: each folder hands its entries the next ones.
        queue = array("I", [0])
        parents = array("I", [0])
        number = 0
        while number < len(queue):
            node = queue[number]
            name_at = len(names)
            names += self._entry(node)

            first = len(queue)
            if self._state[node] == _FOLDER:
                below = self._sorted(by_parent[first_of[node] : first_of[node + 1]])
                queue.extend(below)
                parents.extend([number] * len(below))

            _NODE.pack_into(
                nodes,
                number * _NODE.size,
                parents[number],
                first,
                len(queue) - first,
                name_at,
                self._size[node],
                self._packed[node],
                self._offset[node],
                self._crc[node],
                self._name_crc[node],
                self._mtime[node],
                self._length[node],
                self._method[node],
                self._state[node],
            )
            number += 1

        head = _HEAD.pack(MAGIC, self._total, self._digest, count, len(names))
        return b"".join((head, nodes, names))

    def _sorted(self, nodes: list[int]) -> list[int]:
        """The entries of a folder by name. The later of two with one name gets a tag; a folder
        keeps its name before a file."""
        found = sorted((self._entry(node), self._state[node] != _FOLDER, node) for node in nodes)
        twice = False
        for place in range(1, len(found)):
            entry, _, node = found[place]
            if entry == found[place - 1][0]:
                twice = True
                text = entry.decode()
                identity = f"{self._digest.hex()}:{node}:{text}"
                self._renamed[node] = tagged(unescape(text) or text, identity).encode()

        if twice:
            found = sorted((self._entry(node), True, node) for node in nodes)
        return [node for _, _, node in found]

    def _entry(self, node: int) -> bytes:
        """The name of a node in its folder."""
        renamed = self._renamed.get(node)
        if renamed is not None:
            return renamed

        start = self._name_at[node]
        return bytes(self._names[start : start + self._name_size[node]])


def _decoded(name: bytes) -> str:
    """A name as text: UTF-8, which many write without saying so, or else MS-DOS's code page 437."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name.decode("cp437")


def _split(path: str) -> tuple[str | None, str]:
    """The folder that a path lies in, None for the archive's own, and the name there.

    The rest of a path that is too deep is one name.
    """
    if "/" not in path:
        return None, path
    if len(path) <= DEPTH_MAX:
        above, _, name = path.rpartition("/")
        return above, name

    above, name = split_directory(f"/{path}")
    return above[1:], name
