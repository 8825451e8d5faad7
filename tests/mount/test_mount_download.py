"""A download beside a real mount: the same tree, from one cache."""

from __future__ import annotations

from pathlib import Path

from mounting import Mount, Mounting, Serving, Spent, eventually, files_below, images_and_notes, run
from starting import run_pictofs

from standin import PRESETS, Spec
from standin.spec import DatasetSpec

SMALL = Spec((DatasetSpec("small", images=30, size=5000, directories=3),))


def download(mount: Mount, *arguments: str | Path) -> str:
    return mount.pictofs("download", *arguments)


def test_d1_diff_r_with_a_mount(mounted: Mounting, serving: Serving, tmp_path: Path) -> None:
    """Every dataset of the nasty organization that can be read."""
    server = serving(PRESETS["nasty"](), cold_reads=True)
    mount = mounted(server)
    mount.expected += ["malformed", "could not be completed"]

    for folder in mount.datasets.iterdir():
        out = tmp_path / "out" / folder.name
        run_pictofs("download", folder.name, out, env=mount.environ)
        for kind in ("images", "annotations"):
            run("diff", "-r", folder / kind, out / kind)
        shown = [path for path in (folder / "images").rglob("*") if path.is_file()]
        kept = [out / path.relative_to(folder) for path in shown]

        assert [path.stat().st_mtime_ns for path in kept] == [
            path.stat().st_mtime_ns for path in shown
        ]


def test_d5_what_the_mount_has_read_is_copied(
    mounted: Mounting, serving: Serving, tmp_path: Path
) -> None:
    server = serving(SMALL)
    mount = mounted(server)
    files_below(mount.datasets / "small")
    before = Spent(server)
    download(mount, "small", tmp_path / "out")
    assert before.all == ["/datasets/?limit=1000&offset=0"]
    assert files_below(tmp_path / "out") == images_and_notes(server, server.organization["small"])


def test_the_mount_shows_what_a_download_has_listed(
    mounted: Mounting, serving: Serving, tmp_path: Path
) -> None:
    server = serving(SMALL)
    mount = mounted(server, "--metadata-ttl", "1")
    download(mount, "small", tmp_path / "out")
    before = Spent(server)
    assert len(files_below(mount.datasets / "small/images")) == 30
    assert not [each for each in before.api if "include_images" in each]
    server.organization.remove_image(next(iter(server.organization["small"].images.values())))
    eventually(lambda: len(list((mount.datasets / "small/images").rglob("*.jpg"))), 29)
