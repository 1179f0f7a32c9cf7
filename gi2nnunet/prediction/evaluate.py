"""Prediction of chosen scans: their submission, their score if the truth is known, and parts.

Each scan's rows are kept in the output folder as soon as they are predicted. Predicting the whole
takes them from there, so parts that several machines predicted are joined by the same prediction
again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gi2nnunet.core.errors import InputError, require_positive
from gi2nnunet.core.files import check_place, write_json
from gi2nnunet.core.locks import hold
from gi2nnunet.core.seals import hash_file
from gi2nnunet.core.workers import Notice, Progress, count_steps, ignore
from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.formats.labels import join_organs, split_organs
from gi2nnunet.formats.probabilities import SUFFIX
from gi2nnunet.formats.structures import Maker, StructureOptions, choose_names
from gi2nnunet.formats.submission import write_submission
from gi2nnunet.formats.tables import MaskTable, decode_table, read_mask_table, take_rows
from gi2nnunet.formats.viewers import (
    import_nrrd,
    write_label_descriptions,
    write_segmentation,
)
from gi2nnunet.nnunet.engine import Engine, PredictionOptions, PredictionSettings
from gi2nnunet.nnunet.models import digest_checkpoint, warn_of_unrecorded
from gi2nnunet.nnunet.postprocess import Tuned, find_tuning
from gi2nnunet.prediction.choose import Standing, Work
from gi2nnunet.prediction.finished import FinishedPrediction, digest_request, find_finished
from gi2nnunet.prediction.folders import (
    LABEL_DESCRIPTIONS,
    check_foreign,
    check_unchanged,
    lock_of,
    read_written,
)
from gi2nnunet.prediction.predict import PredictedScans, predict_scans, write_cost
from gi2nnunet.scoring.conventions import Metric
from gi2nnunet.scoring.medical import DEFAULT_TOLERANCE_MM
from gi2nnunet.scoring.record import (
    PREDICTION,
    SCORE_FILES,
    SUBMISSION,
    TRUTH,
    find_measures,
    write_score,
)
from gi2nnunet.scoring.result import Score, add_measures
from gi2nnunet.scoring.score import score_submission
from gi2nnunet.source.arrays import ScanArrays, ScansById, name_near
from gi2nnunet.source.scan import Scan

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Evaluation(ScansById):
    """Predicted scans, and their score if the truth is known; ``standing`` is what it means.

    Read like a mapping, it gives the scans by their ids: ``prediction[scan_id].image`` and the
    predicted ``.masks``.

    ``files`` are the results, the submission first; ``prediction.json`` beside them says how they
    were made. ``tuned`` holds the settings of ``tune`` that decided the masks, ``computing``
    device, threads, mirroring and step. ``seconds_per_scan`` is wall-clock time. ``labels`` say how
    label volumes with the truth were read. ``sha256`` is that of the submission.
    """

    submission: Path
    standing: Standing
    score: Score | None
    files: tuple[Path, ...]
    warnings: tuple[str, ...]
    seconds_per_scan: float
    computing: Mapping[str, Any]
    tuned: Tuned | None
    scans: tuple[Scan, ...] = field(repr=False)
    labels: tuple[str, ...] = ()
    sha256: str = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return the files, how they were made and, if there is one, the score as plain values."""
        return {
            "submission": str(self.submission),
            "standing": self.standing,
            "labels": list(self.labels),
            "files": [str(file) for file in self.files],
            "seconds_per_scan": self.seconds_per_scan,
            "computing": dict(self.computing),
            "tuning": self.tuned.describe() if self.tuned else None,
            **(self.score.to_json() if self.score else {}),
        }

    @property
    def scan_ids(self) -> tuple[str, ...]:
        """Return the scans that were predicted."""
        return tuple(scan.scan_id for scan in self.scans)

    def read_image(self, scan_id: str) -> NDArray[Any]:
        """Return a scan's image ``(z, y, x)``, cranial slice first.

        Raises
        ------
        KeyError
            For a scan that was not predicted.
        InputError
            If its files are gone or changed.
        """
        return self._find(scan_id).read().image

    def read_masks(self, scan_id: str) -> dict[str, NDArray[np.bool_]]:
        """Return a scan's predicted masks ``(z, y, x)`` by organ, as the submission holds them.

        A slice without a row in the submission is empty. Raises as :meth:`read_image`; also if the
        submission was replaced before any masks were read.
        """
        return self._decode(self._table, self._find(scan_id))

    def read_truth(self, scan_id: str) -> dict[str, NDArray[np.bool_]] | None:
        """Return a scan's true masks as :meth:`read_masks` does; ``None`` if it was not scored."""
        scan = self._find(scan_id)
        return None if self._truth is None else self._decode(self._truth, scan)

    def __getitem__(self, scan_id: str) -> ScanArrays:
        scan = self._find(scan_id)
        return ScanArrays(
            scan_id=scan_id, numbers=tuple(scan.numbers), shape=scan.shape,
            spacing_mm=scan.spacing_mm, read_image=self.read_image, read_masks=self.read_masks,
        )  # fmt: skip

    def plot(self, scan_id: str, slices: Sequence[int] | None = None, *, most: int = 4) -> Figure:
        """Draw slices of a scan: contours of the truth solid, of the prediction dashed.

        Parameters
        ----------
        slices
            Slice numbers; by default the worst slices if the truth is known, otherwise those with
            the most organ.
        most
            How many slices there are by default.

        Returns
        -------
        matplotlib.figure.Figure
            A notebook shows it; it has ``savefig``.

        Raises
        ------
        KeyError
            For a scan that was not predicted.
        ValueError
            For a slice that the scan does not have.
        """
        from gi2nnunet.prediction.plot import choose_slices, plot_slices

        scan, truth = self[scan_id], self.read_truth(scan_id)
        require_positive(most=most)
        if slices is None:
            chosen = choose_slices(scan.masks, truth, most=most)
        else:
            first, last = scan.numbers[0], scan.numbers[-1]
            if not slices or not set(slices) <= set(scan.numbers):
                raise ValueError(f"slices: found {slices}; expected some of {first} to {last}")
            chosen = [scan.numbers.index(number) for number in slices]
        value = {one.scan_id: one for one in self.score.per_scan} if self.score else {}
        title = f"{scan_id}, score {value[scan_id].score:.3f}" if scan_id in value else scan_id
        return plot_slices(scan, truth, slices=chosen, title=title)

    @cached_property
    def _table(self) -> MaskTable:
        if not self.submission.is_file() or hash_file(self.submission) != self.sha256:
            raise InputError(
                f"{self.submission}: found another file, or none; expected the rows of this "
                "prediction. Predict again, with another out for each prediction that you keep."
            )
        return read_mask_table(self.submission, any_scan=True)

    @cached_property
    def _truth(self) -> MaskTable | None:
        path = self.submission.with_name(TRUTH)
        return None if self.score is None else read_mask_table(path, any_scan=True)

    def _find(self, scan_id: str) -> Scan:
        found = {scan.scan_id: scan for scan in self.scans}.get(scan_id)
        if found is None:
            raise KeyError(name_near(scan_id, self.scan_ids))
        return found

    @staticmethod
    def _decode(table: MaskTable, scan: Scan) -> dict[str, NDArray[np.bool_]]:
        label_map = np.zeros(scan.shape, np.uint8)
        rows = take_rows(table, [scan.scan_id])
        if rows is not None:
            for _, numbers, planes in decode_table(rows, sizes={scan.scan_id: scan.size}):
                label_map[[scan.numbers.index(number) for number in numbers]] = planes
        return dict(zip(ORGANS, split_organs(label_map), strict=True))


