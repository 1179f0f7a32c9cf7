import csv
import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import imagecodecs
import nibabel
import numpy as np
import pytest

from gi2nnunet.core.errors import EngineError, InputError, OutputError
from gi2nnunet.core.seals import hash_file
from gi2nnunet.formats.ids import LABEL_SCHEMES
from gi2nnunet.formats.submission import encode_scan
from gi2nnunet.formats.volumes import write_volume
from gi2nnunet.nnunet import presets
from gi2nnunet.nnunet.presets import PlanOptions, TrainingSettings
from gi2nnunet.prediction import evaluate
from gi2nnunet.prediction.predict import PredictedScan, PredictedScans
from gi2nnunet.scoring.conventions import CONVENTIONS
from gi2nnunet.training import plan, train
from gi2nnunet.training.record import TrainingResult
from tests.bad_inputs.making import (
    FIRST_ROW,
    NAME,
    ROW,
    SCANS,
    TRUTH,
    finish_model,
    picture,
    with_rle,
    write_tables,
)
from tests.bad_inputs.models import zip_of
from tests.command_line import tree
from tests.source_factory import (
    ORGANS,
    MadeSource,
    encode_plain,
    make_scan,
    make_source,
    write_files,
    write_source,
)

OUTPUTS = ("submission.csv", "score-per-class.json", "score-per-class.csv", "truth.csv")


def read_csv(path):
    return list(csv.DictReader(io.StringIO(path.read_text())))


# -- help


def test_help_names_every_command_and_every_command_has_help_with_an_example(run):
    code, out, _ = run("--help")
    commands = (
        "phantom", "convert", "plan", "train", "predict-and-score", "predict", "encode", "score",
    )  # fmt: skip
    assert code == 0
    for command in commands:
        assert f" {command} " in out
        code, text, _ = run(command, "--help")
        assert code == 0
        assert f"Example: gi2nnunet {command} " in text


def test_a_tilde_behind_an_equals_sign_is_the_home_folder(run, here, monkeypatch):
    monkeypatch.setenv("HOME", str(here / "home"))
    write_files(here / "source", make_source(SCANS).files())
    assert run("convert", "source", "--workspace=~/w")[0] == 0
    labels = f"home/w/raw/{NAME}/labelsTr"
    assert run("encode", labels, "--out=~/all.csv")[0] == 0
    assert (here / "home/all.csv").is_file()
    assert run("encode", labels, "--out=~/b.csv", "--sample=~/all.csv")[0] == 0
    assert not (here / "~").exists()


def test_version_is_printed(run):
    code, out, _ = run("--version")
    assert code == 0
    assert re.fullmatch(r"gi2nnunet \S+ \(nnunetv2 \S+\)\n", out)


def test_it_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "gi2nnunet", "no-such-command"], capture_output=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"no-such-command" in done.stderr


# -- phantom, convert


def test_phantom_then_convert_write_whole_trees(run, here):
    code, out, err = run(
        "phantom", "--out", "source", "--patients", 5, "--days", 1, "--size", "48x40x8@6", "--easy",
        "--test-patients", 1, "--fill-sample", "--solution", "truth.csv", "--jobs", 1,
    )  # fmt: skip
    assert code == 0
    assert out.splitlines()[0].startswith(
        "source: 5 training scans of 5 patients, 1 test scan of 1 patient; 48 slices, "
    )
    assert "painting scans: 6 of 6" in err
    assert "gi2nnunet convert source" in err
    files = set(tree(here)) - {"truth.csv"}
    images = {name for name in files if name.endswith(".png")}
    assert len(images) == 48
    assert {Path(name).parts[1] for name in images} == {"train", "test"}
    tables = {"source/train.csv", "source/sample_submission.csv"}
    assert {n for n in files if (here / n).is_file()} == images | tables
    assert len(read_csv(here / "truth.csv")) == 8 * 3

    code, out, err = run("convert", "source", "--jobs", 1)
    assert code == 0
    workspace = here / "gi2nnunet-workspace"
    assert out == (
        f"gi2nnunet-workspace/raw/{NAME}: 4 training scans of 4 patients, 1 held-out scan of 1 "
        "patient, 1 unlabelled test scan of 1 patient; 4 folds\n"
    )
    assert "Warning: 4 folds instead of 5" in err
    assert "Workspace: gi2nnunet-workspace (the default)" in err
    assert "Next: gi2nnunet train --fold all" in err
    found = {name for name in tree(workspace) if (workspace / name).is_file()}
    raw = f"raw/{NAME}"
    assert len(found) == 6 + 5 + 6
    assert {n for n in found if not n.endswith(".nii.gz")} == {
        f"preprocessed/{NAME}/splits_final.json",
        *(
            f"{raw}/{name}"
            for name in (
                "dataset.json", "manifest.json", "sample_submission.csv", "splits_final.json",
                "truth.csv",
            )
        ),
    }  # fmt: skip
    counts = {
        folder: sum(n.startswith(f"{raw}/{folder}/") for n in found)
        for folder in ("imagesTr", "labelsTr", "imagesTs", "labelsTs")
    }
    assert counts == {"imagesTr": 4, "labelsTr": 4, "imagesTs": 2, "labelsTs": 1}

    before = tree(here)
    assert run("convert", "source")[0] == 0
    assert tree(here) == before


