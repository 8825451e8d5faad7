"""What the pages tell to type, as it stands there, on real mounts of the demo's organization."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mounting import Mount, Spent, finished_export, inherited
from PIL import Image
from shared_rig import free_port

from pictofs.app import mount_table, mounting
from standin import PRESETS, StandIn
from standin.wire import annotation_file

DOCS = Path(__file__).parents[2] / "docs"


def test_the_training_loop(
    serving: Callable[..., StandIn], mounted: Callable[..., Mount], tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    server = serving(PRESETS["sample"]())
    mount = mounted(server)
    (tmp_path / "picto").symlink_to(mount.root)
    program, _, _ = blocks("howto.md", "python")
    (tmp_path / "train.py").write_text(program)
    signs = server.organization["street-signs"]
    marked = sum(image.annotation_count for image in signs.images.values())

    done = train(tmp_path)

    assert done == [f"epoch {epoch}: 240 images, {marked} annotations" for epoch in range(2)]

    spent = Spent(server)

    assert train(tmp_path) == done
    assert spent.all == []


def test_the_order_told(
    serving: Callable[..., StandIn], mounted: Callable[..., Mount], tmp_path: Path
) -> None:
    """Nothing is guessed, and still something is fetched ahead."""
    pytest.importorskip("torch")
    mount = mounted(serving(PRESETS["sample"]()), "--prefetch", "off")
    (tmp_path / "picto").symlink_to(mount.root)
    loop, told, _ = blocks("howto.md", "python")
    ending = "for epoch in range(2):\n    print(sum(len(pixels) for pixels, _ in loader))\n"
    (tmp_path / "train.py").write_text(loop.partition("if __name__")[0] + told + ending)

    assert train(tmp_path) == ["240", "240"]
    assert mount.status()["prefetch"]["fetched"] > 50


@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs /dev/fuse")
def test_two_nodes_on_one_machine(serving: Callable[..., StandIn], tmp_path: Path) -> None:
    """The three commands of "Share among nodes"."""
    server = serving(PRESETS["sample"]())
    # What was asked for less than 4 s after a change is not shared (Z2).
    for dataset in server.organization.datasets.values():
        dataset.updated_at = dataset.created_at
    environ = {
        **inherited(),
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path),
        "XDG_RUNTIME_DIR": "",
        "PICTOGRAPH_BASE_URL": server.api_url,
        "PICTOGRAPH_API_KEY": server.keys["viewer"],
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    port = str(free_port())
    (commands,) = [text for text in blocks("howto.md", "sh") if "node$n" in text]
    commands = commands.replace("6399", port).replace(
        "redis-server", f"redis-server --dir {tmp_path}"
    )
    try:
        done = subprocess.run(
            ["bash", "-c", commands], env=environ, capture_output=True, text=True, check=True
        )
        assert re.search(r"[1-9]\d* from other nodes", " ".join(done.stdout.split()))
        # Fewer, but where the machine is so busy that a node leaves the engine alone.
        asked = [each.route for each in server.log.requests("api")]
        assert 240 <= asked.count("/annotations/{image_id:uuid}/file") < 480
    finally:
        for number in (1, 2):
            command = [sys.executable, "-m", "pictofs", "unmount", str(tmp_path / f"node{number}")]
            subprocess.run(command, env=environ, capture_output=True)
        subprocess.run(["redis-cli", "-p", port, "shutdown", "nosave"], capture_output=True)


def test_the_notebook(
    serving: Callable[..., StandIn], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serving(PRESETS["sample"]())
    monkeypatch.setenv("PICTOGRAPH_BASE_URL", server.api_url)
    monkeypatch.setenv("PICTOGRAPH_API_KEY", server.keys["viewer"])
    *_, notebook = blocks("howto.md", "python")
    (tmp_path / "train.py").write_text(notebook)
    datasets = server.organization.datasets.values()
    assert train(tmp_path) == [str(sorted(each.name for each in datasets if not each.is_archived))]


@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs /dev/fuse")
def test_the_annotations_are_drawn_where_they_are(
    serving: Callable[..., StandIn], mounted: Callable[..., Mount], tmp_path: Path
) -> None:
    mount = mounted(serving(PRESETS["sample"]()))
    (tmp_path / "picto").symlink_to(mount.root)
    (program,) = blocks("annotations.md", "python")
    (tmp_path / "train.py").write_text(f"import os\nos.chdir({str(tmp_path)!r})\n{program}")

    train(tmp_path)

    with Image.open(tmp_path / "marked.png") as drawn:
        assert drawn.getpixel((40, 200)) == (255, 0, 0)
        assert drawn.getpixel((324, 46)) == (255, 255, 0)


def test_the_annotation_page_has_every_field(serving: Callable[..., StandIn]) -> None:
    """Of the annotations that the stand-in makes, which are held to the vendor's SDK."""
    organization = serving(PRESETS["sample"]()).organization
    page = (DOCS / "annotations.md").read_text()
    for image in organization.images.values():
        file = annotation_file(image, organization, "http://h")
        for field in (*file, *(field for each in file["annotations"] for field in each)):
            assert re.search(rf"`[^`]*\b{field}\b[^`]*`", page), field

    (example,) = blocks("annotations.md", "json")
    shown = json.loads(example)
    image = organization.images[shown["image_uuid"]]
    file = annotation_file(image, organization, "https://api.pictograph.io/api/v1/developer")
    assert all(each in file["annotations"] for each in shown.pop("annotations"))
    assert shown == {name: value for name, value in file.items() if name != "annotations"}


