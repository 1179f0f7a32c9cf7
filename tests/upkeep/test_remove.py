"""Removal: what goes and what stays, names, refusals, and kills at every step."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

import gi2nnunet
from gi2nnunet.core.errors import InputError, OutputError
from gi2nnunet.core.locks import hold, hold_dataset
from gi2nnunet.dataset.workspace import open_workspace
from gi2nnunet.formats.probabilities import SUFFIX
from gi2nnunet.nnunet.models import list_folds
from gi2nnunet.prediction.folders import find_predictions
from gi2nnunet.upkeep.verify import verify_workspace
from tests.command_line import tree
from tests.converting import convert
from tests.source_factory import make_source, write_source
from tests.upkeep.workspace_factory import (
    NAME,
    STOCK,
    add_prediction,
    add_training,
    add_tuning,
)

SCANS = ("case1_day0", "case2_day0", "case3_day0", "case4_day2")


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a dataset, three trainings, two predictions and a tuning."""
    root = tmp_path_factory.mktemp("origin")
    workspace = open_workspace(root / "w", environ={})
    source = write_source(root / "source", make_source(SCANS))
    dataset = convert(source, workspace=workspace, folds=2, jobs=1)
    folds = [add_training(workspace, fold=fold) for fold in (0, 1)]
    add_training(workspace, model=f"{STOCK}__3d_fullres", fold="all")
    add_tuning(workspace, *folds)
    for fold in (0, 1):
        name = "held-out" if fold == 0 else "test"
        add_prediction(workspace, dataset, folder=f"{name}/{STOCK}__2d__fold_{fold}", folds=(fold,))
    stored = workspace.predictions / NAME / "out_of_fold" / f"{STOCK}__2d"
    stored.mkdir(parents=True)
    (stored / f"{SCANS[0]}{SUFFIX}").write_bytes(b"x")
    (workspace.preprocessed / NAME / "data").mkdir()
    (workspace.preprocessed / NAME / "data" / "a.b2nd").write_bytes(b"x" * 50)
    return root / "w"


@pytest.fixture
def root(origin: Path, here: Path) -> Path:
    return Path(shutil.copytree(origin, here / "gi2nnunet-workspace"))


def files(root: Path) -> set[str]:
    return {name for name in tree(root) if (root / name).is_file()}


