from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gi2nnunet.core.errors import InputError
from gi2nnunet.formats.volumes import write_volume
from gi2nnunet.source.check.check import PAIRS, check_source
from gi2nnunet.source.scan import SourceOptions
from tests.command_line import run_in_process, tree
from tests.source_factory import MadeSource, make_source, write_files, write_source, write_zip

SCANS = ("case2_day1", "case2_day10", "case7_day0", "case11_day3")


@pytest.fixture
def made() -> MadeSource:
    return make_source(SCANS, test_ids=("case12_day5",))


def test_the_report_counts_what_the_source_holds(made: MadeSource, tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", made)
    before = tree(source)
    found = check_source(source)
    assert tree(source) == before
    masks = np.stack([scan.masks.any(axis=(2, 3)) for scan in made.train])  # scan, organ, z
    assert found.kind == "folder"
    assert found.count_parts() == {
        "train": {
            "patients": 3, "scans": 4, "slices": 20, "labelled_slices": 20,
            "empty_slices": int((~masks.any(axis=1)).sum()),
        },
        "test": {
            "patients": 1, "scans": 1, "slices": 5, "labelled_slices": 0, "empty_slices": 0,
        },
    }  # fmt: skip
    assert found.count_geometries() == [
        ((5, 12, 16), (3.0, 1.5, 1.5), 3),
        ((5, 14, 13), (3.0, 1.25, 1.63), 2),
    ]
    assert found.count_days() == {1: 3, 2: 1}
    assert dict(found.known_bad) == {"case7_day0": "wrong masks"}
    # Five slices fall into every second tenth.
    for index, (organ, shares) in enumerate(found.measure_prevalence().items()):
        assert shares[1::2] == [None] * 5, organ
        assert shares[::2] == masks[:, index].mean(axis=0).tolist()
    pairs = zip(PAIRS, ((0, 1), (0, 2), (1, 2)), strict=True)
    for pair, (one, two) in pairs:
        both = [scan.masks[one] & scan.masks[two] for scan in made.train]
        slices = sum(int(mask.any(axis=(1, 2)).sum()) for mask in both)
        assert found.count_overlaps()[pair] == (sum(int(mask.sum()) for mask in both), slices)
    volumes = [scan.masks[2].sum() * 3 * np.prod(scan.spacing_xy) / 1000 for scan in made.train]
    assert found.measure_volumes()["stomach"] == pytest.approx(
        (4, min(volumes), np.median(volumes), max(volumes))
    )
    assert found.scans[0].intensity[3] == made.train[0].image[:, ::4, ::4].max()


def test_a_zip_and_any_number_of_workers_measure_the_same(made: MadeSource, tmp_path: Path) -> None:
    def measure(path: Path, jobs: int) -> dict[str, Any]:
        content = check_source(path, SourceOptions(jobs=jobs)).to_json()
        return {key: value for key, value in content.items() if key not in ("source", "kind")}

    folder = write_source(tmp_path / "source", made)
    packed = write_zip(tmp_path / "source.zip", made.files())
    assert measure(folder, 1) == measure(folder, 3) == measure(packed, 2)


def test_nifti_volumes_measure_as_the_slices_they_are(made: MadeSource, tmp_path: Path) -> None:
    folder = tmp_path / "volumes"
    for scan in made.train:
        spacing = (3.0, scan.spacing_xy[1], scan.spacing_xy[0])
        for name, array in (("images", scan.image), ("labels", scan.bits)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            path = folder / name / f"{scan.scan_id}.nii.gz"
            write_volume(path, array, spacing_mm=spacing)
    slices = check_source(write_source(tmp_path / "source", make_source(SCANS))).to_json()
    volumes = check_source(folder, SourceOptions(source_labels="regions")).to_json()
    assert volumes.pop("kind") == "nifti"
    assert "as asked for: regions" in volumes.pop("labels")[0]
    assert slices.pop("labels") == []
    del slices["source"], slices["kind"], volumes["source"]
    assert volumes == slices


def test_a_source_without_truth_has_no_masks(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", make_source((), test_ids=("case1_day0",)))
    found = check_source(source)
    assert found.masks == ()
    assert set(found.measure_volumes().values()) == {None}
    assert json.loads(json.dumps(found.to_json()))["parts"]["test"]["scans"] == 1


def test_unreadable_images_are_told_together(made: MadeSource, tmp_path: Path) -> None:
    files = made.files()
    for scan in made.train[:2]:
        files[scan.image_path(2)] = b""
    source = write_files(tmp_path / "source", files)
    with pytest.raises(InputError) as told:
        check_source(source)
    for scan in made.train[:2]:
        assert f"{scan.image_path(2)}: found an empty file" in str(told.value)


def test_the_command_prints_tables_or_json(
    made: MadeSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    write_source(tmp_path / "source", made)
    before = tree(tmp_path)
    code, out, _ = run_in_process(["check", "source"], monkeypatch=monkeypatch, capsys=capsys)
    assert code == 0
    for words in ("case7_day0", "wrong masks", "16 x 12 x 5", "large bowel with stomach"):
        assert words in out
    code, out, err = run_in_process(
        ["check", "source", "--json", "--jobs", "1"], monkeypatch=monkeypatch, capsys=capsys
    )
    assert code == 0
    assert json.loads(out) == {"format": 1, **check_source(Path("source")).to_json()}
    assert "measuring scans" in err
    assert tree(tmp_path) == before


def test_the_command_shows_the_first_suspects_and_all_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Noise for images: any slice may be exchanged with the next.
    source = write_source(tmp_path / "source", make_source(SCANS, shape=(60, 12, 16)))
    suspects = len(check_source(source).suspects)
    assert suspects > 30
    code, out, _ = run_in_process(["check", source], monkeypatch=monkeypatch, capsys=capsys)
    assert code == 0
    assert f"{suspects - 30} more with --all" in out
    code, out, _ = run_in_process(
        ["check", source, "--all"], monkeypatch=monkeypatch, capsys=capsys
    )
    assert "more with --all" not in out
    assert out.count("slice order") > 30


@pytest.mark.real
@pytest.mark.skipif(
    "GI2NNUNET_REAL_DATA" not in os.environ, reason="GI2NNUNET_REAL_DATA is not set"
)
def test_real_slices_are_in_order() -> None:
    home = Path(os.environ["GI2NNUNET_REAL_DATA"])
    found = check_source(home / "mini" if (home / "mini").is_dir() else home)
    assert [s for s in found.suspects if s.kind == "slice order"] == []
