"""Checks of the machine before a run: installation, GPU memory, memory, disk.

Each function judges numbers that it is given, so that any machine can be judged anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

from gi2nnunet.core.errors import EngineError, InputError, count
from gi2nnunet.core.frames import ShownAsTable, make_frame
from gi2nnunet.dataset.checks import list_dataset_checks
from gi2nnunet.dataset.manifest import Dataset
from gi2nnunet.nnunet.cards import Cards, CheckedCard, is_compiling
from gi2nnunet.nnunet.engine import Engine, Hardware, choose_hardware, choose_helpers
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
from gi2nnunet.training.prepared import PLAN_AGAIN, list_prepared_checks, read_planned

if TYPE_CHECKING:
    from pandas import DataFrame

Level = Literal["ok", "warning", "error"]

SUPPORTED_NNUNET = "==2.8.1"  # as pyproject.toml pins it
_OLDEST_PYTHON, _TESTED_PYTHONS = (3, 10), ((3, 11), (3, 13))
_PIN = "Install the tested versions: pip install -c constraints.txt ."
# A card's memory is a little less than its name says; a plan needs nearly all it was made for.
_CARD_TIGHT, _CARD_TOO_SMALL = 0.95, 0.75
_DISK_TIGHT = 1.2
_MOST_PREPROCESSING = 8


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Result of one check: an error stops a run, a warning does not; found and expected in numbers.

    The remedy is empty if all is well.
    """

    name: str
    level: Level
    found: str
    expected: str
    remedy: str = ""

    def __str__(self) -> str:
        """Return the verdict as one line."""
        return f"{self.name}: found {self.found}; expected {self.expected}. {self.remedy}".rstrip()


