"""Competition source, a folder or a zip: its scans from file names and ``train.csv``.

Opens no image.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice, pairwise
from pathlib import Path, PurePosixPath
from typing import Any, Self

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from gi2nnunet.core.errors import (
    MOST_SIDE,
    MOST_VOXELS,
    InputError,
    Problem,
    count,
    most_png_bytes,
    name_some,
    raise_problems,
)
from gi2nnunet.core.files import find_kind
from gi2nnunet.formats.ids import (
    ORGANS,
    SLICE_THICKNESS_MM,
    SliceImage,
    parse_image_path,
    patient_of,
    scan_order,
    slice_id,
)
from gi2nnunet.formats.labels import LabelMap
from gi2nnunet.formats.rle import decode_rows
from gi2nnunet.formats.tables import MaskColumn, MaskTable, format_rows, paint_runs, read_mask_table
from gi2nnunet.source.archive import Archive
from gi2nnunet.source.foreign import describe_foreign
from gi2nnunet.source.scan import (
    LoadedScan,
    Part,
    Rows,
    Scan,
    Scope,
    Source,
    SourceOptions,
    digest_stamps,
)

_PNG_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
_OTHER_STARTS = {
    b"\xff\xd8\xff": "a JPEG file",
    b"GIF8": "a GIF file",
    b"II*\0": "a TIFF file",
    b"MM\0*": "a TIFF file",
    b"<": "a web page or other text",
    b"PK\x03\x04": "a zip",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself",
}
_GREYSCALE = 0
_COLOUR_TYPES = {0: "greyscale", 2: "RGB", 3: "palette", 4: "greyscale with alpha", 6: "RGBA"}


@dataclass(frozen=True, kw_only=True)
class SliceScan(Scan):
    """A scan of the competition: one PNG a slice in a folder or zip, and its rows of train.csv.

    ``names`` are the paths of the PNGs inside the archive; ``texts`` are for each slice the RLE
    texts in the order of :data:`~gi2nnunet.formats.ids.ORGANS`, ``None`` without truth.
    """

    kind = "slices"
    archive: Archive = field(repr=False, compare=False)
    names: tuple[str, ...]
    texts: Rows | None = field(default=None, repr=False)

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the zip, or every PNG."""
        place = self.archive.place
        return (place,) if self.archive.is_zip else tuple(place / name for name in self.names)

    @property
    def labelled(self) -> bool:
        """Return whether train.csv has its rows."""
        return self.texts is not None

    @property
    def rows(self) -> Rows | None:
        """Return its rows as train.csv spells them."""
        return self.texts

    @property
    def stratum(self) -> str:
        """Return the size of its images and which organs it shows."""
        shown = [str(o) for o in range(len(ORGANS)) if any(row[o] for row in self.texts or ())]
        return f"{self.shape[1]} x {self.shape[2]}, organs {''.join(shown)}"

    def load(self) -> LoadedScan:
        """Decode every PNG and, if there is truth, every RLE text, checking each."""
        label_map, refused = self.load_labels() if self.labelled else (None, ())
        problems: list[Problem] = []
        eight_bit = 0
        # Laid out in memory as in the file, last slice first, so that writing needs no copy.
        image = np.zeros(self.shape, np.uint16)[::-1]
        for target, name in zip(image, self.names, strict=True):
            bits, problem = self._decode_slice(name, target)
            eight_bit += bits == 8
            problems += [problem] if problem else []
        return LoadedScan(
            image=image,
            label_map=label_map,
            spacing_mm=self.spacing_mm,
            first_number=self.first_number,
            problems=(*problems, *refused),
            eight_bit=eight_bit,
        )

    def _decode_slice(self, name: str, target: NDArray[np.uint16]) -> tuple[int, Problem | None]:
        """Decode a PNG into ``target``; return its bits a pixel and what is wrong with it."""
        where = f"{self.archive.path}, {name}"
        height, width = self.size
        most = most_png_bytes(width=width, height=height)
        try:
            data = self.archive.read_bytes(name, limit=most + 1)
        except InputError as error:
            found = str(error).rstrip(".")
            return 0, Problem(where=where, found=found, expected="a readable file")
        bits, found = _read_png_header(data, width=width, height=height, most=most)
        if not found:
            try:
                if bits == 8:
                    target[...] = imagecodecs.png_decode(data)
                else:
                    imagecodecs.png_decode(data, out=target)
                return bits, None
            except (imagecodecs.PngError, ValueError, RuntimeError) as error:
                found = f"a truncated or damaged PNG ({error})"
        expected = f"a greyscale PNG of {width} x {height} pixels, 16 bits each"
        return bits, Problem(where=where, found=found, expected=expected)

    def load_labels(self) -> tuple[LabelMap, tuple[Problem, ...]]:
        """Paint the RLE texts into one bit-coded label map, checking each."""
        if self.texts is None:
            raise ValueError(f"{self.scan_id} has no truth")
        organs, pixels = len(ORGANS), self.shape[1] * self.shape[2]
        texts = [text for of_slice in self.texts for text in of_slice]
        runs, refused = decode_rows(texts, pixels=pixels)
        problems = tuple(
            Problem(
                where=f"train.csv, {slice_id(self.scan_id, self.numbers[bad.row // organs])}, "
                f"{ORGANS[bad.row % organs]}",
                found=f"RLE {bad.found}",
                expected=bad.expected,
            )
            for bad in refused
        )
        # The first slice lies last in memory, as in the file.
        rows = np.arange(len(texts)).reshape(-1, organs)[::-1]
        return paint_runs(runs, rows, height=self.size[0], width=self.size[1])[::-1], problems

    def take_stamp(self) -> str:
        """Return a digest of sizes and time stamps, in a zip of its checksums."""
        if checksums := self.archive.digest_checksums(self.names):
            return checksums[:16]
        return digest_stamps(f"{self.archive.place}/{name}" for name in self.names)

    def without_truth(self) -> Self:
        """Return the scan without its rows."""
        return replace(self, texts=None)

    def _place_to_json(self) -> dict[str, Any]:
        return {"archive": str(self.archive.place), "names": list(self.names)}

    @classmethod
    def _place_from_json(cls, content: Mapping[str, Any]) -> dict[str, Any]:
        return {"archive": Archive(Path(content["archive"])), "names": tuple(content["names"])}


