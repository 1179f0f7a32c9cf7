"""The calls of the package itself: light to import, the commands' defaults, the commands' bytes."""

from __future__ import annotations

import inspect
import json
import os
import pydoc
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import monai.metrics  # noqa: F401 - PyTorch, which it imports, sets variables of its own
import nibabel  # noqa: F401 - gdcm, which it imports if installed, sets a variable of its own
import numpy as np
import pandas as pd
import pytest
import typer

import gi2nnunet
from gi2nnunet import api
from gi2nnunet.cli import app
from tests.command_line import tree
from tests.source_factory import make_source, write_source

ROOT = Path(gi2nnunet.__file__).parent

GROUP: Any = typer.main.get_command(app)
# Options that are not keywords, by command; each for a reason.
ON_A_CLUSTER = {"on", "profile", "slurm", "dry_run"}
NOT_KEYWORDS = {
    "predict": ON_A_CLUSTER | {"part", "parts"},
    "predict-and-score": ON_A_CLUSTER | {"parts"},
    "remove": {"yes"},  # a call does not ask
    "status": {"watch"},  # a loop over the call
    "train": ON_A_CLUSTER,
}
PRINTING = {"as_json", "quiet"}
CALLBACKS = {
    *("progress", "on_epoch", "on_notice", "on_warning", "on_plan", "on_start", "stop"),
}


