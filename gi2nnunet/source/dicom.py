"""DICOM source: a folder, a zip or one multi-frame file with series of MR images.

Every series is found and listed; one of each study is taken. RTSTRUCT and SEG files that refer to
it are its truth. Scan ids are made up; see :mod:`~gi2nnunet.source.dicom_patients`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from gi2nnunet.core.errors import InputError, Problem, count, name_some, raise_problems
from gi2nnunet.formats.coding import CODINGS
from gi2nnunet.formats.dicom_series import (
    Series,
    build_series,
    check_masks,
    list_frames,
    read_dicom,
    read_pixels,
)
from gi2nnunet.formats.ids import ORGANS, scan_order
from gi2nnunet.formats.labels import LabelMap, join_organs
from gi2nnunet.formats.rtstruct import write_rtstruct
from gi2nnunet.formats.rtstruct_reading import read_rtstruct
from gi2nnunet.formats.seg import read_seg, write_seg
from gi2nnunet.formats.structures import StructureOptions, match_names
from gi2nnunet.formats.volumes import (
    from_slice_order,
    place_volume,
    to_slice_order,
    write_volume_at,
)
from gi2nnunet.source.archive import Archive
from gi2nnunet.source.dicom_index import (
    Index,
    StructureFile,
    Volume,
    find_dicom,
    index_files,
    open_file,
)
from gi2nnunet.source.dicom_patients import ScanIds, make_scan_ids
from gi2nnunet.source.scan import (
    DicomOptions,
    LoadedScan,
    Scan,
    Source,
    SourceOptions,
    digest_stamps,
)

_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_END_BYTES = 4096
_MOST_LISTED = 30


@dataclass(frozen=True, kw_only=True)
class DicomScan(Scan):
    """A series of DICOM images, or one echo or phase of it.

    Attributes
    ----------
    archive
        The folder or zip.
    names
        Path inside it of each slice's file, or of the one multi-frame image.
    frames
        Frames of the multi-frame image in slice order; ``None`` if each slice has its file.
    structures
        The file that holds its truth.
    roi
        Name of an organ's structure where it is not one of the usual names.
    show_paths
        Whether messages show paths.
    """

    kind = "dicom"
    has_series = True
    archive: Archive = field(repr=False, compare=False)
    names: tuple[str, ...] = field(repr=False)
    frames: tuple[int, ...] | None = None
    structures: StructureFile | None = None
    roi: Mapping[str, str] = field(default_factory=dict)
    show_paths: bool = False

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the zip, or every file of the series."""
        place = self.archive.place
        return (place,) if self.archive.is_zip else tuple(place / name for name in self.names)

    @property
    def labelled(self) -> bool:
        """Return whether an RTSTRUCT or SEG refers to it."""
        return self.structures is not None

    def read_series(self, *, pixels: bool = False) -> Series:
        """Read the series again, all attributes of its images.

        Raises
        ------
        InputError
            If a file cannot be read, or the slices do not fit together any more.
        """
        frames = []
        for number, name in enumerate(self.names, start=1):
            path = f"{self.archive.path}/{name}"
            shown_as = path if self.show_paths else f"{self.scan_id}, file {number}"
            with open_file(self.archive, name, shown_as=shown_as) as file:
                dataset = read_dicom(file, shown_as=shown_as, pixels=pixels)
            frames += list_frames(dataset, shown_as=shown_as)
        if self.frames is not None:
            frames = [frame for frame in frames if frame.number in self.frames]
        return build_series(frames)

    def load(self) -> LoadedScan:
        """Read the images, each rescaled by its own numbers, and the structures if there are."""
        series = self.read_series(pixels=True)
        affine = _TO_RAS @ series.affine
        image = to_slice_order(read_pixels(series), affine=affine)
        problems: tuple[Problem, ...] = ()
        if not np.isfinite(image).all():  # by its RescaleSlope
            where, found = self.scan_id, "NaN or infinity"
            problems = (Problem(where=where, found=found, expected="finite intensities"),)
        return LoadedScan(
            image=image,
            label_map=self._read_labels(series) if self.structures else None,
            spacing_mm=place_volume(series.shape, affine=affine).spacing_mm,
            first_number=self.first_number,
            problems=problems,
        )

    def load_labels(self) -> tuple[LabelMap, tuple[()]]:
        """Read the structures; of the images no pixels. An organ without a structure is empty."""
        return self._read_labels(self.read_series()), ()

    def _read_labels(self, series: Series) -> LabelMap:
        file = self.structures
        if file is None:
            raise ValueError(f"{self.scan_id} has no truth")
        read = read_rtstruct if file.modality == "RTSTRUCT" else read_seg
        shown_as = f"{file.shown_as} of {self.scan_id}"
        with open_file(file.archive, file.name, shown_as=shown_as) as opened:
            found = read(opened, series=series, names=self.roi, shown_as=shown_as)
        empty = np.zeros(series.shape, np.bool_)
        label_map = join_organs([found.masks.get(organ, empty) for organ in ORGANS])
        return to_slice_order(label_map, affine=_TO_RAS @ series.affine)

    def take_stamp(self) -> str:
        """Return a digest of sizes and time stamps, in a zip of its checksums."""
        files = [(self.archive, name) for name in self.names]
        if self.structures:
            files.append((self.structures.archive, self.structures.name))
        stamps = [
            archive.digest_checksums([name])
            or digest_stamps([archive.place / name], shown_as=self.scan_id)
            for archive, name in files
        ]
        return hashlib.sha256(" ".join(stamps).encode()).hexdigest()[:16]

    def without_truth(self) -> Self:
        """Return the scan without its structures."""
        return replace(self, structures=None, roi={})

    def write_labels(self, path: Path, array: NDArray[Any]) -> None:
        """Write a volume where the series lies in the patient."""
        write_volume_at(path, array, affine=_TO_RAS @ self.read_series().affine)

    def check_structures(self) -> None:
        """Check that structures can be written; raises :class:`InputError` if they cannot."""
        check_masks({}, self.read_series())

    def write_structures(
        self, folder: Path, masks: Mapping[str, NDArray[np.bool_]], asked: StructureOptions
    ) -> list[Path]:
        """Write masks in slice order as ``rtstruct.dcm`` and ``seg.dcm`` on the series."""
        series = self.read_series()
        affine = _TO_RAS @ series.affine
        own = {organ: from_slice_order(mask, affine=affine) for organ, mask in masks.items()}
        return write_on_series(folder, own, series, asked)

    def _place_to_json(self) -> dict[str, Any]:
        return {
            "archive": str(self.archive.place),
            "names": list(self.names),
            "frames": list(self.frames) if self.frames else None,
            "show_paths": self.show_paths,
        }

    @classmethod
    def _place_from_json(cls, content: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "archive": Archive(Path(content["archive"])),
            "names": tuple(content["names"]),
            "frames": tuple(content["frames"]) if content["frames"] else None,
            "show_paths": content["show_paths"],
        }


