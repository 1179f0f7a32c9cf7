"""Write a phantom in the competition's layout: which scans there are, their files, the tables."""

from __future__ import annotations

import shutil
import zipfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from gi2nnunet.core.errors import (
    MOST_SIDE,
    MOST_VOXELS,
    InputError,
    OutputError,
    Problem,
    raise_problems,
)
from gi2nnunet.core.files import replace_file
from gi2nnunet.core.locks import hold
from gi2nnunet.core.workers import Progress, QuietPool
from gi2nnunet.formats.ids import KNOWN_BAD_SCANS, ORGANS, image_name, patient_of, scan_order
from gi2nnunet.formats.labels import ORGAN_BITS, join_organs
from gi2nnunet.formats.rle import decode_mask, decode_rows, encode_slices
from gi2nnunet.formats.submission import name_rows
from gi2nnunet.formats.tables import Row, format_rows, raise_refused, read_mask_table
from gi2nnunet.source.phantom.anatomy import Detail
from gi2nnunet.source.phantom.frame import Geometry
from gi2nnunet.source.phantom.listing import ListedScan, match_rows, read_listing
from gi2nnunet.source.phantom.scan import draw_scan, paint_scan

Sample = Literal["header", "filled"]

REAL_GEOMETRIES: tuple[tuple[Geometry, int], ...] = (
    (Geometry(width=266, height=266, slices=144, spacing_mm=(1.5, 1.5)), 180),
    (Geometry(width=360, height=310, slices=144, spacing_mm=(1.5, 1.5)), 78),
    (Geometry(width=276, height=276, slices=80, spacing_mm=(1.63, 1.63)), 15),
    (Geometry(width=234, height=234, slices=144, spacing_mm=(1.5, 1.5)), 1),
)
"""The competition's four geometries and in how many of its training scans each occurs."""

_LAST_DAY = 40
_MOST_PATIENTS = 100_000
_LEAST_PIXELS = 16


@dataclass(frozen=True, kw_only=True)
class PhantomSummary:
    """What was written.

    Attributes
    ----------
    path
        The folder or zip.
    train, test
        Scan ids, in numeric order of patient and day.
    slices
        Slices in all.
    masks
        Masks that are not empty, of the test scans too.
    truth
        Where the test scans' masks were written, where asked for.
    """

    path: Path
    train: tuple[str, ...]
    test: tuple[str, ...]
    slices: int
    masks: int
    truth: Path | None = None


def write_phantom(
    out: Path | str,
    *,
    patients: int = 6,
    days: int = 2,
    test_patients: int = 0,
    geometries: Sequence[Geometry] | None = None,
    detail: Detail = "full",
    sample: Sample = "header",
    truth: Path | None = None,
    as_zip: bool = False,
    seed: int = 0,
    jobs: int = 1,
    progress: Progress | None = None,
) -> PhantomSummary:
    """Write a synthetic source.

    Parameters
    ----------
    out
        The folder to write, or the zip; must not exist, or be an empty folder.
    patients
        Patients in ``train/``, at least 1.
    days
        Most scans of a patient; the first has this many, the others 1 to as many, seeded.
    test_patients
        Patients in ``test/`` alone, one scan each; where ``days`` exceeds 1, a later day of the
        first training patient is put there too.
    geometries
        Dealt out to the patients in turn; ``None`` draws from :data:`REAL_GEOMETRIES` in the real
        proportions, and now and then another one for another day of a patient.
    detail
        ``"full"`` looks like abdominal MR; ``"easy"`` has wide loops, well separated contrasts and
        little noise, so that a small network learns it in minutes.
    sample
        Whether ``sample_submission.csv`` holds only its header, as published, or three rows for
        each test slice.
    truth
        CSV to write the test scans' masks to, with the columns id, class, segmentation,
        image_height and image_width; not part of the competition's layout.
    as_zip
        Write ``out`` as a zip.
    seed
        Decides everything.
    jobs
        Processes.
    progress
        Called after each scan with ``(done, total, what)``.

    Returns
    -------
    PhantomSummary
        What was written.

    Raises
    ------
    InputError
        For an ``out`` that holds something, or for numbers out of range.
    OutputError
        Where the disk refuses.
    """
    _check_numbers(
        patients=(patients, 1), days=(days, 1), test_patients=(test_patients, 0), jobs=(jobs, 1),
        seed=(seed, 0),
    )  # fmt: skip
    if max(patients, test_patients) > _MOST_PATIENTS:
        raise InputError(
            f"patients: found {max(patients, test_patients)}; expected at most {_MOST_PATIENTS}. "
            "Ask for fewer."
        )
    if days > _LAST_DAY:
        raise InputError(f"days: found {days}; expected at most {_LAST_DAY}. Ask for fewer.")
    for geometry in geometries or ():
        _check_geometry(geometry)
    scans = _plan_scans(
        patients=patients, days=days, test_patients=test_patients,
        geometries=geometries, seed=seed,
    )  # fmt: skip
    tasks = [ScanTask(scan=scan, seed=seed, detail=detail) for scan in scans]
    return _write_source(
        Path(out), tasks, sample=sample, truth=truth, as_zip=as_zip, seed=seed, jobs=jobs,
        progress=progress,
    )  # fmt: skip


