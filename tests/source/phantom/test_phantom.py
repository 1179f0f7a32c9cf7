"""The phantom: its layout, its seed, its anatomy."""

from __future__ import annotations

import csv
import gzip
import hashlib
from collections import Counter
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray

from gi2nnunet.core.errors import InputError, OutputError
from gi2nnunet.formats.ids import KNOWN_BAD_SCANS, ORGANS, day_of, patient_of
from gi2nnunet.formats.rle import decode_mask, encode_mask
from gi2nnunet.formats.tables import read_mask_table
from gi2nnunet.source.open import open_source
from gi2nnunet.source.phantom.anatomy import Tissue
from gi2nnunet.source.phantom.frame import Geometry
from gi2nnunet.source.phantom.scan import PhantomScan, draw_scan, paint_scan
from gi2nnunet.source.phantom.writing import (
    REAL_GEOMETRIES,
    paint_phantom,
    write_phantom,
    write_phantom_like,
)
from gi2nnunet.source.scan import Source

SMALL = Geometry(width=72, height=60, slices=20, spacing_mm=(4.5, 5.0))
OTHER = Geometry(width=64, height=64, slices=16, spacing_mm=(5.5, 5.5))


def tree_hash(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def decode_scan(index: Source, scan_id: str) -> NDArray[np.bool_]:
    scan = index.scans[scan_id]
    assert scan.rows is not None
    shape = scan.size
    return np.array(
        [
            [decode_mask(of_slice[organ], shape=shape) for of_slice in scan.rows]
            for organ in range(len(ORGANS))
        ]
    )


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return 2 * int((a & b).sum()) / int(a.sum() + b.sum())


def is_contiguous(mask: NDArray[np.bool_]) -> bool:
    slices = np.flatnonzero(mask.any(axis=(1, 2)))
    return len(slices) > 0 and len(slices) == slices[-1] - slices[0] + 1


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantom") / "source"
    write_phantom(
        out,
        patients=3,
        days=3,
        test_patients=2,
        geometries=[SMALL, OTHER],
        fill_sample=True,
        solution=out.parent / "truth.csv",
        seed=5,
    )
    return out


@pytest.fixture(scope="module")
def real_size() -> PhantomScan:
    return draw_scan("case11_day3", REAL_GEOMETRIES[0][0], seed=1)


def test_the_source_reads_back_without_a_warning(source: Path) -> None:
    index = open_source(source)
    assert index.warnings == ()
    days = Counter(patient_of(scan_id) for scan_id in index.scans_in("train"))
    assert len(days) == 3
    assert max(days.values()) == 3
    geometries = {
        (scan.size, scan.shape[0], scan.spacing_mm) for scan in index.scans_in("train").values()
    }
    assert geometries == {((60, 72), 20, (3.0, 4.5, 5.0)), ((64, 64), 16, (3.0, 5.5, 5.5))}
    assert not set(index.scans_in("train")) & set(KNOWN_BAD_SCANS)
    for scan in index.scans_in("train").values():
        assert scan.numbers[0] == 1
        image = imagecodecs.png_decode((source / scan.names[3]).read_bytes())
        assert image.dtype == np.uint16
        assert image.shape == scan.size
        assert image.max() > 100


def test_the_test_set_has_unseen_patients_and_one_later_day(source: Path) -> None:
    index = open_source(source)
    seen = {patient_of(scan_id) for scan_id in index.scans_in("train")}
    unseen = [scan_id for scan_id in index.scans_in("test") if patient_of(scan_id) not in seen]
    later = [scan for scan in index.scans_in("test").values() if scan.patient_id in seen]
    assert len(unseen) == 2
    assert len(later) == 1
    earlier = [
        day_of(scan.scan_id)
        for scan in index.scans_in("train").values()
        if scan.patient_id == later[0].patient_id
    ]
    assert len(earlier) == 3
    assert day_of(later[0].scan_id) > max(earlier)


def test_the_sample_lists_each_test_slice_three_times(source: Path) -> None:
    index = open_source(source)
    assert index.sample is not None
    found = {
        (index.sample.scan_ids[scan], number, organ)
        for scan, number, organ in zip(
            index.sample.scan.tolist(),
            index.sample.number.tolist(),
            index.sample.organ.tolist(),
            strict=True,
        )
    }
    assert found == {
        (scan.scan_id, number, organ)
        for scan in index.scans_in("test").values()
        for number in scan.numbers
        for organ in range(3)
    }
    assert len(index.sample) == len(found)
    assert set(index.sample.texts) == {""}


def test_the_truth_holds_the_test_masks(source: Path) -> None:
    index = open_source(source)
    table = read_mask_table(source.parent / "truth.csv", mask_column="segmentation")
    assert set(table.scan_ids) == set(index.scans_in("test"))
    assert table.height is not None
    assert table.width is not None
    sizes = {
        (table.scan_ids[scan], height, width)
        for scan, height, width in zip(
            table.scan.tolist(), table.height.tolist(), table.width.tolist(), strict=True
        )
    }
    assert sizes == {(scan.scan_id, *scan.size) for scan in index.scans_in("test").values()}
    for organ in range(3):
        texts = [table.texts[row] for row in np.flatnonzero(table.organ == organ)]
        assert any(texts)
    assert not (source / "truth.csv").exists()


def test_only_the_header_of_the_sample_by_default(tmp_path: Path) -> None:
    write_phantom(tmp_path / "out", patients=1, days=1, geometries=[OTHER])
    assert (tmp_path / "out/sample_submission.csv").read_bytes() == b"id,class,predicted\n"
    assert not (tmp_path / "out/test").exists()


def test_rows_are_canonical_and_the_scans_stand_in_no_order(tmp_path: Path) -> None:
    write_phantom(tmp_path / "out", patients=6, days=1, geometries=[OTHER], seed=2)
    table = read_mask_table(tmp_path / "out/train.csv", mask_column="segmentation")
    numbers = [int(patient_of(scan_id)[4:]) for scan_id in table.scan_ids]
    assert numbers != sorted(numbers)
    for text in filter(None, table.texts):
        assert encode_mask(decode_mask(text, shape=(64, 64))) == text


def test_the_same_seed_gives_the_same_bytes_in_one_process_and_in_two(tmp_path: Path) -> None:
    options = {"patients": 2, "days": 2, "test_patients": 1, "geometries": [OTHER]}
    calls: list[tuple[int, int, str]] = []
    write_phantom(tmp_path / "a", seed=7, jobs=1, **options)  # type: ignore[arg-type]
    write_phantom(
        tmp_path / "b",
        seed=7,
        jobs=2,
        progress=lambda *told: calls.append(told),
        **options,  # type: ignore[arg-type]
    )
    write_phantom(tmp_path / "c", seed=8, jobs=1, **options)  # type: ignore[arg-type]
    first, again, other = (tree_hash(tmp_path / name) for name in "abc")
    assert first == again
    assert not set(first.values()) & set(other.values()) - {first["sample_submission.csv"]}
    assert [done for done, _, _ in calls] == list(range(1, len(calls) + 1))
    assert {total for _, total, _ in calls} == {len(calls)}


def test_a_zip_holds_the_same_files(tmp_path: Path) -> None:
    options = {"patients": 1, "days": 1, "geometries": [OTHER], "seed": 3}
    write_phantom(tmp_path / "folder", **options)  # type: ignore[arg-type]
    write_phantom(tmp_path / "a.zip", as_zip=True, **options)  # type: ignore[arg-type]
    write_phantom(tmp_path / "b.zip", as_zip=True, **options)  # type: ignore[arg-type]
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    index = open_source(tmp_path / "a.zip")
    zipped = {
        name: hashlib.sha256(index.archive.read_bytes(name)).hexdigest()
        for name in index.archive.names()
    }
    assert zipped == tree_hash(tmp_path / "folder")


def test_more_scans_leave_the_others_as_they_are() -> None:
    first = draw_scan("case4_day1", OTHER, seed=1)
    draw_scan("case5_day1", OTHER, seed=1)
    again = draw_scan("case4_day1", OTHER, seed=1)
    for a, b in zip(first.render_slices(), again.render_slices(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_over_half_of_the_slices_are_empty_at_true_scale(real_size: PhantomScan) -> None:
    filled = real_size.masks.any(axis=(0, 2, 3))
    assert 0.5 < 1 - filled.mean() < 0.75
    assert is_contiguous(real_size.masks.any(axis=0))


def test_the_organs_have_a_human_size(real_size: PhantomScan) -> None:
    spacing_y, spacing_x = real_size.geometry.spacing_mm
    volumes_ml = real_size.masks.sum(axis=(1, 2, 3)) * spacing_y * spacing_x * 3 / 1000
    assert ((volumes_ml > 80) & (volumes_ml < 1100)).all(), volumes_ml


@pytest.mark.parametrize("detail", ["full", "easy"])
def test_each_organ_fills_one_stretch_of_slices(detail: str) -> None:
    for number in range(6):
        geometry = Geometry(width=80, height=80, slices=24 + 12 * number, spacing_mm=(5.0, 5.0))
        scan = draw_scan(f"case{number}_day0", geometry, detail=detail)  # type: ignore[arg-type]
        for organ, name in enumerate(ORGANS):
            assert is_contiguous(scan.masks[organ]), (number, name)


def test_some_organs_overlap_by_a_few_pixels() -> None:
    shared = filled = slices = shared_slices = 0
    for number in range(4):
        geometry = Geometry(width=160, height=160, slices=48, spacing_mm=(2.5, 2.5))
        count = draw_scan(f"case{number}_day2", geometry, seed=4).masks.sum(axis=0)
        shared += int((count > 1).sum())
        filled += int((count > 0).sum())
        slices += int((count > 0).any(axis=(1, 2)).sum())
        shared_slices += int((count > 1).any(axis=(1, 2)).sum())
    assert 0.0001 < shared / filled < 0.006
    assert 0.05 < shared_slices / slices < 0.6


def centroid(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the mean position as shares of (z, y, x)."""
    return np.argwhere(mask).mean(axis=0) / mask.shape


def test_the_body_lies_as_in_the_competition(real_size: PhantomScan) -> None:
    body = centroid(real_size.tissue != Tissue.AIR)
    liver = centroid(real_size.tissue == Tissue.LIVER)
    spleen = centroid(real_size.tissue == Tissue.SPLEEN)
    canal = centroid(real_size.tissue == Tissue.CANAL)
    lung = centroid(real_size.tissue == Tissue.LUNG)
    large, small, stomach = (centroid(mask) for mask in real_size.masks)
    # The patient's right is at the image's left.
    assert liver[2] < body[2] - 0.05
    assert spleen[2] > body[2] + 0.1
    assert stomach[2] > body[2]
    # Slice 0 is the most cranial.
    assert lung[0] < liver[0] < 0.5
    assert stomach[0] < min(large[0], small[0])
    # Row 0 is anterior.
    assert canal[1] > body[1] + 0.1
    assert max(large[1], small[1], stomach[1]) < canal[1]


def test_the_gut_lies_inside_the_body_and_outside_bone(real_size: PhantomScan) -> None:
    beneath = real_size.tissue[real_size.masks.any(axis=0)]
    allowed = {Tissue.VISCERAL_FAT, Tissue.LIVER, Tissue.SPLEEN}
    assert set(np.unique(beneath).tolist()) <= set(allowed)


def test_a_patients_days_resemble_each_other() -> None:
    geometry = Geometry(width=96, height=96, slices=48, spacing_mm=(4.0, 4.0))
    masks = {
        (number, day): draw_scan(f"case{number}_day{day}", geometry).masks
        for number in (1, 2, 3)
        for day in (0, 9)
    }
    for organ in (0, 2):
        same = [dice(masks[n, 0][organ], masks[n, 9][organ]) for n in (1, 2, 3)]
        other = [
            dice(masks[n, 0][organ], masks[m, 9][organ]) for n in (1, 2, 3) for m in (1, 2, 3)
            if n != m
        ]  # fmt: skip
        assert np.mean(same) > np.mean(other) + 0.1
        assert max(same) < 0.98


def test_scans_have_no_common_intensity_scale() -> None:
    brightest = [
        max(int(image.max()) for image in draw_scan(f"case1_day{day}", OTHER).render_slices())
        for day in range(8)
    ]
    assert max(brightest) > 2 * min(brightest)
    slices = [int(image.max()) for image in draw_scan("case1_day0", OTHER).render_slices()]
    assert len(set(slices)) > len(slices) // 2


def test_easy_organs_stand_out_from_what_surrounds_them() -> None:
    scan = draw_scan("case2_day1", OTHER, detail="easy", seed=1)
    image = np.array(list(scan.render_slices())).astype(float)
    count = scan.masks.sum(axis=0)
    means = [image[mask & (count == 1)].mean() for mask in scan.masks]
    around = image[(scan.tissue == Tissue.VISCERAL_FAT) & (count == 0)].mean()
    large, small, stomach = means
    assert large < 0.6 * around
    assert small > 1.2 * around
    assert stomach > 1.2 * small


def test_the_organs_can_be_seen_in_the_image(real_size: PhantomScan) -> None:
    image = np.array(list(real_size.render_slices())).astype(float)
    fat = image[(real_size.tissue == Tissue.VISCERAL_FAT) & ~real_size.visible.any(axis=0)].mean()
    for mask in real_size.masks:
        assert image[mask].mean() < 0.7 * fat


def test_real_geometries_are_drawn_by_default(tmp_path: Path) -> None:
    summary = write_phantom(tmp_path / "out", patients=1, days=1, detail="easy")
    scan = open_source(tmp_path / "out").scans[summary.train[0]]
    geometry = Geometry(
        width=scan.shape[2],
        height=scan.shape[1],
        slices=len(scan.numbers),
        spacing_mm=(scan.spacing_mm[1], scan.spacing_mm[2]),
    )
    assert geometry in {known for known, _ in REAL_GEOMETRIES}
    assert summary.slices == geometry.slices


def test_the_whole_body_fits_a_small_image() -> None:
    scan = draw_scan("case3_day0", Geometry(width=64, height=48, slices=12), seed=2)
    body = (scan.tissue != Tissue.AIR).any(axis=0)
    assert not body[[0, -1]].any()
    assert not body[:, [0, -1]].any()
    assert scan.masks.any(axis=(1, 2, 3)).all()


def test_an_output_that_holds_something_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        write_phantom(out, patients=1, days=1, geometries=[OTHER])
    with pytest.raises(InputError, match="exists already"):
        write_phantom(out / "mine.txt", patients=1, days=1, geometries=[OTHER], as_zip=True)
    assert tree_hash(tmp_path).keys() == {"out/mine.txt"}


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write_phantom(tmp_path / "out", patients=1, days=1, geometries=[OTHER])
    assert len(open_source(tmp_path / "out").scans) == 1


@pytest.mark.parametrize("as_zip", [False, True])
def test_nothing_is_left_of_an_interrupted_run(tmp_path: Path, as_zip: bool) -> None:
    def stop(done: int, total: int, what: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_phantom(
            tmp_path / "out", patients=1, days=1, geometries=[OTHER], as_zip=as_zip, progress=stop
        )
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write_phantom(tmp_path / "file/out", patients=1, days=1, geometries=[OTHER])


def test_numbers_out_of_range_are_told_together(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"patients: found 0[^\0]*jobs: found 0"):
        write_phantom(tmp_path / "out", patients=0, jobs=0)
    with pytest.raises(InputError, match="days: found 400"):
        write_phantom(tmp_path / "out", days=400)
    with pytest.raises(InputError, match="geometry: found"):
        write_phantom(tmp_path / "out", geometries=[Geometry(width=4, height=64, slices=3)])
    assert list(tmp_path.iterdir()) == []


# --- like a listing --------------------------------------------------------------------------


def write_sizes(path: Path, scans: dict[str, tuple[Geometry, int, str]]) -> Path:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "width", "height", "px_w", "px_h", "relpath"])
        for scan_id, (geometry, first, part) in scans.items():
            for number in range(first, first + geometry.slices):
                name = f"{scan_id}_slice_{number:04d}"
                spacing_y, spacing_x = geometry.spacing_mm
                rows.writerow(
                    [name, geometry.width, geometry.height, spacing_x, spacing_y, f"{part}/{name}"]
                )
    return path


def test_a_listing_decides_ids_sizes_and_numbers(tmp_path: Path) -> None:
    sizes = write_sizes(
        tmp_path / "sizes.csv.gz",
        {"case9_day2": (SMALL, 1, "train"), "case9_day11": (OTHER, 1, "test")},
    )
    write_phantom_like(tmp_path / "out", sizes=sizes)
    index = open_source(tmp_path / "out")
    assert list(index.scans_in("train")) == ["case9_day2"]
    assert list(index.scans_in("test")) == ["case9_day11"]
    assert index.scans["case9_day2"].shape == (20, 60, 72)
    assert index.scans["case9_day2"].spacing_mm == (3.0, 4.5, 5.0)
    # Another source's names are a listing too, and give the same phantom.
    write_phantom_like(tmp_path / "again", sizes=tmp_path / "out")
    assert tree_hash(tmp_path / "again") == tree_hash(tmp_path / "out")


def test_a_listing_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    sizes = tmp_path / "sizes.csv"
    sizes.write_text(
        "id,width,height,px_w,px_h\n"
        "case1_day1_slice_0001,64,64,1.5,1.5\n"
        "case1_day1_slice_0002,64,60,1.5,1.5\n"
        "case2_day1_slice_0001,64,64,1.5,1.5\n"
        "case2_day1_slice_0003,64,64,1.5,1.5\n"
    )
    with pytest.raises(InputError, match=r"line 3[^\0]*case2_day1: found 2 slices from 1 to 3"):
        write_phantom_like(tmp_path / "out", sizes=sizes)
    sizes.write_text(
        "id,width,height,px_w,px_h\nx,64,64,1.5,1.5\ncase1_day1_slice_0001,0,64,1.5,1\n"
    )
    with pytest.raises(InputError, match=r"line 2: found id 'x'[^\0]*line 3: found size 0"):
        write_phantom_like(tmp_path / "out", sizes=sizes)
    sizes.write_text("id,width\n")
    with pytest.raises(InputError, match="expected id, width, height"):
        write_phantom_like(tmp_path / "out", sizes=sizes)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="lists no slice"):
        write_phantom_like(tmp_path / "out", sizes=tmp_path / "empty")


# --- painted onto given masks ----------------------------------------------------------------


def write_labels(path: Path, *, shape: tuple[int, int], numbers: range) -> list[list[str]]:
    """Write rows of two scans whose slices stand in reverse."""
    generator = np.random.default_rng(3)
    rows = [["id", "class", "segmentation"]]
    for scan_id in ("case20_day3", "case3_day20"):
        for number in reversed(numbers):
            for organ in ORGANS:
                mask = np.zeros(shape, np.bool_)
                y, x = generator.integers(8, 30, 2)
                mask[y : y + 9, x : x + 12] = generator.uniform() < 0.7
                rows.append([f"{scan_id}_slice_{number:04d}", organ, encode_mask(mask)])
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    return rows


def test_painting_keeps_the_given_rows_and_their_order(tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    write_labels(labels, shape=(60, 72), numbers=range(4, 12))
    sizes = write_sizes(
        tmp_path / "sizes.csv",
        {f"case{name}": (SMALL, 1, "train") for name in ("3_day20", "20_day3", "5_day5")},
    )
    summary = paint_phantom(tmp_path / "out", masks=labels, sizes=sizes)
    assert (tmp_path / "out/train.csv").read_bytes() == labels.read_bytes()
    assert summary.train == ("case3_day20", "case20_day3")
    index = open_source(tmp_path / "out")
    assert index.scans["case3_day20"].numbers == tuple(range(4, 12))
    assert decode_scan(index, "case3_day20").any()


def test_painted_masks_lie_inside_the_body_and_show_in_the_image() -> None:
    geometry = Geometry(width=120, height=110, slices=30, spacing_mm=(3.0, 3.0))
    masks = np.zeros((3, 30, 110, 120), np.bool_)
    masks[0, 8:20, 30:40, 12:110] = True
    masks[1, 10:20, 42:55, 40:70] = True
    masks[2, 5:12, 32:50, 66:90] = True
    scan = paint_scan("case1_day1", geometry, masks)
    np.testing.assert_array_equal(scan.masks, masks)
    assert (scan.tissue[masks.any(axis=0)] > Tissue.FAT).all()
    image = np.array(list(scan.render_slices())).astype(float)
    fat = image[(scan.tissue == Tissue.VISCERAL_FAT) & ~masks.any(axis=0)].mean()
    for mask in masks:
        assert image[mask].mean() < 0.7 * fat


def test_rows_that_cannot_be_painted_are_refused(tmp_path: Path) -> None:
    sizes = write_sizes(tmp_path / "sizes.csv", {"case1_day1": (OTHER, 1, "train")})
    labels = tmp_path / "labels.csv"

    def rows(*texts: str, name: str = "case1_day1_slice_0001") -> str:
        return "id,class,segmentation\n" + "".join(
            f"{name},{organ},{text}\n" for organ, text in zip(ORGANS, texts, strict=False)
        )

    for content, message in (
        (rows("1 2", "", "", name="case7_day1_slice_0001"), "slice of unknown size"),
        (rows("1 2", "", "", name="case1_day1_slice_0099"), "slice of unknown size"),
        (rows("1 2", ""), "found 2 of 3 rows"),
        (rows("1 2 3", "", ""), r"line 2 .*large_bowel.*found RLE '1 2 3'"),
        (rows("4096 2", "", ""), "4096"),
        (rows(), "holds no row"),
    ):
        labels.write_text(content)
        with pytest.raises(InputError, match=message):
            paint_phantom(tmp_path / "out", masks=labels, sizes=sizes)
    assert not (tmp_path / "out").exists()


@pytest.mark.real
def test_real_masks_are_painted_and_their_rows_kept(tmp_path: Path, real_data: Path) -> None:
    with gzip.open(real_data / "train_rows.csv.gz", "rt", newline="") as file:
        lines = file.readlines()
    name = lines[1].partition("_slice_")[0] + "_"
    chosen = [lines[0], *(line for line in lines[1:] if line.startswith(name))]
    labels = tmp_path / "labels.csv"
    labels.write_text("".join(chosen), newline="")
    paint_phantom(tmp_path / "out", masks=labels, sizes=real_data / "slices.csv.gz")
    assert (tmp_path / "out/train.csv").read_bytes() == "".join(chosen).encode()
    index = open_source(tmp_path / "out")
    assert index.warnings == ()
    scan_id = name.removesuffix("_")
    masks = decode_scan(index, scan_id)
    image = np.array(
        [
            imagecodecs.png_decode((tmp_path / "out" / path).read_bytes())
            for path in index.scans[scan_id].names
        ]
    ).astype(float)
    assert masks.any()
    assert np.median(image[masks.any(axis=0)]) > 0
