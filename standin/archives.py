"""Archives of exports: the layouts of some formats, and archives that are damaged or hostile.

The layouts of the vendor's archives are not documented; these have what readers of the format
expect.
"""

from __future__ import annotations

import io
import stat
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

import msgspec

from standin.records import Image
from standin.shapes import annotations_of

#: Files of an archive: name and content. Pictures are packed already, and are stored.
Files = Iterable[tuple[str, bytes]]

_SPLITS = {"train": "train", "val": "valid", "test": "test", None: "train"}


def pack(files: Files) -> bytes:
    """A zip with these files."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, body in files:
            is_picture = PurePosixPath(name).suffix in (".jpg", ".png")
            method = zipfile.ZIP_STORED if is_picture else zipfile.ZIP_DEFLATED
            archive.writestr(_dated(name), body, method)

    return out.getvalue()


def _dated(name: str) -> zipfile.ZipInfo:
    """A member with a time that is the same in every run."""
    return zipfile.ZipInfo(name, (2026, 3, 1, 9, 30, 0))


def _place(image: Image) -> str:
    return f"{image.directory_path.strip('/')}/{image.filename}".lstrip("/")


def _body(image: Image) -> bytes:
    body = image.body()
    return body.read(0, body.size)


def _boxes(image: Image) -> list[tuple[str, dict[str, float]]]:
    """Class and box of each annotation that has a box."""
    return [
        (each["name"], each["bounding_box"])
        for each in annotations_of(image)
        if isinstance(each, dict) and "bounding_box" in each
    ]


def coco(images: list[Image], with_images: bool) -> Files:
    """`annotations/instances_<split>.json`, and `images/<directories>/<file>`."""
    names = sorted({name for image in images for name, _ in _boxes(image)})
    for split in sorted({_SPLITS.get(image.split, "train") for image in images}):
        rows: list[dict[str, Any]] = []
        found: list[dict[str, Any]] = []
        for image in images:
            if _SPLITS.get(image.split, "train") != split:
                continue

            rows.append({"id": len(rows) + 1, "file_name": _place(image)})
            for name, box in _boxes(image):
                corner = [box["x"], box["y"], box["w"], box["h"]]
                category = names.index(name) + 1
                found.append(
                    {
                        "id": len(found) + 1,
                        "image_id": len(rows),
                        "category_id": category,
                        "bbox": corner,
                    }
                )

        categories = [{"id": place, "name": name} for place, name in enumerate(names, 1)]
        body = {"images": rows, "annotations": found, "categories": categories}
        yield f"annotations/instances_{split}.json", msgspec.json.encode(body)

    if with_images:
        for image in images:
            yield f"images/{_place(image)}", _body(image)


def yolo(images: list[Image], with_images: bool) -> Files:
    """`data.yaml`, `<split>/labels/<id>.txt`, and `<split>/images/<id><suffix>`."""
    names = sorted({name for image in images for name, _ in _boxes(image)})
    listed = "".join(f"  {place}: {name}\n" for place, name in enumerate(names))
    data = f"train: train/images\nval: valid/images\nnames:\n{listed}"
    yield "data.yaml", data.encode()
    for image in images:
        split = _SPLITS.get(image.split, "train")
        width = image.width or 1
        height = image.height or 1
        lines = [
            f"{names.index(name)} {(box['x'] + box['w'] / 2) / width:.6f} "
            f"{(box['y'] + box['h'] / 2) / height:.6f} {box['w'] / width:.6f} "
            f"{box['h'] / height:.6f}\n"
            for name, box in _boxes(image)
        ]
        yield f"{split}/labels/{image.id}.txt", "".join(lines).encode()
        if with_images:
            suffix = PurePosixPath(image.filename).suffix
            yield f"{split}/images/{image.id}{suffix}", _body(image)


def csv(images: list[Image], with_images: bool) -> Files:
    """`annotations.csv`, and `images/<directories>/<file>`."""
    lines = ["file,class,x,y,w,h\n"]
    for image in images:
        lines += [
            f"{_place(image)},{name},{box['x']},{box['y']},{box['w']},{box['h']}\n"
            for name, box in _boxes(image)
        ]
    yield "annotations.csv", "".join(lines).encode()
    if with_images:
        for image in images:
            yield f"images/{_place(image)}", _body(image)


#: What makes the files of an export, by format. `pictograph` is made where the routes are.
FORMATS: Mapping[str, Callable[[list[Image], bool], Files]] = {
    "coco": coco,
    "yolo": yolo,
    "csv": csv,
}

# Archives that no honest server sends. Each has a good member, `good.txt`, where it has any.

GOOD = ("good.txt", b"good\n")


def member(
    name: bytes,
    body: bytes,
    *,
    method: int = zipfile.ZIP_STORED,
    flags: int = 0,
    crc: int | None = None,
    size: int | None = None,
    packed: bytes | None = None,
    packed_size: int | None = None,
    local_name: bytes | None = None,
    attributes: int = 0,
    moment: tuple[int, int] = (0x5C61, 0x4BC0),
    at: int | None = None,
) -> Callable[[int], tuple[bytes, bytes]]:
    """A member as it is told, right or wrong: a function of its offset to its bytes and its entry
    in the directory.

    `at`: the offset that the directory tells. `moment`: date and time as MS-DOS has them.
    """
    if packed is None:
        packed = body
        if method == zipfile.ZIP_DEFLATED:
            squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
            packed = squeeze.compress(body) + squeeze.flush()

    true_crc = zlib.crc32(body) if crc is None else crc
    told = len(body) if size is None else size
    told_packed = len(packed) if packed_size is None else packed_size
    date, time = moment
    large = told > 0xFFFFFFFF or told_packed > 0xFFFFFFFF
    sizes = (0xFFFFFFFF, 0xFFFFFFFF) if large else (told_packed, told)
    extra = struct.pack("<HHQQ", 1, 16, told, told_packed) if large else b""
    common = struct.pack("<HHHHIII", flags, method, time, date, true_crc, *sizes)

    def placed(offset: int) -> tuple[bytes, bytes]:
        shown = name if local_name is None else local_name
        local = b"PK\3\4" + struct.pack("<H", 20) + common
        local += struct.pack("<HH", len(shown), len(extra)) + shown + extra + packed
        central = b"PK\1\2" + struct.pack("<HH", 0x314, 20) + common
        place = offset if at is None else at
        central += struct.pack("<HHHHHII", len(name), len(extra), 0, 0, 0, attributes, place)
        return local, central + name + extra

    return placed


def assemble(*members: Callable[[int], tuple[bytes, bytes]], count: int | None = None) -> bytes:
    """A zip of members. `count`: how many it says that it has."""
    out = b""
    directory = b""
    for each in members:
        local, central = each(len(out))
        out += local
        directory += central

    told = len(members) if count is None else count
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, told, told, len(directory), len(out), 0)
    return out + directory + end


def _good(name: bytes = b"good.txt") -> Callable[[int], tuple[bytes, bytes]]:
    return member(name, GOOD[1])


def _names(*names: bytes) -> bytes:
    return assemble(_good(), *(member(name, name) for name in names))


def _duplicates() -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with zipfile.ZipFile(out, "w") as archive:
            for name, body in (GOOD, ("a.txt", b"first"), ("a.txt", b"second"), ("A.txt", b"3")):
                archive.writestr(_dated(name), body)

    return out.getvalue()


def _damaged_directory() -> bytes:
    whole = bytearray(assemble(_good(), member(b"b.txt", b"b")))
    at = whole.rindex(b"PK\1\2")
    whole[at : at + 4] = b"XXXX"
    return bytes(whole)


def _bomb() -> bytes:
    size = 64 << 20
    return assemble(_good(), member(b"bomb.bin", bytes(size), method=zipfile.ZIP_DEFLATED))


#: Archives by what is wrong with them.
HOSTILE: Mapping[str, Callable[[], bytes]] = {
    "empty file": lambda: b"",
    "no archive": lambda: b"<html>not a zip</html>" * 50,
    "cut": lambda: assemble(_good(), member(b"b.txt", b"b" * 999))[:-30],
    "damaged directory": _damaged_directory,
    "wrong count": lambda: assemble(_good(), count=7),
    "bytes in front": lambda: b"#!/bin/sh\n" + assemble(_good()),
    "no members": assemble,
    "local header": lambda: assemble(_good(), member(b"bad.txt", b"bad", local_name=b"other.t")),
    "encrypted": lambda: assemble(_good(), member(b"bad.txt", b"bad", flags=1)),
    "unknown method": lambda: assemble(_good(), member(b"bad.txt", b"bad", method=14)),
    "wrong crc": lambda: assemble(_good(), member(b"bad.txt", b"bad", crc=1)),
    "longer than told": lambda: assemble(
        _good(), member(b"bad.txt", b"b" * 5000, method=zipfile.ZIP_DEFLATED, size=100)
    ),
    "shorter than told": lambda: assemble(
        _good(), member(b"bad.txt", b"b" * 100, method=zipfile.ZIP_DEFLATED, size=5000)
    ),
    "broken stream": lambda: assemble(
        _good(),
        member(b"bad.txt", b"b" * 100, method=zipfile.ZIP_DEFLATED, packed=b"\xff" * 40),
    ),
    "beyond the end": lambda: assemble(_good(), member(b"bad.txt", b"bad", at=1 << 30)),
    "packed beyond": lambda: assemble(
        _good(), member(b"bad.txt", b"bad", method=zipfile.ZIP_DEFLATED, packed_size=1 << 30)
    ),
    "overlapping": lambda: assemble(
        member(b"bad.txt", b"x" * 100), _good(), member(b"twin.txt", b"x" * 100, at=0)
    ),
    "zip64 size": lambda: assemble(
        _good(), member(b"bad.txt", b"b", method=zipfile.ZIP_DEFLATED, size=1 << 50)
    ),
    "bomb": _bomb,
    "duplicates": _duplicates,
    "escaping": lambda: _names(b"../up.txt", b"/etc/passwd", b"a/../../b.txt", b"./c.txt"),
    "odd names": lambda: _names(
        b"", b"back\\slash.txt", b"nul\0.txt", b"caf\xe9.txt", "\u201bs.txt".encode(), b"a//b.txt"
    ),
    "long names": lambda: _names(b"x" * 400 + b".txt", b"d/" * 300 + b"deep.txt"),
    "file and folder": lambda: assemble(
        _good(), member(b"a", b"file"), member(b"a/b.txt", b"below"), member(b"c/", b"")
    ),
    "symbolic link": lambda: assemble(
        _good(),
        member(b"link", b"/etc/passwd", attributes=(stat.S_IFLNK | 0o777) << 16),
    ),
    "odd times": lambda: assemble(
        _good(),
        member(b"zero.txt", b"0", moment=(0, 0)),
        member(b"late.txt", b"1", moment=(0xFFFF, 0xFFFF)),
    ),
}
