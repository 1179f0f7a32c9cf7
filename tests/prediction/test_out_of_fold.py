"""Out-of-fold predictions, what tuning keeps, and which models are recommended; no engine."""

import json
import os
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from gi2nnunet.core.errors import EngineError, InputError
from gi2nnunet.dataset.workspace import open_workspace
from gi2nnunet.formats.ids import ORGANS, patient_of
from gi2nnunet.formats.probabilities import read_probabilities, write_probabilities
from gi2nnunet.nnunet.models import IMPORT_RECORD, ModelChoice, choose_ensemble, record_digest
from gi2nnunet.nnunet.postprocess import Decision, adopt_tuning, find_tuning, tuning_path
from gi2nnunet.prediction import evaluate, out_of_fold
from gi2nnunet.prediction.out_of_fold import (
    check_training_scans,
    choose_every_fold,
    predict_out_of_fold,
)
from gi2nnunet.prediction.predict import PredictedScan, PredictedScans
from gi2nnunet.tuning.compare_models import compare_all_models
from gi2nnunet.tuning.search import list_tuning_scans, tune_decision
from tests.command_line import tree
from tests.fold_bench import Bench
from tests.model_factory import write_model


@pytest.fixture
def bench(tmp_path, monkeypatch):
    made = Bench(tmp_path)
    monkeypatch.setattr(out_of_fold, "predict_scans", made.engine)
    return made


def test_every_training_scan_is_predicted_by_the_fold_that_did_not_see_its_patient(bench):
    predicted = bench.predict()
    assert sorted(bench.asked) == sorted(
        (configuration, scan_id, (predicted.fold_of[scan_id],))
        for configuration in ("2d", "3d_fullres")
        for scan_id in bench.train
    )
    for scan_id, fold in predicted.fold_of.items():
        trained = {patient_of(s) for s in bench.dataset.splits[fold]["train"]}
        assert patient_of(scan_id) not in trained
        for model in predicted.models:
            assert read_probabilities(predicted.path(model, scan_id)).scan_id == scan_id
    assert all(cost["peak_memory_bytes"] == 5 << 20 for cost in predicted.costs.values())


def test_what_is_there_is_kept_and_an_interrupted_run_goes_on(bench):
    bench.dies_after = 2
    with pytest.raises(EngineError):
        bench.predict()
    bench.dies_after = None
    first = list(bench.asked)
    bench.predict()
    assert len(bench.asked) == 2 * len(bench.train)
    assert len(set(bench.asked)) == len(bench.asked)
    assert bench.asked[:2] == first
    before = tree(bench.workspace.predictions)
    told = []
    bench.predict(progress=lambda done, total, what: told.append(done))
    assert len(bench.asked) == 2 * len(bench.train)
    assert tree(bench.workspace.predictions) == before
    assert told == []


def test_kept_predictions_of_a_damaged_checkpoint_are_not_used(bench):
    path = bench.ensemble.models[0].folder / "fold_1" / "checkpoint_final.pth"
    record_digest(path, path)
    bench.predict()
    sound = path.read_bytes()
    path.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    with pytest.raises(InputError, match="other content than was saved"):
        bench.predict()
    path.write_bytes(sound)
    bench.predict()


def test_a_fold_trained_anew_and_other_settings_are_predicted_anew(bench):
    predicted = bench.predict()
    bench.asked.clear()
    path = bench.ensemble.models[0].folder / "fold_1" / "checkpoint_final.pth"
    path.write_bytes(path.read_bytes() + b" ")
    bench.predict()
    again = {(configuration, scan) for configuration, scan, _ in bench.asked}
    assert again == {("2d", s) for s, fold in predicted.fold_of.items() if fold == 1}
    bench.asked.clear()
    bench.predict(mirroring=False)
    assert len(bench.asked) == 2 * len(bench.train)


def test_a_missing_fold_is_named(tmp_path, monkeypatch):
    bench = Bench(tmp_path, folds=(0, 2))
    ensemble = choose_ensemble(
        bench.workspace.results / bench.dataset.name, n_folds=3, folds=[0, 2]
    )
    with pytest.raises(InputError, match=r"missing folds: 1\).*train --fold cv"):
        predict_out_of_fold(bench.dataset, ensemble, **bench.compute())


