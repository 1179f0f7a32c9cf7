"""Engine: where nnU-Net runs, on which hardware, with how many workers; prediction settings."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import NonNegativeFloat
from typing_extensions import TypedDict

from gi2nnunet.core.errors import InputError, count, require_positive
from gi2nnunet.core.files import Count
from gi2nnunet.core.workers import count_cores
from gi2nnunet.dataset.workspace import Workspace
from gi2nnunet.nnunet.cards import Cards, Fault, check_cards, is_compiling
from gi2nnunet.nnunet.process import Event, LogFile, engine_environment, new_log, run_engine

COST = "cost.json"


class PredictionCost(TypedDict, total=False):
    """Time and memory of a prediction, beside it in :data:`COST`."""

    scans: Count
    seconds_per_scan: NonNegativeFloat
    device: str
    hardware: str
    peak_memory_bytes: Count
    peak_gpu_bytes: Count


HELPERS_VARIABLE = "nnUNet_n_proc_DA"
_MOST_HELPERS = 12  # nnU-Net's own number


@dataclass(frozen=True, kw_only=True)
class Engine:
    """How nnU-Net is run: the same for planning, training, predicting and passing models on.

    Attributes
    ----------
    environ
        Start of the environment of its processes (``PATH`` and the like).
    device
        ``auto`` (a GPU if one works), ``cuda``, ``cpu`` or ``mps``.
    gpus
        How many cards to use; by default one.
    jobs
        Worker processes; by default one for each core.
    threads
        Threads of the network's operations; they change the last bits of its output. The default is
        that of :func:`choose_threads`; the number is recorded in both cases.
    trust
        Load checkpoints, plans and trainers that could run any code.
    found
        The hardware, if it is known already; else it is detected when it is first needed.

    Raises
    ------
    ValueError
        For a number of cards, workers or threads below 1.
    """

    workspace: Workspace
    environ: Mapping[str, str] = field(repr=False)
    device: str = "auto"
    gpus: int | None = None
    jobs: int | None = None
    threads: int | None = None
    trust: bool = False
    found: Hardware | None = None

    def __post_init__(self) -> None:
        require_positive(gpus=self.gpus, jobs=self.jobs, threads=self.threads)

    @cached_property
    def hardware(self) -> Hardware:
        """The cards or the processor to compute on; raises as :func:`choose_hardware`."""
        if self.found is not None:
            return self.found
        if self.device == "cpu":
            return choose_hardware(None, device=self.device, gpus=self.gpus)
        cards = self.check_cards(wanted=self.gpus or 1)
        return choose_hardware(cards, device=self.device, gpus=self.gpus)

    @property
    def device_type(self) -> DeviceName:
        """PyTorch's device type; the hardware is only looked for if it is not given."""
        if self.found is None and self.device in ("cuda", "cpu", "mps"):
            return cast(DeviceName, self.device)
        return self.hardware.device

    def check_cards(
        self, *, wanted: int | None, compiling: bool = False, fresh: bool = False
    ) -> Cards:
        """List the cards and test some; see :func:`~gi2nnunet.nnunet.cards.check_cards`."""

        def ask(task: str, options: Mapping[str, Any], gpu: int | None) -> dict[str, Any]:
            return self._devices if task == "devices" else self.ask(task, options, gpu)

        return check_cards(
            ask, wanted=wanted, compiling=compiling, fresh=fresh, environ=self.environ
        )

    @cached_property
    def _devices(self) -> dict[str, Any]:
        return self.ask("devices")

    def find_compile_faults(self) -> list[tuple[str, Fault]]:
        """Return why and on which card the network of a training cannot be compiled.

        Empty if nnU-Net compiles nothing, and for hardware that was given.
        """
        if self.found is not None or self.device_type != "cuda" or not is_compiling(self.environ):
            return []
        cards = self.check_cards(wanted=len(self.hardware.gpus), compiling=True)
        return [(c.card.name, c.compile_fault) for c in cards.working if c.compile_fault]

    def use_every_card(self) -> Engine:
        """Return the engine with every card that works, unless it has a number of its own."""
        if self.found is not None or self.gpus or self.device not in ("auto", "cuda"):
            return replace(self, found=self.hardware)
        cards = self.check_cards(wanted=None)
        found = choose_hardware(cards, device=self.device, gpus=len(cards.working) or None)
        return replace(self, found=found)

    def ask(
        self, task: str, options: Mapping[str, Any] | None = None, gpu: int | None = None
    ) -> dict[str, Any]:
        """Run a short task; its log is only kept if it fails, and compiled code never.

        Raises :class:`EngineError` if PyTorch cannot be imported, or takes the process down.
        """
        homes = self._folders_to_make
        log = self.new_log(task)
        with tempfile.TemporaryDirectory() as folder:
            caches = dict.fromkeys(("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"), folder)
            found = self.run(task, options or {}, log=log, gpu=gpu, variables=caches)
        log.path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # unless they hold something else
            for place in homes:
                place.rmdir()
        return found

    @cached_property
    def _folders_to_make(self) -> tuple[Path, ...]:
        """The folders of logs that are not there yet: what only looks leaves nothing."""
        logs = self.workspace.logs
        return (logs, *(folder for folder in [logs.parent] if not folder.exists()))

    @property
    def workers(self) -> int:
        """Worker processes: the requested number, else one for each core."""
        return self.jobs or count_cores()

    def choose_threads(self, *, training: bool) -> int:
        """Return the threads of each process that trains or, else, predicts."""
        return choose_threads(self.threads, device=self.device_type, training=training)

    def choose_helpers(self) -> int:
        """Return the workers that augment beside each training; raises as the function."""
        return choose_helpers(self.jobs, hardware=self.hardware, environ=self.environ)

    def new_log(self, name: str) -> LogFile:
        """Return a new log file in the workspace."""
        return new_log(self.workspace.logs, name)

    def run(
        self,
        task: str,
        options: Mapping[str, Any],
        *,
        log: LogFile,
        processes: int = 1,
        helpers: int = 0,
        threads: int = 1,
        gpu: int | None = None,
        variables: Mapping[str, str] | None = None,
        on_event: Callable[[Event], None] | None = None,
        stop: threading.Event | None = None,
    ) -> dict[str, Any]:
        """Run one task of :mod:`gi2nnunet.nnunet.child.main` in a process of its own.

        Parameters
        ----------
        processes, helpers, threads, gpu
            nnU-Net's workers, those that augment while training, the threads of each process, and
            the one card it sees.
        on_event, stop
            See :func:`~gi2nnunet.nnunet.process.run_engine`, also for what is returned and raised.
        """
        environment = engine_environment(
            self.workspace,
            environ=self.environ,
            processes=processes,
            augmentation_processes=helpers,
            threads=threads,
            gpu=gpu,
        )
        return run_engine(
            task,
            options,
            environment={**(variables or {}), **environment},
            log=log,
            on_event=on_event,
            stop=stop,
        )


