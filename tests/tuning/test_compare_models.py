"""Which models are recommended, and that the command printed uses them; no engine."""

import json
import os
import re
import shlex

import pytest

from gi2nnunet.core.errors import InputError
from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.nnunet.models import IMPORT_RECORD
from gi2nnunet.prediction import evaluate, out_of_fold
from gi2nnunet.prediction.predict import PredictedScan, PredictedScans
from gi2nnunet.tuning.compare_models import compare_all_models
from tests.fold_bench import Bench
from tests.model_factory import write_model

MIB = 1 << 20
FOLDS = (0, 1, 2)


@pytest.fixture
def bench(tmp_path, monkeypatch):
    made = Bench(tmp_path)
    monkeypatch.setattr(out_of_fold, "predict_scans", made.engine)
    return made


def compare(bench, **options):
    return compare_all_models(bench.dataset, **bench.compute(), jobs=1, **options)


def make_newest(folder, when):
    for path in folder.glob("fold_*/checkpoint_final.pth"):
        os.utime(path, (when, when))


def test_models_are_compared_with_their_cost_and_the_best_is_recommended(bench):
    bench.cut["3d_fullres"] = 0.5  # its mistakes lie below one half
    compared = compare(bench)
    entries = {entry.name: entry for entry in compared.entries}
    assert set(entries) == {"2d", "3d_fullres", "2d + 3d_fullres"}
    assert compared.entries[0].score == pytest.approx(1.0)
    assert compared.best.difference == 0
    assert compared.entries[-1].difference < -0.01
    assert all(entry.score_low <= entry.score <= entry.score_high for entry in entries.values())
    assert entries["2d"].score_low < entries["2d"].score_high
    # An ensemble's prediction holds both networks and their logits at once.
    assert entries["2d"].peak_memory_bytes == 5 * MIB
    assert entries["2d + 3d_fullres"].peak_memory_bytes == 10 * MIB
    told = json.loads(json.dumps(compared.to_json()))
    assert told["recommended"] == compared.best.name
    assert told["entries"][-1]["score_low"] == compared.entries[-1].score_low
    assert told["warnings"] == []


def test_every_combination_of_one_trainer_and_plan_is_compared(bench):
    write_model(bench.workspace.results, configuration="3d_lowres", folds=FOLDS)
    write_model(bench.workspace.results, plans="nnUNetPlans", folds=FOLDS)
    tiny = " (nnUNetTrainer, gi2nnunetTinyPlans)"
    assert {entry.name for entry in compare(bench).entries} == {
        f"2d{tiny}",
        f"3d_fullres{tiny}",
        f"3d_lowres{tiny}",
        f"2d + 3d_fullres{tiny}",
        f"2d + 3d_lowres{tiny}",
        f"3d_fullres + 3d_lowres{tiny}",
        f"2d + 3d_fullres + 3d_lowres{tiny}",
        "2d (nnUNetTrainer, nnUNetPlans)",
    }


def test_a_presets_name_finds_its_plans_with_other_sizes_and_a_plans_name_does_not(bench):
    write_model(bench.workspace.results, plans="gi2nnunetTinyPlans_b4", folds=FOLDS)
    write_model(bench.workspace.results, plans="nnUNetPlans", folds=FOLDS)

    def plans_of(preset):
        names = {f for entry in compare(bench, preset=preset).entries for f in entry.folders}
        return {name.split("__")[1] for name in names}

    assert plans_of("tiny") == {"gi2nnunetTinyPlans", "gi2nnunetTinyPlans_b4"}
    assert plans_of("gi2nnunetTinyPlans") == {"gi2nnunetTinyPlans"}
    assert plans_of("default") == {"nnUNetPlans"}


@pytest.fixture
def used(monkeypatch):
    """The ensemble that a prediction gets, and how it is computed."""
    seen = []

    def predict(ensemble, scans, *, engine, settings, on_scan, **_):
        seen.append((ensemble, engine, settings))
        predicted = (
            PredictedScan(
                scan_id=scan.scan_id,
                rows=tuple(
                    (f"{scan.scan_id}_slice_{n:04d}", organ, "")
                    for n in scan.numbers
                    for organ in ORGANS
                ),
                seconds=1.0,
            )
            for scan in scans
        )
        return PredictedScans(scans=tuple(predicted))

    monkeypatch.setattr(evaluate, "predict_scans", predict)
    return seen


