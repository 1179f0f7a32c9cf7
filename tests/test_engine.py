"""The real nnU-Net, end to end, on a phantom of a few small scans."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from gi2nnunet.dataset.manifest import read_dataset
from gi2nnunet.dataset.workspace import open_workspace
from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.formats.probabilities import StoredProbabilities, read_probabilities
from gi2nnunet.formats.submission import write_submission
from gi2nnunet.formats.tables import decode_table, read_mask_table
from gi2nnunet.formats.volumes import read_volume
from gi2nnunet.nnunet.models import choose_ensemble
from gi2nnunet.nnunet.postprocess import Decision, OrganDecision, apply_decision
from gi2nnunet.nnunet.presets import PRESETS, TrainingSettings
from gi2nnunet.nnunet.process import engine_environment
from gi2nnunet.prediction.predict import predict_scans
from gi2nnunet.source.phantom.frame import Geometry
from gi2nnunet.source.phantom.writing import write_phantom
from gi2nnunet.training.estimate import Request, estimate_costs
from gi2nnunet.training.record import read_curves
from tests.engines import compute, is_running, make_engine

pytestmark = pytest.mark.engine

SHORT = ("--preset", "tiny", "--epochs", "2", "--iterations", "4")
TINY_MODEL = "nnUNetTrainer__gi2nnunetTinyPlans__{}"


def run(*words: str | Path, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("nnUNet")}
    done = subprocess.run(
        [sys.executable, "-m", "gi2nnunet", *map(str, words)],
        cwd=cwd, capture_output=True, text=True, env=environ, timeout=600,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A folder with a source, and a workspace with a model on all training scans."""

    folder: Path
    said: str

    @property
    def workspace(self) -> Path:
        return self.folder / "gi2nnunet-workspace"

    def results(self, configuration: str) -> Path:
        model = TINY_MODEL.format(configuration)
        return self.workspace / "results" / "Dataset501_UWGI" / model


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("engine")
    write_phantom(
        folder / "source",
        patients=5,
        days=2,
        geometries=[Geometry(width=56, height=48, slices=20, spacing_mm=(3.0, 3.0))],
        detail="easy",
        test_patients=1,
        fill_sample=True,
        seed=3,
    )
    run("convert", "source", cwd=folder)
    done = run("train", "--fold", "all", *SHORT, cwd=folder)
    return Trained(folder=folder, said=done.stdout + done.stderr)


def test_training_tells_what_it_does(trained: Trained) -> None:
    assert "Training one model on all" in trained.said
    assert "2d, fold all: epoch 2 of 2, loss " in trained.said
    assert "pseudo Dice large bowel " in trained.said
    assert "own data pipeline" not in trained.said  # the trainer's list of transforms is known
    shown = (trained.results("3d_fullres") / "fold_all").relative_to(trained.folder)
    assert f"{shown}\n" in trained.said


def test_presets_keep_to_their_own_data(trained: Trained) -> None:
    folder = trained.workspace / "preprocessed" / "Dataset501_UWGI"
    plans = json.loads((folder / "gi2nnunetTinyPlans.json").read_text())
    identifiers = {
        name: values["data_identifier"] for name, values in plans["configurations"].items()
    }
    assert identifiers["2d"] == "gi2nnunetTinyPlans_2d"
    assert identifiers["3d_fullres"] == "gi2nnunetTinyPlans_3d_fullres"
    assert (folder / "gi2nnunet_gi2nnunetTinyPlans_2d.complete.json").is_file()


def test_the_same_command_again_leaves_it_alone(trained: Trained) -> None:
    checkpoint = trained.results("2d") / "fold_all" / "checkpoint_final.pth"
    before = checkpoint.stat().st_mtime_ns
    done = run("train", "--fold", "all", *SHORT, cwd=trained.folder)
    assert done.stdout.count("is kept") == 2
    assert "preprocessing" not in done.stderr
    assert checkpoint.stat().st_mtime_ns == before