def _read_png_header(data: bytes, *, width: int, height: int, most: int) -> tuple[int, str]:
    """Return the bits a pixel and what is wrong with the start of a file; nothing gives ""."""
    if len(data) > most:
        return 0, f"more than {most} bytes, which is more than so many pixels can need"
    if not data:
        return 0, "an empty file"
    if not data.startswith(_PNG_START) or len(data) < 33:
        other = (kind for start, kind in _OTHER_STARTS.items() if data.startswith(start))
        return 0, next(other, "no PNG, or only its first bytes")
    found_width, found_height, bits, colour = struct.unpack(">IIBB", data[16:26])
    if (found_width, found_height) != (width, height) or colour != _GREYSCALE or bits < 8:
        kind = _COLOUR_TYPES.get(colour, f"colour type {colour}")
        return 0, f"{found_width} x {found_height} pixels, {kind}, {bits} bits"
    return bits, ""


Images = Mapping[str, Mapping[int, SliceImage]]  # by scan id and slice number


@dataclass
class _Mismatches:
    """What does not match of a scan's rows and images: by slice, or in a slice that has both."""

    without_image: list[Problem] = field(default_factory=list)
    without_rows: list[Problem] = field(default_factory=list)
    incomplete: list[Problem] = field(default_factory=list)
    missing_rows: int = 0

    def list_all(self) -> list[Problem]:
        """Return all of them."""
        return [*self.incomplete, *self.without_image, *self.without_rows]

    @property
    def emptied(self) -> str:
        """Return how many slices and single rows count as empty masks; "" if none do."""
        counts = {"slice": len(self.without_rows), "row": self.missing_rows}
        return " and ".join(count(number, noun) for noun, number in counts.items() if number)


@dataclass
class _Faults:
    """What was found wrong with a source so far.

    ``problems`` are of no scan, ``wrong`` are of scans that cannot be used; ``gaps`` in a scan's
    slices and ``mismatches`` of rows and images, by scan id, may be allowed.
    """

    problems: list[Problem] = field(default_factory=list)
    wrong: dict[str, list[Problem]] = field(default_factory=dict)
    gaps: dict[str, list[Problem]] = field(default_factory=dict)
    mismatches: dict[str, _Mismatches] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def list_all(self) -> list[Problem]:
        """Return all faults that are not passed over."""
        mismatches = {s: found.list_all() for s, found in self.mismatches.items()}
        of_scans = (self.gaps, self.wrong, mismatches)
        return [
            *self.problems,
            *(p for faults in of_scans for some in faults.values() for p in some),
        ]

    def pass_over_missing(self) -> None:
        """Leave out scans with gaps and pass over mismatches, with warnings."""
        self.left_out = {s: found[0].found for s, found in self.gaps.items()}
        self.warnings += [
            f"{scan_id} is left out ({problem.found}; expected {problem.expected})"
            for scan_id, [problem] in self.gaps.items()
        ]
        kept = {s: found for s, found in self.mismatches.items() if s not in self.gaps}
        if unseen := [p for found in kept.values() for p in found.without_image]:
            self.warnings.append(
                f"rows of {count(len(unseen), 'slice')} without an image are passed over, "
                f"first {unseen[0].where}"
            )
        emptied = {s: text for s, found in kept.items() if (text := found.emptied)}
        if emptied:
            named = (f"{s} ({emptied[s]})" for s in sorted(emptied, key=scan_order))
            self.warnings.append(
                "masks without a row in train.csv count as empty, in training and in scores: "
                f"{', '.join(named)}"
            )
        self.gaps, self.mismatches = {}, {}


