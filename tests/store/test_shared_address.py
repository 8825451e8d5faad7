"""The URL of the shared engine: what is understood, and that its password is shown to nobody."""

from __future__ import annotations

from pathlib import Path

import pytest

from pictofs.config.shared import (
    SharedAddress,
    argument_address,
    parse_address,
    read_address,
)
from pictofs.errors import Invalid

SECRET = "hunter2-of-the-tests"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("redis://cache", SharedAddress("cache", 6379, 0)),
        ("redis://cache/", SharedAddress("cache", 6379, 0)),
        (" redis://cache:7000/3\n", SharedAddress("cache", 7000, 3)),
        ("rediss://cache.example:7000/15", SharedAddress("cache.example", 7000, 15, tls=True)),
        ("REDIS://Cache", SharedAddress("cache", 6379, 0)),
        ("redis://[::1]:7000/0", SharedAddress("::1", 7000, 0)),
        ("redis://:pw@cache", SharedAddress("cache", password="pw")),
        ("redis://me:p%40w%2f@cache", SharedAddress("cache", user="me", password="p@w/")),
        ("redis://me@cache", SharedAddress("cache", user="me")),
    ],
)
def test_what_is_understood(text: str, expected: SharedAddress) -> None:
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cache:6379",
        "http://cache",
        "unix:///run/redis.sock",
        "redis+unix:///run/redis.sock",
        "redis://",
        "redis:///0",
        "redis://cache:0",
        "redis://cache:70000",
        "redis://cache:port",
        "redis://[::1",
        "redis://cache/zero",
        "redis://cache/-1",
        "redis://cache/65536",
        "redis://cache/0/1",
        "redis://cache/0?timeout=5",
        "redis://cache/0#x",
        "redis://ca che",
        "redis://cache\n/0",
        "redis://ca\u00dfe",
        "redis://me:%ff@cache",
    ],
)
@pytest.mark.parametrize("user", ["", f":{SECRET}@", f"{SECRET}:x@"])
def test_what_is_refused_says_what_to_write_and_shows_no_password(text: str, user: str) -> None:
    with pytest.raises(ValueError, match="redis://HOST:PORT/DB") as refused:
        parse_address(text if "@" in text else text.replace("//", "//" + user, 1))
    assert SECRET not in str(refused.value)


def test_k2_no_form_of_an_address_shows_user_or_password() -> None:
    address = parse_address(f"rediss://{SECRET}-user:{SECRET}@[::1]:7000/2")

    assert address.password == SECRET
    assert SECRET not in f"{address} {address!r} {[address]} {address!s:>50}"
    assert str(address) == "rediss://[::1]:7000/2"
    assert parse_address(str(address)) == SharedAddress("::1", 7000, 2, tls=True)


@pytest.mark.parametrize("text", [f"redis://:{SECRET}@cache", f"redis://{SECRET}@cache"])
def test_k2_an_argument_may_hold_no_user_and_no_password(text: str) -> None:
    with pytest.raises(ValueError, match="file or a variable") as refused:
        argument_address(text)

    assert SECRET not in str(refused.value)
    assert argument_address("redis://cache") == SharedAddress("cache")


def test_an_address_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "url"
    path.write_text(f"redis://:{SECRET}@cache:7000/1\n")

    assert read_address(path) == SharedAddress("cache", 7000, 1, password=SECRET)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "does not hold the URL"),
        (b" \n", "does not hold the URL"),
        (f"http://:{SECRET}@cache".encode(), "won't do: write redis://"),
        (b"\xff\xfe", "is not text"),
        (b"redis://cache" + b" " * 5000, "does not hold the URL"),
    ],
)
def test_a_file_that_does_not_serve(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "url"
    path.write_bytes(content)

    with pytest.raises(Invalid, match=message) as refused:
        read_address(path)
    assert SECRET not in str(refused.value)
    assert refused.value.exit_code == 6


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="No such file"):
        read_address(tmp_path / "url")