def test_a_training_that_diverges_ends_with_a_remedy_that_works(trained: Trained) -> None:
    short = ("--preset", "tiny", "--config", "2d", "--fold", "0", "--iterations", "2")
    done = run("train", *short, "--lr", "1e12", "--epochs", "3", cwd=trained.folder, code=4)
    assert "the training diverged in epoch 1" in done.stderr
    assert "--restart and a smaller --lr: it was 1e+12; try 0.01." in done.stderr
    fold = trained.results("2d") / "fold_0"
    assert not list(fold.glob("checkpoint*"))
    remedy = ("--lr", "0.01", "--restart", "--epochs", "1")
    done = run("train", *short, *remedy, cwd=trained.folder)
    assert "2d, fold 0: trained" in done.stdout
    shutil.rmtree(fold)


def test_other_settings_are_refused(trained: Trained) -> None:
    done = run("train", "--preset", "tiny", "--epochs", "3", cwd=trained.folder, code=3)
    assert "epochs: found 2, now 3" in done.stderr
    assert "--restart" in done.stderr


def test_a_trained_workspace_is_sound_and_this_machine_fits(trained: Trained) -> None:
    done = run("verify", cwd=trained.folder)
    assert "all is well" in done.stdout
    done = run("doctor", "--preset", "tiny", "--json", cwd=trained.folder)
    content = json.loads(done.stdout)
    assert content["fit"]
    assert {"name": "imports", "level": "ok"}.items() <= content["checks"][4].items()
    record = trained.results("2d") / "fold_all" / "gi2nnunet_training.json"
    (only,) = json.loads(record.read_text())["runs"]
    assert only["threads"] >= 1
    assert only["peak_memory_bytes"] > 50e6
    changed = record.read_text().replace('"dataset": "', '"dataset": "0')
    whole = record.read_text()
    record.write_text(changed)
    done = run("verify", "--quick", "--json", cwd=trained.folder, code=3)
    record.write_text(whole)
    (finding,) = json.loads(done.stdout)["findings"]
    assert finding["file"] == str(record.parent)