def write_on_series(
    folder: Path, masks: Mapping[str, NDArray[np.bool_]], series: Series, asked: StructureOptions
) -> list[Path]:
    """Write masks ``(slices, rows, columns)``, as :meth:`DicomScan.write_structures` does."""
    kinds = (
        (asked.rtstruct, "rtstruct.dcm", write_rtstruct), (asked.seg, "seg.dcm", write_seg)
    )  # fmt: skip
    written = [(folder / name, write) for wanted, name, write in kinds if wanted]
    for path, write in written:
        write(path, masks, series=series, names=asked.names, maker=asked.maker)
    return [path for path, _ in written]


@dataclass(frozen=True, kw_only=True)
class DicomSource(Source):
    """Series of DICOM images, one or more of each study.

    Its path is not kept, because paths often hold a patient's name.
    """

    scan_type = DicomScan
    volumes = True
    scans: Mapping[str, DicomScan]
    named: ScanIds | None = field(default=None, repr=False)

    @classmethod
    def open(cls, path: Path, options: SourceOptions) -> Self | None:
        """Open a folder, a zip or a file; ``None`` if it does not hold DICOM files.

        Raises
        ------
        InputError
            If no series can be taken, or several of a study fit; if DICOM files are damaged or
            structures do not fit. All that was found is listed.
        """
        if options.labels_only or options.scope == "hidden":
            return None
        found = find_dicom(path)
        if found is None:
            return None
        asked = options.dicom
        index = index_files(*found, show_paths=asked.show_paths)
        warnings: list[str] = []
        if options.allow_missing:
            warnings += [f"passed over: {problem}" for problem in index.problems]
        else:
            raise_problems(index.problems, remedy="Correct these, or copy them again.")
        files = _list_structures(index, options) if options.truth else ()
        left_out: dict[str, str] = {}
        volumes = _choose_volumes(index, options, files, warnings, left_out)
        truth = _find_truth(volumes, files, asked.roi, warnings)
        named = make_scan_ids([volume.name_study() for volume in volumes], table=asked.patients)
        nameless = len({volume.study for volume in volumes if not volume.patient})
        if nameless:
            warnings.append(
                f"no PatientID in {count(nameless, 'study', 'studies')}: each counts as a patient "
                "of its own"
            )
        scans = {
            scan_id: _make_scan(found[0], scan_id, volume, file, options)
            for scan_id, volume, file in zip(named.ids, volumes, truth, strict=True)
        }
        return cls(
            path=Path("SOURCE"),
            kind="dicom",
            scans={scan_id: scans[scan_id] for scan_id in sorted(scans, key=scan_order)},
            options={
                name: True
                for name, given in (
                    ("allow_missing", options.allow_missing),
                    ("any_modality", asked.any_modality),
                )
                if given
            },
            left_out=left_out,
            unnumbered=tuple(scans),
            coding=CODINGS["regions"] if any(truth) else None,
            warnings=tuple(warnings),
            named=named,
        )

    def keep_ids(self) -> None:
        """Write the ids to the table of patients."""
        if self.named is not None:
            self.named.keep()

    def fingerprint(self) -> dict[str, Any]:
        """Return a digest of the sizes and last bytes of all files, and of the names of organs."""
        listing, size, n_files = hashlib.sha256(), 0, 0
        for scan in self.scans.values():
            files = [(scan.archive, name) for name in scan.names]
            if scan.structures:
                files.append((scan.structures.archive, scan.structures.name))
            for number, (archive, name) in enumerate(files, start=1):
                shown_as = f"{scan.scan_id}, file {number} of {len(files)}"
                of_file, end = _read_end(archive, name, shown_as=shown_as)
                listing.update(f"{of_file} {hashlib.sha256(end).hexdigest()}\n".encode())
                size, n_files = size + of_file, n_files + 1
            listing.update(f"{scan.frames} {sorted(scan.roi.items())}".encode())
        return {
            "scans": len(self.scans),
            "files": n_files,
            "bytes": size,
            "sizes_and_ends_sha256": listing.hexdigest(),
            "labels": str(self.coding) if self.coding else None,
        }

    @property
    def described(self) -> str:
        """Return how many series it holds."""
        return f"{self.path} ({len(self.scans)} DICOM series)"

    @property
    def recorded_path(self) -> str:
        """Return a word in place of the path, which can hold a patient's name."""
        return str(self.path)

    @property
    def name(self) -> str:
        """Return the scan's id, or a name with a digest, because a folder's can name a patient."""
        if len(self.scans) == 1:
            return next(iter(self.scans))
        return f"dicom-{self.fingerprint()['sizes_and_ends_sha256'][:8]}"


