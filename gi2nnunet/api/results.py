"""Score a submission and write the page: score, write_report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gi2nnunet.api.wiring import FilePath, Progress, find_workspace, list_texts, require_positive

if TYPE_CHECKING:
    from gi2nnunet.metric import Metric
    from gi2nnunet.scores import Score
    from gi2nnunet.source import Scan
    from gi2nnunet.submission import Size


def score(
    submission: FilePath,
    truth: FilePath,
    *,
    metric: Metric = "per-class",
    images: FilePath | None = None,
    medical: bool = False,
    tolerance_mm: float = 3.0,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Score:
    """Score a submission against the truth by the competition's metric.

    Parameters
    ----------
    submission, truth
        CSV files of the competition's form.
    metric
        Convention of :mod:`gi2nnunet.metric`.
    images
        The source whose file names tell the image sizes, where the truth has no ``image_height``
        and ``image_width`` columns.
    medical
        Add surface Dice, HD95 in mm and volume error in ml; needs ``images`` for the spacing, and
        MONAI.
    tolerance_mm
        Of the surface Dice.
    jobs
        Threads; by default one a core.
    progress
        Called with ``(done, total, what)`` in scans.

    Raises
    ------
    InputError, EngineError
        As :func:`~gi2nnunet.scoring.score_submission`.
    ValueError
        For an unknown convention, a number out of range, ``medical`` without ``images``.
    """
    from gi2nnunet.scoring import score_submission

    require_positive(jobs=jobs)
    if not 0 <= tolerance_mm < math.inf:
        raise ValueError(f"tolerance_mm: found {tolerance_mm!r}; expected 0 or more")
    if medical and images is None:
        raise ValueError("medical needs images: the source whose file names tell the spacing")
    scans = _read_scans(images)
    report = progress or (lambda done, total, what: None)
    return score_submission(
        Path(submission),
        Path(truth),
        metric=metric,
        sizes=_sizes_of(scans),
        medical=medical,
        spacing_mm={name: scan.spacing_mm for name, scan in scans.items()} if medical else None,
        tolerance_mm=tolerance_mm,
        jobs=jobs,
        progress=lambda done, total, scan: report(done, total, "scoring scans"),
    )


def read_sizes(images: FilePath | None) -> Mapping[str, Size] | None:
    """Return the image size of each scan of a source; ``None`` without one."""
    return _sizes_of(_read_scans(images))


def _read_scans(images: FilePath | None) -> Mapping[str, Scan]:
    if images is None:
        return {}
    from gi2nnunet.source import read_index

    index = read_index(images, allow_missing=True)
    return {**index.train, **index.test}


def _sizes_of(scans: Mapping[str, Scan]) -> Mapping[str, Size] | None:
    return {name: (scan.height, scan.width) for name, scan in scans.items()} or None


def write_report(
    out: FilePath | None = None,
    *,
    prediction: FilePath | None = None,
    scans: str | Sequence[str] | None = None,
    show_all: bool = False,
    workspace: FilePath | None = None,
    dataset_id: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write one HTML page: data, folds, training curves, scores, and slices with contours.

    Parameters
    ----------
    out
        The page; by default ``report.html`` in the workspace.
    prediction
        Folder of :func:`predict` or :func:`predict_and_score`; by default the workspace's newest.
    scans
        Scans to show slices of; by default some of the worst, middle and best.
    show_all
        Show slices of every predicted scan.
    workspace, dataset_id
        As in :func:`open_dataset`.
    progress
        Called with ``(done, total, what)``.

    Returns
    -------
    pathlib.Path
        The page.

    Raises
    ------
    InputError, OutputError
        As :func:`~gi2nnunet.report.gather.gather_report` and
        :func:`~gi2nnunet.report.page.write_report`.
    """
    from gi2nnunet.report.gather import gather_report
    from gi2nnunet.report.page import write_report as write_page

    space = find_workspace(workspace)
    content = gather_report(
        space,
        dataset_id=dataset_id,
        prediction=Path(prediction) if prediction else None,
        scans=list_texts(scans),
        show_all=show_all,
        progress=progress,
    )
    path = Path(out) if out else space.predictions.parent / "report.html"
    write_page(content, path)
    return path
