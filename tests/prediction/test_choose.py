import dataclasses
import gzip
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from gi2nnunet.core.errors import InputError
from gi2nnunet.dataset.workspace import open_workspace
from gi2nnunet.formats.ids import slice_id
from gi2nnunet.formats.labels import to_exclusive
from gi2nnunet.formats.tables import tabulate_rows
from gi2nnunet.formats.volumes import write_volume
from gi2nnunet.nnunet.models import Ensemble, ModelChoice, TrainedModel
from gi2nnunet.prediction.choose import (
    find_standing,
    select_models,
    select_own_scans,
    select_source,
)
from gi2nnunet.scoring.score import score_submission
from gi2nnunet.source.prints import find_twins, take_prints
from gi2nnunet.source.scan import SourceOptions
from tests.converting import convert
from tests.source_factory import (
    ORGANS,
    MadeSource,
    encode_plain,
    make_scan,
    make_source,
    write_files,
    write_source,
    write_zip,
)

SIX = ["case1_day0", "case1_day5", "case2_day0", "case10_day0", "case4_day2", "case5_day1"]
JUDGED_BY_NAME = "unknown (judged by name)"
PATIENTS = {"case1", "case2", "case4", "case5", "case10"}


def make_dataset(folder, made=None, **options):
    """Convert a source, by default one of five patients without hold-out, in five folds."""
    source = write_source(folder / "source", made or make_source(SIX))
    space = open_workspace(folder / "ws", environ={})
    return convert(source, workspace=space, **{"holdout": 0, **options})


def make_ensemble(*folds):
    model = TrainedModel(
        folder=Path("nowhere"),
        trainer="t",
        plans_name="p",
        configuration="2d",
        folds=folds,
        newest=0.0,
    )
    return Ensemble(models=(model,), folds=folds, chosen_by="the test")


ALL = make_ensemble("all")


def ids(selection):
    return [scan.scan_id for scan in selection.scans]


def rows_of(table):
    """A table's rows as a CSV would have them, with the image size."""
    return [
        (
            slice_id(table.scan_ids[table.scan[row]], int(table.number[row])),
            ORGANS[table.organ[row]],
            table.texts[row],
            int(table.height[row]),
            int(table.width[row]),
        )
        for row in range(len(table))
    ]


def true_rows(scans):
    """The rows that scans of the factory have, slice by slice."""
    return [
        (scan.slice_id(z), organ, encode_plain(scan.masks[index, z]), *scan.image.shape[1:])
        for scan in scans
        for z in range(len(scan.image))
        for index, organ in enumerate(ORGANS)
    ]


def by_id(made, scan_ids):
    return [made.truth[scan_id] for scan_id in scan_ids]


# -- a dataset's own scans


@pytest.mark.parametrize("folds", [("all",), (0, 1)])
def test_held_out_scans_come_first_whatever_the_models(tmp_path, folds):
    made = make_source(SIX)
    dataset = make_dataset(tmp_path, made, holdout=0.4)
    held = [scan.scan_id for scan in dataset.scans if scan.part == "holdout"]
    assert 0 < len(held) < 6
    chosen = select_own_scans(dataset, make_ensemble(*folds))
    assert (chosen.name, chosen.standing, chosen.folds) == ("held-out", "held-out", None)
    assert ids(chosen) == held
    assert rows_of(chosen.truth) == true_rows(by_id(made, held))
    for scan in chosen.scans:
        assert scan.files == (dataset.folder / f"imagesTs/{scan.scan_id}_0000.nii.gz",)
        assert scan.files[0].is_file()
        assert scan.numbers == (1, 2, 3, 4, 5)


def test_held_out_days_of_patients_that_were_trained_on_are_no_held_out_patients(tmp_path):
    scan_ids = [f"case1_day{day}" for day in range(6)] + ["case2_day0", "case3_day0", "case4_day0"]
    dataset = make_dataset(tmp_path, make_source(scan_ids), holdout="mle-bench")
    chosen = select_own_scans(dataset, ALL)
    assert {"case1_day4", "case1_day5"} <= set(ids(chosen))
    assert dataset.scan("case1_day0").part == "train"
    assert chosen.standing == "seen-patient"


