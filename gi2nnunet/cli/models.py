"""Commands that pass models on: export-model, import-model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from gi2nnunet.cli.options import (
    IdOption,
    JsonOption,
    TrustOption,
    WorkspaceOption,
    open_workspace_of,
    same_workspace,
    select_models_of,
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
    as_json: JsonOption = False,
) -> None:
    """Write trained models into one file without pickles, for others to import.

    Example: gi2nnunet export-model stomach-and-bowels.gi2nnunet --half
    """
    from gi2nnunet.cli.show import print_json, print_notice, print_result, print_warnings
    from gi2nnunet.handover import hand_over

    space = open_workspace_of(workspace)
    dataset, ensemble = select_models_of(
        space, config=config, fold=fold, preset=preset, trainer=trainer, dataset_id=dataset_id
    )
    made = hand_over(
        ensemble,
        out,
        dataset=dataset,
        workspace=space,
        environ=os.environ,
        half=half,
        trust=trust,
    )
    print_warnings(made.warnings)
    if made.tuned:
        print_notice(f"With what tuning chose: {made.tuned.path}")
    if as_json:
        print_json(
            {
                "file": made.model.path,
                "bytes": made.model.size,
                "models": ensemble.describe(),
                "tuning": made.tuned.path if made.tuned else None,
            }
        )
        return
    print_result(f"{made.model.path} ({made.model.size / 2**20:.1f} MiB)")


def import_model(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that export-model wrote.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace models of the same names.")
    ] = False,
    trust: TrustOption = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take models of export-model into the workspace; predict and nnU-Net find them there.

    Nothing of the file is run. Its checksums tell damage; they do not tell who made it.

    Example: gi2nnunet import-model stomach-and-bowels.gi2nnunet --workspace theirs
    """
    from gi2nnunet.cli.show import print_json, print_notice, print_result
    from gi2nnunet.handover import take_over

    space = open_workspace_of(workspace)
    taken = take_over(
        file,
        workspace=space,
        environ=os.environ,
        replace=replace,
        trust=trust,
    )
    done = taken.model
    if as_json:
        print_json(
            {
                "id": done.bundle.dataset_id,
                "written": done.written,
                "left_alone": done.kept,
                "tuning": taken.tuning,
            }
        )
        return
    for folder in done.kept:
        print_result(f"{folder} (was there, left alone)")
    for folder in done.written:
        print_result(str(folder))
    if taken.tuning:
        print_result(f"{taken.tuning} (what tuning chose)")
    print_notice(
        "Predict with: "
        + same_workspace(f"gi2nnunet predict SOURCE --id {done.bundle.dataset_id}", workspace)
    )