def test_a_configuration_without_every_fold_is_left_out_and_named(bench):
    (bench.ensemble.models[0].folder / "fold_1" / "checkpoint_final.pth").unlink()
    missing = "nnUNetTrainer__gi2nnunetTinyPlans__2d: left out, as fold 1 is not trained"
    for asked, is_named in (((), True), (("3d_fullres",), False)):
        said = []
        _, ensemble = choose_every_fold(
            ModelChoice(configurations=asked), engine=bench.compute()["engine"],
            on_notice=said.append,
        )  # fmt: skip
        assert [model.configuration for model in ensemble.models] == ["3d_fullres"]
        assert (missing in said) is is_named
        assert ("as asked" in "".join(said)) is not is_named


def test_labels_that_exclude_one_another_are_refused(tmp_path):
    bench = Bench(tmp_path, labels="exclusive")
    with pytest.raises(InputError, match=r"labels are exclusive.*--labels regions"):
        bench.predict()


def give_other_labels(bench, configuration):
    (model,) = [m for m in bench.ensemble.models if m.configuration == configuration]
    path = model.folder / "dataset.json"
    described = json.loads(path.read_text())
    described["labels"]["stomach"] = 3
    path.write_text(json.dumps(described))


def test_models_of_different_label_schemes_are_refused_even_with_everything_predicted(bench):
    bench.predict()
    give_other_labels(bench, "3d_fullres")
    with pytest.raises(InputError, match=r"3d_fullres: found labels .*expected those of .*__2d"):
        bench.predict()


def test_models_of_other_labels_than_the_datasets_are_refused(bench):
    for configuration in ("2d", "3d_fullres"):
        give_other_labels(bench, configuration)
    with pytest.raises(InputError, match=r"__2d: found labels .*expected those of .*raw/Dataset"):
        bench.predict()
    assert bench.asked == []


def test_a_missing_label_file_is_told_before_anything_is_predicted(bench, run):
    first, second = bench.train[:2]
    bench.dataset.label_path(first).unlink()
    path = bench.dataset.label_path(second)
    path.write_bytes(path.read_bytes()[:-9])
    named = rf"(?s)labelsTr/{first}.nii.gz: found .*labelsTr/{second}.nii.gz: found .* changed"
    with pytest.raises(InputError, match=rf"{named}.*gi2nnunet convert"):
        bench.predict(truth=True)
    with pytest.raises(InputError, match=named):
        compare_all_models(bench.dataset, **bench.compute(), jobs=1)
    where = ("--workspace", bench.workspace.raw.parent, "--device", "cpu")
    code, _, err = run("tune", *where)
    assert code == 3
    assert f"labelsTr/{first}.nii.gz" in err
    assert bench.asked == []


def test_a_scan_that_is_not_labelled_is_told_before_anything_is_predicted(bench):
    scans = list(bench.dataset.scans)
    scans[3] = replace(scans[3], labelled=False)
    bench.dataset = replace(bench.dataset, scans=tuple(scans))
    named = rf"manifest.json: found {scans[3].scan_id} marked as not labelled.*gi2nnunet convert"
    with pytest.raises(InputError, match=named):
        bench.predict(truth=True)
    with pytest.raises(InputError, match=named):
        compare_all_models(bench.dataset, **bench.compute(), jobs=1)
    assert bench.asked == []


def test_predictions_alone_need_images_and_no_truth(tmp_path):
    bench = Bench(tmp_path)
    scans = [replace(scan, labelled=False) for scan in bench.dataset.scans]
    dataset = replace(bench.dataset, scans=tuple(scans))
    for scan_id in bench.train:
        bench.dataset.label_path(scan_id).unlink()
    check_training_scans(dataset, truth=False)
    bench.dataset.image_path(bench.train[0]).unlink()
    with pytest.raises(InputError, match=rf"imagesTr/{bench.train[0]}_0000.nii.gz missing"):
        check_training_scans(dataset, truth=False)


def test_models_of_which_nobody_knows_what_they_saw_are_refused(bench):
    for fold in (0, 1, 2):
        record = bench.ensemble.models[0].folder / f"fold_{fold}" / IMPORT_RECORD
        record.write_text('{"trained_on": null}')
    with pytest.raises(InputError, match=r"not known which scans .*gi2nnunet train --fold cv"):
        bench.predict()


