"""What an installation brings: every module, what they read, two programs, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import msgspec
import pytest

from pictofs.cli.pages import PAGES

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_packages_are_whole(wheel: zipfile.ZipFile) -> None:
    kept = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "pictofs", "standin"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    there = {name for name in kept if (ROOT / name).exists()}

    assert "pictofs/store/catalog/schema.sql" in there
    assert "pictofs/py.typed" in there

    brought = {name for name in wheel.namelist() if ".dist-info/" not in name}

    assert brought == there | {f"pictofs/docs/{name}.md" for name in PAGES}

    for name in PAGES:
        text = (ROOT / f"docs/{name}.md").read_bytes()
        assert wheel.read(f"pictofs/docs/{name}.md") == text


def test_the_programs(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert wheel.read(name).decode().split() == [
        "[console_scripts]",
        *("mount.pictofs", "=", "pictofs.cli.fstab:main"),
        *("pictofs", "=", "pictofs.cli:main"),
    ]


def test_the_license_and_no_wish_of_the_tests(wheel: zipfile.ZipFile) -> None:
    assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())
    (name,) = (name for name in wheel.namelist() if name.endswith("METADATA"))
    told = Parser().parsestr(wheel.read(name).decode())
    plain = [text for text in told.get_all("Requires-Dist", []) if "extra ==" not in text]
    beside = ("pytest", "torch", "mypy", "pictograph", "pillow", "starlette", "uvicorn", "h11")
    assert not any(text.startswith(beside) for text in plain)


def test_the_sampler_needs_msgspec_alone(tmp_path: Path) -> None:
    """A training environment takes `pip install --no-deps pictofs msgspec`: no compiler, no headers
    of FUSE."""
    (tmp_path / "msgspec").symlink_to(Path(msgspec.__file__).parent)
    code = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(tmp_path)!r}]; import pictofs.torch"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)
