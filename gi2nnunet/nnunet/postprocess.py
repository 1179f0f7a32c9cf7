"""Post-processing from probabilities to masks, organ by organ, and the file that keeps it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NotRequired

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field
from scipy import ndimage
from typing_extensions import TypedDict

from gi2nnunet.core.errors import InputError
from gi2nnunet.core.files import Count, find_record, read_record, write_json
from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.formats.labels import LabelMap, find_box, join_organs
from gi2nnunet.nnunet.models import Ensemble, Fold, TrainedModel, digest_checkpoint
from gi2nnunet.scoring.bootstrap import Gain
from gi2nnunet.scoring.conventions import TunedMetric
from gi2nnunet.scoring.result import to_plain

_NEIGHBOURS = np.ones((3, 3, 3), np.bool_)  # voxels that touch in a corner hold together


@dataclass(frozen=True, kw_only=True)
class OrganDecision:
    """How one organ's mask is made; the default is the mean above one half.

    Attributes
    ----------
    weights
        Weight of each configuration's probability, by name, with sum 1; empty for the mean.
    threshold
        The mask is where the blended probability exceeds it.
    gate
        A slice with no probability above it has no mask; 0 keeps all.
    smallest_ml
        Connected parts (26 neighbours) of less volume are dropped; 0 keeps all.
    fill_slices
        Up to so many empty slices between two others are filled with the overlap of those two.
    """

    weights: tuple[tuple[str, float], ...] = ()
    threshold: float = 0.5
    gate: float = 0.0
    smallest_ml: float = 0.0
    fill_slices: int = 0


PLAIN = OrganDecision()
"""The mean of the configurations, above one half."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """How masks are made of probabilities, by organ; the default is the mean above one half."""

    organs: Mapping[str, OrganDecision] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values, the inverse of :func:`read_decision`."""
        return {
            organ: {**asdict(choice), "weights": dict(choice.weights)}
            for organ, choice in self.organs.items()
        }


def _check_sum(weights: dict[str, float]) -> dict[str, float]:
    if weights and not math.isclose(sum(weights.values()), 1, abs_tol=1e-6):
        raise ValueError("weights that add up to 1")
    return weights


_Share = Annotated[float, Field(ge=0, le=1)]


class OrganRecord(TypedDict):
    """An :class:`OrganDecision` as it is in a file."""

    weights: Annotated[dict[str, _Share], AfterValidator(_check_sum)]
    threshold: _Share
    gate: _Share
    smallest_ml: Annotated[float, Field(ge=0, le=1e6)]
    fill_slices: Annotated[int, Field(ge=0, le=1000)]


OrganRecords = dict[Literal["large_bowel", "small_bowel", "stomach"], OrganRecord]


class TuningNote(TypedDict):
    """What a score records of a tuning."""

    decision: OrganRecords
    gains: dict[str, dict[str, float | None]]
    found: NotRequired[OrganRecords | None]
    metric: NotRequired[str | None]
    n_scans: NotRequired[Count | None]
    n_patients: NotRequired[Count | None]
    n_folds: NotRequired[Count | None]
    standing: NotRequired[Literal["out-of-fold", "seen-patient"] | None]
    file: NotRequired[str]
    models: NotRequired[list[str]]
    command: NotRequired[str]


class TuningRecord(TuningNote):
    """The file of a tuning."""

    format: Literal[1]
    checkpoints: dict[str, dict[str, str]]
    computing: NotRequired[dict[str, Any]]


def read_decision(content: Mapping[Any, OrganRecord]) -> Decision:
    """Undo :meth:`Decision.to_json`."""
    organs = {
        organ: OrganDecision(
            weights=tuple(values["weights"].items()),
            threshold=values["threshold"],
            gate=values["gate"],
            smallest_ml=values["smallest_ml"],
            fill_slices=values["fill_slices"],
        )
        for organ, values in content.items()
    }
    return Decision(organs=organs)


def apply_decision(
    probabilities: Mapping[str, NDArray[np.floating]],
    decision: Decision,
    *,
    spacing_mm: Sequence[float],
) -> LabelMap:
    """Return the bit-coded label map ``(z, y, x)``.

    Parameters
    ----------
    probabilities
        By configuration, ``(organ, z, y, x)`` in [0, 1], slices in order.
    """
    return join_organs(
        [
            decide_organ(
                {name: array[index] for name, array in probabilities.items()},
                decision.organs.get(organ, PLAIN),
                voxel_ml=math.prod(spacing_mm) / 1000,
            )
            for index, organ in enumerate(ORGANS)
        ]
    )


