"""Calls for submissions and their scores: encode, export_dicom, score, compare."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gi2nnunet.api.opening import FilePath, find_workspace
from gi2nnunet.core.bars import Shown, draw_bars
from gi2nnunet.core.command import take_fields
from gi2nnunet.core.errors import require_positive

if TYPE_CHECKING:
    from gi2nnunet.dataset.encode import Encoded
    from gi2nnunet.dataset.export_dicom import ExportedDicom
    from gi2nnunet.formats.ids import LabelScheme, Orientation
    from gi2nnunet.formats.tables import MaskTable
    from gi2nnunet.scoring.compare import Comparison
    from gi2nnunet.scoring.conventions import Metric, ScanChoice
    from gi2nnunet.scoring.medical import Spacing
    from gi2nnunet.scoring.result import Score
    from gi2nnunet.source.scan import Scan


def encode(
    volumes: FilePath,
    *,
    out: FilePath,
    labels: LabelScheme | None = None,
    label_map: str | None = None,
    orientation: Orientation = "affine",
    sample: FilePath | None = None,
) -> Encoded:
    """Turn label volumes into a submission CSV.

    Parameters
    ----------
    volumes
        A folder of NIfTI files, or one of them.
    labels
        How they are coded; by default as ``manifest.json`` or ``dataset.json`` beside them says,
        otherwise as the values show.
    label_map, orientation
        See :func:`check`.
    sample
        A ``sample_submission.csv``; the rows are written in its order.

    Raises
    ------
    InputError
        If a volume cannot be read, or it is unknown how labels are coded.
    """
    from gi2nnunet.dataset.encode import encode_labels

    return encode_labels(
        Path(volumes), Path(out), scheme=labels, label_map=label_map, orientation=orientation,
        sample=Path(sample) if sample else None,
    )  # fmt: skip


def export_dicom(
    volumes: FilePath,
    *,
    source: FilePath,
    out: FilePath,
    series: str | None = None,
    labels: LabelScheme | None = None,
    roi_name: Mapping[str, str] | Sequence[str] | None = None,
    any_modality: bool = False,
    show_paths: bool = False,
) -> ExportedDicom:
    """Write ``rtstruct.dcm`` and ``seg.dcm`` of label volumes on the series they were made on.

    Parameters
    ----------
    volumes
        A NIfTI file of labels, or a folder of one mask per organ.
    source
        The folder, zip or file of the DICOM series.
    out
        Folder for the two files.
    series
        Which series, if there are several: its number, UID or description.
    labels
        How labels are coded; by default as their values show.
    roi_name
        Names of structures in place of those of TG-263: ``{"stomach": "Magen"}``.

    Raises
    ------
    InputError
        If labels and series cannot be read, or do not lie on one another.
    """
    from gi2nnunet.dataset.export_dicom import export_dicom as export
    from gi2nnunet.formats.structures import parse_names
    from gi2nnunet.source.scan import DicomOptions

    options = DicomOptions(series=series, any_modality=any_modality, show_paths=show_paths)
    names = parse_names(roi_name, option="--roi-name")
    return export(Path(volumes), Path(source), Path(out), scheme=labels, names=names, dicom=options)


@dataclass(frozen=True, kw_only=True)
class _Scoring:
    """Arguments of :func:`score` and :func:`compare`."""

    metric: Metric = "per-class"
    scans: ScanChoice = "all"
    images: FilePath | None = None
    orientation: Orientation = "affine"
    medical: bool = False
    tolerance_mm: float = 3.0
    workspace: FilePath | None = None
    dataset_id: int | None = None
    jobs: int | None = None
    progress: Shown = None

    def __post_init__(self) -> None:
        """Refuse numbers out of range and an unknown metric before anything is read."""
        from gi2nnunet.scoring.conventions import require_convention

        require_positive(jobs=self.jobs)
        require_convention(self.metric)
        if not 0 <= self.tolerance_mm < math.inf:
            raise ValueError(f"tolerance_mm: found {self.tolerance_mm!r}; expected 0 or more")

    def open_images(self) -> Mapping[str, Scan]:
        """Return the scans of the source of images by id, which have sizes and spacings."""
        if self.images is None:
            return {}
        from gi2nnunet.source.open import open_source
        from gi2nnunet.source.scan import SourceOptions

        options = SourceOptions(truth=False, allow_missing=True, orientation=self.orientation)
        return open_source(self.images, options).scans

    def find_spacings(
        self,
        truth: MaskTable,
        place: Path,
        table: MaskTable,
        known: Mapping[str, Scan],
        *,
        needed: bool,
    ) -> dict[str, Spacing]:
        """Return voxel spacings: of known scans, and if needed the others', from the path on.

        ``table`` was read from ``place``.
        """
        found = {scan_id: scan.spacing_mm for scan_id, scan in known.items()}
        if not needed or set(truth.scan_ids) <= found.keys():
            return found
        from gi2nnunet.scoring.spacing import find_spacings  # takes as long as a small score

        others = find_spacings(
            truth, place, table, workspace=find_workspace(self.workspace),
            dataset_id=self.dataset_id,
        )  # fmt: skip
        return others | found


@dataclass(frozen=True, kw_only=True)
class _Score(_Scoring):
    """Arguments of :func:`score`."""

    submission: FilePath = field(kw_only=False)
    truth: FilePath | None = field(default=None, kw_only=False)
    intervals: bool = False
    per_slice: FilePath | None = None


@take_fields(_Score)
def score(asked: _Score) -> Score:
    """Score a submission against the truth with the competition's metric.

    Parameters
    ----------
    submission, truth
        CSV files in the competition's format, folders of :func:`predict`, a converted dataset (its
        truth), or label volumes with ``dataset.json``. By default the truth is
        ``truth.csv`` beside the submission, otherwise that of the workspace's dataset. A submission
        can also be the name of a prediction or model in the workspace, as in :func:`compare`.
    metric
        Which reading of the metric to use, one of :mod:`gi2nnunet.scoring.metric`.
    scans
        ``"all"`` must be in both, or only those that are ``"common"`` to both are scored.
    images
        The source to take image sizes from, if the truth has no ``image_height`` and
        ``image_width`` columns.
    orientation
        Axes of NIfTI volumes; see :func:`check`.
    medical
        Add surface Dice, HD95 in mm and volume error in ml. The voxel spacing is that of
        ``images``, else of the truth if that is a dataset, label volumes or beside a recorded
        score, else of the workspace's dataset.
    intervals
        Add 95 % intervals from a seeded bootstrap over patients.
    per_slice
        Also write a CSV with a row for each slice and organ, the areas in mm2 if the spacing is
        known.

    Raises
    ------
    InputError
        If a file is damaged, no truth is known, one that this program wrote was changed, the two do
        not have the same rows, or an image size or spacing that is needed is unknown.
    OutputError
        If ``per_slice`` cannot be written.
    """
    from gi2nnunet.core.files import check_place, replace_file
    from gi2nnunet.scoring.masks import find_truth, read_masks
    from gi2nnunet.scoring.record import SLICES_BEGIN, format_slices
    from gi2nnunet.scoring.score import score_submission

    slices = asked.per_slice and check_place(Path(asked.per_slice), begins=SLICES_BEGIN)
    known = asked.open_images()
    place, predicted, standing, warnings = _read_submission(asked)
    if asked.truth is None:
        space = find_workspace(asked.workspace)
        true = find_truth(place, predicted, workspace=space, dataset_id=asked.dataset_id)
    else:
        true = read_masks(Path(asked.truth), truth=True, orientation=asked.orientation)
    given = (Path(asked.truth), true) if asked.truth else (place, predicted)
    needed = asked.medical or asked.per_slice is not None
    with draw_bars(asked.progress) as report:
        result = score_submission(
            predicted, true,
            metric=asked.metric, scans=asked.scans, medical=asked.medical,
            tolerance_mm=asked.tolerance_mm, jobs=asked.jobs, progress=report,
            sizes={name: scan.size for name, scan in known.items()} or None,
            spacing_mm=asked.find_spacings(true, *given, known, needed=needed),
        )  # fmt: skip
    if slices:
        replace_file(Path(slices), format_slices(result))
    if asked.intervals:
        from gi2nnunet.scoring.bootstrap import estimate_intervals

        result = replace(result, intervals=estimate_intervals(result))
    return replace(result, standing=standing or "", warnings=(*result.warnings, *warnings))


def _read_submission(asked: _Score) -> tuple[Path, MaskTable, str | None, tuple[str, ...]]:
    """Return where a submission is, its masks, what was recorded of its meaning, and warnings."""
    from gi2nnunet.core.files import find_kind
    from gi2nnunet.scoring.masks import read_masks
    from gi2nnunet.scoring.record import find_standing

    place = Path(asked.submission)
    if find_kind(place) is not None:
        return place, read_masks(place, orientation=asked.orientation), find_standing(place), ()
    from gi2nnunet.upkeep.named import find_masks  # takes as long as a small score

    (named,) = find_masks(
        [str(asked.submission)], workspace=find_workspace(asked.workspace),
        dataset_id=asked.dataset_id, jobs=asked.jobs,
    )  # fmt: skip
    return named.place, named.table, named.standing, named.warnings


@dataclass(frozen=True, kw_only=True)
class _Compare(_Scoring):
    """Arguments of :func:`compare`."""

    a: FilePath = field(kw_only=False)
    b: FilePath = field(kw_only=False)
    truth: FilePath | None = field(default=None, kw_only=False)
    html: FilePath | None = None
    seed: int = 0


@take_fields(_Compare)
def compare(asked: _Compare) -> Comparison:
    """Compare two submissions or models, with intervals over patients.

    Parameters
    ----------
    a, b
        What :func:`score` takes, or a name in the workspace: of a prediction as :func:`status`
        shows it (``held-out``), or of a model: its configuration, such as ``2d``, of an ensemble
        ``2d+3d_fullres``. A model's name means its out-of-fold predictions, or those of the
        held-out scans if only these exist of both.
    truth
        By default ``truth.csv`` beside a scored prediction, otherwise that of the workspace's
        dataset.
    metric, scans, orientation, medical, tolerance_mm
        See :func:`score`.
    images
        The source to take images, and image sizes, from; by default the workspace's dataset.
    html
        Also write a page: plots by patient and organ, and the slices that changed most.

    Raises
    ------
    InputError
        If there is nothing of a name, several fit, or the predictions of a model are missing; and
        as :func:`score` does.
    OutputError
        If the page cannot be written.
    """
    from gi2nnunet.core.files import check_place
    from gi2nnunet.scoring.compare import Side, compare_submissions
    from gi2nnunet.scoring.masks import read_masks
    from gi2nnunet.upkeep.named import find_common_truth, find_images, find_masks

    if asked.html is not None:
        from gi2nnunet.pages.template import PAGE_BEGINS

        check_place(Path(asked.html), begins=PAGE_BEGINS)
    space = find_workspace(asked.workspace)
    with draw_bars(asked.progress) as report:
        sides = find_masks(
            [str(asked.a), str(asked.b)], workspace=space, dataset_id=asked.dataset_id,
            orientation=asked.orientation, jobs=asked.jobs, progress=report,
        )  # fmt: skip
        if asked.truth is None:
            truth = find_common_truth(sides, workspace=space, dataset_id=asked.dataset_id)
        else:
            truth = read_masks(Path(asked.truth), truth=True, orientation=asked.orientation)
        known = asked.open_images()
        first = sides[0]
        given = (Path(asked.truth), truth) if asked.truth else (first.place, first.table)
        found = compare_submissions(
            sides[0].table, sides[1].table, truth,
            metric=asked.metric, scans=asked.scans, seed=asked.seed, jobs=asked.jobs,
            sizes={name: scan.size for name, scan in known.items()} or None,
            spacing_mm=asked.find_spacings(truth, *given, known, needed=True)
            if asked.medical
            else None,
            tolerance_mm=asked.tolerance_mm, progress=report,
        )  # fmt: skip
        named = [Side(name=s.name, taken=s.taken, standing=s.standing) for s in sides]
        a, b = (
            replace(of, warnings=(*of.warnings, *side.warnings))
            for of, side in zip((found.a, found.b), sides, strict=True)
        )
        found = replace(found, a=a, b=b, sides=tuple(named), truth=truth.name)
        if asked.html is not None:
            from gi2nnunet.pages.compare_page import Compared, write_compare_page

            images = known or find_images(sides, workspace=space, dataset_id=asked.dataset_id)
            tables = {"a": sides[0].table, "b": sides[1].table, "truth": truth}
            compared = Compared(found=found, images=images, **tables)
            write_compare_page(compared, Path(asked.html), progress=report)
    return found
