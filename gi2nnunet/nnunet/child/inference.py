"""Inference of an ensemble in one pass over the scans; runs in the engine's child process.

Three stages overlap in time: while the networks predict one scan, the next ones are read and
preprocessed and the last is turned into masks and encoded. Logits are averaged over folds as
nnU-Net does, probabilities over configurations. If nothing is to be resampled, tuned or stored,
only the masks leave the device. nnU-Net's own export paints the organs one over the other and so
loses overlaps; here each organ keeps its own bit.
"""

from __future__ import annotations

import contextlib
import math
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from gi2nnunet.core.errors import EngineError, GiError, InputError, name_some, shorten
from gi2nnunet.core.workers import count_cores
from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.formats.labels import ORGAN_BITS, LabelMap, join_organs, to_bits
from gi2nnunet.formats.probabilities import SUFFIX, to_eight_bits, write_probabilities
from gi2nnunet.formats.submission import encode_scan
from gi2nnunet.nnunet.child.memory import measure_peaks
from gi2nnunet.nnunet.child.network import Network, Prepared
from gi2nnunet.nnunet.postprocess import Decision, apply_decision, read_decision
from gi2nnunet.source.open import scan_from_json
from gi2nnunet.source.scan import Scan

Emit = Callable[[dict[str, Any]], None]
Probabilities = NDArray[np.float32]
_Result = LabelMap | list[torch.Tensor]

_MOST_TOLD = 20
_MOST_READERS = 4
# The image, what preprocessing makes of it (in double precision for a while), the networks' input.
_READING_BYTES = 64  # a voxel
_PLANES_ON_DEVICE = 32


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
    failures = _Failures()
    ahead = count_readers(scans, device=device)
    with (
        ThreadPoolExecutor(ahead) as readers,
        ThreadPoolExecutor(1) as writer,
    ):
        # The first scans are read while the networks are loaded.
        loading = writer.submit(
            _load, models, fold=scans[0]["folds"][0], device=device, mirroring=mirroring,
            step_size=step_size, trust=trust,
        )  # fmt: skip
        coming = _Coming(scans, readers, loading, ahead=ahead)
        output = _Output(
            emit=emit, networks=loading.result(),
            nifti_folder=Path(nifti_folder) if nifti_folder else None,
            probability_folders=[Path(folder) for folder in probability_folders or ()],
            decision=read_decision(decision) if decision else None,
        )  # fmt: skip
        leaving: tuple[str, Future[None]] | None = None
        for task in scans:
            predicted, failure = _predict(task, coming, output)
            if leaving is not None:
                failures.take(_wait(*leaving))  # one scan at a time waits to be written
                leaving = None
            if failure is not None:
                failures.take(failure)
            elif predicted is not None:
                leaving = (task["scan"]["scan_id"], writer.submit(output.write, task, *predicted))
            del predicted
        if leaving is not None:
            failures.take(_wait(*leaving))
    failures.tell()
    return {**measure_peaks(device)}


def _predict(
    task: Mapping[str, Any], coming: _Coming, output: _Output
) -> tuple[tuple[_Ready, _Result] | None, str | None]:
    """Return a scan and what the networks made of it, if it could be read, or its failure."""
    scan_id = task["scan"]["scan_id"]
    try:
        ready = coming.take()
    except InputError as error:
        output.emit({"event": "unreadable", "scan_id": scan_id, "message": str(error)})
        return None, None
    except Exception as error:
        return None, _describe(scan_id, error)
    try:
        return (ready, output.infer(task, ready)), None
    except Exception as error:
        return None, _describe(scan_id, error)


def _load(models: Sequence[str], **options: Any) -> list[Network]:
    return [Network(Path(folder), **options) for folder in models]