def _read_end(archive: Archive, name: str, *, shown_as: str) -> tuple[int, bytes]:
    """Return a file's size, and its last bytes or in a zip its checksum."""
    if archive.is_zip:
        checksum = archive.digest_checksums([name]) or ""
        return archive.sizes([name])[0], checksum.encode()
    with open_file(archive, name, shown_as=shown_as) as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _END_BYTES))
        return size, file.read()


def _make_scan(
    archive: Archive,
    scan_id: str,
    volume: Volume,
    structures: StructureFile | None,
    options: SourceOptions,
) -> DicomScan:
    series = volume.series
    if series is None:
        raise ValueError(f"{scan_id}: a volume with problems")
    geometry = place_volume(series.shape, affine=_TO_RAS @ series.affine)
    return DicomScan(
        scan_id=scan_id,
        part="train" if structures else "test",
        first_number=1,
        shape=geometry.shape,
        spacing_mm=geometry.spacing_mm,
        archive=archive,
        names=volume.files,
        frames=series.frame_numbers,
        structures=structures,
        roi=options.dicom.roi if structures else {},
        show_paths=options.dicom.show_paths,
    )


def _list_structures(index: Index, options: SourceOptions) -> tuple[StructureFile, ...]:
    """Return the files that ``--structures`` names, or those beside the images."""
    path = options.dicom.structures
    if path is None:
        return index.structures
    found = find_dicom(path)
    given = index_files(*found, show_paths=options.dicom.show_paths) if found else None
    if given:
        raise_problems(given.problems, remedy="Give another file with --structures.")
    if given is None or not given.structures:
        raise InputError(
            "--structures: found no RTSTRUCT or SEG there; expected a file, folder or zip of them. "
            "Give another path."
        )
    return given.structures