def test_models_of_every_fold_predict_what_they_did_not_see(tmp_path):
    made = make_source(SIX)
    dataset = make_dataset(tmp_path, made)
    chosen = select_own_scans(dataset, make_ensemble(*range(5)))
    assert chosen.standing == "out-of-fold"
    assert chosen.described.startswith("all training scans")
    in_numeric_order = sorted(SIX, key=lambda s: [int(n) for n in s[4:].split("_day")])
    assert ids(chosen) == in_numeric_order
    assert set(chosen.folds) == set(SIX)
    for scan_id, (fold,) in chosen.folds.items():
        patient = scan_id.partition("_")[0]
        trained = {other.partition("_")[0] for other in dataset.splits[fold]["train"]}
        assert trained == PATIENTS - {patient}
    # In the order of its own truth, as mle-bench needs it.
    assert rows_of(chosen.truth) == true_rows(by_id(made, in_numeric_order))
    rows = {scan.scan_id: [row[:3] for row in true_rows([scan])] for scan in
            by_id(made, ids(chosen))}  # fmt: skip
    predicted = tabulate_rows("predicted", rows)
    assert score_submission(predicted, chosen.truth, metric="mle-bench").score == 1


def test_models_of_some_folds_predict_what_these_left_out(tmp_path):
    dataset = make_dataset(tmp_path)
    chosen = select_own_scans(dataset, make_ensemble(1, 3))
    left_out = {s: (fold,) for fold in (1, 3) for s in dataset.splits[fold]["val"]}
    assert chosen.folds == left_out
    assert set(ids(chosen)) == set(left_out)
    assert "fold 1, 3" in chosen.described
    assert chosen.standing == "out-of-fold"


@pytest.mark.parametrize("folds", [("all",), (0, "all"), (0, 7)])
def test_models_that_saw_everything_give_an_in_sample_score(tmp_path, folds):
    """A fold that the split does not have was trained on a split that nnU-Net drew itself."""
    made = make_source(SIX)
    dataset = make_dataset(tmp_path, made)
    chosen = select_own_scans(dataset, make_ensemble(*folds))
    assert (chosen.name, chosen.standing, chosen.folds) == ("in-sample", "in-sample", None)
    assert set(ids(chosen)) == set(SIX)
    assert rows_of(chosen.truth) == true_rows(by_id(made, ids(chosen)))


def test_a_dataset_of_one_patient_has_no_split_and_is_in_sample(tmp_path):
    dataset = make_dataset(tmp_path, make_source(["case1_day0", "case1_day5"]))
    assert dataset.splits == ()
    for fold in ("all", 0):
        assert select_own_scans(dataset, make_ensemble(fold)).standing == "in-sample"


def test_a_dataset_without_truth_has_nothing_to_score(tmp_path):
    dataset = make_dataset(tmp_path, make_source([], test_ids=["case9_day9"]))
    with pytest.raises(InputError, match=r"Dataset501_UWGI: holds no scan with truth\. Name a"):
        select_own_scans(dataset, ALL)


def test_slice_numbers_of_a_crop_are_kept(tmp_path):
    scan = make_scan("case7_day3", first_number=61)
    made = MadeSource(train=(scan,), rows=tuple(row[:3] for row in true_rows([scan])))
    chosen = select_own_scans(make_dataset(tmp_path, made), ALL)
    assert chosen.scans[0].numbers == (61, 62, 63, 64, 65)
    assert rows_of(chosen.truth) == true_rows([scan])


def test_a_dataset_made_of_volumes_of_any_name_is_selected_too(tmp_path):
    folder = write_volumes(tmp_path / "given", [make_scan("liver 7"), make_scan("b_2")])
    space = open_workspace(tmp_path / "ws", environ={})
    dataset = convert(folder, source_labels="regions", holdout=0, workspace=space)
    chosen = select_own_scans(dataset, ALL)
    assert set(ids(chosen)) == {"liver 7", "b_2"}
    assert set(rows_of(chosen.truth)) == set(true_rows([make_scan("liver 7"), make_scan("b_2")]))


# -- what a score means


@pytest.mark.parametrize(
    ("folds", "scan_ids", "standing"),
    [
        (("all",), ["case77_day0"], "held-out"),
        (("all",), ["case1_day0"], "in-sample"),
        (("all",), ["case1_day77"], "seen-patient"),
        (("all",), ["case77_day0", "case1_day77"], "seen-patient"),
        (("all",), ["case77_day0", "case1_day77", "case2_day0"], "in-sample"),
        ((0,), ["val 0"], "held-out"),
        ((0,), ["val 1"], "in-sample"),
        ((0, 1), ["val 0"], "in-sample"),
        ((0, 1, 2, 3, 4), ["case77_day0"], "held-out"),
        ((0, "all"), ["val 0"], "in-sample"),
        ((9,), ["val 0"], "in-sample"),
    ],
)
def test_standing(tmp_path, folds, scan_ids, standing):
    dataset = make_dataset(tmp_path)
    asked = []
    for scan_id in scan_ids:
        kind, _, fold = scan_id.partition(" ")
        asked += dataset.splits[int(fold)]["val"] if kind == "val" else [scan_id]
    ensemble, prints = make_ensemble(*folds), prints_of(dataset, asked)
    found = find_standing(asked, dataset=dataset, ensemble=ensemble, prints=prints)
    assert found == standing
    assert find_standing(asked, dataset=None, ensemble=ensemble, prints=prints) == "unknown"