def evaluate(
    work: Work,
    *,
    engine: Engine,
    settings: PredictionSettings,
    options: PredictionOptions | None = None,
    metric: Metric = "per-class",
    score: bool = True,
    again: bool = False,
    command: str = "",
    progress: Progress | None = None,
    on_notice: Notice | None = None,
) -> Evaluation:
    """Predict, write ``submission.csv`` and, if the truth is known, the score unless refused.

    The folder of the work gets ``submission.csv``, ``prediction.json`` (how it was made),
    ``cost.json`` (time and memory), if scored ``score-CONVENTION.json`` and ``.csv``
    (one row a scan) and ``truth.csv`` (the true rows), and, if asked for, ``labels/``, ``organs/``,
    ``probabilities/`` and ``dicom/``. The CSV itself is scored, as anyone else would score it.
    Until all is complete, what an interrupted run leaves is in a hidden folder, and the next run
    goes on from it. A finished prediction of the same request in that folder is used, and only
    scored and written in other forms, unless it is to be predicted ``again``. ``command`` is the
    command line to record.
    """
    selection, out, options = work.selection, work.out, options or PredictionOptions()
    computing = settings.describe(engine)
    maker = check_structures(work, options)
    _check_out(work, options)
    tuned, doubts = _find_tuning(work, options, computing)
    about = {
        **_describe_prediction(work, options, computing=computing, tuned=tuned),
        "command": command,
    }
    about["options"] |= {"metric": metric, "score": score}
    request = digest_request(work, computing=computing, tuned=tuned, versions=about["versions"])
    checkpoints = {
        model.folder.name: {str(f): digest_checkpoint(model, f) for f in work.ensemble.folds}
        for model in work.ensemble.models
    }
    with hold(lock_of(out), purpose="predicting"):
        finished = _find_finished(work, request, options, again=again, on_notice=on_notice)
        notes: tuple[str, ...] = ()
        if finished is not None:
            seconds_per_scan = finished.seconds_per_scan
        else:
            predicted = _predict_kept(
                work, selection.scans, engine=engine, settings=settings, options=options,
                tuned=tuned, progress=progress, on_notice=on_notice,
            )  # fmt: skip
            seconds_per_scan = float(np.mean([scan.seconds for scan in predicted.scans]))
            write_cost(out, predicted, engine, seconds_per_scan=seconds_per_scan)
            notes = _write_predicted(work, predicted)
        written = {**read_written(out), SUBMISSION: hash_file(work.submission)}
        noted = {**about, "request": request, "checkpoints": checkpoints}
        write_json(out / PREDICTION, {**noted, "sha256": written})
        result, files = None, [work.submission]
        if score and selection.truth is not None:
            result = _score(work, selection.truth, metric=metric, progress=progress)
            files += write_score(result, out, truth=selection.truth, about=about)
        files += [out / "probabilities"] if options.save_probabilities else []
        done = Evaluation(
            submission=work.submission,
            standing=selection.standing,
            score=result,
            files=(),
            warnings=(*selection.warnings, *doubts, *notes, *(result.warnings if result else ())),
            seconds_per_scan=seconds_per_scan,
            computing=computing,
            tuned=tuned,
            scans=selection.scans,
            labels=selection.labels,
            sha256=written[SUBMISSION],
        )
        work.kept.mkdir(exist_ok=True)  # until all are listed, these files are a prediction's own
        if finished is None:
            _take_kept(work, options)
        elif options.nifti:
            _write_volumes(done, out)
        files += _write_forms(done, out, options, maker)
        forms = {name: hash_file(out / name) for name in _list_forms(work, options)}
        write_json(out / PREDICTION, {**noted, "sha256": {**written, **forms}})
        shutil.rmtree(work.kept, ignore_errors=True)
    return replace(done, files=tuple(files))