@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs /dev/fuse")
def test_the_quick_start(serving: Callable[..., StandIn], prompt: Callable[[str], str]) -> None:
    """From the mount to the end: every command succeeds, and nothing is left mounted."""
    said = prompt("\n".join(blocks("quickstart.md", "sh", "## Mount")))
    assert "is mounted at" in said
    assert "aerial tiles\nempty\nstreet-signs\n240\n" in said
    assert '"image": "frame-0000.jpg"' in said
    assert "request budget" in said
    assert said.rstrip().endswith("is unmounted")


@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs /dev/fuse")
def test_browsing_and_going_offline(
    serving: Callable[..., StandIn], prompt: Callable[[str], str]
) -> None:
    browse = blocks("howto.md", "sh", "## Browse and grep", "## Keep a copy")
    offline = blocks("howto.md", "sh", "## Work offline", "## Use it in CI")
    said = prompt(
        "\n".join(
            [
                "mkdir ~/picto; pictofs mount ~/picto",
                *browse,
                *offline,
                "cd; pictofs unmount ~/picto",
            ]
        )
    )

    assert 'user.pictograph.split="' in said
    assert re.search(r'^ +80       "name": "road",$', said, re.MULTILINE)
    assert "all 480 files are cached" in said


@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs /dev/fuse")
def test_training_on_formats(serving: Callable[..., StandIn], prompt: Callable[[str], str]) -> None:
    """All but ultralytics itself, which tests/mount has."""
    typed = blocks("howto.md", "sh", "## Train on formats", "## Train on a version")
    lines = [line for line in "".join(typed).splitlines() if not line.startswith("yolo ")]
    said = prompt(
        "\n".join(
            [
                "mkdir ~/picto; pictofs mount ~/picto",
                *lines,
                "diff -r signs-yolo ~/picto/datasets/street-signs/formats/yolo && echo the same",
                "pictofs unmount ~/picto",
            ]
        )
    )
    assert "as trainers read it" in said
    assert "the same" in said


def test_a_copy_in_ci(serving: Callable[..., StandIn], prompt: Callable[[str], str]) -> None:
    install, *rest = "".join(
        blocks("howto.md", "sh", "## Use it in CI", "## Mount at boot")
    ).splitlines()
    assert install == "pip install ./pictofs"
    prompt("\n".join([*rest, "test $(find data/images -type f | wc -l) -gt 20"]))


@pytest.fixture
def prompt(serving: Callable[..., StandIn], tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Runs what a person types, in a home folder of its own, with a key; its output."""
    server = serving(PRESETS["sample"]())
    finished_export(server, "street-signs", "july")
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/pictofs"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nfrom pictofs.cli import main\nsys.exit(main())\n"
    )
    program.chmod(0o755)
    environ = {
        **inherited(),
        "HOME": str(tmp_path),
        "XDG_CACHE_HOME": "",
        "XDG_RUNTIME_DIR": "",
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        "PICTOGRAPH_BASE_URL": server.api_url,
        "PICTOGRAPH_API_KEY": server.keys["viewer"],
    }

    def run(script: str) -> str:
        done = subprocess.run(
            ["bash", "-e", "-c", script],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            timeout=110,
        )

        assert done.returncode == 0, done.stdout + done.stderr

        return done.stdout

    yield run
    left = mount_table.mount_at(tmp_path / "picto")
    if left:
        mounting.detach(left.path, lazy=True)

    assert left is None


def blocks(page: str, language: str, start: str = "", end: str = "\0") -> list[str]:
    """The fenced blocks of a page, from one heading up to another."""
    text = (
        (DOCS / page).read_text().partition(start)[2].partition(end)[0]
        if start
        else (DOCS / page).read_text()
    )
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def train(home: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, home / "train.py"],
        env={**os.environ, "HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
