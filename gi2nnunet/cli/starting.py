"""What plan and train look at before they start: it stops early, with numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gi2nnunet.manifest import Dataset
    from gi2nnunet.nnunet.hardware import Hardware
    from gi2nnunet.nnunet.presets import Preset
    from gi2nnunet.nnunet.workspace import Workspace

ChecksOption = Annotated[
    bool,
    typer.Option(
        "--checks/--no-checks",
        help="Stop before the start where versions, memory or disk will not do (gi2nnunet doctor).",
    ),
]


def check_versions(checks: bool) -> None:
    """Stop where the installed packages do not fit together, before one of them is loaded."""
    from gi2nnunet.nnunet.doctor import judge_installation, raise_errors
    from gi2nnunet.nnunet.machine import read_installation

    if checks:
        raise_errors(judge_installation(read_installation()))


def check_machine(
    checks: bool,
    space: Workspace,
    dataset: Dataset,
    hardware: Hardware,
    preset: Preset,
    *,
    configurations: Sequence[str],
    folds: Sequence[int | str],
    trainer: str,
    jobs: int | None,
    resized: bool,
) -> None:
    """Warn of what is scarce on this machine, and stop where it cannot do."""
    from gi2nnunet.cli.show import print_warnings
    from gi2nnunet.nnunet.doctor import list_warnings, raise_errors
    from gi2nnunet.nnunet.start import examine_start

    if not checks:
        return
    verdicts = examine_start(
        dataset,
        workspace=space,
        hardware=hardware,
        preset=preset,
        configurations=configurations,
        folds=folds,
        trainer=trainer,
        jobs=jobs,
        resized=resized,
    )
    print_warnings(list_warnings(verdicts))
    raise_errors(verdicts)
