import imagecodecs
import numpy as np
import pytest

from gi2nnunet.core.errors import InputError
from gi2nnunet.source.open import open_source
from tests.source_factory import (
    MadeSource,
    make_scan,
    make_source,
    write_files,
    write_source,
    write_zip,
)


@pytest.mark.parametrize("zipped", [False, True])
def test_images_and_labels_are_what_the_source_was_made_of(tmp_path, zipped):
    made = make_source()
    files = made.files()
    path = (
        write_zip(tmp_path / "a.zip", files, prefix="uw/")
        if zipped
        else write_files(tmp_path / "a", files)
    )
    for scan_id, scan in open_source(path).scans.items():
        truth = made.truth[scan_id]
        loaded = scan.read()
        assert loaded.image.dtype == np.uint16
        np.testing.assert_array_equal(loaded.image, truth.image)
        np.testing.assert_array_equal(loaded.label_map, truth.bits)
        assert (truth.bits == 3).any()  # overlaps are there to be lost
        assert scan.spacing_mm == (3.0, truth.spacing_xy[1], truth.spacing_xy[0])


def read_with(tmp_path, *, content):
    """Read a scan of which slice 3 is replaced."""
    scan = make_scan("case1_day1")
    made = MadeSource(train=(), test=(scan,))
    path = write_files(tmp_path / "s", {**made.files(), scan.image_path(2, "test"): content})
    return open_source(path).scans[scan.scan_id].read().image, scan


def png(pixels, **options):
    return imagecodecs.png_encode(pixels, **options)


GREY = np.arange(12 * 16, dtype=np.uint16).reshape(12, 16) * 300


def test_interlaced_and_differently_compressed_pngs_are_read(tmp_path):
    image, scan = read_with(tmp_path, content=png(GREY, level=9))
    np.testing.assert_array_equal(image[2], GREY)
    np.testing.assert_array_equal(np.delete(image, 2, 0), np.delete(scan.image, 2, 0))


def test_an_adam7_interlaced_png_is_read(tmp_path):
    image, _ = read_with(tmp_path, content=interlaced(GREY))
    np.testing.assert_array_equal(image[2], GREY)


def interlaced(pixels):
    """An Adam7 PNG by hand: seven passes, no filter."""
    import struct
    import zlib

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    height, width = pixels.shape
    passes = [
        (0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4),
        (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1),
    ]  # fmt: skip
    raw = b"".join(
        b"\0" + row.astype(">u2").tobytes()
        for top, left, down, right in passes
        for row in pixels[top::down, left::right]
        if row.size
    )
    head = struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 1)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(raw))
        + chunk(b"IEND", b"")
    )


def test_eight_bit_slices_are_taken_and_counted(tmp_path):
    scan = make_scan("case1_day1")
    grey = (GREY // 300).astype(np.uint8)
    made = MadeSource(train=(), test=(scan,))
    replaced = {scan.image_path(z, "test"): png(grey) for z in (0, 2)}
    source = open_source(write_files(tmp_path / "s", {**made.files(), **replaced}))
    loaded = source.scans["case1_day1"].read()
    np.testing.assert_array_equal(loaded.image[2], grey)
    assert loaded.eight_bit == 2


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "an empty file"),
        (b"GIF89a" + bytes(50), "a GIF file"),
        (png(GREY)[:20], "no PNG, or only its first bytes"),
        (png(GREY)[:60], "a truncated or damaged PNG"),
        (png(GREY)[:-14], "a truncated or damaged PNG"),
        (png(GREY)[:80] + b"\xff\xff\xff\xff" + png(GREY)[84:], "a truncated or damaged PNG"),
        (png(np.zeros((12, 16, 3), np.uint8)), "16 x 12 pixels, RGB, 8 bits"),
        (png(np.zeros((12, 16, 4), np.uint16)), "16 x 12 pixels, RGBA, 16 bits"),
        (png(np.zeros((12, 16, 2), np.uint16)), "greyscale with alpha"),
        (png(GREY.T.copy()), "12 x 16 pixels, greyscale, 16 bits"),
        (png(GREY[:-1].copy()), "16 x 11 pixels"),
    ],
)
def test_bad_pngs_are_told_by_file(tmp_path, content, found):
    with pytest.raises(InputError) as error:
        read_with(tmp_path, content=content)
    message = str(error.value)
    assert "case1_day1/scans/slice_0003_16_12_1.50_1.50.png" in message
    assert found in message
    assert "expected a greyscale PNG of 16 x 12 pixels" in message
    assert error.value.exit_code == 3


def test_all_bad_pngs_of_a_scan_are_told_together(tmp_path):
    scan = make_scan("case1_day1")
    made = MadeSource(train=(), test=(scan,))
    replaced = {scan.image_path(z, "test"): b"" for z in (0, 3)}
    source = open_source(write_files(tmp_path / "s", {**made.files(), **replaced}))
    (tmp_path / "s" / scan.image_path(4, "test")).unlink()
    with pytest.raises(InputError) as error:
        source.scans["case1_day1"].read()
    for number in (1, 4, 5):
        assert f"slice_000{number}_" in str(error.value)


def test_bad_rle_is_told_by_slice_and_organ(tmp_path):
    made = make_source()
    bad = {
        ("case2_day1_slice_0001", "stomach"): ("1 2 3", "pairs"),
        ("case2_day1_slice_0002", "stomach"): ("0 2", "at least 1"),
        ("case2_day1_slice_0002", "large_bowel"): ("5 -2", "digits"),
        ("case2_day1_slice_0003", "large_bowel"): ("one two", "digits"),
        ("case2_day1_slice_0003", "stomach"): ("9 2 3 2", "ascending"),
        ("case2_day1_slice_0004", "stomach"): ("3 5 4 1", "overlap"),
        ("case2_day1_slice_0005", "stomach"): ("190 4", "pixel 192"),
    }
    rows = tuple((i, o, bad.get((i, o), (t,))[0]) for i, o, t in made.rows)
    path = write_source(tmp_path, MadeSource(train=made.train, rows=rows))
    with pytest.raises(InputError) as error:
        open_source(path).scans["case2_day1"].read()
    lines = str(error.value).splitlines()
    assert len(lines) == len(bad) + 1
    for (slice_id, organ), (text, expected) in bad.items():
        line = next(line for line in lines if slice_id in line and organ in line)
        assert repr(text) in line
        assert expected in line


def test_a_scan_without_truth_has_no_label_map(tmp_path):
    made = make_source(["case1_day0"], test_ids=["case5_day0"])
    scan = open_source(write_source(tmp_path, made)).scans["case5_day0"]
    assert scan.read().label_map is None
    with pytest.raises(ValueError, match="no truth"):
        scan.load_labels()