def _judge(
    name: str, found: str, expected: str, *, error: bool = False, warn: bool = False, remedy: str
) -> Verdict:
    level: Level = "error" if error else "warning" if warn else "ok"
    return Verdict(
        name=name, level=level, found=found, expected=expected,
        remedy="" if level == "ok" else remedy,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Work:
    """Processes of a run: those that preprocess, and trainings at once, each with ``workers``.

    Without workers a training augments itself; without trainings nothing is to be trained.
    """

    processes: int
    workers: int
    trainings: int


def plan_work(
    *, jobs: int | None, cores: int, hardware: Hardware, training: bool, environ: Mapping[str, str]
) -> Work:
    """Return the processes that a run of ``plan`` or ``train`` starts."""
    helpers = choose_helpers(jobs, hardware=hardware, environ=environ, cores=cores)
    return Work(
        processes=min(_MOST_PREPROCESSING, jobs or cores),
        workers=helpers if training else 0,
        trainings=len(hardware.slots) if training else 0,
    )


def judge_installation(
    installation: Installation, *, failed_imports: Mapping[str, str] | None = None
) -> list[Verdict]:
    """Judge whether Python and the packages fit together.

    ``failed_imports`` has modules that cannot be imported, and why; ``None`` if that was not tried.
    """
    python, versions = installation.python, installation.versions
    first, last = _TESTED_PYTHONS
    too_old = python[:2] < _OLDEST_PYTHON
    verdicts = [
        _judge(
            "Python", _dotted(python), f"{_dotted(first)} to {_dotted(last)}",
            error=too_old, warn=not first <= python[:2] <= last,
            remedy="Use a newer Python." if too_old else "Other versions were not tried.",
        )
    ]  # fmt: skip
    verdicts += [
        _judge(name, "nothing installed", "a version of it", error=True, remedy=_PIN)
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
        found = f"that it cannot be imported ({why})"
        verdicts.append(_judge(module, found, "an import", error=True, remedy=_PIN))
    if failed_imports is not None and not failed_imports:
        found = "torch, torchvision, nnunetv2 load"
        verdicts.append(_judge("imports", found, "that they do", remedy=""))
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
    return _judge(name, found, expected, error=not fits, remedy=_PIN)


def _find_requirement(requirements: Sequence[str], name: str) -> str:
    """Return what a package asks of another one here, as a version specifier."""
    for text in requirements:
        requirement = Requirement(text)
        here = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if requirement.name == name and here and requirement.specifier:
            return str(requirement.specifier)
    return ""


def _judge_builds(torch: str, torchvision: str) -> list[Verdict]:
    """Find a torch for CPUs beside a torchvision for CUDA, or the like."""
    try:
        first, second = Version(torch).local, Version(torchvision).local
    except InvalidVersion:
        return []
    if first == second:
        return []
    return [
        _judge(
            "torch and torchvision",
            f"builds {first or 'from PyPI'} and {second or 'from PyPI'}", "two of the same build",
            error="cpu" in (first, second), warn=True,
            remedy="Install both from the same index.",
        )
    ]  # fmt: skip


def judge_hardware(
    hardware: Hardware, preset: Preset, *, resized: bool = False, free_gib: float | None = None
) -> list[Verdict]:
    """Judge whether a network fits the hardware to train it on.

    If the user ``resized`` batch or patch, the preset's memory says little.
    """
    total = hardware.memory_gib
    if total is None:
        slow = hardware.device == "cpu" and preset.name != "tiny"
        expected = f"a GPU to train {preset.name}" if slow else f"enough for {preset.name}"
        remedy = "Use --preset tiny, or a GPU."
        return [_judge("device", hardware.name, expected, warn=slow, remedy=remedy)]
    name, found, expected = (
        "GPU memory", f"{total:.1f} GiB", f"{preset.memory_gib} GiB for {preset.name}"
    )  # fmt: skip
    needed = _CARD_TIGHT * preset.memory_gib
    if total >= needed and free_gib is not None and free_gib < needed:
        found = f"{free_gib:.1f} of {total:.1f} GiB free"
        remedy = "Other programs hold the rest: end them, or use another card."
        return [_judge(name, found, expected, warn=True, remedy=remedy)]
    return [
        _judge(
            name, found, expected,
            error=total < _CARD_TOO_SMALL * preset.memory_gib and not resized, warn=total < needed,
            remedy="Use a smaller --preset, --batch-size or --patch-size.",
        )
    ]  # fmt: skip


def judge_cards(cards: Cards, used: Sequence[int] = (), *, compiling: bool) -> list[Verdict]:
    """Judge each card, and the driver if PyTorch finds none.

    A card that is not among the indices ``used`` is never an error. ``compiling``: nnU-Net
    compiles the networks that are trained on them.
    """
    verdicts = [
        _judge(name, fault.problem, "that it works", warn=True, remedy=fault.remedy)
        for name, fault in cards.list_faults()
    ]
    for checked in cards.working:
        found = f"{checked.card.memory_gib:.1f} GiB"
        found += f", {checked.free_gib:.1f} free" if checked.free_gib is not None else ""
        name = f"card {checked.card.index}, {checked.card.name}"
        verdicts.append(_judge(name, f"that it computes ({found})", "that it works", remedy=""))
        if compiling:
            verdicts.append(_judge_compiling(checked, used=checked.card.index in used))
    quoted = " ".join(verdict.found for verdict in verdicts)
    lines = [warning.splitlines()[0] for warning in cards.devices.warnings if warning.strip()]
    verdicts += [
        _judge("PyTorch", line, "no warning", warn=True, remedy="Check nvidia-smi.")
        for line in lines
        if line not in quoted
    ]
    return verdicts


def _judge_compiling(checked: CheckedCard, *, used: bool) -> Verdict:
    fault = checked.compile_fault
    found = fault.problem if fault else "that it compiles"
    return _judge(
        f"torch.compile, card {checked.card.index}", found, "that it compiles", warn=bool(fault),
        error=used and bool(fault), remedy=fault.remedy if fault else "",
    )  # fmt: skip


def judge_compiling(engine: Engine) -> list[Verdict]:
    """Judge whether nnU-Net can compile a network on the cards that are used; takes seconds."""
    return [
        _judge(
            f"torch.compile, {name}",
            fault.problem,
            "that it compiles",
            error=True,
            remedy=fault.remedy,
        )
        for name, fault in engine.find_compile_faults()
    ]


def judge_machine(machine: Machine, need: Need, work: Work, *, jobs: int | None) -> list[Verdict]:
    """Judge cores, memory and shared memory against the processes of a run."""
    return [
        _judge_cores(machine, jobs),
        *_judge_memory(machine, need, work),
        *_judge_shared_memory(machine, need, work),
    ]


def _judge_cores(machine: Machine, jobs: int | None) -> Verdict:
    found, wanted = f"{machine.cores}", jobs or machine.cores
    if machine.quota is not None and machine.quota < wanted:
        found += f" cores, of which a container grants {machine.quota:g}"
        remedy = f"Use --jobs {max(1, int(machine.quota))}."
        return _judge("cores", found, f"{wanted} for as many workers", warn=True, remedy=remedy)
    too_many = wanted > machine.cores
    expected = f"{jobs} for --jobs {jobs}" if too_many else "at least 1"
    return _judge("cores", found, expected, warn=too_many, remedy=f"Use --jobs {machine.cores}.")


def _judge_memory(machine: Machine, need: Need, work: Work) -> list[Verdict]:
    total, free = machine.memory_bytes, machine.free_memory_bytes
    uses = [("preprocess", work.processes, need.process_memory, work.processes)]
    if work.trainings:
        one = need.memory_of_training(workers=work.workers)
        uses.append(("train", work.trainings, one, work.workers + 1))
    verdicts = []
    for what, processes, each, workers in uses:
        wanted = processes * each
        fewer = max(1, int(workers * free / wanted))
        verdicts.append(
            _judge(
                f"memory to {what}",
                f"{_size(free)} free of {_size(total)}",
                f"about {_size(wanted)} to {what} with {workers} workers",
                error=wanted > total, warn=wanted > free,
                remedy=f"Use --jobs {fewer}." if fewer < workers else "Use a smaller --preset.",
            )
        )  # fmt: skip
    return verdicts


def _judge_shared_memory(machine: Machine, need: Need, work: Work) -> list[Verdict]:
    least, most = need.shared_memory(workers=work.workers)
    count, found = max(1, work.trainings), machine.shared_memory_bytes
    if not most or found is None:
        return []
    gib = -(-count * most // GIB)
    return [
        _judge(
            "shared memory",
            f"{_size(found)} free",
            f"up to {_size(count * most)} for {work.workers} augmentation workers",
            error=found < count * least, warn=found < count * most,
            remedy=f"Give the container more (docker run --shm-size={gib}g), or use fewer --jobs.",
        )
    ]  # fmt: skip


def judge_disks(disks: Mapping[str, Disk], need: Need) -> list[Verdict]:
    """Judge rights and free space of the folders that a run writes to."""
    verdicts = [
        _judge(
            "rights", f"no right to write to {disk.folder}", "it to be writable", error=True,
            remedy="Change its rights, or choose another --workspace.",
        )
        for disk in disks.values()
        if not disk.writable
    ]  # fmt: skip
    wanted: dict[int, int] = {}
    for name, amount in (("preprocessed", need.preprocessed), ("results", need.results)):
        wanted[disks[name].device] = wanted.get(disks[name].device, 0) + amount
    for device, amount in wanted.items():
        disk = next(d for d in (disks["preprocessed"], disks["results"]) if d.device == device)
        free = disk.free_bytes
        verdicts.append(
            _judge(
                "disk", f"{_size(free)} free at {disk.folder}", f"about {_size(amount)}",
                error=free < amount, warn=free < _DISK_TIGHT * amount,
                remedy="Free some space, or choose another --workspace.",
            )
        )  # fmt: skip
    return verdicts


def judge_data(dataset: Dataset, preprocessed: Path) -> list[Verdict]:
    """Judge the files that a run reads, by sizes and marks; ``plan`` and ``train`` make some again.

    ``preprocessed`` is nnU-Net's folder of the dataset.
    """
    checks = list_dataset_checks(dataset, quick=True)
    checks += list_prepared_checks(dataset, preprocessed, read=False)
    findings = list(dict.fromkeys(finding for check in checks for finding in check()))
    return [
        Verdict(
            name="data",
            level="warning" if finding.remedy.startswith(PLAN_AGAIN) else "error",
            found=f"{finding.found} ({finding.file})",
            expected=finding.expected,
            remedy=finding.remedy,
        )
        for finding in findings
    ] or [_judge("data", f"{count(len(checks), 'check')} passed", "that all do", remedy="")]


def raise_errors(verdicts: Sequence[Verdict]) -> None:
    """Raise an :class:`InputError` with all verdicts that are errors, if there are any."""
    errors = [str(verdict) for verdict in verdicts if verdict.level == "error"]
    if errors:
        remedy = "Run gi2nnunet doctor for the full list, or use --no-checks to continue anyway."
        raise InputError("\n".join([*errors, remedy]))


def list_warnings(verdicts: Sequence[Verdict]) -> list[str]:
    """Return the warnings, one sentence each."""
    return [str(verdict) for verdict in verdicts if verdict.level == "warning"]


def _size(amount: float) -> str:
    return f"{amount / GIB:.1f} GiB" if amount >= GIB else f"{amount / MIB:.0f} MiB"


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


@dataclass(frozen=True, kw_only=True)
class Diagnosis(ShownAsTable):
    """Result of a whole examination; ``dataset`` is ``None`` for the installation only."""

    dataset: str | None
    verdicts: tuple[Verdict, ...]
    cards: Cards | None = None

    @property
    def fit(self) -> bool:
        """Return whether nothing would stop a run."""
        return all(verdict.level != "error" for verdict in self.verdicts)

    def to_frame(self) -> DataFrame:
        """Return a table of the checks, indexed by their names."""
        return make_frame(Verdict, self.verdicts, index="name")

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain values."""
        return {
            "fit": self.fit,
            "dataset": self.dataset,
            "checks": [asdict(verdict) for verdict in self.verdicts],
            **self._describe_cards(),
        }

    def _describe_cards(self) -> dict[str, Any]:
        if self.cards is None:
            return {"cards": []}
        devices = self.cards.devices
        return {
            "cards": [card.to_json() for card in self.cards.checked],
            "driver": devices.driver,
            "torch": devices.torch,
            "torch_kernels": devices.kernels,
            "torch_warnings": devices.warnings,
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
    folds, trainer
        To be trained; finished folds do not count.
    free_gib
        Free memory of the card, if known.
    machine, disks
        Used instead of what is measured here; ``disks`` has the keys ``preprocessed``, ``results``,
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
        jobs=engine.jobs, cores=measured.cores, hardware=hardware, training=bool(todo),
        environ=engine.environ,
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


@dataclass(frozen=True, kw_only=True)
class Probed:
    """What processes of the engine found: modules that cannot be imported, and the cards."""

    failed_imports: Mapping[str, str]
    cards: Cards | None = None


def probe(engine: Engine) -> Probed:
    """Import the engine's modules and test every card; takes seconds for each."""
    try:
        failed = engine.ask("installation")["failed_imports"]
        if "torch" in failed or engine.device == "cpu":
            return Probed(failed_imports=failed)
        cards = engine.check_cards(
            wanted=None, compiling=is_compiling(engine.environ), fresh=True
        )  # fmt: skip
        return Probed(failed_imports=failed, cards=cards)
    except EngineError as error:
        return Probed(failed_imports={"torch": str(error).splitlines()[0]})


def diagnose(
    dataset: Dataset | None,
    options: PlanOptions,
    *,
    engine: Engine,
    folds: Sequence[Fold] = ("all",),
    installation: Installation | None = None,
    found: Probed | None = None,
    machine: Machine | None = None,
    disks: Mapping[str, Disk] | None = None,
) -> Diagnosis:
    """Examine the installation and, with a dataset, whether this machine can train on it.

    Parameters
    ----------
    dataset
        ``None`` examines only the installation.
    installation, found, machine, disks
        Used instead of what is measured here.
    """
    probed = found or probe(engine)
    verdicts = judge_installation(
        installation or read_installation(), failed_imports=probed.failed_imports
    )
    name, compiling = dataset.name if dataset else None, is_compiling(engine.environ)
    try:
        hardware = choose_hardware(probed.cards, device=engine.device, gpus=engine.gpus)
    except InputError as error:
        if probed.cards is not None:
            verdicts += judge_cards(probed.cards, compiling=compiling)
        verdicts.append(_refusal("device", "error", str(error)))
        return Diagnosis(dataset=name, verdicts=tuple(verdicts), cards=probed.cards)
    if probed.cards is not None:
        verdicts += judge_cards(probed.cards, hardware.gpus, compiling=compiling)
    try:
        chosen = choose_preset(options.preset, memory_gib=hardware.memory_gib)
    except InputError as error:
        chosen = PRESETS["tiny"]
        verdicts.append(_refusal("preset", "warning", str(error)))
    free_gib = _find_free(probed.cards, hardware)
    if dataset is None:
        verdicts += judge_hardware(hardware, chosen, free_gib=free_gib)
    else:
        options, engine = replace(options, preset=chosen.name), replace(engine, found=hardware)
        verdicts += examine_start(
            dataset, options, engine=engine, folds=folds, free_gib=free_gib, machine=machine,
            disks=disks,
        )  # fmt: skip
        verdicts += judge_data(dataset, engine.workspace.preprocessed / dataset.name)
    return Diagnosis(dataset=name, verdicts=tuple(verdicts), cards=probed.cards)


def _find_free(cards: Cards | None, hardware: Hardware) -> float | None:
    """Return the free memory of the fullest card that is used, in GiB."""
    used = [c.free_gib for c in cards.working if c.card.index in hardware.gpus] if cards else []
    return min((free for free in used if free is not None), default=None)


def _refusal(name: str, level: Any, text: str) -> Verdict:
    """Turn the message of a refusal, ``option: found ...; expected ... remedy``, into a verdict."""
    first, *notes = text.splitlines()
    found, _, remedy = first.removesuffix(".").partition(". ")
    return Verdict(
        name=name,
        level=level,
        found=found.partition("found ")[2] or found,
        expected="what was asked for" if level == "error" else "a GPU for --preset auto",
        remedy=remedy or "".join(notes[-1:]),
    )
