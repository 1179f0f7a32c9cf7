"""Calls that do what the commands do, for notebooks and scripts, with the same names and defaults.

Every option of a command is a keyword of its call, named like the command's Python parameter
(``--fold`` is ``fold``, ``--id`` is ``dataset_id``). A call returns what its command prints. The
main ones are available from :mod:`gi2nnunet` itself. For more control, use the functions of the
packages that a call connects.

These keywords are the same in each call that takes them:

- ``source``: the competition's folder or zip, a folder of NIfTI volumes, or DICOM series.
  ``allow_missing`` skips rows without an image and images without rows, and leaves out scans that
  miss a slice. :func:`check` explains the other keywords on how it is opened.
- ``workspace``: the folder of all data and models; by default nnU-Net's three environment variables
  if all are set, otherwise ``./gi2nnunet-workspace``. ``dataset_id`` names one of its datasets.
- ``device`` (``auto``, ``cuda``, ``cpu`` or ``mps``), ``gpus`` (by default one), ``jobs`` (worker
  processes or threads, by default one per core) and ``threads`` (of the network's operations).
- ``trust`` loads checkpoints and plans unchecked: they can run any code.
- ``progress`` is called with ``(done, total, what)``, also from another thread; ``on_notice`` and
  ``on_warning`` with sentences.

:class:`~gi2nnunet.core.errors.InputError` means that something given is damaged or missing,
:class:`~gi2nnunet.core.errors.EngineError` that nnU-Net or a worker process failed,
:class:`~gi2nnunet.core.errors.OutputError` that a result cannot be written, and ``ValueError`` that
a number is out of range or a name unknown.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from gi2nnunet.core.command import spell_call, take_fields
from gi2nnunet.core.errors import require_positive
from gi2nnunet.core.workers import Notice, Progress, ignore

if TYPE_CHECKING:
    from threading import Event

    from gi2nnunet.dataset.export_dicom import ExportedDicom
    from gi2nnunet.dataset.manifest import Dataset
    from gi2nnunet.dataset.splits import HoldOutRule
    from gi2nnunet.dataset.workspace import Workspace
    from gi2nnunet.formats.ids import Certainty, LabelScheme, Orientation
    from gi2nnunet.nnunet.engine import Engine, PredictionOptions, PredictionSettings
    from gi2nnunet.nnunet.models import Ensemble, Fold, ModelChoice
    from gi2nnunet.nnunet.postprocess import Tuning
    from gi2nnunet.nnunet.presets import PlanOptions, TrainingSettings
    from gi2nnunet.prediction.choose import Work
    from gi2nnunet.prediction.evaluate import Evaluation
    from gi2nnunet.report.page import WrittenReport
    from gi2nnunet.scoring.compare import Comparison
    from gi2nnunet.scoring.conventions import Metric, ScanChoice, TunedMetric
    from gi2nnunet.scoring.result import Score
    from gi2nnunet.source.check.check import SourceReport
    from gi2nnunet.source.scan import Scan, SourceOptions
    from gi2nnunet.training.doctor import Diagnosis
    from gi2nnunet.training.estimate import Estimate
    from gi2nnunet.training.plan import Plan
    from gi2nnunet.training.record import TrainingResult
    from gi2nnunet.training.train import TrainingProgress
    from gi2nnunet.upkeep.remove import Removal
    from gi2nnunet.upkeep.status import WorkspaceStatus
# Each call imports only what it needs, so that score need not wait for what train imports.
FilePath = Path | str


def find_workspace(folder: FilePath | None) -> Workspace:
    """Return the given folder's workspace, else that of nnU-Net's variables, else the default."""
    from gi2nnunet.dataset.workspace import open_workspace

    return open_workspace(Path(folder) if folder else None, environ=os.environ)


def open_engine(
    workspace: FilePath | None = None,
    *,
    device: str = "auto",
    gpus: int | None = None,
    jobs: int | None = None,
    threads: int | None = None,
    trust: bool = False,
) -> Engine:
    """Return what runs nnU-Net in a workspace; this starts nothing yet."""
    from gi2nnunet.nnunet.engine import Engine

    return Engine(
        workspace=find_workspace(workspace), environ=os.environ, device=device, gpus=gpus,
        jobs=jobs, threads=threads, trust=trust,
    )  # fmt: skip


def list_texts(given: str | int | Sequence[str | int] | None) -> list[str]:
    """Return one or several, given as text or number, as texts; none for ``None``."""
    if given is None:
        return []
    return [str(item) for item in ([given] if isinstance(given, str | int) else given)]


def list_patches(
    given: Sequence[int] | Sequence[Sequence[int]] | None,
) -> tuple[tuple[int, ...], ...]:
    """Return one patch size or several as several; none for ``None``."""
    patches: Any = () if given is None else given
    if patches and all(isinstance(item, int) for item in patches):
        patches = [patches]
    return tuple(tuple(patch) for patch in patches)


@dataclass(frozen=True, kw_only=True)
class _Opening:
    """Keywords of how the images of a source are opened."""

    allow_missing: bool = False
    orientation: Orientation = "affine"
    series: str | None = None
    any_modality: bool = False
    show_paths: bool = False

    def make_source_options(self) -> SourceOptions:
        """Return these as the options of a source that is opened without truth."""
        from gi2nnunet.source.scan import DicomOptions, SourceOptions

        dicom = DicomOptions(
            series=self.series, any_modality=self.any_modality, show_paths=self.show_paths
        )
        return SourceOptions(
            truth=False, allow_missing=self.allow_missing, orientation=self.orientation, dicom=dicom
        )


@dataclass(frozen=True, kw_only=True)
class _OpeningWithTruth(_Opening):
    """Keywords of how a source is opened with its truth."""

    source_labels: LabelScheme | None = None
    label_map: str | None = None
    structures: FilePath | None = None
    roi: Mapping[str, str] | Sequence[str] | None = None

    def make_source_options(self) -> SourceOptions:
        """Return these as the options of a source."""
        from gi2nnunet.formats.structures import parse_names

        images = super().make_source_options()
        structures = Path(self.structures) if self.structures else None
        names = parse_names(self.roi, option="--roi")
        return replace(
            images, truth=True, source_labels=self.source_labels, label_map=self.label_map,
            dicom=replace(images.dicom, structures=structures, roi=names),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Check(_OpeningWithTruth):
    """Arguments of :func:`check`."""

    source: FilePath = field(kw_only=False)
    out_of_fold: bool = False
    workspace: FilePath | None = None
    dataset_id: int | None = None
    jobs: int | None = None
    progress: Progress | None = None


@take_fields(_Check)
def check(asked: _Check) -> SourceReport:
    """Show what a source holds, and which scans look unusual.

    Parameters
    ----------
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
    """
    from gi2nnunet.source.check.check import check_source

    space = find_workspace(asked.workspace)
    options = replace(asked.make_source_options(), jobs=asked.jobs).name_patients(space.patients)
    stored = None
    if asked.out_of_fold:
        from gi2nnunet.prediction.out_of_fold import find_stored_predictions

        dataset = open_dataset(workspace=asked.workspace, dataset_id=asked.dataset_id)
        stored = find_stored_predictions(dataset, workspace=space)
    found = check_source(asked.source, options, progress=asked.progress)
    if stored is None:
        return found
    agreements = stored.measure(
        {scan.scan_id for scan in found.scans if scan.masks is not None},
        jobs=asked.jobs, progress=asked.progress or ignore,
    )  # fmt: skip
    return found.add_disagreements(agreements, predict=stored.predict)


@dataclass(frozen=True, kw_only=True)
class _Convert(_OpeningWithTruth):
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
    progress: Progress | None = None
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
    return convert_source(
        Path(asked.source), workspace=space, dataset_id=asked.dataset_id, name=asked.name,
        labels=asked.labels, split=split, options=options, command=spell_call(convert, vars(asked)),
        progress=asked.progress, on_notice=asked.on_notice,
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


def train(
    *,
    fold: str | int | Sequence[str | int] | None = None,
    config: str | Sequence[str] | None = None,
    preset: str = "auto",
    epochs: int | None = None,
    iterations: int | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    patch_size: Sequence[int] | Sequence[Sequence[int]] | None = None,
    trainer: str | None = None,
    pretrained_weights: FilePath | None = None,
    augment: str | None = None,
    restart: bool = False,
    nnunet_validation: bool = False,
    trust: bool = False,
    device: str = "auto",
    gpus: int | None = None,
    workspace: FilePath | None = None,
    dataset_id: int | None = None,
    jobs: int | None = None,
    threads: int | None = None,
    checks: bool = True,
    progress: Progress | None = None,
    on_epoch: Callable[[TrainingProgress], None] | None = None,
    on_notice: Notice | None = None,
    on_warning: Notice | None = None,
    on_plan: Callable[[Plan], None] | None = None,
    on_start: Callable[[str, Fold, Path], None] | None = None,
    stop: Event | None = None,
) -> tuple[TrainingResult, ...]:
    """Train nnU-Net; plan and preprocess first if that was not done.

    nnU-Net runs in its own process. An interrupted training continues; a finished one is kept.

    Parameters
    ----------
    fold
        A fold's number, ``"cv"`` for every fold of the split, ``"all"`` for one model on every
        training scan, or several of these; by default ``"all"``.
    config
        nnU-Net configuration, or several; by default ``2d`` and ``3d_fullres``.
    preset
        ``default``, ``resenc-m``, ``resenc-l``, ``resenc-xl``, ``tiny`` (for CPUs and quick
        tests), or ``auto``, which chooses by the GPU's memory.
    epochs, iterations, lr
        Number of epochs, batches per epoch and initial learning rate; by default the preset's
        and the trainer's.
    batch_size, patch_size
        Used instead of the plan's. A patch is ``(y, x)`` voxels for 2d, ``(z, y, x)`` for
        3d_fullres; two patches may be given, one for each.
    pretrained_weights
        Start from the weights of this checkpoint.
    augment
        ``processor`` or ``device`` (patches are augmented there, as nnU-Net does it but faster), or
        ``nnunet`` for nnU-Net's own data pipeline. By default as a training was begun; a new one by
        ``processor``.
    restart
        Delete earlier training of these folds and start over.
    checks
        Stop before the start if versions, memory or disk space are not sufficient.
    on_epoch
        Called after every epoch of every training.
    on_plan
        Called when the data are prepared and training begins.
    on_start
        Called with configuration, fold and log file when a training starts.
    stop
        If it is set, each running training saves a checkpoint after its epoch and ends.

    Returns
    -------
    tuple
        One result for each configuration and fold; its ``folder`` holds the checkpoints.

    Raises
    ------
    InputError
        If dataset, fold, trainer or weights do not exist, or this machine cannot train it.
    StoppedError
        If ``stop`` was set before all were finished.
    """
    command = spell_call(train, locals())
    from gi2nnunet.nnunet import presets
    from gi2nnunet.training.train import TrainingOrder, describe_folds, train_folds

    options = presets.PlanOptions(
        preset=preset,
        configurations=presets.choose_configurations(list_texts(config)),
        by_default=not config,
        batch_size=batch_size,
        patch_sizes=list_patches(patch_size),
    )
    settings = presets.TrainingSettings(
        trainer=trainer or presets.STOCK_TRAINER,
        epochs=epochs,
        iterations=iterations,
        learning_rate=lr,
        pretrained_weights=str(Path(pretrained_weights).absolute()) if pretrained_weights else None,
        augment=cast("presets.Augment | None", augment),
    )
    engine = open_engine(
        workspace, device=device, gpus=gpus, jobs=jobs, threads=threads, trust=trust
    )
    dataset, folds = choose_trainings(
        fold=fold, trainer=settings.trainer, pretrained_weights=pretrained_weights, trust=trust,
        workspace=engine.workspace, dataset_id=dataset_id,
    )  # fmt: skip
    planned = plan(
        options, dataset=dataset, engine=engine, folds=folds, trainer=settings.trainer,
        checks=checks, progress=progress, on_notice=on_notice, on_warning=on_warning,
    )  # fmt: skip
    for line in describe_folds(folds, dataset):
        (on_notice or ignore)(line)
    (on_plan or ignore)(planned)
    order = TrainingOrder(
        dataset=dataset, plan=planned, engine=engine, settings=settings, restart=restart,
        nnunet_validation=nnunet_validation, command=command, stop=stop, on_start=on_start,
        on_epoch=on_epoch, on_notice=on_notice,
    )  # fmt: skip
    return train_folds(order, folds)


def choose_trainings(
    *,
    fold: str | int | Sequence[str | int] | None,
    trainer: str | None,
    pretrained_weights: FilePath | None = None,
    trust: bool = False,
    workspace: Workspace,
    dataset_id: int | None,
) -> tuple[Dataset, tuple[Fold, ...]]:
    """Return the dataset and the folds to train.

    Trainer and weights are checked here, before planning, which takes minutes.
    """
    from gi2nnunet.dataset.manifest import read_dataset
    from gi2nnunet.nnunet.checks import check_checkpoint_file
    from gi2nnunet.nnunet.presets import STOCK_TRAINER, TrainingSettings
    from gi2nnunet.nnunet.trainers import check_trainer
    from gi2nnunet.training.train import expand_folds

    dataset = read_dataset(workspace.raw, dataset_id=dataset_id)
    folds = expand_folds(list_texts(fold) or ["all"], n_folds=len(dataset.splits))
    named = TrainingSettings(trainer=trainer or STOCK_TRAINER).trainer  # refuses a path
    check_trainer(named, label_scheme=dataset.label_scheme, environ=os.environ, trust=trust)
    if pretrained_weights:
        check_checkpoint_file(Path(pretrained_weights))
    return dataset, folds


def plan(
    options: PlanOptions,
    *,
    engine: Engine,
    dataset: Dataset | None = None,
    dataset_id: int | None = None,
    folds: Sequence[Fold] = (),
    trainer: str = "",
    checks: bool = True,
    progress: Progress | None = None,
    on_notice: Notice | None = None,
    on_warning: Notice | None = None,
) -> Plan:
    """Plan and preprocess a dataset; :func:`train` does this too, if needed.

    With ``folds`` and ``trainer``, the machine is checked for their training.
    """
    from gi2nnunet.dataset.manifest import read_dataset
    from gi2nnunet.nnunet.presets import choose_preset
    from gi2nnunet.training import doctor
    from gi2nnunet.training.machine import read_installation
    from gi2nnunet.training.plan import plan_dataset

    tell = on_notice or ignore
    dataset = dataset or read_dataset(engine.workspace.raw, dataset_id=dataset_id)
    if checks:
        doctor.raise_errors(doctor.judge_installation(read_installation()))
    tell(engine.hardware.describe())
    chosen = choose_preset(options.preset, memory_gib=engine.hardware.memory_gib)
    options = replace(options, preset=chosen.name)
    tell(f"Dataset: {dataset.folder}; preset: {chosen.name}")
    if checks:
        verdicts = doctor.examine_start(
            dataset, options, engine=engine, folds=folds, trainer=trainer
        )
        verdicts += doctor.judge_compiling(engine) if folds else []
        for warning in doctor.list_warnings(verdicts):
            (on_warning or tell)(warning)
        doctor.raise_errors(verdicts)
    made = plan_dataset(dataset, options, engine=engine, progress=progress)
    for warning in made.warnings:
        (on_warning or tell)(warning)
    return made


def diagnose(
    options: PlanOptions,
    *,
    fold: Sequence[str] | None = None,
    engine: Engine,
    dataset_id: int | None = None,
    on_notice: Notice | None = None,
) -> Diagnosis:
    """Check the installation and, if there is a dataset, whether this machine can train it."""
    from gi2nnunet.dataset.manifest import read_dataset
    from gi2nnunet.training.doctor import diagnose as examine
    from gi2nnunet.training.train import expand_folds

    tell = on_notice or ignore
    raw = engine.workspace.raw
    if dataset_id is None and not any(raw.glob("Dataset[0-9][0-9][0-9]_*")):
        tell(f"{raw} holds no dataset: only the installation is checked.")
        return examine(None, options, engine=engine)
    dataset = read_dataset(raw, dataset_id=dataset_id)
    tell(f"Dataset: {dataset.folder}")
    folds = expand_folds(fold or ["all"], n_folds=len(dataset.splits))
    return examine(dataset, options, engine=engine, folds=folds)


def estimate(
    options: PlanOptions,
    settings: TrainingSettings,
    *,
    fold: Sequence[str] | None = None,
    gpus: int | None = None,
    card: str | None = None,
    measure: bool = False,
    engine: Engine,
    dataset_id: int | None = None,
    progress: Progress | None = None,
    on_notice: Notice | None = None,
) -> Estimate:
    """Estimate the hours, disk space and memory that trainings will need.

    They run on ``gpus`` GPUs of the type ``card``, or on the engine's hardware.
    """
    from gi2nnunet.nnunet.checks import check_configurations
    from gi2nnunet.nnunet.presets import choose_preset
    from gi2nnunet.training.estimate import MEASURE_SECONDS, Request, choose_card, estimate_costs

    tell = on_notice or ignore
    dataset, folds = choose_trainings(
        fold=fold, trainer=settings.trainer, trust=engine.trust, workspace=engine.workspace,
        dataset_id=dataset_id,
    )  # fmt: skip
    check_configurations(options.configurations)
    chosen = choose_card(card) if card is not None else None
    if chosen is None:
        tell(engine.hardware.describe())
    memory = chosen.memory_gib if chosen else engine.hardware.memory_gib
    tell(f"Dataset: {dataset.folder}")
    request = Request(
        preset=choose_preset(options.preset, memory_gib=memory),
        configurations=options.configurations,
        folds=folds,
        settings=settings,
        card=chosen,
        cards=gpus or 1,
        measure_seconds=MEASURE_SECONDS if measure else None,
    )
    return estimate_costs(dataset, engine=engine, request=request, progress=progress or ignore)


@dataclass(frozen=True, kw_only=True)
class Prediction(_Opening):
    """Arguments of :func:`predict`."""

    source: FilePath | None = field(default=None, kw_only=False)
    config: str | Sequence[str] | None = None
    fold: str | int | Sequence[str | int] | None = None
    preset: str | None = None
    trainer: str | None = None
    mirroring: bool = True
    step_size: float = 0.5
    threads: int | None = None
    nifti: bool | None = None
    save_probabilities: bool = False
    rtstruct: bool = False
    seg: bool = False
    slicer: bool = False
    roi_name: Mapping[str, str] | Sequence[str] | None = None
    tuning: bool = True
    out: FilePath | None = None
    trust: bool = False
    device: str = "auto"
    gpus: int | None = None
    workspace: FilePath | None = None
    dataset_id: int | None = None
    progress: Progress | None = None
    on_notice: Notice | None = None

    def open_engine(self) -> Engine:
        """Return what runs nnU-Net."""
        return open_engine(
            self.workspace, device=self.device, gpus=self.gpus, threads=self.threads,
            trust=self.trust,
        )  # fmt: skip

    def make_settings(self) -> PredictionSettings:
        """Return how a network is applied to an image."""
        from gi2nnunet.nnunet.engine import PredictionSettings

        return PredictionSettings(mirroring=self.mirroring, step_size=self.step_size)

    def make_options(self, work: Work) -> PredictionOptions:
        """Return what is written of some work."""
        from gi2nnunet.formats.structures import parse_names
        from gi2nnunet.nnunet.engine import PredictionOptions

        wanted = work.selection.volumes or self.slicer
        return PredictionOptions(
            nifti=wanted if self.nifti is None else self.nifti,
            save_probabilities=self.save_probabilities, tuning=self.tuning,
            rtstruct=self.rtstruct, seg=self.seg, slicer=self.slicer,
            roi_names=parse_names(self.roi_name, option="--roi-name"),
        )  # fmt: skip

    def choose_work(self, engine: Engine) -> Work:
        """Return the scans, the models and the folder for the results."""
        from gi2nnunet.nnunet.models import ModelChoice
        from gi2nnunet.prediction.choose import choose_work

        return choose_work(
            Path(self.source) if self.source else None,
            models=ModelChoice(
                configurations=tuple(list_texts(self.config)), folds=tuple(list_texts(self.fold)),
                preset=self.preset, trainer=self.trainer, dataset_id=self.dataset_id,
            ),
            out=Path(self.out) if self.out else None, options=self.make_source_options(),
            workspace=engine.workspace,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ScoredPrediction(Prediction, _OpeningWithTruth):
    """Arguments of :func:`predict_and_score`."""

    metric: Metric = "per-class"

    def __post_init__(self) -> None:
        """Refuse an unknown metric before hours of prediction."""
        from gi2nnunet.scoring.conventions import require_convention

        require_convention(self.metric)


@take_fields(Prediction)
def predict(asked: Prediction) -> Evaluation:
    """Predict a source and write ``submission.csv``, without scoring it.

    Parameters
    ----------
    source
        A source (its ``test/`` if there is one, else its ``train/``), NIfTI files or DICOM series;
        by default the workspace's own scans, as in :func:`predict_and_score`.
    config, fold, preset, trainer
        Which models to use; by default the newest complete set.
    mirroring
        Average the predictions of mirrored images, as nnU-Net does.
    step_size
        Step of the sliding window, as a fraction of the patch.
    nifti
        Also write label volumes: one bit-coded, and one for each organ. By default for NIfTI and
        DICOM.
    save_probabilities
        Also write each configuration's probabilities, in eight bits.
    slicer
        Also write a segmentation of each scan for 3D Slicer.
    rtstruct, seg, roi_name
        Also write RTSTRUCT and DICOM SEG, for DICOM sources; names of structures in these files in
        place of those of TG-263: ``{"stomach": "Magen"}``.
    tuning
        Apply the settings that ``gi2nnunet tune`` saved for these models, if any.
    out
        Folder for the results; by default one in the workspace.

    Returns
    -------
    Evaluation
        The submission's path; images and predicted masks as arrays.

    Raises
    ------
    InputError
        If the source is damaged, or there are no such models.
    """
    return _predict(asked)


@take_fields(ScoredPrediction)
def predict_and_score(asked: ScoredPrediction) -> Evaluation:
    """Predict, write ``submission.csv``, and score it if the truth is known.

    Without a source, the held-out scans are predicted. If there are none, every training scan is
    predicted by the model that did not see its patient; without such models, the training scans
    are predicted and the score is marked in-sample. :func:`predict` explains the other keywords.

    Parameters
    ----------
    metric
        Which reading of the metric to use, one of :mod:`gi2nnunet.scoring.metric`.

    Returns
    -------
    Evaluation
        Its ``score`` is ``None`` if the truth is not known; its ``standing`` says whether the
        models have seen these patients.
    """
    return _predict(asked)


def _predict(asked: Prediction) -> Evaluation:
    engine = asked.open_engine()
    asked.make_settings()  # refuses a number out of range, before the models are looked for
    return evaluate_work(asked, asked.choose_work(engine), engine)


def evaluate_work(asked: Prediction, work: Work, engine: Engine) -> Evaluation:
    """Predict chosen work, and score it if the arguments are those of a scored prediction."""
    from gi2nnunet.prediction.evaluate import evaluate

    scored = asked if isinstance(asked, ScoredPrediction) else None
    call: Callable[..., Evaluation] = predict_and_score if scored else predict
    return evaluate(
        work, engine=engine, settings=asked.make_settings(), options=asked.make_options(work),
        metric=scored.metric if scored else "per-class", score=scored is not None,
        command=spell_call(call, vars(asked)), progress=asked.progress, on_notice=asked.on_notice,
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


def predict_part(asked: Prediction, work: Work, engine: Engine, *, part: tuple[int, int]) -> int:
    """Predict one part of chosen work, such as ``(2, 8)``; return how many scans it has."""
    from gi2nnunet.prediction import evaluate

    return evaluate.predict_part(
        work, part, engine=engine, settings=asked.make_settings(), options=asked.make_options(work),
        progress=asked.progress, on_notice=asked.on_notice,
    )  # fmt: skip


def tune(
    models: ModelChoice,
    *,
    engine: Engine,
    settings: PredictionSettings,
    metric: TunedMetric = "per-class",
    seed: int = 0,
    command: str = "",
    progress: Progress | None = None,
    on_notice: Notice | None = None,
) -> tuple[Tuning, Path, Ensemble]:
    """Choose the post-processing of each organ; return it, its file, and the models.

    Missing out-of-fold predictions are made first.
    """
    from gi2nnunet.core.files import check_place
    from gi2nnunet.nnunet.postprocess import save_tuning, tuning_path
    from gi2nnunet.prediction.out_of_fold import choose_every_fold
    from gi2nnunet.prediction.out_of_fold import predict_out_of_fold as predict
    from gi2nnunet.tuning.search import list_tuning_scans, tune_decision

    dataset, ensemble = choose_every_fold(models, engine=engine, on_notice=on_notice)
    check_place(tuning_path(ensemble.models))
    predicted = predict(
        dataset, ensemble, engine=engine, settings=settings, truth=True, progress=progress
    )
    found = tune_decision(
        list_tuning_scans(dataset, predicted),
        configurations=[model.configuration for model in ensemble.models],
        metric=metric,
        seed=seed,
        leaking=dataset.leaking_patients,
        jobs=engine.jobs,
        progress=progress,
    )
    folds = sorted(set(predicted.fold_of.values()))
    path = save_tuning(found, ensemble.models, folds, computing=predicted.settings, command=command)
    return found, path, ensemble


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

    return remove_pieces(find_workspace(workspace), list_texts(names), dry_run=dry_run)


def score(
    submission: FilePath,
    truth: FilePath | None = None,
    *,
    metric: Metric = "per-class",
    scans: ScanChoice = "all",
    images: FilePath | None = None,
    orientation: Orientation = "affine",
    medical: bool = False,
    tolerance_mm: float = 3.0,
    per_slice: FilePath | None = None,
    workspace: FilePath | None = None,
    dataset_id: int | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Score:
    """Score a submission against the truth with the competition's metric.

    Parameters
    ----------
    submission, truth
        CSV files in the competition's format, folders of :func:`predict`, a converted dataset (its
        truth), or folders of label volumes with ``dataset.json``. By default the truth is
        ``truth.csv`` beside the submission, otherwise that of the workspace's dataset.
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
    from gi2nnunet.scoring.conventions import require_convention
    from gi2nnunet.scoring.masks import find_truth, read_masks
    from gi2nnunet.scoring.record import format_slices
    from gi2nnunet.scoring.score import score_submission

    require_positive(jobs=jobs)
    require_convention(metric)
    if not 0 <= tolerance_mm < math.inf:
        raise ValueError(f"tolerance_mm: found {tolerance_mm!r}; expected 0 or more")
    if per_slice:
        check_place(Path(per_slice))
    known = open_scans(images, orientation=orientation)
    predicted = read_masks(Path(submission), orientation=orientation)
    space = find_workspace(workspace)
    if truth is None:
        true = find_truth(Path(submission), predicted, workspace=space, dataset_id=dataset_id)
    else:
        true = read_masks(Path(truth), truth=True, orientation=orientation)
    spacing_mm = {name: scan.spacing_mm for name, scan in known.items()}
    if (medical or per_slice) and set(true.scan_ids) - spacing_mm.keys():
        from gi2nnunet.scoring.spacing import find_spacings  # takes as long as a small score

        spacing_mm = {
            **find_spacings(
                true, Path(truth or submission), workspace=space, dataset_id=dataset_id,
                orientation=orientation,
            ),
            **spacing_mm,
        }  # fmt: skip
    result = score_submission(
        predicted, true,
        metric=metric, scans=scans, medical=medical, tolerance_mm=tolerance_mm,
        sizes={name: scan.size for name, scan in known.items()} or None,
        spacing_mm=spacing_mm, jobs=jobs, progress=progress,
    )  # fmt: skip
    if per_slice:
        replace_file(Path(per_slice), format_slices(result))
    return result


