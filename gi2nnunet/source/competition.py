"""Competition source, a folder or a zip: its scans from file names and ``train.csv``.

Opens no image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice, pairwise
from pathlib import Path, PurePosixPath
from typing import Any, Self

import numpy as np

from gi2nnunet.core.errors import MOST_SIDE, MOST_VOXELS, InputError, Problem, raise_problems
from gi2nnunet.formats.ids import (
    ORGANS,
    SLICE_THICKNESS_MM,
    SliceImage,
    parse_image_path,
    patient_of,
    scan_order,
    slice_id,
)
from gi2nnunet.formats.tables import MaskColumn, MaskTable, format_rows, read_mask_table
from gi2nnunet.source.archive import Archive
from gi2nnunet.source.scan import Part, Source, SourceOptions
from gi2nnunet.source.slices import SliceScan

Images = Mapping[str, Mapping[int, SliceImage]]  # by scan id and slice number
_SAMPLE = "sample_submission.csv"


@dataclass(frozen=True, kw_only=True)
class CompetitionSource(Source):
    """The competition's folder or zip.

    Attributes
    ----------
    archive
        Where the files are read from.
    """

    scan_type = SliceScan
    endings = (".zip",)
    scans: Mapping[str, SliceScan]
    archive: Archive = field(repr=False)

    @classmethod
    def open(cls, path: Path, options: SourceOptions) -> Self:
        """Read what a competition source holds and check that it fits together.

        It may lie one folder deeper. With the scope ``"hidden"`` neither ``train/`` nor a bad scan
        or table matters.

        Raises
        ------
        InputError
            Where the path is no such source, or for rows, names and files that contradict each
            other; all of them are told together.
        """
        archive = Archive(path)
        if options.scope == "hidden":
            return cls._open_hidden(archive)
        names = archive.names()
        root = _find_root(archive, names)
        problems: list[Problem] = []
        warnings: list[str] = []
        train_images = _group_images(archive, names, f"{root}train/", problems)
        test_images = _group_images(archive, names, f"{root}test/", problems)
        table = _read_table(archive, names, f"{root}train.csv", mask_column="segmentation")
        if table is None and train_images:
            raise InputError(
                f"{path}: has a train/ folder but no train.csv. "
                "Put the competition's train.csv beside it."
            )
        sample = _read_table(archive, names, f"{root}{_SAMPLE}")
        texts = _texts_by_scan(table) if table is not None else {}
        if table is not None:
            _match_rows(
                table, train_images, texts, allow_missing=options.allow_missing,
                problems=problems, warnings=warnings,
            )  # fmt: skip
        train, wrong_train = _build_scans(archive, "train", train_images, texts, warnings)
        test, wrong_test = _build_scans(archive, "test", test_images, None, warnings)
        raise_problems(
            chain(problems, *wrong_train.values(), *wrong_test.values()),
            remedy=f"Correct these in {path}, or download it again.",
        )
        if not train and not test:
            raise InputError(
                f"{path}: holds no slice image. Expected files such as "
                "train/case123/case123_day20/scans/slice_0065_266_266_1.50_1.50.png."
            )
        scans = {**train, **test}
        if options.scope == "predicted":
            scans = test or train
        elif both := [scan_id for scan_id in train if scan_id in test]:
            raise InputError(
                f"{path}: found {', '.join(both[:5])} in train/ and in test/; expected each scan "
                "once. Remove one of the two."
            )
        order = table.scan_ids if table is not None else tuple(train)
        return cls(
            path=path,
            kind="zip" if archive.is_zip else "folder",
            archive=archive,
            scans=scans,
            options={"allow_missing": True} if options.allow_missing else {},
            patient_order=tuple(dict.fromkeys(patient_of(s) for s in order if s in train)),
            # Its rows are the test scans'; a source without these is predicted as it is.
            sample=sample if test or options.scope == "all" else None,
            warnings=tuple(warnings),
        )

    @classmethod
    def _open_hidden(cls, archive: Archive) -> Self:
        """Read what ``test/`` holds, so that one bad scan does not stop the others."""
        names = archive.names()
        warnings: list[str] = []
        try:
            root = _find_root(archive, names)
        except InputError:
            if _SAMPLE not in names:
                raise
            root = ""
        sample = None
        try:
            sample = _read_table(archive, names, f"{root}{_SAMPLE}")
        except InputError as error:
            warnings.append(f"the sample's rows are passed over: {error}")
        strays: list[Problem] = []
        images = _group_images(archive, names, f"{root}test/", strays)
        warnings += [f"passed over: {problem}" for problem in strays]
        scans, wrong = _build_scans(archive, "test", images, None, warnings)
        warnings += [f"{scan_id} is left empty: {found[0]}" for scan_id, found in wrong.items()]
        return cls(
            path=archive.path,
            kind="zip" if archive.is_zip else "folder",
            archive=archive,
            scans=scans,
            sample=sample,
            unreadable={scan_id: tuple(sorted(images[scan_id])) for scan_id in wrong},
            warnings=tuple(warnings),
        )

    def fingerprint(self) -> dict[str, Any]:
        """Return digests of names, sizes and rows, and of a zip's checksums."""
        scans = self.scans.values()
        names = [name for scan in scans for name in scan.names]
        sizes = self.archive.sizes(names)
        size_of = dict(zip(names, sizes, strict=True))
        listing = hashlib.sha256()
        rows = hashlib.sha256("\n".join(self.patient_order or ()).encode())
        for scan in scans:
            listing.update(f"{scan.part} {scan.scan_id}\n".encode())
            for name in scan.names:
                listing.update(f"{name.rpartition('/')[2]} {size_of[name]}\n".encode())
            for texts in scan.texts or ():
                rows.update("\n".join(["", *texts]).encode())
        if self.sample is not None:
            rows.update(format_rows(self.sample.list_rows(), "predicted").encode())
        found = {
            "scans": len(scans),
            "images": len(names),
            "bytes": sum(sizes),
            "names_and_sizes_sha256": listing.hexdigest(),
            "rows_sha256": rows.hexdigest(),
        }
        checksums = self.archive.digest_checksums(names)
        return found if checksums is None else {**found, "zip_crc_sha256": checksums}

    @property
    def described(self) -> str:
        """Return the path, the part and how many scans it holds."""
        parts = " and ".join(dict.fromkeys(scan.part for scan in self.scans.values()))
        return f"{self.path} ({parts}, {len(self.scans)} scans)"

    @property
    def truth_name(self) -> str:
        """Return the path of train.csv."""
        return f"{self.path}/train.csv"


