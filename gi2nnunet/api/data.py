"""Calls for sources: phantom, check, convert, open_dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gi2nnunet.api.opening import FilePath, OpeningWithTruth, find_workspace
from gi2nnunet.core.bars import Shown, draw_bars
from gi2nnunet.core.command import spell_call, take_fields
from gi2nnunet.core.errors import require_positive
from gi2nnunet.core.workers import Notice, Progress, ignore

if TYPE_CHECKING:
    from gi2nnunet.dataset.manifest import Dataset
    from gi2nnunet.dataset.splits import HoldOutRule
    from gi2nnunet.formats.ids import Certainty, LabelScheme
    from gi2nnunet.pages.check_page import WrittenPage
    from gi2nnunet.source.check.check import SourceReport
    from gi2nnunet.source.phantom.frame import Geometry
    from gi2nnunet.source.phantom.writing import PhantomSummary


def phantom(
    out: FilePath = Path("phantom"),
    *,
    patients: int = 6,
    days: int = 2,
    test_patients: int = 0,
    size: str | Geometry | Sequence[str | Geometry] | None = None,
    easy: bool = False,
    masks: FilePath | None = None,
    sizes: FilePath | None = None,
    fill_sample: bool = False,
    solution: FilePath | None = None,
    seed: int = 0,
    jobs: int | None = None,
    progress: Shown = None,
) -> PhantomSummary:
    """Write a synthetic source in the competition's layout.

    Parameters
    ----------
    out
        A folder, or a zip if it ends in ``.zip``; it must not exist yet.
    patients, days, test_patients
        Training patients, most scans of a patient, and patients in ``test/``.
    size
        A :class:`~gi2nnunet.Geometry`, a text such as ``"64x64x24@6"`` (width, height, slices,
        pixel spacing in mm), or several; by default the four sizes of the real data are mixed.
    easy
        Smooth, with little noise; for demos.
    masks, sizes
        A CSV in the competition's format, to make images for its masks, and the sizes of these: a
        CSV with id, width, height, px_w and px_h, or a source. Only ``sizes`` makes up anatomy.
    fill_sample
        Write every row into ``sample_submission.csv``, not only the header.
    solution
        Also write the masks of the test scans to this CSV.

    Raises
    ------
    InputError
        If ``out`` holds something, a number is out of range, or masks and sizes contradict.
    """
    from gi2nnunet.core.workers import count_cores
    from gi2nnunet.source.phantom import writing
    from gi2nnunet.source.phantom.frame import list_geometries

    require_positive(jobs=jobs)
    drawn = (patients, days, test_patients, size, easy, solution)
    if masks and not sizes:
        raise ValueError("masks needs sizes: a CSV or a source with the sizes of their images")
    if sizes and drawn != (6, 2, 0, None, False, None):
        raise ValueError(
            f"{'masks' if masks else 'sizes'} already sets the scans; leave out patients, days, "
            "test_patients, size, easy and solution"
        )
    geometries = list_geometries(size)
    with draw_bars(progress) as report:
        options = writing.PhantomOptions(
            fill_sample=fill_sample, seed=seed, as_zip=Path(out).suffix == ".zip",
            jobs=jobs or count_cores(), progress=report,
        )  # fmt: skip
        if masks and sizes:
            return writing.paint_phantom(
                Path(out), masks=Path(masks), sizes=Path(sizes), options=options
            )
        if sizes:
            return writing.write_phantom_like(Path(out), sizes=Path(sizes), options=options)
        return writing.write_phantom(
            out, patients=patients, days=days, test_patients=test_patients, geometries=geometries,
            detail="easy" if easy else "full", solution=Path(solution) if solution else None,
            **vars(options),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Check(OpeningWithTruth):
    """Arguments of :func:`check`."""

    source: FilePath = field(kw_only=False)
    html: FilePath | None = None
    out_of_fold: bool = False
    show_all: bool = False
    workspace: FilePath | None = None
    dataset_id: int | None = None
    jobs: int | None = None
    progress: Shown = None


@take_fields(_Check)
def check(asked: _Check) -> SourceReport:
    """Show what a source holds, and which scans look unusual.

    Parameters
    ----------
    html
        Also write a page: plots, and pictures of the suspects; with ``show_all`` of all of them.
    out_of_fold
        Also compare the truth with the out-of-fold predictions stored in the workspace.
    workspace
        For ``out_of_fold``, and for the ids that DICOM series have there.
    source_labels
        How NIfTI labels are encoded, if ``dataset.json`` and the values do not show it.
    label_map
        The same for any labels: ``"stomach=1,small_bowel=2,large_bowel=3"``.
    orientation
        Axes of NIfTI volumes: ``"affine"``, as the files say, or ``"as-stored"``, which takes the
        arrays as columns, rows and slices.
    series
        Which DICOM series of a study: its number, UID or description.
    structures
        RTSTRUCT or SEG with the truth, or a folder or zip of them, if not beside the series.
    roi
        Name of an organ's structure, if it is not a usual one: ``{"stomach": "Magen"}``.
    any_modality, show_paths
        Take other modalities than MR; show paths of DICOM files in messages.

    Raises
    ------
    InputError
        If the source cannot be read; with ``out_of_fold`` also if none of its scans has
        such a prediction.
    OutputError
        If the page cannot be written.
    """
    return check_with_page(**vars(asked))[0]


@take_fields(_Check)
def check_with_page(asked: _Check) -> tuple[SourceReport, WrittenPage | None]:
    """Check as :func:`check` does; return the page too, if there is to be one."""
    if asked.html is None:
        with draw_bars(asked.progress) as report:
            return _check(asked, report), None
    from gi2nnunet.pages.check_page import check_page_place, write_check_page

    page = Path(asked.html)
    check_page_place(page, source=Path(asked.source))
    with draw_bars(asked.progress) as report:
        found = _check(asked, report)
        return found, write_check_page(
            found, page, show_all=asked.show_all, jobs=asked.jobs, progress=report
        )


def _check(asked: _Check, progress: Progress | None) -> SourceReport:
    """Check a source and, if asked for, hold its truth against out-of-fold predictions."""
    from gi2nnunet.source.check.check import check_source

    space = find_workspace(asked.workspace)
    options = replace(asked.make_source_options(), jobs=asked.jobs).name_patients(space.patients)
    stored = None
    if asked.out_of_fold:
        from gi2nnunet.prediction.out_of_fold import find_stored_predictions

        dataset = open_dataset(workspace=asked.workspace, dataset_id=asked.dataset_id)
        stored = find_stored_predictions(dataset, workspace=space)
    found = check_source(asked.source, options, progress=progress)
    if stored is None:
        return found
    agreements = stored.measure(
        {scan.scan_id for scan in found.scans if scan.masks is not None},
        jobs=asked.jobs, progress=progress or ignore,
    )  # fmt: skip
    return found.add_disagreements(agreements, predict=stored.predict)


@dataclass(frozen=True, kw_only=True)
class _Convert(OpeningWithTruth):
    """Arguments of :func:`convert`."""

    source: FilePath = field(kw_only=False)
    workspace: FilePath | None = None
    dataset_id: int = 501
    name: str = "UWGI"
    labels: LabelScheme = "regions"
    folds: int | None = None
    splits: FilePath | None = None
    allow_leaks: bool = False
    holdout: HoldOutRule = None
    keep_known_bad: bool = False
    leave_out_suspects: Certainty | None = None
    seed: int = 0
    jobs: int | None = None
    progress: Shown = None
    on_notice: Notice | None = None


@take_fields(_Convert)
def convert(asked: _Convert) -> Dataset:
    """Turn a source into an nnU-Net raw dataset; if it is there already, it is only read.

    Parameters
    ----------
    labels
        ``regions`` is bit-coded and keeps overlaps; ``exclusive`` gives each voxel one organ.
    folds
        Number of folds, grouped by patient; by default 5, or one per patient if there are fewer.
    splits, allow_leaks
        File with folds of your own, nnU-Net's ``splits_final.json`` or a CSV of ``patient_id,fold``
        or ``scan_id,fold``; whether a patient may be in training and in validation of one.
    holdout
        A fraction of the patients, or ``"mle-bench"``; by default 0.1 if there are five patients
        or more.
    leave_out_suspects
        Check the source, and do not train on scans with a suspect at least this certain.

    Returns
    -------
    Dataset
        Its ``warnings`` say what was skipped.

    Raises
    ------
    InputError
        If the source is damaged or incomplete, or the place holds another dataset.
    """
    from gi2nnunet.dataset.convert import convert as convert_source
    from gi2nnunet.dataset.splits import SplitOptions

    options = replace(asked.make_source_options(), jobs=asked.jobs)
    space = find_workspace(asked.workspace)
    (asked.on_notice or ignore)(f"Workspace: {space.raw.parent} ({space.chosen_by})")
    split = SplitOptions(
        folds=asked.folds, holdout=asked.holdout, keep_known_bad=asked.keep_known_bad,
        leave_out_suspects=asked.leave_out_suspects, seed=asked.seed,
        splits=Path(asked.splits) if asked.splits else None, allow_leaks=asked.allow_leaks,
    )  # fmt: skip
    command = spell_call(convert, vars(asked))
    with draw_bars(asked.progress) as report:
        return convert_source(
            Path(asked.source), workspace=space, dataset_id=asked.dataset_id, name=asked.name,
            labels=asked.labels, split=split, options=options, command=command, progress=report,
            on_notice=asked.on_notice,
        )  # fmt: skip


def open_dataset(*, workspace: FilePath | None = None, dataset_id: int | None = None) -> Dataset:
    """Open a dataset that :func:`convert` made.

    Raises
    ------
    InputError
        If the workspace holds no dataset, or several and ``dataset_id`` is not given.
    """
    from gi2nnunet.dataset.manifest import read_dataset

    return read_dataset(find_workspace(workspace).raw, dataset_id=dataset_id)
