"""The "Next:" lines: each option that the next command takes too is carried over."""

from __future__ import annotations

import pytest
import typer

from gi2nnunet.cli import training, tuning

# --workspace and --id are added to every command that a line names.
_ADDED = {"workspace", "dataset_id"}
_OF_OUTPUT = {"as_json", "jobs"}
_OF_SLURM = {"on", "profile", "slurm", "dry_run"}  # then other jobs come next
_SPELLED = {"config", "fold", "preset", "trainer"}  # by the models that were used


def list_options(command: object) -> set[str]:
    app = typer.Typer(add_completion=False)
    app.command()(command)  # type: ignore[type-var]
    return {str(option.name) for option in typer.main.get_command(app).params}


@pytest.mark.parametrize(
    ("command", "following", "carried"),
    [
        (training.train, "predict_and_score", {*training._OF_PREDICTION, "preset"}),
        (training.estimate, "train", {*training._SHARED_OPTIONS}),
        (tuning.out_of_fold, "tune", {*tuning._OF_MODELS, *tuning._OF_COMPUTING}),
        (tuning.tune, "predict_and_score", {*_SPELLED, *tuning._OF_COMPUTING, "metric"}),
        (tuning.compare_models, "predict_and_score", {*_SPELLED, *tuning._OF_COMPUTING, "metric"}),
    ],
)
def test_options_that_both_commands_take_are_carried(
    command: object, following: str, carried: set[str]
) -> None:
    from gi2nnunet.cli import prediction

    known = {"train": training.train, "tune": tuning.tune,
             "predict_and_score": prediction.predict_and_score}  # fmt: skip
    both = list_options(command) & list_options(known[following])
    assert both >= {"trainer"}
    assert both - carried <= _ADDED | _OF_OUTPUT | _OF_SLURM