@dataclass(frozen=True, kw_only=True)
class _Compare:
    """Arguments of :func:`compare`."""

    a: FilePath = field(kw_only=False)
    b: FilePath = field(kw_only=False)
    truth: FilePath | None = field(default=None, kw_only=False)
    metric: Metric = "per-class"
    scans: ScanChoice = "all"
    images: FilePath | None = None
    orientation: Orientation = "affine"
    workspace: FilePath | None = None
    dataset_id: int | None = None
    seed: int = 0
    jobs: int | None = None
    progress: Progress | None = None


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
    metric, scans, images, orientation
        See :func:`score`.

    Raises
    ------
    InputError
        If there is nothing of a name, several fit, or the predictions of a model are missing; and
        as :func:`score` does.
    """
    from gi2nnunet.scoring.compare import Side, compare_submissions
    from gi2nnunet.scoring.conventions import require_convention
    from gi2nnunet.scoring.masks import read_masks
    from gi2nnunet.upkeep.named import find_common_truth, find_masks

    require_positive(jobs=asked.jobs)
    require_convention(asked.metric)
    space = find_workspace(asked.workspace)
    sides = find_masks(
        [str(asked.a), str(asked.b)], workspace=space, dataset_id=asked.dataset_id,
        orientation=asked.orientation, jobs=asked.jobs, progress=asked.progress,
    )  # fmt: skip
    if asked.truth is None:
        truth = find_common_truth(sides, workspace=space, dataset_id=asked.dataset_id)
    else:
        truth = read_masks(Path(asked.truth), truth=True, orientation=asked.orientation)
    known = open_scans(asked.images, orientation=asked.orientation)
    found = compare_submissions(
        sides[0].table, sides[1].table, truth,
        metric=asked.metric, scans=asked.scans, seed=asked.seed, jobs=asked.jobs,
        sizes={name: scan.size for name, scan in known.items()} or None, progress=asked.progress,
    )  # fmt: skip
    named = [Side(name=s.name, taken=s.taken, standing=s.standing) for s in sides]
    return replace(found, sides=tuple(named), truth=truth.name)


def open_scans(
    images: FilePath | None, *, orientation: Orientation = "affine"
) -> Mapping[str, Scan]:
    """Return the scans of a source by id; they have sizes and spacings. None without a source."""
    if images is None:
        return {}
    from gi2nnunet.source.open import open_source
    from gi2nnunet.source.scan import SourceOptions

    options = SourceOptions(truth=False, allow_missing=True, orientation=orientation)
    return open_source(images, options).scans


@dataclass(frozen=True, kw_only=True)
class _Report:
    """Arguments of :func:`write_report`."""

    out: FilePath | None = field(default=None, kw_only=False)
    prediction: FilePath | None = None
    scan: str | Sequence[str] | None = None
    show_all: bool = False
    workspace: FilePath | None = None
    dataset_id: int | None = None
    progress: Progress | None = None


@take_fields(_Report)
def write_report(asked: _Report) -> Path:
    """Write one HTML page: data, folds, curves, scores and slices.

    Parameters
    ----------
    out
        The page; by default ``report.html`` in the workspace.
    prediction
        Folder of :func:`predict` or :func:`predict_and_score`; by default the workspace's newest.
    scan
        Scans to show slices of; by default some of the worst, middle and best.

    Raises
    ------
    InputError
        If the workspace holds no dataset, or the prediction or a scan does not exist.
    """
    return make_report(**vars(asked)).path


@take_fields(_Report)
def make_report(asked: _Report) -> WrittenReport:
    """Write the page as :func:`write_report` does, and return what is on it."""
    from gi2nnunet.report.gather import gather_report
    from gi2nnunet.report.page import write_report as write_page

    space = find_workspace(asked.workspace)
    report = gather_report(
        space, dataset_id=asked.dataset_id, scans=list_texts(asked.scan),
        prediction=Path(asked.prediction) if asked.prediction else None,
        show_all=asked.show_all, progress=asked.progress,
    )  # fmt: skip
    out = Path(asked.out) if asked.out else space.predictions.parent / "report.html"
    return write_page(report, out)
