"""Make the files of phantom scans, in this process or in several."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from gi2nnunet.errors import EngineError
from gi2nnunet.kaggle import ORGANS, image_name, patient_of
from gi2nnunet.phantom.anatomy import Detail
from gi2nnunet.phantom.listing import ListedScan
from gi2nnunet.phantom.scan import draw_scan, paint_scan
from gi2nnunet.rle import decode_mask, encode_slices
from gi2nnunet.workers import QuietPool


@dataclass(frozen=True, kw_only=True)
class ScanTask:
    """All that one worker needs to make one scan's files.

    Attributes
    ----------
    scan
        Which scan, where, how large.
    seed
        The phantom's seed.
    detail
        ``"full"`` or ``"easy"``.
    texts
        For each slice the RLE texts to paint, in the order of
        :data:`~gi2nnunet.kaggle.ORGANS`; ``None`` draws an anatomy.
    """

    scan: ListedScan
    seed: int
    detail: Detail
    texts: tuple[tuple[str, ...], ...] | None = None


@dataclass(frozen=True, kw_only=True)
class MadeScan:
    """One scan's PNG files by their name in the source, and its RLE texts, slice by slice."""

    images: tuple[tuple[str, bytes], ...]
    texts: tuple[tuple[str, ...], ...]


def _make_scan(task: ScanTask) -> MadeScan:
    """Make one scan's files in memory: some 10 MB."""
    scan, geometry = task.scan, task.scan.geometry
    if task.texts is None:
        drawn = draw_scan(scan.scan_id, geometry, seed=task.seed, detail=task.detail)
        by_organ = [encode_slices(mask) for mask in drawn.masks]
        texts = tuple(zip(*by_organ, strict=True))
    else:
        texts = task.texts
        shape = (geometry.height, geometry.width)
        masks = np.zeros((len(ORGANS), geometry.slices, *shape), np.bool_)
        for index, of_slice in enumerate(texts):
            for organ, text in enumerate(of_slice):
                if text:
                    masks[organ, index] = decode_mask(text, shape=shape)
        drawn = paint_scan(scan.scan_id, geometry, masks, seed=task.seed)
    folder = f"{scan.part}/{patient_of(scan.scan_id)}/{scan.scan_id}/scans"
    images = tuple(
        (f"{folder}/{_name(scan, number)}", _encode_png(image))
        for number, image in enumerate(drawn.render_slices(), start=scan.first_number)
    )
    return MadeScan(images=images, texts=texts)


def _name(scan: ListedScan, number: int) -> str:
    geometry = scan.geometry
    return image_name(
        number, width=geometry.width, height=geometry.height, spacing_mm=geometry.spacing_mm
    )


def _encode_png(image: NDArray[np.uint16]) -> bytes:
    return bytes(imagecodecs.png_encode(image, level=2, filter=imagecodecs.PNG.FILTER.SUB))


def run_tasks(tasks: Sequence[ScanTask], jobs: int) -> Iterator[MadeScan]:
    """Yield each task's result in order, never holding more than a few."""
    jobs = min(jobs, len(tasks))
    if jobs <= 1:
        yield from map(_make_scan, tasks)
        return
    with QuietPool(jobs) as pool:
        waiting: deque[Future[MadeScan]] = deque()
        try:
            for task in tasks:
                waiting.append(pool.submit(_make_scan, task))
                if len(waiting) > jobs:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise EngineError(
                "A worker process was killed, most likely for lack of memory. Use fewer --jobs."
            ) from error
        finally:
            for future in waiting:
                future.cancel()