def python(code: str, *, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_loads_nothing_heavy(tmp_path: Path) -> None:
    loaded = python(
        "import sys; before = set(sys.modules); import gi2nnunet; dir(gi2nnunet); "
        "print(*{m.partition('.')[0] for m in set(sys.modules) - before})",
        cwd=tmp_path,
    ).split()
    assert not set(loaded) & {"numpy", "pandas", "torch", "typer", "rich", "nibabel", "matplotlib"}


def test_every_name_is_there_and_no_module_hides_one() -> None:
    modules = {path.stem for path in [*ROOT.glob("*.py"), *ROOT.glob("*/")]}
    assert not set(gi2nnunet.__all__) & modules
    assert dir(gi2nnunet) == sorted(gi2nnunet.__all__)
    for name in gi2nnunet.__all__:
        assert getattr(gi2nnunet, name) is not None, name
    with pytest.raises(AttributeError, match="nonsense"):
        gi2nnunet.nonsense  # noqa: B018


@pytest.mark.parametrize("name", GROUP.commands)
def test_a_command_is_a_call_with_its_options_and_defaults(name: str) -> None:
    call = getattr(api, name.replace("-", "_"))
    keywords = dict(inspect.signature(call).parameters)
    for callback in CALLBACKS:
        keywords.pop(callback, None)
    left_out = PRINTING | NOT_KEYWORDS.get(name, set())
    options = {param.name: param for param in GROUP.commands[name].params}
    assert left_out - PRINTING <= set(options)  # no exception that is not needed any more
    assert set(options) - left_out == set(keywords)
    for keyword, parameter in keywords.items():
        option = options[keyword]
        required = parameter.default is inspect.Parameter.empty
        assert option.required == required, keyword
        assert required or parameter.default == option.default, keyword
        positional = parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        assert positional or option.param_type_name == "option", keyword
        is_argument = option.param_type_name == "argument"
        assert not positional or is_argument or keyword in ("out", "truth"), keyword


TABLES = {
    *("SourceReport", "Dataset", "Diagnosis", "Estimate", "SlurmJobs", "Score", "Comparison"),
    *("TunedModels", "ModelComparison", "WorkspaceStatus", "Verification", "Removal"),
}


@pytest.mark.parametrize("name", GROUP.commands)
def test_a_call_returns_an_object_with_plain_values(name: str) -> None:
    returned = inspect.signature(getattr(api, name.replace("-", "_"))).return_annotation
    (kind,) = re.findall(r"[A-Z]\w+", returned)
    made = getattr(gi2nnunet, kind)
    assert callable(made.to_json)
    assert hasattr(made, "to_frame") == (kind in TABLES)


def test_help_begins_with_every_call() -> None:
    """The first screen of help(gi2nnunet), before the modules and classes."""
    head = pydoc.plain(pydoc.render_doc(gi2nnunet)).partition("PACKAGE CONTENTS")[0]
    assert set(re.findall(r"``([a-z_]+)``", head)) == set(gi2nnunet._HOMES["api"])
    assert len(head.splitlines()) <= 40


def test_what_is_offered_has_the_parameters_of_the_calls() -> None:
    for name in gi2nnunet._HOMES["api"]:
        offered, call = getattr(gi2nnunet, name), getattr(api, name)
        assert inspect.signature(offered) == inspect.signature(call)
        assert offered.__doc__ == call.__doc__


def test_convert_and_score_write_what_the_commands_write(run, here, capsys) -> None:
    write_source(here / "source")
    before = dict(os.environ)
    told: list[tuple[int, int, str]] = []
    dataset = gi2nnunet.convert("source", workspace="called", progress=lambda *a: told.append(a))
    assert capsys.readouterr() == ("", "")
    assert told
    code, _, _ = run("convert", "source", "--workspace", "typed")
    assert code == 0
    called, typed = tree(here / "called"), tree(here / "typed")
    assert called == typed

    truth = dataset.truth_path
    submission = here / "submission.csv"
    submission.write_text(truth.read_text())
    score = gi2nnunet.score(submission, str(truth), metric="joined", intervals=True)
    words = ("--metric", "joined", "--intervals", "--json")
    code, out, _ = run("score", submission, "--truth", truth, *words)
    assert code == 0
    assert {"format": 1, **score.to_json(), "warnings": []} == json.loads(out)
    assert dict(os.environ) == before
    assert gi2nnunet.open_dataset(workspace="called").scans == dataset.scans


def test_a_datasets_scans_are_arrays_and_a_table(here) -> None:
    source = make_source()
    write_source(here / "source", source)
    for labels in ("regions", "exclusive"):
        dataset = gi2nnunet.convert("source", workspace=labels, labels=labels)
        for scan in dataset.scans:
            made = source.truth[scan.scan_id]
            assert np.array_equal(dataset.read_image(scan), made.image)
            masks = dataset.read_masks(scan.scan_id)
            assert tuple(masks) == gi2nnunet.ORGANS
            if labels == "regions":
                assert np.array_equal(np.stack(list(masks.values())), made.masks)
            else:
                assert np.array_equal(np.any(list(masks.values()), axis=0), made.masks.any(axis=0))
    scan = dataset["case2_day1"]
    assert np.array_equal(scan.image, source.truth["case2_day1"].image)
    assert scan.image is scan.image  # read once
    assert np.array_equal(scan.masks["stomach"], dataset.read_masks("case2_day1")["stomach"])
    assert (scan.shape, scan.numbers[0]) == (scan.image.shape, 1)
    assert "case2_day1" in dataset
    assert "case2_day2" not in dataset
    assert list(dataset) == [one.scan_id for one in dataset.scans]
    assert len(dataset) == len(dataset.scans)
    frame = dataset.to_frame()
    assert list(frame.index) == [scan.scan_id for scan in dataset.scans]
    assert frame.loc["case2_day1", "patient_id"] == "case2"
    assert len(repr(dataset)) < 300  # the last line of a notebook's cell shows it
    assert "slices" in dataset._repr_html_()


def test_what_calls_return_is_what_their_commands_print(run, here) -> None:
    small = gi2nnunet.Geometry(width=40, height=36, slices=6, spacing_mm=(6.0, 6.0))
    made = gi2nnunet.phantom("a", patients=5, days=1, size=small, easy=True, jobs=1)
    words = ("--patients", "5", "--days", "1", "--size", "40x36x6@6", "--easy", "--jobs", "1")
    printed = json.loads(run("phantom", "--out", "b", *words, "--json")[1])
    assert {**made.to_json(), "source": "b", "format": 1} == printed
    assert tree(here / "a") == tree(here / "b")
    dataset = gi2nnunet.convert("a", workspace="w", jobs=1)
    printed = json.loads(run("convert", "a", "--workspace", "w", "--json")[1])
    assert {**dataset.to_json(), "format": 1} == printed
    for name, words, call in (
        ("verify", ("--quick",), lambda: gi2nnunet.verify(quick=True, workspace="w")),
        ("jobs", (), lambda: gi2nnunet.jobs(workspace="w")),
        (
            "encode", (dataset.folder / "labelsTr", "--out", "c.csv"),
            lambda: gi2nnunet.encode(dataset.folder / "labelsTr", out="c.csv"),
        ),
        ("check", ("a", "--jobs", "1"), lambda: gi2nnunet.check("a", jobs=1)),
    ):  # fmt: skip
        place = () if name in ("encode", "check") else ("--workspace", "w")
        code, out, err = run(name, *words, *place, "--json")
        returned = call()
        assert code == 0, err
        plain = json.loads(json.dumps(returned.to_json()))
        assert {**plain, "format": 1} == json.loads(out), name
    assert gi2nnunet.verify(workspace="w").to_frame().empty
    status = gi2nnunet.status(workspace="w")
    assert status.to_frame().empty
    assert list(status.to_frame("datasets")["name"]) == ["Dataset501_UWGI"]
    with pytest.raises(ValueError, match="'scans' is none of 'datasets'"):
        status.to_frame("scans")  # type: ignore[arg-type]
    removed = gi2nnunet.remove("501", workspace="w", dry_run=True).to_frame()
    assert list(removed.index) == ["Dataset501_UWGI"]
    checked = gi2nnunet.check("a", jobs=1, html="check.html")
    assert list(checked.to_frame().columns)[:2] == ["kind", "scan_id"]
    assert (here / "check.html").read_text().startswith("<!")
    assert list(gi2nnunet.jobs(workspace="w").to_frame().columns)[:2] == ["job_id", "state"]


def test_calls_draw_bars_and_print_nothing_else(here, capsys) -> None:
    truth = here / "w/raw/Dataset501_UWGI/truth.csv"
    for call in (
        lambda: gi2nnunet.phantom("a", days=1, size="40x36x6@6", jobs=1, progress=True),
        lambda: gi2nnunet.check("a", jobs=1, progress=True),
        lambda: gi2nnunet.convert("a", workspace="w", jobs=1, progress=True),
        lambda: gi2nnunet.verify(workspace="w", progress=True),
        lambda: gi2nnunet.score(truth, truth, progress=True),
    ):  # fmt: skip
        call()
        out, drawn = capsys.readouterr()
        assert out == ""
        steps = [line.rpartition("\r")[2] for line in drawn.strip("\n").split("\n")]
        assert steps
        assert all(": 100%|" in step for step in steps), steps


def test_a_score_is_two_tables_and_a_line(here) -> None:
    write_source(here / "source")
    truth = gi2nnunet.convert("source", workspace="work").truth_path
    score = gi2nnunet.score(truth, truth)
    scans, organs = score.to_frame(), score.to_frame("organ")
    assert len(scans) == len(score.per_scan)
    assert scans["stomach_dice"].eq(1).all()
    assert list(organs.index) == [*gi2nnunet.ORGANS, "all"]
    assert organs.loc["all", "n_rows"] == organs["n_rows"].iloc[:3].sum()
    assert str(score).startswith("1.00000 = 0.4 x Dice 1.00000")
    assert "<table" in score._repr_html_()
    assert "case2_day1" not in repr(score)
    wider = gi2nnunet.score(truth, truth, intervals=True)
    assert wider.to_json() == score.to_json() | {"intervals": wider.to_json()["intervals"]}
    bounds = wider.to_frame("quantity")
    assert list(bounds.columns) == ["value", "low", "high"]
    assert bounds.loc["stomach.dice"].tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="intervals=True"):
        score.to_frame("quantity")
    with pytest.raises(ValueError, match="organs"):
        score.to_frame("organs")  # type: ignore[arg-type]


