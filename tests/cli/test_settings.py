"""What a person writes, and the settings that come of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pictofs.config import FreeSpace, MountSettings, Setting, declared, default_cache_dir, values
from pictofs.errors import Invalid

SECRET = "pk_live_" + "s3cr3t" * 8


def load(environ: dict[str, str] | None = None, **given: str | bool | None) -> MountSettings:
    return MountSettings.load(Path("/mnt"), given, environ or {})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("123", 123),
        ("1B", 1),
        ("20MB", 20_000_000),
        ("20 mb", 20_000_000),
        ("20M", 20_000_000),
        ("1.5GiB", 3 * 2**29),
        ("1Ki", 1024),
        ("2TB", 2 * 10**12),
    ],
)
def test_sizes(text: str, value: int) -> None:
    assert values.size(text) == value


@pytest.mark.parametrize(
    "text",
    ["", "B", "-1", "1e9", "20 MiBs", "20iB", "1.5.2GB", "٣GB", "nan", "9" * 40, "20QB", ".5GB"],
)
def test_wrong_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="write a size"):
        values.size(text)


@given(st.integers(0, 2**63 - 1))
def test_plain_bytes_are_exact(count: int) -> None:
    assert values.size(str(count)) == count


@given(st.text())
def test_no_text_is_more_than_refused(text: str) -> None:
    for item in declared(MountSettings):
        said = "write"
        try:
            (item.parse or str)(text)
        except ValueError as error:
            said = str(error)
        assert "write" in said, item.name


def test_free_space() -> None:
    assert values.free_space("5%") == FreeSpace(share=0.05)
    assert values.free_space("10GB") == FreeSpace(bytes=10**10)
    assert values.free_space("5%").of(1000) == 50
    assert values.free_space("70").of(1000) == 70
    for wrong in ("100%", "-1%", "x%", "%", "lots"):
        with pytest.raises(ValueError, match="write"):
            values.free_space(wrong)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("https://h", "https://h"),
        ("https://h/", "https://h"),
        ("https://h:8443/prefix/", "https://h:8443/prefix"),
        (" http://[::1]:80 ", "http://[::1]:80"),
    ],
)
def test_urls(text: str, value: str) -> None:
    assert values.url(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "h",
        "h:80",
        "ftp://h",
        "https://",
        "https://u:p@h",
        "https://h?q=1",
        "https://h#f",
        "https://h:99999",
        "https://a b",
    ],
)
def test_wrong_urls(text: str) -> None:
    with pytest.raises(ValueError, match="write a URL"):
        values.url(text)


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("http://localhost:1", True),
        ("http://127.8.9.1", True),
        ("http://[::1]:8", True),
        ("http://127.0.0.1.example.com", False),
        ("http://localhost.example.com", False),
        ("http://10.0.0.1", False),
    ],
)
def test_loopback(url: str, loopback: bool) -> None:
    assert values.is_loopback(url) is loopback


def test_an_option_wins_over_the_environment_wins_over_the_default() -> None:
    assert load().timeout == 30
    assert load({"PICTOGRAPH_TIMEOUT": "5"}).timeout == 5
    assert load({"pictograph_timeout": "5"}).timeout == 5
    assert load({"PICTOGRAPH_TIMEOUT": "5", "pictograph_timeout": "6"}).timeout == 5
    assert load({"PICTOGRAPH_TIMEOUT": " "}).timeout == 30
    assert load({"PICTOGRAPH_TIMEOUT": "5"}, timeout="7").timeout == 7


def test_every_setting_has_a_default_that_its_own_parser_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = {
        field.name for field in dataclasses.fields(MountSettings) if callable(field.default_factory)
    }
    for item in declared(MountSettings):
        assert item.help.endswith("."), item.name
        if item.parse and item.name not in made:
            assert item.parse(item.shown) == getattr(load(), item.name)


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert default_cache_dir() == Path("/x/pictofs")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/u")
    assert default_cache_dir() == Path("/home/u/.cache/pictofs")
    assert load(cache_dir="~/c").cache_dir == Path("/home/u/c")


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(log_file="a/../b.log").log_file == tmp_path / "b.log"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("cache_size", "20QB", "--cache-size: '20QB' won't do: write a size such as 20MB"),
        ("cache_size", "5", "write 1MB or more"),
        ("min_free", "100%", "--min-free"),
        ("timeout", "0", "above 0"),
        ("timeout", "inf", "write a number"),
        ("max_retries", "-1", "--max-retries"),
        ("metadata_ttl", "-1", "0 or more"),
        ("annotation_sizes", "odd", "write lazy or exact"),
        ("uid", "root", "numeric id"),
        ("umask", "9", "octal"),
        ("log_level", "loud", "debug, info, warning or error"),
        ("base_url", "example.com", "write a URL such as https://"),
        ("log_file", "", "write a path"),
    ],
)
def test_a_bad_value_says_what_to_write(name: str, text: str, words: str) -> None:
    with pytest.raises(Invalid) as caught:
        load(**{name: text})
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bad_value_of_the_environment_names_the_variable() -> None:
    with pytest.raises(Invalid, match=r"^PICTOGRAPH_MAX_RETRIES: 'many'"):
        load({"PICTOGRAPH_MAX_RETRIES": "many"})


def test_plain_http_leaves_this_machine_only_on_demand() -> None:
    assert load(base_url="http://127.0.0.1:8000").base_url == "http://127.0.0.1:8000"
    with pytest.raises(Invalid, match="--allow-plain-http"):
        load(base_url="http://example.com")
    assert load(base_url="http://example.com", allow_plain_http=True)


@pytest.mark.parametrize("item", [item for item in declared(MountSettings) if item.parse])
def test_a_key_in_the_wrong_place_is_not_shown(item: Setting) -> None:
    said = ""
    try:
        load(**{item.name: SECRET})
    except Invalid as error:
        said = str(error)
    assert SECRET not in said
    with pytest.raises(Invalid) as caught:
        load(base_url=f"https://{SECRET}@example.com")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("other", ["offline", "frozen"])
def test_w1_writable_needs_the_server_as_it_is(other: str) -> None:
    with pytest.raises(Invalid, match=f"--writable and --{other} exclude each other"):
        MountSettings.load(Path("/m"), {"writable": True, other: True}, {})
