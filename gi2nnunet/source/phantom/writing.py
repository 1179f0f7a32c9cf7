"""Writer of a phantom in the competition's layout: its scans, their files, the tables."""

from __future__ import annotations

import shutil
import zipfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from gi2nnunet.core.command import take_fields
from gi2nnunet.core.errors import (
    MOST_SIDE,
    MOST_VOXELS,
    InputError,
    Problem,
    raise_problems,
)
from gi2nnunet.core.files import cannot_write, check_place, replace_file
from gi2nnunet.core.locks import hold
from gi2nnunet.core.workers import Progress, QuietPool, ignore
from gi2nnunet.formats.ids import (
    KNOWN_BAD_SCANS,
    ORGANS,
    day_of,
    image_name,
    patient_of,
    scan_order,
)
from gi2nnunet.formats.labels import ORGAN_BITS, join_organs
from gi2nnunet.formats.rle import decode_mask, decode_rows, encode_slices
from gi2nnunet.formats.submission import name_rows
from gi2nnunet.formats.tables import Row, format_rows, raise_refused, read_mask_table
from gi2nnunet.source.phantom.anatomy import Detail
from gi2nnunet.source.phantom.frame import Geometry
from gi2nnunet.source.phantom.listing import ListedScan, Texts, match_rows, read_listing
from gi2nnunet.source.phantom.scan import draw_scan, paint_scan

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
_LEAST = {"patients": 1, "days": 1, "test_patients": 0, "jobs": 1, "seed": 0}


@dataclass(frozen=True, kw_only=True)
class PhantomSummary:
    """What was written.

    Attributes
    ----------
    train, test
        Scan ids, in numeric order of patient and day.
    masks
        How many masks are not empty, in the test scans too.
    solution
        File of the test scans' masks; ``None`` if none was asked for.
    """

    path: Path
    train: tuple[str, ...]
    test: tuple[str, ...]
    slices: int
    masks: int
    solution: Path | None = None

    def count_parts(self) -> dict[str, tuple[int, int]]:
        """Return the numbers of scans and patients of ``train`` and ``test``."""
        parts = {"train": self.train, "test": self.test}
        return {part: (len(ids), len(set(map(patient_of, ids)))) for part, ids in parts.items()}

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        counts = self.count_parts()
        return {
            "source": str(self.path),
            "solution": str(self.solution) if self.solution else None,
            "scans": {part: scans for part, (scans, _) in counts.items()},
            "patients": {part: patients for part, (_, patients) in counts.items()},
            "slices": self.slices,
            "masks": self.masks,
        }