def test_an_estimate_measures_what_training_takes_and_keeps_nothing(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    space = open_workspace(trained.workspace, environ={})
    before = {path: path.stat().st_mtime_ns for path in trained.workspace.rglob("*")}
    dataset = read_dataset(space.raw)
    engine = make_engine(
        space,
        environ={k: v for k, v in os.environ.items() if not k.startswith("nnUNet")},
    )
    request = Request(
        preset=PRESETS["tiny"], configurations=("2d",), folds=("all", 0),
        settings=TrainingSettings(epochs=2, iterations=4),
    )  # fmt: skip
    found = estimate_costs(dataset, engine=engine, request=replace(request, measure_seconds=0.5))
    after = {path: path.stat().st_mtime_ns for path in trained.workspace.rglob("*")}
    folders = {space.logs}  # the log of a run that went well is removed again
    assert {p for p in before if p not in folders and after[p] != before[p]} == set()
    assert set(after) == set(before)
    assert list(tmp_path.iterdir()) == []
    done, new = found.trainings
    assert (done.state, done.seconds_left, new.state) == ("finished", 0, "new")
    measured = found.paces["2d"]
    assert measured.source == "measured"
    assert measured.startup_seconds > 1  # imports, at least
    trained_here = estimate_costs(dataset, engine=engine, request=request).paces["2d"]
    assert trained_here.source == "trainings"
    # Other work runs beside it.
    assert 0.2 < measured.epoch_seconds / trained_here.epoch_seconds < 5


def test_a_planned_network_is_priced_by_the_table(trained: Trained) -> None:
    done = run(
        "estimate", "--preset", "tiny", "--card", "A100", "--config", "2d", "--json",
        cwd=trained.folder,
    )  # fmt: skip
    content = json.loads(done.stdout)
    assert content["paces"]["2d"]["source"] == "card"
    assert content["plan"].endswith("gi2nnunetTinyPlans.json")


def test_converting_again_otherwise_is_refused_after_training(trained: Trained) -> None:
    done = run("convert", "source", "--labels", "exclusive", cwd=trained.folder, code=3)
    assert "results" in done.stderr


def test_a_half_preprocessed_folder_is_made_anew(trained: Trained) -> None:
    data = trained.workspace / "preprocessed/Dataset501_UWGI/gi2nnunetTinyPlans_2d"
    names = {path.name for path in data.iterdir()}
    victim = next(data.glob("*.pkl"))
    victim.unlink()
    run("plan", "--preset", "tiny", "--config", "2d", cwd=trained.folder)
    assert {path.name for path in data.iterdir()} == names


@pytest.fixture(scope="module")
def scored(trained: Trained) -> Path:
    done = run(
        "predict-and-score", "--nifti", "--save-probabilities", "--out", "out", cwd=trained.folder
    )
    assert "Standing: held-out" in done.stdout
    assert "2d + 3d_fullres, fold all" in done.stderr
    return trained.folder / "out"


def test_predict_and_score_writes_everything(trained: Trained, scored: Path) -> None:
    dataset = read_dataset(trained.workspace / "raw")
    held_out = [scan.scan_id for scan in dataset.scans if scan.part == "holdout"]
    written = sorted(str(path.relative_to(scored)) for path in scored.rglob("*") if path.is_file())
    expected = [
        "cost.json", "itk-snap-labels.txt", "prediction.json", "score-per-class.csv",
        "score-per-class.json", "submission.csv", "truth.csv",
    ]  # fmt: skip
    for scan_id in held_out:
        expected.append(f"labels/{scan_id}.nii.gz")
        expected += [f"probabilities/{name}/{scan_id}.gi2prob" for name in ("2d", "3d_fullres")]
        expected += [
            f"organs/{scan_id}_{organ}.nii.gz"
            for organ in ("large_bowel", "small_bowel", "stomach")
        ]
    assert written == sorted(expected)
    score = read_score(scored)
    assert score["standing"] == "held-out"
    assert set(score["per_organ"]) == {"large_bowel", "small_bowel", "stomach"}
    rows = list(csv.DictReader((scored / "score-per-class.csv").read_text().splitlines()))
    assert [row["scan_id"] for row in rows] == held_out
    by_hand = 0.4 * score["dice"] + 0.6 * (1 - score["hausdorff"])
    assert score["score"] == pytest.approx(by_hand)


def test_the_same_threads_give_the_same_bytes(trained: Trained, tmp_path: Path) -> None:
    made = []
    for name in ("a", "b"):
        words = ("predict-and-score", "--config", "2d", "--threads", "1", "--nifti")
        run(*words, "--out", tmp_path / name, cwd=trained.folder)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        cost = json.loads((tmp_path / name / "cost.json").read_text())
        assert cost["seconds_per_scan"] > 0
        assert cost["peak_memory_bytes"] > 50e6
        files.remove(tmp_path / name / "cost.json")
        made.append({path.relative_to(tmp_path / name): path.read_bytes() for path in files})
    assert len(made[0]) >= 8
    assert made[0] == made[1]
    assert json.loads(made[0][Path("prediction.json")])["computing"]["threads"] == 1


def test_the_score_command_gives_the_same_score(scored: Path) -> None:
    done = run("score", "submission.csv", "--intervals", "--medical", "--json", cwd=scored)
    again, recorded = json.loads(done.stdout), read_score(scored)
    assert (again.pop("format"), again.pop("warnings")) == (1, [])
    assert {key: recorded[key] for key in again} == again
    assert recorded["intervals"]["score"][0] == pytest.approx(recorded["score"])


def read_score(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "score-per-class.json").read_text())
    return content


