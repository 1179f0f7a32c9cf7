"""JSON objects that the commands print with ``--json``: a type for each, and its schema.

``docs/_static/json/`` holds the schemas; ``python -m gi2nnunet.cli.json_types FOLDER`` writes them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import (
    Any,
    Literal,
    NotRequired,  # pydantic needs it until Python 3.12
)

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema
from typing_extensions import TypedDict

from gi2nnunet.cli.output import JSON_FORMAT
from gi2nnunet.core.errors import Finding
from gi2nnunet.core.files import write_json
from gi2nnunet.nnunet.engine import PredictionCost
from gi2nnunet.nnunet.models import Fold
from gi2nnunet.nnunet.postprocess import OrganRecords
from gi2nnunet.prediction.choose import Standing
from gi2nnunet.scoring.compare import Difference, PatientChange, ScanChange, Side
from gi2nnunet.scoring.conventions import Metric, TunedMetric
from gi2nnunet.source.check.suspects import Suspect, Tested
from gi2nnunet.training.doctor import Verdict
from gi2nnunet.training.estimate import Pace, TrainingCost
from gi2nnunet.tuning.compare_models import ModelEntry
from gi2nnunet.upkeep.jobs import JobStatus, State
from gi2nnunet.upkeep.remove import RemovedPiece
from gi2nnunet.upkeep.status import WorkspaceStatus


class Phantom(TypedDict):
    """A made-up source: its scans and patients by part."""

    source: Path
    solution: Path | None
    scans: dict[str, int]
    patients: dict[str, int]
    slices: int
    masks: int


class Converted(TypedDict):
    """A dataset: its scans and patients by part, and how labels were read."""

    dataset: Path
    id: int
    folds: int
    scans: dict[str, int]
    patients: dict[str, int]
    labels: list[str]
    warnings: tuple[str, ...]


class Page(TypedDict):
    """A page that was written."""

    path: Path
    bytes: int


class Geometry(TypedDict):
    """A size that scans have; shape and spacing are ``(z, y, x)``."""

    shape: list[int]
    spacing_mm: list[float]
    scans: int


class Checked(TypedDict):
    """What a source holds. Shares by tenth of the height begin at the cranial end."""

    source: str
    kind: str
    parts: dict[str, dict[str, int]]
    geometries: list[Geometry]
    patients_by_scans: dict[str, int]
    prevalence_by_tenth_of_height: dict[str, list[float | None]]
    empty_by_tenth_of_height: list[float | None]
    volume_ml: dict[str, dict[str, float] | None]
    overlaps: dict[str, dict[str, int]]
    intensity: dict[str, dict[str, float]]
    known_bad: dict[str, str]
    suspects: list[Suspect]
    tested: list[Tested]
    labels: list[str]
    warnings: list[str]
    page: NotRequired[Page]


class CheckedCard(TypedDict):
    """A GPU; ``why_not_computes`` and ``why_not_compiles`` are empty if it does."""

    index: int
    name: str
    capability: str
    memory_gib: float
    free_gib: float | None
    tested: bool
    why_not_computes: str
    why_not_compiles: str


class Diagnosed(TypedDict):
    """Whether this machine can do a training."""

    fit: bool
    dataset: str | None
    checks: list[Verdict]
    cards: list[CheckedCard]
    driver: NotRequired[str | None]
    torch: NotRequired[str]
    torch_kernels: NotRequired[list[str]]
    torch_warnings: NotRequired[list[str]]


class Total(TypedDict):
    """Seconds of all trainings, summed over the devices and by the clock."""

    device_seconds: float
    device_seconds_left: float
    wall_seconds_left: float


class Estimated(TypedDict):
    """Seconds and bytes that trainings will need."""

    dataset: str
    preset: str
    plan: str
    device: str
    on_cards: bool
    cards: int
    paces: dict[str, Pace]
    trainings: list[TrainingCost]
    preparing_seconds: float
    predicting_seconds: dict[str, float | None]
    disk_bytes: dict[str, int]
    memory_bytes: dict[str, int]
    gpu_memory_gib: float | None
    notes: list[str]
    total: Total


class Configuration(TypedDict):
    """A planned configuration; sizes are ``(z, y, x)`` or ``(y, x)``."""

    patch_size: tuple[int, ...]
    batch_size: int
    spacing_mm: tuple[float, ...]
    folder: Path


class Planned(TypedDict):
    """Plans, and the log of planning if it was done now."""

    preset: str
    plans: str
    file: Path
    configurations: dict[str, Configuration]
    log: Path | None


class Training(TypedDict):
    """A training; the numbers are those of its last epoch, if it trained now."""

    configuration: str
    fold: Fold
    folder: Path
    outcome: Literal["trained", "resumed", "kept"]
    log: Path | None
    epochs: int | None
    train_loss: float | None
    val_loss: float | None
    pseudo_dice: dict[str, float] | None
    epoch_seconds: float | None


class Trained(TypedDict):
    """Finished trainings."""

    plan: Planned
    trainings: list[Training]


class Submitted(TypedDict):
    """Slurm's ids of new jobs, and the states of those that were there already, by name."""

    submitted: dict[str, str]
    left_alone: dict[str, State]