@dataclass(frozen=True, kw_only=True)
class PhantomOptions:
    """How a phantom is written, whatever is in it; see :func:`write_phantom`."""

    fill_sample: bool = False
    as_zip: bool = False
    seed: int = 0
    jobs: int = 1
    progress: Progress | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that are too small, and list them all."""
        raise_problems(
            [
                Problem(where=name, found=str(value), expected=f"at least {least}")
                for name, least in _LEAST.items()
                if (value := getattr(self, name, least)) < least
            ],
            remedy="Give other numbers.",
        )


@dataclass(frozen=True, kw_only=True)
class _Drawn(PhantomOptions):
    """Arguments of :func:`write_phantom`."""

    out: Path | str = field(kw_only=False)
    patients: int = 6
    days: int = 2
    test_patients: int = 0
    geometries: Sequence[Geometry] | None = None
    detail: Detail = "full"
    solution: Path | None = None


@take_fields(_Drawn)
def write_phantom(asked: _Drawn) -> PhantomSummary:
    """Write a synthetic source.

    Parameters
    ----------
    out
        The folder or zip to write; must not exist, or be an empty folder.
    patients
        Patients in ``train/``, at least 1.
    days
        Most scans of a patient; the first has this many, the others 1 to as many, seeded.
    test_patients
        Patients only in ``test/``, one scan each; if ``days`` exceeds 1, a later day of the
        first training patient is put there too.
    geometries
        Dealt out to the patients in turn; ``None`` draws from :data:`REAL_GEOMETRIES` in the real
        proportions, and now and then another one for another day of a patient.
    detail
        ``"full"`` looks like abdominal MR; ``"easy"`` has wide loops, well separated contrasts and
        little noise, so that a small network learns it in minutes.
    fill_sample
        Write three rows for each test slice into ``sample_submission.csv``, not only the header,
        as published.
    solution
        CSV to write the test scans' masks to, with the columns id, class, segmentation,
        image_height and image_width; not part of the competition's layout.
    seed
        The same seed gives the same bytes, for any number of jobs.

    Raises
    ------
    InputError
        For an ``out`` that holds something, or for numbers out of range.
    OutputError
        If it cannot be written.
    """
    most = max(asked.patients, asked.test_patients)
    if most > _MOST_PATIENTS:
        raise InputError(
            f"patients: found {most}; expected at most {_MOST_PATIENTS}. Ask for fewer."
        )
    if asked.days > _LAST_DAY:
        raise InputError(f"days: found {asked.days}; expected at most {_LAST_DAY}. Ask for fewer.")
    for geometry in asked.geometries or ():
        _check_geometry(geometry)
    tasks = [_Task(scan=scan, seed=asked.seed, detail=asked.detail) for scan in _plan_scans(asked)]
    return _write_source(Path(asked.out), tasks, asked, solution=asked.solution)


def write_phantom_like(
    out: Path, *, sizes: Path, options: PhantomOptions | None = None
) -> PhantomSummary:
    """Write a synthetic source with exactly the scans of a listing: ids, sizes, slice numbers.

    Parameters
    ----------
    sizes
        CSV (also gzipped) with the columns id, width, height, px_w and px_h (mm) and, for test
        scans, path or relpath; or a folder or zip with images that say the same in their names.

    Raises
    ------
    InputError
        For a listing that contradicts itself, and as :func:`write_phantom`.
    """
    options = options or PhantomOptions()
    listed = read_listing(sizes).values()
    tasks = [_Task(scan=scan, seed=options.seed, detail="full") for scan in listed]
    return _write_source(out, tasks, options)


def paint_phantom(
    out: Path, *, masks: Path, sizes: Path, options: PhantomOptions | None = None
) -> PhantomSummary:
    """Paint images onto given masks, so that real anatomy can be tried without real pixels.

    Parameters
    ----------
    masks
        CSV (also gzipped) with the rows of ``train.csv``, three a slice, which ``train.csv`` then
        holds in the same order. Slices that have no rows are left out.

    Raises
    ------
    InputError
        For rows that are malformed, incomplete or without a size, RLE that does not fit its image,
        and as :func:`write_phantom`.
    """
    options = options or PhantomOptions()
    table = read_mask_table(masks)
    listing = read_listing(sizes)
    scans = match_rows(table, listing, masks=masks, sizes=sizes)
    pixels = np.array(
        [listing[name].geometry.width * listing[name].geometry.height for name in table.scan_ids],
        np.int64,
    )
    _, refused = decode_rows(table.texts, pixels=pixels[table.scan])
    raise_refused(table, refused)
    tasks = [
        _Task(scan=scan, seed=options.seed, detail="full", texts=texts) for scan, texts in scans
    ]
    return _write_source(out, tasks, options, train_rows=table.list_rows())


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


def _plan_scans(asked: _Drawn) -> list[ListedScan]:
    """Draw patients' numbers, their days and geometries."""
    patients, days, geometries = asked.patients, asked.days, asked.geometries
    test_patients = asked.test_patients
    generator = np.random.default_rng(np.random.SeedSequence(asked.seed, spawn_key=(0,)))
    count = patients + test_patients
    numbers = 1 + generator.permutation(max(160, 2 * count))[:count]
    scan_counts = sorted(generator.integers(1, days + 1, patients).tolist(), reverse=True)
    scan_counts[0] = days
    weights = np.array([weight for _, weight in REAL_GEOMETRIES], np.float64)

    def draw_geometry() -> Geometry:
        return REAL_GEOMETRIES[int(generator.choice(len(weights), p=weights / weights.sum()))][0]

    scans: list[ListedScan] = []
    for position, number in enumerate(numbers.tolist()):
        own = geometries[position % len(geometries)] if geometries else draw_geometry()
        is_test = position >= patients
        known_bad = [day_of(s) for s in KNOWN_BAD_SCANS if patient_of(s) == f"case{number}"]
        possible = np.setdiff1d(np.arange(_LAST_DAY + days), known_bad)
        held = 1 if is_test else scan_counts[position]
        extra = 1 if position == 0 and test_patients and days > 1 else 0
        drawn = np.sort(generator.permutation(possible)[: held + extra]).tolist()
        for index, day in enumerate(drawn):
            if index and not geometries and generator.uniform() < 0.1:
                own = draw_geometry()
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
    tasks: Sequence[_Task],
    options: PhantomOptions,
    *,
    solution: Path | None = None,
    train_rows: Sequence[Row] | None = None,
) -> PhantomSummary:
    """Make all scans and write the source, whole or not at all."""
    _refuse_occupied(out, as_zip=options.as_zip)
    place = solution and check_place(solution, begins="id,class,segmentation,image_height")
    report = options.progress or ignore
    rows: dict[str, list[Row]] = {}
    with _open_output(out, as_zip=options.as_zip) as write:
        for task, made in zip(tasks, _run_tasks(tasks, options.jobs), strict=True):
            for name, data in made.images:
                write(name, data)
            numbers = range(task.scan.first_number, task.scan.first_number + len(made.texts))
            rows[task.scan.scan_id] = name_rows(task.scan.scan_id, numbers, made.texts)
            report(len(rows), len(tasks), "painting scans")
        train, test = (
            [task.scan for task in tasks if task.scan.part == part] for part in ("train", "test")
        )
        if train_rows is None:
            # The real file's scans are in no order.
            generator = np.random.default_rng(np.random.SeedSequence(options.seed, spawn_key=(1,)))
            mixed = [train[i] for i in generator.permutation(len(train)).tolist()]
            train_rows = [row for scan in mixed for row in rows[scan.scan_id]]
        if train:
            write("train.csv", format_rows(train_rows, "segmentation").encode("ascii"))
        test_rows = [row for scan in test for row in rows[scan.scan_id]]
        sample_rows = [(row_id, organ, "") for row_id, organ, _ in test_rows]
        sample_text = format_rows(sample_rows if options.fill_sample else [], "predicted")
        write("sample_submission.csv", sample_text.encode("ascii"))
    if place:
        sizes = [
            (scan.geometry.height, scan.geometry.width) for scan in test for _ in rows[scan.scan_id]
        ]
        replace_file(place, format_rows(test_rows, "segmentation", sizes=sizes))
    return PhantomSummary(
        path=out,
        train=tuple(sorted((scan.scan_id for scan in train), key=scan_order)),
        test=tuple(sorted((scan.scan_id for scan in test), key=scan_order)),
        slices=sum(task.scan.geometry.slices for task in tasks),
        masks=sum(bool(text) for of_scan in rows.values() for _, _, text in of_scan),
        solution=solution,
    )


