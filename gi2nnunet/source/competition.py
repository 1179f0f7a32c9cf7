"""A competition source, as a folder or a zip: what it holds becomes one frozen :class:`ScanIndex`.

Reads names and ``train.csv``; opens no pixel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice, pairwise
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from gi2nnunet.core.errors import MOST_SIDE, MOST_VOXELS, InputError, Problem, raise_problems
from gi2nnunet.formats.ids import (
    IMAGE_PATH,
    ORGANS,
    SLICE_THICKNESS_MM,
    day_of,
    patient_of,
    scan_order,
    slice_id,
)
from gi2nnunet.formats.tables import MaskTable, read_mask_table
from gi2nnunet.source.archive import Source

Part = Literal["train", "test"]


@dataclass(frozen=True, kw_only=True)
class Scan:
    """One scan of a source: its slices in order of their number, cranial first.

    Attributes
    ----------
    scan_id, patient_id, day
        Who and when.
    part
        ``"train"`` or ``"test"``, the folder it lies in.
    numbers
        Slice numbers, ascending, without a gap.
    paths
        Path of each slice's PNG inside the source.
    height, width
        Image size in pixels, the same in every slice.
    spacing_mm
        Voxel spacing ``(z, y, x)`` in mm.
    texts
        For each slice the RLE texts in the order of :data:`ORGANS`; ``None`` without truth.
    """

    scan_id: str
    part: Part
    numbers: tuple[int, ...]
    paths: tuple[str, ...]
    height: int
    width: int
    spacing_mm: tuple[float, float, float]
    texts: tuple[tuple[str, ...], ...] | None = field(default=None, repr=False)

    @property
    def patient_id(self) -> str:
        """Return the patient's id."""
        return patient_of(self.scan_id)

    @property
    def day(self) -> int:
        """Return the day of the scan."""
        return day_of(self.scan_id)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return ``(slices, height, width)``."""
        return len(self.numbers), self.height, self.width


@dataclass(frozen=True, kw_only=True)
class ScanIndex:
    """Everything a source holds, no pixel opened.

    Attributes
    ----------
    source
        Where the files are read from.
    train, test
        Scans by id, in numeric order of patient and day.
    patient_order
        Training patients in order of first appearance in ``train.csv``.
    sample
        ``sample_submission.csv`` where the source has one.
    warnings
        What was passed over, one sentence each.
    """

    source: Source
    train: Mapping[str, Scan]
    test: Mapping[str, Scan]
    patient_order: tuple[str, ...]
    sample: MaskTable | None
    warnings: tuple[str, ...] = ()


def read_index(path: Path | str, *, allow_missing: bool = False) -> ScanIndex:
    """Read what a competition source holds and check that it fits together.

    Parameters
    ----------
    path
        The folder that holds ``train.csv`` and ``train/`` (and, where there is one, ``test/``),
        or the competition's zip. Both may lie one folder deeper.
    allow_missing
        Pass over rows without an image and images without a row (an image without rows then
        counts as empty), with a warning, instead of refusing the source.

    Returns
    -------
    ScanIndex
        The scans with their RLE texts. A source with ``test/`` alone has no training scans.

    Raises
    ------
    InputError
        Where the path is no such source, or for rows, names and files that contradict each
        other; all of them are told together.
    """
    source = Source(Path(path))
    names = source.names()
    root = find_root(source, names)
    tables = {"train": f"{root}train.csv", "sample": f"{root}sample_submission.csv"}
    present = set(names)
    warnings: list[str] = []
    problems: list[Problem] = []
    train_images = group_images(source, names, f"{root}train/", problems)
    test_images = group_images(source, names, f"{root}test/", problems)
    table: MaskTable | None = None
    if tables["train"] in present:
        table = read_mask_table(
            f"{source.path}/{tables['train']}",
            data=source.read_table(tables["train"]),
            mask_column="segmentation",
        )
    elif train_images:
        raise InputError(
            f"{source.path}: has a train/ folder but no train.csv. "
            "Put the competition's train.csv beside it."
        )
    sample = None
    if tables["sample"] in present:
        sample = read_mask_table(
            f"{source.path}/{tables['sample']}", data=source.read_table(tables["sample"])
        )
    texts = _texts_by_scan(table) if table is not None else {}
    if table is not None:
        _match_rows(
            table, train_images, texts, allow_missing=allow_missing,
            problems=problems, warnings=warnings,
        )  # fmt: skip
    train = build_scans(source, "train", train_images, texts, problems, warnings)
    test = build_scans(source, "test", test_images, None, problems, warnings)
    raise_problems(problems, remedy=f"Correct these in {source.path}, or download it again.")
    if not train and not test:
        raise InputError(
            f"{source.path}: holds no slice image. Expected files such as "
            "train/case123/case123_day20/scans/slice_0065_266_266_1.50_1.50.png."
        )
    order = table.scan_ids if table is not None else tuple(train)
    patients = tuple(dict.fromkeys(patient_of(scan) for scan in order if scan in train))
    return ScanIndex(
        source=source, train=train, test=test, patient_order=patients,
        sample=sample, warnings=tuple(warnings),
    )  # fmt: skip


def find_root(source: Source, names: Sequence[str]) -> str:
    """Return the prefix ("" or "folder/") under which train.csv, train/ or test/ lie."""
    for depth in (0, 1):
        roots = {
            "/".join(parts[:depth]) + "/" if depth else ""
            for name in names
            if len(parts := name.split("/")) > depth
            and (parts[depth:] == ["train.csv"] or parts[depth] in ("train", "test"))
        }
        if len(roots) == 1:
            return roots.pop()
        if roots:
            raise InputError(
                f"{source.path}: holds several sources ({', '.join(sorted(roots))}). Give one."
            )
    zips = [name for name in names if name.lower().endswith(".zip")]
    remedy = ""
    if zips:
        within = "Unpack it and give that." if source.is_zip else "Give that zip itself."
        remedy = f" It holds the zip {zips[0]}. {within}"
    raise InputError(
        f"{source.path}: is not a source of the competition. Found no train.csv, train/ or test/; "
        f"expected the folder or zip of uw-madison-gi-tract-image-segmentation.{remedy}"
    )


@dataclass(frozen=True, kw_only=True)
class Image:
    """What a slice's path tells: height and width in pixels, spacing ``(y, x)`` in mm."""

    path: str
    height: int
    width: int
    spacing_mm: tuple[float, float]


