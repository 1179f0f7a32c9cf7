"""Remedies about models and predictions, done with a stand-in for nnU-Net's processes."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gi2nnunet.core.errors import EngineError, InputError
from gi2nnunet.core.files import hidden_name
from gi2nnunet.core.locks import hold
from gi2nnunet.formats.labels import split_organs
from gi2nnunet.formats.probabilities import SUFFIX, to_eight_bits, write_probabilities
from gi2nnunet.formats.submission import encode_scan
from gi2nnunet.nnunet import cards, presets
from gi2nnunet.nnunet import engine as engine_module
from gi2nnunet.nnunet.cards import Card, CardTest
from gi2nnunet.nnunet.child import weights
from gi2nnunet.nnunet.models import record_digest
from gi2nnunet.nnunet.presets import PlanOptions
from gi2nnunet.nnunet.process import find_remedy
from gi2nnunet.prediction import evaluate, out_of_fold
from gi2nnunet.prediction.predict import PredictedScan, PredictedScans
from gi2nnunet.training import doctor, machine, plan, train
from gi2nnunet.training.machine import Disk
from tests.cli.slurm.test_submit import Slurm
from tests.model_factory import DATASET, make_checkpoint, make_plans
from tests.remedies import follow
from tests.source_factory import make_source, write_source

Run = Callable[..., Any]
SCANS = ("case2_day1", "case2_day10", "case10_day0", "case11_day3")
SPACE = Path("gi2nnunet-workspace")
CPU = ("--device", "cpu")
TINY = (*CPU, "--preset", "tiny", "--config", "2d")


class Engine:
    """Stands for nnU-Net's processes: "trains" untrained weights, and predicts what is true."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.dies = False
        self.environment: Mapping[str, str] = {}
        self._truth = make_source(SCANS).truth
        monkeypatch.setattr(engine_module, "run_engine", self._run)
        monkeypatch.setattr(plan, "plan_dataset", self._plan)
        monkeypatch.setattr(train, "require_prepared", lambda *_: None)
        monkeypatch.setattr(evaluate, "predict_scans", self._predict)
        monkeypatch.setattr(out_of_fold, "predict_scans", self._predict_folds)

    def _run(self, task: str, options: Mapping[str, Any], **asked: Any) -> dict[str, Any]:
        self.environment = asked["environment"]
        if task == "train":
            return self._train(options, asked["on_event"])
        if task == "installation":
            return {"failed_imports": {}}
        name = {"inspect": "inspection"}.get(task, task)
        done: dict[str, Any] = getattr(weights, f"run_{name}")(**options)
        return done

    def _plan(self, dataset: Any, options: PlanOptions, *, engine: Any, **_: Any) -> plan.Plan:
        preset = presets.PRESETS[options.preset]
        folder = engine.workspace.preprocessed / dataset.name
        shutil.copy(dataset.folder / "dataset.json", folder)
        planned = {
            name: plan.PlannedConfiguration(
                name=name, data_folder=folder / name, batch_size=2, patch_size=(32, 32),
                spacing_mm=(3.0, 3.0),
            )
            for name in options.configurations
        }  # fmt: skip
        return plan.Plan(
            preset=preset, plans_name=preset.plans_name, plans_file=folder / "plans.json",
            configurations=planned, log=None,
        )  # fmt: skip

    def _train(self, options: Mapping[str, Any], on_event: Callable[..., Any]) -> dict[str, Any]:
        names = [options[key] for key in ("trainer", "plans_name", "configuration")]
        folder = SPACE / "results" / Path(options["dataset_folder"]).name / "__".join(names)
        place = folder / f"fold_{options['fold']}"
        place.mkdir(parents=True, exist_ok=True)
        (folder / "plans.json").write_text(json.dumps(make_plans()))
        shutil.copy(SPACE / "raw" / DATASET / "dataset.json", folder)
        on_event({"event": "start"})
        state = "latest" if self.dies else "final"
        path = place / f"checkpoint_{state}.pth"
        torch.save(make_checkpoint(fold=options["fold"]), path)
        record_digest(path, path)
        if self.dies:
            raise EngineError("killed")
        return {}

    def _predict(self, _: Any, scans: Sequence[Any], *, on_scan: Any, **__: Any) -> PredictedScans:
        done = []
        for scan in scans:
            rows = encode_scan(scan.scan_id, scan.numbers, self._truth[scan.scan_id].bits)
            done.append(PredictedScan(scan_id=scan.scan_id, rows=tuple(rows), seconds=2.0))
            on_scan(done[-1])
        return PredictedScans(scans=tuple(done))

    def _predict_folds(
        self, ensemble: Any, scans: Sequence[Any], *,
        probability_folders: Any, about: Any, on_scan: Any, **_: Any,
    ) -> PredictedScans:  # fmt: skip
        (model,) = ensemble.models
        for scan in scans:
            truth = split_organs(self._truth[scan.scan_id].bits)
            beside = np.roll(truth, 1, axis=-1) & ~truth  # a higher threshold is better
            write_probabilities(
                probability_folders[model.folder.name] / f"{scan.scan_id}{SUFFIX}",
                to_eight_bits(truth * 0.95 + beside * 0.65), scan_id=scan.scan_id,
                numbers=scan.numbers, spacing_mm=(3, 1.5, 1.5), about=about[scan.scan_id],
            )  # fmt: skip
            on_scan(scan)
        return PredictedScans(scans=(), peaks={"peak_memory_bytes": 5 << 20})


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    return Engine(monkeypatch)