def decide_organ(
    probabilities: Mapping[str, NDArray[np.generic]],
    choice: OrganDecision,
    *,
    voxel_ml: float,
    scale: float = 1.0,
) -> NDArray[np.bool_]:
    """Return one organ's mask ``(z, y, x)``.

    Parameters
    ----------
    probabilities
        By configuration, ``(z, y, x)``.
    scale
        The value of probability 1: 255 for eight bits.
    """
    blended = blend(probabilities, choice.weights)
    mask: NDArray[np.bool_] = blended > choice.threshold * scale
    if choice.gate > choice.threshold:
        mask[blended.max(axis=(1, 2), initial=0) <= choice.gate * scale] = False
    if choice.smallest_ml > 0 and mask.any():
        _drop_small(mask, least=choice.smallest_ml / voxel_ml)
    if choice.fill_slices:
        _fill_gaps(mask, most=choice.fill_slices)
    return mask


def blend(
    probabilities: Mapping[str, NDArray[np.generic]], weights: Sequence[tuple[str, float]]
) -> NDArray[np.float32]:
    """Return the weighted mean of the configurations; without weights the plain mean."""
    used = dict(weights) or dict.fromkeys(probabilities, 1 / len(probabilities))
    total: NDArray[np.float32] | None = None
    for name, weight in used.items():
        if weight == 0:
            continue
        if name not in probabilities:
            raise ValueError(f"no probabilities of {name}")
        part = np.multiply(probabilities[name], np.float32(weight), dtype=np.float32)
        total = part if total is None else np.add(total, part, out=total)
    if total is None:
        raise ValueError("no configuration has a weight")
    return total


def _drop_small(mask: NDArray[np.bool_], *, least: float) -> None:
    box = find_box(mask)
    parts, count = ndimage.label(mask[box], _NEIGHBOURS)
    sizes = np.bincount(parts.reshape(-1), minlength=count + 1)
    keep = sizes >= least
    keep[0] = False
    mask[box] = keep[parts]


def _fill_gaps(mask: NDArray[np.bool_], *, most: int) -> None:
    filled = np.flatnonzero(mask.any(axis=(1, 2)))
    for before, after in zip(filled[:-1].tolist(), filled[1:].tolist(), strict=True):
        if 1 < after - before <= most + 1:
            mask[before + 1 : after] = mask[before] & mask[after]


_FORMAT = 1
_AGAIN = "Make it again with gi2nnunet tune, or predict with --no-tuning."


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """Settings that tuning saved for a set of models; ``content`` is that of the whole file."""

    path: Path
    decision: Decision
    content: TuningRecord

    def pack(self) -> dict[str, Any]:
        """Return the content to pass on with the models, for :func:`adopt_tuning`."""
        return {k: v for k, v in self.content.items() if k not in ("models", "checkpoints")}

    def list_differences(self, computing: Mapping[str, Any]) -> list[str]:
        """Return warnings if the networks run with other settings than when these were chosen.

        Mirroring and step size change the probabilities that thresholds were chosen on; device and
        threads only their last bits. A file that does not record them is not judged.
        """
        recorded = self.content.get("computing") or {}
        differing = [
            (key, recorded[key], computing[key])
            for key in ("mirroring", "step_size")
            if key in recorded and key in computing and recorded[key] != computing[key]
        ]
        return [
            f"{self.path}: was chosen with {_name_setting(key, before)}, and this predicts with "
            f"{_name_setting(key, now)}, so its thresholds may not fit; give the same options, or "
            "run gi2nnunet tune with these"
            for key, before, now in differing
        ]

    def describe(self) -> dict[str, Any]:
        """Return what a score records of it."""
        keys = (
            "metric", "decision", "found", "gains", "n_scans", "n_patients", "n_folds", "standing",
        )  # fmt: skip
        return {"file": str(self.path), **{key: self.content.get(key) for key in keys}}


def _name_setting(key: str, value: object) -> str:
    if key == "mirroring":
        return f"mirroring {'on' if value else 'off'}"
    return f"a sliding-window step of {value}"


def tuning_path(models: Sequence[TrainedModel]) -> Path:
    """Return the file of a set of models; another set has another."""
    names = sorted(model.folder.name for model in models)
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:12]
    return models[0].folder.parent / f"gi2nnunet_tuning_{digest}.json"


def save_tuning(
    tuning: Tuning,
    models: Sequence[TrainedModel],
    folds: Sequence[Fold],
    *,
    computing: Mapping[str, Any] | None = None,
    command: str = "",
) -> Path:
    """Write the tuning, how its predictions were computed, and the command; return the file.

    Raises :class:`OutputError` if it cannot be written.
    """
    made_by = {"computing": dict(computing)} if computing else {}
    content = {"format": _FORMAT, **tuning.to_json(), **made_by, "command": command}
    return _write(content, models, folds)