def test_probabilities_of_another_size_are_named(bench):
    predicted = bench.predict()
    path = predicted.path(predicted.models[0], bench.train[0])
    found = read_probabilities(path)
    write_probabilities(
        path, found.array[:, :, :-1], scan_id=found.scan_id, numbers=found.numbers,
        spacing_mm=found.spacing_mm, about=found.about,
    )  # fmt: skip
    with pytest.raises(InputError, match=rf"{bench.train[0]}.*voxels; expected"):
        tune_decision(
            list_tuning_scans(bench.dataset, predicted), configurations=("2d", "3d_fullres"), jobs=1
        )


def test_what_was_chosen_is_found_for_these_models_alone(bench):
    path = bench.tune()
    tuned, warnings = find_tuning(bench.ensemble)
    assert tuned is not None
    assert (tuned.path, warnings) == (path, [])
    assert set(tuned.decision.organs) == set(ORGANS)
    assert all(choice.threshold >= 0.65 for choice in tuned.decision.organs.values())
    assert tuned.content["gains"]["all"]["low"] > 0
    alone = choose_ensemble(
        bench.workspace.results / bench.dataset.name, n_folds=3, folds=["cv"],
        configurations=["2d"],
    )  # fmt: skip
    assert find_tuning(alone) == (None, [])
    before = path.read_bytes()
    bench.tune()
    assert path.read_bytes() == before


def test_a_choice_on_other_checkpoints_is_passed_over(bench):
    bench.tune()
    path = bench.ensemble.models[1].folder / "fold_2" / "checkpoint_final.pth"
    path.write_bytes(path.read_bytes() + b" ")
    tuned, (warning,) = find_tuning(bench.ensemble)
    assert tuned is None
    assert "before 3d_fullres fold 2 was trained again" in warning


def test_a_choice_made_otherwise_is_warned_of(bench, tmp_path):
    path = bench.tune()
    tuned, _ = find_tuning(bench.ensemble)
    assert tuned is not None

    def warn(**options):
        return tuned.list_differences(bench.describe(**options))

    assert warn() == []
    assert warn(threads=7) == []
    (warning,) = warn(mirroring=False)
    assert warning.startswith(f"{path}: was chosen with mirroring on, and this predicts with mirro")
    assert "gi2nnunet tune" in warning
    assert len(warn(mirroring=False, step_size=0.75)) == 2
    content = json.loads(path.read_text())
    del content["computing"]
    path.write_text(json.dumps(content))
    tuned, _ = find_tuning(bench.ensemble)
    assert warn(mirroring=False) == []


@pytest.mark.parametrize(
    "change",
    [
        {"computing": "cpu"},
        {"format": 9}, {"models": []}, {"decision": {"liver": {}}}, {"gains": None},
        {"checkpoints": {}}, {"decision": {"stomach": {"threshold": 7, "weights": {}}}},
        {"decision": {"stomach": {"threshold": 0.5, "weights": {"4d": 1}, "gate": 0,
                                  "smallest_ml": 0, "fill_slices": 0}}},
    ],
)  # fmt: skip
def test_a_damaged_choice_is_named(bench, change):
    path = bench.tune()
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    key = "models" if "checkpoints" in change else next(iter(change))
    with pytest.raises(InputError, match=rf"gi2nnunet_tuning_.*: {key}") as caught:
        find_tuning(bench.ensemble)
    assert "Make it again with gi2nnunet tune" in str(caught.value)
    assert "[key]" not in str(caught.value)


def test_the_commands_say_what_they_found(bench, run, here):
    workspace = bench.workspace.raw.parent
    where = ("--workspace", workspace, "--device", "cpu")
    code, out, err = run("tune", *where)
    assert code == 0, err
    assert "Chosen on" in out
    assert str(tuning_path(bench.ensemble.models).relative_to(here)) in out
    code, out, _ = run("tune", "--json", *where)
    assert code == 0
    assert json.loads(out)["gains"]["all"]["gain"] > 0
    code, out, _ = run("compare-models", *where)
    assert code == 0
    assert "Recommended: " in out
    code, out, _ = run("out-of-fold", "--json", *where)
    assert set(json.loads(out)["folds"]) == set(bench.train)


