"""Slurm commands and options: train and predict --on slurm, jobs."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from gi2nnunet import api
from gi2nnunet.cli.options import JsonOption, WorkspaceOption, spell_options
from gi2nnunet.cli.output import print_json, print_notice, print_result, print_table
from gi2nnunet.cli.slurm.submit import (
    Job,
    Profile,
    make_prediction_graph,
    make_training_graph,
    read_profile,
    submit,
)
from gi2nnunet.core.errors import count
from gi2nnunet.dataset.workspace import Workspace
from gi2nnunet.nnunet.engine import choose_threads
from gi2nnunet.nnunet.models import FINAL_CHECKPOINT, Fold, fold_folder, spell_models
from gi2nnunet.nnunet.presets import (
    AUTO_PRESETS,
    PRESETS,
    STOCK_TRAINER,
    PlanOptions,
    choose_configurations,
)
from gi2nnunet.upkeep.jobs import find_jobs_folder

if TYPE_CHECKING:
    from gi2nnunet.prediction.choose import Work

_CLUSTER = "On a cluster"
_PROFILE_NAME = "slurm.toml"
# Options of train that the plan and the score share.
_OF_PLAN = ("preset", "batch_size", "patch_size", "dataset_id", "jobs", "checks")
_OF_SCORE = ("preset", "trainer", "trust", "dataset_id")
_OWN = (
    "on", "profile", "slurm", "dry_run", "workspace", "gpus", "device", "fold", "config", "as_json",
)  # fmt: skip
# Options of predict that its jobs get unchanged, and those that only the last one needs.
_OF_PARTS = (
    "mirroring", "step_size", "nifti", "slicer", "save_probabilities", "tuning", "allow_missing",
    "trust",
    "dataset_id", "orientation", "series", "any_modality", "show_paths",
)  # fmt: skip
_OF_JOIN = (
    "metric",
    "again",
    "source_labels",
    "label_map",
    "structures",
    "roi",
    "rtstruct",
    "seg",
    "roi_name",
)
_PARTS = 8
_MOST_PARTS = 1000  # Slurm's own limit for an array

OnOption = Annotated[
    Literal["here", "slurm"],
    typer.Option("--on", help="Run it here, or as jobs of Slurm.", rich_help_panel=_CLUSTER),
]
ProfileOption = Annotated[
    Path | None,
    typer.Option(
        "--profile",
        help="TOML file with what jobs ask for: partition, account, time, memory, gpus, cpus, "
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
        help="Override a value of the profile; may be repeated.",
        show_default=False,
        rich_help_panel=_CLUSTER,
    ),
]
DryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Only show what would be done: the jobs, without submitting them.",
        rich_help_panel=_CLUSTER,
    ),
]

PartsOption = Annotated[
    int | None,
    typer.Option(
        "--parts",
        help=f"Number of parts, each a job; by default {_PARTS}, or one per scan.",
        min=1,
        max=_MOST_PARTS,
        show_default=False,
        rich_help_panel=_CLUSTER,
    ),
]

PartOption = Annotated[
    str | None,
    typer.Option(
        "--part",
        metavar="K/N",
        help="Predict part K of N. Afterwards run the command without --part to combine the "
        "parts. (Slurm jobs use this.)",
        show_default=False,
        rich_help_panel=_CLUSTER,
    ),
]


def parse_part(text: str | None) -> tuple[int, int] | None:
    """Parse ``--part``."""
    if text is None:
        return None
    found = re.fullmatch(r"([0-9]{1,4})/([0-9]{1,4})", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise typer.BadParameter(
            f"found {text!r}; expected K/N, such as 1/8 to 8/8", param_hint="--part"
        )
    return int(found[1]), int(found[2])


def require_slurm(context: typer.Context) -> None:
    """Refuse options of a submission without --on slurm."""
    names = ("profile", "slurm", "dry_run", "parts")
    given = [f"--{name.replace('_', '-')}" for name in names if context.params.get(name)]
    if context.params["on"] != "slurm" and given:
        raise typer.BadParameter(f"{', '.join(given)}: needs --on slurm")


def jobs(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """Show the Slurm jobs of this workspace, and how many are not finished.

    Example: gi2nnunet jobs --workspace shared/gi2nnunet-workspace
    """
    found = api.jobs(workspace=workspace)
    if as_json:
        print_json(found.to_json())
        return
    if not found.jobs:
        print_notice("No jobs were submitted from this workspace.")
        return
    print_table(
        "Jobs",
        ("job", "Slurm's id", "state", "why"),
        [(job.name, job.job_id, job.state, job.reason) for job in found.jobs],
        text_columns=4,
    )
    for job in found.jobs:
        if job.state in ("failed", "stopped"):
            print_notice(f"{job.name}: {job.state}; log {job.log}\n{job.last_lines}")
    print_result(f"{count(found.left, 'job')} of {len(found.jobs)} left.")
    if any(job.state in ("failed", "stopped") for job in found.jobs):
        print_notice("Run the same command with --on slurm again to submit what is missing.")


def submit_training(
    context: typer.Context, patch_sizes: tuple[tuple[int, ...], ...] = ()
) -> None:  # fmt: skip
    """Submit the jobs of a training, or print them."""
    from gi2nnunet.training.plan import name_plans

    asked = context.params
    _refuse_gpus(context)
    if asked["restart"]:
        raise typer.BadParameter(
            "would delete a job's own work each time it goes on. Leave it out, and before that: "
            "gi2nnunet remove TRAINING",
            param_hint="--restart",
        )
    space = api.find_workspace(asked["workspace"])
    dataset, folds = api.choose_trainings(
        **{
            name: asked[name]
            for name in ("fold", "trainer", "pretrained_weights", "trust", "dataset_id")
        },
        workspace=space,
    )
    device, place = _settle_device(context, _read_profile(context, space)), _spell_place(context)
    settled = ("--device", device)
    # The preset auto depends on the card, everything else of a plan does not.
    plan_device = device if asked["preset"] == "auto" else "cpu"
    every = tuple(name for name in context.params if name not in _OWN)
    sizes = PlanOptions(batch_size=asked["batch_size"], patch_sizes=patch_sizes)
    presets = AUTO_PRESETS if asked["preset"] == "auto" else (asked["preset"],)
    trainer, results = asked["trainer"] or STOCK_TRAINER, space.results / dataset.name

    def list_leaves(configuration: str, fold: Fold) -> list[Path]:
        plans = [name_plans(PRESETS[preset], sizes) for preset in presets]
        models = [results / f"{trainer}__{name}__{configuration}" for name in plans]
        return [fold_folder(model, fold) / FINAL_CHECKPOINT for model in models]

    graph = make_training_graph(
        configurations=choose_configurations(asked["config"]),
        folds=folds,
        n_folds=len(dataset.splits),
        plan_words=("plan", *spell_options(context, _OF_PLAN), "--device", plan_device, *place),
        train_words=("train", *spell_options(context, every), *settled, *place),
        score_words=("predict-and-score", *spell_options(context, _OF_SCORE), *settled, *place),
        plan_on_gpu=plan_device == "cuda",
        list_leaves=list_leaves,
    )
    _submit(context, graph, space, mark=dataset.digest)


def submit_prediction(
    context: typer.Context, work: Work, *, source: Path | None, space: Workspace
) -> None:
    """Submit the jobs of a prediction, or print them.

    Device, threads and models are decided here, so that the parts are the same on all nodes.
    """
    _refuse_gpus(context)
    profile = _read_profile(context, space)
    device = _settle_device(context, profile)
    threads = choose_threads(
        context.params["threads"], device=device, training=False, cores=profile.cpus
    )
    work = replace(work, out=work.out.absolute())
    words = [
        *([] if source is None else [str(source.absolute())]),
        *spell_models(work.ensemble.models, folds=work.ensemble.folds),
        *spell_options(context, _OF_PARTS),
        *("--device", device, "--threads", str(threads), "--out", str(work.out)),
        *_spell_place(context),
    ]
    join_words = [str(context.info_name), *words, *spell_options(context, _OF_JOIN)]
    places: dict[str, str] = {}
    if source is not None and work.selection.has_series and not context.params["show_paths"]:
        words, join_words = (_hide_places(each, source, places) for each in (words, join_words))
    place = hashlib.sha256(str(work.out).encode()).hexdigest()[:6]
    graph = make_prediction_graph(
        name=f"predict_{re.sub('[^A-Za-z0-9_.-]', '-', work.selection.name)}_{place}",
        parts=min(context.params["parts"] or _PARTS, len(work.selection.scans)),
        part_words=("predict", *words),
        join_words=join_words,
        kept=work.kept,
        result=work.submission,
    )
    graph = tuple(replace(job, places=places) for job in graph)
    _submit(context, graph, space, mark=work.digest())


def _hide_places(words: Sequence[str], source: Path, places: dict[str, str]) -> list[str]:
    """Return words without what can name a patient; put that into ``places``."""
    hidden = list(words)
    called = {str(source.absolute()): "SOURCE"}
    for option in ("--structures", "--series"):
        if option in words:
            called[words[words.index(option) + 1]] = option.strip("-").upper()
    for index, word in enumerate(words):
        before = words[index - 1] if index else ""
        if word in called and (before in ("--structures", "--series") or called[word] == "SOURCE"):
            hidden[index] = called[word]
            places[called[word]] = word
    return hidden


def _settle_device(context: typer.Context, profile: Profile) -> str:
    """Return the device of jobs; a node without a GPU should fail rather than run slowly."""
    asked: str = context.params["device"]
    return ("cuda" if profile.gpus else "cpu") if asked == "auto" else asked


def _refuse_gpus(context: typer.Context) -> None:
    """Refuse ``--gpus``, the number of GPUs of this machine to use."""
    if context.params["gpus"]:
        raise typer.BadParameter(
            "each job uses one GPU. Leave it out; --slurm gpus=0 asks for none.",
            param_hint="--gpus",
        )


def _spell_place(context: typer.Context) -> tuple[str, ...]:
    workspace = context.params["workspace"]
    return () if workspace is None else ("--workspace", str(workspace.absolute()))


def _read_profile(context: typer.Context, space: Workspace) -> Profile:
    places = (space.logs.parent, Path.home() / ".config" / "gi2nnunet")
    found = (place / _PROFILE_NAME for place in places if (place / _PROFILE_NAME).is_file())
    file = context.params["profile"] or next(found, None)
    return read_profile(file, overrides=context.params["slurm"] or ())


def _submit(context: typer.Context, graph: Sequence[Job], space: Workspace, *, mark: str) -> None:
    profile = _read_profile(context, space)
    as_json = context.params["as_json"]
    if context.params["dry_run"] and as_json:
        print_json({"jobs": [_describe(job, profile) for job in graph]})
        return
    if context.params["dry_run"]:
        for job in graph:
            after = f"  after {', '.join(job.after)}" if job.after else ""
            words = shlex.join(job.words)  # a job runs in another folder
            print_result(f"{job.name}{after}\n    gi2nnunet {words}", whole=True)
        return
    done = submit(graph, profile=profile, folder=find_jobs_folder(space), mark=mark)
    if as_json:
        print_json({"submitted": done.submitted, "left_alone": done.kept})
        return
    for name, job_id in done.submitted.items():
        print_result(f"{name}: submitted as job {job_id}")
    for name, state in done.kept.items():
        print_result(f"{name}: {state}, not submitted again")
    print_notice("Next: gi2nnunet jobs")


def _describe(job: Job, profile: Profile) -> dict[str, object]:
    gpus = profile.gpus if job.on_gpu else 0
    return {"job": job.name, "after": job.after, "gpus": gpus, "words": job.words}
