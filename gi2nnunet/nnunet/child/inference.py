"""Inference of an ensemble in one pass over the scans; runs in the engine's child process.

Three stages overlap in time: while the networks predict one scan, the next is read and preprocessed
and the last is resampled, turned into masks and encoded. Logits are averaged over folds as nnU-Net
does, probabilities over configurations. nnU-Net's own export paints the organs one over the other
and so loses overlaps; here each organ keeps its own bit.
"""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gi2nnunet.core.errors import EngineError, GiError, InputError, name_some, shorten
from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.formats.labels import LabelMap, join_organs, split_organs, to_bits
from gi2nnunet.formats.probabilities import SUFFIX, to_eight_bits, write_probabilities
from gi2nnunet.formats.submission import encode_scan
from gi2nnunet.nnunet.child.network import Network, Prepared
from gi2nnunet.nnunet.child.trainer import measure_peaks
from gi2nnunet.nnunet.postprocess import Decision, apply_decision, read_decision
from gi2nnunet.source.open import scan_from_json
from gi2nnunet.source.scan import Scan

Emit = Callable[[dict[str, Any]], None]
Probabilities = NDArray[np.float32]

_MOST_TOLD = 20


def run_prediction(
    *,
    emit: Emit,
    models: Sequence[str],
    scans: Sequence[Mapping[str, Any]],
    device: str,
    mirroring: bool,
    step_size: float,
    threads: int,
    nifti_folder: str | None,
    trust: bool,
    probability_folders: Sequence[str] | None = None,
    decision: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Predict scans in turn, and report each as soon as it is done.

    If a scan fails, the others are still predicted, and the failure is raised after them.

    Parameters
    ----------
    emit
        Called for each scan with ``event`` ``scan``, its id, its rows ``(slice_id, organ, RLE
        text)`` and the seconds since the one before; or ``unreadable``, its id and why.
    scans
        Each with ``scan`` (plain values), ``folds`` to average the logits of, and ``about``, which
        is kept with its probabilities.
    nifti_folder
        Folder for label volumes (``labels/`` bit-coded, ``organs/`` one mask for each organ).
    probability_folders
        Folders for each model's probabilities in eight bits.

    Raises
    ------
    InputError
        If a model is damaged, or could run code.
    OutputError, OSError
        If something cannot be written; at once.
    EngineError
        Naming the scans that failed: at the end, or at once if two in a row failed, because then
        the scans are not the cause.
    """
    torch.set_num_threads(threads)
    if not models or not scans:
        raise ValueError("no model or no scan was given")
    networks = [
        Network(
            Path(folder), fold=scans[0]["folds"][0], device=device, mirroring=mirroring,
            step_size=step_size, trust=trust,
        )
        for folder in models
    ]  # fmt: skip
    output = _Output(
        emit=emit, networks=networks,
        nifti_folder=Path(nifti_folder) if nifti_folder else None,
        probability_folders=[Path(folder) for folder in probability_folders or ()],
        decision=read_decision(decision) if decision else None,
    )  # fmt: skip
    failures = _Failures()
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        coming = reader.submit(_read, scans[0], networks)
        leaving: tuple[str, Future[None]] | None = None
        for number, task in enumerate(scans):
            scan_id = task["scan"]["scan_id"]
            logits = None
            ready, failure = _receive(scan_id, coming, emit)
            if number + 1 < len(scans):
                coming = reader.submit(_read, scans[number + 1], networks)
            if ready is not None:
                logits, failure = _infer(task, ready, networks)
            if leaving is not None:
                failures.take(_wait(*leaving))  # one scan at a time waits to be written
                leaving = None
            if failure is not None:
                failures.take(failure)
            elif ready is not None and logits is not None:
                leaving = (scan_id, writer.submit(output.write, task, ready, logits))
            del ready, logits
        if leaving is not None:
            failures.take(_wait(*leaving))
    failures.tell()
    return {**measure_peaks(device)}


def decide(probabilities: Sequence[Probabilities], *, regions: bool) -> LabelMap:
    """Return the bit-coded label map of the configurations' probabilities ``(heads, z, y, x)``.

    With regions an organ's mask is where the mean exceeds one half; else the likeliest label
    counts.
    """
    mean = probabilities[0]
    if len(probabilities) > 1:
        mean = np.add.reduce(probabilities)
        mean /= len(probabilities)
    if regions:
        return join_organs(mean > 0.5)
    return to_bits(mean.argmax(0).astype(np.uint8))


class _Failures:
    """Failures of the scans, in their order."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._last_failed = False

    def take(self, failure: str | None) -> None:
        """Take a scan's failure, or ``None``; raise if two in a row failed."""
        if failure is not None:
            self._lines.append(failure)
            if self._last_failed:
                self.tell()
        self._last_failed = failure is not None

    def tell(self) -> None:
        """Raise an EngineError if a scan failed."""
        if self._lines:
            raise EngineError(name_some(self._lines, most=_MOST_TOLD, separator="\n"))


def _receive(scan_id: str, coming: Future[_Ready], emit: Emit) -> tuple[_Ready | None, str | None]:
    """Return a scan that was read, or its failure; an unreadable one is reported."""
    try:
        return coming.result(), None
    except InputError as error:
        emit({"event": "unreadable", "scan_id": scan_id, "message": str(error)})
        return None, None
    except Exception as error:
        return None, _describe(scan_id, error)


def _infer(
    task: Mapping[str, Any], ready: _Ready, networks: Sequence[Network]
) -> tuple[list[torch.Tensor] | None, str | None]:
    """Return each network's logits for a scan, or why there are none."""
    try:
        of_networks = zip(networks, ready.prepared, strict=True)
        return [network.infer(prepared, task["folds"]) for network, prepared in of_networks], None
    except Exception as error:
        return None, _describe(task["scan"]["scan_id"], error)


def _wait(scan_id: str, leaving: Future[None]) -> str | None:
    """Wait until a scan is written; return its failure, if any."""
    try:
        leaving.result()
    except Exception as error:
        return _describe(scan_id, error)
    return None


def _describe(scan_id: str, error: Exception) -> str:
    """Return a line on a scan's failure, without keeping alive what its frames hold.

    Failures with other causes than one scan, such as a full disk or a damaged model, are raised.
    """
    if isinstance(error, (GiError, OSError)):
        raise error
    with contextlib.suppress(OSError):  # the log's disk may be full
        traceback.print_exception(error)
    lines = str(error).strip().splitlines()
    return ": ".join([scan_id, type(error).__name__, *(shorten(line) for line in lines[:1])])


@dataclass(frozen=True, kw_only=True)
class _Ready:
    """A scan that was read: its spacing, and the input of each network."""

    scan: Scan
    spacing_mm: tuple[float, float, float]
    prepared: tuple[Prepared, ...]


def _read(task: Mapping[str, Any], networks: Sequence[Network]) -> _Ready:
    scan = scan_from_json(task["scan"])
    loaded = scan.read()
    spacing_mm = loaded.spacing_mm
    made: dict[str, Prepared] = {}  # configurations that preprocess alike share it
    prepared = []
    for network in networks:
        key = network.describe_preprocessing(spacing_mm)
        if key not in made:
            made[key] = network.prepare(loaded.image, spacing_mm=spacing_mm)
        prepared.append(made[key])
    return _Ready(scan=scan, spacing_mm=spacing_mm, prepared=tuple(prepared))


@dataclass(kw_only=True)
class _Output:
    """Writer of masks, probabilities and rows of a scan from its logits."""

    emit: Emit
    networks: Sequence[Network]
    nifti_folder: Path | None
    probability_folders: Sequence[Path]
    decision: Decision | None
    last: float = field(default_factory=time.monotonic)

    def write(self, task: Mapping[str, Any], ready: _Ready, logits: Sequence[torch.Tensor]) -> None:
        scan = ready.scan
        found: dict[str, Probabilities] = {}
        for index, network in enumerate(self.networks):
            probabilities = network.finish(logits[index], ready.prepared[index])
            if self.probability_folders:
                write_probabilities(
                    self.probability_folders[index] / f"{scan.scan_id}{SUFFIX}",
                    # Without the background, which may have a probability of its own.
                    to_eight_bits(probabilities[-len(ORGANS) :]),
                    scan_id=scan.scan_id,
                    numbers=scan.numbers,
                    spacing_mm=ready.spacing_mm,
                    about=task["about"],
                )
            found[network.configuration] = probabilities
        if self.decision is None:
            bit_map = decide(list(found.values()), regions=self.networks[0].has_regions)
        else:
            # Without the background, which may have a probability of its own.
            organs = {name: array[-len(ORGANS) :] for name, array in found.items()}
            bit_map = apply_decision(organs, self.decision, spacing_mm=ready.spacing_mm)
        if self.nifti_folder is not None:
            _write_labels(self.nifti_folder, scan, bit_map)
        rows = encode_scan(scan.scan_id, scan.numbers, bit_map)
        now = time.monotonic()
        self.emit(
            {"event": "scan", "scan_id": scan.scan_id, "rows": rows, "seconds": now - self.last}
        )
        self.last = now


def _write_labels(folder: Path, scan: Scan, bit_map: LabelMap) -> None:
    """Write the bit-coded map and a binary mask for each organ, oriented like the scan."""
    scan.write_labels(folder / f"labels/{scan.scan_id}.nii.gz", bit_map)
    for organ, mask in zip(ORGANS, split_organs(bit_map), strict=True):
        name = f"organs/{scan.scan_id}_{organ}.nii.gz"
        scan.write_labels(folder / name, mask.astype(np.uint8))