def _score(work: Work, truth: MaskTable, *, metric: Metric, progress: Progress | None) -> Score:
    """Score with medical measures; those that another convention's score has are taken from it."""
    known = find_measures(work.out, truth)
    score = score_submission(
        work.submission, truth, metric=metric, medical=known is None,
        spacing_mm={scan.scan_id: scan.spacing_mm for scan in work.selection.scans},
        progress=progress,
    )  # fmt: skip
    if known is not None:
        score = add_measures(score, known, tolerance_mm=DEFAULT_TOLERANCE_MM)
    return replace(score, standing=work.selection.standing)


def _find_finished(
    work: Work,
    request: str,
    options: PredictionOptions,
    *,
    again: bool,
    on_notice: Notice | None,
) -> FinishedPrediction | None:
    """Return the finished prediction of a request; report that it is used, or another replaced.

    Raises :class:`OutputError` if a file that would be replaced was changed by somebody else.
    """
    finished, notice = None, on_notice or ignore
    if not again:
        finished = find_finished(work, request, probabilities=options.save_probabilities)
    at_risk = _list_forms(work, options) if finished else read_written(work.out).keys()
    check_unchanged(work.out, set(at_risk) - {SUBMISSION})
    if finished is not None:
        notice(f"Models: {work.ensemble.describe()}")
        notice(
            f"Using the predictions of {finished.time} in {work.out}, which are the same. To "
            "predict again, add --again."
        )
    elif not again and (work.out / PREDICTION).is_file() and work.submission.is_file():
        notice(
            f"The prediction in {work.out} is of other files, models or options, or was changed "
            "since, and is replaced. To keep both, stop this and give another folder with --out."
        )
    return finished


def _write_volumes(done: Evaluation, out: Path) -> None:
    """Write the label volumes that the engine writes, from the submission's rows."""
    for scan in done.scans:
        scan.write_volumes(out, join_organs(list(done.read_masks(scan.scan_id).values())))


def _write_forms(
    done: Evaluation, out: Path, options: PredictionOptions, maker: Maker | None
) -> list[Path]:
    """Write what viewers and the clinic need of the masks; return these and the volumes."""
    files = _describe_volumes(done.scans, out, options) if options.nifti else []
    return files + (_write_structures(done, out / "dicom", options, maker) if maker else [])


