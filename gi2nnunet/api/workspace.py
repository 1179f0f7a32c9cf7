"""Calls for the workspace: report, status, verify, remove."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gi2nnunet.api.opening import FilePath, find_workspace, list_texts, open_engine
from gi2nnunet.core.bars import Shown, draw_bars
from gi2nnunet.core.command import take_fields
from gi2nnunet.core.errors import require_positive
from gi2nnunet.core.workers import Notice, ignore

if TYPE_CHECKING:
    from gi2nnunet.pages.page import WrittenReport
    from gi2nnunet.upkeep.remove import Removal
    from gi2nnunet.upkeep.status import WorkspaceStatus
    from gi2nnunet.upkeep.verify import Verification


def status(*, workspace: FilePath | None = None) -> WorkspaceStatus:
    """Show what a workspace holds, what runs in it, and a sensible next command.

    Datasets, plans, trainings with their epochs, predictions with their scores, tunings, and the
    disk space they use. Nothing is changed. A piece that is damaged is named in ``problems``.

    Raises
    ------
    InputError
        If the workspace itself cannot be read.
    """
    from gi2nnunet.upkeep.reading import read_status

    return read_status(find_workspace(workspace))


def verify(
    *,
    quick: bool = False,
    workspace: FilePath | None = None,
    dataset_id: int | None = None,
    jobs: int | None = None,
    progress: Shown = None,
    on_notice: Notice | None = None,
) -> Verification:
    """Check the workspace's files against what was recorded about them; nothing is changed.

    Parameters
    ----------
    quick
        Check names, sizes, splits and marks, but read no voxels.

    Raises
    ------
    InputError
        If there is nothing to check.
    """
    from gi2nnunet.upkeep.verify import verify_workspace

    require_positive(jobs=jobs)
    engine = open_engine(workspace)
    space = engine.workspace
    (on_notice or ignore)(f"Workspace: {space.raw.parent} ({space.chosen_by})")
    with draw_bars(progress) as report:
        return verify_workspace(
            space, dataset_id=dataset_id, quick=quick, jobs=jobs, progress=report, engine=engine
        )


def remove(
    names: str | Sequence[str], *, workspace: FilePath | None = None, dry_run: bool = False
) -> Removal:
    """Remove a training, a prediction, a dataset or a tuning from the workspace.

    A dataset goes with its preprocessed files. What was made from a piece stays and is named.

    Parameters
    ----------
    names
        As :func:`status` shows them: ``2d/fold_0``, ``held-out``, ``Dataset501_UWGI``; or paths.
    dry_run
        Only find out what would be removed.

    Raises
    ------
    InputError
        If a name fits nothing, or several pieces; for a dataset that gi2nnunet did not make.
    OutputError
        If something runs in a piece; if it cannot be deleted.
    """
    from gi2nnunet.upkeep.remove import remove_pieces

    chosen = list_texts(names)
    if not chosen:
        raise ValueError("names: found none; expected names as gi2nnunet.status() shows them")
    return remove_pieces(find_workspace(workspace), chosen, dry_run=dry_run)


@dataclass(frozen=True, kw_only=True)
class _Report:
    """Arguments of :func:`report`."""

    out: FilePath | None = field(default=None, kw_only=False)
    prediction: FilePath | None = None
    scan: str | Sequence[str] | None = None
    show_all: bool = False
    workspace: FilePath | None = None
    dataset_id: int | None = None
    progress: Shown = None


@take_fields(_Report)
def report(asked: _Report) -> WrittenReport:
    """Write one HTML page: data, folds, curves, scores and slices.

    Parameters
    ----------
    out
        The page; by default ``report.html`` in the workspace.
    prediction
        Folder of :func:`predict` or :func:`predict_and_score`, or its name as :func:`status` shows
        it; by default the workspace's newest.
    scan
        Scans to show slices of; by default some of the worst, middle and best.

    Raises
    ------
    InputError
        If the workspace holds no dataset, or the prediction or a scan does not exist.
    """
    from gi2nnunet.core.files import check_place
    from gi2nnunet.pages.gather import gather_report
    from gi2nnunet.pages.page import write_report as write_page
    from gi2nnunet.pages.template import PAGE_BEGINS
    from gi2nnunet.upkeep.named import find_folder

    space = find_workspace(asked.workspace)
    out = Path(asked.out) if asked.out else space.predictions.parent / "report.html"
    check_place(out, begins=PAGE_BEGINS)
    with draw_bars(asked.progress) as progress:
        gathered = gather_report(
            space, dataset_id=asked.dataset_id, scans=list_texts(asked.scan),
            prediction=find_folder(asked.prediction, space) if asked.prediction else None,
            show_all=asked.show_all, progress=progress,
        )  # fmt: skip
    return write_page(gathered, out)
