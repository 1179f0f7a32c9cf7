"""Out-of-fold predictions, what tuning keeps, and which models are recommended; no engine."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from command_line import tree
from model_factory import write_model
from source_factory import make_source, write_files

from gi2nnunet import out_of_fold, parts
from gi2nnunet.dataset import convert
from gi2nnunet.decision import Decision
from gi2nnunet.errors import EngineError, InputError
from gi2nnunet.files import read_json
from gi2nnunet.kaggle import ORGANS, patient_of
from gi2nnunet.labels import split_organs
from gi2nnunet.model_choice import compare_all_models
from gi2nnunet.nnunet.computing import Computing
from gi2nnunet.nnunet.hardware import Hardware
from gi2nnunet.nnunet.models import choose_ensemble
from gi2nnunet.nnunet.workspace import open_workspace
from gi2nnunet.out_of_fold import list_tuning_scans, predict_out_of_fold
from gi2nnunet.probabilities import SUFFIX, read_probabilities, to_eight_bits, write_probabilities
from gi2nnunet.tuned import adopt_tuning, find_tuning, save_tuning, tuning_path
from gi2nnunet.tuning import tune_decision
from gi2nnunet.volumes import read_volume

CPU = Hardware(device="cpu", gpus=(), memory_gib=None, name="CPU")


class Bench:
    """A converted source of seven patients, models of three folds, a stand-in for the engine."""

    def __init__(self, folder, *, folds=(0, 1, 2), labels="regions"):
        self.workspace = open_workspace(folder / "w", environ={})
        source = make_source([f"case{n}_day{day}" for n in range(1, 8) for day in (0, 5)])
        self.dataset = convert(
            write_files(folder / "source", source.files()),
            raw=self.workspace.raw,
            preprocessed=self.workspace.preprocessed,
            results=self.workspace.results,
            folds=3, holdout=0, jobs=1, labels=labels,
        )  # fmt: skip
        for configuration in ("2d", "3d_fullres"):
            write_model(self.workspace.results, configuration=configuration, folds=folds)
        self.asked = []
        self.dies_after = None
        self.cut = {"2d": 0.7, "3d_fullres": 0.7}
        self.train = [s.scan_id for s in self.dataset.scans if s.part == "train"]

    @property
    def ensemble(self):
        return choose_ensemble(
            self.workspace.results / self.dataset.name, n_folds=3, folds=["cv"],
            configurations=["2d", "3d_fullres"],
        )  # fmt: skip

    def engine(self, ensemble, scans, *, folds, probability_folders, about, on_scan, on_peaks, **_):
        """Give the truth at 0.9, and what lies beside it at the threshold to be found."""
        (model,) = ensemble.models
        for number, scan in enumerate(scans):
            if self.dies_after is not None and number == self.dies_after:
                raise EngineError("killed")
            self.asked.append((model.configuration, scan.scan_id, folds[scan.scan_id]))
            truth = split_organs(read_volume(self.dataset.label_path(scan.scan_id)).array)
            beside = np.roll(truth, 1, axis=-1) & ~truth
            value = truth * 0.95 + beside * (self.cut[model.configuration] - 0.05)
            write_probabilities(
                probability_folders[model.folder.name] / f"{scan.scan_id}{SUFFIX}",
                to_eight_bits(value), scan_id=scan.scan_id, numbers=scan.numbers,
                spacing_mm=(3, 1.5, 1.5), about=about[scan.scan_id],
            )  # fmt: skip
            on_scan(number + 1, len(scans), None)
        on_peaks({"peak_memory_bytes": 5 << 20})

    def compute(self, **options):
        return Computing(workspace=self.workspace, environ={}, hardware=CPU, **options)

    def predict(self, on_scan=None, **options):
        return predict_out_of_fold(
            self.dataset, self.ensemble, computing=self.compute(**options), on_scan=on_scan
        )

    def tune(self):
        predicted = self.predict()
        found = tune_decision(
            list_tuning_scans(self.dataset, predicted), configurations=("2d", "3d_fullres"), jobs=1
        )
        return save_tuning(found, self.ensemble.models, (0, 1, 2))


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
    bench.predict(on_scan=lambda done, total, what: told.append(done))
    assert len(bench.asked) == 2 * len(bench.train)
    assert tree(bench.workspace.predictions) == before
    assert told == []


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
        predict_out_of_fold(bench.dataset, ensemble, computing=bench.compute())


def test_labels_that_exclude_one_another_are_refused(tmp_path):
    bench = Bench(tmp_path, labels="exclusive")
    with pytest.raises(InputError, match=r"exclude one another.*--labels regions"):
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
    assert "before 3d_fullres fold 2 was trained anew" in warning


@pytest.mark.parametrize(
    "change",
    [
        {"format": 9}, {"models": []}, {"decision": {"liver": {}}}, {"gains": None},
        {"checkpoints": {}}, {"decision": {"stomach": {"threshold": 7, "weights": {}}}},
        {"decision": {"stomach": {"threshold": 0.5, "weights": {"4d": 1}, "gate": 0,
                                  "smallest_ml": 0, "fill_slices": 0}}},
    ],
)  # fmt: skip
def test_a_damaged_choice_is_named(bench, change):
    path = bench.tune()
    path.write_text(json.dumps({**read_json(path), **change}))
    with pytest.raises(InputError, match=r"gi2nnunet_tuning_.*is damaged.*gi2nnunet tune"):
        find_tuning(bench.ensemble)


def test_models_are_compared_with_their_cost_and_the_best_is_recommended(bench):
    bench.cut["3d_fullres"] = 0.5  # its mistakes lie below one half
    compared = compare_all_models(bench.dataset, computing=bench.compute(), jobs=1)
    assert {entry.name for entry in compared.entries} == {"2d", "3d_fullres", "2d + 3d_fullres"}
    assert compared.entries[0].score == pytest.approx(1.0)
    assert compared.best.difference == 0
    assert compared.entries[-1].difference < -0.01
    assert all(entry.peak_memory_bytes == 5 << 20 for entry in compared.entries)
    assert compared.command.startswith("gi2nnunet predict-and-score --fold cv --config ")
    assert json.loads(json.dumps(compared.to_json()))["recommended"] == compared.best.name


def test_without_a_whole_set_of_folds_there_is_nothing_to_compare(tmp_path):
    bench = Bench(tmp_path, folds=(0, 1))
    with pytest.raises(InputError, match="no configuration with every fold"):
        compare_all_models(bench.dataset, computing=bench.compute(), jobs=1)


def test_the_commands_say_what_they_found(bench, run, monkeypatch):
    workspace = bench.workspace.raw.parent
    where = ("--workspace", workspace, "--device", "cpu")
    code, out, err = run("tune", *where)
    assert code == 0, err
    assert "Chosen on" in out
    assert str(tuning_path(bench.ensemble.models)) in out
    code, out, _ = run("tune", "--json", *where)
    assert code == 0
    assert json.loads(out)["gains"]["all"]["gain"] > 0
    code, out, _ = run("compare-models", *where)
    assert code == 0
    assert "Recommended: " in out
    code, out, _ = run("out-of-fold", "--json", *where)
    assert set(json.loads(out)["folds"]) == set(bench.train)


def test_predictions_use_the_choice_and_say_so(bench, run, monkeypatch):
    bench.tune()
    decided = []

    def predict(ensemble, scans, *, decision, on_scan, **_):
        decided.append(decision)
        rows = [
            [(f"{scan.scan_id}_slice_{n:04d}", organ, "") for n in scan.numbers for organ in ORGANS]
            for scan in scans
        ]
        return tuple(
            SimpleNamespace(scan_id=scan.scan_id, rows=tuple(r), seconds=1.0)
            for scan, r in zip(scans, rows, strict=True)
        )

    monkeypatch.setattr(parts, "predict_scans", predict)
    where = ("--workspace", bench.workspace.raw.parent, "--device", "cpu", "--fold", "cv")
    code, _, err = run("predict-and-score", *where, "--out", "a")
    assert code == 0, err
    assert isinstance(decided[0], Decision)
    assert set(decided[0].organs) == set(ORGANS)
    assert "Tuning: large bowel, small bowel, stomach; cross-fitted gain +" in err
    assert "chosen on these very scans" in err
    assert read_json(bench.workspace.raw.parent.parent / "a" / "score.json")["tuning"]["decision"]
    code, _, err = run("predict-and-score", *where, "--out", "b", "--no-tuning")
    assert decided[1] is None
    assert "Tuning: none" in err


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
    with pytest.raises(InputError, match="is damaged"):
        adopt_tuning({**tuned.pack(), "decision": 3}, ensemble.models)
    assert not path.exists()