def write_phantom_like(
    out: Path,
    *,
    sizes: Path,
    detail: Detail = "full",
    sample: Sample = "header",
    truth: Path | None = None,
    as_zip: bool = False,
    seed: int = 0,
    jobs: int = 1,
    progress: Progress | None = None,
) -> PhantomSummary:
    """Write a synthetic source with exactly the scans of a listing: ids, sizes, slice numbers.

    Parameters
    ----------
    out
        As for :func:`write_phantom`.
    sizes
        CSV (also gzipped) with the columns id, width, height, px_w and px_h (mm) and, where there
        are test scans, path or relpath; or a folder or zip whose images' names tell the same.
    detail, sample, truth, as_zip, seed, jobs, progress
        As for :func:`write_phantom`.

    Returns
    -------
    PhantomSummary
        What was written.

    Raises
    ------
    InputError
        For a listing that contradicts itself, and as for :func:`write_phantom`.
    OutputError
        Where the disk refuses.
    """
    _check_numbers(jobs=(jobs, 1), seed=(seed, 0))
    tasks = [ScanTask(scan=scan, seed=seed, detail=detail) for scan in read_listing(sizes).values()]
    return _write_source(
        out, tasks, sample=sample, truth=truth, as_zip=as_zip, seed=seed, jobs=jobs,
        progress=progress,
    )  # fmt: skip


def paint_phantom(
    out: Path,
    *,
    labels: Path,
    sizes: Path,
    sample: Sample = "header",
    as_zip: bool = False,
    seed: int = 0,
    jobs: int = 1,
    progress: Progress | None = None,
) -> PhantomSummary:
    """Paint images onto given masks, so that real anatomy can be tried without real pixels.

    Parameters
    ----------
    out
        As for :func:`write_phantom`. Its ``train.csv`` holds the given rows in the given order.
    labels
        CSV (also gzipped) with the rows of ``train.csv``, three a slice. Slices that have no rows
        are left out.
    sizes
        As for :func:`write_phantom_like`; it may list more scans than ``labels`` has.
    sample, as_zip, seed, jobs, progress
        As for :func:`write_phantom`.

    Returns
    -------
    PhantomSummary
        What was written.

    Raises
    ------
    InputError
        For rows that are malformed, incomplete or without a size, RLE that does not fit its image,
        and as for :func:`write_phantom`.
    OutputError
        Where the disk refuses.
    """
    _check_numbers(jobs=(jobs, 1), seed=(seed, 0))
    table = read_mask_table(labels)
    listing = read_listing(sizes)
    scans, texts = match_rows(table, listing, labels=labels, sizes=sizes)
    pixels = np.array(
        [listing[name].geometry.width * listing[name].geometry.height for name in table.scan_ids],
        np.int64,
    )
    _, refused = decode_rows(table.texts, pixels=pixels[table.scan])
    raise_refused(table, refused)
    tasks = [
        ScanTask(scan=scan, seed=seed, detail="full", texts=texts[scan.scan_id]) for scan in scans
    ]
    return _write_source(
        out, tasks, sample=sample, truth=None, as_zip=as_zip, seed=seed, jobs=jobs,
        progress=progress, train_rows=table.list_rows(),
    )  # fmt: skip