@dataclass(frozen=True, kw_only=True)
class PredictionSettings:
    """How networks are applied to a scan.

    Attributes
    ----------
    mirroring
        Average over mirrored images, nnU-Net's test-time augmentation.
    step_size
        Step of the sliding window, as a part of the patch.

    Raises
    ------
    ValueError
        For a step outside 0.1 to 1.
    """

    mirroring: bool = True
    step_size: float = 0.5

    def __post_init__(self) -> None:
        if not 0.1 <= self.step_size <= 1:
            raise ValueError(f"step_size: found {self.step_size!r}; expected 0.1 to 1")

    def describe(self, engine: Engine) -> dict[str, Any]:
        """Return everything that predicted values depend on, as it is recorded beside them."""
        return {
            "device": engine.device_type,
            "threads": engine.choose_threads(training=False),
            "mirroring": self.mirroring,
            "step_size": self.step_size,
        }


@dataclass(frozen=True, kw_only=True)
class PredictionOptions:
    """Results to make from the networks' probabilities.

    Attributes
    ----------
    nifti
        Write label volumes too: the bit-coded map and a binary mask for each organ.
    save_probabilities
        Write each configuration's probabilities in eight bits, into ``probabilities/``.
    tuning
        Apply the settings that tuning saved for these models, if any.
    rtstruct, seg
        Write RTSTRUCT or DICOM SEG of each scan into ``dicom/``; only for DICOM sources.
    slicer
        Write a segmentation of each scan for 3D Slicer into ``slicer/``; needs ``nifti``.
    roi_names
        Name in these files of an organ's structure, where it is not to be that of TG-263.
    """

    nifti: bool = False
    save_probabilities: bool = False
    tuning: bool = True
    rtstruct: bool = False
    seg: bool = False
    slicer: bool = False
    roi_names: Mapping[str, str] = field(default_factory=dict)