def _read_table(
    archive: Archive, names: Sequence[str], name: str, *, mask_column: MaskColumn | None = None
) -> MaskTable | None:
    if name not in names:
        return None
    return read_mask_table(
        f"{archive.path}/{name}", data=archive.read_table(name), mask_column=mask_column
    )


def _find_root(archive: Archive, names: Sequence[str]) -> str:
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
                f"{archive.path}: holds several sources ({', '.join(sorted(roots))}). Give one."
            )
    zips = [name for name in names if name.lower().endswith(".zip")]
    remedy = ""
    if zips:
        within = "Unpack it and give that." if archive.is_zip else "Give that zip itself."
        remedy = f" It holds the zip {zips[0]}. {within}"
    raise InputError(
        f"{archive.path}: is not a source of the competition. Found no train.csv, train/ or test/; "
        f"expected the folder or zip of uw-madison-gi-tract-image-segmentation.{remedy}"
    )


def _group_images(
    archive: Archive, names: Iterable[str], prefix: str, problems: list[Problem]
) -> dict[str, dict[int, SliceImage]]:
    """Return the images under ``prefix`` by scan id and slice number."""
    scans: dict[str, dict[int, SliceImage]] = {}
    for name in names:
        if not name.startswith(prefix) or PurePosixPath(name).suffix.lower() != ".png":
            continue
        where = f"{archive.path}, {name}"
        image = parse_image_path(name)
        if image is None:
            problems.append(
                Problem(
                    where=where,
                    found="a PNG with this path",
                    expected="case1/case1_day2/scans/slice_0003_266_266_1.50_1.50.png",
                )
            )
            continue
        other = scans.setdefault(image.scan_id, {}).setdefault(image.number, image)
        if other is not image:
            found = f"slice {image.number} a second time (also {other.path})"
            problems.append(Problem(where=where, found=found, expected="one image a slice"))
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
    images: Images,
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