class PlannedJob(TypedDict):
    """A job that would be submitted, and the words of its command."""

    job: str
    after: tuple[str, ...]
    gpus: int
    words: tuple[str, ...]


class PlannedJobs(TypedDict):
    """Jobs that would be submitted."""

    jobs: list[PlannedJob]


class Jobs(TypedDict):
    """Submitted jobs, and how many are not finished."""

    jobs: list[JobStatus]
    left: int


class Exported(TypedDict):
    """A model file; ``tuning`` is the file of the tuned settings that it includes."""

    file: Path
    bytes: int
    models: str
    tuning: Path | None


class Imported(TypedDict):
    """Folders of models that were written, and of those that were there already."""

    id: int
    written: tuple[Path, ...]
    left_alone: tuple[Path, ...]
    tuning: Path | None


class HiddenPrediction(TypedDict):
    """A submission of a hidden test set, and how many of its scans were predicted."""

    submission: Path
    scans: int
    predicted: int
    tuning: Path | None
    warnings: tuple[str, ...]


class Bundle(TypedDict):
    """A folder for Kaggle, and the commands that upload it, run it and submit."""

    folder: Path
    bytes: int
    models: str
    tuning: Path | None
    wheels: tuple[str, ...]
    commands: tuple[str, ...]


class Encoded(TypedDict):
    """A submission of label volumes, and how their labels were read."""

    file: Path
    rows: int
    scans: int
    labels: tuple[str, ...]


class DicomFiles(TypedDict):
    """DICOM files, and the voxels of each organ."""

    files: tuple[Path, ...]
    voxels: dict[str, int]


class OrganScore(TypedDict):
    """Score of an organ, how many Dice values and distances were counted, scans without it.

    ``n_missed`` scans have it only in the truth, ``n_extra`` only in the prediction.
    """

    score: float
    dice: float
    hausdorff: float
    n_rows: int
    n_units: int
    n_missed: int
    n_extra: int


class ScanScore(TypedDict):
    """Score of a scan; ``medical`` are its measures by organ, if requested.

    Organs that are only in the truth are ``missed``, those only in the prediction ``extra``.
    """

    scan_id: str
    patient_id: str
    score: float
    dice: float
    hausdorff: float
    per_organ: dict[str, OrganScore]
    missed: list[str]
    extra: list[str]
    spacing_mm: NotRequired[tuple[float, float, float]]
    medical: NotRequired[dict[str, dict[str, float]]]


class Means(TypedDict):
    """A score of a submission."""

    metric: Metric
    score: float
    dice: float
    hausdorff: float
    per_organ: dict[str, OrganScore]
    per_scan: list[ScanScore]
    tolerance_mm: NotRequired[float]
    medical: NotRequired[dict[str, dict[str, float]]]
    scope: NotRequired[str]
    misread: NotRequired[str]


class Scored(Means):
    """A score; intervals are ``[value, low, high]`` by quantity."""

    warnings: tuple[str, ...]
    standing: NotRequired[Standing]
    intervals: NotRequired[dict[str, tuple[float, float, float]]]


class BetterPatients(TypedDict):
    """In how many patients each one is better."""

    a: int
    b: int
    same: int


class Compared(TypedDict):
    """Differences ``b - a`` of two submissions, by quantity, patient and scan."""

    a: Side
    b: Side
    truth: str
    metric: Metric
    better: Literal["a", "b"] | None
    patients_better: BetterPatients
    differences: dict[str, Difference]
    patients: list[PatientChange]
    scans: list[ScanChange]
    n_patients: int
    n_resamples: int
    confidence: float
    seed: int
    scope: NotRequired[str]
    page: NotRequired[Page]


class Gain(TypedDict):
    """Score with plain and with tuned settings; the gain and both with an interval."""

    plain: float
    tuned: float
    low: float
    high: float
    tuned_low: float
    tuned_high: float
    gain: float