def _describe_volumes(scans: Sequence[Scan], out: Path, options: PredictionOptions) -> list[Path]:
    """Write beside the label volumes what viewers need; return all of these."""
    described, slicer = out / LABEL_DESCRIPTIONS, out / "slicer"
    write_label_descriptions(described)
    if not options.slicer:
        return [out / "labels", out / "organs", described]
    names = choose_names(options.roi_names)
    for scan in scans:
        labels = out / "labels" / f"{scan.scan_id}.nii.gz"
        write_segmentation(slicer / f"{scan.scan_id}.seg.nrrd", labels, names=names)
    return [out / "labels", out / "organs", described, slicer]


def check_structures(work: Work, options: PredictionOptions) -> Maker | None:
    """Check, before hours of prediction, that structures can be written; ``None`` if none are.

    Returns
    -------
    Maker
        The models that they will name.

    Raises
    ------
    InputError
        If a scan is not a DICOM series with a frame of reference, or a name does not fit.
    """
    if options.slicer:
        import_nrrd()
        choose_names(options.roi_names)
        if not options.nifti:
            raise InputError(
                "--slicer: found --no-nifti; expected label volumes, of which the segmentations "
                "for 3D Slicer are made. Leave out --no-nifti."
            )
    if not options.rtstruct and not options.seg:
        return None
    choose_names(options.roi_names)
    for scan in work.selection.scans:
        scan.check_structures()
    return Maker(
        model=" + ".join(model.configuration for model in work.ensemble.models),
        model_digest=work.ensemble.digest(),
    )


def _check_out(work: Work, options: PredictionOptions) -> None:
    """Check, before hours of prediction, that its folder can be written, and what it replaces."""
    check_place(work.submission)
    check_foreign(work.out, _list_forms(work, options), source=work.selection.source)


def _list_forms(work: Work, options: PredictionOptions) -> list[str]:
    """Return the files that the masks are written to beside the rows, within the folder."""
    models = work.ensemble.models if options.save_probabilities else ()
    forms = [LABEL_DESCRIPTIONS] if options.nifti else []
    for scan in work.selection.scans:
        known = scan.scan_id
        if options.nifti:
            forms += [f"labels/{known}.nii.gz", *(f"organs/{known}_{o}.nii.gz" for o in ORGANS)]
        forms += [f"slicer/{known}.seg.nrrd"] if options.slicer else []
        forms += [f"dicom/{known}/rtstruct.dcm"] if options.rtstruct else []
        forms += [f"dicom/{known}/seg.dcm"] if options.seg else []
        forms += [f"probabilities/{model.configuration}/{known}{SUFFIX}" for model in models]
    return forms


def _write_predicted(work: Work, predicted: PredictedScans) -> tuple[str, ...]:
    """Write the submission in place of an earlier one, its scores and its masks in other forms."""
    forms = read_written(work.out).keys() - {SUBMISSION}
    for name in (*forms, *SCORE_FILES, PREDICTION):  # last the one that lists them
        (work.out / name).unlink(missing_ok=True)
    for name in forms:
        with suppress(OSError):  # it holds others, or is gone
            os.removedirs((work.out / name).parent)
    rows = [row for scan in predicted.scans for row in scan.rows]
    return write_submission(work.submission, rows, sample=work.selection.sample)


def _take_kept(work: Work, options: PredictionOptions) -> None:
    """Move what the engine has written of the scans beside their rows into the folder."""
    for name in _list_forms(work, options):
        if (work.kept / name).exists():
            (work.out / name).parent.mkdir(parents=True, exist_ok=True)
            (work.kept / name).replace(work.out / name)


def _write_structures(
    done: Evaluation, folder: Path, options: PredictionOptions, maker: Maker
) -> list[Path]:
    """Write RTSTRUCT and SEG of each scan into a folder of its own."""
    asked = StructureOptions(
        rtstruct=options.rtstruct, seg=options.seg, names=options.roi_names, maker=maker
    )
    return [
        path
        for scan in done.scans
        for path in scan.write_structures(
            folder / scan.scan_id, done.read_masks(scan.scan_id), asked
        )
    ]


