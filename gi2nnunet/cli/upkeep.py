"""Commands that show and clear a workspace: status, remove."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.live import Live

from gi2nnunet import api
from gi2nnunet.cli.options import JsonOption, WorkspaceOption
from gi2nnunet.cli.output import (
    draw,
    format_bytes,
    format_seconds,
    make_line,
    make_table,
    print_drawn,
    print_json,
    print_result,
    print_warnings,
)
from gi2nnunet.core.errors import count

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import RenderableType

    from gi2nnunet.core.locks import Holder
    from gi2nnunet.upkeep.remove import RemovedPiece
    from gi2nnunet.upkeep.status import (
        PredictionStatus,
        RecordedScore,
        TrainingStatus,
        WorkspaceStatus,
    )

_WATCH_SECONDS = 2.0
_DASH = "-"


def status(
    workspace: WorkspaceOption = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it again and again, until nothing runs any more.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what the workspace holds, what runs in it, and what to do next.

    Datasets, plans, trainings with their epochs, predictions with their scores, tunings, and the
    disk space they use. It changes nothing and can run beside a training.

    Example: gi2nnunet status --watch
    """
    if watch and as_json:
        raise typer.BadParameter("--watch: cannot be given with --json")
    if watch:
        _watch(workspace)
        return
    found = api.status(workspace=workspace)
    if as_json:
        print_json(found.to_json())
    else:
        print_drawn(_show(found))
        print_warnings(found.warnings)