class Tuned(TypedDict):
    """Settings of each organ that are used, those that were found, and their gains."""

    file: Path
    metric: TunedMetric
    decision: OrganRecords
    found: OrganRecords
    gains: dict[str, Gain]
    n_scans: int
    n_patients: int
    n_folds: int
    seed: int
    standing: Literal["out-of-fold", "seen-patient"]


class AppliedTuning(TypedDict):
    """Tuned settings that decided the masks."""

    file: Path
    metric: TunedMetric | None
    decision: OrganRecords
    found: OrganRecords | None
    gains: dict[str, dict[str, float]]
    n_scans: int | None
    n_patients: int | None
    n_folds: int | None
    standing: Literal["out-of-fold", "seen-patient"] | None


class Computing(TypedDict):
    """What predicted values depend on."""

    device: str
    threads: int
    mirroring: bool
    step_size: float


class Predicted(TypedDict):
    """Files of a prediction, the submission first, and what a score of it would mean."""

    submission: Path
    standing: Standing
    labels: tuple[str, ...]
    files: list[Path]
    seconds_per_scan: float
    computing: Computing
    tuning: AppliedTuning | None


class PredictedAndScored(Predicted, Means):
    """A prediction, and its score."""


class OutOfFold(TypedDict):
    """Stored predictions by configuration, the fold of each scan, and what they took."""

    folders: dict[str, Path]
    folds: dict[str, Fold]
    costs: dict[str, PredictionCost]


class ComparedModels(TypedDict):
    """Models, best first, and the command that predicts with the recommended one."""

    metric: TunedMetric
    entries: list[ModelEntry]
    recommended: str
    command: str
    advice: str
    warnings: list[str]


class Report(TypedDict):
    """A page, the scans of which it shows slices, and what is still missing."""

    report: Path
    bytes: int
    scans: list[str]
    missing: list[str]


class Verified(TypedDict):
    """What is not as it was recorded; ``notes`` say what could not be checked."""

    sound: bool
    datasets: list[str]
    checks: int
    quick: bool
    findings: list[Finding]
    notes: list[str]


class Removed(TypedDict):
    """Pieces that were removed, or would be."""

    removed: bool
    pieces: list[RemovedPiece]
    bytes: int


OUTPUT: dict[str, Any] = {
    "phantom": Phantom,
    "check": Checked,
    "convert": Converted,
    "doctor": Diagnosed,
    "estimate": Estimated,
    "plan": Planned,
    "train": Trained | Submitted | PlannedJobs,
    "jobs": Jobs,
    "export-model": Exported,
    "import-model": Imported,
    "predict": Predicted,
    "predict-and-score": PredictedAndScored | Predicted,
    "predict-hidden": HiddenPrediction,
    "kaggle-bundle": Bundle,
    "encode": Encoded,
    "export-dicom": DicomFiles,
    "score": Scored,
    "compare": Compared,
    "out-of-fold": OutOfFold,
    "tune": Tuned,
    "compare-models": ComparedModels,
    "report": Report,
    "status": WorkspaceStatus,
    "verify": Verified,
    "remove": Removed,
}
"""What each command prints with ``--json``, beside its ``format``."""


class _Schema(GenerateJsonSchema):
    """Schemas in which a number may be null, as NaN and infinity are printed."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False  # it only repeats the key

    def float_schema(self, schema: core_schema.FloatSchema) -> JsonSchemaValue:
        return {**super().float_schema(schema), "type": ["number", "null"]}

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        inner = self.generate_inner(schema["schema"])
        return inner if "null" in inner.get("type", ()) else super().nullable_schema(schema)


def describe_json(command: str) -> dict[str, Any]:
    """Return the JSON schema of what a command prints with ``--json``."""
    schema = TypeAdapter(OUTPUT[command]).json_schema(
        mode="serialization", schema_generator=_Schema
    )
    kinds = schema.get("anyOf")
    named = [schema["$defs"][kind["$ref"].rpartition("/")[2]] for kind in kinds or ()] or [schema]
    for one in named:
        one["properties"] = {"format": {"const": JSON_FORMAT}} | one["properties"]
        one["required"] = list(dict.fromkeys(("format", *one.get("required", ()))))
    schema["$schema"] = GenerateJsonSchema.schema_dialect
    schema["title"] = f"gi2nnunet {command} --json"
    return schema


def write_schemas(folder: Path) -> None:
    """Write the schema of each command into a folder, as ``COMMAND.schema.json``."""
    for command in OUTPUT:
        write_json(folder / f"{command}.schema.json", describe_json(command))


if __name__ == "__main__":
    write_schemas(Path(sys.argv[1]))
