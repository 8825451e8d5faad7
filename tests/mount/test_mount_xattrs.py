"""`getfattr` on a mount: the API's fields, no request, no message for what nobody has."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from mounting import Mount, Mounting, Serving, Spent, active, run

from standin import PRESETS, Organization, StandIn

PREFIX = "user.pictograph."


@pytest.fixture(scope="module")
def server(module_serving: Serving) -> StandIn:
    return module_serving(PRESETS["small"]())


@pytest.fixture(scope="module")
def mount(module_mounted: Mounting, server: StandIn) -> Mount:
    return module_mounted(server)


def dumped(path: Path) -> dict[str, str]:
    """What `getfattr -d` shows, by name."""
    said = run("getfattr", "-d", "--absolute-names", path)
    return {
        name: value.replace('\\"', '"')
        for name, value in re.findall(r'^user\.pictograph\.(\w+)="(.*)"$', said, re.M)
    }


def test_x1_getfattr_shows_every_field(mount: Mount, server: StandIn) -> None:
    dataset = server.organization["small"]
    found = dumped(mount.datasets / "small")

    assert found["id"] == dataset.id
    assert found["image_count"] == str(dataset.counts().images)
    assert {name for name, _ in os_xattrs(mount.datasets / "small").items()} == {
        PREFIX + name for name in found
    }

    run("find", mount.datasets)  # lists it
    before = Spent(server)

    for image in active(dataset):
        place = Path(image.directory_path.strip("/"), image.filename)
        found = dumped(mount.datasets / "small/images" / place)

        assert (found["id"], found["dataset_id"]) == (image.id, dataset.id)
        assert (found["status"], found.get("split")) == (image.status, image.split)
        assert (found["filename"], found["directory_path"]) == (
            image.filename,
            image.directory_path,
        )
        assert (found["size"], found["annotation_count"]) == (
            str(image.size),
            str(image.annotation_count),
        )
        assert dumped(mount.datasets / "small/annotations" / f"{place}.json") == found

    # A look at an annotation file of unknown size asks once an hour which exports there are (Q5).
    assert [each for each in before.all if not each.startswith("/exports/")] == []


def os_xattrs(path: Path) -> dict[str, bytes]:
    return {name: os.getxattr(path, name) for name in os.listxattr(path)}


def test_x2_other_names_and_other_nodes(mount: Mount) -> None:
    assert os.listxattr(mount.root) == os.listxattr(mount.datasets / "small/images") == []
    with pytest.raises(OSError, match="No data") as caught:
        os.getxattr(mount.datasets / "small", "user.other")
    assert caught.value.errno == errno.ENODATA
    for name in ("system.posix_acl_access", "security.selinux", "trusted.x"):
        with pytest.raises(OSError, match="not supported") as caught:
            os.getxattr(mount.datasets / "small", name)
        assert caught.value.errno == errno.EOPNOTSUPP


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_x3_ls_asks_a_device_once_for_each_name(mount: Mount) -> None:
    """What a program asks is what the daemon is asked: the kernel keeps no extended attribute."""
    folder = mount.datasets / "small/images"
    said = subprocess.run(
        ["strace", "-f", "-e", "trace=getxattr,lgetxattr,fgetxattr", "ls", "-lR", folder],
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    asked = re.findall(r'getxattr\(".*", "(.*?)",.* (E\w+) \(', said)

    assert len(asked) == len({name for name, _ in asked}) <= 2
    assert {code for _, code in asked} <= {"EOPNOTSUPP"}


def test_x1_a_copy_keeps_them(mount: Mount, tmp_path: Path) -> None:
    """`cp --preserve=xattr` writes them onto a file system that takes them."""
    source = next(path for path in (mount.datasets / "small/images").rglob("*") if path.is_file())
    probe = tmp_path / "probe"
    probe.touch()
    try:
        os.setxattr(probe, "user.x", b"1")
    except OSError:
        pytest.skip("the temporary folder takes no extended attributes")
    run("cp", "--preserve=xattr", source, tmp_path / "copy")
    assert os_xattrs(tmp_path / "copy") == os_xattrs(source)


@pytest.fixture(scope="module")
def long(module_mounted: Mounting, module_serving: Serving) -> Mount:
    organization = Organization()
    classes = [{"name": f"class number {number}", "type": "bbox"} for number in range(80)]
    dataset = organization.add_dataset("long", description="words " * 300, classes=classes)
    for number in range(3):
        organization.add_image(
            dataset, f"{number}.jpg", size=500, tags=tuple(f"a longer tag {n}" for n in range(200))
        )
    return module_mounted(module_serving(organization))


def test_x2_what_is_listed_fits_beside_a_file_on_any_disk(long: Mount) -> None:
    for path in (long.datasets / "long", long.datasets / "long/images/0.jpg"):
        found = os_xattrs(path)
        assert PREFIX + "id" in found
        assert PREFIX + "created_at" in found  # behind what does not fit
        assert sum(len(name) + len(value) for name, value in found.items()) <= 2048
    assert PREFIX + "classes" not in os_xattrs(long.datasets / "long")


def test_x2_what_is_not_listed_is_read_by_name(long: Mount) -> None:
    assert os.getxattr(long.datasets / "long", PREFIX + "description").decode() == "words " * 300
    assert len(json.loads(os.getxattr(long.datasets / "long", PREFIX + "classes"))) == 80
    assert len(json.loads(os.getxattr(long.datasets / "long/images/0.jpg", PREFIX + "tags"))) == 200


@pytest.mark.parametrize("how", ["copytree", "cp -a", "cp --preserve=xattr"])
def test_x2_a_copy_keeps_what_is_listed(long: Mount, tmp_path: Path, how: str) -> None:
    source, target = long.datasets / "long", tmp_path / "copy"
    if how == "copytree":
        shutil.copytree(source, target)
    else:
        run(*how.split(), "-r", source, target)
    for copy in (target, target / "images/0.jpg"):
        mine = {name: value for name, value in os_xattrs(copy).items() if name.startswith(PREFIX)}
        assert mine == os_xattrs(source / copy.relative_to(target))