def test_the_next_command_is_of_the_same_models_computed_in_the_same_way(bench, run):
    """What is printed, run as it is, predicts nothing anew."""
    asked = ("--config", "2d", "--preset", "tiny", "--trainer", "nnUNetTrainer", "--no-mirroring",
             "--step-size", 0.75, "--threads", 3, "--id", 501, "--device", "cpu",
             "--workspace", bench.workspace.raw.parent)  # fmt: skip
    code, _, err = run("out-of-fold", *asked)
    assert code == 0, err
    assert len(bench.asked) == len(bench.train)
    bench.asked.clear()
    words = shlex.split(err.partition("Next: ")[2])
    assert words[:2] == ["gi2nnunet", "tune"]
    code, out, err = run(*words[1:], "--metric", "slice-2d")
    assert code == 0, err
    assert bench.asked == []
    assert "Chosen on" in out
    words = shlex.split(err.partition("Next: ")[2])
    options = ["--no-mirroring True" if w == "--no-mirroring" else w for w in words[2:]]
    pairs = shlex.split(" ".join(options))
    assert words[1] == "predict-and-score"
    assert dict(zip(pairs[::2], pairs[1::2], strict=True)) == {
        "--config": "2d", "--fold": "cv", "--preset": "gi2nnunetTinyPlans",
        "--trainer": "nnUNetTrainer", "--no-mirroring": "True", "--step-size": "0.75",
        "--threads": "3", "--device": "cpu", "--metric": "slice-2d", "--id": "501",
        "--workspace": bench.workspace.raw.parent.name,
    }  # fmt: skip


def test_a_place_that_takes_no_file_is_told_before_anything_is_predicted(bench, run, monkeypatch):
    allowed = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: Path(path) != bench.results and allowed(path, mode)
    )
    code, _, err = run("tune", "--workspace", bench.workspace.raw.parent, "--device", "cpu")
    assert code == 5
    assert "gi2nnunet_tuning_" in err
    assert "no right to write" in err
    assert bench.asked == []


def test_predictions_use_the_choice_and_say_so(bench, run, monkeypatch):
    bench.tune()
    decided = []

    def predict(ensemble, scans, *, decision, on_scan, **_):
        decided.append(decision)
        rows = [
            [(f"{scan.scan_id}_slice_{n:04d}", organ, "") for n in scan.numbers for organ in ORGANS]
            for scan in scans
        ]
        return PredictedScans(
            scans=tuple(
                PredictedScan(scan_id=scan.scan_id, rows=tuple(r), seconds=1.0)
                for scan, r in zip(scans, rows, strict=True)
            )
        )

    monkeypatch.setattr(evaluate, "predict_scans", predict)
    where = ("--workspace", bench.workspace.raw.parent, "--device", "cpu", "--fold", "cv")
    code, _, err = run("predict-and-score", *where, "--out", "a")
    assert code == 0, err
    assert isinstance(decided[0], Decision)
    assert set(decided[0].organs) == set(ORGANS)
    assert "Tuning: large bowel, small bowel, stomach; cross-fitted gain +" in err
    assert "used to choose the settings" in err
    assert json.loads(
        (bench.workspace.raw.parent.parent / "a" / "score-per-class.json").read_text()
    )["tuning"]["decision"]
    assert "was chosen with" not in err
    code, _, err = run("predict-and-score", *where, "--out", "b", "--no-tuning", "--no-mirroring")
    assert decided[1] is None
    assert "Tuning: none" in err
    assert "was chosen with" not in err
    code, _, err = run("predict-and-score", *where, "--out", "c", "--step-size", "0.75")
    assert code == 0, err
    assert "Warning: " in err
    assert "was chosen with a sliding-window step of 0.5, and this predicts with a" in err


def test_the_choice_goes_along_with_the_models(bench, tmp_path):
    bench.tune()
    tuned, _ = find_tuning(bench.ensemble)
    assert tuned is not None
    others = open_workspace(tmp_path / "theirs", environ={})
    for configuration in ("2d", "3d_fullres"):
        write_model(others.results, configuration=configuration, folds=(0, 1, 2))
    ensemble = choose_ensemble(others.results / bench.dataset.name, n_folds=3, folds=["cv"])
    path = adopt_tuning(json.loads(json.dumps(tuned.pack())), ensemble.models)
    found, warnings = find_tuning(ensemble)
    assert found is not None
    assert (found.path, found.decision, warnings) == (path, tuned.decision, [])
    path.unlink()
    with pytest.raises(InputError, match="gi2nnunet_tuning_"):
        adopt_tuning({**tuned.pack(), "decision": 3}, ensemble.models)
    assert not path.exists()