def remove(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="PIECE",
            help="Names as status shows them, or paths: 2d/fold_0, 2d (all folds), "
            "held-out, Dataset501_UWGI.",
            show_default=False,
        ),
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be done: what would be removed.")
    ] = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove a training, a prediction, a dataset or a tuning from the workspace.

    It shows the folders and their size, and what was made from them, which stays; then it asks. A
    dataset goes with its preprocessed files. Nothing in which something runs is removed. If it is
    interrupted, the same command finishes it.

    Example: gi2nnunet remove 2d/fold_0 --dry-run
    """
    found = api.remove(names, workspace=workspace, dry_run=True)
    if not yes and not dry_run and (as_json or not sys.stdin.isatty()):
        raise typer.BadParameter(
            "give --yes, or --dry-run to look first, as nobody can be asked here"
        )
    if not as_json:
        for piece in found.pieces:
            _show_piece(piece)
    if not yes and not dry_run:
        asked = f"Remove {'it' if len(found.pieces) == 1 else 'all of this'}?"
        if not typer.confirm(asked, err=True):
            print_result("Nothing was removed.")
            return
    if not dry_run:
        found = api.remove(names, workspace=workspace)
    if as_json:
        print_json(found.to_json())
    elif found.removed:
        print_result(f"Removed, {format_bytes(found.bytes)} are free again.")


def _show_piece(piece: RemovedPiece) -> None:
    """Print what goes with a piece, and what stays."""
    print_result(f"{piece.name} ({piece.kind}), {format_bytes(piece.bytes)}")
    for path in piece.places:
        stays = ": only this link, what it leads to stays" if path.is_symlink() else ""
        print_result(f"  {path}{stays}")
    if piece.made_from_it:
        print_result(f"  Made from it, and stays: {', '.join(piece.made_from_it)}")


def _watch(workspace: Path | None) -> None:
    """Draw the status as it changes; without a terminal, print a line for each change."""
    found, before = api.status(workspace=workspace), ""
    with draw() as console:
        if console is not None:
            with Live(console=console, auto_refresh=False, transient=True) as live:
                while found.running:
                    live.update(_group(found), refresh=True)
                    time.sleep(_WATCH_SECONDS)
                    found = api.status(workspace=workspace)
        while found.running:
            now = "\n".join(_list_running(found))
            if now != before:
                print_result(now)
            before = now
            time.sleep(_WATCH_SECONDS)
            found = api.status(workspace=workspace)
    print_drawn(_show(found))
    print_warnings(found.warnings)


def _group(found: WorkspaceStatus) -> RenderableType:
    from rich.console import Group

    return Group(*_show(found), *map(make_line, found.warnings))


def _list_running(found: WorkspaceStatus) -> Iterator[str]:
    """Give a line for each process, with how far it is."""
    for training in found.trainings:
        for holder in training.holders:
            yield f"{training.name}: {_describe_training(training)}, {_describe_holder(holder)}"
    for one in found.predictions:
        for holder in one.holders:
            yield f"{one.name}: {_describe_prediction(one)}, {_describe_holder(holder)}"
    held = [one.holders for one in found.trainings] + [one.holders for one in found.predictions]
    named = {(holder.host, holder.pid) for holders in held for holder in holders}
    for holder in found.running:
        if (holder.host, holder.pid) not in named:
            yield f"{holder.purpose}, {_describe_holder(holder)}"


def _show(found: WorkspaceStatus) -> Iterator[RenderableType]:
    free = "" if found.free_bytes is None else f", {format_bytes(found.free_bytes)} free"
    yield make_line(
        f"Workspace: {found.folder} ({found.chosen_by}), {format_bytes(found.bytes)}{free}"
    )
    if found.datasets:
        yield _show_datasets(found)
    if found.plans:
        yield make_table(
            "Plans",
            ("dataset", "plans", "planned", "preprocessed"),
            [
                (p.dataset, p.plans, ", ".join(p.configurations), _list(p.preprocessed))
                for p in found.plans
            ],
            text_columns=4,
        )
    if found.trainings:
        yield make_table(
            "Trainings",
            ("training", "state", "pseudo Dice", "where, or when", "size"),
            [
                (
                    one.name,
                    _describe_training(one),
                    _describe_dice(one),
                    _describe_place(one.holders, one.changed),
                    format_bytes(one.bytes),
                )
                for one in found.trainings
            ],
            text_columns=4,
        )
    yield from _show_results(found)
    step = found.next_step
    yield make_line(f"Next: {step.command}  # {step.why}" if step.command else "Nothing is left.")


def _show_datasets(found: WorkspaceStatus) -> RenderableType:
    return make_table(
        "Datasets",
        ("dataset", "state", "patients", "training", "held out", "test", "folds", "raw",
         "preprocessed", "results"),
        [
            (
                one.name, one.state, one.patients, one.training, one.held_out, one.test, one.folds,
                format_bytes(one.raw_bytes), format_bytes(one.preprocessed_bytes),
                format_bytes(one.results_bytes),
            )
            for one in found.datasets
        ],
        text_columns=2,
    )  # fmt: skip


def _show_results(found: WorkspaceStatus) -> Iterator[RenderableType]:
    """Give the tables of predictions and tunings."""
    from gi2nnunet.upkeep.status import find_short_name

    if found.predictions:
        yield make_table(
            "Predictions",
            ("prediction", "state", "score", "metric", "what it means", "where, or when", "size"),
            [
                (
                    find_short_name(one, found.predictions), _describe_prediction(one),
                    "\n".join(map(_describe_score, one.scores)) or _DASH,
                    "\n".join(score.metric for score in one.scores) or _DASH,
                    one.standing or _DASH, _describe_place(one.holders, one.changed),
                    format_bytes(one.bytes),
                )
                for one in found.predictions
            ],
            text_columns=6,
        )  # fmt: skip
    if found.out_of_fold:
        yield make_table(
            "Out-of-fold predictions",
            ("predictions", "training scans", "where", "size"),
            [
                (
                    one.name,
                    f"{one.stored} of {one.training or '?'}",
                    _describe_place(one.holders, None),
                    format_bytes(one.bytes),
                )
                for one in found.out_of_fold
            ],
            text_columns=3,
        )
    if found.tunings:
        yield make_table(
            "Tunings",
            ("tuning", "models", "tuned", "gain", "outdated"),
            [
                (
                    one.name, _list(one.models), _list(one.organs),
                    _DASH if one.gain is None else f"{one.gain:+.4f}", _list(one.outdated),
                )
                for one in found.tunings
            ],
            text_columns=5,
        )  # fmt: skip


def _list(names: tuple[str, ...]) -> str:
    return ", ".join(names) or _DASH


def _describe_training(one: TrainingStatus) -> str:
    if one.state == "imported":
        return f"imported from {one.imported_from}"
    if one.state == "finished":
        return "finished" + (f", {count(one.epoch, 'epoch')}" if one.epoch else "")
    text = f"{one.state} after epoch {one.epoch}" + (f" of {one.epochs}" if one.epochs else "")
    return text if one.seconds_left is None else f"{text}, {format_seconds(one.seconds_left)} left"


def _describe_dice(one: TrainingStatus) -> str:
    values = [value for value in one.pseudo_dice.values() if value is not None]
    return f"{sum(values) / len(values):.3f}" if values else _DASH


def _describe_prediction(one: PredictionStatus) -> str:
    return one.state if one.kept is None else f"{one.state}, {count(one.kept, 'scan')} kept"


def _describe_score(one: RecordedScore) -> str:
    if one.score is None:
        return _DASH
    known = one.low is not None and one.high is not None
    return f"{one.score:.4f}" + (f" ({one.low:.4f} to {one.high:.4f})" if known else "")


def _describe_place(holders: tuple[Holder, ...], changed: str | None) -> str:
    if holders:
        return "; ".join(map(_describe_holder, holders))
    return _DASH if changed is None else _describe_time(changed)


def _describe_holder(holder: Holder) -> str:
    return f"process {holder.pid} on {holder.host} since {_describe_time(holder.since)}"


def _describe_time(text: str) -> str:
    """Return a time in UTC as local time; as it is, if it cannot be read."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return f"{moment.astimezone():%Y-%m-%d %H:%M}"