def test_label_volumes_lie_on_their_images_and_hold_the_submission(
    trained: Trained, scored: Path
) -> None:
    dataset = read_dataset(trained.workspace / "raw")
    sizes = {scan.scan_id: (scan.height, scan.width) for scan in dataset.scans}
    for scan_id, _, bits in decode_table(read_mask_table(scored / "submission.csv"), sizes=sizes):
        volume = read_volume(scored / "labels" / f"{scan_id}.nii.gz")
        np.testing.assert_array_equal(volume.array, bits)
        image = nibabel.load(dataset.image_path(scan_id))
        labels = nibabel.load(scored / "labels" / f"{scan_id}.nii.gz")
        np.testing.assert_allclose(labels.affine, image.affine)
        stomach = read_volume(scored / "organs" / f"{scan_id}_stomach.nii.gz").array
        np.testing.assert_array_equal(stomach != 0, (bits & 4) != 0)


def test_decisions_are_made_of_the_probabilities_that_are_stored(
    trained: Trained, scored: Path, tmp_path: Path
) -> None:
    """Thresholds, weights, gate and components chosen on them give the rows they promise."""
    workspace = open_workspace(trained.workspace, environ={})
    dataset = read_dataset(workspace.raw)
    scans = [scan for scan in dataset.scans if scan.part == "holdout"]
    plain = {scan.scan_id: read_stored(scored / "probabilities", scan.scan_id) for scan in scans}
    for scan_id, _, bits in decode_table(
        read_mask_table(scored / "submission.csv"),
        sizes={scan.scan_id: (scan.height, scan.width) for scan in scans},
    ):
        hold_between(bits, plain[scan_id], Decision())

    scan = scans[0]
    stored = {name: found.array for name, found in plain[scan.scan_id].items()}
    weights = {"large_bowel": 0.3, "small_bowel": 1.0, "stomach": 0.5}
    organs = {}
    for index, (organ, weight) in enumerate(weights.items()):
        both = weight * stored["2d"][index] + (1 - weight) * stored["3d_fullres"][index]
        threshold = float(np.quantile(both, 0.9)) / 255
        highest = both.max(axis=(1, 2)) / 255
        parts, _ = ndimage.label(both > threshold * 255, np.ones((3, 3, 3)))
        largest_ml = np.bincount(parts[parts > 0]).max() * np.prod(scan.spacing_mm) / 1000
        organs[organ] = OrganDecision(
            weights=(("2d", weight), ("3d_fullres", 1 - weight)), threshold=threshold,
            gate=float(np.median(highest[highest > threshold])) if organ == "large_bowel" else 0.0,
            smallest_ml=float(largest_ml / 2) if organ == "small_bowel" else 0.0,
        )  # fmt: skip
    decision = Decision(organs=organs)
    ensemble = choose_ensemble(
        workspace.results / dataset.name, n_folds=len(dataset.splits), folds=("all",)
    )
    (predicted,) = predict_scans(
        ensemble,
        [dataset.open_scan(scan.scan_id)],
        **compute(workspace, environ=os.environ),
        probability_folders={
            model.folder.name: tmp_path / model.configuration for model in ensemble.models
        },
        decision=decision,
    ).scans  # fmt: skip
    found = read_stored(tmp_path, scan.scan_id)
    for name, array in stored.items():
        np.testing.assert_allclose(found[name].array, array, atol=1)
    write_submission(tmp_path / "submission.csv", predicted.rows)
    ((_, _, bits),) = decode_table(
        read_mask_table(tmp_path / "submission.csv"),
        sizes={scan.scan_id: (scan.height, scan.width)},
    )
    hold_between(bits, found, decision)
    for bit in (1, 2, 4):
        assert 0.01 < np.mean(bits & bit != 0) < 0.15
    for organ, other in {
        "large_bowel": replace(organs["large_bowel"], gate=0.0),
        "small_bowel": replace(organs["small_bowel"], weights=()),
    }.items():  # they would have been told from others
        with pytest.raises(AssertionError):
            hold_between(bits, found, Decision(organs={**organs, organ: other}))


