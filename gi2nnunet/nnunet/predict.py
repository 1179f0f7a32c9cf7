"""Predict scans with an ensemble, in child processes: one, or one a GPU."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gi2nnunet.errors import GiError
from gi2nnunet.nnunet.checking import check_model
from gi2nnunet.nnunet.hardware import Hardware
from gi2nnunet.nnunet.models import Ensemble, Fold
from gi2nnunet.nnunet.process import Event, LogFile, new_log, run_engine
from gi2nnunet.nnunet.workspace import Workspace, choose_threads, engine_environment
from gi2nnunet.source import Scan
from gi2nnunet.submission import Row


@dataclass(frozen=True, kw_only=True)
class InputScan:
    """A scan to predict: a NIfTI volume, or the slices of a competition source.

    Attributes
    ----------
    scan_id
        The scan.
    numbers
        Slice number of each plane, cranial first.
    volume
        Its NIfTI file.
    source, scan
        Where its slices lie, and which.
    """

    scan_id: str
    numbers: tuple[int, ...]
    volume: Path | None = None
    source: Path | None = None
    scan: Scan | None = None


@dataclass(frozen=True, kw_only=True)
class PredictedScan:
    """One predicted scan.

    Attributes
    ----------
    scan_id
        The scan.
    rows
        ``(slice_id, organ, RLE text)`` of every slice and organ.
    seconds
        Wall-clock time it took.
    """

    scan_id: str
    rows: tuple[Row, ...]
    seconds: float


def predict_scans(
    ensemble: Ensemble,
    scans: Sequence[InputScan],
    *,
    workspace: Workspace,
    environ: Mapping[str, str],
    hardware: Hardware,
    folds: Mapping[str, Sequence[Fold]] | None = None,
    mirroring: bool = True,
    step_size: float = 0.5,
    threads: int | None = None,
    nifti_folder: Path | None = None,
    trust: bool = False,
    on_scan: Callable[[int, int, PredictedScan], None] | None = None,
) -> tuple[PredictedScan, ...]:
    """Predict scans; with several GPUs they are dealt out among these.

    Parameters
    ----------
    ensemble
        The models.
    scans
        What to predict.
    workspace, environ, hardware
        Where and on what.
    folds
        Folds to use by scan id, for out-of-fold prediction; by default the ensemble's.
    mirroring, step_size
        nnU-Net's test-time mirroring and sliding-window step.
    threads
        Threads of each process; by default as
        :func:`~gi2nnunet.nnunet.workspace.choose_threads` has it.
    nifti_folder
        Where to write label volumes as well.
    trust
        Load checkpoints and plans that could run code.
    on_scan
        Called with ``(done, total, scan)``.

    Returns
    -------
    tuple
        In the order of ``scans``.

    Raises
    ------
    InputError
        Where a scan or a model cannot be read.
    EngineError
        Where nnU-Net fails.
    """
    chosen = folds or {}
    used = tuple(dict.fromkeys(f for s in scans for f in chosen.get(s.scan_id, ensemble.folds)))
    for model in ensemble.models:
        check_model(model, used)
    done: dict[str, PredictedScan] = {}
    lock = threading.Lock()

    def take(event: Event) -> None:
        if event["event"] != "scan":
            return
        scan = PredictedScan(
            scan_id=event["scan_id"],
            rows=tuple((row[0], row[1], row[2]) for row in event["rows"]),
            seconds=event["seconds"],
        )
        with lock:
            done[scan.scan_id] = scan
            if on_scan:
                on_scan(len(done), len(scans), scan)

    tasks = [_task(scan, chosen.get(scan.scan_id, ensemble.folds)) for scan in scans]
    tasks.sort(key=lambda task: str(task["folds"]))  # each fold's weights are loaded once
    n_threads = choose_threads(threads, device=hardware.device, training=False)

    def run(part: Sequence[Mapping[str, Any]], gpu: int | None, log: LogFile) -> None:
        run_engine(
            "predict",
            {
                "models": [str(model.folder) for model in ensemble.models],
                "scans": list(part),
                "device": hardware.device,
                "mirroring": mirroring,
                "step_size": step_size,
                "threads": n_threads,
                "nifti_folder": str(nifti_folder) if nifti_folder else None,
                "trust": trust,
            },
            environment=engine_environment(
                workspace,
                environ=environ,
                processes=n_threads,
                augmentation_processes=0,
                threads=n_threads,
                gpu=gpu,
            ),
            log=log,
            on_event=take,
        )

    slots = hardware.slots[: max(1, len(tasks))]
    parts = [tasks[index :: len(slots)] for index in range(len(slots))]
    logs = [new_log(workspace.logs, "predict") for _ in slots]
    _run_each(run, parts, slots, logs)
    return tuple(done[scan.scan_id] for scan in scans)


def _task(scan: InputScan, folds: Sequence[Fold]) -> dict[str, Any]:
    task: dict[str, Any] = {
        "scan_id": scan.scan_id,
        "numbers": list(scan.numbers),
        "folds": list(folds),
    }
    if scan.volume is not None:
        return {**task, "volume": str(scan.volume)}
    if scan.scan is None:
        raise ValueError(f"{scan.scan_id} has neither a volume nor slices")
    return {**task, "source": str(scan.source), "scan": {**asdict(scan.scan), "texts": None}}


def _run_each(
    run: Callable[[Sequence[Mapping[str, Any]], int | None, LogFile], None],
    parts: Sequence[Sequence[Mapping[str, Any]]],
    slots: Sequence[int | None],
    logs: Sequence[LogFile],
) -> None:
    if len(slots) == 1:
        run(parts[0], slots[0], logs[0])
        return
    failures: list[GiError] = []

    def work(index: int) -> None:
        try:
            run(parts[index], slots[index], logs[index])
        except GiError as error:
            failures.append(error)

    # Daemons: on Ctrl-C this process ends at once, and its children with it.
    threads = [
        threading.Thread(target=work, args=(index,), daemon=True) for index in range(len(slots))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