def test_what_is_returned_is_short_in_a_notebook(here) -> None:
    """The last line of a cell shows it: a few lines, or a table."""
    write_source(here / "source")
    truth = gi2nnunet.convert("source", workspace="work").truth_path
    compared = gi2nnunet.compare(truth, truth, truth)
    assert str(compared).startswith("A ")
    for found in (
        gi2nnunet.check("source"), gi2nnunet.status(workspace="work"), compared,
        gi2nnunet.verify(workspace="work", quick=True), gi2nnunet.score(truth, truth),
        gi2nnunet.remove("501", workspace="work", dry_run=True), gi2nnunet.jobs(workspace="work"),
    ):  # fmt: skip
        assert len(repr(found)) < 1500, type(found)
        assert "<table" in found._repr_html_()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: gi2nnunet.train(epochs=0), "epochs"),
        (lambda: gi2nnunet.train(lr=float("nan")), "lr"),
        (lambda: gi2nnunet.train(gpus=-1), "gpus"),
        (lambda: gi2nnunet.predict(step_size=0), "step_size"),
        (lambda: gi2nnunet.predict(threads=0), "threads"),
        (lambda: gi2nnunet.predict_and_score(metric="dice"), "metric"),
        (lambda: gi2nnunet.score("a", "b", metric="dice"), "metric"),
        (lambda: gi2nnunet.score("a", "b", tolerance_mm=-1), "tolerance_mm"),
        (lambda: gi2nnunet.convert("a", jobs=0), "jobs"),
        (lambda: gi2nnunet.check("a", jobs=0), "jobs"),
        (lambda: gi2nnunet.phantom("a", masks="b"), "sizes"),
        (lambda: gi2nnunet.phantom("a", sizes="b", days=3), "days"),
        (lambda: gi2nnunet.phantom("a", size="64x64"), "size"),
        (lambda: gi2nnunet.phantom("a", jobs=-1), "jobs"),
        (lambda: gi2nnunet.phantom("a", seed=-1), "seed: found -1; expected 0 or more"),
        (lambda: gi2nnunet.convert("a", seed=-1), "seed: found -1; expected 0 or more"),
        (lambda: gi2nnunet.compare("a", "b", seed=-1), "seed: found -1; expected 0 or more"),
        (lambda: gi2nnunet.estimate(card="A100", measure=True), "card"),
        (lambda: gi2nnunet.estimate(device="cpu", gpus=2), "gpus"),
        (lambda: gi2nnunet.doctor(jobs=0), "jobs"),
        (lambda: gi2nnunet.plan(batch_size=0), "batch_size"),
        (lambda: gi2nnunet.predict_hidden("a", model="b", hours=0), "hours"),
        (lambda: gi2nnunet.kaggle_bundle(user="jane", hours=float("nan")), "hours"),
        (lambda: gi2nnunet.out_of_fold(step_size=2), "step_size"),
        (lambda: gi2nnunet.tune(threads=0), "threads"),
        (lambda: gi2nnunet.compare_models(step_size=0), "step_size"),
        (lambda: gi2nnunet.verify(jobs=0), "jobs"),
    ],
)
def test_a_callers_mistake_is_told_before_anything_is_done(here, call, words) -> None:
    with pytest.raises(ValueError, match=words):
        call()
    assert not list(here.iterdir())