def read_stored(folder: Path, scan_id: str) -> dict[str, StoredProbabilities]:
    return {
        name: read_probabilities(folder / name / f"{scan_id}.gi2prob")
        for name in ("2d", "3d_fullres")
    }


def hold_between(bits: Any, stored: dict[str, StoredProbabilities], decision: Decision) -> None:
    """Hold a label map to a decision on eight bits, give or take their rounding.

    A stored value is off by half a step at most; so are the thresholds here, up and down.
    """
    spacing_mm = next(iter(stored.values())).spacing_mm
    arrays = {name: found.array / np.float32(255) for name, found in stored.items()}
    least, most = (
        apply_decision(
            arrays,
            Decision(
                organs={
                    organ: replace(choice, threshold=choice.threshold + off, gate=choice.gate + off)
                    for organ in ORGANS
                    for choice in [decision.organs.get(organ, OrganDecision())]
                }
            ),
            spacing_mm=spacing_mm,
        )
        for off in (0.51 / 255, -0.51 / 255)
    )
    assert not np.any(least & ~bits)
    assert not np.any(bits & ~most)
    assert np.mean(least != most) < 0.3  # a young network is unsure nearly everywhere


@pytest.mark.parametrize(
    "configurations",
    [
        pytest.param(("2d",), marks=pytest.mark.slow),
        pytest.param(("3d_fullres",), marks=pytest.mark.slow),
        ("2d", "3d_fullres"),
    ],
    ids="+".join,
)
def test_plain_nnunet_predicts_the_same_voxels(
    trained: Trained, configurations: tuple[str, ...], tmp_path: Path
) -> None:
    """nnU-Net's commands load our checkpoints; where organs do not overlap its voxels are ours."""
    workspace = open_workspace(trained.workspace, environ={})
    dataset = read_dataset(workspace.raw)
    scan = next(scan for scan in dataset.scans if scan.part == "holdout")
    images = tmp_path / "images"
    images.mkdir()
    shutil.copy(dataset.image_path(scan.scan_id), images)

    def run_plainly(tool: str, *words: str | Path) -> None:
        subprocess.run(
            [Path(sys.executable).with_name(tool), *words],
            env=engine_environment(
                workspace, environ=os.environ, processes=2, augmentation_processes=1, threads=2
            ),
            check=True, capture_output=True, timeout=300,
        )  # fmt: skip

    parts = [tmp_path / name for name in configurations]
    for configuration, part in zip(configurations, parts, strict=True):
        run_plainly(
            "nnUNetv2_predict", "-i", images, "-o", part, "-d", "501", "-c", configuration,
            "-f", "all", "-p", "gi2nnunetTinyPlans", "-device", "cpu", "-npp", "1", "-nps", "1",
            *(["--save_probabilities"] if len(parts) > 1 else []),
        )  # fmt: skip
    whole = parts[0]
    if len(parts) > 1:
        whole = tmp_path / "ensemble"
        run_plainly("nnUNetv2_ensemble", "-i", *parts, "-o", whole, "-np", "1")
    theirs = read_volume(whole / f"{scan.scan_id}.nii.gz").array
    run(
        "predict-and-score", *(word for name in configurations for word in ("--config", name)),
        "--nifti", "--out", tmp_path / "ours", cwd=trained.folder,
    )  # fmt: skip
    ours = read_volume(tmp_path / "ours" / "labels" / f"{scan.scan_id}.nii.gz").array
    assert len(np.unique(ours)) > 1
    single = np.isin(ours, (0, 1, 2, 4))
    assert np.mean(ours[single] == theirs[single]) >= 0.9999


