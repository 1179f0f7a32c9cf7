"""Look at a source and convert it: check, convert, open_dataset."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gi2nnunet.api.wiring import FilePath, Progress, find_workspace, require_positive

if TYPE_CHECKING:
    from gi2nnunet.labels import LabelScheme
    from gi2nnunet.manifest import Dataset
    from gi2nnunet.splits import HoldOutRule
    from gi2nnunet.survey import SourceReport


def check(
    source: FilePath,
    *,
    allow_missing: bool = False,
    source_labels: LabelScheme | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> SourceReport:
    """Look at a source before training: what it holds, and what in it is worth a look.

    Parameters
    ----------
    source, allow_missing, source_labels, jobs, progress
        As in :func:`~gi2nnunet.survey.check_source`, which this is.
    """
    from gi2nnunet.survey import check_source

    require_positive(jobs=jobs)
    return check_source(
        source,
        allow_missing=allow_missing,
        source_labels=source_labels,
        jobs=jobs,
        progress=progress,
    )


def convert(
    source: FilePath,
    *,
    workspace: FilePath | None = None,
    dataset_id: int = 501,
    name: str = "UWGI",
    labels: LabelScheme = "regions",
    folds: int | None = None,
    holdout: HoldOutRule = None,
    keep_known_bad: bool = False,
    allow_missing: bool = False,
    source_labels: LabelScheme | None = None,
    seed: int = 0,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Make a source into an nnU-Net raw dataset; what is there already is not made again.

    Parameters
    ----------
    source
        The competition's folder or zip, or a folder of NIfTI volumes.
    workspace
        Folder of all data and models; by default nnU-Net's three environment variables where all
        are set, else ``./gi2nnunet-workspace``.
    dataset_id, name, labels, folds, holdout, keep_known_bad, allow_missing, source_labels, seed
        As in :func:`gi2nnunet.dataset.convert`.
    jobs
        Scans in work at once; by default one a core.
    progress
        Called with ``(done, total, what)``.

    Returns
    -------
    Dataset
        Its ``warnings`` say what was passed over.

    Raises
    ------
    InputError, OutputError, EngineError
        As :func:`gi2nnunet.dataset.convert`.
    """
    from gi2nnunet.dataset import convert as convert_source

    require_positive(jobs=jobs)
    space = find_workspace(workspace)
    return convert_source(
        Path(source),
        raw=space.raw,
        preprocessed=space.preprocessed,
        results=space.results,
        dataset_id=dataset_id,
        name=name,
        labels=labels,
        folds=folds,
        holdout=holdout,
        keep_known_bad=keep_known_bad,
        allow_missing=allow_missing,
        source_labels=source_labels,
        seed=seed,
        jobs=jobs,
        progress=progress,
    )


def open_dataset(
    *, workspace: FilePath | None = None, dataset_id: int | None = None
) -> Dataset:  # fmt: skip
    """Open what :func:`convert` made before.

    Parameters
    ----------
    workspace
        As in :func:`convert`.
    dataset_id
        Which one, where the workspace holds several.

    Raises
    ------
    InputError
        Where there is none, or more than one.
    """
    from gi2nnunet.manifest import read_dataset

    return read_dataset(find_workspace(workspace).raw, dataset_id=dataset_id)