def group_images(
    source: Source, names: Iterable[str], prefix: str, problems: list[Problem]
) -> dict[str, dict[int, Image]]:
    """Return the images under ``prefix`` by scan id and slice number."""
    scans: dict[str, dict[int, Image]] = {}
    for name in names:
        if not name.startswith(prefix) or PurePosixPath(name).suffix.lower() != ".png":
            continue
        match = IMAGE_PATH.fullmatch(name)
        if match is None:
            problems.append(
                Problem(
                    where=f"{source.path}, {name}",
                    found="a PNG with this path",
                    expected="case1/case1_day2/scans/slice_0003_266_266_1.50_1.50.png",
                )
            )
            continue
        patient, day, number, width, height, spacing_x, spacing_y = match.groups()
        images = scans.setdefault(f"{patient}_day{day}", {})
        if int(number) in images:
            problems.append(
                Problem(
                    where=f"{source.path}, {name}",
                    found=f"slice {int(number)} a second time (also {images[int(number)].path})",
                    expected="one image a slice",
                )
            )
            continue
        images[int(number)] = Image(
            path=name, height=int(height), width=int(width),
            spacing_mm=(float(spacing_y), float(spacing_x)),
        )  # fmt: skip
    return scans


def _texts_by_scan(table: MaskTable) -> dict[str, dict[int, list[str]]]:
    scans: dict[str, dict[int, list[str]]] = {scan_id: {} for scan_id in table.scan_ids}
    by_code = [scans[scan_id] for scan_id in table.scan_ids]
    rows = zip(
        table.scan.tolist(), table.number.tolist(), table.organ.tolist(), table.texts, strict=True
    )
    for scan, number, organ, text in rows:
        by_code[scan].setdefault(number, [""] * len(ORGANS))[organ] = text
    return scans