def test_convert_takes_its_options(run, here):
    write_files(here / "source", make_source().files())
    code, out, err = run(
        "convert", "source", "-w", "my space", "--id", 7, "--name", "Gut", "--labels", "exclusive",
        "--folds", 2, "--holdout", 0, "--seed", 3,
    )  # fmt: skip
    assert code == 0
    assert out == "my space/raw/Dataset007_Gut: 4 training scans of 3 patients; 2 folds\n"
    assert "Next: gi2nnunet train --workspace 'my space' --id 7 --fold all" in err
    manifest = json.loads((here / "my space/raw/Dataset007_Gut/manifest.json").read_text())
    said = {"dataset_id": 7, "name": "Gut", "labels": "exclusive", "folds": 2, "holdout": 0,
            "seed": 3}  # fmt: skip
    assert said.items() <= manifest["options"].items()


def test_convert_counts_given_test_scans_with_labels_as_held_out(run, here):
    for part, names in (("Tr", ("case1_day0", "case2_day0")), ("Ts", ("case3_day0", "case4_day0"))):
        for name in names:
            scan = make_scan(name)
            path = here / "n" / f"images{part}" / f"{name}_0000.nii.gz"
            write_volume(path, scan.image, spacing_mm=(3, 1, 1))
            if name != "case4_day0":
                path = here / "n" / f"labels{part}" / f"{name}.nii.gz"
                write_volume(path, scan.bits, spacing_mm=(3, 1, 1))
    code, out, _ = run("convert", "n", "-w", "w")
    assert code == 0
    assert out.endswith(
        ": 2 training scans of 2 patients, 1 held-out scan of 1 patient, "
        "1 unlabelled test scan of 1 patient; 2 folds\n"
    )


def test_nnunet_variables_name_the_workspace_where_all_are_set(run, here, monkeypatch):
    write_files(here / "source", make_source().files())
    for name in ("raw", "preprocessed"):
        monkeypatch.setenv(f"nnUNet_{name}", str(here / "mine" / name))
    _, _, err = run("train")
    assert "gi2nnunet-workspace" in err
    monkeypatch.setenv("nnUNet_results", str(here / "mine" / "results"))
    code, out, err = run("convert", "source")
    assert code == 0
    assert "nnU-Net's environment variables" in err
    assert out.startswith(f"mine/raw/{NAME}")
    assert (here / "mine" / "preprocessed" / NAME / "splits_final.json").is_file()
    assert not (here / "gi2nnunet-workspace").exists()
    _, out, _ = run("convert", "source", "--workspace", "other")
    assert out.startswith(f"other/raw/{NAME}")


def test_eight_bit_slices_are_a_warning(run, here):
    files = make_source().files()
    for name in [n for n in files if "case10_day0" in n]:
        files[name] = imagecodecs.png_encode(
            (imagecodecs.png_decode(files[name]) >> 8).astype("u1")
        )
    write_files(here / "source", files)
    code, _, err = run("convert", "source")
    assert code == 0
    assert "Warning: 8-bit slices in case10_day0" in err


def test_known_bad_scans_are_named_and_left_out(run, here):
    write_files(here / "source", make_source((*SCANS, "case7_day0")).files())
    code, out, err = run("convert", "source", "--holdout", 0)
    assert code == 0
    assert "4 training scans" in out
    assert re.search(r"Warning: .*case7_day0.*wrong masks", err)
    code, out, _ = run("convert", "source", "--holdout", 0, "--keep-known-bad", "-w", "other")
    assert code == 0
    assert "5 training scans" in out


