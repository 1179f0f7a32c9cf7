"""What every kind of source gives, one test for all kinds; a further kind needs no other module."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from pydicom.dataset import Dataset

from gi2nnunet.core.errors import InputError
from gi2nnunet.core.files import is_stray
from gi2nnunet.dataset.workspace import open_workspace
from gi2nnunet.formats.coding import CODINGS
from gi2nnunet.formats.dicom_series import read_series
from gi2nnunet.formats.ids import ORGANS, LabelScheme
from gi2nnunet.formats.labels import to_exclusive
from gi2nnunet.formats.rtstruct import write_rtstruct
from gi2nnunet.formats.seg import write_seg
from gi2nnunet.formats.volumes import encode_volume, read_volume, write_volume
from gi2nnunet.nnunet.models import Ensemble
from gi2nnunet.prediction.choose import select_source
from gi2nnunet.source import competition, nifti
from gi2nnunet.source import open as opening
from gi2nnunet.source.archive import Archive
from gi2nnunet.source.check.check import check_source
from gi2nnunet.source.open import open_source, scan_from_json
from gi2nnunet.source.scan import LoadedScan, Scan, Source, SourceOptions
from tests.converting import convert
from tests.dicom_factory import SeriesPlan, write_series
from tests.source_factory import (
    MadeScan,
    MadeSource,
    encode_plain,
    make_scan,
    write_files,
    write_source,
    write_zip,
)
from tests.strays import add_strays, add_strays_to_zip

IDS = ("case2_day1", "case2_day10", "case11_day3")


def make_rows(scans: tuple[MadeScan, ...]) -> tuple[tuple[str, str, str], ...]:
    return tuple(
        (scan.slice_id(z), organ, encode_plain(scan.masks[index, z]))
        for scan in scans
        for z in range(len(scan.image))
        for index, organ in enumerate(("large_bowel", "small_bowel", "stomach"))
    )


def spacing_of(scan: MadeScan) -> tuple[float, float, float]:
    return 3.0, scan.spacing_xy[1], scan.spacing_xy[0]


@pytest.fixture(scope="module")
def made() -> MadeSource:
    """Three scans, the last one a crop that starts at slice 61."""
    scans = (
        make_scan(IDS[0]),
        make_scan(IDS[1], shape=(4, 14, 13), spacing_xy=(1.63, 1.25)),
        make_scan(IDS[2], first_number=61),
    )
    return MadeSource(train=scans, rows=make_rows(scans))


def write_nifti(folder: Path, scan: MadeScan) -> None:
    for name, array in (("images", scan.image), ("labels", scan.bits)):
        path = folder / name / f"{scan.scan_id}.nii.gz"
        write_volume(path, array, spacing_mm=spacing_of(scan))


# -- a kind of source that the package does not know


@dataclass(frozen=True, kw_only=True)
class ArrayScan(Scan):
    kind = "arrays"
    file: Path
    with_truth: bool

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.file,)

    @property
    def labelled(self) -> bool:
        return self.with_truth

    def load(self) -> LoadedScan:
        with np.load(self.file) as arrays:
            return LoadedScan(
                image=arrays["image"],
                label_map=arrays["bits"] if self.with_truth else None,
                spacing_mm=self.spacing_mm,
                first_number=self.first_number,
            )

    def load_labels(self) -> tuple[Any, tuple[Any, ...]]:
        if not self.with_truth:
            raise ValueError("no truth")
        with np.load(self.file) as arrays:
            return arrays["bits"], ()

    def without_truth(self) -> Self:
        return replace(self, with_truth=False, file=self.file.absolute())

    def _place_to_json(self) -> dict[str, Any]:
        return {"file": str(self.file.absolute())}

    @classmethod
    def _place_from_json(cls, content: Mapping[str, Any]) -> dict[str, Any]:
        return {"file": Path(content["file"]), "with_truth": False}


@dataclass(frozen=True, kw_only=True)
class ArraySource(Source):
    scan_type = ArrayScan

    @classmethod
    def open(cls, path: Path, options: SourceOptions) -> Self | None:
        names = [file.name for file in path.glob("*.npz") if not is_stray(file.name)]
        files = sorted(map(path.joinpath, names), key=lambda file: IDS.index(file.stem))
        if not files:
            return None
        scans: dict[str, Scan] = {}
        for file in files:
            with np.load(file) as arrays:
                depth, height, width = arrays["image"].shape
                z, y, x = arrays["spacing"].tolist()
                first_number = int(arrays["first"])
            scans[file.stem] = ArrayScan(
                scan_id=file.stem, part="train", first_number=first_number,
                shape=(depth, height, width), spacing_mm=(z, y, x), file=file,
                with_truth=options.truth,
            )  # fmt: skip
        return cls(path=path, kind="arrays", scans=scans)

    def fingerprint(self) -> dict[str, Any]:
        return {
            "files": [[s.files[0].name, s.files[0].stat().st_size] for s in self.scans.values()]
        }

    @property
    def described(self) -> str:
        return f"{len(self.scans)} arrays"


# -- the same scans as each kind


@dataclass(frozen=True, kw_only=True)
class Given:
    """A source and what is known of it."""

    path: Path
    scans: tuple[MadeScan, ...]
    labelled: bool = True
    numbered: bool = True
    has_rows: bool = False
    named: bool = True  # ids and the source's name are those of its files
    source_labels: LabelScheme | None = None  # only of NIfTI labels

    @property
    def options(self) -> SourceOptions:
        return SourceOptions(source_labels=self.source_labels)


def give_folder(root: Path, made: MadeSource) -> Given:
    return Given(path=write_source(root / "given", made), scans=made.train, has_rows=True)


def give_zip(root: Path, made: MadeSource) -> Given:
    path = write_zip(root / "given.zip", made.files(), prefix="uw-madison/")
    return Given(path=path, scans=made.train, has_rows=True)


def give_nifti(root: Path, made: MadeSource) -> Given:
    for scan in made.train:
        write_nifti(root / "given", scan)
    return Given(path=root / "given", scans=made.train, numbered=False, source_labels="regions")


def give_one_file(root: Path, made: MadeSource) -> Given:
    write_nifti(root / "given", made.train[1])
    path = root / "given" / "images" / f"{IDS[1]}.nii.gz"
    return Given(
        path=path, scans=made.train[1:2], labelled=False, numbered=False, source_labels="regions"
    )


def give_dataset(root: Path, made: MadeSource) -> Given:
    dataset = convert(
        write_source(root / "given", made),
        workspace=open_workspace(root / "w", environ={}),
        holdout=0.4,
    )
    assert {scan.part for scan in dataset.scans} == {"train", "holdout"}
    return Given(path=dataset.folder, scans=made.train, source_labels="regions")


def give_dicom(root: Path, made: MadeSource) -> Given:
    """Series with their truth as RTSTRUCT or SEG; patients get ids by number, days from 0."""
    ids = ("0001_day0", "0001_day9", "0002_day0")
    for index, scan in enumerate(made.train):
        folder = root / "given" / str(index)
        depth, height, width = scan.image.shape
        plan = SeriesPlan(shape=(depth, height, width), pixel_spacing_mm=spacing_of(scan)[1:])
        patient, day = scan.scan_id.split("_day")
        paths = write_series(
            folder, plan, pixels=scan.image[::-1], patient_id=patient,
            change=partial(set_date, date=f"202603{int(day):02}"),
        )  # fmt: skip
        assert len(paths) == depth
        masks = dict(zip(ORGANS, scan.masks[:, ::-1].astype(bool), strict=True))
        write = write_seg if index == 1 else write_rtstruct
        write(folder / "truth.dcm", masks, series=read_series(folder))
    prefix = next(iter(open_source(root / "given").scans)).partition("-")[0]
    scans = [
        replace(scan, scan_id=f"{prefix}-{scan_id}")
        for scan, scan_id in zip(made.train, ids, strict=True)
    ]
    return Given(path=root / "given", scans=tuple(scans), numbered=False, named=False)


def set_date(dataset: Dataset, _: int, *, date: str) -> None:
    dataset.StudyDate = date


def give_arrays(root: Path, made: MadeSource) -> Given:
    (root / "given").mkdir()
    for scan in made.train:
        np.savez(
            root / "given" / f"{scan.scan_id}.npz", image=scan.image, bits=scan.bits,
            spacing=spacing_of(scan), first=scan.first_number,
        )  # fmt: skip
    return Given(path=root / "given", scans=made.train)


KINDS: dict[str, Callable[[Path, MadeSource], Given]] = {
    "competition folder": give_folder,
    "competition zip": give_zip,
    "NIfTI folder": give_nifti,
    "NIfTI file": give_one_file,
    "converted dataset": give_dataset,
    "DICOM": give_dicom,
    "a further kind": give_arrays,
}


@pytest.fixture(params=KINDS)
def given(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    made: MadeSource,
    monkeypatch: pytest.MonkeyPatch,
) -> Given:
    monkeypatch.setattr(opening, "SOURCES", (ArraySource, *opening.SOURCES))
    return KINDS[request.param](tmp_path, made)


def numbers_of(given: Given, scan: MadeScan) -> tuple[int, ...]:
    first = scan.first_number if given.numbered else 1
    return tuple(range(first, first + len(scan.image)))


def test_an_opened_source_tells_its_scans_and_reads_no_image(
    given: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an image was read")

    monkeypatch.setattr(nifti, "read_volume", refuse)
    monkeypatch.setattr(competition.imagecodecs, "png_decode", refuse)
    source = open_source(given.path, SourceOptions(truth=False))
    assert isinstance(source, Source)
    assert list(source.scans) == [scan.scan_id for scan in given.scans]
    for scan in given.scans:
        found = source.scans[scan.scan_id]
        assert found.scan_id == scan.scan_id
        assert found.patient_id == scan.patient_id
        assert found.shape == scan.image.shape
        assert found.size == scan.image.shape[1:]
        assert found.spacing_mm == spacing_of(scan)
        assert found.numbers == numbers_of(given, scan)
        assert all(file.is_file() for file in found.files)
    assert set(source.unnumbered) == (set() if given.numbered else set(source.scans))
    assert str(len(source.scans)) in source.described
    if given.named:
        assert source.name == given.path.name.partition(".")[0]


def test_a_scan_is_loaded_with_its_truth(given: Given) -> None:
    source = open_source(given.path, given.options)
    for scan in given.scans:
        found = source.scans[scan.scan_id]
        assert found.labelled == given.labelled
        loaded = found.load()
        assert loaded.problems == ()
        assert loaded.spacing_mm == found.spacing_mm
        assert loaded.first_number == found.first_number
        np.testing.assert_array_equal(loaded.image, scan.image)
        if not given.labelled:
            assert loaded.label_map is None
            with pytest.raises(ValueError, match="no truth"):
                found.load_labels()
            continue
        assert loaded.label_map is not None
        np.testing.assert_array_equal(loaded.label_map, scan.bits)
        np.testing.assert_array_equal(found.load_labels()[0], scan.bits)
        rows, problems = found.load_rows()
        assert problems == ()
        first = replace(scan, first_number=found.first_number)
        assert tuple(rows) == make_rows((first,))
        assert (found.rows is not None) == given.has_rows


def test_a_scan_goes_to_another_process_as_json_without_its_truth(
    given: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(given.path.parent)
    source = open_source(given.path.name, given.options)
    taken = {scan_id: scan.without_truth() for scan_id, scan in source.scans.items()}
    written_down = {scan_id: json.dumps(scan.to_json()) for scan_id, scan in taken.items()}
    monkeypatch.chdir("/")
    for scan in given.scans:
        found = taken[scan.scan_id]
        again = scan_from_json(json.loads(written_down[scan.scan_id]))
        assert again == found
        assert not again.labelled
        assert again.files == found.files
        np.testing.assert_array_equal(again.read().image, scan.image)
        np.testing.assert_array_equal(found.read().image, scan.image)
        again.write_labels(tmp_path / "out.nii.gz", scan.bits)
        written = read_volume(tmp_path / "out.nii.gz")
        np.testing.assert_array_equal(written.array, scan.bits)
        assert written.spacing_mm == found.spacing_mm
    with pytest.raises(ValueError, match="kind"):
        scan_from_json({"kind": "of another version"})


def test_a_scan_of_another_size_than_was_opened_is_refused(given: Given) -> None:
    scan = next(iter(open_source(given.path, SourceOptions(truth=False)).scans.values()))
    depth, height, width = scan.shape
    other = replace(scan, shape=(depth + 1, height, width))
    with pytest.raises((InputError, ValueError)):
        other.read()


def test_a_source_is_told_by_its_fingerprint(given: Given) -> None:
    def fingerprint() -> str:
        return json.dumps(open_source(given.path, given.options).fingerprint())

    before = fingerprint()
    assert fingerprint() == before
    file = next(iter(open_source(given.path, SourceOptions(truth=False)).scans.values())).files[0]
    if file.suffix == ".gz":  # the last bytes tell the content
        volume = read_volume(file)
        file.write_bytes(encode_volume(volume.array ^ 1, spacing_mm=volume.spacing_mm))
    elif file.suffix == ".png":
        file.write_bytes(file.read_bytes() + b"\0")
    elif file.suffix == ".zip":
        files = {name: Archive(file).read_bytes(name) for name in Archive(file).names()}
        name = next(name for name in files if name.endswith(".png"))
        write_zip(file, {**files, name: files[name][:-1] + b"\0"})
    elif file.suffix == ".dcm":
        data = file.read_bytes()
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    else:
        np.savez(file, image=np.zeros((5, 12, 17)), bits=0, spacing=(3, 1, 1), first=1)
    assert fingerprint() != before


def test_every_command_takes_every_kind(given: Given, tmp_path: Path) -> None:
    report = check_source(given.path, given.options)
    assert [scan.scan_id for scan in report.scans] == [scan.scan_id for scan in given.scans]
    ensemble = Ensemble(models=(), folds=("all",), chosen_by="a test")
    chosen = select_source(given.path, given.options, dataset=None, ensemble=ensemble)
    assert [scan.numbers for scan in chosen.scans] == [numbers_of(given, s) for s in given.scans]
    assert (chosen.truth is not None) == given.labelled
    dataset = convert(
        given.path, workspace=open_workspace(tmp_path / "again", environ={}),
        source_labels=given.source_labels, folds=None, holdout=0,
    )  # fmt: skip
    ids = [scan.scan_id for scan in dataset.scans]
    assert not given.named or ids == [scan.scan_id for scan in given.scans]
    for scan, scan_id in zip(given.scans, ids, strict=True):
        np.testing.assert_array_equal(dataset.read_image(scan_id), scan.image)
        assert dataset.scan(scan_id).numbers == numbers_of(given, scan)
        np.testing.assert_array_equal(dataset.open_scan(scan_id).read().image, scan.image)


@pytest.mark.parametrize("options", [{"source_labels": "exclusive"}, {"label_map": "stomach=1"}])
def test_how_labels_are_coded_is_only_asked_of_nifti_labels(
    given: Given, options: dict[str, Any]
) -> None:
    if given.source_labels:
        open_source(given.path, SourceOptions(**options))
    else:
        with pytest.raises(InputError, match="found no NIfTI labels"):
            open_source(given.path, SourceOptions(**options))


def test_labels_are_coded_in_one_way(tmp_path: Path, made: MadeSource) -> None:
    given = give_nifti(tmp_path, made)
    both = SourceOptions(source_labels="exclusive", label_map="stomach=1")
    with pytest.raises(InputError, match=r"--label-map and --source-labels \(of encode: --labels"):
        open_source(given.path, both)
    organs = tmp_path / "organs" / "case1_day0"
    for organ in ORGANS:
        write_volume(organs / f"{organ}.nii.gz", made.train[0].masks[0], spacing_mm=(3, 1, 1))
    open_source(organs, SourceOptions(labels_only=True))
    with pytest.raises(InputError, match=r"masks of single organs.*no --source-labels"):
        open_source(organs, SourceOptions(labels_only=True, source_labels="exclusive"))


def test_stray_files_change_nothing(given: Given, tmp_path: Path) -> None:
    def look() -> tuple[str, list[str], list[str], str]:
        source = open_source(given.path, given.options)
        dataset = convert(
            given.path, workspace=open_workspace(tmp_path / f"w{added}", environ={}),
            source_labels=given.source_labels, folds=None, holdout=0,
        )  # fmt: skip
        # A DICOM source's ids are made up for each workspace.
        files = [json.dumps([*record["files"].values()]) for record in dataset.manifest["scans"]]
        warnings = [w.replace(str(given.path), "") for w in (*source.warnings, *dataset.warnings)]
        return json.dumps(source.fingerprint()), files, warnings, source.described

    added = 0
    before = look()
    if given.path.suffix == ".zip":
        added = add_strays_to_zip(given.path)
    else:
        added = add_strays(given.path if given.path.is_dir() else given.path.parent)
    assert added > 10
    assert look() == before


# -- label volumes


def test_labels_that_are_declared_are_read_once_each_when_they_are_loaded(
    tmp_path: Path, made: MadeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = give_nifti(tmp_path, made)
    read: list[str] = []

    def read_and_tell(path: Path, **options: bool) -> Any:
        read.append(path.parent.name)
        return read_volume(path, **options)

    monkeypatch.setattr(nifti, "read_volume", read_and_tell)
    source = open_source(given.path, given.options)
    assert read == []
    for scan in source.scans.values():
        scan.load_rows()
    assert read == ["labels"] * 3
    read.clear()
    assert open_source(given.path, SourceOptions(jobs=1)).coding == CODINGS["regions"]
    assert read[0] == "labels"
    assert len(read) < 3  # the first volume with a label above 3 settles it


def test_labels_only_are_taken_without_images(tmp_path: Path, made: MadeSource) -> None:
    given = give_nifti(tmp_path, made)
    apart = open_source(given.path, SourceOptions(labels_only=True))
    alone = open_source(given.path / "labels", SourceOptions(labels_only=True))
    for scan in given.scans:
        for source in (apart, alone):
            np.testing.assert_array_equal(source.scans[scan.scan_id].load_labels()[0], scan.bits)
    write_volume(
        tmp_path / "e" / "case1_day1.nii.gz", to_exclusive(made.train[0].bits),
        spacing_mm=(3, 1, 1),
    )  # fmt: skip
    source = open_source(tmp_path / "e", SourceOptions(labels_only=True, source_labels="exclusive"))
    assert source.coding == CODINGS["exclusive"]
    assert source.coding_is_from == "as asked for: exclusive"


def test_all_headers_that_cannot_be_read_are_told_together(
    tmp_path: Path, made: MadeSource
) -> None:
    given = give_nifti(tmp_path, made)
    for scan_id in IDS[:2]:
        (given.path / "images" / f"{scan_id}.nii.gz").write_bytes(b"hello" * 100)
    with pytest.raises(InputError) as error:
        open_source(given.path, given.options)
    first, second, remedy = str(error.value).splitlines()
    assert f"{IDS[0]}.nii.gz: found no readable NIfTI volume" in first
    assert f"{IDS[1]}.nii.gz: found no readable NIfTI volume" in second
    assert remedy == f"Correct these in {given.path}."


def test_a_scan_in_train_and_in_test_is_predicted_but_not_converted(
    tmp_path: Path, made: MadeSource
) -> None:
    files = made.files()
    twice = {f"test{name[5:]}": data for name, data in files.items() if f"/{IDS[0]}/" in name}
    path = write_files(tmp_path / "given", {**files, **twice})
    with pytest.raises(InputError, match=r"case2_day1 in train/ and in test/"):
        open_source(path)
    source = open_source(path, SourceOptions(scope="predicted"))
    assert [(scan.scan_id, scan.part) for scan in source.scans.values()] == [(IDS[0], "test")]