@pytest.mark.parametrize("best", ["2d", "3d_fullres"])
def test_the_printed_command_uses_the_recommended_models_and_no_others(bench, run, used, best):
    """A newer model of the same preset with another batch size, and a newer trainer, stand by."""
    bench.cut = {"2d": 0.7, "3d_fullres": 0.7, best: 0.5}
    for number, (plans, trainer) in enumerate(
        (("gi2nnunetTinyPlans_b4", "nnUNetTrainer"), ("gi2nnunetTinyPlans", "nnUNetTrainerDA5"))
    ):
        for configuration in ("2d", "3d_fullres"):
            folder = write_model(
                bench.workspace.results, configuration=configuration, folds=FOLDS, plans=plans,
                trainer=trainer,
            )  # fmt: skip
            make_newest(folder, 4e9 + number)
    other = bench.workspace.raw / "Dataset502_Other"
    other.mkdir()
    (other / "manifest.json").write_bytes((bench.dataset.folder / "manifest.json").read_bytes())
    asked = ("--no-mirroring", "--step-size", "0.75", "--threads", "3", "--device", "cpu",
             "--metric", "slice-2d")  # fmt: skip
    code, out, err = run(
        "compare-models", "--id", 501, "--workspace", bench.workspace.raw.parent, *asked,
        "--preset", "gi2nnunetTinyPlans", "--trainer", "nnUNetTrainer",
    )  # fmt: skip
    assert code == 0, err
    (line,) = [line for line in out.splitlines() if line.startswith("gi2nnunet ")]
    words = shlex.split(line)[1:]
    code, _, err = run(*words, "--out", "made")
    assert code == 0, err
    ((ensemble, engine, settings),) = used
    assert [m.folder.name for m in ensemble.models] == [
        f"nnUNetTrainer__gi2nnunetTinyPlans__{best}"
    ]
    assert ensemble.folds == FOLDS
    assert (settings.mirroring, settings.step_size, engine.threads) == (False, 0.75, 3)
    assert words[words.index("--metric") + 1] == "slice-2d"
    assert words[words.index("--device") + 1] == "cpu"


def test_a_model_that_cannot_be_compared_is_left_out_and_named(bench, run):
    write_model(bench.workspace.results, plans="nnUNetPlans", folds=(0, 2, "all"))
    imported = write_model(bench.workspace.results, plans="theirs", folds=FOLDS)
    for fold in FOLDS:
        (imported / f"fold_{fold}" / IMPORT_RECORD).write_text('{"trained_on": null}')
    compared = compare(bench)
    assert {entry.name for entry in compared.entries} == {"2d", "3d_fullres", "2d + 3d_fullres"}
    missing, unknown = compared.warnings
    assert missing == "nnUNetTrainer__nnUNetPlans__2d: left out, as fold 1 is not trained"
    assert unknown.startswith("nnUNetTrainer__theirs__2d: left out.")
    assert "not known which scans" in unknown
    where = ("--workspace", bench.workspace.raw.parent, "--device", "cpu")
    code, out, err = run("compare-models", *where, "--json")
    assert code == 0
    assert json.loads(out)["warnings"] == list(compared.warnings)
    assert "Warning: nnUNetTrainer__nnUNetPlans__2d: left out" in err
    bench.asked.clear()
    with pytest.raises(InputError, match=r"no configuration with every fold(?s:.*)not known which"):
        compare(bench, preset="theirs")


def test_a_model_of_another_label_scheme_is_refused_before_anything_is_predicted(bench):
    folder = write_model(bench.workspace.results, configuration="3d_lowres", folds=FOLDS)
    described = json.loads((folder / "dataset.json").read_text())
    described["labels"]["stomach"] = 3
    (folder / "dataset.json").write_text(json.dumps(described))
    with pytest.raises(InputError, match=r"3d_lowres: found labels .*expected those of .*raw"):
        compare(bench)
    assert bench.asked == []


def test_without_a_whole_set_of_folds_there_is_nothing_to_compare(tmp_path):
    bench = Bench(tmp_path, folds=(0, 1))
    with pytest.raises(InputError, match=r"no configuration with every fold(?s:.*)as fold 2 is"):
        compare(bench)


@pytest.mark.parametrize("columns", [80, 140])
def test_the_table_can_be_read_at_any_width(bench, run, monkeypatch, columns):
    """Nothing is cut off, and the score stands with its interval."""
    bench.cut["3d_fullres"] = 0.5
    write_model(bench.workspace.results, plans="nnUNetResEncUNetXLPlans", folds=FOLDS)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    where = ("--workspace", bench.workspace.raw.parent, "--device", "cpu")
    code, out, err = run("compare-models", *where)
    assert code == 0, err
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out)
    table = [line for line in plain.splitlines() if line.startswith(("│", "┃"))]
    assert max(map(len, table)) <= columns
    assert "…" not in plain
    columns_of = list(zip(*(re.split("[│┃]", line)[1:-1] for line in table), strict=True))
    told = [" ".join(" ".join(column).split()) for column in columns_of]
    assert "nnUNetResEncUNetXLPlans" in told[0].replace(" ", "")
    assert told[1].startswith("score 1.0000 (1.00 to 1.00)")
    assert re.search(r"-0\.[0-9]{4} \(-0\.[0-9]{4} to -0\.[0-9]{4}\)", told[2])
    assert told[4].startswith("GiB at most")
    assert told[5].startswith("GPU GiB at most")
