"""Folders that are no whole source."""

from __future__ import annotations

import os
from pathlib import Path

from tests.bad_inputs.entry import BadInput
from tests.bad_inputs.making import (
    THIRD,
    Files,
    edit_rows,
    folder,
    picture,
    spoil,
    then,
    with_picture,
    without_rows,
    write,
)
from tests.source_factory import make_source, write_files

CONVERT = "convert source --jobs 1"


def drop_everything(files: Files) -> None:
    files.clear()
    files["notes.txt"] = b"hello"


def drop_images(files: Files) -> None:
    for name in [name for name in files if name.endswith(".png")]:
        del files[name]
    files["train.csv"] = b"id,class,segmentation\n"


def resize_scan(width: int, height: int):
    """Let the names of a whole scan's images tell another size."""

    def change(files: Files) -> None:
        for name in [n for n in files if "case2_day10/scans" in n]:
            files[name.replace("_13_14_", f"_{width}_{height}_")] = files.pop(name)

    return change


def put_link(name: str, target: str):
    def make(here: Path) -> None:
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).symlink_to(target)

    return make


def link_outside(here: Path) -> None:
    write_files(here / "elsewhere", spoil())
    (here / "source").mkdir()
    for name in ("train", "train.csv"):
        (here / "source" / name).symlink_to(here / "elsewhere" / name)


def link_in_circles(here: Path) -> None:
    """Two links into each folder above: 2 to the power of 40 ways to walk."""
    write_files(here / "source", spoil())
    for place in ("train", "train/case2", "train/case2/case2_day1"):
        (here / "source" / place / "up").symlink_to(here / "source")
        (here / "source" / place / "again").symlink_to(here / "source" / "train")


