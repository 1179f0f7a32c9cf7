"""Zips that are damaged, hostile, or of another make."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

from tests.bad_inputs.entry import BadInput
from tests.bad_inputs.making import (
    THIRD,
    Files,
    folder,
    picture,
    spoil,
    then,
    with_table,
    write,
    zipped,
)

CONVERT = "convert source.zip --jobs 1"
AGAIN = "Download source.zip again, or pack it again"


def add(*names: str, content: bytes = b"x"):
    """Put members into the zip besides its own."""
    return lambda files: files.update(dict.fromkeys(names, content))


def rename(old: str, new: str):
    def change(files: Files) -> None:
        for name in list(files):
            if name.startswith(old):
                files[new + name.removeprefix(old)] = files.pop(name)

    return change


def in_directory(name: str, offset: int, value: bytes) -> Callable[[Path], None]:
    """Overwrite bytes of a member's entry in the zip's directory, where its name stands at 46."""

    def change(path: Path) -> None:
        data = bytearray(path.read_bytes())
        at = data.rindex(name.encode()) - 46
        assert data[at : at + 4] == b"PK\x01\x02"
        data[at + offset : at + offset + len(value)] = value
        path.write_bytes(data)

    return change


def third_name() -> str:
    return picture(spoil(), "case2_day10", 3)


def append(name: str, content: bytes, mode: int = stat.S_IFREG | 0o644) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        member = zipfile.ZipInfo(name)
        member.external_attr = mode << 16
        with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(member, content)

    return change


def append_twice(path: Path) -> None:
    """A second train.csv, hidden behind the first one; Python itself only warns."""
    append("train.csx", b"id,class,segmentation\n")(path)
    path.write_bytes(path.read_bytes().replace(b"train.csx", b"train.csv"))


def link_third(path: Path) -> None:
    name = third_name()
    files = spoil()
    del files[name]
    with zipfile.ZipFile(path, "w") as archive:
        for one, content in files.items():
            archive.writestr(one, content)
    append(name, b"/etc/passwd", stat.S_IFLNK | 0o777)(path)


def damage_third(path: Path) -> None:
    """Change a byte of a stored member."""
    name, files = third_name(), spoil()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for one, content in files.items():
            archive.writestr(one, content)
    data = bytearray(path.read_bytes())
    data[data.index(files[name]) + 50] ^= 255
    path.write_bytes(data)


def nest(here: Path) -> None:
    zipped()(here)
    inner = (here / "source.zip").read_bytes()
    with zipfile.ZipFile(here / "source.zip", "w") as archive:
        archive.writestr("competition.zip", inner)


def bytes_of_zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w"):
        pass
    return out.getvalue()


def zip_entry(name: str, make, *message: str, remedy: str = AGAIN) -> BadInput:
    return BadInput(name=name, make=make, command=CONVERT, message=("source.zip", *message, remedy))


ARCHIVES = (
    zip_entry(
        "a text file as zip",
        write("source.zip", "hello"),
        "neither a folder nor a readable zip",
        remedy="Download the competition's zip again",
    ),
    zip_entry(
        "an empty file as zip",
        write("source.zip", b""),
        "neither a folder nor a readable zip",
        remedy="Download the competition's zip again",
    ),
    zip_entry(
        "a zip cut off",
        zipped(after=lambda p: p.write_bytes(p.read_bytes()[:-500])),
        "neither a folder nor a readable zip (File is not a zip file)",
        remedy="Download the competition's zip again",
    ),
    zip_entry(
        "a zip whose start is missing",
        zipped(after=lambda p: p.write_bytes(p.read_bytes()[2000:])),
        "cannot be read",
        remedy="download them again",
    ),
    zip_entry(
        "a zip of nothing",
        write("source.zip", bytes_of_zip()),
        "is not a source of the competition",
        remedy="expected the folder or zip of",
    ),
    zip_entry(
        "a zip in a zip",
        nest,
        "is not a source",
        "It holds the zip competition.zip",
        remedy="Unpack it and give that",
    ),
    zip_entry(
        "two sources in a zip",
        zipped(
            lambda f: f.update({f"b/{n}": d for n, d in f.items()}),
            rename("train", "a/train"),
            rename("sample", "a/sample"),
        ),
        "holds several sources (a/, b/)",
        remedy="Give one",
    ),
    zip_entry(
        "a member with an absolute path",
        zipped(add("/etc/train.csv")),
        "'/etc/train.csv': found a path that leads outside the zip",
    ),
    zip_entry(
        "members above the zip",
        zipped(rename("train/case2", "../train/case2")),
        "'../train/case2/",
        "found a path that leads outside the zip",
        "expected one below the zip's own root",
    ),
    zip_entry(
        "a member that climbs out",
        zipped(add("train/../../x")),
        "'train/../../x': found a path that leads outside",
    ),
    zip_entry(
        "a member on a drive",
        zipped(add("C:/train/x.png")),
        "'C:/train/x.png': found a path that leads outside",
    ),
    zip_entry(
        "a member that climbs out by backslashes",
        zipped(add("train\\..\\..\\x")),
        "found a path that leads outside",
    ),
    zip_entry(
        "a zip packed with backslashes",
        zipped(rename("train/", "train\\")),
        "train\\\\case",
        "found a path with backslashes",
        "expected / between folders",
    ),
    zip_entry(
        "a link in a zip",
        then(zipped(), lambda here: link_third(here / "source.zip")),
        THIRD,
        "found a symbolic link; expected the file itself",
    ),
    zip_entry(
        "an encrypted member",
        zipped(after=in_directory("train.csv", 8, b"\x01")),
        "'train.csv': found an encrypted file; expected a plain one",
    ),
    zip_entry(
        "a member twice",
        zipped(after=append_twice),
        "'train.csv': found it a second time; expected one file of a name",
    ),
    zip_entry(
        "members that differ in capitals",
        zipped(add("Train.CSV")),
        "'train.csv': found also 'Train.CSV'; expected one file of a name",
    ),
    zip_entry(
        "a packing that is not known",
        zipped(after=in_directory("train.csv", 10, b"\x63\x00")),
        "train.csv cannot be read",
        remedy="not supported",
    ),
    zip_entry(
        "a zip of a later version",
        zipped(after=in_directory("train.csv", 6, b"\xff")),
        "neither a folder nor a readable zip (zip file version",
        remedy="Download the",
    ),
    zip_entry(
        "a name that is no UTF-8",
        zipped(
            lambda f: f.update({"train/\xe9.txt": b""}),
            after=lambda p: p.write_bytes(p.read_bytes().replace(b"\xc3\xa9", b"\xe9\xff")),
        ),
        "neither a folder nor a readable zip",
        remedy="Download the",
    ),
    zip_entry(
        "a member with a wrong checksum",
        then(zipped(), lambda here: damage_third(here / "source.zip")),
        THIRD,
        "Bad CRC-32",
        remedy="download them again",
    ),
    zip_entry(
        "an image that unpacks to 200 MB",
        zipped(
            lambda files: files.update({third_name(): files[third_name()] + bytes(200_000_000)})
        ),
        THIRD,
        "found more than 67006 bytes",
        remedy="download them again",
    ),
    zip_entry(
        "a table that unpacks to 100 MB",
        zipped(with_table(lambda data: data + b"," * 100_000_000)),
        "train.csv: found 1000",
        "packed into",
        "expected a table of at most 1073741824 bytes",
        remedy="Download it again",
    ),
    zip_entry(
        "a table that says 4 GB",
        zipped(after=in_directory("train.csv", 24, struct.pack("<I", 2**32 - 2))),
        "train.csv: found 4294967294 bytes",
        remedy="Download it again",
    ),
    BadInput(
        name="images of more bytes than the disk has",
        make=zipped(),
        exit_code=5,
        command=CONVERT,
        patch=lambda monkeypatch: monkeypatch.setattr("shutil.disk_usage", lambda path: _Usage()),
        message=(
            "found 1000 bytes free; expected",
            "the size of the source's images",
            "Free some space",
        ),
    ),
    BadInput(
        name="a zip of other things besides: taken",
        exit_code=0,
        command=CONVERT,
        make=zipped(
            add("README.txt", "__MACOSX/train/._x"),
            after=append("notes/link", b"/etc", stat.S_IFLNK | 0o777),
        ),
        message=("Next: gi2nnunet train",),
    ),
    BadInput(
        name="a zip given as truth",
        make=then(folder(), zipped()),
        exit_code=3,
        command="score source/train.csv --truth source.zip",
        message=("source.zip: is not a UTF-8 CSV file: found a zip", "expected text", "Unpack it"),
    ),
)


class _Usage:
    free = 1000