def predict_part(
    work: Work,
    part: tuple[int, int],
    *,
    engine: Engine,
    settings: PredictionSettings,
    options: PredictionOptions | None = None,
    again: bool = False,
    progress: Progress | None = None,
    on_notice: Notice | None = None,
) -> int:
    """Predict a part of some work, keep its rows, and return how many scans the part has.

    The part ``(2, 8)`` is every eighth scan from the second on; without that many scans it has
    none. Parts may run at the same time, also on several machines; :func:`evaluate` of the same
    work and options then finds every scan predicted. If the folder holds the finished prediction of
    the same request, nothing is predicted, unless it is to be ``again``.

    Raises
    ------
    InputError
        If the part does not exist, or as in :func:`check_structures`.
    OutputError
        If another run is predicting this part, or the whole.
    """
    number, parts = part
    if not 1 <= number <= parts:
        raise InputError(f"--part {number}/{parts}: expected 1/{parts} to {parts}/{parts}.")
    scans = work.selection.scans[number - 1 :: parts]
    options = options or PredictionOptions()
    check_structures(work, options)
    _check_out(work, options)
    tuned = find_tuning(work.ensemble)[0] if options.tuning else None
    request = digest_request(
        work, computing=settings.describe(engine), tuned=tuned, versions=_list_versions()
    )
    with (
        hold(lock_of(work.out), purpose="predicting a part", shared=True),
        hold(work.out / f"prediction_part_{number}_of_{parts}", purpose="predicting a part"),
    ):
        if _find_finished(work, request, options, again=again, on_notice=on_notice):
            return len(scans)
        _predict_kept(
            work, scans, engine=engine, settings=settings, options=options, tuned=tuned,
            progress=progress, on_notice=on_notice,
        )  # fmt: skip
    return len(scans)


def _announce(work: Work, scans: Sequence[Scan], *, on_notice: Notice | None) -> None:
    """Report what is predicted."""
    notice = on_notice or ignore
    notice(f"Models: {work.ensemble.describe()}")
    if warning := warn_of_unrecorded(work.ensemble):
        notice(warning)
    plural = "" if len(scans) == 1 else "s"
    notice(f"Predicting {len(scans)} scan{plural}: {work.selection.described}")


def _find_tuning(
    work: Work, options: PredictionOptions, computing: Mapping[str, Any]
) -> tuple[Tuned | None, list[str]]:
    """Return the settings of tune, and reasons to doubt a score that is made with them."""
    if not options.tuning:
        return None, []
    tuned, doubts = find_tuning(work.ensemble)
    if not tuned or not tuned.decision.organs:
        return tuned, doubts
    if work.selection.folds or work.selection.standing in ("out-of-fold", "in-sample"):
        doubts.append(
            "these scans were used to choose the settings of tune, so this score is too "
            f"optimistic. For a fair estimate see {tuned.path}, or leave them out with --no-tuning"
        )
    return tuned, [*doubts, *tuned.list_differences(computing)]


def _describe_prediction(
    work: Work, options: PredictionOptions, *, computing: Mapping[str, Any], tuned: Tuned | None
) -> dict[str, Any]:
    return {
        "standing": work.selection.standing,
        "scans": work.selection.recorded,
        "dataset": work.ensemble.models[0].folder.parent.name,
        "models": work.ensemble.describe(),
        "computing": computing,
        "tuning": tuned.describe() if tuned else None,
        "options": {
            "source": "SOURCE" if work.selection.source else None,
            **work.selection.options,
            "trained": [model.folder.name for model in work.ensemble.models],
            "folds": list(work.ensemble.folds),
            "tuning": options.tuning,
            "nifti": options.nifti,
            "save_probabilities": options.save_probabilities,
            "rtstruct": options.rtstruct,
            "seg": options.seg,
            "slicer": options.slicer,
        },
        "versions": _list_versions(),
    }


def _list_versions() -> dict[str, str]:
    return {name: version(name) for name in ("gi2nnunet", "nnunetv2", "torch")}


def _predict_kept(
    work: Work,
    scans: Sequence[Scan],
    *,
    engine: Engine,
    settings: PredictionSettings,
    options: PredictionOptions,
    tuned: Tuned | None,
    progress: Progress | None,
    on_notice: Notice | None,
) -> PredictedScans:
    """Predict scans, and keep each one's rows as soon as they are there."""
    _announce(work, scans, on_notice=on_notice)
    (progress or ignore)(0, len(scans), "predicting scans")
    if not scans:
        return PredictedScans(scans=())
    folders = {
        model.folder.name: work.kept / "probabilities" / model.configuration
        for model in work.ensemble.models
    }
    return predict_scans(
        work.ensemble,
        scans,
        engine=engine,
        settings=settings,
        folds=work.selection.folds,
        nifti_folder=work.kept if options.nifti else None,
        probability_folders=folders if options.save_probabilities else None,
        decision=tuned.decision if tuned else None,
        kept=work.kept,
        on_scan=count_steps(progress, len(scans), "predicting scans"),
        on_notice=on_notice,
    )