SOURCES = (
    BadInput(
        name="no such source",
        command="convert nowhere",
        message=("nowhere: no such file or folder", "Give the competition's folder"),
    ),
    BadInput(
        name="a source's name that is too long",
        command=f"convert {'x' * 5000}",
        message=("cannot be read (File name too long)", "Check its name", "5000 characters"),
    ),
    BadInput(
        name="a link to itself as source",
        make=put_link("source", "source"),
        command=CONVERT,
        message=("source: cannot be read (Too many levels of symbolic links)", "Check its"),
    ),
    BadInput(
        name="a link to nowhere as source",
        make=put_link("source", "gone"),
        command=CONVERT,
        message=("source: no such file or folder", "Give the competition's folder"),
    ),
    BadInput(
        name="a device as source",
        command="convert /dev/null",
        message=("/dev/null: found a device; expected a folder or a zip", "Give the"),
    ),
    BadInput(
        name="a pipe as source",
        make=lambda here: os.mkfifo(here / "source"),
        command=CONVERT,
        message=("source: found a pipe; expected a folder or a zip", "Give the"),
    ),
    BadInput(
        name="an empty folder",
        make=lambda here: (here / "source").mkdir(),
        command=CONVERT,
        message=("source: is not a source of the competition", "Found no train.csv"),
    ),
    BadInput(
        name="a folder of something else",
        make=folder(drop_everything),
        command=CONVERT,
        message=("source: is not a source", "expected the folder or zip"),
    ),
    BadInput(
        name="a folder that holds the zip",
        command=CONVERT,
        make=write("source/download.zip", b"PK"),
        message=("source: is not a source", "holds the zip download.zip", "Give that zip"),
    ),
    BadInput(
        name="a folder of two sources",
        command=CONVERT,
        make=lambda here: [write_files(here / "source" / n, spoil()) for n in "ab"],
        message=("source: holds several sources (a/, b/)", "Give one"),
    ),
    BadInput(
        name="no train.csv",
        make=folder(lambda files: files.pop("train.csv")),
        command=CONVERT,
        message=("source: has a train/ folder but no train.csv", "Put the competition's train.csv"),
    ),
    BadInput(
        name="a folder named train.csv",
        command=CONVERT,
        make=then(folder(lambda files: files.pop("train.csv")), write("source/train.csv/x", "")),
        message=("source: has a train/ folder but no train.csv", "Put the"),
    ),
    BadInput(
        name="no image at all",
        make=folder(drop_images),
        command=CONVERT,
        message=("source: holds no slice image", "Expected files such as train/case123/"),
    ),
    BadInput(
        name="a row without image",
        make=folder(with_picture(lambda data: None)),
        command=CONVERT,
        message=(
            "source/train.csv, case2_day10_slice_0003: found rows without an image",
            "expected a PNG for every row",
            "--allow-missing",
        ),
    ),
    BadInput(
        name="an image without row",
        make=folder(without_rows("case2_day10_slice_0003")),
        command=CONVERT,
        message=(
            f"train/case2/{THIRD}",
            "found an image without rows",
            "expected 3 rows in",
            "--allow-missing",
        ),
    ),
    BadInput(
        name="one row of three",
        command=CONVERT,
        make=folder(edit_rows(lambda rows: [rows[0], *rows[2:]])),
        message=("source/train.csv, case10_day0_slice_0002: found 2 of 3 rows", "--allow-missing"),
    ),
    BadInput(
        name="a gap in the slices",
        command=CONVERT,
        make=folder(with_picture(lambda data: None), without_rows("case2_day10_slice_0003")),
        message=(
            "source, train, case2_day10: found no slice 3",
            "expected every slice from 1 to 5",
            "Correct these in",
        ),
    ),
    BadInput(
        name="a gap of a thousand million slices",
        command=CONVERT,
        make=folder(
            with_picture(name=lambda name: name.replace("slice_0003", "slice_999999999")),
            edit_rows(
                lambda rows: [
                    row.replace("case2_day10_slice_0003", "case2_day10_slice_999999999")
                    for row in rows
                ]
            ),
        ),
        message=(
            "case2_day10: found no slice 3, 6, 7,",
            "and 999999984 more",
            "expected every slice from 1 to 999999999",
            "Correct these in",
        ),
    ),
    BadInput(
        name="a slice twice under two names",
        command=CONVERT,
        make=folder(
            lambda files: files.update(
                {picture(files, "case2_day10", 3).replace("_0003_", "_00003_"): b""}
            )
        ),
        message=(
            "found slice 3 a second time (also train/case2/",
            "expected one image a slice",
            "Correct these in",
        ),
    ),
    BadInput(
        name="images in two spellings",
        command=CONVERT,
        make=folder(
            lambda files: files.update(
                {picture(files, "case2_day10", 3).replace("scans", "Scans"): b""}
            )
        ),
        message=("Scans/slice_0003", "expected one file of a name", "Download"),
    ),
    BadInput(
        name="an image of another path",
        command=CONVERT,
        make=folder(with_picture(name=lambda name: name.replace("/scans/", "/slices/"))),
        message=(
            "case2_day10/slices/slice_0003",
            "found a PNG with this path",
            "expected case1/case1_day2/scans/slice_0003_266_266_1.50_1.50.png",
        ),
    ),
    BadInput(
        name="a file name that moves the cursor",
        command=CONVERT,
        make=folder(lambda files: files.update({"train/\x1b[2Jx\u202e.png": b""})),
        message=("train/\\x1b[2Jx\\u202e.png: found a PNG with this path", "expected case1/"),
    ),
    BadInput(
        name="a scan in train and in test",
        command=CONVERT,
        make=folder(
            lambda files: files.update(
                {
                    "test" + name[5:]: data
                    for name, data in list(files.items())
                    if "case2_day1/" in name
                }
            )
        ),
        message=(
            "found case2_day1 in train/ and in test/",
            "expected each scan once",
            "Remove one",
        ),
    ),
    BadInput(
        name="a slice of another size",
        command=CONVERT,
        make=folder(with_picture(name=lambda name: name.replace("_13_14_", "_14_13_"))),
        message=(
            "case2_day10/scans/slice_0003_14_13_",
            "found 14 x 13 at",
            "expected 13 x 14 at",
            "Correct these in",
        ),
    ),
    BadInput(
        name="a slice of another spacing",
        command=CONVERT,
        make=folder(with_picture(name=lambda name: name.replace("_1.63_", "_1.50_"))),
        message=(
            "slice_0003_13_14_1.50_1.25.png: found 13 x 14 at (1.25, 1.5) mm",
            "expected 13 x 14 at (1.25, 1.63) mm",
            "Correct these in",
        ),
    ),
    BadInput(
        name="a size of zero",
        make=folder(resize_scan(0, 14)),
        command=CONVERT,
        message=(
            "slice_0001_0_14_1.63_1.25.png: found a size or spacing of zero",
            "expected positive numbers",
        ),
    ),
    BadInput(
        name="names that tell 65535 x 65535 pixels",
        make=folder(resize_scan(65535, 65535)),
        command=CONVERT,
        message=(
            "slice_0001_65535_65535",
            "found 5 slices of 65535 x 65535 pixels",
            "expected at most 4096 each way",
            "Correct these in",
        ),
    ),
    BadInput(
        name="known bad scans alone",
        command=CONVERT,
        make=lambda here: write_files(here / "source", make_source(["case7_day0"]).files()),
        message=(
            "source: every scan is left out: case7_day0 (wrong masks)",
            "--keep-known-bad",
        ),
    ),
    BadInput(
        name="a disk that is too small",
        make=folder(),
        command=CONVERT,
        exit_code=5,
        patch=lambda monkeypatch: monkeypatch.setattr(
            "shutil.disk_usage", lambda path: os.terminal_size((0, 7)) and _Usage()
        ),
        message=("found 7 bytes free; expected", "Free some space", "--workspace"),
    ),
    BadInput(
        name="links to data elsewhere: followed",
        make=link_outside,
        command=CONVERT,
        exit_code=0,
        message=("Next: gi2nnunet train",),
    ),
    BadInput(
        name="links in circles: passed over",
        make=link_in_circles,
        command=CONVERT,
        exit_code=0,
        message=("Next: gi2nnunet train",),
    ),
)


class _Usage:
    free = 7
