"""What would stop a run, told with numbers before it starts.

Each function here judges numbers that it is given, so that any machine can be judged anywhere.
An *error* stops a run; a *warning* is told and the run goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

from gi2nnunet.core.errors import EngineError, InputError
from gi2nnunet.dataset.manifest import Dataset
from gi2nnunet.nnunet.engine import Engine, Hardware, choose_hardware, probe_devices
from gi2nnunet.nnunet.models import FINAL_CHECKPOINT, Fold, fold_folder
from gi2nnunet.nnunet.presets import PRESETS, STOCK_TRAINER, PlanOptions, Preset, choose_preset
from gi2nnunet.training.machine import (
    Disk,
    Installation,
    Machine,
    measure_disk,
    read_installation,
    read_machine,
)
from gi2nnunet.training.need import GIB, MIB, Need, estimate_need
from gi2nnunet.training.plan import read_planned

Level = Literal["ok", "warning", "error"]

SUPPORTED_NNUNET = "==2.8.*"
_OLDEST_PYTHON, _TESTED_PYTHONS = (3, 10), ((3, 11), (3, 13))
_PIN = "Install the tested versions: pip install -c constraints.txt ."
# A card's memory is a little less than its name says; a plan needs nearly all it was made for.
_CARD_TIGHT, _CARD_TOO_SMALL = 0.9, 0.75
_DISK_TIGHT = 1.2
_MOST_PREPROCESSING, _MOST_AUGMENTATION = 8, 12


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one check came to.

    Attributes
    ----------
    name
        What was looked at.
    level
        ``ok``, ``warning`` or ``error``.
    found, expected
        In numbers.
    remedy
        What to do; empty where all is well.
    """

    name: str
    level: Level
    found: str
    expected: str
    remedy: str = ""

    def __str__(self) -> str:
        """Return the verdict as one line."""
        return f"{self.name}: found {self.found}; expected {self.expected}. {self.remedy}".rstrip()

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as plain values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is to be run, as far as it takes processes.

    Attributes
    ----------
    processes
        That preprocess at once.
    workers
        That augment beside each training; 0 augments in the training itself.
    trainings
        At once; 0 where nothing is to be trained.
    """

    processes: int
    workers: int
    trainings: int


def plan_work(*, jobs: int | None, cores: int, hardware: Hardware, training: bool) -> Work:
    """Return the processes that a run of ``plan`` or ``train`` starts."""
    wanted = jobs or cores
    on_cpu = hardware.device == "cpu"
    return Work(
        processes=min(_MOST_PREPROCESSING, wanted),
        workers=0 if on_cpu or not training else min(_MOST_AUGMENTATION, max(1, wanted - 1)),
        trainings=len(hardware.slots) if training else 0,
    )


def judge_installation(
    installation: Installation, *, failed_imports: Mapping[str, str] | None = None
) -> list[Verdict]:
    """Judge whether Python and the packages fit together.

    Parameters
    ----------
    installation
        What is installed.
    failed_imports
        Modules that could not be imported, and why; ``None`` where that was not tried.
    """
    python, versions = installation.python, installation.versions
    text = ".".join(map(str, python))
    first, last = _TESTED_PYTHONS
    expected = f"{_dotted(first)} to {_dotted(last)}"
    if python[:2] < _OLDEST_PYTHON:
        verdicts = [_error("Python", text, expected, "Use a newer Python.")]
    elif not first <= python[:2] <= last:
        verdicts = [_warn("Python", text, expected, "Other versions were not tried.")]
    else:
        verdicts = [_ok("Python", text, expected)]
    verdicts += [
        _error(name, "nothing installed", "a version of it", _PIN)
        for name in ("nnunetv2", "torch", "torchvision")
        if versions.get(name) is None
    ]
    if versions.get("nnunetv2"):
        verdicts.append(_judge_version(versions, "nnunetv2", SUPPORTED_NNUNET, "this package"))
    for package in ("nnunetv2", "torchvision"):
        specifier = _find_requirement(installation.requirements.get(package, ()), "torch")
        if specifier and versions.get("torch") and versions.get(package):
            verdicts.append(_judge_version(versions, "torch", specifier, package))
    if versions.get("torch") and versions.get("torchvision"):
        verdicts += _judge_builds(str(versions["torch"]), str(versions["torchvision"]))
    for module, why in (failed_imports or {}).items():
        verdicts.append(_error(module, f"that it cannot be imported ({why})", "an import", _PIN))
    if failed_imports is not None and not failed_imports:
        verdicts.append(_ok("imports", "torch, torchvision, nnunetv2 load", "that they do"))
    return verdicts


def _judge_version(
    versions: Mapping[str, str | None], package: str, specifier: str, asked_by: str
) -> Verdict:
    found = str(versions[package])
    asking = versions.get(asked_by)
    expected = f"{specifier} ({f'{asked_by} {asking}' if asking else asked_by} asks for it)"
    try:
        fits = Requirement(f"{package}{specifier}").specifier.contains(found, prereleases=True)
    except InvalidVersion:
        fits = False
    name = package if asked_by == "this package" else f"{package} for {asked_by}"
    return _ok(name, found, expected) if fits else _error(name, found, expected, _PIN)


def _find_requirement(requirements: Sequence[str], name: str) -> str:
    """Return what a package asks of another one here, as a version specifier."""
    for text in requirements:
        requirement = Requirement(text)
        here = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if requirement.name == name and here and requirement.specifier:
            return str(requirement.specifier)
    return ""


def _judge_builds(torch: str, torchvision: str) -> list[Verdict]:
    """Tell a torch for CPUs beside a torchvision for CUDA, or the like."""
    try:
        first, second = Version(torch).local, Version(torchvision).local
    except InvalidVersion:
        return []
    if first == second:
        return []
    found = f"builds {first or 'from PyPI'} and {second or 'from PyPI'}"
    name, expected = "torch and torchvision", "two of the same build"
    remedy = "Install both from the same index."
    if "cpu" in (first, second):
        return [_error(name, found, expected, remedy)]
    return [_warn(name, found, expected, remedy)]


def judge_hardware(
    hardware: Hardware, preset: Preset, *, resized: bool = False, free_gib: float | None = None
) -> list[Verdict]:
    """Judge whether a network fits what it is to be trained on.

    Parameters
    ----------
    hardware
        What to compute on.
    preset
        The network.
    resized
        Whether batch or patch size are the user's own, so that the preset's memory says little.
    free_gib
        Free memory of the card, where known.
    """
    if hardware.memory_gib is None:
        if hardware.device == "cpu" and preset.name != "tiny":
            remedy = "Use --preset tiny, or a GPU."
            return [_warn("device", hardware.name, f"a GPU to train {preset.name}", remedy)]
        return [_ok("device", hardware.name, f"enough for {preset.name}")]
    name, total = "GPU memory", hardware.memory_gib
    found, expected = f"{total:.1f} GiB", f"{preset.memory_gib} GiB for {preset.name}"
    remedy = "Use a smaller --preset, --batch-size or --patch-size."
    if total < _CARD_TOO_SMALL * preset.memory_gib and not resized:
        return [_error(name, found, expected, remedy)]
    if total < _CARD_TIGHT * preset.memory_gib:
        return [_warn(name, found, expected, remedy)]
    if free_gib is not None and free_gib < _CARD_TIGHT * preset.memory_gib:
        remedy = "Other programs hold the rest: end them, or use another card."
        return [_warn(name, f"{free_gib:.1f} of {total:.1f} GiB free", expected, remedy)]
    return [_ok(name, found, expected)]


def judge_machine(machine: Machine, need: Need, work: Work, *, jobs: int | None) -> list[Verdict]:
    """Judge cores, memory and shared memory against the processes of a run."""
    return [
        *_judge_cores(machine, jobs),
        *_judge_memory(machine, need, work),
        *_judge_shared_memory(machine, need, work),
    ]


def _judge_cores(machine: Machine, jobs: int | None) -> list[Verdict]:
    if machine.quota is not None and machine.quota < (jobs or machine.cores):
        granted = max(1, int(machine.quota))
        found = f"{machine.cores} cores, of which a container grants {machine.quota:g}"
        remedy = f"Use --jobs {granted}."
        return [_warn("cores", found, f"{jobs or machine.cores} for as many workers", remedy)]
    if jobs and jobs > machine.cores:
        remedy = f"Use --jobs {machine.cores}."
        return [_warn("cores", f"{machine.cores}", f"{jobs} for --jobs {jobs}", remedy)]
    return [_ok("cores", f"{machine.cores}", "at least 1")]


def _judge_memory(machine: Machine, need: Need, work: Work) -> list[Verdict]:
    total, free = machine.memory_bytes, machine.free_memory_bytes
    uses = [("preprocess", work.processes, need.process_memory, work.processes)]
    if work.trainings:
        one = need.memory_of_training(workers=work.workers)
        uses.append(("train", work.trainings, one, work.workers + 1))
    verdicts = []
    for what, count, each, workers in uses:
        wanted = count * each
        found = f"{_size(free)} free of {_size(total)}"
        expected = f"about {_size(wanted)} to {what} with {workers} workers"
        fewer = max(1, int(workers * free / wanted))
        remedy = f"Use --jobs {fewer}." if fewer < workers else "Use a smaller --preset."
        name = f"memory to {what}"
        if wanted > total:
            verdicts.append(_error(name, found, expected, remedy))
        elif wanted > free:
            verdicts.append(_warn(name, found, expected, remedy))
        else:
            verdicts.append(_ok(name, found, expected))
    return verdicts


def _judge_shared_memory(machine: Machine, need: Need, work: Work) -> list[Verdict]:
    least, most = need.shared_memory(workers=work.workers)
    count = max(1, work.trainings)
    if not most or machine.shared_memory_bytes is None:
        return []
    found = f"{_size(machine.shared_memory_bytes)} free"
    expected = f"up to {_size(count * most)} for {work.workers} augmentation workers"
    gib = -(-count * most // GIB)
    remedy = f"Give the container more (docker run --shm-size={gib}g), or use fewer --jobs."
    if machine.shared_memory_bytes < count * least:
        return [_error("shared memory", found, expected, remedy)]
    if machine.shared_memory_bytes < count * most:
        return [_warn("shared memory", found, expected, remedy)]
    return [_ok("shared memory", found, expected)]


def judge_disks(disks: Mapping[str, Disk], need: Need) -> list[Verdict]:
    """Judge rights and free space.

    Parameters
    ----------
    disks
        Where ``preprocessed``, ``results`` and what else is written lie.
    need
        What is going to be written to the first two.
    """
    verdicts = [
        _error(
            "rights", f"no right to write to {disk.folder}", "it to be writable",
            "Change its rights, or choose another --workspace.",
        )
        for disk in disks.values()
        if not disk.writable
    ]  # fmt: skip
    wanted: dict[int, int] = {}
    for name, amount in (("preprocessed", need.preprocessed), ("results", need.results)):
        wanted[disks[name].device] = wanted.get(disks[name].device, 0) + amount
    for device, amount in wanted.items():
        disk = next(d for d in (disks["preprocessed"], disks["results"]) if d.device == device)
        found = f"{_size(disk.free_bytes)} free at {disk.folder}"
        name, expected = "disk", f"about {_size(amount)}"
        remedy = "Free some space, or choose another --workspace."
        if disk.free_bytes < amount:
            verdicts.append(_error(name, found, expected, remedy))
        elif disk.free_bytes < _DISK_TIGHT * amount:
            verdicts.append(_warn(name, found, expected, remedy))
        else:
            verdicts.append(_ok(name, found, expected))
    return verdicts


def raise_errors(verdicts: Sequence[Verdict]) -> None:
    """Stop where a verdict is an error.

    Raises
    ------
    InputError
        With all errors together.
    """
    errors = [str(verdict) for verdict in verdicts if verdict.level == "error"]
    if errors:
        lines = [*errors, "gi2nnunet doctor tells all of it; --no-checks goes on all the same."]
        raise InputError("\n".join(lines))


def list_warnings(verdicts: Sequence[Verdict]) -> list[str]:
    """Return the warnings, one sentence each."""
    return [str(verdict) for verdict in verdicts if verdict.level == "warning"]


def _size(amount: float) -> str:
    return f"{amount / GIB:.1f} GiB" if amount >= GIB else f"{amount / MIB:.0f} MiB"


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _ok(name: str, found: str, expected: str) -> Verdict:
    return Verdict(name=name, level="ok", found=found, expected=expected)


def _warn(name: str, found: str, expected: str, remedy: str) -> Verdict:
    return Verdict(name=name, level="warning", found=found, expected=expected, remedy=remedy)


def _error(name: str, found: str, expected: str, remedy: str) -> Verdict:
    return Verdict(name=name, level="error", found=found, expected=expected, remedy=remedy)


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
    options: PlanOptions,
    *,
    engine: Engine,
    folds: Sequence[Fold] = (),
    trainer: str = STOCK_TRAINER,
    free_gib: float | None = None,
    machine: Machine | None = None,
    disks: Mapping[str, Disk] | None = None,
) -> list[Verdict]:
    """Judge the machine for a run of ``plan`` or, with ``folds``, of ``train``; takes milliseconds.

    Parameters
    ----------
    dataset
        What to plan or train on.
    options
        What is to be planned.
    engine
        Where, on what and with how many workers.
    folds, trainer
        What is to be trained; finished folds count for nothing. None where nothing is.
    free_gib
        Free memory of the card, where known.
    machine, disks
        In place of what is measured here; ``disks`` has the keys ``preprocessed``, ``results``,
        ``logs`` and ``predictions``.
    """
    measured = machine or read_machine()
    workspace, hardware = engine.workspace, engine.hardware
    preset = choose_preset(options.preset, memory_gib=hardware.memory_gib)
    folder = workspace.preprocessed / dataset.name
    models = workspace.results / dataset.name
    todo = [
        fold
        for fold in folds
        if any(
            not (fold_folder(models / f"{trainer}__{preset.plans_name}__{name}", fold)
                 / FINAL_CHECKPOINT).is_file()
            for name in options.configurations
        )
    ]  # fmt: skip
    need = estimate_need(
        dataset,
        preprocessed=folder,
        preset=preset,
        configurations=options.configurations,
        planned=read_planned(folder, preset.plans_name),
        trainings=len(todo),
    )
    work = plan_work(
        jobs=engine.jobs, cores=measured.cores, hardware=hardware, training=bool(todo)
    )  # fmt: skip
    places = disks or {
        "preprocessed": measure_disk(folder),
        "results": measure_disk(models),
        "logs": measure_disk(workspace.logs),
        "predictions": measure_disk(workspace.predictions),
    }
    return [
        *judge_hardware(hardware, preset, resized=options.resized, free_gib=free_gib),
        *judge_machine(measured, need, work, jobs=engine.jobs),
        *judge_disks(places, need),
    ]


def diagnose(
    dataset: Dataset | None,
    options: PlanOptions,
    *,
    engine: Engine,
    folds: Sequence[Fold] = ("all",),
    installation: Installation | None = None,
    found: Mapping[str, Any] | None = None,
    machine: Machine | None = None,
    disks: Mapping[str, Disk] | None = None,
) -> Diagnosis:
    """Examine the installation and, with a dataset, whether this machine can train on it.

    Parameters
    ----------
    dataset
        ``None`` examines only the installation.
    options
        What is to be planned.
    engine
        Where and on what; its devices are looked for here.
    folds
        What is to be trained.
    installation, found, machine, disks
        In place of what is measured here; ``found`` as the child's task ``installation`` gives it.
    """
    installed = installation or read_installation()
    verdicts: list[Verdict] = []
    probed: Mapping[str, Any]
    try:
        probed = found or probe_devices(
            "installation", workspace=engine.workspace, environ=engine.environ
        )
        verdicts += judge_installation(installed, failed_imports=probed["failed_imports"])
    except EngineError as error:
        probed = {"cuda": [], "mps": False}
        reason = str(error).splitlines()[0]
        verdicts += judge_installation(installed, failed_imports={"torch": reason})
    try:
        # Without cards the device alone decides; choose_hardware refuses what is not there.
        without = {"cuda": [], "mps": False}
        hardware = choose_hardware(
            without if engine.device == "cpu" else probed, device=engine.device, gpus=engine.gpus
        )
    except InputError as error:
        verdicts.append(_refusal("device", "error", str(error)))
        return Diagnosis(dataset=dataset.name if dataset else None, verdicts=tuple(verdicts))
    try:
        chosen = choose_preset(options.preset, memory_gib=hardware.memory_gib)
    except InputError as error:
        chosen = PRESETS["tiny"]
        verdicts.append(_refusal("preset", "warning", str(error)))
    free = [card["free_gib"] for card in probed["cuda"][: len(hardware.gpus)] if "free_gib" in card]
    free_gib = min(free, default=None)
    if dataset is None:
        verdicts += judge_hardware(hardware, chosen, free_gib=free_gib)
    else:
        verdicts += examine_start(
            dataset,
            replace(options, preset=chosen.name),
            engine=replace(engine, found=hardware),
            folds=folds,
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
