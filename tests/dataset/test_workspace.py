from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gi2nnunet.core.errors import InputError
from gi2nnunet.dataset.workspace import Workspace, open_workspace
from gi2nnunet.nnunet.process import engine_environment

VARIABLES = {
    "nnUNet_raw": "/data/raw",
    "nnUNet_preprocessed": "/data/pre",
    "nnUNet_results": "/data/res",
}


def test_the_option_counts_before_the_variables(tmp_path: Path) -> None:
    workspace = open_workspace(tmp_path, environ=VARIABLES)
    assert workspace.raw == tmp_path / "raw"
    assert workspace.preprocessed == tmp_path / "preprocessed"
    assert workspace.results == tmp_path / "results"
    assert workspace.logs == tmp_path / "logs"
    assert workspace.chosen_by == "--workspace"


def test_the_three_variables_count_together() -> None:
    workspace = open_workspace(None, environ=VARIABLES)
    assert (workspace.raw, workspace.preprocessed, workspace.results) == (
        Path("/data/raw"), Path("/data/pre"), Path("/data/res"),
    )  # fmt: skip
    assert workspace.predictions.is_relative_to("/data/res")


def test_variables_that_name_a_workspace_give_that_workspace(tmp_path: Path) -> None:
    """Nothing else is found in it, once the documented lines for nnU-Net's commands were run."""
    names = ("raw", "preprocessed", "results")
    by_name = open_workspace(tmp_path, environ={})
    by_variables = open_workspace(None, environ={f"nnUNet_{n}": str(tmp_path / n) for n in names})
    assert replace(by_variables, chosen_by=by_name.chosen_by) == by_name


@pytest.mark.parametrize("missing", VARIABLES)
def test_without_one_of_the_variables_the_default_is_used(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    environ = {name: value for name, value in VARIABLES.items() if name != missing}
    workspace = open_workspace(None, environ=environ)
    assert workspace.raw == tmp_path / "gi2nnunet-workspace" / "raw"
    assert list(tmp_path.iterdir()) == []  # looking creates nothing


@pytest.mark.parametrize(
    ("raw", "results"),
    [("x", "x"), ("x", "y/../x"), ("link", "x"), ("x", "x/Dataset501_UWGI/results")],
)
def test_folders_that_would_be_removed_with_a_dataset_of_another_are_refused(
    tmp_path: Path, raw: str, results: str
) -> None:
    (tmp_path / "link").symlink_to("x")
    given = {"nnUNet_raw": raw, "nnUNet_results": results, "nnUNet_preprocessed": "p"}
    environ = {name: str(tmp_path / place) for name, place in given.items()}
    with pytest.raises(InputError, match="expected three that are apart"):
        open_workspace(None, environ=environ)
    for apart in ("r", "x/results"):
        open_workspace(None, environ={**environ, "nnUNet_results": str(tmp_path / apart)})


def test_relative_folders_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_workspace(Path("w"), environ={}).results == tmp_path / "w" / "results"


def build(workspace: Workspace, **options: int | None) -> dict[str, str]:
    values = {"processes": 3, "augmentation_processes": 2, "threads": 5, **options}
    return engine_environment(
        workspace, environ={"PATH": "/bin", "nnUNet_raw": "/elsewhere"}, **values
    )


def test_the_environment_names_the_workspace_and_the_limits(tmp_path: Path) -> None:
    environment = build(open_workspace(tmp_path, environ={}))
    assert environment["PATH"] == "/bin"
    assert environment["nnUNet_raw"] == str(tmp_path / "raw")
    assert environment["nnUNet_def_n_proc"] == "3"
    assert environment["nnUNet_n_proc_DA"] == "2"
    assert environment["OMP_NUM_THREADS"] == "5"
    assert "CUDA_VISIBLE_DEVICES" not in environment


def test_a_card_is_the_only_one_seen(tmp_path: Path) -> None:
    assert build(open_workspace(tmp_path, environ={}), gpu=3)["CUDA_VISIBLE_DEVICES"] == "3"


@pytest.mark.parametrize(
    ("visible", "gpu", "expected"),
    [("3", 0, "3"), ("5,2", 1, "2"), ("MIG-a, MIG-b", 1, "MIG-b"), ("", 1, "1")],
)
def test_a_card_is_counted_among_those_the_user_lets_us_see(
    tmp_path: Path, visible: str, gpu: int, expected: str
) -> None:
    environment = engine_environment(
        open_workspace(tmp_path, environ={}),
        environ={"CUDA_VISIBLE_DEVICES": visible},
        processes=1, augmentation_processes=1, threads=1, gpu=gpu,
    )  # fmt: skip
    assert environment["CUDA_VISIBLE_DEVICES"] == expected


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_workspace(Path("~/w"), environ={}).raw == tmp_path / "w" / "raw"
    names = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
    space = open_workspace(None, environ={name: f"~/{name}" for name in names})
    places = (space.raw, space.preprocessed, space.results)
    assert places == tuple(tmp_path / name for name in names)
