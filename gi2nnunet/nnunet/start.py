"""Look at a machine before a run starts: measure, estimate, judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gi2nnunet.errors import EngineError, InputError
from gi2nnunet.manifest import Dataset
from gi2nnunet.nnunet.doctor import (
    Verdict,
    judge_disks,
    judge_hardware,
    judge_installation,
    judge_machine,
    plan_work,
)
from gi2nnunet.nnunet.estimate import estimate_need
from gi2nnunet.nnunet.hardware import Hardware, choose_hardware, probe_devices
from gi2nnunet.nnunet.machine import (
    Disk,
    Installation,
    Machine,
    measure_disk,
    read_installation,
    read_machine,
)
from gi2nnunet.nnunet.models import FINAL_CHECKPOINT, Fold, fold_folder
from gi2nnunet.nnunet.plan import read_planned
from gi2nnunet.nnunet.presets import CONFIGURATIONS, PRESETS, Preset, choose_preset
from gi2nnunet.nnunet.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What a whole examination came to.

    Attributes
    ----------
    dataset
        Name of the dataset that it was made for; ``None`` for the installation alone.
    verdicts
        One a check.
    """

    dataset: str | None
    verdicts: tuple[Verdict, ...]

    @property
    def fit(self) -> bool:
        """Return whether nothing would stop a run."""
        return all(verdict.level != "error" for verdict in self.verdicts)

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain values."""
        return {
            "fit": self.fit,
            "dataset": self.dataset,
            "checks": [verdict.to_json() for verdict in self.verdicts],
        }


def examine_start(
    dataset: Dataset,
    *,
    workspace: Workspace,
    hardware: Hardware,
    preset: Preset,
    configurations: Sequence[str] = CONFIGURATIONS,
    folds: Sequence[Fold] = (),
    trainer: str = "nnUNetTrainer",
    jobs: int | None = None,
    resized: bool = False,
    free_gib: float | None = None,
    machine: Machine | None = None,
    disks: Mapping[str, Disk] | None = None,
) -> list[Verdict]:
    """Judge the machine for a run of ``plan`` or, with ``folds``, of ``train``; takes milliseconds.

    Parameters
    ----------
    dataset
        What to plan or train on.
    workspace, hardware, preset, configurations, jobs
        As the run has them.
    folds, trainer
        What is to be trained; finished folds count for nothing. None where nothing is.
    resized
        Whether batch or patch size are the user's own.
    free_gib
        Free memory of the card, where known.
    machine, disks
        In place of what is measured here; ``disks`` has the keys ``preprocessed``, ``results``,
        ``logs`` and ``predictions``.
    """
    measured = machine or read_machine()
    folder = workspace.preprocessed / dataset.name
    models = workspace.results / dataset.name
    todo = [
        fold
        for fold in folds
        if any(
            not (fold_folder(models / f"{trainer}__{preset.plans_name}__{name}", fold)
                 / FINAL_CHECKPOINT).is_file()
            for name in configurations
        )
    ]  # fmt: skip
    need = estimate_need(
        dataset,
        preprocessed=folder,
        preset=preset,
        configurations=configurations,
        planned=read_planned(folder, preset.plans_name),
        trainings=len(todo),
    )
    work = plan_work(
        jobs=jobs, cores=measured.cores, hardware=hardware, training=bool(todo)
    )  # fmt: skip
    places = disks or {
        "preprocessed": measure_disk(folder),
        "results": measure_disk(models),
        "logs": measure_disk(workspace.logs),
        "predictions": measure_disk(workspace.predictions),
    }
    return [
        *judge_hardware(hardware, preset, resized=resized, free_gib=free_gib),
        *judge_machine(measured, need, work, jobs=jobs),
        *judge_disks(places, need),
    ]


def diagnose(
    dataset: Dataset | None,
    *,
    workspace: Workspace,
    environ: Mapping[str, str],
    device: str = "auto",
    gpus: int | None = None,
    preset: str = "auto",
    configurations: Sequence[str] = CONFIGURATIONS,
    folds: Sequence[Fold] = ("all",),
    jobs: int | None = None,
    installation: Installation | None = None,
    found: Mapping[str, Any] | None = None,
    machine: Machine | None = None,
    disks: Mapping[str, Disk] | None = None,
) -> Diagnosis:
    """Examine the installation and, with a dataset, whether this machine can train on it.

    Parameters
    ----------
    dataset
        ``None`` examines the installation alone.
    workspace, environ
        Where, and for the child process that looks for devices.
    device, gpus, preset, configurations, folds, jobs
        As ``train`` takes them.
    installation, found, machine, disks
        In place of what is measured here; ``found`` as the child's task ``installation`` gives it.
    """
    installed = installation or read_installation()
    verdicts: list[Verdict] = []
    probed: Mapping[str, Any]
    try:
        probed = found or probe_devices("installation", workspace=workspace, environ=environ)
        verdicts += judge_installation(installed, failed_imports=probed["failed_imports"])
    except EngineError as error:
        probed = {"cuda": [], "mps": False}
        reason = str(error).splitlines()[0]
        verdicts += judge_installation(installed, failed_imports={"torch": reason})
    chosen = PRESETS["tiny"]
    try:
        # Without cards the device alone decides; choose_hardware refuses what is not there.
        without = {"cuda": [], "mps": False}
        hardware = choose_hardware(without if device == "cpu" else probed, device=device, gpus=gpus)
    except InputError as error:
        verdicts.append(_refusal("device", "error", str(error)))
        return Diagnosis(dataset=dataset.name if dataset else None, verdicts=tuple(verdicts))
    try:
        chosen = choose_preset(preset, memory_gib=hardware.memory_gib)
    except InputError as error:
        verdicts.append(_refusal("preset", "warning", str(error)))
    free = [card["free_gib"] for card in probed["cuda"][: len(hardware.gpus)] if "free_gib" in card]
    free_gib = min(free, default=None)
    if dataset is None:
        verdicts += judge_hardware(hardware, chosen, free_gib=free_gib)
    else:
        verdicts += examine_start(
            dataset,
            workspace=workspace,
            hardware=hardware,
            preset=chosen,
            configurations=configurations,
            folds=folds,
            jobs=jobs,
            free_gib=free_gib,
            machine=machine,
            disks=disks,
        )
    return Diagnosis(dataset=dataset.name if dataset else None, verdicts=tuple(verdicts))


def _refusal(name: str, level: Any, text: str) -> Verdict:
    """Turn a refusal of ours, ``option: found ...; expected ... remedy``, into a verdict."""
    found, _, remedy = text.partition(". ")
    return Verdict(
        name=name,
        level=level,
        found=found.partition("found ")[2] or found,
        expected="what was asked for" if level == "error" else "a GPU for --preset auto",
        remedy=remedy,
    )
