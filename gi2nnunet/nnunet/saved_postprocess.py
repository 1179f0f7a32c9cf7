"""The file that keeps what tuning chose, beside the models it was chosen for."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from gi2nnunet.core.errors import InputError
from gi2nnunet.core.files import read_json_object, write_json
from gi2nnunet.nnunet.models import Ensemble, Fold, TrainedModel, digest_checkpoint
from gi2nnunet.nnunet.postprocess import Decision, read_decision
from gi2nnunet.scoring.bootstrap import Gain
from gi2nnunet.scoring.conventions import TunedMetric

"""Conventions in which what one organ adds to the means does not depend on the others' masks."""

_FORMAT = 1
_AGAIN = "Make it again with gi2nnunet tune, or predict with --no-tuning."


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What was chosen for a set of models.

    Attributes
    ----------
    path
        The file.
    decision
        How to decide.
    content
        All that the file tells.
    """

    path: Path
    decision: Decision
    content: Mapping[str, Any]

    def pack(self) -> dict[str, Any]:
        """Return what goes along with the models, for :func:`adopt_tuning`."""
        return {k: v for k, v in self.content.items() if k not in ("models", "checkpoints")}

    def list_differences(self, computing: Mapping[str, Any]) -> list[str]:
        """Return warnings where the networks run otherwise than when this was chosen.

        Mirroring and step count: they change the probabilities that thresholds were chosen on.
        Device and threads change their last bits alone. A file that does not tell is not judged.
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
        """Return what a score tells of it."""
        keys = ("metric", "decision", "found", "gains", "n_scans", "n_patients", "n_folds")
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
    """Write what was chosen, how its predictions were computed, and the command; return the file.

    Raises
    ------
    OutputError
        Where it cannot be written.
    """
    told = {"computing": dict(computing)} if computing else {}
    content = {"format": _FORMAT, **tuning.to_json(), **told, "command": command}
    return _write(content, models, folds)


def adopt_tuning(content: Mapping[str, Any], models: Sequence[TrainedModel]) -> Path:
    """Write what came along with imported models; return the file.

    Raises
    ------
    InputError
        Where it is damaged, or for other models.
    OutputError
        Where it cannot be written.
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


def find_tuning(ensemble: Ensemble) -> tuple[Tuned | None, list[str]]:
    """Return what was chosen for these models, and warnings; ``None`` where nothing was.

    What was chosen on other checkpoints than those at hand is passed over, with a warning.

    Raises
    ------
    InputError
        Where the file is damaged.
    """
    path = tuning_path(ensemble.models)
    if not path.is_file():
        return None, []
    content = read_json_object(path, remedy=_AGAIN)
    try:
        if content["format"] != _FORMAT or not isinstance(content["gains"], dict):
            raise ValueError(f"found format {content['format']!r}; expected {_FORMAT}")
        if content["models"] != sorted(model.folder.name for model in ensemble.models):
            raise ValueError("found the choice for other models")
        if not isinstance(content.get("computing", {}), dict):
            raise ValueError(f"computing: found {content['computing']!r}")
        decision = read_decision(content["decision"])
        known = {model.configuration for model in ensemble.models}
        for organ, choice in decision.organs.items():
            if unknown := {name for name, _ in choice.weights} - known:
                raise ValueError(f"{organ}: found a weight of {', '.join(sorted(unknown))}")
        checkpoints = {
            (model, int(fold) if fold.isdecimal() else fold): digest
            for model in ensemble.models
            for fold, digest in content["checkpoints"][model.folder.name].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: is damaged: {error}. {_AGAIN}") from error
    for (model, fold), digest in checkpoints.items():
        if fold in model.folds and digest_checkpoint(model, fold) != digest:
            return None, [
                f"{path}: was chosen before {model.configuration} fold {fold} was trained anew, "
                "so it is not used; run gi2nnunet tune again"
            ]
    return Tuned(path=path, decision=decision, content=content), []


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What was chosen, and what it gains.

    Attributes
    ----------
    metric
        The convention.
    decision
        What to decide by: the organs whose choice gains, with those properties alone that do.
    found
        What the search found for every organ, made or not.
    gains
        Cross-fitted: by organ, with its choice alone and the others plain, its interval at
        :data:`~gi2nnunet.scoring.bootstrap.CONFIDENCE_OF_EACH`; and for ``all``, each fold with
        what the other folds would have made of it, at
        :data:`~gi2nnunet.scoring.bootstrap.CONFIDENCE`.
    n_scans, n_patients, n_folds
        What it was chosen on.
    seed
        Of the intervals' draws.
    fewest_patients
        By chance alone all of fewer would gain more often than the intervals allow for.
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

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values; NaN becomes ``None``."""
        return {
            "metric": self.metric,
            "decision": self.decision.to_json(),
            "found": self.found.to_json(),
            "gains": {
                name: {
                    key: None if math.isnan(value) else value
                    for key, value in (*vars(gain).items(), ("gain", gain.gain))
                }
                for name, gain in self.gains.items()
            },
            "n_scans": self.n_scans,
            "n_patients": self.n_patients,
            "n_folds": self.n_folds,
            "seed": self.seed,
        }