GOES = {
    "2d/fold_0": (f"results/{NAME}/{STOCK}__2d/fold_0",),
    "3d_fullres/fold_all": (f"results/{NAME}/{STOCK}__3d_fullres",),
    "2d": (f"results/{NAME}/{STOCK}__2d",),
    "held-out": ("predictions/held-out",),
    "Dataset501_UWGI": (f"raw/{NAME}", f"preprocessed/{NAME}"),
    "501": (f"raw/{NAME}", f"preprocessed/{NAME}"),
    "out_of_fold/2d": (f"predictions/{NAME}",),
    "gi2nnunet_tuning_0123456789ab.json": (
        f"results/{NAME}/gi2nnunet_tuning_0123456789ab.json",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(GOES))
def test_what_is_named_goes_and_nothing_else(root: Path, run: Any, name: str) -> None:
    before = tree(root)
    code, out, err = run("remove", name, "--dry-run")
    assert (code, err) == (0, "")
    assert tree(root) == before
    code, out, err = run("remove", name, "--yes", "--json")
    assert (code, err) == (0, "")
    content = json.loads(out)
    assert (content["format"], content["removed"]) == (1, True)
    going = {
        n for n in before if n.startswith(tuple(p + "/" for p in GOES[name])) or n in GOES[name]
    }
    assert tree(root) == {n: what for n, what in before.items() if n not in going}
    assert len(content["pieces"]) == (2 if name == "2d" else 1)
    gone = {n for n in going if before[n] is not None}
    for text in (text for piece in content["pieces"] for text in piece["places"]):
        assert Path(text).is_relative_to(root)
        assert not Path(text).exists()
    assert gone
    found = gi2nnunet.status(workspace=root)
    assert found.leftovers == ()
    assert found.problems == ()


def test_bytes_are_those_of_the_files(root: Path) -> None:
    for name, places in GOES.items():
        asked = gi2nnunet.remove(name, workspace=root, dry_run=True)
        some = [root / place for place in places]
        paths = [p for place in some for p in (place, *place.rglob("*")) if p.is_file()]
        slack = 2 if name in ("2d", "3d_fullres/fold_all") else 0  # the model's own plans.json
        assert 0 <= sum(p.stat().st_size for p in paths) - asked.bytes <= slack


def test_what_was_made_from_it_is_named_and_stays(root: Path, run: Any) -> None:
    def made(*names: str) -> set[str]:
        removal = gi2nnunet.remove(names, workspace=root, dry_run=True)
        return {one for piece in removal.pieces for one in piece.made_from_it}

    tuning = "gi2nnunet_tuning_0123456789ab.json"
    assert made("2d/fold_0") == {"held-out", tuning, "out_of_fold/2d"}
    assert made("2d/fold_0", tuning) == {"held-out", "out_of_fold/2d"}
    assert made("3d_fullres/fold_all") == set()
    assert made("held-out") == set()
    assert made("501") == {
        "2d/fold_0", "2d/fold_1", "3d_fullres/fold_all", "held-out", "test", tuning,
        "out_of_fold/2d",
    }  # fmt: skip
    out = run("remove", "2d/fold_0", "--dry-run")[1]
    assert f"  {root.name}/results/{NAME}/{STOCK}__2d/fold_0" in out
    assert "Made from it, and stays: held-out" in out


def test_all_folds_together_take_their_model_folder_with_them(root: Path) -> None:
    gi2nnunet.remove(["2d/fold_0", "2d/fold_1"], workspace=root)
    assert [p.name for p in (root / "results" / NAME).iterdir() if p.is_dir()] == [
        f"{STOCK}__3d_fullres"
    ]
    assert len(gi2nnunet.status(workspace=root).trainings) == 1


def test_a_removed_dataset_can_be_converted_again_for_its_models(
    root: Path, here: Path, run: Any
) -> None:
    digest = gi2nnunet.open_dataset(workspace=root).digest
    gi2nnunet.remove("501", workspace=root)
    with pytest.raises(InputError):
        gi2nnunet.open_dataset(workspace=root)
    source = write_source(here / "source", make_source(SCANS))
    shutil.rmtree(root / "results")  # of models made up by this test
    again = convert(source, workspace=open_workspace(root, environ={}), folds=2, jobs=1)
    assert again.digest == digest


def test_paths_are_names_too(root: Path, run: Any) -> None:
    for path in (f"{root}/predictions/held-out/{STOCK}__2d__fold_0", GOES["2d/fold_0"][0]):
        words = path if Path(path).is_absolute() else os.path.relpath(root / path)
        code, _, err = run("remove", words, "--yes")
        assert (code, err) == (0, "")
    assert {one.name for one in gi2nnunet.status(workspace=root).predictions} == {"test"}


@pytest.mark.parametrize("spelling", ["raw/../{}", "../link/{}"])
def test_a_path_is_that_of_a_piece_however_it_is_spelled(root: Path, spelling: str) -> None:
    (root.parent / "link").symlink_to(root)
    fold = Path(GOES["2d/fold_0"][0])
    for name, place in {"501": f"raw/{NAME}", "2d/fold_0": fold, "2d": fold.parent}.items():
        named, found = (
            gi2nnunet.remove(one, workspace=root, dry_run=True)
            for one in (name, f"{root}/{spelling.format(place)}")
        )
        assert found == named


BAD = {
    "2d/fold_7": ("expected one of 2d/fold_1, 2d/fold_0", 3),
    "3d_fulres/fold_all": ("3d_fullres/fold_all", 3),
    "heldout": ("expected one of held-out", 3),
    "/etc": ("/etc: found nothing of that name", 3),
    "..": ("found nothing of that name", 3),
    "": ("found ''; expected a value", 2),
    "raw": ("found nothing of that name", 3),
    f"results/{NAME}": ("found nothing of that name", 3),
}


@pytest.mark.parametrize("name", list(BAD))
def test_a_wrong_name_removes_nothing_and_gets_close_ones(root: Path, run: Any, name: str) -> None:
    before = tree(root)
    text, expected = BAD[name]
    code, _, err = run("remove", name, "2d/fold_0", "--yes")
    assert code == expected
    assert text in err
    assert tree(root) == before


def test_a_wrong_name_is_named_before_anything_is_asked(root: Path, run: Any) -> None:
    code, _, err = run("remove", "2d/fold_7")
    assert code == 3
    assert "expected one of 2d/fold_1" in err
    assert run("remove", "2d/fold_1")[0] == 2  # nobody can be asked


def test_an_ambiguous_name_lists_the_whole_ones(root: Path, run: Any) -> None:
    workspace = open_workspace(root, environ={})
    add_training(workspace, model="nnUNetTrainer__nnUNetPlans__2d", fold=0)
    before = tree(root)
    code, _, err = run("remove", "2d/fold_0", "--yes")
    assert code == 3
    full = f"{NAME}/nnUNetTrainer__nnUNetPlans__2d/fold_0"
    assert full in err
    assert tree(root) == before
    names = [one.name for one in gi2nnunet.status(workspace=root).trainings]
    assert len(set(names)) == 4
    assert run("remove", "nnUNetPlans__2d/fold_0", "--yes")[0] == 0
    assert full not in [one.full_name for one in gi2nnunet.status(workspace=root).trainings]


def test_an_empty_workspace_holds_nothing_to_remove(run: Any, here: Path) -> None:
    (here / "foreign" / "photos").mkdir(parents=True)
    (here / "foreign" / "photos" / "me.png").write_bytes(b"x")
    before = tree(here)
    for folder in ("nowhere", "foreign"):
        for name in ("501", "photos", "foreign/photos"):
            code, _, err = run("remove", name, "--yes", "-w", folder)
            assert code == 3
            assert "the workspace holds none" in err
    assert tree(here) == before


def test_a_dataset_that_was_not_made_here_is_not_removed(root: Path, run: Any) -> None:
    theirs = root / "raw" / "Dataset042_Theirs"
    (theirs / "imagesTr").mkdir(parents=True)
    (theirs / "dataset.json").write_text("{}")
    only = root / "preprocessed" / "Dataset043_Other" / "nnUNetPlans_2d"
    only.mkdir(parents=True)
    before = tree(root)
    for name in ("42", "Dataset043_Other"):
        code, _, err = run("remove", name, "--yes")
        assert code == 3
        assert "found no sign that gi2nnunet made this dataset" in err
    assert tree(root) == before


def test_a_folder_around_other_predictions_is_not_removed(root: Path, run: Any) -> None:
    inner = next((root / "predictions" / "held-out").iterdir())
    for path in inner.iterdir():
        shutil.copy(path, inner.parent)
    before = tree(root)
    code, _, err = run("remove", str(inner.parent), "--yes")
    assert code == 3
    assert "holds other pieces" in err
    assert tree(root) == before


def test_the_folder_of_all_predictions_is_not_removed(root: Path, run: Any) -> None:
    """As after predict --out gi2nnunet-workspace/predictions."""
    home = root / "predictions"
    shutil.copy(next(home.rglob("submission.csv")), home)
    before = tree(root)
    assert "predictions" in {one.name for one in gi2nnunet.status(workspace=root).predictions}
    for name in ("predictions", str(home)):
        code, _, err = run("remove", name, "--yes")
        assert code == 3
        assert "expected one in a folder of its own" in err
    assert tree(root) == before


def test_it_asks_and_takes_no_for_an_answer(
    root: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(root)
    for words in (("remove", "held-out"), ("remove", "held-out", "--json")):
        code, _, err = run(*words)
        assert code == 2
        assert "--yes" in err
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    asked: list[str] = []

    def answer(yes: bool) -> Any:
        return lambda text, **_: asked.append(text) or yes

    monkeypatch.setattr("typer.confirm", answer(False))
    code, out, _ = run("remove", "held-out")
    assert code == 0
    assert "Nothing was removed." in out
    assert tree(root) == before
    monkeypatch.setattr("typer.confirm", answer(True))
    assert run("remove", "held-out")[0] == 0
    assert asked == ["Remove it?", "Remove it?"]
    assert not (root / "predictions" / "held-out").exists()


def test_nothing_goes_in_which_something_runs(root: Path) -> None:
    workspace = open_workspace(root, environ={})
    fold = root / GOES["2d/fold_0"][0]
    prediction = next((root / "predictions" / "held-out").iterdir())
    home = root / "predictions" / NAME / "out_of_fold"
    cases: list[tuple[Any, list[str]]] = [
        (hold(fold, purpose="training"), ["2d/fold_0"]),
        (hold(prediction / "prediction", purpose="predicting"), ["held-out", "2d/fold_1", "501"]),
        (hold(home / "predictions", purpose="predicting"), ["out_of_fold/2d", "2d/fold_0", "501"]),
        (hold_dataset(workspace.raw, 501, purpose="training"), ["501"]),
        (hold(fold.parent, purpose="predicting", shared=True), ["2d/fold_0", "2d", "501"]),
    ]
    for held, names in cases:
        with held:
            before = tree(root)
            for name in names:
                for dry_run in (True, False):
                    with pytest.raises(OutputError, match=f"process {os.getpid()} on") as error:
                        gi2nnunet.remove(name, workspace=root, dry_run=dry_run)
                    assert "Wait for it to end or stop it" in str(error.value)
            assert tree(root) == before


def test_of_a_link_only_the_link_goes(root: Path, here: Path, run: Any) -> None:
    made, kept = root / "preprocessed" / NAME, here / "scratch"
    made.rename(kept)
    made.symlink_to(kept)
    inside = tree(kept)
    out = run("remove", "501", "--yes")[1]
    assert f"  {made.relative_to(here)}: only this link" in out
    assert not os.path.lexists(made)
    assert tree(kept) == inside


def remove_and_die(name: str, root: Path, *, after: int) -> bool:
    """Remove in a process that is killed after some changes of the disk; whether it ended."""
    pid = os.fork()
    if pid == 0:
        left = after

        def count(event: str, _: object) -> None:
            nonlocal left
            if event in ("os.rename", "os.remove", "os.rmdir"):
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(count)
            gi2nnunet.remove(name, workspace=root)
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


WHOLE = {
    **GOES,
    "3d_fullres/fold_all": (f"results/{NAME}/{STOCK}__3d_fullres/fold_all",),
    "2d": tuple(f"results/{NAME}/{STOCK}__2d/fold_{fold}" for fold in (0, 1)),
    "held-out": (f"predictions/held-out/{STOCK}__2d__fold_0",),
}


@pytest.mark.parametrize("name", ["2d/fold_0", "2d", "3d_fullres/fold_all", "held-out", "501"])
def test_a_kill_at_any_step_leaves_nothing_that_looks_whole(
    origin: Path, here: Path, name: str
) -> None:
    """Each piece is there as it was or is gone, and the command that is shown removes the rest."""
    before = tree(origin)
    going = tuple(f"{place}/" for place in GOES[name])
    expected = {n for n in before if before[n] and not n.startswith(going)}
    steps = 0
    ended = False
    while not ended:
        root = Path(shutil.copytree(origin, here / str(steps)))
        workspace = open_workspace(root, environ={})
        ended = remove_and_die(name, root, after=steps)
        steps += 1 if steps < 6 else 5  # from there on, one file after the other is deleted
        for place in WHOLE[name]:
            there, whole = (
                {n: w for n, w in some.items() if n.startswith(f"{place}/") and n[-5:] != ".lock"}
                for some in (tree(root), before)
            )
            assert there in ({}, whole)
        for folder in (
            *(found.folder for found in list_folds(workspace.results / NAME)),
            *(found.folder for found in find_predictions(workspace.predictions)),
        ):
            assert folder.relative_to(root).as_posix() in before
        found = gi2nnunet.status(workspace=root)
        findings = verify_workspace(workspace, quick=True, jobs=1).findings if not ended else ()
        remedies = [one.remedy for one in findings if one.file in found.leftovers]
        assert len(remedies) == len(found.leftovers)
        for remedy in remedies:
            gi2nnunet.remove(remedy.partition("gi2nnunet remove ")[2], workspace=root)
        if any((root / place).exists() for place in WHOLE[name]):
            gi2nnunet.remove(name, workspace=root)
        assert {n for n in files(root) if not n.endswith(".lock")} == expected
        assert gi2nnunet.status(workspace=root).leftovers == ()
        shutil.rmtree(root)
    assert steps > 3