SAMPLE = "sample_submission.csv"
_TABLE_NAMES = (["train.csv"], ["train.csv.zip"], ["train.csv.gz"])


@dataclass(frozen=True, kw_only=True)
class CompetitionSource(Source):
    """The competition's folder or zip."""

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
            If the path is not such a source, or for rows, names and files that contradict each
            other, all of them together.
        """
        _refuse_foreign(path)
        archive = Archive(path)
        if options.scope == "hidden":
            return cls._open_hidden(archive)
        names = archive.names()
        root = _find_root(archive, names)
        faults = _Faults()
        train_images = _group_images(archive, names, f"{root}train/", faults.problems)
        test_images = _group_images(archive, names, f"{root}test/", faults.problems)
        table = _read_table(archive, names, f"{root}train.csv", mask_column="segmentation")
        sample = _read_table(archive, names, f"{root}{SAMPLE}")
        texts: dict[str, dict[int, list[str]]] = {}
        if table is not None:
            texts = _texts_by_scan(table)
            faults.mismatches = _match_rows(table, train_images, texts)
        elif train_images:
            raise InputError(
                f"{path}: has a train/ folder but no train.csv. "
                "Put the competition's train.csv beside it."
            )
        train = _build_scans(archive, "train", train_images, texts, faults)
        test = _build_scans(archive, "test", test_images, None, faults)
        if options.allow_missing and (train or test):
            faults.pass_over_missing()
        raise_problems(faults.list_all(), remedy=f"Correct these in {path}, or download it again.")
        order = table.scan_ids if table is not None else tuple(train)
        return cls(
            path=path,
            kind="zip" if archive.is_zip else "folder",
            archive=archive,
            scans=_choose_scans(path, train, test, scope=options.scope),
            options={"allow_missing": True} if options.allow_missing else {},
            patient_order=tuple(dict.fromkeys(patient_of(s) for s in order if s in train)),
            # Its rows are the test scans'; a source without these is predicted as it is.
            sample=sample if test or options.scope == "all" else None,
            left_out=faults.left_out,
            warnings=tuple(faults.warnings),
        )

    @classmethod
    def _open_hidden(cls, archive: Archive) -> Self:
        """Read what ``test/`` holds, so that one bad scan does not stop the others."""
        names = archive.names()
        faults = _Faults()
        warnings = faults.warnings
        try:
            root = _find_root(archive, names)
        except InputError:
            if SAMPLE not in names:
                raise
            root = ""
        sample = None
        try:
            sample = _read_table(archive, names, f"{root}{SAMPLE}")
        except InputError as error:
            warnings.append(f"the sample's rows are passed over: {error}")
        images = _group_images(archive, names, f"{root}test/", faults.problems)
        warnings += [f"passed over: {problem}" for problem in faults.problems]
        scans = _build_scans(archive, "test", images, None, faults)
        wrong = {**faults.gaps, **faults.wrong}
        warnings += [f"{scan_id} is left empty: {wrong[scan_id][0]}" for scan_id in wrong]
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
        return f"{self.path} ({parts}, {count(len(self.scans), 'scan')})"

    @property
    def truth_name(self) -> str:
        """Return the path of train.csv."""
        return f"{self.path}/train.csv"


def _refuse_foreign(path: Path) -> None:
    """Refuse a file of another known kind."""
    if find_kind(path) != "file" or path.suffix.lower() == ".zip":
        return  # others can be zips too, as a checkpoint is
    if about := describe_foreign(path, [path.name]):
        raise InputError(
            f"{path}: is not a source; expected a folder, a zip or a NIfTI file.{about}"
        )


def _read_table(
    archive: Archive, names: Sequence[str], name: str, *, mask_column: MaskColumn | None = None
) -> MaskTable | None:
    """Return a table, which may be packed by itself, as Kaggle gives single files."""
    name = next((n for n in (name, f"{name}.zip", f"{name}.gz") if n in names), "")
    if not name:
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
            and (parts[depth] in ("train", "test") or parts[depth:] in _TABLE_NAMES)
        }
        if len(roots) == 1:
            return roots.pop()
        if roots:
            raise InputError(
                f"{archive.path}: holds several sources ({', '.join(sorted(roots))}). Give one."
            )
    zips = [name for name in names if name.lower().endswith(".zip")]
    remedy = describe_foreign(archive.path, names, packed=archive.is_zip)
    if zips:
        within = "Unpack it and give that." if archive.is_zip else "Give that zip itself."
        remedy = f" It holds the zip {zips[0]}. {within}"
    raise InputError(
        f"{archive.path}: is not a source of the competition. Found no train.csv, train/ or test/; "
        "expected the folder or zip of uw-madison-gi-tract-image-segmentation, NIfTI files or "
        f"DICOM series.{remedy}"
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
) -> dict[str, _Mismatches]:
    """Compare rows with images, by scan id, and make ``texts`` fit the images."""
    slices, counts = np.unique(
        np.stack([table.scan, table.number], axis=1), axis=0, return_counts=True
    )
    found: dict[str, _Mismatches] = {}
    for (scan, number), n_rows in zip(slices.tolist(), counts.tolist(), strict=True):
        if n_rows != len(ORGANS):
            scan_id = table.scan_ids[scan]
            problem = Problem(
                where=f"{table.name}, {slice_id(scan_id, number)}",
                found=f"{n_rows} of {len(ORGANS)} rows",
                expected=f"one row for each of {', '.join(ORGANS)}",
            )
            of_scan = found.setdefault(scan_id, _Mismatches())
            of_scan.incomplete.append(problem)
            if number in images.get(scan_id, {}):
                of_scan.missing_rows += len(ORGANS) - n_rows
    for scan_id in sorted(set(texts) | set(images), key=scan_order):
        rows, files = texts.get(scan_id, {}), images.get(scan_id, {})
        without_image = [
            Problem(
                where=f"{table.name}, {slice_id(scan_id, number)}",
                found="rows without an image",
                expected="a PNG for every row",
            )
            for number in sorted(set(rows) - set(files))
        ]
        without_rows = [
            Problem(
                where=files[number].path,
                found="an image without rows",
                expected=f"{len(ORGANS)} rows in {table.name}",
            )
            for number in sorted(set(files) - set(rows))
        ]
        if without_image or without_rows:
            of_scan = found.setdefault(scan_id, _Mismatches())
            of_scan.without_image, of_scan.without_rows = without_image, without_rows
        texts[scan_id] = {number: rows.get(number, [""] * len(ORGANS)) for number in files}
    return found


def _choose_scans(
    path: Path, train: dict[str, SliceScan], test: dict[str, SliceScan], *, scope: Scope
) -> dict[str, SliceScan]:
    """Return the scans of both parts, or those to predict."""
    if not train and not test:
        raise InputError(
            f"{path}: holds no slice image. Expected files such as "
            "train/case123/case123_day20/scans/slice_0065_266_266_1.50_1.50.png."
        )
    if scope == "predicted":
        return test or train
    if both := [scan_id for scan_id in train if scan_id in test]:
        raise InputError(
            f"{path}: found {name_some(both)} in train/ and in test/; expected each scan once. "
            "Remove one of the two."
        )
    return {**train, **test}


def _build_scans(
    archive: Archive,
    part: Part,
    images: Images,
    texts: Mapping[str, Mapping[int, Sequence[str]]] | None,
    faults: _Faults,
) -> dict[str, SliceScan]:
    """Return the scans that their images make up; add what is wrong with the others."""
    scans: dict[str, SliceScan] = {}
    for scan_id in sorted(images, key=scan_order):
        slices = images[scan_id]
        numbers = sorted(slices)
        first = slices[numbers[0]]
        gap = _find_gap(archive, part, scan_id, numbers)
        odd = list(_find_odd_sizes(archive, [slices[number] for number in numbers]))
        faults.gaps |= {scan_id: gap} if gap else {}
        faults.wrong |= {scan_id: odd} if odd else {}
        if gap or odd:
            continue
        if numbers[0] != 1:
            faults.warnings.append(
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
    return scans


def _find_gap(archive: Archive, part: Part, scan_id: str, numbers: Sequence[int]) -> list[Problem]:
    n_missing = numbers[-1] - numbers[0] + 1 - len(numbers)
    if not n_missing:
        return []
    gaps = (range(one + 1, two) for one, two in pairwise(numbers))
    # Only the first are listed: a number may be a thousand million off.
    missing = ", ".join(map(str, islice(chain.from_iterable(gaps), 10)))
    return [
        Problem(
            where=f"{archive.path}, {part}, {scan_id}",
            found=f"no slice {missing}" + (f" and {n_missing - 10} more" if n_missing > 10 else ""),
            expected=f"every slice from {numbers[0]} to {numbers[-1]}",
        )
    ]


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
            found=f"{count(len(slices), 'slice')} of {first.width} x {first.height} pixels",
            expected=f"at most {MOST_SIDE} each way and {MOST_VOXELS} voxels in all",
        )