@pytest.fixture
def converted(here: Path, run: Run, engine: Engine) -> str:
    """What a conversion says; ``source`` and a workspace of three folds lie here then."""
    write_source(here / "source", make_source(SCANS))
    code, out, err = run("convert", "source", "--holdout", "0")
    assert code == 0
    return str(out + err)


@pytest.fixture
def folds(converted: str, run: Run) -> Path:
    """The model folder of three trained folds."""
    assert run("train", "--fold", "cv", *TINY)[0] == 0
    return find("results/*/*__2d")


def find(pattern: str) -> Path:
    return sorted(SPACE.glob(pattern))[0]


def report(run: Run) -> str:
    assert run("report", "--out", "page.html")[0] == 0
    return Path("page.html").read_text()


def say(run: Run, *words: str) -> str:
    """Run a command; return all that it says, whatever its exit code."""
    return "\n".join(run(*words)[1:])


def verify(run: Run) -> None:
    code, *said = run("verify")
    assert code == 0, said


def change(path: Path) -> None:
    """Change a byte in the middle of a file, its size kept."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


# -- what is not trained yet


def test_a_first_model_is_trained(
    converted: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = converted + say(run, "predict-and-score", *CPU) + report(run)
    monkeypatch.setattr(machine.shutil, "which", lambda _: None)  # no Slurm
    monkeypatch.setattr(machine, "_TRACES_OF_GPUS", ("/",))
    with_gpu = say(run, "status")
    monkeypatch.setattr(machine, "_TRACES_OF_GPUS", ())
    without_gpu = say(run, "status")

    def start(*words: str) -> Any:
        shutil.rmtree(SPACE / "results", ignore_errors=True)
        done = run(*words)
        assert run("predict-and-score", *CPU)[0] == 0
        return done

    follow("Train one with gi2nnunet train --fold all.", said, start, *TINY)
    follow("Nothing is trained yet: gi2nnunet train --fold all", said, start, *TINY)
    follow("gi2nnunet train --fold all", with_gpu, start, *TINY)
    follow("gi2nnunet train --fold all --preset tiny", without_gpu, start, *CPU)


def test_a_checkpoint_that_is_missing_is_trained(converted: str, run: Run) -> None:
    model = SPACE / "results" / DATASET / "nnUNetTrainer__gi2nnunetTinyPlans__2d"
    path = model / "fold_all/checkpoint_final.pth"
    with pytest.raises(InputError) as missing:
        weights.load_checkpoint(path)
    follow("Train it with gi2nnunet train.", str(missing.value), run, *TINY)
    weights.load_checkpoint(path)


def test_the_missing_folds_are_trained(converted: str, run: Run) -> None:
    run("train", "--fold", "all", *TINY)
    said = say(run, "predict-and-score", *CPU, "--fold", "0")
    follow("Train what is missing with: gi2nnunet train {}", said, run, *CPU)
    assert run("predict-and-score", *CPU, "--fold", "0")[0] == 0
    said, shown = say(run, "compare-models", *CPU), report(run)
    follow("Train them with gi2nnunet train --fold cv.", said, run, *TINY)
    assert run("out-of-fold", *CPU)[0] == 0
    for fold in (1, 2):
        shutil.rmtree(find(f"results/*/*/fold_{fold}"))
    follow(
        "Run gi2nnunet train --fold cv with the same options to train the rest.", shown, run, *TINY
    )
    assert run("out-of-fold", *CPU)[0] == 0


def test_missing_folds_are_trained_with_the_settings_of_the_others(
    converted: str, run: Run
) -> None:
    (SPACE / "results").mkdir()
    for asked, sentences in (
        (("tune",), 1),
        (("predict-and-score", "--fold", "0", "--fold", "1"), 1),
        (("predict-and-score", "--config", "2d", "--config", "3d_fullres"), 1),
        (("predict-and-score", "--config", "2d", "--config", "3d_fullres", "--fold", "2"), 2),
    ):
        shutil.rmtree(SPACE / "results")
        assert run("train", "--fold", "0", "--epochs", "1", *TINY)[0] == 0
        lines = re.split(" (?=Train what)", say(run, *asked, *CPU))[1:]
        assert len(lines) == sentences
        for line in lines:
            assert "--epochs 1 " in line
            follow("Train what is missing with: gi2nnunet train {}", line, run, *CPU)
        assert run(*asked, *CPU)[0] == 0
    said = say(run, "predict", "--preset", "resenc-m", *CPU)
    assert said.rstrip().endswith("--preset resenc-m")  # the settings of tiny are not for it


def test_models_of_a_single_patient_are_scored_on_its_own_scans(
    here: Path, run: Run, engine: Engine
) -> None:
    write_source(here / "one", make_source(SCANS[:2]))
    assert run("convert", "one")[0] == 0
    (SPACE / "preprocessed" / DATASET).mkdir(parents=True, exist_ok=True)  # as planning does
    assert run("train", "--fold", "all", *TINY)[0] == 0
    said = say(run, "compare", "2d", "2d")
    assert said.count("found no predictions") == said.count("with: gi2nnunet") == 1
    follow(
        "Score the scans that the models were trained on with: gi2nnunet predict-and-score {}",
        said, run, *CPU,
    )  # fmt: skip
    assert run("score", "in-sample")[0] == 0
    said = say(run, "tune", *CPU)
    assert "has no folds" in said
    assert "--fold all" not in said  # no option of this command


def test_an_interrupted_training_is_continued(converted: str, run: Run, engine: Engine) -> None:
    engine.dies = True
    assert run("train", *TINY)[0] == 4
    engine.dies = False
    said = report(run)
    _, out, _ = follow("Run the same gi2nnunet train again to continue it.", said, run, *TINY)
    assert "resumed and finished" in out
    assert run("predict-and-score", *CPU)[0] == 0


# -- predictions, probabilities and tunings


def test_what_is_not_predicted_or_tuned_yet_is(folds: Path, run: Run) -> None:
    bare, shown = report(run), say(run, "status")
    follow("Nothing is predicted yet: gi2nnunet predict-and-score", bare, run, *CPU)
    shutil.rmtree(SPACE / "predictions")
    err = follow("gi2nnunet predict-and-score", shown, run, *CPU)[2]
    untuned = say(run, "status")
    follow(
        "Tuning: none (if every fold is trained, gi2nnunet tune chooses settings from "
        "out-of-fold predictions)", err, run, *CPU,
    )  # fmt: skip
    tuning = find("results/*/gi2nnunet_tuning_*.json")
    tuning.unlink()
    said = str(follow("gi2nnunet tune", untuned, run, *CPU))
    changed = bool(json.loads(tuning.read_text())["decision"])
    assert ("no setting is changed" not in said) == ("apply these settings" in said) == changed
    tuning.unlink()
    follow("Nothing is tuned yet, though every fold is trained: gi2nnunet tune", bare, run, *CPU)
    assert tuning.is_file()
    follow("gi2nnunet report", say(run, "status"), run)
    assert "Nothing is left." in say(run, "status")


def test_a_truth_is_compared_with_predictions_that_are_made(folds: Path, run: Run) -> None:
    check = ("check", "source", "--out-of-fold", "--html", "check")
    follow("Make them with: gi2nnunet out-of-fold", say(run, *check), run, *CPU)
    assert run(*check)[0] in (0, 1)


def test_damaged_probabilities_are_made_again(folds: Path, run: Run) -> None:
    run("tune", *CPU)
    stored = find(f"**/*{SUFFIX}")
    whole = stored.read_bytes()

    def mend(*words: str) -> Any:
        done = run(*words)
        assert stored.read_bytes() == whole
        verify(run)
        return done

    change(stored)
    said = say(run, "verify")
    stored.unlink()
    follow("Delete it, then run: gi2nnunet out-of-fold", said, mend, *CPU)
    stored.write_bytes(whole[:-6] + bytes([whole[-6] ^ 1]) + whole[-5:])  # its checksum
    said = say(run, "verify")
    assert run("tune", *CPU)[0] == 0
    assert stored.read_bytes() == whole
    stored.unlink()
    follow("expected probabilities as gi2nnunet out-of-fold writes them.", said, mend, *CPU)
    stored.write_bytes(gzip.compress(b"{}"))
    said = say(run, "verify")
    stored.unlink()
    follow("Delete it and run gi2nnunet out-of-fold again.", said, mend, *CPU)
    stored.unlink()
    stored.mkdir()
    said = say(run, "verify")
    stored.rmdir()
    follow("Make it again with: gi2nnunet out-of-fold", said, mend, *CPU)


def test_a_tuning_of_other_settings_is_made_again(folds: Path, run: Run) -> None:
    run("tune", *CPU)
    path = find("results/*/gi2nnunet_tuning_*.json")
    tuning = json.loads(path.read_text())
    path.write_text(json.dumps({**tuning, "decision": tuning["found"]}))
    other = (*CPU, "--no-mirroring")
    said = say(run, "predict-and-score", *other)
    follow("give the same options, or run gi2nnunet tune with these", said, run, *other)
    assert json.loads(path.read_text())["computing"]["mirroring"] is False
    assert "run gi2nnunet tune" not in run("predict-and-score", *other)[2]


def test_a_damaged_score_is_written_again(folds: Path, run: Run) -> None:
    run("predict-and-score", *CPU)
    find("predictions/*/*/score-per-class.json").write_text("{")
    said = say(run, "verify")
    follow("Run the same gi2nnunet predict-and-score again to write it.", said, run, *CPU)
    verify(run)


def test_a_prediction_that_is_the_same_is_used_and_predicted_again(folds: Path, run: Run) -> None:
    words = ("predict-and-score", *CPU, "--metric", "joined")
    assert "Predicting " in run("predict-and-score", *CPU)[2]
    _, out, err = run(*words)
    assert "Predicting " not in err
    assert "Using the predictions of " in err
    assert "To predict again, add --again." in err
    assert "score-joined.json" in out
    find("predictions/*/*/score-per-class.json")
    code, _, err = run(*words, "--again")
    assert code == 0
    assert "Predicting " in err
    verify(run)


def test_a_report_of_another_folder_names_what_it_takes(folds: Path, run: Run) -> None:
    said = say(run, "report", "--prediction", "source")
    follow(
        "expected the output folder of gi2nnunet predict or predict-and-score.", said, run,
        "source", "--out", "predicted", *CPU,
    )  # fmt: skip
    assert run("report", "--prediction", "predicted")[0] == 0


# -- models that are passed on


def pack_theirs(model: Path, name: str) -> None:
    """Write a zip as nnU-Net's export does: the files by their paths in the results."""
    with zipfile.ZipFile(name, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(model.rglob("*.*")):
            if path.suffix in (".json", ".pth") and not path.name.startswith("gi2nnunet"):
                archive.write(path, path.relative_to(model.parent.parent))


def test_a_model_file_is_made_and_taken_in(folds: Path, run: Run) -> None:
    said = say(run, "import-model", "m.zip", "--workspace", "theirs")
    follow(
        "Make one with: gi2nnunet export-model --workspace WORKSPACE", said, run,
        WORKSPACE=SPACE,
    )  # fmt: skip
    model = "model.gi2nnunet"
    shutil.rmtree(SPACE)
    (SPACE / "results").mkdir(parents=True)
    nothing = say(run, "predict", "source", *CPU)
    follow("Take one in with: gi2nnunet import-model MODEL;", nothing, run, MODEL=model)
    said = run("import-model", model)[2] + "\n" + say(run, "status")
    follow("Predict with: gi2nnunet predict SOURCE --id {}", said, run, *CPU, SOURCE="source")
    follow("gi2nnunet predict SOURCE", said, run, *CPU, SOURCE="source")
    shutil.rmtree(SPACE / "results")
    follow("or, to train one, begin with: gi2nnunet convert SOURCE", nothing, run, SOURCE="source")
    assert run("train", *TINY)[0] == 0


def test_other_files_than_models_are_refused_with_what_takes_them(folds: Path, run: Run) -> None:
    other = ("--workspace", "theirs")
    with zipfile.ZipFile("bad.zip", "w") as archive:
        archive.writestr("a", "b")
    said = say(run, "import-model", "bad.zip", *other)
    follow(
        "expected a model made by gi2nnunet export-model or nnUNetv2_export_model_to_zip.", said,
        run, "--out", "one.zip",
    )  # fmt: skip
    said += say(run, "import-model", "source", *other)
    follow(
        "expected a file made by gi2nnunet export-model or nnUNetv2_export_model_to_zip.", said,
        run, "--out", "two.zip",
    )  # fmt: skip
    assert run("import-model", "one.zip", *other)[0] == 0
    assert run("import-model", "two.zip", *other)[0] == 0
    follow("data are taken by gi2nnunet convert.", said, run, "source", "--holdout", "0")


def test_models_that_are_given_as_a_source_are_taken_in(folds: Path, run: Run) -> None:
    run("export-model", "--out", "m.zip")
    pack_theirs(folds, "theirs.zip")
    Path("weights").mkdir()
    shutil.copy(folds / "fold_0/checkpoint_final.pth", "weights")
    said = say(run, "convert", "m.zip")
    shutil.rmtree(SPACE / "results")
    follow("Take it in with: gi2nnunet import-model {}", said, run)
    assert run("predict-and-score", *CPU)[0] == 0
    shutil.rmtree(SPACE / "results")
    said = say(run, "convert", "weights")
    follow(
        "To use models that nnU-Net trained, pack them with nnUNetv2_export_model_to_zip, and take "
        "them in with gi2nnunet import-model.", said, run, "theirs.zip",
    )  # fmt: skip
    assert run("predict", "source", "--out", "o", *CPU)[0] == 0


def test_models_of_unknown_scans_are_trained_here(folds: Path, run: Run) -> None:
    pack_theirs(folds, "theirs.zip")
    shutil.rmtree(SPACE / "results")
    assert run("import-model", "theirs.zip")[0] == 0
    said = say(run, "out-of-fold", *CPU)
    follow(
        "Train others in their place with gi2nnunet train --fold cv --restart.", said, run, *TINY
    )
    assert run("out-of-fold", *CPU)[0] == 0


def test_a_damaged_import_is_made_again(folds: Path, run: Run) -> None:
    run("export-model", "--out", "m.zip")
    shutil.rmtree(SPACE / "results")
    run("import-model", "m.zip")
    checkpoint = find("results/*/*/fold_0/checkpoint_final.pth")
    change(checkpoint)
    said = say(run, "verify")
    follow("Import it again: gi2nnunet import-model {} --replace", said, run)
    assert run("predict-and-score", *CPU)[0] == 0
    checkpoint.with_name("gi2nnunet_imported.json").write_text("{")
    said = say(run, "predict-and-score", *CPU)
    follow(
        "Import the model again: gi2nnunet import-model MODEL --replace", said, run, MODEL="m.zip"
    )
    assert run("predict-and-score", *CPU)[0] == 0
    verify(run)


def test_folds_that_a_model_file_lacks_are_removed_first(folds: Path, run: Run) -> None:
    run("export-model", "--fold", "0", "--out", "m.zip")
    replace = ("import-model", "m.zip", "--replace")
    said = say(run, *replace)
    follow(
        "Choose another --workspace, or remove what you do not need with: gi2nnunet remove {}",
        said, run, "--yes",
    )  # fmt: skip
    assert run(*replace)[0] == 0
    assert [path.name for path in SPACE.glob("results/*/*/fold_*")] == ["fold_0"]


def test_an_interrupted_import_is_completed(folds: Path, run: Run) -> None:
    run("export-model", "--out", "m.zip")
    shutil.rmtree(SPACE / "results")
    part = SPACE / f"results/.{DATASET}.part"
    part.mkdir(parents=True)
    said = say(run, "verify")
    follow("Run that gi2nnunet import-model again to complete it;", said, run, "m.zip")
    verify(run)


# -- the workspace


def test_a_damaged_dataset_and_an_interrupted_removal_come_first(folds: Path, run: Run) -> None:
    fold = folds / "fold_2"
    hidden = hidden_name(fold)
    fold.rename(hidden)
    said, shown = say(run, "verify"), json.loads(run("status", "--json")[1])
    follow("Finish it with: gi2nnunet remove {}", said, run, "--yes")
    assert not hidden.exists()
    hidden.mkdir()
    follow("gi2nnunet remove {}", shown["next_step"]["command"], run, "--yes")
    assert not hidden.exists()
    said = say(run, "remove", "nothing", "--yes")
    follow("gi2nnunet status shows the names.", said, run)
    manifest = find("raw/*/manifest.json")
    whole = manifest.read_bytes()
    manifest.write_text("{")
    same: Any = {"SOURCE": "source"}
    follow("gi2nnunet convert SOURCE", say(run, "status"), run, "--holdout", "0", **same)
    assert json.loads(manifest.read_bytes())["files"] == json.loads(whole)["files"]


def test_folds_of_ones_own_are_taken(converted: str, run: Run) -> None:
    path = find("preprocessed/*/splits_final.json")
    folds = json.loads(path.read_text())
    path.write_text(json.dumps(folds[::-1]))
    said = say(run, "verify")
    follow(
        "To use these folds: gi2nnunet convert SOURCE --splits {}", said, run, "--holdout", "0",
        SOURCE="source",
    )  # fmt: skip
    assert json.loads(path.read_text()) == folds[::-1]
    verify(run)


def test_what_runs_is_watched_to_its_end(converted: str, run: Run) -> None:
    with hold(SPACE / "predictions/held-out/x/prediction", purpose="predicting"):
        said = say(run, "status")
    _, out, _ = follow("gi2nnunet status --watch", said, run)
    assert "converted" in out or "Dataset501" in out


def test_submitted_jobs_are_shown(
    converted: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit")
    (tmp_path / "bin").mkdir()
    Slurm(tmp_path / "bin", monkeypatch)
    said = run("train", "--preset", "tiny", "--fold", "cv", "--on", "slurm", "--slurm", "gpus=0")[2]
    _, out, _ = follow("Next: gi2nnunet jobs", said, run)
    assert "train_2d_fold_0" in out


# -- the machine


def test_the_doctor_lists_what_stops_a_training(
    converted: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(folder: Path) -> Disk:
        return Disk(folder=folder, device=1, free_bytes=1 << 20, writable=True)

    monkeypatch.setattr(doctor, "measure_disk", measure)
    said = say(run, "train", *TINY)

    def list_faults(*words: str) -> None:
        code, out, _ = run(*words)
        assert (code, "Error: disk: " in out) == (3, True)

    follow(
        "Run gi2nnunet doctor for the full list, or use --no-checks to continue anyway.", said,
        list_faults, *TINY,
    )  # fmt: skip
    assert run("train", *TINY, "--no-checks")[0] == 0


def test_a_card_that_cannot_compute_or_compile(
    converted: str, run: Run, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = find_remedy("no kernel image is available")
    compiler = find_remedy("InductorError")
    monkeypatch.setattr(cards, "_list_missing", lambda _: [])
    test = CardTest(compile_failure="it is odd")
    fault = cards._judge(Card(index=0, name="T4"), test, {}).compile_fault
    assert other
    assert compiler
    assert fault

    def train_plainly(*words: str) -> Any:
        shutil.rmtree(SPACE / "results", ignore_errors=True)
        with monkeypatch.context() as changed:
            changed.setenv("nnUNet_compile", "f")
            done = run(*words)
        assert engine.environment["nnUNet_compile"] == "f"
        engine.environment = {}
        return done

    follow("gi2nnunet doctor says more.", other, run, *TINY)
    follow("train without torch.compile: {}=f gi2nnunet train ...", compiler, train_plainly, *TINY)
    follow("Train without it: {}=f gi2nnunet train ...", fault.remedy, train_plainly, *TINY)


# -- the dataset


def test_a_volume_of_another_shape_is_found_by_verify(folds: Path, run: Run) -> None:
    run("predict-and-score", *CPU)
    path = find("raw/*/manifest.json")
    manifest = json.loads(path.read_text())
    manifest["scans"][0]["shape"][1] += 1
    path.write_text(json.dumps(manifest))

    def list_findings(*words: str) -> None:
        code, out, _ = run(*words)
        assert (code, manifest["scans"][0]["scan_id"] in out) == (3, True)

    follow("gi2nnunet verify finds all such files.", say(run, "report"), list_findings)