def prints_of(dataset, scan_ids):
    """Prints of a dataset's scans, and of other scans those of images that it does not have."""
    return {
        scan_id: [dataset.prints.get(scan_id, take_prints(make_scan(scan_id, seed=7).image))]
        for scan_id in scan_ids
    }


def test_without_all_contents_no_scan_is_held_out(tmp_path):
    dataset = make_dataset(tmp_path)
    asked = ["case77_day0", "case78_day0"]
    prints = prints_of(dataset, asked)
    ask = partial(find_standing, asked, ensemble=ALL)
    assert ask(dataset=dataset, prints=prints) == "held-out"
    assert ask(dataset=dataset, prints={"case77_day0": prints["case77_day0"]}) == JUDGED_BY_NAME


@pytest.mark.parametrize(
    "name", ["as it is", "zip", "nii.gz", "nii", "float", "mirrored", "8 bits", "some slices"]
)
def test_a_copy_of_a_training_scan_under_another_name_is_in_sample(tmp_path, name):
    dataset = make_dataset(tmp_path)
    (original,) = (s for s in make_source(SIX).train if s.scan_id == "case4_day2")
    image = original.image
    if name == "8 bits":
        image = (image >> 8).astype(np.uint8)
    elif name == "float":
        image = image.astype(np.float32) * 0.25 - 7
    elif name == "mirrored":
        image = np.ascontiguousarray(image[::-1, :, ::-1])
    elif name == "some slices":
        image, masks = image[1:4], original.masks[:, 1:4]
        original = dataclasses.replace(original, masks=masks)
    copy = dataclasses.replace(original, scan_id="case9_day9", image=image)
    made = MadeSource(train=(copy,), rows=tuple(row[:3] for row in true_rows([copy])))
    if name == "zip":
        source = write_zip(tmp_path / "copy.zip", made.files())
    elif name in ("as it is", "8 bits", "some slices"):
        source = write_source(tmp_path / "copy", made)
    else:
        source = write_volumes(tmp_path / "copy", [copy])
        if name == "nii":
            for path in source.rglob("*.nii.gz"):
                path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
                path.unlink()
    coded = "nii" in name or name in ("float", "mirrored")
    options = SourceOptions(source_labels="regions" if coded else None)
    chosen = select_source(source, options, dataset=dataset, ensemble=ALL)
    assert chosen.standing == "in-sample"
    other = dataclasses.replace(make_scan("case9_day9", seed=3), masks=copy.masks)
    if copy.masks.shape[1:] == other.image.shape:
        write_source(tmp_path / "other", dataclasses.replace(made, train=(other,)))
        for truth in (True, False):  # what is only predicted is judged by its contents too
            opening = SourceOptions(truth=truth)
            chosen = select_source(tmp_path / "other", opening, dataset=dataset, ensemble=ALL)
            assert chosen.standing == "held-out"
    options = dataclasses.replace(options, truth=False)
    unscored = select_source(source, options, dataset=dataset, ensemble=ALL)
    assert unscored.standing == "in-sample"


def test_names_that_do_not_name_the_patient_are_not_held_out(tmp_path):
    dataset = make_dataset(tmp_path)
    source = write_volumes(tmp_path / "given", [make_scan("scan A", seed=3)])
    chosen = select_source(
        source, SourceOptions(source_labels="regions"), dataset=dataset, ensemble=ALL
    )
    assert chosen.standing == JUDGED_BY_NAME


def test_copies_in_different_folds_are_not_out_of_fold(tmp_path):
    made = make_source(SIX)
    copy = dataclasses.replace(made.train[0], scan_id="case12_day0")
    train = (*made.train, copy)
    rows = tuple(row[:3] for row in true_rows(train))
    dataset = make_dataset(tmp_path, MadeSource(train=train, rows=rows), folds=6)
    assert any("case1_day0 and case12_day0 have the same image" in w for w in dataset.warnings)
    assert find_twins(dataset.prints) == [("case1_day0", "case12_day0")]
    assert select_own_scans(dataset, make_ensemble(*range(6))).standing == "in-sample"
    assert select_own_scans(make_dataset(tmp_path / "b"), make_ensemble(0)).standing == (
        "out-of-fold"
    )