def adopt_tuning(content: Mapping[str, Any], models: Sequence[TrainedModel]) -> Path:
    """Write the tuning of imported models; return the file.

    Raises
    ------
    InputError
        If it is damaged, or for other models.
    OutputError
        If it cannot be written.
    """
    path = _write(content, models, sorted(set(models[0].folds), key=str))
    ensemble = Ensemble(models=tuple(models), folds=models[0].folds, chosen_by="imported")
    try:
        find_tuning(ensemble)
    except InputError:
        path.unlink()
        raise
    return path


def _write(
    content: Mapping[str, Any], models: Sequence[TrainedModel], folds: Sequence[Fold]
) -> Path:
    path = tuning_path(models)
    about = {
        "models": sorted(model.folder.name for model in models),
        "checkpoints": {
            model.folder.name: {str(fold): digest_checkpoint(model, fold) for fold in folds}
            for model in models
        },
    }
    write_json(path, {**content, **about})
    return path


def list_tunings(results: Path) -> tuple[dict[Path, TuningRecord], list[str]]:
    """Return the files of tunings in nnU-Net's results folder of a dataset, and what is damaged.

    Whether they are of the models that are there now is not looked at; see :func:`find_tuning`.
    """
    found: dict[Path, TuningRecord] = {}
    damaged: list[str] = []
    for path in sorted(results.glob("gi2nnunet_tuning_*.json")):
        again = f"{path.name} is damaged, so its settings are not shown. Run gi2nnunet tune again."
        try:
            found[path] = read_record(path, TuningRecord, remedy=again)
        except InputError as error:
            damaged.append(str(error))
    return found, damaged


def find_tuning(ensemble: Ensemble) -> tuple[Tuned | None, list[str]]:
    """Return the settings that tuning saved for these models, if any, and warnings.

    Settings that were chosen on other checkpoints than these are not used, with a warning.

    Raises
    ------
    InputError
        If the file is damaged.
    """
    path = tuning_path(ensemble.models)
    if (content := find_record(path, TuningRecord, remedy=_AGAIN)) is None:
        return None, []
    names = sorted(model.folder.name for model in ensemble.models)
    known = {model.configuration for model in ensemble.models}
    unknown = {name for o in content["decision"].values() for name in o["weights"]} - known
    wrong = ""
    if content.get("models") != names or not set(names) <= set(content["checkpoints"]):
        wrong = "models: found the choice for other models"
    elif unknown:
        wrong = f"decision: found a weight of {', '.join(sorted(unknown))}"
    if wrong:
        raise InputError(f"{path}: {wrong}; expected {', '.join(names)}. {_AGAIN}")
    checkpoints = {
        (model, int(fold) if fold.isdecimal() else fold): digest
        for model in ensemble.models
        for fold, digest in content["checkpoints"][model.folder.name].items()
    }
    for (model, fold), digest in checkpoints.items():
        if fold in model.folds and digest_checkpoint(model, fold) != digest:
            return None, [
                f"{path}: was chosen before {model.configuration} fold {fold} was trained again, "
                "so it is not used; run gi2nnunet tune again"
            ]
    return Tuned(path=path, decision=read_decision(content["decision"]), content=content), []


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """Result of a tuning, and its gain.

    Attributes
    ----------
    decision
        The settings to use: only for organs with a gain, and only those settings that help.
    found
        What the search found for every organ, used or not.
    gains
        Cross-fitted: by organ, tuned with the other organs plain, with an interval at
        :data:`~gi2nnunet.scoring.bootstrap.CONFIDENCE_OF_EACH`; and for ``all``, each fold with the
        settings that the other folds give, at :data:`~gi2nnunet.scoring.bootstrap.CONFIDENCE`.
    standing
        ``"seen-patient"`` if some predictions are by a model that saw another scan of the patient.
    fewest_patients
        With fewer patients, all of them gain by chance more often than the intervals allow for.
    """

    fewest_patients: ClassVar[int] = 7

    metric: TunedMetric
    decision: Decision
    found: Decision
    gains: Mapping[str, Gain]
    n_scans: int
    n_patients: int
    n_folds: int
    seed: int = 0
    standing: Literal["out-of-fold", "seen-patient"] = "out-of-fold"

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values; NaN becomes ``None``."""
        return {
            "metric": self.metric,
            "decision": self.decision.to_json(),
            "found": self.found.to_json(),
            "gains": {
                name: to_plain({**vars(gain), "gain": gain.gain})
                for name, gain in self.gains.items()
            },
            "n_scans": self.n_scans,
            "n_patients": self.n_patients,
            "n_folds": self.n_folds,
            "seed": self.seed,
            "standing": self.standing,
        }
