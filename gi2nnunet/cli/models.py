"""Commands that pass models on: export-model, import-model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from gi2nnunet.cli.options import (
    IdOption,
    TrustOption,
    WorkspaceOption,
    open_workspace_of,
    same_workspace,
)
from gi2nnunet.cli.prediction import ConfigOption, FoldOption, PresetOption, TrainerOption


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    app.command("export-model")(export_model)
    app.command("import-model")(import_model)


def export_model(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write.")],
    config: ConfigOption = None,
    fold: FoldOption = None,
    preset: PresetOption = None,
    trainer: TrainerOption = None,
    half: Annotated[
        bool, typer.Option("--half", help="Weights in half precision: half the size.")
    ] = False,
    trust: TrustOption = False,
    workspace: WorkspaceOption = None,
    dataset_id: IdOption = None,
) -> None:
    """Write trained models into one file without pickles, for others to import.

    Example: gi2nnunet export-model stomach-and-bowels.gi2nnunet --half
    """
    from functools import partial

    from gi2nnunet.cli.show import print_notice, print_result, print_warnings
    from gi2nnunet.nnunet.exchange import export_model
    from gi2nnunet.nnunet.models import count_folds
    from gi2nnunet.selection import select_models
    from gi2nnunet.standing import find_trained_scans
    from gi2nnunet.tuned import find_tuning

    space = open_workspace_of(workspace)
    dataset, ensemble = select_models(
        space,
        dataset_id=dataset_id,
        configurations=config or (),
        folds=fold or (),
        preset=None if preset == "auto" else preset,
        trainer=trainer,
    )
    print_notice(f"Models: {ensemble.describe()}")
    results = ensemble.models[0].folder.parent
    tuned, warnings = find_tuning(ensemble)
    print_warnings(warnings)
    if tuned:
        print_notice(f"With what tuning chose: {tuned.path}")
    made = export_model(
        ensemble,
        out,
        find_scans=partial(find_trained_scans, dataset=dataset),
        n_folds=len(dataset.splits) if dataset else count_folds(results),
        workspace=space,
        environ=os.environ,
        tuning=tuned.pack() if tuned else None,
        half=half,
        trust=trust,
    )
    print_result(f"{made.path} ({made.size / 2**20:.1f} MiB)")


def import_model(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that export-model wrote.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace models of the same names.")
    ] = False,
    trust: TrustOption = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Take models of export-model into the workspace; predict and nnU-Net find them there.

    Nothing of the file is run. Its checksums tell damage; they do not tell who made it.

    Example: gi2nnunet import-model stomach-and-bowels.gi2nnunet --workspace theirs
    """
    from gi2nnunet.cli.show import print_notice, print_result
    from gi2nnunet.nnunet.exchange import import_model
    from gi2nnunet.nnunet.models import list_models
    from gi2nnunet.tuned import adopt_tuning

    space = open_workspace_of(workspace)
    done = import_model(
        file,
        workspace=space,
        environ=os.environ,
        replace=replace,
        trust=trust,
    )
    for folder in done.kept:
        print_result(f"{folder} (was there, left alone)")
    for folder in done.written:
        print_result(str(folder))
    if done.bundle.tuning is not None:
        taken = {folder.name for folder in (*done.kept, *done.written)}
        models = list_models(space.results / done.bundle.dataset)
        path = adopt_tuning(
            done.bundle.tuning, [model for model in models if model.folder.name in taken]
        )
        print_result(f"{path} (what tuning chose)")
    print_notice(
        "Predict with: "
        + same_workspace(f"gi2nnunet predict SOURCE --id {done.bundle.dataset_id}", workspace)
    )