def _build_scans(
    archive: Archive,
    part: Part,
    images: Images,
    texts: Mapping[str, Mapping[int, Sequence[str]]] | None,
    warnings: list[str],
) -> tuple[dict[str, SliceScan], dict[str, list[Problem]]]:
    """Return the scans that their images make up, and what is wrong with the others."""
    scans: dict[str, SliceScan] = {}
    wrong: dict[str, list[Problem]] = {}
    for scan_id in sorted(images, key=scan_order):
        slices = images[scan_id]
        numbers = sorted(slices)
        first = slices[numbers[0]]
        problems = list(_find_gap(archive, part, scan_id, numbers))
        problems += _find_odd_sizes(archive, [slices[number] for number in numbers])
        if problems:
            wrong[scan_id] = problems
            continue
        if numbers[0] != 1:
            warnings.append(
                f"{scan_id} starts at slice {numbers[0]}, not 1: taken as a crop of the scan"
            )
        rows = None
        if texts is not None:
            rows = tuple(tuple(texts[scan_id][number]) for number in numbers)
        scans[scan_id] = SliceScan(
            scan_id=scan_id,
            part=part,
            first_number=numbers[0],
            shape=(len(numbers), first.height, first.width),
            spacing_mm=(SLICE_THICKNESS_MM, *first.spacing_mm),
            archive=archive,
            names=tuple(slices[number].path for number in numbers),
            texts=rows,
        )
    return scans, wrong


def _find_gap(
    archive: Archive, part: Part, scan_id: str, numbers: Sequence[int]
) -> Iterator[Problem]:
    count = numbers[-1] - numbers[0] + 1 - len(numbers)
    if count:  # a number may be a thousand million off
        gaps = (range(one + 1, two) for one, two in pairwise(numbers))
        missing = ", ".join(map(str, islice(chain.from_iterable(gaps), 10)))
        yield Problem(
            where=f"{archive.path}, {part}, {scan_id}",
            found=f"no slice {missing}" + (f" and {count - 10} more" if count > 10 else ""),
            expected=f"every slice from {numbers[0]} to {numbers[-1]}",
        )


def _find_odd_sizes(archive: Archive, slices: Sequence[SliceImage]) -> Iterator[Problem]:
    first = slices[0]
    for image in slices:
        if (image.height, image.width, image.spacing_mm) != (
            first.height, first.width, first.spacing_mm,
        ):  # fmt: skip
            yield Problem(
                where=f"{archive.path}, {image.path}",
                found=f"{image.width} x {image.height} at {image.spacing_mm} mm",
                expected=f"{first.width} x {first.height} at {first.spacing_mm} mm, "
                f"as in {first.path}",
            )
    where = f"{archive.path}, {first.path}"
    if min(first.height, first.width, *first.spacing_mm) <= 0:
        yield Problem(where=where, found="a size or spacing of zero", expected="positive numbers")
    elif (
        max(first.height, first.width, len(slices)) > MOST_SIDE
        or first.height * first.width * len(slices) > MOST_VOXELS
    ):
        yield Problem(
            where=where,
            found=f"{len(slices)} slices of {first.width} x {first.height} pixels",
            expected=f"at most {MOST_SIDE} each way and {MOST_VOXELS} voxels in all",
        )
