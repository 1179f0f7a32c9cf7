"""Commands and options of a cluster: train --on slurm, jobs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gi2nnunet.cli.options import WorkspaceOption, open_workspace_of, same_workspace

if TYPE_CHECKING:
    from gi2nnunet.manifest import Dataset
    from gi2nnunet.nnunet.workspace import Workspace

_CLUSTER = "On a cluster"
_PROFILE_NAME = "slurm.toml"
# Options of train that the jobs beside the trainings share.
_OF_PLAN = ("preset", "batch_size", "patch_size", "device", "dataset_id", "jobs", "checks")
_OF_SCORE = ("preset", "trainer", "trust", "device", "dataset_id")
_OWN = ("on", "profile", "slurm", "dry_run", "fold", "config", "workspace", "gpus")

OnOption = Annotated[
    Literal["here", "slurm"],
    typer.Option("--on", help="Train here, or as jobs of Slurm.", rich_help_panel=_CLUSTER),
]
ProfileOption = Annotated[
    Path | None,
    typer.Option(
        "--profile",
        help="TOML file of what jobs ask for: partition, account, time, memory, gpus, cpus, "
        "flags; by default slurm.toml in the workspace, else in ~/.config/gi2nnunet.",
        show_default=False,
        dir_okay=False,
        rich_help_panel=_CLUSTER,
    ),
]
SlurmOption = Annotated[
    list[str] | None,
    typer.Option(
        "--slurm",
        metavar="KEY=VALUE",
        help="In place of the profile's; may be repeated.",
        show_default=False,
        rich_help_panel=_CLUSTER,
    ),
]
DryRunOption = Annotated[
    bool,
    typer.Option("--dry-run", help="Print the jobs, submit none.", rich_help_panel=_CLUSTER),
]


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    app.command("jobs")(jobs)


def jobs(workspace: WorkspaceOption = None) -> None:
    """Show the jobs on the cluster: what waits, runs, finished or failed, and what is left.

    Example: gi2nnunet jobs --workspace shared/gi2nnunet-workspace
    """
    from gi2nnunet.cli.show import count, print_notice, print_result, print_table
    from gi2nnunet.cluster.submitting import read_jobs

    space = open_workspace_of(workspace)
    found = read_jobs(_jobs_folder(space))
    if not found:
        print_notice("No jobs were submitted from this workspace.")
        return
    print_table(
        "Jobs",
        ("job", "Slurm's id", "state", "why"),
        [(job.name, job.job_id, job.state, job.reason) for job in found],
        text_columns=4,
    )
    for job in found:
        if job.state in ("failed", "stopped"):
            print_notice(f"{job.name}: {job.state}; log {job.log}\n{job.last_lines}")
    left = sum(job.state != "finished" for job in found)
    print_result(f"{count(left, 'job')} of {len(found)} left.")
    if any(job.state in ("failed", "stopped") for job in found):
        print_notice("Run the same gi2nnunet train --on slurm again to submit what is missing.")


def submit_training(
    context: typer.Context,
    space: Workspace,
    dataset: Dataset,
    *,
    folds: Sequence[int | str],
    config: Sequence[str],
    workspace: Path | None,
    profile: Path | None,
    overrides: Sequence[str],
    dry_run: bool,
) -> None:
    """Submit what train was asked for, or print it.

    Each job runs a command line of its own with the options that were given.
    """
    from shlex import join

    from gi2nnunet.cli.show import print_notice, print_result
    from gi2nnunet.cluster.graph import make_training_graph
    from gi2nnunet.cluster.profile import read_profile
    from gi2nnunet.cluster.submitting import submit
    from gi2nnunet.nnunet.plan import digest_dataset
    from gi2nnunet.nnunet.presets import CONFIGURATIONS

    if context.params["restart"]:
        raise typer.BadParameter(
            "--restart would throw a job's own work away each time it goes on after a time limit. "
            "Remove the fold's folder instead.",
            param_hint="--restart",
        )
    root = None if workspace is None else workspace.absolute()
    place = () if root is None else ("--workspace", str(root))
    file = profile or _find_profile(space)
    asked = read_profile(file, overrides=overrides)
    every = tuple(name for name in context.params if name not in _OWN)
    graph = make_training_graph(
        configurations=tuple(dict.fromkeys(config or CONFIGURATIONS)),
        folds=folds,
        n_folds=len(dataset.splits),
        plan_words=("plan", *_spell(context, _OF_PLAN), *place),
        train_words=("train", *_spell(context, every), *place),
        score_words=("predict-and-score", *_spell(context, _OF_SCORE), *place),
    )
    if dry_run:
        for job in graph:
            after = f"  after {', '.join(job.after)}" if job.after else ""
            print_result(f"{job.name}{after}\n    gi2nnunet {join(job.words)}")
        return
    done = submit(graph, profile=asked, folder=_jobs_folder(space), mark=digest_dataset(dataset))
    for name, job_id in done.submitted.items():
        print_result(f"{name}: submitted as job {job_id}")
    for name, state in done.kept.items():
        print_result(f"{name}: {state}, left alone")
    print_notice("Next: " + same_workspace("gi2nnunet jobs", workspace))


def _spell(context: typer.Context, names: Sequence[str]) -> list[str]:
    """Return the options of the running command that were given, as words."""
    words: list[str] = []
    for option in context.command.params:
        name = str(option.name)
        source = context.get_parameter_source(name)
        if name not in names or source is None or source.name == "DEFAULT":
            continue
        value: Any = context.params[name]
        if isinstance(value, bool):
            words.append(option.opts[0] if value else option.secondary_opts[0])
            continue
        for one in value if isinstance(value, (list, tuple)) else (value,):
            text = str(one.absolute()) if isinstance(one, Path) else str(one)
            words += [option.opts[0], text]
    return words


def _jobs_folder(space: Workspace) -> Path:
    return space.logs.parent / "jobs"


def _find_profile(space: Workspace) -> Path | None:
    places = (space.logs.parent, Path.home() / ".config" / "gi2nnunet")
    return next((p / _PROFILE_NAME for p in places if (p / _PROFILE_NAME).is_file()), None)
