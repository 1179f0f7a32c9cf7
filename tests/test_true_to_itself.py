"""The same source, options and seed give the same bytes, whatever works on them in what order."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from gi2nnunet.core.errors import InputError, OutputError
from gi2nnunet.core.workers import count_cores
from gi2nnunet.dataset.manifest import Dataset
from gi2nnunet.dataset.workspace import Workspace, open_workspace
from gi2nnunet.formats.labels import join_organs
from gi2nnunet.formats.probabilities import SUFFIX
from gi2nnunet.formats.submission import encode_scan, write_submission
from gi2nnunet.formats.tables import read_mask_table
from gi2nnunet.formats.volumes import read_volume
from gi2nnunet.nnunet import engine as engine_module
from gi2nnunet.nnunet.engine import Hardware, PredictionOptions
from gi2nnunet.nnunet.models import Ensemble, TrainedModel
from gi2nnunet.nnunet.postprocess import Decision, OrganDecision, Tuned
from gi2nnunet.prediction import evaluate as evaluation
from gi2nnunet.prediction import predict as predict_module
from gi2nnunet.prediction.choose import Selection, Work, select_own_scans
from gi2nnunet.prediction.evaluate import evaluate, predict_part
from gi2nnunet.prediction.predict import predict_scans
from gi2nnunet.scoring import medical
from gi2nnunet.scoring import score as score_module
from gi2nnunet.scoring.conventions import CONVENTIONS
from gi2nnunet.scoring.record import find_scores, read_score, write_score
from gi2nnunet.scoring.score import score_submission
from gi2nnunet.source.open import scan_from_json
from tests.converting import convert
from tests.engines import compute
from tests.source_factory import ORGANS, make_source, write_files, write_source

SCANS = ("case1_day0", "case1_day5", "case2_day0", "case3_day0", "case4_day2", "case5_day1")
CPU = Hardware(device="cpu", gpus=(), memory_gib=None, name="CPU")
CARDS = Hardware(device="cuda", gpus=(0, 1), memory_gib=24.0, name="two cards")


def digests(folder: Path) -> dict[str, str]:
    """What is the same each time: all but time and memory."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "cost.json"
    }


def convert_into(folder: Path, source: Path, *, jobs: int = 1) -> Dataset:
    return convert(source, workspace=open_workspace(folder, environ={}), jobs=jobs)