def _choose_volumes(
    index: Index,
    options: SourceOptions,
    files: Sequence[StructureFile],
    warnings: list[str],
    left_out: dict[str, str],
) -> list[Volume]:
    """Return the volumes to take: one of each study, or those that structures refer to.

    Those that are left out instead are added to ``left_out``.

    Raises
    ------
    InputError
        As :meth:`DicomSource.open`.
    """
    asked = options.dicom
    referenced = {uid for file in files for uid in file.series_uids}
    studies: dict[tuple[str, str], list[Volume]] = {}
    for volume in _narrow(index, asked):
        studies.setdefault((volume.patient, volume.study), []).append(volume)
    chosen: list[Volume] = []
    problems: list[object] = []
    several = False
    for fits in studies.values():
        if asked.series is None:
            fits = [v for v in fits if not v.is_localizer] or fits
            fits = [v for v in fits if v.uid in referenced] or fits
        # Several of one study are taken only if structures were drawn on each.
        apart = len({v.uid for v in fits}) == len(fits)
        if len(fits) > 1 and not (apart and all(v.uid in referenced for v in fits)):
            problems.append(f"A study: found several series that fit:\n{_list_volumes(fits)}")
            several = True
            continue
        bad = [problem for v in fits for problem in v.problems]
        bad += [problem for v in fits for problem in v.uneven if not asked.uneven]
        if bad and options.allow_missing:
            found = name_some([str(problem) for problem in bad], most=20, separator="; ")
            warnings.append(f"a series is passed over: {found}")
            left_out |= {f"series ...{volume.uid[-6:]}": found for volume in fits}
        elif bad:
            problems += bad
        else:
            chosen += fits
    choose = "Choose with --series, by number, UID or description, or correct the files."
    correct = "Correct the files, or copy them again."
    raise_problems(problems, remedy=choose if several or len(index.volumes) > 1 else correct)
    if not chosen:
        raise InputError(f"The source: no series is left. Found:\n{_list_volumes(index.volumes)}")
    if left := len(index.volumes) - len(chosen):
        taken = {id(volume) for volume in chosen}
        others = [f"{v.key}: {v.described}" for v in index.volumes if id(v) not in taken]
        warnings.append(f"passed over {left} other series ({name_some(others, most=5)})")
    return chosen


def _narrow(index: Index, asked: DicomOptions) -> list[Volume]:
    """Return the volumes that are called as asked, of MR only unless others are asked for."""
    if not index.volumes:
        also = "a DICOMDIR, which only lists files, and " if index.has_dicomdir else ""
        raise InputError(
            f"The source: found {also}{count(len(index.structures), 'RTSTRUCT or SEG file')} and "
            f"{count(index.others, 'other file')}; expected a series of MR images. Give the folder "
            "that holds the images."
        )
    called = [v for v in index.volumes if asked.series is None or v.is_called(asked.series)]
    if not called:
        raise InputError(
            f"The series {asked.series!r}: found no such series; expected the number, UID or "
            f"description of one of these:\n{_list_volumes(index.volumes)}"
        )
    fits = [v for v in called if v.modality == "MR" or asked.any_modality]
    if not fits:
        raise InputError(
            f"The source: found images of the modality {', '.join({v.modality for v in called})}; "
            "expected MR: the models of this program are trained on MR of the abdomen. To go on "
            "all the same, use --any-modality."
        )
    return fits


def _list_volumes(volumes: Sequence[Volume]) -> str:
    lines = [f"  {volume}" for volume in volumes[:_MOST_LISTED]]
    if len(volumes) > _MOST_LISTED:
        lines.append(f"  ... and {len(volumes) - _MOST_LISTED} more")
    return "\n".join(lines)


def _find_truth(
    volumes: Sequence[Volume],
    files: Sequence[StructureFile],
    roi: Mapping[str, str],
    warnings: list[str],
) -> list[StructureFile | None]:
    """Return the file of structures of each volume, once their names are matched.

    Raises
    ------
    InputError
        If no file refers to a volume, or several to one; if an organ has two structures, or none
        has one.
    """
    truth: list[StructureFile | None] = []
    problems: list[object] = []
    unmapped: Counter[str] = Counter()
    missing: Counter[str] = Counter()
    unused = set(files)
    for volume in volumes:
        fits = [file for file in files if volume.uid in file.series_uids]
        if not fits and len(volumes) == 1:  # some programs leave the reference out
            fits = [file for file in files if not file.series_uids]
        unused -= set(fits)
        truth.append(fits[0] if fits else None)
        if len(fits) > 1:
            problems.append(
                f"{', '.join(file.shown_as for file in fits)}: found {count(len(fits), 'file')} of "
                "structures for one series; expected one. Name it with --structures"
            )
        elif fits:
            try:
                match = match_names(
                    fits[0].names, where=fits[0].shown_as, given=roi, codes=fits[0].codes
                )
            except InputError as error:
                problems.append(error)
                continue
            unmapped.update(match.unmatched)
            missing.update(organ for organ in ORGANS if organ not in match.of_organ)
    raise_problems(problems, remedy="Correct these files, or name others.")
    if files and not any(truth):
        raise InputError(
            f"{', '.join(file.shown_as for file in files[:5])}: found structures of other series; "
            "expected some of the series that is taken, or of its frame of reference. Give the "
            "right file with --structures, or choose the series with --series."
        )
    if unused:
        warnings.append(f"of no series that is taken: {count(len(unused), 'file')} of structures")
    if unmapped:
        listed = ", ".join(f"{name!r} ({n})" for name, n in sorted(unmapped.items()))
        warnings.append(f"structures that are not mapped to an organ (--roi maps them): {listed}")
    warnings += [
        f"no structure for {organ} in {number} of {count(sum(map(bool, truth)), 'file')}: taken "
        "as empty"
        for organ, number in missing.items()
    ]
    return truth
