"""History of a dataset: what its trainings cost, its tunings, and what is missing."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gi2nnunet.core.files import find_record
from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.nnunet.engine import COST, PredictionCost
from gi2nnunet.nnunet.models import is_fold_number
from gi2nnunet.nnunet.postprocess import OrganDecision, TuningNote, list_tunings, read_decision
from gi2nnunet.pages.template import DASH
from gi2nnunet.prediction.folders import PredictionRecord
from gi2nnunet.training.record import TrainedFold


def find_unfinished(trainings: Sequence[TrainedFold], *, n_folds: int) -> list[str]:
    """Return trainings that are not finished, and folds of the split that a model does not have."""
    lines = []
    for training in trainings:
        if not training.finished:
            then = "" if training.running else " Run the same gi2nnunet train again to continue it."
            lines.append(f"{training.name} ({training.plans_name}): {training.state}.{then}")
    models: dict[tuple[str, str, str], set[str]] = {}
    for training in trainings:
        key = (training.configuration, training.plans_name, training.trainer)
        models.setdefault(key, set()).add(training.fold)
    for (configuration, plans_name, _), begun in models.items():
        numbers = {int(fold) for fold in begun if is_fold_number(fold)}
        missing = [str(number) for number in range(n_folds) if number not in numbers]
        if numbers and missing:
            folds, are = ("folds", "are") if len(missing) > 1 else ("fold", "is")
            lines.append(
                f"{configuration} ({plans_name}): {folds} {', '.join(missing)} of {n_folds} {are} "
                "not begun. Run gi2nnunet train --fold cv with the same options to train the rest."
            )
    return lines


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Time and memory of one step; ``None`` if unknown.

    Attributes
    ----------
    amount, unit
        How many of what: epochs, scans.
    memory_bytes, gpu_bytes
        The most that one process used, and that PyTorch used on the GPU.
    """

    step: str
    amount: int | None
    unit: str
    seconds: float | None
    memory_bytes: int | None
    gpu_bytes: int | None
    device: str

    @property
    def seconds_each(self) -> float | None:
        """Return the mean time of one."""
        return self.seconds / self.amount if self.seconds is not None and self.amount else None


def list_costs(
    trainings: Sequence[TrainedFold], *, prediction: Path | None, out_of_fold: Path
) -> tuple[Cost, ...]:
    """Return time and memory of trainings, out-of-fold predictions and the prediction.

    ``out_of_fold`` has a folder of predictions for each model, made by ``tune``.
    """
    rows = [
        Cost(
            step=f"training {training.name}",
            amount=len(training.epochs),
            unit="epoch",
            seconds=training.seconds,
            memory_bytes=training.peak("peak_memory_bytes"),
            gpu_bytes=training.peak("peak_gpu_bytes"),
            device=training.device,
        )
        for training in trainings
        if training.epochs
    ]
    for path in sorted(out_of_fold.glob(f"*/{COST}")):
        configuration = path.parent.name.rpartition("__")[2]
        rows.append(_read_cost(f"out-of-fold prediction, {configuration}", path))
    if prediction is not None and (prediction / COST).is_file():
        rows.append(_read_cost("prediction", prediction / COST))
    return tuple(rows)


def _read_cost(step: str, path: Path) -> Cost:
    cost: PredictionCost = find_record(path, PredictionCost) or {}
    known = "scans" in cost and "seconds_per_scan" in cost
    return Cost(
        step=step,
        amount=cost.get("scans"),
        unit="scan",
        seconds=cost["scans"] * cost["seconds_per_scan"] if known else None,
        memory_bytes=cost.get("peak_memory_bytes"),
        gpu_bytes=cost.get("peak_gpu_bytes"),
        device=cost.get("device", ""),
    )


@dataclass(frozen=True, kw_only=True)
class TuningFound:
    """Settings that tuning chose.

    Attributes
    ----------
    heading
        For which models, and whether the prediction used them.
    basis
        The data they were chosen on.
    choices
        Rows of organ, whether it is used, blend, threshold, gate, smallest ml, gaps filled.
    gains
        By organ and for ``all``: plain, tuned, gain, low, high; ``None`` if unknown.
    """

    heading: str
    basis: str
    choices: tuple[tuple[str, ...], ...]
    gains: Mapping[str, tuple[float | None, ...]]
    content: TuningNote