def choose_threads(
    threads: int | None, *, device: str, training: bool, cores: int | None = None
) -> int:
    """Return how many threads the network's operations get; they change its output's last bits.

    If ``threads`` is ``None``, it is on a CPU every core, else one for training (with augmentation
    beside it) and half of the cores for prediction (which resamples on the CPU). ``cores`` are
    those of the machine it is for; by default those of this process.
    """
    if threads is not None:
        return threads
    known = cores or count_cores()
    if device == "cpu":
        return known
    return 1 if training else max(1, known // 2)


def choose_helpers(
    jobs: int | None, *, hardware: Hardware, environ: Mapping[str, str], cores: int | None = None
) -> int:
    """Return the workers that augment beside each training; 0 for the training process itself.

    On a CPU they would gain nothing. Else ``nnUNet_n_proc_DA`` in ``environ`` counts, if ``jobs``
    are not fewer. Without it the jobs are divided among the cards: by default one for each core,
    but not more than 12, as in nnU-Net.

    Raises
    ------
    InputError
        If the variable is not a number of processes.
    """
    if hardware.device == "cpu":
        return 0
    if asked := environ.get(HELPERS_VARIABLE, "").strip():
        if not (asked.isascii() and asked.isdecimal() and len(asked) <= 4):
            raise InputError(
                f"{HELPERS_VARIABLE}: found {asked!r}; expected a number of processes, such as 12. "
                f"Set it to one, or remove it: unset {HELPERS_VARIABLE}"
            )
        return min(int(asked), jobs or int(asked))
    most = jobs or min(_MOST_HELPERS, cores or count_cores())
    return max(1, most // len(hardware.slots))


DeviceName = Literal["cuda", "cpu", "mps"]


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """Hardware to compute on.

    Attributes
    ----------
    gpus
        Indices of the CUDA cards in use; empty on other devices.
    memory_gib
        Memory of the smallest of these cards; ``None`` on other devices.
    notes
        Sentences on cards that are not used because they do not work.
    """

    device: DeviceName
    gpus: tuple[int, ...]
    memory_gib: float | None
    name: str
    notes: tuple[str, ...] = ()

    @property
    def slots(self) -> tuple[int | None, ...]:
        """Return the cards that can each take one task; one nameless slot without cards."""
        return self.gpus or (None,)

    def describe(self) -> str:
        """Return a text on what is computed on, and on cards that do not work."""
        return "\n".join([f"Computing on: {self.name}", *self.notes])


def choose_hardware(cards: Cards | None, *, device: str, gpus: int | None) -> Hardware:
    """Choose among devices: ``auto`` (a GPU if one works), ``cuda``, ``cpu`` or ``mps``.

    Without ``cards`` nothing but the processor is known.

    Raises
    ------
    InputError
        If the requested device or number of cards is not there, or does not work.
    """
    if device not in ("auto", "cuda", "cpu", "mps"):
        raise InputError(f"--device: found {device!r}; expected auto, cuda, cpu or mps.")
    if device == "cpu" or cards is None:
        if gpus:
            raise InputError(f"--gpus {gpus} asks for GPUs, --device cpu for none. Give one.")
        return _cpu()
    working, wanted = cards.working, gpus or 1
    notes = tuple(f"Not on {name}: {fault}" for name, fault in cards.list_faults())
    if len(working) < wanted and (device == "cuda" or gpus):
        raise InputError(_refuse_cards(cards, gpus, notes))
    if working and device != "mps":
        used = [checked.card for checked in working[:wanted]]
        return Hardware(
            device="cuda",
            gpus=tuple(card.index for card in used),
            memory_gib=min(card.memory_gib for card in used),
            name=", ".join(f"{card.name} ({card.memory_gib:.0f} GiB)" for card in used),
            notes=notes,
        )
    if device == "mps" and not cards.devices.mps:
        raise InputError("--device mps: found no Apple GPU. Use --device cpu.")
    if cards.devices.mps:
        return Hardware(device="mps", gpus=(), memory_gib=None, name="Apple GPU")
    return replace(_cpu(), notes=notes)


def _refuse_cards(cards: Cards, gpus: int | None, notes: Sequence[str]) -> str:
    """Return the message for too few cards, with what is wrong with the others."""
    option = f"--gpus {gpus}" if gpus else "--device cuda"
    lines = [
        f"{option}: found {count(len(cards.working), 'CUDA GPU')} that PyTorch can use.",
        *notes,
    ]
    if any(" MIG " in card.name for card in cards.devices.cards):
        lines.append(
            "A process sees only one MIG slice: run one command for each, with "
            "CUDA_VISIBLE_DEVICES=MIG-..., as nvidia-smi -L lists them."
        )
    elif not notes:
        lines.append("Check nvidia-smi and that PyTorch was installed with CUDA.")
    return "\n".join([*lines, "Or use --device cpu." if gpus is None else "Or use fewer --gpus."])


def _cpu() -> Hardware:
    return Hardware(device="cpu", gpus=(), memory_gib=None, name=f"CPU, {count_cores()} cores")
