"""The report as one HTML file that needs nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from gi2nnunet.files import check_place, replace_file
from gi2nnunet.kaggle import ORGANS
from gi2nnunet.report.figures import ORGAN_COLOURS, draw_curves
from gi2nnunet.report.gather import Report, list_patients


def write_report(report: Report, path: Path) -> int:
    """Write the page; return its size in bytes.

    Raises
    ------
    OutputError
        Where it cannot be written.
    """
    check_place(path)
    text = render_report(report)
    replace_file(path, text)
    return len(text.encode("utf-8"))


def render_report(report: Report) -> str:
    """Return the page as text; equal reports give equal text."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = format_number
    template = environment.from_string(_read("report.html"))
    prediction = report.prediction
    score = prediction.score if prediction else None
    by_score = sorted(
        score.per_scan if score else (), key=lambda s: (math.isnan(s.score), s.score, s.scan_id)
    )
    return template.render(
        report=report,
        dataset=report.dataset,
        counts=_count_parts(report),
        folds=[
            (list_patients(fold["val"]), len(fold["train"]), len(fold["val"]))
            for fold in report.dataset.splits
        ],
        figures=[
            (training, Markup(draw_curves(training.epochs, title=name)))  # noqa: S704
            for training in report.trainings
            if training.epochs
            for name in [f"{training.plans_name} {training.configuration} fold {training.fold}"]
        ],
        score=score,
        intervals=prediction.intervals if prediction else {},
        by_score=by_score,
        patients=_average_patients(by_score),
        tuning=flatten(report.tuning),
        about=flatten({k: v for k, v in prediction.about.items() if k in _ABOUT})
        if prediction
        else [],
        organs=ORGANS,
        colours=ORGAN_COLOURS,
        made_by=report.dataset.manifest.get("made_by", {}),
        css=Markup(_read("report.css")),  # noqa: S704
        script=Markup(_read("viewer.js")),  # noqa: S704
        # "<" is escaped so that no name can end the script element.
        data=Markup(_to_json(report)),  # noqa: S704
    )


_ABOUT = ("standing", "scans", "models", "computing")


def _read(name: str) -> str:
    return (files("gi2nnunet.report") / name).read_text(encoding="utf-8")


def _to_json(report: Report) -> str:
    content = {
        "organs": [{"name": organ, "colour": ORGAN_COLOURS[organ]} for organ in ORGANS],
        "scans": [scan.content for scan in report.shown],
    }
    return json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")


def format_number(value: float | None, digits: int = 4) -> str:
    """Return a number for a table; a dash for none."""
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"  # noqa: RUF001


def flatten(content: Mapping[str, Any], *, before: str = "") -> list[tuple[str, str]]:
    """Return nested values as rows of dotted name and text."""
    rows: list[tuple[str, str]] = []
    for key, value in content.items():
        name = f"{before}{key}"
        if isinstance(value, Mapping):
            rows += flatten(value, before=f"{name}.")
        else:
            rows.append((name, value if isinstance(value, str) else json.dumps(value)))
    return rows


def _count_parts(report: Report) -> list[tuple[str, int, int, int]]:
    rows = []
    for part in ("train", "holdout", "test"):
        scans = [scan for scan in report.dataset.scans if scan.part == part]
        if scans:
            patients = len({scan.patient_id for scan in scans})
            rows.append((part, patients, len(scans), sum(scan.depth for scan in scans)))
    return rows


def _average_patients(scans: list[Any]) -> list[tuple[str, int, float]]:
    """Return ``(patient, scans, mean score)``, worst first; scans without a value are left out."""
    of_patient: dict[str, list[float]] = {}
    for scan in scans:
        if not math.isnan(scan.score):
            of_patient.setdefault(scan.patient_id, []).append(scan.score)
    rows = [(name, len(v), sum(v) / len(v)) for name, v in of_patient.items()]
    return sorted(rows, key=lambda row: (row[2], row[0]))