def count_readers(scans: Sequence[Mapping[str, Any]], *, device: str) -> int:
    """Return how many scans are read and preprocessed at the same time.

    On a CPU it is one, as the networks keep all cores busy. Beside a card it is up to four, as far
    as the cores and half of the free memory allow.
    """
    if device == "cpu":
        return 1
    voxels = max(math.prod(task["scan"]["shape"]) for task in scans)
    room: int = psutil.virtual_memory().available // 2 // (_READING_BYTES * max(1, voxels))
    return max(1, min(_MOST_READERS, count_cores() // 2, room))


class _Coming:
    """The scans that are read ahead, in their order."""

    def __init__(
        self,
        scans: Sequence[Mapping[str, Any]],
        readers: ThreadPoolExecutor,
        networks: Future[list[Network]],
        *,
        ahead: int,
    ) -> None:
        self._left = iter(scans)
        self._readers = readers
        self._networks = networks
        self._futures: deque[Future[_Ready]] = deque()
        for _ in range(ahead):
            self._read_next()

    def _read_next(self) -> None:
        if (task := next(self._left, None)) is not None:
            self._futures.append(self._readers.submit(_read, task, self._networks))

    def take(self) -> _Ready:
        """Return the next scan, or raise why it could not be read; another one is then read."""
        future = self._futures.popleft()
        try:
            return future.result()
        finally:
            self._read_next()


def decide(probabilities: Sequence[Probabilities], *, regions: bool) -> LabelMap:
    """Return the bit-coded label map of the configurations' probabilities ``(heads, z, y, x)``.

    With regions an organ's mask is where the mean exceeds one half; else the likeliest label
    counts. It goes slice by slice, which stay in the processor's caches.
    """
    first, *others = probabilities
    label_map = np.empty(first.shape[1:], np.uint8)
    for z in range(len(label_map)):
        mean = first[:, z]
        for probability in others:
            mean = mean + probability[:, z]
        if others:
            mean /= len(probabilities)
        label_map[z] = join_organs(mean > 0.5) if regions else mean.argmax(0)
    return label_map if regions else to_bits(label_map)


@torch.inference_mode()
def code_bits(logits: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the bit-coded label map ``(z, y, x)`` of the configurations' logits, on their device.

    An organ's mask is where the mean of the sigmoids exceeds one half, as :func:`decide` has it.

    Parameters
    ----------
    logits
        Of each configuration, ``(organs, z, y, x)``, on one device.
    """
    first = logits[0]
    depth = first.shape[1]
    step = 1 if first.device.type == "cpu" else _PLANES_ON_DEVICE
    bit_map = torch.zeros(first.shape[1:], dtype=torch.uint8, device=first.device)
    for start in range(0, depth, step):
        part = slice(start, start + step)
        mean = first[:, part].float().sigmoid_()
        for other in logits[1:]:
            mean += other[:, part].float().sigmoid_()
        if len(logits) > 1:
            mean /= len(logits)
        masks = (mean > 0.5).view(torch.uint8)
        for mask, bit in zip(masks, ORGAN_BITS, strict=True):
            bit_map[part] += mask * bit
    return bit_map


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


def _read(task: Mapping[str, Any], loading: Future[list[Network]]) -> _Ready:
    scan = scan_from_json(task["scan"])
    loaded = scan.read()
    spacing_mm = loaded.spacing_mm
    made: dict[str, Prepared] = {}  # configurations that preprocess alike share it
    prepared = []
    for network in loading.result():
        key = network.describe_preprocessing(spacing_mm)
        if key not in made:
            made[key] = network.prepare(loaded.image, spacing_mm=spacing_mm)
        prepared.append(made[key])
    return _Ready(scan=scan, spacing_mm=spacing_mm, prepared=tuple(prepared))


@dataclass(kw_only=True)
class _Output:
    """Masks, probabilities and rows of a scan: made by the networks, and written."""

    emit: Emit
    networks: Sequence[Network]
    nifti_folder: Path | None
    probability_folders: Sequence[Path]
    decision: Decision | None
    last: float = field(default_factory=time.monotonic)

    def infer(self, task: Mapping[str, Any], ready: _Ready) -> _Result:
        """Return the label map of a scan if nothing else is needed, else each network's logits."""
        pairs = list(zip(self.networks, ready.prepared, strict=True))
        logits = [network.infer(prepared, task["folds"]) for network, prepared in pairs]
        if self.decision is None and not self.probability_folders:
            grids = {
                network.describe_grid(values, prepared)
                for (network, prepared), values in zip(pairs, logits, strict=True)
            }
            if len(grids) == 1 and None not in grids:
                if len({values.device for values in logits}) > 1:  # memory ran out for some
                    logits = [values.cpu() for values in logits]
                network, prepared = pairs[0]
                return network.restore(code_bits(logits).cpu().numpy(), prepared)
        return [values.cpu() for values in logits]

    def write(
        self,
        task: Mapping[str, Any],
        ready: _Ready,
        result: _Result,
    ) -> None:
        """Write what :meth:`infer` returned, and report the scan."""
        scan = ready.scan
        bit_map = self._decide(task, ready, result) if isinstance(result, list) else result
        if self.nifti_folder is not None:
            scan.write_volumes(self.nifti_folder, bit_map)
        rows = encode_scan(scan.scan_id, scan.numbers, bit_map)
        now = time.monotonic()
        self.emit(
            {"event": "scan", "scan_id": scan.scan_id, "rows": rows, "seconds": now - self.last}
        )
        self.last = now

    def _decide(
        self, task: Mapping[str, Any], ready: _Ready, logits: Sequence[torch.Tensor]
    ) -> LabelMap:
        """Return the label map of probabilities on the scan's own grid; they are stored too."""
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
            return decide(list(found.values()), regions=self.networks[0].has_regions)
        # Without the background, which may have a probability of its own.
        organs = {name: array[-len(ORGANS) :] for name, array in found.items()}
        return apply_decision(organs, self.decision, spacing_mm=ready.spacing_mm)
