"""The report as one HTML file that needs nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gi2nnunet.core.errors import count
from gi2nnunet.core.files import check_place, replace_file
from gi2nnunet.formats.ids import CONTOUR_COLOURS, ORGANS, patient_of, scan_order
from gi2nnunet.pages.figures import draw_curves, draw_scores
from gi2nnunet.pages.gather import Report
from gi2nnunet.pages.summary import describe_scan, summarise
from gi2nnunet.pages.template import PAGE_BEGINS, format_number, render
from gi2nnunet.scoring.result import ScanScore

_RECORDED = ("standing", "scans", "models", "computing", "options")


@dataclass(frozen=True, kw_only=True)
class WrittenReport:
    """A page: where it is, its size in bytes, and what is on it."""

    path: Path
    size: int
    report: Report = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "report": str(self.path),
            "bytes": self.size,
            "scans": [scan.scan_id for scan in self.report.shown],
            "missing": list(self.report.missing),
        }


def write_report(report: Report, path: Path) -> WrittenReport:
    """Write the page; raises :class:`OutputError` if it cannot be written."""
    path = check_place(path, begins=PAGE_BEGINS)
    text = render_report(report)
    replace_file(path, text)
    return WrittenReport(path=path, size=len(text.encode("utf-8")), report=report)


def render_report(report: Report) -> str:
    """Return the page as text; equal reports give equal text."""
    prediction = report.prediction
    score = prediction.score if prediction else None
    by_score = sorted(
        score.per_scan if score else (), key=lambda s: (math.isnan(s.score), s.score, s.scan_id)
    )
    about = prediction.about if prediction else {}
    return render(
        "report.html",
        report=report,
        dataset=report.dataset,
        folds=[(_list_patients(fold["val"]), fold) for fold in report.dataset.splits],
        figures=[
            (training, draw_curves(training.epochs, title=name))
            for training in report.trainings
            if training.epochs
            for name in [f"{training.plans_name} {training.configuration} fold {training.fold}"]
        ],
        score=score,
        score_figure=draw_scores(score, prediction.intervals) if prediction and score else "",
        by_score=by_score,
        labels={s.scan_id: f"score {format_number(s.score, '.3f')}" for s in by_score},
        viewed={scan.scan_id: index for index, scan in enumerate(report.shown)},
        left_out=_name_left_out(report),
        patients=_average_patients(by_score),
        summary=summarise(score, by_score, standing=about.get("standing", "unknown"))
        if score
        else None,
        facts={scan.scan_id: describe_scan(scan) for scan in by_score},
        about=_flatten({key: value for key, value in about.items() if key in _RECORDED}),
        versions=_list_versions(report),
        organs=ORGANS,
        colours=CONTOUR_COLOURS,
    )


def _name_left_out(report: Report) -> str:
    """Return which scans the viewer does not show, as a sentence; empty if it shows all."""
    score = report.prediction.score if report.prediction else None
    n_scans = len(score.per_scan if score else report.dataset.scans)
    if len(report.shown) >= n_scans:
        return ""
    scans = count(n_scans, "scored scan" if score else "scan")
    shown = f"This page shows {len(report.shown)} of {scans}."
    return " ".join([shown, "Show all of them with: gi2nnunet report --all"])


def _list_patients(scan_ids: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(map(patient_of, sorted(scan_ids, key=scan_order))))


def _list_versions(report: Report) -> list[tuple[str, str, str]]:
    """Return step, package and version, trainings of equal versions once."""
    steps = [("convert", report.dataset.manifest.get("made_by", {}))]
    steps += [("train", t.record.get("versions", {})) for t in report.trainings]
    if report.prediction:
        steps.append(("predict", report.prediction.about.get("versions", {})))
    rows = [(step, name, str(version)) for step, some in steps for name, version in some.items()]
    return list(dict.fromkeys(rows))


def _flatten(content: Mapping[str, Any], *, before: str = "") -> list[tuple[str, str]]:
    """Return nested values as rows of dotted name and text; without those that are ``None``."""
    rows: list[tuple[str, str]] = []
    for key, value in content.items():
        if isinstance(value, Mapping):
            rows += _flatten(value, before=f"{before}{key}.")
        elif value is not None:
            rows.append((before + key, value if isinstance(value, str) else json.dumps(value)))
    return rows


def _average_patients(scans: Sequence[ScanScore]) -> list[tuple[str, int, float, float, float]]:
    """Return patient, number of scans, mean, lowest and highest score; worst first."""
    of_patient: dict[str, list[float]] = {}
    for scan in scans:
        if not math.isnan(scan.score):
            of_patient.setdefault(scan.patient_id, []).append(scan.score)
    rows = [(name, len(v), sum(v) / len(v), min(v), max(v)) for name, v in of_patient.items()]
    return sorted(rows, key=lambda row: (row[2], row[0]))