def test_a_source_with_a_test_set_follows_its_sample(trained: Trained, tmp_path: Path) -> None:
    run("predict", "source", "--out", tmp_path, cwd=trained.folder)
    sample = (trained.folder / "source" / "sample_submission.csv").read_text().splitlines()
    made = (tmp_path / "submission.csv").read_text().splitlines()
    assert made[0] == "id,class,predicted"
    assert len(sample) > 1
    assert [line.rsplit(",", 1)[0] for line in made] == [line.rsplit(",", 1)[0] for line in sample]
    assert not (tmp_path / "score-per-class.json").exists()


def test_nifti_input_gives_nifti_output_in_its_own_geometry(
    trained: Trained, scored: Path, tmp_path: Path
) -> None:
    """The same scan in another orientation gets the same labels, on its own axes."""
    dataset = read_dataset(trained.workspace / "raw")
    scan = next(scan for scan in dataset.scans if scan.part == "holdout")
    image = nibabel.load(dataset.image_path(scan.scan_id))
    turned = image.as_reoriented(
        nibabel.orientations.ornt_transform(
            nibabel.orientations.io_orientation(image.affine),
            nibabel.orientations.axcodes2ornt(("S", "A", "R")),
        )
    )
    nibabel.save(turned, tmp_path / f"{scan.scan_id}.nii.gz")
    run("predict", tmp_path / f"{scan.scan_id}.nii.gz", "--nifti", "--out", tmp_path / "out",
        cwd=trained.folder)  # fmt: skip
    path = tmp_path / "out" / "labels" / f"{scan.scan_id}.nii.gz"
    np.testing.assert_allclose(nibabel.load(path).affine, turned.affine)
    expected = read_volume(scored / "labels" / f"{scan.scan_id}.nii.gz").array
    np.testing.assert_array_equal(read_volume(path).array, expected)


def test_a_checkpoint_that_could_run_code_is_refused(trained: Trained, tmp_path: Path) -> None:
    import torch

    copy = tmp_path / "w"
    shutil.copytree(trained.workspace, copy, ignore=shutil.ignore_patterns("preprocessed"))
    path = copy / "results/Dataset501_UWGI" / TINY_MODEL.format("2d") / "fold_all"
    checkpoint = torch.load(path / "checkpoint_final.pth", weights_only=False)
    torch.save({**checkpoint, "logging": Path("x")}, path / "checkpoint_final.pth")
    (path / "gi2nnunet_digests.json").unlink()  # else the change of the file is named
    done = run("predict-and-score", "--config", "2d", "-w", copy, cwd=tmp_path, code=3)
    assert "refused" in done.stderr
    assert "checkpoint_final.pth" in done.stderr
    assert not list(copy.glob("predictions/**/submission.csv"))


def test_sizes_can_be_set_and_do_not_touch_the_presets_own(trained: Trained) -> None:
    words = ("plan", "--preset", "tiny", "--config", "2d")
    done = run(*words, "--batch-size", "3", "--patch-size", "32x48", cwd=trained.folder)
    assert "32 x 48" in done.stdout
    folder = trained.workspace / "preprocessed" / "Dataset501_UWGI"
    mine = json.loads((folder / "gi2nnunetTinyPlans_b3_p32x48.json").read_text())["configurations"]
    assert (mine["2d"]["batch_size"], mine["2d"]["patch_size"]) == (3, [32, 48])
    plain = json.loads((folder / "gi2nnunetTinyPlans.json").read_text())["configurations"]
    assert plain["2d"]["batch_size"] == 8
    assert plain["2d"]["data_identifier"] == mine["2d"]["data_identifier"]
    done = run(*words, "--patch-size", "33x47", cwd=trained.folder, code=3)
    assert "the nearest that fits" in done.stderr


@pytest.fixture
def two_folds(trained: Trained, tmp_path: Path) -> Path:
    run("convert", trained.folder / "source", "--folds", "2", "--holdout", "0", cwd=tmp_path)
    return tmp_path


