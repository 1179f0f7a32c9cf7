"""The report as one HTML file that needs nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from gi2nnunet.core.files import check_place, replace_file, take_mapping
from gi2nnunet.formats.ids import CONTOUR_COLOURS, ORGANS
from gi2nnunet.report.figures import draw_curves, draw_scores
from gi2nnunet.report.gather import Report, list_patients
from gi2nnunet.scoring.bootstrap import Interval
from gi2nnunet.scoring.result import ScanScore


@dataclass(frozen=True, kw_only=True)
class WrittenReport:
    """A page: where it is, its size in bytes, and what is on it."""

    path: Path
    size: int
    report: Report


def write_report(report: Report, path: Path) -> WrittenReport:
    """Write the page.

    Raises
    ------
    OutputError
        Where it cannot be written.
    """
    check_place(path)
    text = render_report(report)
    replace_file(path, text)
    return WrittenReport(path=path, size=len(text.encode("utf-8")), report=report)


def render_report(report: Report) -> str:
    """Return the page as text; equal reports give equal text."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = format_number
    environment.filters["signed"] = format_signed
    environment.filters["gib"] = format_bytes
    environment.filters["time"] = format_time
    template = environment.from_string(_read("report.html"))
    prediction = report.prediction
    score = prediction.score if prediction else None
    intervals = prediction.intervals if prediction else {}
    by_score = sorted(
        score.per_scan if score else (), key=lambda s: (math.isnan(s.score), s.score, s.scan_id)
    )
    page = template.render(
        report=report,
        dataset=report.dataset,
        counts=_count_parts(report),
        folds=[
            (list_patients(fold["val"]), len(fold["train"]), len(fold["val"]))
            for fold in report.dataset.splits
        ],
        figures=[
            (training, [Markup(svg) for svg in draw_curves(training.epochs, title=name)])  # noqa: S704
            for training in report.trainings
            if training.epochs
            for name in [f"{training.plans_name} {training.configuration} fold {training.fold}"]
        ],
        score=score,
        score_figure=Markup(draw_scores(score, intervals)) if score else "",  # noqa: S704
        quantities=_list_quantities(intervals),
        by_score=by_score,
        extremes=_pick_extremes(by_score),
        viewed={scan.scan_id: index for index, scan in enumerate(report.shown)},
        scores={scan.scan_id: scan.score for scan in by_score},
        patients=_average_patients(by_score),
        about=flatten({k: v for k, v in prediction.about.items() if k in _ABOUT})
        if prediction
        else [],
        versions=_list_versions(report),
        organs=ORGANS,
        css=Markup(_read("report.css")),  # noqa: S704
        script=Markup(_read("viewer.js")),  # noqa: S704
        # "<" is escaped so that no name can end the script element.
        data=[Markup(_to_json(scan.content)) for scan in report.shown],  # noqa: S704
        overview=Markup(_to_json(_describe_organs())),  # noqa: S704
    )
    return page.lstrip()


_ABOUT = ("standing", "scans", "models", "computing", "options")


def _read(name: str) -> str:
    return (files("gi2nnunet.report") / name).read_text(encoding="utf-8")


def _to_json(content: Any) -> str:
    return json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")


def _describe_organs() -> list[dict[str, str]]:
    return [{"name": organ, "colour": CONTOUR_COLOURS[organ]} for organ in ORGANS]


def _list_quantities(
    intervals: Mapping[str, Interval],
) -> list[tuple[str, list[Interval | None]]]:
    """Return rows of all organs together and of each, with score, Dice and Hausdorff."""
    terms = ("score", "dice", "hausdorff")
    rows = [("all organs", [intervals.get(term) for term in terms])] if intervals else []
    for organ in ORGANS if intervals else ():
        found = [intervals.get(f"{organ}.{term}") for term in terms]
        rows.append((organ.replace("_", " "), found))
    return rows


def _pick_extremes(by_score: Sequence[ScanScore]) -> list[tuple[str, list[ScanScore]]]:
    """Return the worst and the best scans, none twice."""
    known = [scan for scan in by_score if not math.isnan(scan.score)]
    if len(known) < 2:
        return []
    some = min(3, len(known) // 2)
    return [("Worst", known[:some]), ("Best", known[-some:][::-1])]


def _list_versions(report: Report) -> list[tuple[str, str, str]]:
    """Return step, package and version, trainings of equal versions once."""
    rows: dict[tuple[str, str, str], None] = {}
    steps = [("convert", take_mapping(report.dataset.manifest, "made_by"))]
    steps += [("train", take_mapping(t.record, "versions")) for t in report.trainings]
    if report.prediction:
        steps.append(("predict", take_mapping(report.prediction.about, "versions")))
    for step, versions in steps:
        for package, version in versions.items():
            rows[step, str(package), str(version)] = None
    return list(rows)


def format_bytes(value: int | None) -> str:
    """Return memory in GiB for a table; a dash for none."""
    return "–" if value is None else f"{value / 2**30:.2f}"  # noqa: RUF001


def format_time(seconds: float | None) -> str:
    """Return a duration such as ``1 h 05 min``, ``3 min 20 s`` or ``4.2 s``; a dash for none."""
    if seconds is None or math.isnan(seconds):
        return "–"  # noqa: RUF001
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def format_number(value: float | None, digits: int = 4) -> str:
    """Return a number for a table; a dash for none."""
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"  # noqa: RUF001


def format_signed(value: float) -> str:
    """Return a difference for a table, with its sign; a dash for none."""
    return "–" if math.isnan(value) else f"{value:+.4f}"  # noqa: RUF001


def flatten(content: Mapping[str, Any], *, before: str = "") -> list[tuple[str, str]]:
    """Return nested values as rows of dotted name and text; without those that are ``None``."""
    rows: list[tuple[str, str]] = []
    for key, value in content.items():
        name = f"{before}{key}"
        if isinstance(value, Mapping):
            rows += flatten(value, before=f"{name}.")
        elif value is not None:
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


def _average_patients(scans: Sequence[ScanScore]) -> list[tuple[str, int, float, float, float]]:
    """Return ``(patient, scans, mean, lowest, highest score)``, worst first.

    Scans without a value are left out.
    """
    of_patient: dict[str, list[float]] = {}
    for scan in scans:
        if not math.isnan(scan.score):
            of_patient.setdefault(scan.patient_id, []).append(scan.score)
    rows = [(name, len(v), sum(v) / len(v), min(v), max(v)) for name, v in of_patient.items()]
    return sorted(rows, key=lambda row: (row[2], row[0]))
