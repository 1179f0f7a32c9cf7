"""Scan and source: what every kind of source gives, whatever its files are.

:func:`~gi2nnunet.source.open.open_source` gives a :class:`Source` with its scans. A kind of source
is one module with a subclass of each; no other module asks which kind a source or scan is.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from gi2nnunet.core.errors import InputError, Problem, count, raise_problems, require_positive
from gi2nnunet.core.workers import count_cores
from gi2nnunet.formats.coding import LabelCoding
from gi2nnunet.formats.ids import ORGANS, LabelScheme, Orientation, patient_of
from gi2nnunet.formats.labels import LabelMap, split_organs
from gi2nnunet.formats.structures import StructureOptions
from gi2nnunet.formats.submission import encode_rows, name_rows
from gi2nnunet.formats.tables import MaskTable, Row
from gi2nnunet.formats.volumes import write_volume

Part = Literal["train", "test"]
Scope = Literal["all", "predicted", "hidden"]
Rows = Sequence[Sequence[str]]  # for each slice the RLE texts in the order of ORGANS


@dataclass(frozen=True, kw_only=True)
class LoadedScan:
    """One scan in memory.

    Attributes
    ----------
    image
        ``(z, y, x)`` in slice order, values untouched.
    label_map
        ``(z, y, x)`` uint8, bit-coded; ``None`` without truth.
    spacing_mm
        Voxel spacing ``(z, y, x)`` in mm.
    first_number
        The competition's number of slice z = 0.
    problems
        What is wrong with it; then the arrays mean nothing.
    eight_bit
        How many slices were 8-bit, which the competition's are not.
    """

    image: NDArray[Any]
    label_map: LabelMap | None
    spacing_mm: tuple[float, float, float]
    first_number: int
    problems: tuple[Problem, ...] = ()
    eight_bit: int = 0


def digest_stamps(files: Iterable[Path | str], *, shown_as: str | None = None) -> str:
    """Return a digest of the sizes and time stamps of files, not of their names.

    ``shown_as`` is what a message calls them, if not by their paths. Raises :class:`InputError` if
    one cannot be found.
    """
    digest = hashlib.sha256()
    for file in files:
        try:
            found = os.stat(file)  # noqa: PTH116 - a path object for each slice takes ten times as long
        except OSError as error:
            raise InputError(
                f"{shown_as or file}: cannot be read ({error.strerror}); expected a file. "
                "Restore it, or run the same again."
            ) from (None if shown_as else error)
        digest.update(f"{found.st_size} {found.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Scan(ABC):
    """One scan of a source; its files are not opened before it is loaded.

    Attributes
    ----------
    has_series
        Whether it is a DICOM series, on which structures can be written.
    scan_id
        Patient and day, ``case123_day20``; a source of other files has other ids.
    part
        The part the source puts it in. A labelled test scan is held out.
    first_number
        The competition's number of slice z = 0; the others follow without a gap.
    shape
        ``(slices, height, width)``.
    """

    kind: ClassVar[str]
    has_series: ClassVar[bool] = False
    scan_id: str
    part: Part
    first_number: int
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]

    @property
    def patient_id(self) -> str:
        """Return the patient's id."""
        return patient_of(self.scan_id)

    @property
    def numbers(self) -> tuple[int, ...]:
        """Return the slice numbers in slice order."""
        return tuple(range(self.first_number, self.first_number + self.shape[0]))

    @property
    def size(self) -> tuple[int, int]:
        """Return height and width of its slices in pixels."""
        return self.shape[1:]

    @property
    @abstractmethod
    def files(self) -> tuple[Path, ...]:
        """Return the files on disk that the image is read from."""

    @property
    @abstractmethod
    def labelled(self) -> bool:
        """Return whether its truth is known."""

    @property
    def rows(self) -> Rows | None:
        """Return its true rows as the source spells them; ``None`` if it has a label map."""
        return None

    @property
    def stratum(self) -> str:
        """Return what is to be spread evenly over the folds."""
        return ""

    @abstractmethod
    def load(self) -> LoadedScan:
        """Read the image and, if it is known, the truth; what is wrong is collected.

        Raises :class:`InputError` if a file cannot be read at all.
        """

    @abstractmethod
    def load_labels(self) -> tuple[LabelMap, tuple[Problem, ...]]:
        """Read the truth only: ``(z, y, x)`` uint8, bit-coded, and what is wrong with it.

        Raises
        ------
        InputError
            If a file cannot be read at all.
        ValueError
            If the scan has no truth.
        """

    def load_rows(self) -> tuple[list[Row], tuple[Problem, ...]]:
        """Read its true rows ``(slice_id, organ, RLE text)``, and what is wrong with them.

        Rows that the source has are decoded to check them and returned as they are spelt there.
        Raises as :meth:`load_labels`.
        """
        label_map, problems = self.load_labels()
        if problems:
            return [], problems
        rows = encode_rows(label_map) if self.rows is None else self.rows
        return name_rows(self.scan_id, self.numbers, rows), ()

    def take_stamp(self) -> str:
        """Return a digest of the sizes and time stamps of its files, its truth's too.

        If it stays the same, the files need not be read to see whether they changed. Raises
        :class:`InputError` if a file is gone.
        """
        return digest_stamps(self.files)

    @abstractmethod
    def without_truth(self) -> Self:
        """Return the scan as a prediction uses it; its files are found from any working folder."""

    def read(self) -> LoadedScan:
        """Return what :meth:`load` returns, if nothing is wrong with it.

        Raises
        ------
        InputError
            For everything that is wrong, together; if its size has changed since it was opened.
        """
        loaded = self.load()
        problems = loaded.problems
        if not problems and loaded.image.shape != self.shape:
            problems = (
                Problem(
                    where=f"{self.files[0]}, {self.scan_id}",
                    found=f"{loaded.image.shape} voxels (z, y, x)",
                    expected=f"{self.shape}, as it was opened",
                ),
            )
        raise_problems(problems, remedy="Correct these files, or restore them.")
        return loaded

    def write_labels(self, path: Path, array: NDArray[Any]) -> None:
        """Write a ``(z, y, x)`` volume in slice order as ``.nii.gz``, lying as the scan does.

        Raises :class:`OutputError` if it cannot be written.
        """
        write_volume(path, array, spacing_mm=self.spacing_mm)

    def write_volumes(self, folder: Path, bit_map: LabelMap) -> None:
        """Write a bit-coded map into ``labels/`` and a binary mask of each organ into ``organs/``.

        Raises :class:`OutputError` if they cannot be written.
        """
        self.write_labels(folder / f"labels/{self.scan_id}.nii.gz", bit_map)
        for organ, mask in zip(ORGANS, split_organs(bit_map), strict=True):
            name = f"organs/{self.scan_id}_{organ}.nii.gz"
            self.write_labels(folder / name, mask.astype(np.uint8))

    def check_structures(self) -> None:
        """Check that structures can be written on the scan's own images.

        Raises :class:`InputError` if they are not a DICOM series with a frame of reference.
        """
        raise InputError(
            f"{self.scan_id}: found files that are not DICOM; expected a DICOM series, on which "
            "RTSTRUCT and SEG are written. Give a DICOM source, or use --nifti."
        )

    def write_structures(
        self, folder: Path, masks: Mapping[str, NDArray[np.bool_]], asked: StructureOptions
    ) -> list[Path]:
        """Write masks onto the scan's DICOM series and return the files.

        Parameters
        ----------
        folder
            Gets ``rtstruct.dcm`` and ``seg.dcm``.
        masks
            ``(z, y, x)`` bool by organ, in slice order.

        Raises
        ------
        InputError
            As :meth:`check_structures`; if a name does not fit.
        OutputError
            If a file cannot be written.
        """
        raise ValueError(f"{self.scan_id} is not a DICOM series")

    def to_json(self) -> dict[str, Any]:
        """Return the scan without its truth as JSON, for another process.

        :func:`~gi2nnunet.source.open.scan_from_json` reads it.
        """
        return {
            "kind": self.kind,
            "scan_id": self.scan_id,
            "part": self.part,
            "first_number": self.first_number,
            "shape": list(self.shape),
            "spacing_mm": list(self.spacing_mm),
            **self._place_to_json(),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Return the scan that :meth:`to_json` of the same class described."""
        depth, height, width = content["shape"]
        z, y, x = content["spacing_mm"]
        return cls(
            scan_id=content["scan_id"],
            part=content["part"],
            first_number=content["first_number"],
            shape=(depth, height, width),
            spacing_mm=(z, y, x),
            **cls._place_from_json(content),
        )

    @abstractmethod
    def _place_to_json(self) -> dict[str, Any]:
        """Return as JSON where the image's files lie, paths absolute."""

    @classmethod
    @abstractmethod
    def _place_from_json(cls, content: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields that :meth:`_place_to_json` described."""


@dataclass(frozen=True, kw_only=True)
class DicomOptions:
    """How to open a DICOM source.

    Attributes
    ----------
    series
        Which series of a study: its number, its instance UID or the last six digits or more of
        that, or its description; ``3/2`` is the second echo or phase of series 3.
    structures
        RTSTRUCT or SEG, or a folder or zip of them, in place of those beside the images.
    roi
        Name of an organ's structure if it is not one of the usual names.
    show_paths
        Show paths in messages, which often hold a patient's name.
    uneven
        Take series with slices at unequal distances: not as images, but to write structures on.
    patients
        File that keeps the made-up ids of patients; see
        :func:`~gi2nnunet.source.dicom_patients.make_scan_ids`.
    """

    series: str | None = None
    structures: Path | None = None
    roi: Mapping[str, str] = field(default_factory=dict)
    any_modality: bool = False
    show_paths: bool = False
    uneven: bool = False
    patients: Path | None = None


RECORDED = ("allow_missing", "source_labels", "label_map", "orientation")
"""The options that the manifest of a converted source records."""


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """How to open a source.

    Attributes
    ----------
    scope
        Which scans: ``"all"``; those to be ``"predicted"`` (of the competition ``test/`` if it has
        scans, else ``train/``; of other kinds all); or those of the competition's ``"hidden"`` test
        set, where a scan that cannot be used is set apart with a warning.
    labels_only
        Open label volumes without their images: those in a folder of labels if there are any,
        else every volume.
    allow_missing
        Pass over rows without an image, take masks without a row as empty, and leave out scans that
        miss a slice, labels without an image, and DICOM series that cannot be taken, with warnings,
        instead of refusing the source.
    source_labels
        How label volumes are coded, where neither a manifest, a dataset.json nor their values show.
    label_map
        The same for labels of any values: ``stomach=1,small_bowel=2,large_bowel=3``.
    orientation
        Axes of NIfTI volumes: by their ``affine``, or ``as-stored``, which is columns, rows and
        slices in their order.
    jobs
        Scans or label volumes read at once, and in memory; by default one a core.
    """

    scope: Scope = "all"
    truth: bool = True
    labels_only: bool = False
    allow_missing: bool = False
    source_labels: LabelScheme | None = None
    label_map: str | None = None
    orientation: Orientation = "affine"
    jobs: int | None = None
    dicom: DicomOptions = DicomOptions()

    def __post_init__(self) -> None:
        require_positive(jobs=self.jobs)

    @property
    def workers(self) -> int:
        """Return :attr:`jobs` as a number."""
        return self.jobs or count_cores()

    def name_patients(self, file: Path) -> Self:
        """Return these options with the file that keeps the made-up ids of patients."""
        return replace(self, dicom=replace(self.dicom, patients=file))


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """What a user gave, opened; no image has been read.

    Attributes
    ----------
    endings
        What the name of a file of this kind ends in, the last part first.
    volumes
        Whether predictions of this kind are wanted as label volumes, unless refused.
    scans
        By scan id, in numeric order of patient and day.
    options
        How it was opened, if that was said.
    patient_order
        Training patients in order of first appearance in ``train.csv``; ``None`` without one.
    sample
        ``sample_submission.csv``, if any.
    unreadable
        Slice numbers by id of scans that have to be left out.
    left_out
        Why scans are left out because ``--allow-missing`` was given, by their ids; each has a
        warning.
    unnumbered
        Ids of scans without a known first number, so that it is taken as 1.
    coding
        How its label volumes are coded; ``None`` where it has none.
    coding_is_from
        What says so, for the screen.
    """

    scan_type: ClassVar[type[Scan]]
    volumes: ClassVar[bool] = False
    endings: ClassVar[tuple[str, ...]] = ()
    path: Path
    kind: str
    scans: Mapping[str, Scan]
    options: Mapping[str, str | bool] = field(default_factory=dict)
    patient_order: tuple[str, ...] | None = None
    sample: MaskTable | None = None
    unreadable: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    unnumbered: tuple[str, ...] = ()
    coding: LabelCoding | None = None
    coding_is_from: str = ""
    warnings: tuple[str, ...] = ()

    @classmethod
    @abstractmethod
    def open(cls, path: Path, options: SourceOptions) -> Self | None:
        """Open a source of this kind; ``None`` if the path is of another kind.

        Raises :class:`InputError` if it is of this kind but cannot be used.
        """

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """Return values that differ for another source of its kind, without reading an image.

        A key that only one of two fingerprints has is not compared.
        """

    def keep_ids(self) -> None:  # noqa: B027 - most kinds have the ids in their files
        """Keep ids that were made up when it was opened, once they are used.

        Raises :class:`OutputError` if they cannot be written.
        """

    @property
    @abstractmethod
    def described(self) -> str:
        """Return what it is and how many scans are taken, for the screen."""

    @property
    def label_notes(self) -> tuple[str, ...]:
        """Return a sentence that says how its label volumes are read, if it has some."""
        if self.coding is None or not self.coding_is_from:
            return ()
        meaning = "; ".join(
            f"{organ.replace('_', ' ')} {', '.join(map(str, values))}"
            for organ, values in self.coding.values.items()
        )
        others = "; ".join(f"background {value}" for value in self.coding.others)
        return (f"labels: {'; '.join(filter(None, (meaning, others)))} ({self.coding_is_from})",)

    @property
    def recorded_path(self) -> str:
        """Return the path as a manifest records it."""
        return str(self.path.absolute())

    @property
    def name(self) -> str:
        """Return the name of the folder or file, without its ending."""
        name = self.path.resolve().name
        for ending in self.endings:
            if name.lower().endswith(ending):
                name = name[: -len(ending)]
        return name

    @property
    def truth_name(self) -> str:
        """Return how messages name what holds the truth."""
        return str(self.path)

    def scans_in(self, part: Part) -> dict[str, Scan]:
        """Return the scans of one part by id."""
        return {scan_id: scan for scan_id, scan in self.scans.items() if scan.part == part}

    def warn_of_unknown_patients(self) -> tuple[str, ...]:
        """Return a warning of ids that do not name the patient, to show before a split.

        Two scans of one patient could then get into different parts of it.
        """
        unknown = [scan_id for scan_id in self.scans if patient_of(scan_id) == scan_id]
        if not unknown:
            return ()
        return (
            f"{len(unknown)} of {count(len(self.scans), 'scan id')} not of the form "
            "<patient>_day<N> "
            f"({', '.join(unknown[:3])}{', ...' if len(unknown) > 3 else ''}): each counts as a "
            "patient of its own, so scans of one patient may be trained on and validated or held "
            "out. Rename to <patient>_day<N> where patients have several scans",
        )
