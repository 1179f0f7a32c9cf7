"""Scores of the same masks by ten public tools, beside ours: the tables of docs/other-tools.md.

Each tool runs by its documented everyday call, in an environment that this script makes below
--folder the first time (several GB, most of it PyTorch). The answers are written to
docs/other-tools.csv, and from there into the page. With --check nothing is written: the exit code
is 1 if an answer differs from the stored ones.

    python scripts/other_tools.py --folder build/other-tools
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import subprocess
import sys
import tempfile
import venv
from collections.abc import Mapping
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from metric_tools.cases import MEASURES, TOLERANCE_MM, Case, make_cases  # noqa: E402

from gi2nnunet.formats.labels import ORGAN_BITS, LabelMap  # noqa: E402
from gi2nnunet.scoring.medical import measure_label_maps, silence_library  # noqa: E402
from gi2nnunet.scoring.metric import score_label_maps  # noqa: E402

PROGRAMS = ROOT / "scripts" / "metric_tools"
TABLE = ROOT / "docs" / "other-tools.csv"
PAGE = ROOT / "docs" / "other-tools.md"
OURS = "gi2nnunet"

PACKAGES = {
    "torch": [
        "monai==1.6.1",
        "torchmetrics==1.9.0",
        "nnunetv2==2.8.1",
        "torch==2.15.0",
        "torchvision==0.29.2",
        "numpy==2.4.6",
        "SimpleITK==2.5.7",
    ],
    "arrays": [
        "MedPy==0.5.2",
        "seg-metrics==1.2.8",
        "medutils==0.1.21",
        "pingouin==0.7.0",
        "surface-distance==0.1",
        "SimpleITK==2.5.7",
        "scikit-image==0.26.0",
        "miseval==1.3.0",
        "numpy==2.4.6",
        "scipy==1.17.1",
        "pandas==3.1.1",
    ],
    # It refuses NumPy 2.3 and later.
    "panoptica": ["panoptica==2.1.7", "numpy==2.2.6", "scipy==1.17.1"],
}
# A tool's name, its program and its environment.
TOOLS = {
    "MONAI": ("run_monai.py", "torch"),
    "torchmetrics": ("run_torchmetrics.py", "torch"),
    "MedPy": ("run_medpy.py", "arrays"),
    "seg-metrics": ("run_seg_metrics.py", "arrays"),
    "surface-distance": ("run_surface_distance.py", "arrays"),
    "SimpleITK": ("run_simpleitk.py", "arrays"),
    "scikit-image": ("run_scikit_image.py", "arrays"),
    "panoptica": ("run_panoptica.py", "panoptica"),
    "miseval": ("run_miseval.py", "arrays"),
    "nnunetv2": ("run_nnunet.py", "torch"),
}
TITLES = {
    "dice": "Dice",
    "hausdorff": "Hausdorff, mm",
    "hd95": "HD95, mm",
    "surface_dice": f"surface Dice at {TOLERANCE_MM:g} mm",
}

Answers = dict[str, dict[str, dict[str, str]]]  # by tool, case, measure


# --- ours -------------------------------------------------------------------------------------


def measure_ours(case: Case) -> dict[str, str]:
    """Return our answers to one case; ``hausdorff`` is the normalised one of ``per-class``."""
    pred, truth = to_bits(case.pred), to_bits(case.truth)
    terms = score_label_maps(pred, truth)
    with silence_library():
        measures = measure_label_maps(
            pred, truth, spacing_mm=case.spacing_mm, tolerance_mm=TOLERANCE_MM
        )
    organs = list(measures.values())
    values = {
        "dice": terms.dice,
        "hausdorff": terms.hausdorff,
        "hd95": np.array([one.hd95_mm for one in organs]),
        "surface_dice": np.array([one.surface_dice for one in organs]),
    }
    return {
        name: f"{found[~np.isnan(found)].mean():.6g}" if np.isfinite(found).any() else "nan"
        for name, found in values.items()
    }


def to_bits(masks: np.ndarray) -> LabelMap:
    """Return the bit-coded label map of ``(organs, z, y, x)``."""
    labels = np.zeros(masks.shape[1:], np.uint8)
    for bit, mask in zip(ORGAN_BITS, masks, strict=False):
        labels[mask] |= bit
    return labels


# --- theirs -----------------------------------------------------------------------------------


def prepare(folder: Path, name: str) -> Path:
    """Make an environment if it is missing, and return its Python."""
    python = folder / name / "bin" / "python"
    ready = folder / name / ".ready"
    if not ready.is_file() or ready.read_text() != "\n".join(PACKAGES[name]):
        print(f"== Installing {', '.join(PACKAGES[name])}")
        venv.create(folder / name, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES[name]], check=True)
        ready.write_text("\n".join(PACKAGES[name]))
    return python


def run_tools(folder: Path) -> Answers:
    """Return the answers of all tools, ours first."""
    answers: Answers = {OURS: {case.name: measure_ours(case) for case in make_cases()}}
    for tool, (program, environment) in TOOLS.items():
        python = prepare(folder, environment)
        out = folder / f"{tool}.json"
        out.unlink(missing_ok=True)
        log = folder / f"{tool}.log"
        with log.open("w") as said:
            command = [python, PROGRAMS / program, out]
            done = subprocess.run(command, stdout=said, stderr=said, check=False)
        if done.returncode:
            raise SystemExit(f"{program} failed; {log} says why")
        answers[tool] = json.loads(out.read_text())
        print(f"== {tool}: done")
    return answers


# --- the table and the page -------------------------------------------------------------------


def write_table(answers: Answers) -> None:
    with TABLE.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["case", "tool", *MEASURES])
        for case in answers[OURS]:
            for tool, found in answers.items():
                writer.writerow([case, tool, *(found[case].get(name, "") for name in MEASURES)])


def read_table() -> Answers:
    answers: Answers = {}
    with TABLE.open(newline="") as file:
        for row in csv.DictReader(file):
            found = {name: row[name] for name in MEASURES if row[name]}
            answers.setdefault(row["tool"], {})[row["case"]] = found
    return answers


def render_case(answers: Answers, case: str) -> str:
    """Return the Markdown table of a case: our answer, and the tools by theirs."""
    lines = [f"| | {OURS} | other tools |", "|---|---|---|"]
    for measure in MEASURES:
        ours = show(answers[OURS][case][measure], ours=True)
        if measure == "hausdorff" and ours != "not counted":
            ours += " (normalised, no unit)"
        by_answer: dict[str, list[str]] = {}
        for tool in TOOLS:
            if measure in answers[tool][case]:
                by_answer.setdefault(show(answers[tool][case][measure]), []).append(tool)
        others = "; ".join(f"**{answer}** {', '.join(who)}" for answer, who in by_answer.items())
        lines.append(f"| {TITLES[measure]} | {ours} | {others} |")
    return "\n".join(lines)


def show(answer: str, *, ours: bool = False) -> str:
    try:
        value = float(answer)
    except ValueError:
        return "raises"
    if np.isnan(value):
        return "not counted" if ours else "nan"
    return f"{value:.3g}" if abs(value) < 1e4 else f"{value:.1e}"


def render_versions() -> str:
    """Return the table of versions."""
    lines = ["| tool | version |", "|---|---|"]
    for tool, (_, environment) in TOOLS.items():
        wanted = f"{tool}==".lower()
        pin = next(pin for pin in PACKAGES[environment] if pin.lower().startswith(wanted))
        lines.append(f"| {tool} | {pin.split('==')[1]} |")
    return "\n".join(lines)


def fill_page(text: str, answers: Answers) -> str:
    """Return the page with its generated blocks made again.

    Raises
    ------
    ValueError
        If the page has no block for a case, or one for no case.
    """
    blocks: Mapping[str, str] = {
        "versions": render_versions(),
        **{case: render_case(answers, case) for case in answers[OURS]},
    }
    pattern = re.compile(r"(<!-- table: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)
    if [match[2] for match in pattern.finditer(text)] != list(blocks):
        raise ValueError(f"the page needs these blocks, in this order: {list(blocks)}")
    return pattern.sub(lambda match: f"{match[1]}\n{blocks[match[2]]}\n\n{match[3]}", text)


def find_differences(found: Answers, stored: Answers) -> list[str]:
    """Return a line for each answer that differs, numbers by more than 1e-4 of their size."""
    lines = []
    for tool, cases in found.items():
        for case, measures in cases.items():
            for measure, answer in measures.items():
                before = stored.get(tool, {}).get(case, {}).get(measure, "")
                if not agree(answer, before):
                    lines.append(f"{tool}, {case}, {measure}: {before or 'nothing'} -> {answer}")
    return lines


def agree(first: str, second: str) -> bool:
    try:
        return bool(np.isclose(float(first), float(second), rtol=1e-4, equal_nan=True))
    except ValueError:
        return first == second


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--folder", type=Path, help="for the environments; else a temporary one")
    parser.add_argument("--check", action="store_true", help="compare with the stored answers")
    parser.add_argument("--render", action="store_true", help="only fill the page from the table")
    args = parser.parse_args()
    if not args.render:
        with tempfile.TemporaryDirectory() as temporary:
            folder = (args.folder or Path(temporary)).resolve()
            folder.mkdir(parents=True, exist_ok=True)
            answers = run_tools(folder)
        if args.check:
            differences = find_differences(answers, read_table())
            print("\n".join(differences) or "All answers are as stored.")
            return 1 if differences else 0
        write_table(answers)
    PAGE.write_text(fill_page(PAGE.read_text(), read_table()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
