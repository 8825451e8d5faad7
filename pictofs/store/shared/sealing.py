"""How records are named and sealed in the engine: who has not the API key reads and makes none.

Two keys come from the API key and the server's URL by HKDF: one for names, one for values. A name
in the engine is a keyed digest, so that another API key, or another server, has other names. A
value is sealed by AES-256-GCM with the record's name as associated data: it opens under its own
name only.

Each record has a key of its own, a digest of its name under the key for values. AES-GCM with a
random nonce of 96 bits stands 2**32 messages of one key (NIST SP 800-38D, 8.3): so that is the
bound for how often one record may be put, and not for all that a cluster puts in its life.

Sealed inside is when the server was asked, and for how long that is good. So whoever can write the
engine can bring back an older value of the same name within its time to live, but not later.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

FORMAT = 1
"""The first byte of a sealed value. Another one is not read."""
VALUE_MAX_BYTES = 64 << 20
"""Bytes of a value before it is compressed."""
COMPRESS_FROM_BYTES = 256
"""Bytes from which compression is tried."""

_SALT = b"pictofs shared engine 1"
_NONCE_BYTES = 12
_TAG_BYTES = 16
_HEADER = struct.Struct("<B?QQ")
"""Format, whether compressed, when the server was asked (Unix ms), time to live (ms)."""
_TIME_MAX_MS = 1 << 52


class Opened(NamedTuple):
    """What a sealed value holds."""

    value: bytes
    asked_at: float
    """Unix seconds, by the clock that nodes share."""
    ttl: float
    """Seconds from `asked_at`."""


class Sealer:
    """The names and the seal of one API key at one server."""

    def __init__(self, api_key: str, server: str) -> None:
        """`server`: its base URL."""
        self._name_key = _derived(api_key, server, b"names")
        self._value_key = _derived(api_key, server, b"values")
        # 64 bits tell the namespaces of one engine from each other.
        digest = hashlib.blake2b(key=self._name_key, digest_size=8, person=b"namespace")
        self._prefix = f"pictofs:{FORMAT}:{digest.hexdigest()}:".encode()

    def record(self, name: str) -> bytes:
        """The key in the engine of a record."""
        return self._named(b"record", name)

    def lease(self, name: str) -> bytes:
        """The key in the engine of the lease on a record."""
        return self._named(b"lease", name)

    def channel(self, name: str) -> bytes:
        """The channel on which the end of a lease is told."""
        return self._named(b"channel", name)

    def count(self, name: str) -> bytes:
        """The key in the engine of a number."""
        return self._named(b"count", name)

    def seal(self, name: str, value: bytes, asked_at: float, ttl: float) -> bytes:
        """A record's value as it lies in the engine. Takes 4 ms for 1 MB of JSON.

        `asked_at`: Unix seconds. `ttl`: seconds.
        """
        body = value
        if len(value) >= COMPRESS_FROM_BYTES:
            # Level 1 is four times as fast as the default, for a tenth more bytes.
            packed = zlib.compress(value, 1)
            if len(packed) < len(value):
                body = packed

        header = _HEADER.pack(
            FORMAT, body is not value, _milliseconds(asked_at), _milliseconds(ttl)
        )
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._cipher(name).encrypt(nonce, header + body, _named(name))
        return bytes([FORMAT]) + nonce + sealed

    def open(self, name: str, sealed: bytes) -> Opened | None:
        """What was sealed under `name`; None if it is anything else."""
        if len(sealed) < 1 + _NONCE_BYTES + _HEADER.size + _TAG_BYTES or sealed[0] != FORMAT:
            return None

        nonce = sealed[1 : 1 + _NONCE_BYTES]
        try:
            plain = self._cipher(name).decrypt(nonce, sealed[1 + _NONCE_BYTES :], _named(name))
        except InvalidTag:
            return None

        inner, is_packed, asked_ms, ttl_ms = _HEADER.unpack_from(plain)
        if inner != FORMAT:
            return None

        value = plain[_HEADER.size :]
        if is_packed:
            unpacked = _unpacked(value)
            if unpacked is None:
                return None
            value = unpacked

        return Opened(value, asked_ms / 1000, ttl_ms / 1000)

    def _cipher(self, name: str) -> AESGCM:
        key = hashlib.blake2b(_named(name), key=self._value_key, digest_size=32, person=b"value")
        return AESGCM(key.digest())

    def _named(self, kind: bytes, name: str) -> bytes:
        digest = hashlib.blake2b(_named(name), key=self._name_key, digest_size=16, person=kind)
        return self._prefix + digest.hexdigest().encode()


def _derived(api_key: str, server: str, purpose: bytes) -> bytes:
    info = purpose + b"\0" + server.encode("utf-8", "surrogatepass")
    return HKDF(algorithm=SHA256(), length=32, salt=_SALT, info=info).derive(api_key.encode())


def _named(name: str) -> bytes:
    # Names of files may hold lone surrogates.
    return name.encode("utf-8", "surrogatepass")


def _milliseconds(seconds: float) -> int:
    return max(0, min(_TIME_MAX_MS, round(seconds * 1000)))


def _unpacked(packed: bytes) -> bytes | None:
    """The value that was compressed; None if it is too large or not whole."""
    stream = zlib.decompressobj()
    try:
        value = stream.decompress(packed, VALUE_MAX_BYTES)
    except zlib.error:
        return None

    return value if stream.eof and not stream.unused_data else None
