from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gi2nnunet.phantom import Geometry, write_phantom
from gi2nnunet.rle import decode_mask, encode_mask
from gi2nnunet.scan_measures import ScanMeasures
from gi2nnunet.survey import check_source
from gi2nnunet.suspects import find_suspects

SIDE = 64


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "source"
    geometry = Geometry(width=SIDE, height=SIDE, slices=24, spacing_mm=(6, 6))
    write_phantom(folder, patients=8, days=4, geometries=[geometry], seed=1, jobs=2)
    return folder


@pytest.fixture(scope="module")
def measured(clean: Path) -> tuple[ScanMeasures, ...]:
    return check_source(clean, jobs=2).scans


def change_rows(source: Path, change: Callable[[str, int, str, np.ndarray], np.ndarray]) -> None:
    """Change masks: given scan, slice number, organ and mask, gives the mask to write."""
    table = source / "train.csv"
    with table.open() as file:
        rows = list(csv.reader(file))
    for row in rows[1:]:
        scan, _, number = row[0].rpartition("_slice_")
        mask = decode_mask(row[2], shape=(SIDE, SIDE))
        row[2] = encode_mask(change(scan, int(number), row[1], mask))
    table.write_text("".join(",".join(row) + "\n" for row in rows))


def test_nothing_is_suspect_in_a_clean_phantom(clean: Path) -> None:
    assert check_source(clean, jobs=2).suspects == ()


def test_planted_faults_are_found_where_they_are_and_nowhere_else(
    clean: Path, measured: tuple[ScanMeasures, ...], tmp_path: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(clean, source)
    swapped, jumped, displaced, shrunken, gone, foreign = (
        scan.scan_id for scan in measured[::3][:6]
    )
    middle = {
        scan.scan_id: int(np.flatnonzero(scan.masks.pixels[2]).mean().round()) + 1
        for scan in measured
        if scan.masks is not None
    }

    def plant(scan: str, number: int, organ: str, mask: np.ndarray) -> np.ndarray:
        if scan == jumped and organ == "stomach" and number == middle[scan]:
            return np.roll(mask, 15, axis=1)
        if scan == displaced and organ == "large_bowel":
            return np.roll(mask, 20, axis=0)
        if scan == shrunken and organ == "stomach" and number != middle[scan]:
            return np.zeros_like(mask)
        return np.zeros_like(mask) if scan == gone and organ == "small_bowel" else mask

    change_rows(source, plant)
    files = sorted(source.glob(f"train/*/{swapped}/scans/*.png"))
    first, second = files[10].read_bytes(), files[11].read_bytes()
    files[10].write_bytes(second)
    files[11].write_bytes(first)
    files = sorted(source.glob(f"train/*/{foreign}/scans/*.png"))
    files[12].write_bytes(files[2].read_bytes())

    found = {(s.kind, s.scan_id, s.slice_number, s.organ) for s in check_source(source).suspects}
    assert found >= {
        ("slice order", swapped, 11, None),
        ("slice order", foreign, 13, None),
        ("mask jump", jumped, middle[jumped], "stomach"),
        ("place", displaced, None, "large_bowel"),
        ("volume", shrunken, None, "stomach"),
        ("missing organ", gone, None, "small_bowel"),
    }
    assert {scan for _, scan, _, _ in found} <= {
        swapped, jumped, displaced, shrunken, gone, foreign,
    }  # fmt: skip
    assert len(found) <= 9


def test_a_day_whose_organs_lie_elsewhere_is_found(measured: tuple[ScanMeasures, ...]) -> None:
    index = next(
        i for i, scan in enumerate(measured)
        if sum(other.patient_id == scan.patient_id for other in measured) >= 3
    )  # fmt: skip
    odd = measured[index]
    assert odd.masks is not None
    moved = replace(odd.masks, centre=odd.masks.centre + np.array([0, 25.0, 25.0]))
    scans = [*measured[:index], replace(odd, masks=moved), *measured[index + 1 :]]
    days = [suspect for suspect in find_suspects(scans) if suspect.kind == "day"]
    assert [suspect.scan_id for suspect in days] == [odd.scan_id]
    assert "other days" in days[0].measured


def test_few_scans_have_no_usual_volume(measured: tuple[ScanMeasures, ...]) -> None:
    odd = measured[0]
    assert odd.masks is not None
    tiny = replace(odd, masks=replace(odd.masks, volume_ml=odd.masks.volume_ml / 1000))
    assert find_suspects([tiny, *measured[1:5]]) == ()
    assert {s.kind for s in find_suspects([tiny, *measured[1:]])} == {"volume"}


def test_one_slice_and_no_scan_give_no_suspect(measured: tuple[ScanMeasures, ...]) -> None:
    assert find_suspects(()) == ()
    nothing = np.full(1, np.nan)
    short = replace(
        measured[0], shape=(1, 8, 8), masks=None, next_correlation=nothing,
        second_correlation=nothing,
    )  # fmt: skip
    assert find_suspects([short]) == ()
