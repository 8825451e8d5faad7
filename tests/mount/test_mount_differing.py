"""Servers that differ from the contract, or send nonsense, on a real mount with real tools."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from mounting import (
    Mounting,
    Serving,
    Spent,
    active,
    files_below,
    image_bytes,
    images_and_notes,
    run,
)

from standin import PRESETS


def test_l4_absurd_rows_are_shown_and_copied(
    serving: Serving, mounted: Mounting, tmp_path: Path
) -> None:
    """Whatever one row holds: `find`, `cp -r` and `getfattr` meet every image."""
    server = serving(PRESETS["absurd"]())
    dataset = server.organization["absurd"]
    mount = mounted(server)
    mount.expected.append("skipped .* malformed image rows")
    folder = mount.datasets / "absurd"
    images = [
        image for image in active(dataset) if not (image.lies or {}).keys() & {"id", "filename"}
    ]
    found = run("find", folder / "images", "-type", "f").splitlines()

    assert len(found) == len(images)

    run("cp", "-r", folder / "images", folder / "annotations", tmp_path)
    copied = files_below(tmp_path / "images")

    assert sorted(copied.values()) == sorted(image_bytes(image) for image in images)
    assert len(files_below(tmp_path / "annotations")) == len(images)

    for path in found:
        names = os.listxattr(path)
        assert all(os.getxattr(path, name) is not None for name in names)

    assert max(map(len, map(os.fsencode, found))) < 4096
    assert b"absurd" in (folder / "dataset.json").read_bytes()
    figures = os.statvfs(mount.root)
    assert figures.f_blocks > figures.f_bfree


@pytest.mark.parametrize("how", ["absent", "summary"])
def test_l6_l7_a_mount_of_a_server_that_differs_everywhere(
    serving: Serving, mounted: Mounting, how: str
) -> None:
    """No embedded listing, no bytes and no metadata by id: every file is there, and a remount
    knows."""
    server = serving(PRESETS["small"](), embedded_listing=how, bytes_by_id=404, metadata_by_id=405)
    dataset = server.organization["small"]
    mount = mounted(server)
    mount.expected.append("this server differs: ")
    folder = mount.datasets / "small"

    assert files_below(folder / "images") | files_below(folder / "annotations") == {
        path.partition("/")[2]: data for path, data in images_and_notes(server, dataset).items()
    }

    mount.unmount()
    spent = Spent(server)
    again = mounted(server, cache=mount.cache)

    assert len(files_below(again.datasets / "small/images")) == 12
    assert not [each for each in spent.api if "include_images" in each or "image_id:uuid}?" in each]

    again.unmount()


def test_v8_the_readme_is_a_file_of_the_dataset(serving: Serving, mounted: Mounting) -> None:
    server = serving(PRESETS["sample"]())
    mount = mounted(server)
    text = (mount.datasets / "street-signs/README.md").read_text()
    assert text == server.organization["street-signs"].readme
    assert not (mount.datasets / "aerial tiles/README.md").exists()