def test_a_changed_truth_is_refused_and_converting_restores_it(tmp_path):
    dataset = make_dataset(tmp_path, holdout=0.4)
    text = dataset.truth_path.read_text()
    lines = text.splitlines(keepends=True)
    dataset.truth_path.write_text("".join(lines[: len(lines) // 2]))
    with pytest.raises(InputError, match=r"truth\.csv: found .* changed") as caught:
        select_own_scans(dataset, ALL)
    assert "gi2nnunet convert SOURCE" in str(caught.value)
    make_dataset(tmp_path, holdout=0.4)
    assert dataset.truth_path.read_text() == text
    assert select_own_scans(dataset, ALL).standing == "held-out"


def test_another_day_of_a_validation_patient_was_not_seen(tmp_path):
    dataset = make_dataset(tmp_path)
    (fold,) = (n for n, split in enumerate(dataset.splits) if "case1_day0" in split["val"])
    standing = {
        number: find_standing(
            ["case1_day77"],
            dataset=dataset,
            ensemble=make_ensemble(number),
            prints=prints_of(dataset, ["case1_day77"]),
        )
        for number in range(5)
    }
    assert standing == {n: "held-out" if n == fold else "seen-patient" for n in range(5)}


def test_held_out_scans_named_as_a_source_are_held_out(tmp_path):
    made = make_source(SIX)
    dataset = make_dataset(tmp_path, made, holdout=0.2)
    held = [s for s in made.train if dataset.scan(s.scan_id).part == "holdout"]
    rows = tuple(row[:3] for row in true_rows(held))
    source = write_source(tmp_path / "held", MadeSource(train=tuple(held), rows=rows))
    assert select_source(source, dataset=dataset, ensemble=ALL).standing == "held-out"
    whole = select_source(tmp_path / "source", dataset=dataset, ensemble=ALL)
    assert whole.standing == "in-sample"


# -- a competition source


def test_a_source_without_test_gives_its_training_scans_with_truth(tmp_path):
    made = make_source(SIX)
    source = write_source(tmp_path / "given", made)
    chosen = select_source(source, dataset=None, ensemble=ALL)
    assert chosen.name == "given"
    assert "train, 6 scans" in chosen.described
    assert set(ids(chosen)) == set(SIX)
    assert sorted(rows_of(chosen.truth)) == sorted(true_rows(made.train))
    assert chosen.sample is None  # the published one is a header only
    assert chosen.standing == "unknown"
    for scan in chosen.scans:
        assert set(scan.files) <= set(source.rglob("*.png"))
        assert not scan.labelled


def test_a_source_with_test_gives_its_test_scans_and_the_filled_sample(tmp_path):
    made = make_source(SIX, test_ids=["case9_day9", "case1_day7"])
    files = made.files()
    keys = [
        (f"{scan.scan_id}_slice_{z:04d}", organ)
        for scan in reversed(made.test)
        for organ in ORGANS
        for z in range(1, 6)
    ]
    files["sample_submission.csv"] = (
        "id,class,predicted\n" + "".join(f"{a},{b},\n" for a, b in keys)
    ).encode()
    source = write_files(tmp_path / "given", files)
    chosen = select_source(source, dataset=None, ensemble=ALL)
    assert set(ids(chosen)) == {"case9_day9", "case1_day7"}
    assert "test, 2 scans" in chosen.described
    assert chosen.truth is None
    sample = chosen.sample
    assert [(slice_id(sample.scan_ids[s], n), ORGANS[o]) for s, n, o in zip(
        sample.scan, sample.number, sample.organ, strict=True)] == keys  # fmt: skip


def test_truth_is_left_alone_where_it_is_not_asked_for(tmp_path):
    source = write_source(tmp_path / "given")
    chosen = select_source(source, SourceOptions(truth=False), dataset=None, ensemble=ALL)
    assert len(chosen.scans) == 4
    assert chosen.truth is None
    volumes = write_volumes(tmp_path / "volumes", [make_scan("case1_day1")])
    chosen = select_source(volumes, SourceOptions(truth=False), dataset=None, ensemble=ALL)
    assert len(chosen.scans) == 1
    assert chosen.truth is None


def test_a_true_row_that_cannot_be_scored_is_told_before_anything_is_predicted(tmp_path):
    made = make_source()
    rows = [list(row) for row in made.rows]
    row = next(row for row in rows if row[2])
    row[2] = "5 2 3 1"
    source = write_source(
        tmp_path / "given", dataclasses.replace(made, rows=tuple(map(tuple, rows)))
    )
    with pytest.raises(InputError) as error:
        select_source(source, dataset=None, ensemble=ALL)
    first, remedy = str(error.value).splitlines()
    assert f"{row[0]}, {row[1]}: found RLE" in first
    assert f"{source}/train.csv" in remedy


def test_mismatches_are_passed_over_on_request_with_a_warning(tmp_path):
    source = write_source(tmp_path / "given")
    next(source.glob("train/case2/case2_day1/scans/slice_0005*")).unlink()
    with pytest.raises(InputError, match="rows without an image"):
        select_source(source, dataset=None, ensemble=ALL)
    chosen = select_source(source, SourceOptions(allow_missing=True), dataset=None, ensemble=ALL)
    assert len(chosen.warnings) == 1
    assert next(s for s in chosen.scans if s.scan_id == "case2_day1").numbers == (1, 2, 3, 4)


# -- NIfTI volumes


def write_volumes(folder, scans, *, labels=True, code=lambda bits: bits, ending="_0000.nii.gz"):
    for scan in scans:
        spacing = (3.0, *scan.spacing_xy[::-1])
        image = folder / "images" / f"{scan.scan_id}{ending}"
        pixels = scan.image if scan.image.dtype.kind == "f" else scan.image.astype(np.int32)
        write_volume(image, pixels, spacing_mm=spacing)
        if labels:
            path = folder / "labels" / f"{scan.scan_id}.nii.gz"
            write_volume(path, code(scan.bits), spacing_mm=spacing)
    return folder


TWO = [make_scan("case1_day1"), make_scan("case12_day0", shape=(4, 14, 13))]


def test_a_folder_of_labelled_volumes_has_truth(tmp_path):
    folder = write_volumes(tmp_path / "given", TWO)
    chosen = select_source(
        folder, SourceOptions(source_labels="regions"), dataset=None, ensemble=ALL
    )
    assert ids(chosen) == ["case1_day1", "case12_day0"]
    assert rows_of(chosen.truth) == true_rows(TWO)
    assert [scan.numbers for scan in chosen.scans] == [(1, 2, 3, 4, 5), (1, 2, 3, 4)]
    assert chosen.scans[0].files == (folder / "images" / "case1_day1_0000.nii.gz",)
    assert chosen.warnings == ()


def test_a_folder_without_labels_has_no_truth(tmp_path):
    folder = write_volumes(tmp_path / "given", TWO, labels=False)
    chosen = select_source(folder, dataset=None, ensemble=ALL)
    assert len(chosen.scans) == 2
    assert chosen.truth is None
    assert chosen.warnings == ()


def test_a_folder_with_some_labels_says_that_nothing_is_scored(tmp_path):
    folder = write_volumes(tmp_path / "given", TWO)
    (folder / "labels" / "case12_day0.nii.gz").unlink()
    chosen = select_source(
        folder, SourceOptions(source_labels="regions"), dataset=None, ensemble=ALL
    )
    assert len(chosen.scans) == 2
    assert chosen.truth is None
    assert "1 of 2 scans have labels" in chosen.warnings[0]


def test_labels_are_never_guessed(tmp_path):
    """3 is the stomach in exclusive labels, and both bowels in bit-coded ones."""
    folder = write_volumes(tmp_path / "given", TWO, code=to_exclusive)
    with pytest.raises(InputError, match=r"found the label 3 and none above.*--source-labels"):
        select_source(folder, dataset=None, ensemble=ALL)
    exclusive = select_source(
        folder, SourceOptions(source_labels="exclusive"), dataset=None, ensemble=ALL
    )
    painted = [
        dataclasses.replace(
            scan, masks=np.stack([to_exclusive(scan.bits) == organ for organ in (1, 2, 3)])
        )
        for scan in TWO
    ]
    assert rows_of(exclusive.truth) == true_rows(painted)
    bits = write_volumes(tmp_path / "bits", TWO)
    with pytest.raises(InputError, match=r"expected those of exclusive"):
        select_source(bits, SourceOptions(source_labels="exclusive"), dataset=None, ensemble=ALL)
    # 4 and above say it themselves.
    assert rows_of(select_source(bits, dataset=None, ensemble=ALL).truth) == true_rows(TWO)


@pytest.mark.parametrize("ending", ["_0000.nii.gz", ".nii.gz"])
def test_one_volume_is_taken_under_its_scan_id(tmp_path, ending):
    folder = write_volumes(tmp_path / "given", TWO, ending=ending)
    file = folder / "images" / f"case12_day0{ending}"
    chosen = select_source(file, dataset=None, ensemble=ALL)
    assert ids(chosen) == ["case12_day0"]
    assert chosen.scans[0].numbers == (1, 2, 3, 4)
    assert chosen.scans[0].files == (file,)
    assert chosen.truth is None


def test_a_volume_of_another_depth_than_the_manifest_tells_is_refused(tmp_path):
    space = open_workspace(tmp_path / "ws", environ={})
    dataset = convert(write_source(tmp_path / "source"), holdout=0, workspace=space)
    image = dataset.image_path("case10_day0")
    write_volume(image, make_scan("x", shape=(3, 12, 16)).image, spacing_mm=(3, 1.5, 1.5))
    with pytest.raises(InputError, match="found 3 slices; expected 5, as the manifest"):
        select_source(image, dataset=dataset, ensemble=ALL)


def test_a_training_image_of_the_dataset_itself_is_in_sample_and_keeps_its_numbers(tmp_path):
    scan = make_scan("case7_day3", first_number=61)
    made = MadeSource(train=(scan,), rows=tuple(row[:3] for row in true_rows([scan])))
    dataset = make_dataset(tmp_path, made)
    for given in (dataset.image_path("case7_day3"), dataset.folder / "imagesTr", dataset.folder):
        chosen = select_source(given, dataset=dataset, ensemble=ALL)
        assert ids(chosen) == ["case7_day3"]
        assert chosen.standing == "in-sample"
        assert chosen.scans[0].numbers == (61, 62, 63, 64, 65)
    assert rows_of(chosen.truth) == true_rows([scan])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.nii.gz", r"none\.nii\.gz: no such file"),
        ("none", r"none: no such file or folder"),
        ("empty", r"empty: is not a source"),
        ("cut.nii.gz", r"cut\.nii\.gz: found a truncated"),
    ],
)
def test_what_is_no_source_is_refused(tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    write_volume(tmp_path / "cut.nii.gz", TWO[0].image, spacing_mm=(3, 1, 1))
    (tmp_path / "cut.nii.gz").write_bytes((tmp_path / "cut.nii.gz").read_bytes()[:100])
    with pytest.raises(InputError, match=message):
        select_source(tmp_path / name, dataset=None, ensemble=ALL)


# -- models


def finish_training(workspace, dataset_name, *, fold="all", configuration="2d"):
    folder = workspace.results / dataset_name / f"nnUNetTrainer__nnUNetPlans__{configuration}"
    folder = folder / f"fold_{fold}"
    folder.mkdir(parents=True)
    (folder / "checkpoint_final.pth").touch()


def test_models_are_found_with_or_without_the_dataset(tmp_path):
    dataset = make_dataset(tmp_path)
    workspace = open_workspace(tmp_path / "ws", environ={})
    for fold in ("0", "all"):
        finish_training(workspace, dataset.name, fold=fold)
    found, ensemble = select_models(workspace, ModelChoice(folds=("0",)))
    assert found == dataset
    assert ensemble.folds == (0,)
    shutil.rmtree(workspace.raw)
    found, ensemble = select_models(workspace)
    assert found is None
    assert ensemble.folds == ("all",)
    assert select_models(workspace, ModelChoice(dataset_id=501))[1] == ensemble
    finish_training(workspace, "Dataset502_B")
    with pytest.raises(InputError, match=r"Dataset501_UWGI, Dataset502_B; expected one.*--id"):
        select_models(workspace)
    assert select_models(workspace, ModelChoice(dataset_id=502))[1].models[
        0
    ].folder.parent.name == ("Dataset502_B")
    with pytest.raises(
        InputError, match=r"no model of a dataset.*gi2nnunet import-model MODEL; or"
    ):
        select_models(workspace, ModelChoice(dataset_id=503))


def test_an_empty_workspace_says_which_command_makes_a_dataset(tmp_path):
    workspace = open_workspace(tmp_path / "ws", environ={})
    with pytest.raises(InputError, match="gi2nnunet convert"):
        select_models(workspace)
    make_dataset(tmp_path)
    with pytest.raises(InputError, match="gi2nnunet train"):
        select_models(workspace)
