"""What tuning chose and gained, for the models that were used and for others."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gi2nnunet.decision import OrganDecision, read_decision
from gi2nnunet.files import read_json
from gi2nnunet.kaggle import ORGANS
from gi2nnunet.report.records import take_list, take_mapping, take_number


@dataclass(frozen=True, kw_only=True)
class TuningFound:
    """One choice.

    Attributes
    ----------
    heading
        For which models, and whether the prediction used it.
    basis
        On what it was chosen.
    choices
        Rows of organ, whether it is used, blend, threshold, gate, smallest ml, gaps filled.
    gains
        By organ and for ``all``: plain, tuned, gain, low, high; NaN where not known.
    content
        All that was recorded.
    """

    heading: str
    basis: str
    choices: tuple[tuple[str, ...], ...]
    gains: Mapping[str, tuple[float, ...]]
    content: Mapping[str, Any]


def find_tunings(
    results: Path, about: Mapping[str, Any] | None
) -> tuple[list[TuningFound], list[str]]:
    """Return what was chosen, what the prediction used first; and files that cannot be read.

    Parameters
    ----------
    results
        nnU-Net's results folder of the dataset, where ``tune`` leaves its files.
    about
        ``prediction.json``; ``None`` where nothing was predicted.
    """
    used = take_mapping(about, "tuning")
    trained = take_list(take_mapping(about, "options"), "trained")
    found: list[TuningFound] = []
    damaged: list[str] = []
    files = sorted(results.glob("gi2nnunet_tuning_*.json"))
    contents = {path.name: read_json(path) for path in files}
    if used:
        name = Path(str(used.get("file") or "")).name
        content = contents.pop(name, {})
        # The file may have been made anew since: what the prediction says counts.
        if any(content.get(key) != used.get(key) for key in ("decision", "gains")):
            content = dict(used)
        contents = {name: {**content, "used": True}, **contents}
    for name, content in contents.items():
        models = _name_models(take_list(content, "models"))
        if content.get("used"):
            heading = "Used by this prediction" + (f": {models}" if models else "")
        elif trained and set(take_list(content, "models")) == set(trained):
            heading = f"Chosen for these models, but not used by this prediction: {models}"
        else:
            heading = f"Chosen for other models: {models}" if about else f"Chosen for {models}"
        try:
            found.append(_describe(content, heading=heading))
        except (KeyError, TypeError, ValueError, AttributeError):
            damaged.append(f"{name} is damaged, so what tuning chose is not shown: gi2nnunet tune")
    return found, damaged


def _name_models(folders: Iterable[Any]) -> str:
    """Return ``2d + 3d_fullres, TRAINER, PLANS`` of model folders of one trainer and plan."""
    names = [str(folder) for folder in folders]
    parts = [name.split("__", 2) for name in names]
    kinds = {(part[0], part[1]) for part in parts if len(part) == 3}
    if len(kinds) != 1 or any(len(part) != 3 for part in parts):
        return ", ".join(names)
    ((trainer, plans_name),) = kinds
    return f"{' + '.join(part[2] for part in parts)}, {trainer}, {plans_name}"


def _describe(content: Mapping[str, Any], *, heading: str) -> TuningFound:
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
            str(name): tuple(
                math.nan if (value := take_number(values, key)) is None else value for key in keys
            )
            for name, values in content["gains"].items()
        },
        content=content,
    )


def _list_basis(content: Mapping[str, Any]) -> Iterable[str]:
    for key, one in (("n_scans", "scans"), ("n_patients", "patients"), ("n_folds", "folds")):
        if content.get(key) is not None:
            yield f"{content[key]} {one}"
    if content.get("metric"):
        yield f"convention {content['metric']}"


def _cells(choice: OrganDecision) -> tuple[str, ...]:
    return (
        ", ".join(f"{name} {weight:g}" for name, weight in choice.weights) or "mean",
        f"{choice.threshold:g}",
        f"{choice.gate:g}" if choice.gate else "–",  # noqa: RUF001
        f"{choice.smallest_ml:g}" if choice.smallest_ml else "–",  # noqa: RUF001
        str(choice.fill_slices) if choice.fill_slices else "–",  # noqa: RUF001
    )