def find_tunings(
    results: Path, about: PredictionRecord | None
) -> tuple[list[TuningFound], list[str]]:
    """Return the settings of tuning, the prediction's first; and a line for each damaged file.

    ``results`` is nnU-Net's folder of the dataset, which has the files of ``tune``; ``about`` is
    the content of ``prediction.json``, ``None`` if nothing was predicted.
    """
    options = (about or {}).get("options")
    trained = options.get("trained") if options else None
    found: list[TuningFound] = []
    files, damaged = list_tunings(results)
    contents: dict[str, TuningNote] = {path.name: content for path, content in files.items()}
    if about and (used := about.get("tuning")):
        name = Path(used.get("file", "")).name
        content = contents.pop(name, None)
        # Tuning may have run again since: what the prediction recorded counts.
        same = content and all(content[k] == used[k] for k in ("decision", "gains"))
        now: TuningNote = content if content and same else used
        heading = f": {models}" if (models := _name_models(now.get("models", ()))) else ""
        found.append(_describe(now, heading=f"Used by this prediction{heading}"))
    for content in contents.values():
        folders = content.get("models", ())
        models = _name_models(folders)
        if trained and set(folders) == set(trained):
            heading = f"Chosen for these models, but not used by this prediction: {models}"
        else:
            heading = f"Chosen for other models: {models}" if about else f"Chosen for {models}"
        found.append(_describe(content, heading=heading))
    return found, damaged


def _name_models(folders: Iterable[str]) -> str:
    """Return ``2d + 3d_fullres, TRAINER, PLANS`` of model folders of one trainer and plan."""
    names = list(folders)
    parts = [name.split("__", 2) for name in names]
    if len({tuple(part[:2]) for part in parts}) != 1 or any(len(part) != 3 for part in parts):
        return ", ".join(names)
    return f"{' + '.join(part[2] for part in parts)}, {parts[0][0]}, {parts[0][1]}"


def _describe(content: TuningNote, *, heading: str) -> TuningFound:
    made = read_decision(content["decision"]).organs
    searched = read_decision(content.get("found") or content["decision"]).organs
    keys = ("plain", "tuned", "gain", "low", "high")
    return TuningFound(
        heading=heading,
        basis=", ".join(_list_basis(content)),
        choices=tuple(
            (organ, "yes" if organ in made else "no", *_cells(made.get(organ, searched[organ])))
            for organ in ORGANS
            if organ in searched
        ),
        gains={
            name: tuple(values.get(key) for key in keys)
            for name, values in content["gains"].items()
        },
        content=content,
    )


def _list_basis(content: Mapping[str, Any]) -> Iterable[str]:
    for noun in ("scans", "patients", "folds"):
        if (number := content.get(f"n_{noun}")) is not None:
            yield f"{number} {noun}"
    if content.get("metric"):
        yield f"convention {content['metric']}"
    if content.get("standing", "out-of-fold") == "seen-patient":
        yield "standing seen-patient: the folds leak"


def _cells(choice: OrganDecision) -> tuple[str, ...]:
    blend = ", ".join(f"{name} {weight:g}" for name, weight in choice.weights) or "mean"
    optional = (choice.gate, choice.smallest_ml, choice.fill_slices)
    return blend, f"{choice.threshold:g}", *(f"{value:g}" if value else DASH for value in optional)


def list_commands(
    manifest: Mapping[str, Any],
    trainings: Sequence[TrainedFold],
    *,
    tunings: Iterable[TuningNote] = (),
    about: PredictionRecord | None = None,
) -> tuple[str, ...]:
    """Return the command lines that made what is there, in order, each once, as recorded.

    For a step that recorded none there is a remark, which begins with ``#``. ``tunings`` and
    ``about`` are the contents of the files of ``tune`` and of ``prediction.json``.
    """
    lines = [_command_of(manifest, "the conversion")]
    for training in trainings:
        if training.imported:
            lines.append(shlex.join(["gi2nnunet", "import-model", training.imported]))
        else:
            last = training.runs[-1] if training.runs else {}
            lines.append(_command_of(last, f"{training.name}, {training.plans_name}"))
    lines += [
        _command_of(content, f"the tuning of {_name_models(content.get('models', ()))}")
        for content in tunings
    ]
    if about is not None:
        lines.append(_command_of(about, "the prediction"))
    return tuple(dict.fromkeys(lines))


def _command_of(record: Mapping[str, Any], what: str) -> str:
    return str(record.get("command") or f"# {what}: its command was not recorded")