def _check_numbers(**numbers: tuple[int, int]) -> None:
    raise_problems(
        [
            Problem(where=name, found=str(value), expected=f"at least {least}")
            for name, (value, least) in numbers.items()
            if value < least
        ],
        remedy="Give other numbers.",
    )


def _check_geometry(geometry: Geometry) -> None:
    if (
        min(geometry.width, geometry.height) < _LEAST_PIXELS
        or geometry.slices < 1
        or max(geometry.width, geometry.height, geometry.slices) > MOST_SIDE
        or geometry.width * geometry.height * geometry.slices > MOST_VOXELS
        or not all(0.01 <= spacing <= 100 for spacing in geometry.spacing_mm)
    ):
        raise InputError(
            f"geometry: found {geometry}; expected {_LEAST_PIXELS} to {MOST_SIDE} pixels each "
            f"way, 1 to {MOST_SIDE} slices, {MOST_VOXELS} voxels in all and a spacing of 0.01 to "
            "100 mm. Give another one."
        )


def _plan_scans(
    *,
    patients: int,
    days: int,
    test_patients: int,
    geometries: Sequence[Geometry] | None,
    seed: int,
) -> list[ListedScan]:
    """Draw patients' numbers, their days and geometries."""
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    count = patients + test_patients
    numbers = 1 + generator.permutation(max(160, 2 * count))[:count]
    scan_counts = sorted(generator.integers(1, days + 1, patients).tolist(), reverse=True)
    scan_counts[0] = days
    weights = np.array([weight for _, weight in REAL_GEOMETRIES], np.float64)

    def _draw_geometry() -> Geometry:
        index = int(generator.choice(len(weights), p=weights / weights.sum()))
        return REAL_GEOMETRIES[index][0]

    scans: list[ListedScan] = []
    for position, number in enumerate(numbers.tolist()):
        own = geometries[position % len(geometries)] if geometries else _draw_geometry()
        is_test = position >= patients
        known_bad = {
            int(scan.partition("_day")[2])
            for scan in KNOWN_BAD_SCANS
            if patient_of(scan) == f"case{number}"
        }
        possible = np.setdiff1d(np.arange(_LAST_DAY + days), list(known_bad))
        held = 1 if is_test else scan_counts[position]
        extra = 1 if position == 0 and test_patients and days > 1 else 0
        drawn = np.sort(generator.permutation(possible)[: held + extra]).tolist()
        for index, day in enumerate(drawn):
            if index and not geometries and generator.uniform() < 0.1:
                own = _draw_geometry()
            scans.append(
                ListedScan(
                    scan_id=f"case{number}_day{day}",
                    part="test" if is_test or index >= held else "train",
                    geometry=own,
                    first_number=1,
                )
            )
    return scans


