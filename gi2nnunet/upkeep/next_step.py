"""Next step of a workspace: the command to run after what it holds already, and why."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from gi2nnunet.core.command import name_place
from gi2nnunet.core.errors import count
from gi2nnunet.core.files import show_name
from gi2nnunet.training.machine import suggest_training
from gi2nnunet.upkeep.status import DatasetStatus, NextStep, TrainingStatus, WorkspaceStatus


def choose_next_step(status: WorkspaceStatus) -> NextStep:
    """Return what to do next: wait, go on with what was interrupted, else the next in order."""
    for step in _list_steps(status):
        return step
    return NextStep(command="", why="everything is done")


def _list_steps(status: WorkspaceStatus) -> Iterator[NextStep]:
    """Give sensible steps, the first one first."""
    if status.running:
        yield NextStep(command="gi2nnunet status --watch", why=f"{status.running[0]}")
    for one in status.trainings:
        if one.state == "stopped" and one.command:
            why = f"{one.name} stopped after epoch {one.epoch}"
            yield NextStep(command=one.command, why=why)
    for place in status.leftovers:
        name = shlex.quote(str(show_name(place)))
        yield NextStep(command=f"gi2nnunet remove {name}", why="a removal was interrupted")
    for dataset in status.datasets:
        if dataset.state in ("interrupted", "damaged"):
            why = f"the dataset {dataset.name} is {dataset.state}"
            yield NextStep(command="gi2nnunet convert SOURCE", why=why)
    whole = [dataset for dataset in status.datasets if dataset.state == "whole"]
    for dataset in whole:
        several = len(status.datasets) > 1
        for step in _list_steps_of(dataset, status):
            number = dataset.dataset_id if several else None
            command = name_place(step.command, workspace=None, dataset_id=number)
            yield NextStep(command=command, why=step.why)
    if whole:
        yield from _list_last_steps(status)
    elif not any(one.state in ("finished", "imported") for one in status.trainings):
        yield NextStep(command="gi2nnunet convert SOURCE", why="there is no dataset yet")
    elif not any(one.state == "finished" for one in status.predictions):
        why = "there are models and nothing is predicted yet"
        yield NextStep(command="gi2nnunet predict SOURCE", why=why)


def _list_steps_of(dataset: DatasetStatus, status: WorkspaceStatus) -> Iterator[NextStep]:
    trainings = [one for one in status.trainings if one.dataset == dataset.name]
    if not trainings and dataset.training:
        command, why = suggest_training()
        why = "; ".join(filter(None, ("nothing is trained yet", why)))
        yield NextStep(command=command, why=why)
    predicted = [one for one in status.predictions if one.dataset == dataset.name]
    if trainings and not predicted:
        yield NextStep(command="gi2nnunet predict-and-score", why="nothing is predicted yet")
    numbers = [str(number) for number in range(dataset.folds)]
    groups: dict[str, list[TrainingStatus]] = {}
    for one in trainings:
        if one.fold in numbers:
            groups.setdefault(one.folder.parent.name, []).append(one)
    for begun in groups.values():
        missing = len(numbers) - len(begun)
        if missing and begun[0].command:
            command = begun[0].command.replace(f"--fold {begun[0].fold}", "--fold cv", 1)
            why = f"{count(missing, 'fold')} of {begun[0].configuration} not begun"
            yield NextStep(command=command, why=why)
    every = any(len(begun) == len(numbers) for begun in groups.values())
    if every and not any(one.dataset == dataset.name for one in status.tunings):
        yield NextStep(command="gi2nnunet tune", why="every fold is trained and nothing is tuned")


def _list_last_steps(status: WorkspaceStatus) -> Iterator[NextStep]:
    newest = max((one.changed for one in status.predictions if one.changed), default=None)
    if newest and (status.report is None or status.report < newest):
        yield NextStep(command="gi2nnunet report", why="the newest prediction is in no report")