def test_errors_are_the_family(here) -> None:
    with pytest.raises(gi2nnunet.GiError):
        gi2nnunet.convert("nowhere")
    for call in (gi2nnunet.train, gi2nnunet.predict_and_score, gi2nnunet.report):
        with pytest.raises(gi2nnunet.InputError, match="convert"):
            call(workspace="nowhere")
    assert not list(here.iterdir())


@pytest.mark.engine
@pytest.mark.slow
def test_from_a_source_to_a_report(here, capsys) -> None:
    before = dict(os.environ)
    small = gi2nnunet.Geometry(width=48, height=40, slices=16, spacing_mm=(3.0, 3.0))
    gi2nnunet.phantom("source", patients=5, days=1, test_patients=1, size=small, easy=True)
    dataset = gi2nnunet.convert("source", workspace="work")
    epochs, notices, told = [], [], []
    results = gi2nnunet.train(
        workspace="work", preset="tiny", config="2d", fold="all", patch_size=(40, 48), epochs=2,
        iterations=3, device="cpu", on_epoch=epochs.append, on_notice=notices.append,
        progress=lambda *step: told.append(step),
    )  # fmt: skip
    assert [(r.configuration, r.fold, r.outcome) for r in results] == [("2d", "all", "trained")]
    assert [epoch.epoch for epoch in epochs] == [1, 2]
    assert set(epochs[0].pseudo_dice) == set(gi2nnunet.ORGANS)
    assert notices[0].startswith("Computing on: CPU")
    assert any(what.startswith("preprocessing") for _, _, what in told)

    told.clear()
    prediction = gi2nnunet.predict_and_score(
        workspace="work", device="cpu", mirroring=False, progress=lambda *step: told.append(step)
    )
    held_out = [scan.scan_id for scan in dataset.scans if scan.part == "holdout"]
    assert prediction.standing == "held-out"
    assert list(prediction.scan_ids) == held_out
    n_scans = len(held_out)
    assert told == [
        *((n, n_scans, "predicting scans") for n in range(n_scans + 1)),
        *((n, n_scans, "scoring scans") for n in range(1, n_scans + 1)),
    ]
    figure = prediction.plot(held_out[0])
    assert figure.get_suptitle().startswith(held_out[0])
    assert 1 <= len(figure.axes) <= 4
    truth_file = prediction.submission.with_name("truth.csv")
    again = gi2nnunet.score(prediction.submission, truth_file, medical=True, workspace="work")
    assert again.to_json() == prediction.score.to_json()
    stored = pd.read_csv(
        prediction.submission.with_name("score-per-class.csv"), index_col="scan_id"
    )
    table = again.to_frame()
    assert list(stored.columns) == list(table.columns)
    numbers = table.select_dtypes("number").columns
    pd.testing.assert_frame_equal(stored[numbers], table[numbers], check_exact=False)

    # Masks as the submission has them give its very score against the true ones.
    scan = dataset.scan(held_out[0])
    masks, truth = prediction.read_masks(scan.scan_id), dataset.read_masks(scan)
    assert np.array_equal(prediction.read_image(scan.scan_id), dataset.read_image(scan))
    for organ, mask in masks.items():
        assert mask.shape == scan.shape
        sums = mask.sum((1, 2)) + truth[organ].sum((1, 2))
        dice = 2 * (mask & truth[organ]).sum((1, 2))[sums > 0] / sums[sums > 0]
        assert again.to_frame().loc[scan.scan_id, f"{organ}_dice"] == pytest.approx(dice.mean())
    with pytest.raises(KeyError):
        prediction.read_masks("case0_day0")

    hidden = gi2nnunet.predict("source", workspace="work", device="cpu", mirroring=False)
    assert hidden.score is None
    name = hidden.scan_ids[0]
    assert hidden.read_image(name).shape == hidden.read_masks(name)["stomach"].shape == (16, 40, 48)

    page = gi2nnunet.report(workspace="work", prediction=prediction.submission.parent)
    assert page.path.read_text().startswith("<!")
    assert dict(os.environ) == before
    assert capsys.readouterr() == ("", "")
    gi2nnunet.train(
        workspace="work", preset="tiny", config="2d", patch_size=(40, 48), epochs=3, iterations=3,
        device="cpu", restart=True, progress=True,
    )  # fmt: skip
    out, drawn = capsys.readouterr()
    assert out == ""
    assert "3 of 3" in drawn.rpartition("training 2d, fold all: epochs: 100%")[2]