def disorder(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Let every listing of a folder or zip come in another order."""
    draw = random.Random(seed)
    walk, iterdir, scandir = os.walk, Path.iterdir, os.scandir
    namelist = zipfile.ZipFile.namelist

    def shuffled(values: Any) -> list[Any]:
        listed = list(values)
        draw.shuffle(listed)
        return listed

    def walk_anyhow(*args: Any, **options: Any) -> Iterator[tuple[str, list[str], list[str]]]:
        for folder, folders, files in walk(*args, **options):
            draw.shuffle(folders)
            yield folder, folders, shuffled(files)

    class Listing:
        def __init__(self, path: Any = ".") -> None:
            with scandir(path) as entries:
                self.entries = iter(shuffled(entries))

        def __iter__(self) -> Any:
            return self.entries

        def __next__(self) -> Any:
            return next(self.entries)

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(os, "walk", walk_anyhow)
    monkeypatch.setattr(os, "scandir", Listing)
    monkeypatch.setattr(Path, "iterdir", lambda path: iter(shuffled(iterdir(path))))
    monkeypatch.setattr(zipfile.ZipFile, "namelist", lambda z: shuffled(namelist(z)))


def as_folder(root: Path) -> Path:
    return write_source(root / "source", make_source(SCANS, test_ids=["case9_day9"]))


def as_zip(root: Path) -> Path:
    files = make_source(SCANS, test_ids=["case9_day9"]).files()
    path = root / "source.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in random.Random(5).sample(sorted(files), len(files)):
            archive.writestr(name, files[name])
    return path


def as_volumes(root: Path) -> Path:
    dataset = convert_into(root / "first", as_folder(root))
    keep = {"imagesTr", "labelsTr", "imagesTs", "labelsTs", "dataset.json"}
    for path in dataset.folder.iterdir():
        if path.name not in keep:
            path.unlink()
    return dataset.folder


@pytest.mark.parametrize("make", [as_folder, as_zip, as_volumes])
def test_a_dataset_with_its_manifest_is_the_same_in_any_order_of_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], Path]
) -> None:
    source = make(tmp_path)
    convert_into(tmp_path / "a", source)
    wanted = digests(tmp_path / "a")
    assert any(name.endswith("manifest.json") for name in wanted)
    for seed, jobs in ((1, 4), (2, 2)):
        with monkeypatch.context() as patched:
            disorder(patched, seed)
            convert_into(tmp_path / f"b{seed}", source, jobs=jobs)
        assert digests(tmp_path / f"b{seed}") == wanted


def test_the_disorder_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path, {f"{index:02}": b"" for index in range(20)})
    disorder(monkeypatch, 1)
    by_walk = [name for _, _, files in os.walk(tmp_path) for name in files]
    by_scan = [entry.name for entry in os.scandir(tmp_path)]
    by_iter = [path.name for path in tmp_path.iterdir()]
    for names in (by_walk, by_scan, by_iter):
        assert sorted(names) == [f"{index:02}" for index in range(20)]
        assert names != sorted(names)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return convert_into(tmp_path / "w", as_folder(tmp_path))


def predicted_rows(dataset: Dataset) -> list[tuple[str, str, str]]:
    """The truth with every mask moved by a pixel, so that there is something to score."""
    rows: list[tuple[str, str, str]] = []
    for scan in dataset.scans:
        if scan.labelled:
            bits = read_volume(dataset.label_path(scan.scan_id)).array
            moved = bits.copy()
            moved[:, 1:] = bits[:, :-1]
            rows += encode_scan(scan.scan_id, scan.numbers, moved)
    return rows


def test_a_submission_is_the_same_in_any_order_of_rows(tmp_path: Path, dataset: Dataset) -> None:
    rows = predicted_rows(dataset)
    write_submission(tmp_path / "a.csv", rows)
    random.Random(3).shuffle(rows)
    write_submission(tmp_path / "b.csv", rows)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


@pytest.mark.parametrize("metric", [m for m in CONVENTIONS if m != "mle-bench"])
def test_a_score_is_the_same_whatever_the_jobs_and_the_order_of_rows(
    tmp_path: Path, dataset: Dataset, metric: Any
) -> None:
    write_submission(tmp_path / "a.csv", predicted_rows(dataset))
    lines = (tmp_path / "a.csv").read_text().splitlines()
    shuffled = [lines[0], *random.Random(4).sample(lines[1:], len(lines) - 1)]
    (tmp_path / "b.csv").write_text("\n".join([*shuffled, ""]))
    written = []
    for index, (name, jobs) in enumerate((("a.csv", 1), ("a.csv", 4), ("b.csv", 3))):
        score = score_submission(tmp_path / name, dataset.truth_path, metric=metric, jobs=jobs)
        truth = read_mask_table(dataset.truth_path)
        folder = tmp_path / str(index)
        folder.mkdir()
        shutil.copy(tmp_path / "a.csv", folder / "submission.csv")
        write_score(score, folder, truth=truth, about={})
        written.append(digests(folder))
    assert 0 < score.score < 1
    assert set(written[0]) == {
        "submission.csv",
        f"score-{metric}.json",
        f"score-{metric}.csv",
        "truth.csv",
    }
    assert written[0] == written[1] == written[2]


class Engine:
    """Stands in for the child processes: answers in another order than it was asked."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.asked: list[dict[str, Any]] = []
        self.environments: list[dict[str, str]] = []

    def __call__(
        self, task: str, options: Any, *, environment: Any, on_event: Any, **_: Any
    ) -> Any:
        self.asked.append(dict(options))
        self.environments.append(dict(environment))
        for task_of_scan in reversed(options["scans"]):
            scan_id = task_of_scan["scan"]["scan_id"]
            rows = [row for row in predicted_rows(self.dataset) if row[0].startswith(scan_id)]
            if options["nifti_folder"]:
                scan = scan_from_json(task_of_scan["scan"])
                scan.write_volumes(Path(options["nifti_folder"]), np.zeros(scan.shape, np.uint8))
            for folder in options["probability_folders"] or ():
                Path(folder).mkdir(parents=True, exist_ok=True)
                (Path(folder) / f"{scan_id}{SUFFIX}").touch()
            on_event({"event": "scan", "scan_id": scan_id, "rows": rows, "seconds": 1.0})
        return {}


class Bench:
    def __init__(self, root: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.monkeypatch = monkeypatch
        self.engine = Engine(dataset)
        monkeypatch.setattr(engine_module, "run_engine", self.engine)
        # The models are made up, so there are no files of theirs to look at.
        monkeypatch.setattr(predict_module, "check_model", lambda *_: None)
        monkeypatch.setattr(evaluation, "digest_checkpoint", lambda *_: "0" * 16)
        self.workspace: Workspace = open_workspace(root / "w", environ={})
        model = TrainedModel(
            folder=root / "model", trainer="nnUNetTrainer", plans_name="p", configuration="2d",
            folds=(0, 1, 2, 3), newest=0.0,
        )  # fmt: skip
        self.ensemble = Ensemble(models=(model,), folds=(0, 1, 2, 3), chosen_by="a test")
        self.selection: Selection = select_own_scans(dataset, self.ensemble)

    def compute(self, **options: Any) -> dict[str, Any]:
        return compute(self.workspace, **options)

    def work(self, out: Path) -> Work:
        return Work(selection=self.selection, ensemble=self.ensemble, out=out)

    def evaluate(self, name: str, **options: Any) -> dict[str, Any]:
        done = evaluate(self.work(self.root / name), **self.compute(**options))
        record = json.loads((self.root / name / "prediction.json").read_text())
        score = json.loads((self.root / name / "score-per-class.json").read_text())
        assert record["computing"] == score["computing"] == done.computing
        assert {record[key] for key in ("standing", "models")} <= {
            score[key] for key in ("standing", "models")
        }
        computing: dict[str, Any] = record["computing"]
        return computing


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Work out of fold: nothing is held out, and each scan has its own fold."""
    workspace = open_workspace(tmp_path / "w", environ={})
    dataset = convert(as_folder(tmp_path), workspace=workspace, holdout=0, folds=4, jobs=1)
    return Bench(tmp_path, dataset, monkeypatch)


def test_predictions_are_the_same_on_one_device_and_dealt_out(bench: Bench) -> None:
    bench.evaluate("a", hardware=CPU, threads=2)
    bench.evaluate("b", hardware=CPU, threads=2)
    bench.evaluate("c", hardware=CARDS, threads=2)
    first = digests(bench.root / "a")
    assert set(first) == {
        "submission.csv", "prediction.json", "score-per-class.json", "score-per-class.csv",
        "truth.csv",
    }  # fmt: skip
    assert digests(bench.root / "b") == first
    third = digests(bench.root / "c")
    assert (third["submission.csv"], third["score-per-class.csv"]) == (
        first["submission.csv"], first["score-per-class.csv"],
    )  # fmt: skip


def test_the_same_request_is_only_scored(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    out, shared = bench.root / "o", bench.compute(hardware=CPU, threads=2)
    first = evaluate(bench.work(out), **shared)
    bench.engine.asked.clear()
    submission, cost = ((out / name).read_bytes() for name in ("submission.csv", "cost.json"))
    recorded = read_score(out, "per-class").score
    monkeypatch.setattr(medical, "measure_label_maps", None)  # the measures are recorded already
    monkeypatch.setattr(score_module, "measure_label_maps", None)
    notices: list[str] = []
    wanted = PredictionOptions(nifti=True)
    second = evaluate(
        bench.work(out), metric="joined", options=wanted, on_notice=notices.append, **shared
    )
    assert bench.engine.asked == []
    assert "Using the predictions of " in notices[1]
    assert second.seconds_per_scan == first.seconds_per_scan
    assert ((out / "submission.csv").read_bytes(), (out / "cost.json").read_bytes()) == (
        submission, cost,
    )  # fmt: skip
    assert first.score is not None
    assert second.score is not None
    assert read_score(out, "per-class").score.score == first.score.score
    assert read_score(out).score.metric == "joined"
    assert read_score(out).score.score == second.score.score
    assert recorded.medical is not None
    assert second.score.medical == recorded.medical
    for one, other in zip(recorded.per_scan, read_score(out).score.per_scan, strict=True):
        assert repr(one.measures) == repr(other.measures)
    monkeypatch.undo()
    monkeypatch.setattr(engine_module, "run_engine", bench.engine)
    monkeypatch.setattr(predict_module, "check_model", lambda *_: None)
    monkeypatch.setattr(evaluation, "digest_checkpoint", lambda *_: "0" * 16)
    for scan_id, masks in ((s, second.read_masks(s)) for s in second.scan_ids):
        volume = read_volume(out / "labels" / f"{scan_id}.nii.gz").array
        np.testing.assert_array_equal(volume, join_organs(list(masks.values())))
        stomach = read_volume(out / "organs" / f"{scan_id}_stomach.nii.gz").array
        np.testing.assert_array_equal(stomach, masks["stomach"])
    evaluate(bench.work(out), again=True, **shared)
    assert bench.engine.asked
    assert list(find_scores(out)) == ["per-class"]


def _change_image(bench: Bench) -> None:
    path = bench.selection.scans[0].files[0]
    path.write_bytes(path.read_bytes() + b"x")


def _change_checkpoint(bench: Bench) -> None:
    (bench.root / "model" / "fold_2").mkdir(parents=True)
    (bench.root / "model" / "fold_2" / "checkpoint_final.pth").touch()


def _change_plans(bench: Bench) -> None:
    (bench.root / "model").mkdir()
    (bench.root / "model" / "plans.json").touch()


def _change_submission(bench: Bench) -> None:
    with (bench.root / "o" / "submission.csv").open("a") as file:
        file.write("\n")


def _change_models_folds(bench: Bench) -> None:
    bench.ensemble = replace(bench.ensemble, folds=(0, 1, 2))


def _change_folds_of_a_scan(bench: Bench) -> None:
    folds = dict(bench.selection.folds or {})
    scan_id, (fold, *_) = next(iter(folds.items()))
    bench.selection = replace(
        bench.selection, folds={**folds, scan_id: (next(f for f in (0, 1) if f != fold),)}
    )


def _change_order(bench: Bench) -> None:
    assert bench.selection.truth is not None
    bench.selection = replace(bench.selection, sample=bench.selection.truth)


def _change_orientation(bench: Bench) -> None:
    bench.selection = replace(bench.selection, options={"orientation": "as-stored"})


def _tune(bench: Bench, threshold: float) -> None:
    """Let ``tune`` have chosen a threshold for these models."""
    choice = OrganDecision(threshold=threshold)
    tuned = Tuned(
        path=bench.root / "t.json", decision=Decision(organs={"stomach": choice}),
        content=cast(Any, {"gains": {}}),
    )  # fmt: skip
    bench.monkeypatch.setattr(evaluation, "find_tuning", lambda _: (tuned, []))


CHANGES: dict[str, tuple[Callable[[Bench], object] | None, dict[str, Any]]] = {
    "nothing": (None, {}),
    "threads": (None, {"threads": 3}),
    "the device": (None, {"hardware": CARDS}),
    "mirroring": (None, {"mirroring": False}),
    "the step": (None, {"step_size": 0.25}),
    "probabilities": (None, {"options": PredictionOptions(save_probabilities=True)}),
    "an image": (_change_image, {}),
    "a checkpoint": (_change_checkpoint, {}),
    "plans": (_change_plans, {}),
    "the models' folds": (_change_models_folds, {}),
    "the folds of a scan": (_change_folds_of_a_scan, {}),
    "the order of the rows": (_change_order, {}),
    "the orientation": (_change_orientation, {}),
    "a tuning": (lambda b: _tune(b, 0.4), {}),
    "the submission": (_change_submission, {}),
    "prediction.json": (lambda b: (b.root / "o" / "prediction.json").write_text("{"), {}),
    "cost.json": (lambda b: (b.root / "o" / "cost.json").unlink(), {}),
}


@pytest.mark.parametrize("what", list(CHANGES))
def test_what_changes_the_masks_is_predicted_again(bench: Bench, what: str) -> None:
    change, more = CHANGES[what]
    given = {"hardware": CPU, "threads": 2}
    evaluate(bench.work(bench.root / "o"), **bench.compute(**given))
    images = [(path, path.read_bytes()) for s in bench.selection.scans for path in s.files]
    if change is not None:
        change(bench)
    bench.engine.asked.clear()
    options = more.get("options")
    shared = bench.compute(**{**given, **{k: v for k, v in more.items() if k != "options"}})
    notices: list[str] = []
    evaluate(bench.work(bench.root / "o"), options=options, on_notice=notices.append, **shared)
    assert bool(bench.engine.asked) == (what != "nothing")
    assert any("and is replaced" in one for one in notices) == (what != "nothing")
    for path, data in images:
        path.write_bytes(data)


def test_a_tuning_is_part_of_the_request_as_it_was_chosen(bench: Bench) -> None:
    def predicts(**more: Any) -> bool:
        bench.engine.asked.clear()
        evaluate(bench.work(bench.root / "o"), **bench.compute(hardware=CPU), **more)
        return bool(bench.engine.asked)

    _tune(bench, 0.4)
    assert predicts()
    assert not predicts()
    _tune(bench, 0.6)
    assert predicts()
    assert predicts(options=PredictionOptions(tuning=False))
    assert not predicts(options=PredictionOptions(tuning=False))
    assert predicts()


def test_the_same_request_elsewhere_is_the_same(bench: Bench) -> None:
    """The digest has no paths, so a workspace can move."""
    evaluate(bench.work(bench.root / "o"), **bench.compute(hardware=CPU))
    bench.engine.asked.clear()
    (bench.root / "o").rename(bench.root / "moved")
    evaluate(bench.work(bench.root / "moved"), **bench.compute(hardware=CPU))
    assert bench.engine.asked == []


def test_a_part_of_a_finished_prediction_is_not_predicted(bench: Bench) -> None:
    work, shared = bench.work(bench.root / "o"), bench.compute(hardware=CPU)
    evaluate(work, **shared)
    bench.engine.asked.clear()
    notices: list[str] = []
    assert predict_part(work, (1, 2), on_notice=notices.append, **shared) == 3
    assert (bench.engine.asked, work.kept.exists()) == ([], False)
    assert "Using the predictions of " in notices[1]
    assert predict_part(work, (1, 2), again=True, **shared) == 3
    asked = len(bench.engine.asked)
    assert asked
    evaluate(work, again=True, **shared)  # predicts what the part has not
    assert sum(len(one["scans"]) for one in bench.engine.asked[asked:]) == 3
    _change_image(bench)
    bench.engine.asked.clear()
    predict_part(work, (1, 2), **shared)
    assert bench.engine.asked


@pytest.mark.parametrize("name", ["labels/{}.nii.gz", "organs/{}_stomach.nii.gz", "truth.csv"])
@pytest.mark.parametrize("part", [False, True])
def test_files_of_others_are_not_replaced(bench: Bench, name: str, part: bool) -> None:
    work, shared = bench.work(bench.root / "o"), bench.compute(hardware=CPU)
    path = work.out / name.format(bench.selection.scans[0].scan_id)
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    options = PredictionOptions(nifti=True)
    predict = partial(predict_part, part=(1, 2)) if part else evaluate
    with pytest.raises(OutputError, match="no prediction seems to have written"):
        predict(work, options=options, **shared)
    assert (bench.engine.asked, path.read_text()) == ([], "mine")
    assert [file for file in work.out.rglob("*") if file.is_file()] == [path]


def test_what_a_killed_run_left_is_its_own(bench: Bench) -> None:
    """Also if no scan was kept yet, and its lock is gone with a copy of the folder."""
    work, shared = bench.work(bench.root / "o"), bench.compute(hardware=CPU)

    def fail(*_: Any, **__: Any) -> Any:
        path = work.kept / "labels" / f"{bench.selection.scans[0].scan_id}.nii.gz"
        path.parent.mkdir(parents=True)
        path.touch()
        raise OutputError("no space left")

    options = PredictionOptions(nifti=True)
    bench.monkeypatch.setattr(engine_module, "run_engine", fail)
    with pytest.raises(OutputError, match="no space left"):
        evaluate(work, options=options, **shared)
    bench.monkeypatch.setattr(engine_module, "run_engine", bench.engine)
    assert evaluate(work, options=options, **shared).score is not None


def test_other_versions_predict_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate(bench.work(bench.root / "o"), **bench.compute(hardware=CPU))
    bench.engine.asked.clear()
    monkeypatch.setattr(evaluation, "version", lambda name: "0.0")
    evaluate(bench.work(bench.root / "o"), **bench.compute(hardware=CPU))
    assert bench.engine.asked


def test_a_score_of_another_truth_does_not_stay(bench: Bench) -> None:
    out, shared = bench.root / "o", bench.compute(hardware=CPU)
    for metric in ("joined", "per-class"):
        evaluate(bench.work(out), metric=metric, **shared)
    assert len(find_scores(out)) == 2
    lines = (out / "truth.csv").read_text().splitlines(keepends=True)
    (out / "truth.csv").write_text("".join(lines[:-1]))
    evaluate(bench.work(out), **shared)
    assert list(find_scores(out)) == ["per-class"]


def test_parts_are_joined_to_the_same_bytes_without_predicting_a_scan_again(bench: Bench) -> None:
    """Out of fold, so that a part knows other folds than the whole."""
    bench.evaluate("whole", hardware=CPU, threads=2)
    bench.engine.asked.clear()
    out = bench.root / "parts"
    shared = bench.compute(hardware=CPU, threads=2)
    counts = [predict_part(bench.work(out), (number, 3), **shared) for number in (3, 1, 2)]
    assert sum(counts) == len(bench.selection.scans)
    assert not bench.work(out).submission.exists()
    asked = len(bench.engine.asked)
    bench.evaluate("parts", hardware=CPU, threads=2)
    assert len(bench.engine.asked) == asked
    assert digests(out) == digests(bench.root / "whole")
    assert not bench.work(out).kept.exists()


def test_parts_exclude_the_whole_and_each_itself_but_not_one_another(bench: Bench) -> None:
    work, shared = bench.work(bench.root / "o"), bench.compute(hardware=CPU)

    def during(done: int, _total: int, _what: str) -> None:
        if not done:
            return
        with pytest.raises(OutputError, match="in use by another run"):
            predict_part(work, (1, 2), **shared)
        with pytest.raises(OutputError, match="in use by another run"):
            evaluate(work, **shared)
        predict_part(work, (2, 2), **shared)

    predict_part(work, (1, 2), progress=during, **shared)
    assert len(list(work.kept.iterdir())) == len(bench.selection.scans)


def test_more_parts_than_scans_leave_some_without_work(bench: Bench) -> None:
    many = len(bench.selection.scans) + 1
    work, shared = bench.work(bench.root / "o"), bench.compute(hardware=CPU)
    assert predict_part(work, (many, many), **shared) == 0
    assert bench.engine.asked == []
    with pytest.raises(InputError, match="--part 0/2: expected 1/2 to 2/2"):
        predict_part(work, (0, 2), **shared)


def test_what_is_worked_on_has_one_digest_until_it_changes(bench: Bench) -> None:
    work = bench.work(bench.root / "o")
    first = work.digest()
    assert work.digest() == first
    os.utime(bench.selection.scans[0].files[0], (0, 0))
    second = work.digest()
    (bench.root / "model" / "fold_0").mkdir(parents=True)
    (bench.root / "model" / "fold_0" / "checkpoint_final.pth").touch()
    assert len({first, second, work.digest()}) == 3


@pytest.mark.parametrize(
    ("hardware", "threads", "expected"),
    [
        (CPU, 3, 3),
        (CARDS, 3, 3),
        (CPU, None, count_cores()),
        (CARDS, None, max(1, count_cores() // 2)),
    ],
)
def test_the_threads_of_a_prediction_are_given_and_recorded(
    bench: Bench, hardware: Hardware, threads: int | None, expected: int
) -> None:
    computing = bench.evaluate("out", hardware=hardware, threads=threads, mirroring=False)
    assert computing == {
        "device": hardware.device, "threads": expected, "mirroring": False, "step_size": 0.5,
    }  # fmt: skip
    assert {asked["threads"] for asked in bench.engine.asked} == {expected}
    for environment in bench.engine.environments:
        assert environment["OMP_NUM_THREADS"] == environment["MKL_NUM_THREADS"] == str(expected)


def test_scans_come_back_in_the_order_they_were_given(bench: Bench) -> None:
    done = predict_scans(
        bench.ensemble, bench.selection.scans, **bench.compute(hardware=CARDS)
    ).scans
    assert [scan.scan_id for scan in done] == [scan.scan_id for scan in bench.selection.scans]
    assert len({organ for scan in done for _, organ, _ in scan.rows}) == len(ORGANS)
    assert evaluation.ORGANS == ORGANS