@dataclass(frozen=True, kw_only=True)
class _Task:
    """One scan to make, and for each slice the RLE texts to paint; ``None`` draws an anatomy."""

    scan: ListedScan
    seed: int
    detail: Detail
    texts: Texts | None = None


@dataclass(frozen=True, kw_only=True)
class _MadeScan:
    """One scan's PNG files by their name in the source, and its RLE texts, slice by slice."""

    images: tuple[tuple[str, bytes], ...]
    texts: Texts


def _make_scan(task: _Task) -> _MadeScan:
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
    size = {name: getattr(geometry, name) for name in ("width", "height", "spacing_mm")}
    images = tuple(
        (f"{folder}/{image_name(number, **size)}", _encode_png(image))
        for number, image in enumerate(drawn.render_slices(), start=scan.first_number)
    )
    return _MadeScan(images=images, texts=texts)


def _encode_png(image: NDArray[np.uint16]) -> bytes:
    return bytes(imagecodecs.png_encode(image, level=2, filter=imagecodecs.PNG.FILTER.SUB))


def _run_tasks(tasks: Sequence[_Task], jobs: int) -> Iterator[_MadeScan]:
    """Yield each task's result in order, never holding more than a few."""
    jobs = min(jobs, len(tasks))
    if jobs <= 1:
        yield from map(_make_scan, tasks)
        return
    with QuietPool(jobs) as pool:
        waiting: deque[Future[_MadeScan]] = deque()
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


def _refuse_occupied(out: Path, *, as_zip: bool) -> None:
    if not out.exists() and not out.is_symlink():
        return
    if as_zip or not out.is_dir():
        raise InputError(f"{out}: exists already. Remove it, or give another path.")
    if any(out.iterdir()):
        raise InputError(f"{out}: is not empty. Empty it, or give another folder.")


@contextmanager
def _open_output(out: Path, *, as_zip: bool) -> Iterator[Callable[[str, bytes], None]]:
    """Give a function that writes one file into a temporary sibling, moved to ``out`` at the end.

    Nothing is left behind if the block fails; what a killed run left is removed.
    """
    part = out.parent / f".{out.name}.part"
    with hold(out, purpose="painting a phantom"):
        _refuse_occupied(out, as_zip=as_zip)  # another run may have ended since
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            _remove(part)
            with _open_zip(part) if as_zip else nullcontext(partial(_write_file, part)) as write:
                yield write
            if not as_zip and out.is_dir():
                out.rmdir()
            part.replace(out)
        except OSError as error:
            raise cannot_write(out, error) from error
        finally:
            _remove(part)


def _write_file(folder: Path, name: str, data: bytes) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@contextmanager
def _open_zip(path: Path) -> Iterator[Callable[[str, bytes], None]]:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:

        def write_member(name: str, data: bytes) -> None:
            member = zipfile.ZipInfo(name, date_time=(2022, 1, 1, 0, 0, 0))
            member.external_attr = 0o644 << 16
            if name.endswith(".csv"):
                member.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(member, data)

        yield write_member


def _remove(part: Path) -> None:
    if part.is_dir():
        shutil.rmtree(part, ignore_errors=True)
    else:
        with suppress(OSError):
            part.unlink()