@pytest.mark.slow
def test_out_of_fold_and_resume(two_folds: Path) -> None:
    """A training killed outright goes on; with every fold trained the score is out-of-fold."""
    words = ["train", "--fold", "cv", "--config", "2d", "--preset", "tiny",
             "--epochs", "14", "--iterations", "1"]  # fmt: skip
    started = subprocess.Popen(
        [sys.executable, "-m", "gi2nnunet", *words],
        cwd=two_folds, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    results = two_folds / "gi2nnunet-workspace/results/Dataset501_UWGI" / TINY_MODEL.format("2d")
    # From nnU-Net's own log: what train prints off a terminal is only a line now and then.
    while len(read_curves(results / "fold_0")) < 12:
        assert started.poll() is None
        time.sleep(0.02)
    children = children_of(started.pid)
    os.kill(started.pid, signal.SIGKILL)
    started.wait()
    assert children
    deadline = time.monotonic() + 20
    while any(is_running(pid) for pid in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(is_running(pid) for pid in children)
    assert (results / "fold_0" / "checkpoint_latest.pth").is_file()
    assert not (results / "fold_0" / "checkpoint_final.pth").exists()

    done = run(*words, "--augment", "device", cwd=two_folds)
    first = int(re.findall(r"2d, fold 0: epoch (\d+) of 14", done.stderr)[0])
    assert 11 <= first <= 13  # ten epochs were safe, or more where a later one was the best
    assert "2d, fold 0: resumed" in done.stdout
    assert "2d, fold 1: trained" in done.stdout
    run(*words, "--augment", "nnunet", cwd=two_folds, code=3)

    done = run("predict-and-score", "--json", cwd=two_folds)
    content = json.loads(done.stdout)
    assert content["standing"] == "out-of-fold"
    dataset = read_dataset(two_folds / "gi2nnunet-workspace" / "raw")
    assert [scan["scan_id"] for scan in content["per_scan"]] == [
        scan.scan_id for scan in dataset.scans if scan.part == "train"
    ]


def children_of(pid: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            text = status.read_text()
        except OSError:
            continue
        if f"PPid:\t{pid}\n" in text:
            child = int(status.parent.name)
            found += [child, *children_of(child)]
    return found


@pytest.mark.slow
def test_scans_too_flat_for_a_3d_network_train_in_2d(tmp_path: Path) -> None:
    write_phantom(
        tmp_path / "phantom", patients=3, days=1, detail="easy", seed=5,
        geometries=[Geometry(width=48, height=40, slices=10, spacing_mm=(6.0, 6.0))],
    )  # fmt: skip
    run("convert", "phantom", "--folds", "2", cwd=tmp_path)
    asked = ("train", "--fold", "0", *SHORT)
    refused = run(*asked, "--config", "3d_fullres", cwd=tmp_path, code=3)
    assert "Give --config 2d." in refused.stderr
    done = run(*asked, cwd=tmp_path)
    assert "3d_fullres is left out" in done.stderr
    assert "2d, fold 0: trained" in done.stdout


def test_exclusive_labels_train_and_predict(trained: Trained, tmp_path: Path) -> None:
    run("convert", trained.folder / "source", "--labels", "exclusive", cwd=tmp_path)
    run("train", "--config", "2d", *SHORT, cwd=tmp_path)
    done = run("predict-and-score", "--json", cwd=tmp_path)
    content: dict[str, Any] = json.loads(done.stdout)
    assert content["standing"] == "held-out"


@pytest.mark.real
@pytest.mark.slow
def test_the_real_sample_goes_the_whole_way(real_data: Path, tmp_path: Path) -> None:
    run("convert", real_data / "mini", cwd=tmp_path)
    run("train", "--fold", "all", *SHORT, cwd=tmp_path)
    done = run("predict-and-score", "--no-mirroring", cwd=tmp_path)
    assert "IN-SAMPLE" in done.stdout
