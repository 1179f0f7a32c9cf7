"""Images that are damaged, of another kind, or not what their name says."""

from __future__ import annotations

import os
from pathlib import Path

import imagecodecs
import numpy as np

from tests.bad_inputs.entry import BadInput
from tests.bad_inputs.making import (
    THIRD,
    folder,
    picture,
    png_chunk,
    recode,
    spoil,
    with_picture,
    write_png,
)
from tests.source_factory import write_files

CONVERT = "convert source --jobs 1"


def replace_third(make_anew):
    """Write a source without the third slice of case2_day10, then make that in another way."""

    def make(here: Path) -> None:
        files = spoil()
        name = picture(files, "case2_day10", 3)
        del files[name]
        write_files(here / "source", files)
        make_anew(here / "source" / name)

    return make


def palette(data: bytes) -> bytes:
    pixels = np.zeros((14, 13), np.uint8)
    return write_png(pixels, bits=8, colour=3, extra=png_chunk(b"PLTE", bytes(768)))


def third(name: str, change, *message: str) -> BadInput:
    """An entry for a bad image in the place of the third slice of case2_day10."""
    return BadInput(
        name=name,
        make=folder(with_picture(change)),
        command=CONVERT,
        message=(THIRD, *message, "download them again"),
    )


def of_third(change):
    """A change of the image's pixels."""
    return lambda data: change(imagecodecs.png_decode(data))


EXPECTED = "expected a greyscale PNG of 13 x 14 pixels, 16 bits each"
IMAGES = (
    third("an empty image", lambda data: b"", "found an empty file", EXPECTED),
    third(
        "an image cut off", lambda data: data[:-30], "found a truncated or damaged PNG", EXPECTED
    ),
    third("an image of its first bytes", lambda data: data[:20], "found no PNG, or only its first"),
    third(
        "an image with a wrong checksum",
        lambda data: data[:60] + bytes([data[60] ^ 255]) + data[61:],
        "found a truncated or damaged",
    ),
    third("an image of zero bytes only", lambda data: bytes(len(data)), "found no PNG", EXPECTED),
    third(
        "a JPEG named .png", lambda data: b"\xff\xd8\xff\xe0" + data, "found a JPEG file", EXPECTED
    ),
    third("a web page named .png", lambda data: b"<!DOCTYPE html><p>404", "found a web page"),
    third(
        "a Git LFS pointer",
        lambda data: b"version https://git-lfs.github.com/spec/v1\n",
        "found a Git LFS pointer",
    ),
    third(
        "a colour image",
        of_third(lambda p: imagecodecs.png_encode(np.stack([p] * 3, axis=-1))),
        "found 13 x 14 pixels, RGB, 16 bits",
        EXPECTED,
    ),
    third(
        "an image with transparency",
        of_third(lambda p: imagecodecs.png_encode(np.stack([p] * 2, axis=-1))),
        "found 13 x 14 pixels, greyscale with alpha, 16 bits",
    ),
    third("an image with a palette", palette, "found 13 x 14 pixels, palette, 8 bits", EXPECTED),
    third(
        "an image of one bit",
        lambda data: write_png(np.zeros((14, 2), np.uint8), bits=1, size=(13, 14)),
        "found 13 x 14 pixels, greyscale, 1 bits",
        EXPECTED,
    ),
    third(
        "an image of another size than its name",
        of_third(lambda p: imagecodecs.png_encode(p[:, :-1].copy())),
        "found 12 x 14 pixels",
        EXPECTED,
    ),
    third(
        "a transposed image",
        of_third(lambda p: imagecodecs.png_encode(p.T.copy())),
        "found 14 x 13 pixels",
        EXPECTED,
    ),
    third(
        "an image that says 1 x 1",
        of_third(lambda p: write_png(p, size=(1, 1))),
        "found 1 x 1 pixels",
        EXPECTED,
    ),
    third(
        "an image that says 65535 x 65535",
        of_third(lambda p: write_png(p, size=(65535, 65535))),
        "found 65535 x 65535 pixels",
        EXPECTED,
    ),
    third(
        "an image with less than it says",
        of_third(lambda p: write_png(p[:5], size=(13, 14))),
        "found a truncated or damaged PNG",
        EXPECTED,
    ),
    third(
        "an image of 50 MB",
        lambda data: data + bytes(50_000_000),
        "found more than 67006 bytes, which is more than so many pixels can need",
        EXPECTED,
    ),
    BadInput(
        name="a pipe for an image",
        make=replace_third(os.mkfifo),
        command=CONVERT,
        message=(THIRD, "is not a regular file; expected one", "download them again"),
    ),
    BadInput(
        name="a link to nowhere for an image",
        command=CONVERT,
        make=replace_third(lambda path: path.symlink_to("gone.png")),
        message=(THIRD, "found a link that leads nowhere", "expected a file", "Restore it"),
    ),
    BadInput(
        name="a link to itself for an image",
        command=CONVERT,
        make=replace_third(lambda path: path.symlink_to(path.name)),
        message=(THIRD, "Too many levels of symbolic links", "expected a file", "Restore it"),
    ),
    BadInput(
        name="an image cut off in a source that is checked",
        command="check source --jobs 1",
        make=folder(with_picture(lambda data: data[:-30])),
        message=(THIRD, "found a truncated or damaged PNG", EXPECTED, "or download it again"),
    ),
    BadInput(
        name="a folder for an image",
        command=CONVERT,
        make=replace_third(lambda path: path.mkdir()),
        message=("case2_day10_slice_0003: found rows without an image", "expected a PNG"),
    ),
    BadInput(
        name="an image of 8 bits: taken, with a warning",
        command=CONVERT,
        exit_code=0,
        make=folder(recode(lambda pixels: (pixels >> 8).astype(np.uint8))),
        message=("Warning: 8-bit slices in case2_day10", "values are taken as they are"),
    ),
    BadInput(
        name="an interlaced image: taken",
        command=CONVERT,
        exit_code=0,
        make=folder(with_picture(of_third(lambda p: write_png(p, interlaced=True)))),
        message=("Next: gi2nnunet train",),
    ),
)