# -- bad input: see bad_inputs/


def test_all_that_is_wrong_is_told_together(run, here):
    files = make_source(SCANS).files()
    with_rle("1 2 3")(files)
    for number in (2, 4):
        files[picture(files, "case2_day10", number)] = b""
    write_files(here / "source", files)
    code, _, err = run("convert", "source")
    assert code == 3
    assert FIRST_ROW in err
    assert "slice_0002" in err
    assert "slice_0004" in err


# -- other input


@pytest.fixture
def converted(run, here):
    """A converted source, two held-out scans or more among its four."""
    write_files(here / "source", make_source(SCANS).files())
    assert run("convert", "source", "--holdout", 0.4)[0] == 0
    return here


def test_a_gpu_that_is_not_there_is_refused(run, converted, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    before = {name for name in tree(converted) if (converted / name).is_file()}
    code, out, err = run("train", "--device", "cuda", "--preset", "tiny")
    assert (code, out) == (3, "")
    assert "--device cuda: found 0 CUDA GPUs" in err
    assert "use --device cpu" in err
    assert {name for name in tree(converted) if (converted / name).is_file()} == before


def test_another_split_after_training_is_refused(run, converted):
    finish_model(converted)
    before = tree(converted)
    code, out, err = run("convert", "source", "--holdout", 0)
    assert (code, out) == (3, "")
    assert "a model was trained on" in err
    assert "Convert into another workspace or under another number (--id, --name)" in err
    assert tree(converted) == before


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("convert source -w truth.csv/inner", "truth.csv/inner"),
        ("phantom --out truth.csv/inner --size 32x32x4 --patients 1 --jobs 1", "truth.csv/inner"),
        (f"encode gi2nnunet-workspace/raw/{NAME} --out truth.csv/o.csv", "truth.csv/o.csv"),
    ],
)
def test_a_place_that_cannot_be_written_is_an_output_error(run, converted, line, said):
    write_tables(converted)
    before = tree(converted)
    code, out, err = run(*line.split())
    assert (code, out) == (5, "")
    assert re.search(rf"Error: .*{said}\S*: cannot be (written|prepared)", err)
    assert "Traceback" not in err
    assert tree(converted) == before


