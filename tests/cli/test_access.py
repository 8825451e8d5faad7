"""Which key, and for which API: the vendor's precedence."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pictofs.config import Access, find_access
from pictofs.errors import Invalid, PictofsError, Unauthorized

FILE = """
[default]
api_key = "pk_live_default"

[staging]
api_key = "pk_live_staging"
base_url = "https://staging.example/"

[bare]
api_key = "pk_live_bare"

[empty]
base_url = "https://empty.example"
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / ".pictograph"
    folder.mkdir()
    write(tmp_path, FILE)
    return tmp_path


def write(home: Path, text: str, mode: int = 0o600) -> None:
    file = home / ".pictograph/config.toml"
    file.write_text(text)
    file.chmod(mode)


def find(
    home: Path, profile: str | None = None, key_file: Path | None = None, **environ: str
) -> Access:
    return find_access(profile=profile, key_file=key_file, environ=environ, home=home)


def test_the_default_profile_comes_last(home: Path) -> None:
    access = find(home)
    assert (access.api_key, access.base_url, access.warnings) == ("pk_live_default", None, ())


def test_the_profile_of_the_environment(home: Path) -> None:
    access = find(home, PICTOGRAPH_PROFILE="staging")
    assert (access.api_key, access.base_url) == ("pk_live_staging", "https://staging.example")


def test_the_key_of_the_environment_wins_over_its_profile(home: Path) -> None:
    access = find(home, PICTOGRAPH_PROFILE="staging", PICTOGRAPH_API_KEY="pk_env")
    assert (access.api_key, access.base_url) == ("pk_env", "https://staging.example")


def test_a_named_profile_wins_over_the_environment(home: Path) -> None:
    environ = {
        "PICTOGRAPH_API_KEY": "pk_env",
        "PICTOGRAPH_PROFILE": "bare",
        "PICTOGRAPH_BASE_URL": "https://env",
    }
    access = find(home, "staging", **environ)
    assert (access.api_key, access.base_url) == ("pk_live_staging", "https://staging.example")


def test_a_named_profile_never_goes_to_the_environments_host(home: Path) -> None:
    access = find(home, "bare", PICTOGRAPH_BASE_URL="https://evil.example")
    assert access.base_url == "https://api.pictograph.io"


def test_a_key_file_wins_over_everything(home: Path) -> None:
    file = home / "key"
    file.write_text("pk_file\n")
    file.chmod(0o600)
    access = find(home, "staging", file, PICTOGRAPH_API_KEY="pk_env")
    assert (access.api_key, access.base_url) == ("pk_file", "https://staging.example")
    assert find(home, None, file, PICTOGRAPH_BASE_URL="https://env").base_url == "https://env"


def test_no_file_is_no_profile(tmp_path: Path) -> None:
    assert find(tmp_path, PICTOGRAPH_API_KEY="pk_env").base_url is None
    with pytest.raises(Unauthorized, match="no API key; run `pictofs login`"):
        find(tmp_path)
    with pytest.raises(Unauthorized, match="no API key"):
        find(tmp_path, PICTOGRAPH_API_KEY=" ")


def test_a_named_profile_must_exist(home: Path) -> None:
    for access in (lambda: find(home, "nope"), lambda: find(home, PICTOGRAPH_PROFILE="nope")):
        with pytest.raises(
            Unauthorized, match=r"no profile 'nope' .* there is: bare, default, empty, staging"
        ):
            access()


def test_a_profile_without_a_key(home: Path) -> None:
    with pytest.raises(Unauthorized, match=r"profile 'empty' in .* has none"):
        find(home, "empty")


@pytest.mark.parametrize("name", ["", ".", "a.b", "-a", "a b", "x" * 65, "é"])
def test_profile_names(home: Path, name: str) -> None:
    with pytest.raises(Invalid, match="can't be a profile"):
        find(home, name)


def test_files_open_to_others_are_warned_of(home: Path) -> None:
    write(home, FILE, 0o640)
    (warning,) = find(home).warnings
    assert warning.hint.startswith("chmod 600 ")
    key = home / "key"
    key.write_text("pk_file")
    key.chmod(0o604)
    assert str(key) in find(home, None, key).warnings[-1].message


def test_a_broken_file_does_not_show_its_key(home: Path) -> None:
    for broken in (
        '[default]\napi_key = "pk_live_secret',
        "pk_live_secret",
        'api_key = pk_live_secret"',
    ):
        write(home, broken)
        with pytest.raises(Invalid, match="is not TOML") as caught:
            find(home)
        assert "secret" not in str(caught.value)


@given(st.text(max_size=80))
def test_any_file_gives_a_key_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    home = tmp_path_factory.mktemp("home")
    (home / ".pictograph").mkdir()
    (home / ".pictograph/config.toml").write_text(
        "[default]\napi_key='pk_sec\u20acret'\n" + text, encoding="utf-8"
    )
    said = ""

    try:
        find(home)
    except PictofsError as error:
        said = str(error)

    assert "pk_sec" not in said
    assert "\n" not in said


def test_a_wrong_type_is_no_key(home: Path) -> None:
    write(home, "default = 1\n[other]\napi_key = 5\n")
    with pytest.raises(Unauthorized):
        find(home)
    with pytest.raises(Unauthorized):
        find(home, "other")


def test_a_wrong_url_names_the_profile(home: Path) -> None:
    write(home, "[default]\napi_key = 'k'\nbase_url = 'nonsense'\n")
    with pytest.raises(Invalid, match=r"base_url of \[default\]"):
        find(home)


def test_key_files(home: Path) -> None:
    for wrong, words in (("missing", "No such file"), (".pictograph", "Is a directory")):
        with pytest.raises(Invalid, match=words):
            find(home, None, home / wrong)
    (home / "blank").write_text("\n")
    with pytest.raises(Invalid, match="is empty"):
        find(home, None, home / "blank")
    (home / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(Invalid, match="not text"):
        find(home, None, home / "binary")


def test_a_key_in_place_of_its_file_is_not_shown(home: Path) -> None:
    with pytest.raises(Invalid) as caught:
        find(home, None, Path("pk_live_" + "0" * 64))
    assert "00" not in str(caught.value)


def test_a_key_is_not_in_the_repr(home: Path) -> None:
    assert "pk_live" not in repr(find(home))