@pytest.mark.slow
@pytest.mark.engine
def test_the_notebook_runs(tmp_path: Path) -> None:
    pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    project = Path(__file__).parent.parent
    stored = project / "docs" / "notebook.ipynb"
    before = stored.read_bytes()
    out = tmp_path / "run.ipynb"
    subprocess.run(
        [sys.executable, project / "scripts" / "refresh_notebook.py", "--out", out],
        check=True,
        timeout=1800,
    )
    assert stored.read_bytes() == before
    then, now = nbformat.read(stored, as_version=4), nbformat.read(out, as_version=4)
    assert [cell.source for cell in then.cells] == [cell.source for cell in now.cells]
    for notebook, when in ((then, "stored"), (now, "now")):
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        shown = [output for cell in code for output in cell.outputs]
        kinds = {output.output_type for output in shown}
        assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), when
        assert kinds == {"execute_result", "display_data", "stream"}, when
        assert all(output.get("name") != "stderr" for output in shown), when
        assert sum("image/png" in output.get("data", {}) for output in shown) == 3, when
        text = "".join(output.get("text", "") for output in shown)
        values = [float(v) for v in re.findall(r"^(0\.\d+) = ", text, re.MULTILINE)]
        assert len(values) == 4, when
        assert 0.3 < values[0] < 1, when  # per-class: something was learnt
    assert stored.stat().st_size < 300_000
    for trace in (tempfile.gettempdir(), str(project), f"{Path.home()}/"):
        assert trace not in stored.read_text(encoding="utf-8")