def test_an_interrupted_command_says_so_without_a_traceback(run, converted, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(plan, "plan_dataset", interrupt)
    code, out, err = run("plan", "--device", "cpu", "--preset", "tiny")
    assert (code, out) == (130, "")
    assert "Error: interrupted." in err
    assert "Traceback" not in err


@pytest.mark.parametrize(("kind", "code"), [(EngineError, 4), (OutputError, 5), (InputError, 3)])
def test_each_failure_has_its_exit_code_and_is_told_as_it_is(
    run, converted, monkeypatch, kind, code
):
    def fail(*_, **__):
        raise kind("[bold]the[/] first line\nthe log's last line [3/7]")

    monkeypatch.setattr(plan, "plan_dataset", fail)
    found, out, err = run("plan", "--device", "cpu", "--preset", "tiny")
    assert (found, out) == (code, "")
    assert "Error: [bold]the[/] first line the log's last line [3/7]" in err


# -- score, encode


def test_encode_then_score_of_the_truth_itself(run, converted):
    dataset = converted / "gi2nnunet-workspace" / "raw" / NAME
    code, out, err = run("encode", dataset, "--out", "sub/mine.csv")
    assert code == 0
    assert err.startswith("labels: large bowel 1, 3, 5, 7; small bowel 2, 3, 6, 7; stomach 4")
    assert "manifest.json" in err
    assert out == "sub/mine.csv: 60 rows of 4 scans\n"
    rows = {(r["id"], r["class"]): r["predicted"] for r in read_csv(converted / "sub/mine.csv")}
    assert rows == {(a, b): c for a, b, c in make_source(SCANS).rows}

    code, out, _ = run("score", "sub/mine.csv", "--truth", dataset / "truth.csv")
    assert code == 0
    assert out.splitlines()[-1] == (
        "Score 1.00000 = 0.4 x Dice 1.00000 + 0.6 x (1 - normalised Hausdorff 0.00000); "
        "convention per-class"
    )
    for word in ("case10_day0", "large bowel", "small bowel", "stomach", "all"):
        assert word in out
    for arguments in (("--images", "source"), ("--images", "source", "--jobs", "1")):
        code, out, _ = run("score", "sub/mine.csv", "--truth", "source/train.csv", *arguments)
        assert code == 0
        assert "Score 1.00000" in out


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_json_is_one_object_on_standard_output(run, here, convention):
    write_tables(here)
    text = (here / "right.csv").read_text()
    worse = text.replace("large_bowel,1 2", "large_bowel,1 1").replace("stomach,1 2", "stomach,")
    (here / "worse.csv").write_text(worse)
    code, out, _ = run(
        "score", "worse.csv", "--truth", "truth.csv", "--metric", convention, "--json"
    )
    assert code == 0
    found = json.loads(out)
    assert {"score", "dice", "hausdorff", "metric", "per_organ"} <= set(found)
    assert found["metric"] == convention
    assert tuple(found["per_organ"]) == ORGANS
    assert found["per_organ"]["large_bowel"]["dice"] == pytest.approx(2 / 3)
    assert found["dice"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert found["score"] == pytest.approx(0.4 * found["dice"] + 0.6 * (1 - found["hausdorff"]))
    _, table, _ = run("score", "worse.csv", "--truth", "truth.csv", "--metric", convention)
    assert f"Score {found['score']:.5f} =" in table


def test_json_without_anything_to_score_is_still_json(run, here):
    rows = "".join(f"{ROW},{organ},,4,5\n" for organ in ORGANS)
    (here / "truth.csv").write_text(TRUTH + rows)
    code, out, _ = run("score", "truth.csv", "--truth", "truth.csv", "--json")
    assert code == 0

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    found = json.loads(out, parse_constant=refuse)
    assert found["per_organ"]["stomach"]["dice"] is None


def test_encode_warns_about_what_it_assumes(run, here):
    write_volume(here / "in" / "case1_day0.nii.gz", make_scan("a").bits, spacing_mm=(3, 1, 1))
    code, out, err = run("encode", "in", "--out", "o.csv")
    assert (code, out) == (0, "o.csv: 15 rows of 1 scan\n")
    assert err.count("Warning: ") == 2
    assert run("encode", "in", "--out", "o.csv", "--labels", "exclusive")[0] == 3


# -- plan, train: the engine's place is taken by records of what it was asked


class Engine:
    """Stands for planning and training; remembers what was asked."""

    def __init__(self, monkeypatch):
        self.planned, self.trained = [], []
        monkeypatch.setattr(plan, "plan_dataset", self.plan)
        monkeypatch.setattr(train, "train_folds", self.train)

    def plan(self, dataset, options, **asked):
        self.planned.append({"options": options, **asked})
        asked["progress"](1, 1, "planning")
        planned = {
            name: plan.PlannedConfiguration(
                name=name,
                data_folder=Path(f"data_{name}"),
                batch_size=3,
                patch_size=(32, 40),
                spacing_mm=(1.5, 1.63),
            )
            for name in options.configurations
        }
        return plan.Plan(
            preset=presets.PRESETS[options.preset],
            plans_name="somePlans",
            plans_file=Path("somePlans.json"),
            configurations=planned,
            log=Path("plan.log"),
        )

    def train(self, order, folds):
        self.trained.append((order, folds))
        results = []
        for name in order.plan.configurations:
            for fold in folds:
                order.on_start(name, fold, Path(f"{name}.log"))
                order.on_epoch(
                    train.TrainingProgress(
                        configuration=name,
                        fold=fold,
                        epoch=1,
                        epochs=2,
                        train_loss=-0.25,
                        val_loss=-0.2,
                        pseudo_dice=dict(zip(ORGANS, (0.5, 0.25, float("nan")), strict=True)),
                        epoch_seconds=2.0,
                        seconds_left=7200.0,
                    )
                )
                results.append(
                    TrainingResult(
                        configuration=name,
                        fold=fold,
                        folder=Path(f"{name}_{fold}"),
                        outcome="resumed" if name == "2d" else "kept",
                        log=None,
                    )
                )
        return tuple(results)


@pytest.fixture
def engine(monkeypatch):
    return Engine(monkeypatch)


def test_a_loss_that_takes_no_overlaps_trains_on_the_dataset_that_the_refusal_names(
    run, converted, engine
):
    words = ("train", "--device", "cpu", "--preset", "tiny", "--trainer", "nnUNetTrainerCELoss")
    code, _, err = run(*words)
    assert code == 3
    (remedy,) = re.findall(r"gi2nnunet (convert .*) *$", err)
    code, _, err = run(*remedy.replace("SOURCE", "source").split())
    assert code == 0
    assert "Next: gi2nnunet train --id 502 --fold all" in err
    assert not engine.planned
    assert run(*words, "--id", 502)[0] == 0
    ((trained, _),) = engine.trained
    assert trained.settings.trainer == "nnUNetTrainerCELoss"


def test_train_asks_for_what_its_options_say(run, converted, engine):
    (converted / "w.pth").write_bytes(zip_of("archive/data.pkl"))
    code, out, err = run(
        "train", "--device", "cpu", "--preset", "tiny", "--fold", "cv", "--config", "2d",
        "--epochs", 3, "--iterations", 4, "--lr", 0.5, "--batch-size", 5, "--patch-size", "32x48",
        "--patch-size", "8X16X24", "--trainer", "nnUNetTrainerNoMirroring", "--restart",
        "--nnunet-validation", "--pretrained-weights", "w.pth", "--jobs", 2, "--augment", "device",
    )  # fmt: skip
    assert code == 0
    (planned,), ((trained, folds),) = engine.planned, engine.trained
    assert planned["options"] == PlanOptions(
        preset="tiny", configurations=("2d",), batch_size=5, patch_sizes=((32, 48), (8, 16, 24))
    )
    assert planned["engine"].jobs == 2
    assert trained.settings == TrainingSettings(
        trainer="nnUNetTrainerNoMirroring",
        epochs=3,
        iterations=4,
        learning_rate=0.5,
        pretrained_weights=str(converted / "w.pth"),
        augment="device",
    )
    assert folds == (0, 1)
    assert (trained.restart, trained.nnunet_validation) == (True, True)
    assert trained.engine.jobs == 2
    assert trained.engine.hardware.device == "cpu"
    assert "Training every one of the split's 2 folds (cv)." in err
    assert "2d, fold 1: log 2d.log" in err
    assert (
        "2d, fold 0: epoch 1 of 2, loss -0.250 (validation -0.200), pseudo Dice large bowel 0.50, "
        "small bowel 0.25, stomach -, 2.0 s per epoch, 2 h 00 min left"
    ) in err
    assert out.splitlines() == [
        "2d, fold 0: resumed and finished: 2d_0",
        "2d, fold 1: resumed and finished: 2d_1",
    ]
    assert err.strip().endswith(
        "Next: gi2nnunet predict-and-score --config 2d --fold cv --trainer "
        "nnUNetTrainerNoMirroring --device cpu --preset somePlans"
    )


@pytest.mark.parametrize(
    ("arguments", "folds", "said"),
    [
        ([], ("all",), "one model on all 3 training scans (fold all)"),
        (["--fold", "all"], ("all",), "one model on all 3 training scans (fold all)"),
        (["--fold", "1"], (1,), "Training fold 1 of the split's 2."),
        (["-f", "1", "-f", "0"], (1, 0), "Training every one of the split's 2 folds (cv)."),
    ],
)
def test_train_says_what_it_is_doing(run, converted, engine, arguments, folds, said):
    code, out, err = run("train", "--device", "cpu", "--preset", "tiny", *arguments)
    assert code == 0
    assert engine.trained[0][1] == folds
    assert engine.planned[0]["options"].configurations == ("2d", "3d_fullres")
    assert said in err
    assert "Computing on: CPU" in err
    assert "preset: tiny" in err
    assert f"3d_fullres, fold {folds[0]}: was finished before and is kept" in out


def test_plan_and_train_as_json(run, converted, engine):
    options = ("--device", "cpu", "--preset", "tiny", "--config", "2d", "--json")
    code, out, _ = run("plan", *options)
    assert code == 0
    assert json.loads(out)["configurations"]["2d"]["patch_size"] == [32, 40]
    code, out, _ = run("train", *options, "--fold", "0")
    assert code == 0
    (training,) = json.loads(out)["trainings"]
    assert (training["configuration"], training["fold"]) == ("2d", 0)
    assert (training["train_loss"], training["val_loss"]) == (-0.25, -0.2)
    assert training["pseudo_dice"] == {"large_bowel": 0.5, "small_bowel": 0.25, "stomach": None}


def test_plan_prints_what_was_planned(run, converted, engine):
    code, out, err = run("plan", "--device", "cpu", "--preset", "resenc-m", "-c", "2d")
    assert code == 0
    assert engine.planned[0]["options"].preset == "resenc-m"
    assert "32 x 40" in out
    assert "1.50 x 1.63" in out
    assert out.splitlines()[-1] == "somePlans.json"
    assert "Log: plan.log" in err
    assert engine.trained == []


# -- predict: the engine's place is taken by a network that knows the truth


@pytest.fixture
def oracle(monkeypatch):
    """Predicts what is true, but no stomach."""
    truth = {**make_source(SCANS).truth, "case9_day9": make_scan("case9_day9")}

    def predict(ensemble, scans, *, on_scan, **asked):
        done = []
        for scan in scans:
            bits = truth[scan.scan_id].bits & np.uint8(3)
            if asked["nifti_folder"]:
                scan.write_volumes(asked["nifti_folder"], bits)
            rows = tuple(encode_scan(scan.scan_id, scan.numbers, bits))
            done.append(PredictedScan(scan_id=scan.scan_id, rows=rows, seconds=2.0))
            on_scan(done[-1])
        oracle_asked.append({**asked, "scans": scans})
        return PredictedScans(scans=tuple(done))

    oracle_asked = []
    monkeypatch.setattr(evaluate, "predict_scans", predict)
    return oracle_asked


def test_predict_and_score_of_a_column_major_truth_says_so(run, converted, oracle):
    finish_model(converted)
    made = make_source(SCANS)
    rows = tuple(
        (scan.slice_id(z), organ, encode_plain(mask.T))
        for scan in made.train
        for organ, masks in zip(ORGANS, scan.masks, strict=True)
        for z, mask in enumerate(masks)
    )
    write_source(converted / "wrong", replace(made, rows=rows))
    for source, misread in (("source", None), ("wrong", "column-major")):
        code, _, err = run("predict-and-score", source, "--device", "cpu", "--out", "out")
        assert code == 0
        assert ("column-major" in err) == bool(misread)
        assert (
            json.loads((converted / "out/score-per-class.json").read_text()).get("misread")
            == misread
        )


def test_predict_and_score_of_held_out_scans(run, converted, oracle):
    finish_model(converted)
    before = tree(converted)
    code, out, err = run("predict-and-score", "--device", "cpu")
    assert code == 0
    assert "Models: 2d, fold all, nnUNetTrainer, gi2nnunetTinyPlans" in err
    assert "the held-out test scans" in err
    assert "Standing: held-out" in out
    made = sorted(set(tree(converted)) - set(before))
    home = next(name for name in made if name.endswith("/submission.csv")).rpartition("/")[0]
    assert home.startswith("gi2nnunet-workspace/predictions/held-out/")
    files = {name for name in made if (converted / name).is_file()}
    assert files == {f"{home}/{name}" for name in (*OUTPUTS, "prediction.json", "cost.json")}
    checkpoints = json.loads((converted / home / "prediction.json").read_text())["checkpoints"]
    assert checkpoints == {
        path.parent.parent.name: {"all": hash_file(path)[:16]}
        for path in converted.rglob("checkpoint_final.pth")
    }
    assert [line for line in out.splitlines() if line.startswith("gi2nnunet-workspace/")] == [
        f"{home}/{name}" for name in OUTPUTS
    ]
    kept = json.loads((converted / home / "score-per-class.json").read_text())
    assert kept["standing"] == "held-out"
    assert kept["per_organ"]["stomach"]["dice"] == 0
    assert kept["per_organ"]["large_bowel"]["dice"] == 1
    assert kept["dice"] == pytest.approx(2 / 3, abs=0.05)
    per_scan = read_csv(converted / home / "score-per-class.csv")
    rows = read_csv(converted / home / "submission.csv")
    held = {row["id"].partition("_slice")[0] for row in rows}
    assert {row["scan_id"] for row in per_scan} == held
    assert all(float(row["stomach_hausdorff"]) == 1 for row in per_scan)
    # What was written is what score says of it.
    truth = converted / "gi2nnunet-workspace" / "raw" / NAME / "truth.csv"
    only = [line for line in truth.read_text().splitlines() if line.partition("_slice")[0] in held]
    (converted / "held.csv").write_text(TRUTH + "\n".join([*only, ""]))
    _, again, _ = run("score", converted / home / "submission.csv", "--truth", "held.csv", "--json")
    assert json.loads(again)["score"] == kept["score"]


def test_a_prediction_records_its_command_and_no_path_of_its_source(run, converted, oracle):
    finish_model(converted)
    write_files(converted / "Jane Doe", make_source(SCANS).files())
    options = ("--config", "2d", "--metric", "joined", "--device", "cpu", "--no-mirroring")
    code, _, err = run("predict-and-score", "Jane Doe", "--out", "Doe", *options)
    assert code == 0
    assert "Jane Doe (train, " in err
    for name in ("prediction.json", "score-joined.json"):
        text = (converted / "Doe" / name).read_text()
        assert "Doe" not in text
        assert json.loads(text)["scans"].startswith("SOURCE (train, ")
        assert json.loads(text)["command"] == (
            "gi2nnunet predict-and-score SOURCE --config 2d --no-mirroring --out OUT --device cpu "
            "--metric joined"
        )
    assert json.loads((converted / "Doe/prediction.json").read_text())["options"]["source"]


def test_predict_and_score_out_of_fold_by_mle_bench(run, here, oracle):
    """Its rows are paired by position, so scans must come in the order of the truth."""
    write_files(here / "source", make_source(SCANS).files())
    assert run("convert", "source", "--holdout", 0)[0] == 0
    finish_model(here, folds=(0, 1, 2))
    code, out, _ = run("predict-and-score", "--device", "cpu", "--metric", "mle-bench")
    assert code == 0
    assert "Standing: out-of-fold" in out
    assert "convention mle-bench" in out
    assert set(oracle[0]["folds"]) == set(SCANS)


def test_predict_and_score_in_sample_is_marked(run, here, oracle):
    write_files(here / "source", make_source(SCANS).files())
    assert run("convert", "source", "--holdout", 0)[0] == 0
    finish_model(here)
    code, out, _ = run("predict-and-score", "--device", "cpu")
    assert code == 0
    assert "Standing: IN-SAMPLE: these scans were used for training" in out


def test_predict_and_score_as_json_into_a_folder(run, converted, oracle):
    finish_model(converted)
    code, out, _ = run(
        "predict-and-score", "source", "--device", "cpu", "--out", "mine", "--json",
        "--no-mirroring", "--step-size", 0.25,
    )  # fmt: skip
    assert code == 0
    found = json.loads(out)
    keys = {"score", "dice", "hausdorff", "metric", "per_organ", "standing", "submission"}
    assert keys <= set(found)
    assert found["standing"] == "in-sample"
    assert Path(found["submission"]) == Path("mine/submission.csv")
    assert {p.name for p in (converted / "mine").iterdir()} == {
        *OUTPUTS, "prediction.json", "cost.json",
    }  # fmt: skip
    # Predicting again without the truth leaves no score of another submission behind.
    assert run("predict", "source", "--device", "cpu", "--out", "mine")[0] == 0
    left = {p.name for p in (converted / "mine").iterdir()}
    assert left == {"submission.csv", "prediction.json", "cost.json"}
    settings = oracle[0]["settings"]
    assert (settings.mirroring, settings.step_size) == (False, 0.25)


def test_predict_looks_for_no_truth_and_follows_the_sample(run, converted, oracle):
    finish_model(converted)
    scan = make_scan("case9_day9")
    made = MadeSource(train=(), test=(scan,))
    files = made.files()
    keys = [(scan.slice_id(z), organ) for organ in reversed(ORGANS) for z in range(4)]
    files["sample_submission.csv"] = "\n".join(
        ["id,class,predicted", *(f"{a},{b}," for a, b in keys), ""]
    ).encode()
    write_files(converted / "hidden", files)
    code, out, err = run("predict", "hidden", "--device", "cpu", "--out", "mine")
    assert code == 0
    assert out == "mine/submission.csv\n"
    assert {p.name for p in (converted / "mine").iterdir()} == {
        "submission.csv", "prediction.json", "cost.json",
    }  # fmt: skip
    rows = read_csv(converted / "mine" / "submission.csv")
    assert [(row["id"], row["class"]) for row in rows] == keys
    index = {organ: i for i, organ in enumerate(ORGANS)}
    for row in rows:
        mask = scan.masks[index[row["class"]], int(row["id"][-4:]) - 1]
        stomach = row["class"] == "stomach"
        assert row["predicted"] == ("" if stomach else encode_plain(mask))
    assert "does not have 3 predicted rows, left out" in err
    code, out, err = run("predict-and-score", "hidden", "--device", "cpu", "--out", "mine")
    assert code == 0
    assert "The truth of these scans is not known, so they are not scored." in err


def test_labels_of_volumes_matter_only_where_they_are_scored(run, converted, oracle):
    finish_model(converted)
    scan = make_source(SCANS).truth["case2_day1"]
    labels = np.where(scan.bits == 4, 3, scan.bits & 1).astype(np.uint8)  # 3 may be two things
    spacing = (3, 1.5, 1.5)
    write_volume(converted / "v/images/case2_day1.nii.gz", scan.image, spacing_mm=spacing)
    write_volume(converted / "v/labels/case2_day1.nii.gz", labels, spacing_mm=spacing)
    code, out, _ = run("predict", "v", "--device", "cpu", "--out", "mine")
    assert code == 0
    written = ["submission.csv", "labels", "organs", "itk-snap-labels.txt"]
    assert out.splitlines() == [f"mine/{name}" for name in written]
    code, out, err = run("predict-and-score", "v", "--device", "cpu", "--out", "other")
    assert (code, out) == (3, "")
    assert "found the label 3 and none above it" in err
    assert "--source-labels" in err
    assert not (converted / "other").exists()
    coded = {}
    for scheme in LABEL_SCHEMES:
        code, out, _ = run(
            "predict-and-score", "v", "--device", "cpu", "--out", scheme, "--json",
            "--source-labels", scheme,
        )  # fmt: skip
        assert code == 0
        coded[scheme] = json.loads(out)["per_organ"]
        (note,) = json.loads(out)["labels"]
        assert note.startswith("labels: large bowel 1")
        assert note.endswith(f"(as asked for: {scheme})")
    assert coded["exclusive"]["stomach"]["n_rows"] > 0
    assert coded["regions"]["stomach"]["n_rows"] == 0


def test_predict_warns_of_a_made_up_affine_and_takes_it_as_stored(run, converted, oracle):
    finish_model(converted)
    scan = make_source(SCANS).truth["case2_day1"]
    (converted / "v").mkdir()
    image = nibabel.Nifti1Image(scan.image.transpose(2, 1, 0), np.eye(4))
    nibabel.save(image, converted / "v/case2_day1.nii.gz")
    words = ("predict", "v", "--device", "cpu", "--out", "mine")
    code, _, err = run(*words)
    assert code == 0
    assert "give --orientation as-stored" in " ".join(err.split())
    code, _, err = run(*words, "--orientation", "as-stored")
    assert code == 0
    assert "--orientation" not in err
    assert oracle[-1]["scans"][0].read().image.tolist() == scan.image.tolist()


def test_predict_on_a_machine_that_has_models_alone(run, converted, oracle):
    finish_model(converted)
    (converted / "gi2nnunet-workspace" / "raw").rename(converted / "elsewhere")
    code, out, _ = run("predict", "source", "--device", "cpu", "--out", "mine")
    assert (code, out) == (0, "mine/submission.csv\n")
    code, out, err = run("predict-and-score", "--device", "cpu", "--out", "mine")
    assert (code, out) == (3, "")
    assert "gi2nnunet convert SOURCE" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--fold", "0"], "--fold 0"),
        (["--config", "3d_fullres"], "--config 3d_fullres"),
        (["--preset", "resenc-l"], "--preset resenc-l"),
        (["--trainer", "Mine"], "holds no finished model|no finished model with these options"),
    ],
)
def test_models_that_are_not_there_are_named_with_those_that_are(
    run, converted, oracle, arguments, said
):
    finish_model(converted)
    before = tree(converted)
    code, out, err = run("predict-and-score", "--device", "cpu", *arguments)
    assert (code, out) == (3, "")
    assert re.search(said, err)
    assert "Finished: 2d fold all (nnUNetTrainer, gi2nnunetTinyPlans)" in err
    assert "gi2nnunet train" in err
    assert tree(converted) == before


@pytest.mark.parametrize(
    ("arguments", "choice"),
    [
        (["train", "--preset", "tinny"], "'tiny'"),
        (["predict-and-score", "--metric", "joint"], "'joined'"),
        (["score", "a.csv", "--metric", "joint"], "'joined'"),
    ],
)
def test_a_misspelt_value_is_told_with_the_choices(run, converted, arguments, choice):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert re.search(rf"'{arguments[-1]}'\W+is\W+not\W+one\W+of", err)
    assert choice in err
    assert "Value error" not in err