def _match_rows(
    table: MaskTable,
    images: Mapping[str, Mapping[int, Image]],
    texts: dict[str, dict[int, list[str]]],
    *,
    allow_missing: bool,
    problems: list[Problem],
    warnings: list[str],
) -> None:
    """Hold rows against images; with ``allow_missing`` make ``texts`` fit the images."""
    found: list[Problem] = []
    slices, counts = np.unique(
        np.stack([table.scan, table.number], axis=1), axis=0, return_counts=True
    )
    found += [
        Problem(
            where=f"{table.name}, {slice_id(table.scan_ids[scan], number)}",
            found=f"{count} of {len(ORGANS)} rows",
            expected=f"one row for each of {', '.join(ORGANS)}",
        )
        for (scan, number), count in zip(slices.tolist(), counts.tolist(), strict=True)
        if count != len(ORGANS)
    ]
    for scan_id in sorted(set(texts) | set(images), key=scan_order):
        rows, files = texts.get(scan_id, {}), images.get(scan_id, {})
        found += [
            Problem(
                where=f"{table.name}, {slice_id(scan_id, number)}",
                found="rows without an image",
                expected="a PNG for every row",
            )
            for number in sorted(set(rows) - set(files))
        ]
        found += [
            Problem(
                where=files[number].path,
                found="an image without rows",
                expected=f"{len(ORGANS)} rows in {table.name}",
            )
            for number in sorted(set(files) - set(rows))
        ]
        texts[scan_id] = {number: rows.get(number, [""] * len(ORGANS)) for number in files}
    if not found:
        return
    if not allow_missing:
        raise_problems(
            [*problems, *found],
            remedy="Complete the source, or pass over what is missing with --allow-missing.",
        )
    warnings.append(f"{len(found)} mismatches of rows and images passed over, first {found[0]}")


def build_scans(
    source: Source,
    part: Part,
    images: Mapping[str, Mapping[int, Image]],
    texts: Mapping[str, Mapping[int, Sequence[str]]] | None,
    problems: list[Problem],
    warnings: list[str],
) -> dict[str, Scan]:
    """Return the scans that their images make up; what is wrong goes to ``problems``."""
    scans: dict[str, Scan] = {}
    for scan_id in sorted(images, key=scan_order):
        slices = images[scan_id]
        numbers = sorted(slices)
        first = slices[numbers[0]]
        count = numbers[-1] - numbers[0] + 1 - len(numbers)
        if count:  # a number may be a thousand million off
            gaps = (range(one + 1, two) for one, two in pairwise(numbers))
            missing = islice(chain.from_iterable(gaps), 10)
            problems.append(
                Problem(
                    where=f"{source.path}, {part}, {scan_id}",
                    found=f"no slice {', '.join(map(str, missing))}"
                    + (f" and {count - 10} more" if count > 10 else ""),
                    expected=f"every slice from {numbers[0]} to {numbers[-1]}",
                )
            )
        for number in numbers:
            image = slices[number]
            if (image.height, image.width, image.spacing_mm) != (
                first.height, first.width, first.spacing_mm,
            ):  # fmt: skip
                problems.append(
                    Problem(
                        where=f"{source.path}, {image.path}",
                        found=f"{image.width} x {image.height} at {image.spacing_mm} mm",
                        expected=f"{first.width} x {first.height} at {first.spacing_mm} mm, "
                        f"as in {first.path}",
                    )
                )
        if min(first.height, first.width, *first.spacing_mm) <= 0:
            problems.append(
                Problem(
                    where=f"{source.path}, {first.path}",
                    found="a size or spacing of zero",
                    expected="positive numbers",
                )
            )
            continue
        if (
            max(first.height, first.width, len(numbers)) > MOST_SIDE
            or first.height * first.width * len(numbers) > MOST_VOXELS
        ):
            problems.append(
                Problem(
                    where=f"{source.path}, {first.path}",
                    found=f"{len(numbers)} slices of {first.width} x {first.height} pixels",
                    expected=f"at most {MOST_SIDE} each way and {MOST_VOXELS} voxels in all",
                )
            )
            continue
        if numbers[0] != 1:
            warnings.append(
                f"{scan_id} starts at slice {numbers[0]}, not 1: taken as a crop of the scan"
            )
        rows = None
        if texts is not None:
            rows = tuple(tuple(texts[scan_id][number]) for number in numbers)
        scans[scan_id] = Scan(
            scan_id=scan_id,
            part=part,
            numbers=tuple(numbers),
            paths=tuple(slices[number].path for number in numbers),
            height=first.height,
            width=first.width,
            spacing_mm=(SLICE_THICKNESS_MM, *first.spacing_mm),
            texts=rows,
        )
    return scans