def _write_source(
    out: Path,
    tasks: Sequence[ScanTask],
    *,
    sample: Sample,
    truth: Path | None,
    as_zip: bool,
    seed: int,
    jobs: int,
    progress: Progress | None,
    train_rows: Sequence[Row] | None = None,
) -> PhantomSummary:
    """Make all scans and write the source, whole or not at all."""
    refuse_occupied(out, as_zip=as_zip)
    rows: dict[str, tuple[tuple[str, ...], ...]] = {}
    with open_output(out, as_zip=as_zip) as write:
        for done, (task, made) in enumerate(
            zip(tasks, run_tasks(tasks, jobs), strict=True), start=1
        ):
            for name, data in made.images:
                write(name, data)
            rows[task.scan.scan_id] = made.texts
            if progress is not None:
                progress(done, len(tasks), "painting scans")
        train = [task.scan for task in tasks if task.scan.part == "train"]
        test = [task.scan for task in tasks if task.scan.part == "test"]
        if train_rows is None:
            # The real file's scans stand in no order.
            generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
            mixed = [train[i] for i in generator.permutation(len(train)).tolist()]
            train_rows = [row for scan in mixed for row in _name_rows(scan, rows[scan.scan_id])]
        if train:
            write("train.csv", format_rows(train_rows, "segmentation").encode("ascii"))
        test_rows = [row for scan in test for row in _name_rows(scan, rows[scan.scan_id])]
        sample_rows = [(row_id, organ, "") for row_id, organ, _ in test_rows]
        sample_text = format_rows(sample_rows if sample == "filled" else [], "predicted")
        write("sample_submission.csv", sample_text.encode("ascii"))
    if truth is not None:
        sizes = [
            (scan.geometry.height, scan.geometry.width)
            for scan in test
            for _ in range(scan.geometry.slices * len(ORGANS))
        ]
        replace_file(truth, format_rows(test_rows, "segmentation", sizes=sizes))
    return PhantomSummary(
        path=out,
        train=tuple(sorted((scan.scan_id for scan in train), key=scan_order)),
        test=tuple(sorted((scan.scan_id for scan in test), key=scan_order)),
        slices=sum(task.scan.geometry.slices for task in tasks),
        masks=sum(bool(text) for texts in rows.values() for row in texts for text in row),
        truth=truth,
    )


def _name_rows(scan: ListedScan, texts: Sequence[Sequence[str]]) -> list[Row]:
    numbers = range(scan.first_number, scan.first_number + len(texts))
    return name_rows(scan.scan_id, numbers, texts)


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
        :data:`~gi2nnunet.formats.ids.ORGANS`; ``None`` draws an anatomy.
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
        by_organ = encode_slices(join_organs(drawn.masks), bits=ORGAN_BITS)
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
        finally:
            for future in waiting:
                future.cancel()


def refuse_occupied(out: Path, *, as_zip: bool) -> None:
    """Refuse an output path that holds something."""
    if not out.exists() and not out.is_symlink():
        return
    if as_zip or not out.is_dir():
        raise InputError(f"{out}: exists already. Remove it, or give another path.")
    if any(out.iterdir()):
        raise InputError(f"{out}: is not empty. Empty it, or give another folder.")


@contextmanager
def open_output(out: Path, *, as_zip: bool) -> Iterator[Callable[[str, bytes], None]]:
    """Give a function that writes one file into a temporary sibling, moved to ``out`` at the end.

    Nothing is left behind where the block fails; what a killed run left is taken away.
    """
    with hold(out, purpose="painting a phantom"):
        refuse_occupied(out, as_zip=as_zip)  # another run may have ended since
        yield from _fill(out, as_zip=as_zip)


def _fill(out: Path, *, as_zip: bool) -> Iterator[Callable[[str, bytes], None]]:
    part = out.parent / f".{out.name}.part"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove(part)
        if as_zip:
            with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:

                def _write_member(name: str, data: bytes) -> None:
                    member = zipfile.ZipInfo(name, date_time=(2022, 1, 1, 0, 0, 0))
                    member.external_attr = 0o644 << 16
                    if name.endswith(".csv"):
                        member.compress_type = zipfile.ZIP_DEFLATED
                    archive.writestr(member, data)

                yield _write_member
        else:
            part.mkdir()

            def _write_file(name: str, data: bytes) -> None:
                path = part / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)

            yield _write_file
            if out.is_dir():
                out.rmdir()
        part.replace(out)
    except OSError as error:
        raise OutputError(
            f"{out}: cannot be written ({error}). Free the disk, or give another path."
        ) from error
    finally:
        _remove(part)


def _remove(part: Path) -> None:
    if part.is_dir():
        shutil.rmtree(part, ignore_errors=True)
    else:
        with suppress(OSError):
            part.unlink()
