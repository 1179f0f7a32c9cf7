"""Damage table: every kind of file in a workspace, harmed in every way; who notices, what mends it.

    python -m tests.damage_table [--only KIND] [--out TABLE]

It makes a tiny workspace with the real nnU-Net on the CPU, harms a copy of it, asks ``verify`` and
``doctor`` (which must change nothing), does what the message says, and asks ``verify`` again. The
exit code is 1 if a harm stays unnoticed or a remedy does not mend it.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gi2nnunet.core.errors import InputError
from gi2nnunet.dataset.manifest import read_dataset
from gi2nnunet.dataset.workspace import open_workspace
from gi2nnunet.training.doctor import judge_data
from gi2nnunet.upkeep.verify import verify_workspace

NAME, PLANS = "Dataset501_UWGI", "gi2nnunetTinyPlans"
TINY = ("--preset", "tiny", "--config", "2d", "--device", "cpu", "--jobs", "1")
RAW, MADE = f"raw/{NAME}", f"preprocessed/{NAME}"
DATA, MODEL = f"{MADE}/{PLANS}_2d", f"results/{NAME}/nnUNetTrainer__{PLANS}__2d"
YEAR_SECONDS = 365 * 24 * 3600
# By kind: the file, and another one of its kind (a scan's or fold's), if there is one.
KINDS = {
    "preprocessed image": (f"{DATA}/FIRST.b2nd", f"{DATA}/SECOND.b2nd"),
    "preprocessed labels": (f"{DATA}/FIRST_seg.b2nd", f"{DATA}/SECOND_seg.b2nd"),
    "preprocessed properties": (f"{DATA}/FIRST.pkl", f"{DATA}/SECOND.pkl"),
    "preprocessed dataset.json": (f"{MADE}/dataset.json", None),
    "fingerprint": (f"{MADE}/dataset_fingerprint.json", None),
    "plans": (f"{MADE}/{PLANS}.json", None),
    "split that nnU-Net reads": (f"{MADE}/splits_final.json", None),
    "copy of the truth": (
        f"{MADE}/gt_segmentations/FIRST.nii.gz", f"{MADE}/gt_segmentations/SECOND.nii.gz",
    ),
    "mark of the fingerprint": (f"{MADE}/gi2nnunet_fingerprint.json", None),
    "mark of the plans": (f"{MADE}/gi2nnunet_{PLANS}.json", None),
    "mark of the scans": (f"{MADE}/gi2nnunet_{PLANS}_2d.complete.json", None),
    "image": (f"{RAW}/imagesTr/FIRST_0000.nii.gz", f"{RAW}/imagesTr/SECOND_0000.nii.gz"),
    "labels": (f"{RAW}/labelsTr/FIRST.nii.gz", f"{RAW}/labelsTr/SECOND.nii.gz"),
    "dataset.json": (f"{RAW}/dataset.json", None),
    "split": (f"{RAW}/splits_final.json", None),
    "truth.csv": (f"{RAW}/truth.csv", None),
    "manifest": (f"{RAW}/manifest.json", None),
    "checkpoint": (f"{MODEL}/fold_0/checkpoint_final.pth", f"{MODEL}/fold_1/checkpoint_final.pth"),
    "digests of checkpoints": (
        f"{MODEL}/fold_0/gi2nnunet_digests.json", f"{MODEL}/fold_1/gi2nnunet_digests.json",
    ),
    "model's plans": (f"{MODEL}/plans.json", None),
    "model's dataset.json": (f"{MODEL}/dataset.json", None),
}  # fmt: skip


def change_byte(path: Path) -> None:
    """Change one byte in the middle of a file to another letter or digit, its size kept."""
    data = bytearray(path.read_bytes())
    place = len(data) // 2
    while path.suffix in (".json", ".csv") and not chr(data[place]).isalnum():
        place += 1
    data[place] ^= 1
    path.write_bytes(data)


def date(path: Path, seconds: int) -> None:
    change_byte(path)
    when = path.stat().st_mtime + seconds
    os.utime(path, (when, when))


HARMS: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "truncated": lambda path: os.truncate(path, path.stat().st_size * 2 // 3),
    "one byte changed": change_byte,
    "older": lambda path: date(path, -YEAR_SECONDS),
    "newer": lambda path: date(path, YEAR_SECONDS),
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What happened to one file harmed in one way."""

    kind: str
    harm: str
    noticed_by: tuple[str, ...]
    remedy: str
    mended: bool

    @property
    def good(self) -> bool:
        return bool(self.noticed_by) and self.mended

    def __str__(self) -> str:
        noticed, mended = ", ".join(self.noticed_by) or "nobody", "yes" if self.mended else "no"
        return f"| {self.kind} | {self.harm} | {noticed} | {self.remedy} | {mended} |"


def run(*words: str, workspace: Path) -> str:
    """Run a command in a workspace; return what it wrote, or the end of its error."""
    done = subprocess.run(
        [sys.executable, "-m", "gi2nnunet", *words, "--workspace", str(workspace)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return "" if done.returncode == 0 else done.stderr[-2000:]


def make_workspace(root: Path) -> Path:
    workspace = root / "w"
    phantom = [
        "phantom",
        "--out",
        str(root / "src"),
        "--patients",
        "2",
        "--days",
        "1",
        "--size",
        "48x48x8@3",
        "--easy",
        "--seed",
        "9",
    ]
    subprocess.run(
        [sys.executable, "-m", "gi2nnunet", *phantom],
        check=True, capture_output=True,
    )  # fmt: skip
    for words in (
        ("convert", str(root / "src")),
        ("train", *TINY, "--fold", "cv", "--epochs", "1", "--iterations", "2"),
    ):
        if wrong := run(*words, workspace=workspace):
            raise RuntimeError(wrong)
    return workspace


def read_all(workspace: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(workspace.rglob("*")) if p.is_file()}


def look(workspace: Path) -> tuple[list[str], str, Path | None]:
    """Return who notices something, the first remedy, and of which file; nothing may change."""
    before = read_all(workspace)
    space = open_workspace(workspace, environ={})
    findings = verify_workspace(space, quick=True).findings
    noticed = ["verify --quick"] if findings else []
    if not findings:
        whole = verify_workspace(space)
        findings = whole.findings
        noticed = ["verify"] if findings else ["verify (note)"] if whole.notes else []
    try:
        verdicts = judge_data(read_dataset(space.raw), space.preprocessed / NAME)
        noticed += ["doctor"] if any(v.level != "ok" for v in verdicts) else []
    except InputError:
        noticed.append("doctor")
    if read_all(workspace) != before:
        raise RuntimeError("verify or doctor changed a file")
    return noticed, *((findings[0].remedy, findings[0].file) if findings else ("", None))


def follow(remedy: str, path: Path, workspace: Path, source: Path) -> None:
    """Do what a remedy says."""
    if remedy.startswith("Copy that file here"):
        of_model = {"plans.json": f"{MADE}/{PLANS}.json", "dataset.json": f"{RAW}/dataset.json"}
        shutil.copy(workspace / of_model[path.name], path)
    elif "convert" in remedy:
        run("convert", str(source), workspace=workspace)
    elif "gi2nnunet " in remedy:
        words = shlex.split(remedy.partition("gi2nnunet ")[2])
        run(*words, "--device", "cpu", "--jobs", "1", workspace=workspace)
    elif remedy.startswith("Delete it"):
        path.unlink()


def try_one(kind: str, harm: str, whole: Path, source: Path) -> Cell:
    """Harm a file of a copy of the workspace, and do what is said about it."""
    scans = [scan.scan_id for scan in read_dataset(whole / "raw").scans]
    names = [
        name and name.replace("FIRST", scans[0]).replace("SECOND", scans[1]) for name in KINDS[kind]
    ]
    with tempfile.TemporaryDirectory(dir=whole.parent) as folder:
        workspace = Path(folder) / "w"
        shutil.copytree(whole, workspace)  # with time stamps
        path = workspace / str(names[0])
        if harm == "another's":
            shutil.copy2(workspace / str(names[1]), path)
        else:
            HARMS[harm](path)
        noticed, remedy, file = look(workspace)
        first = remedy
        for _ in range(2):  # a damaged mark hides what is under it: the next look names that
            if remedy:
                follow(remedy, file or path, workspace, source)
            still, remedy, file = look(workspace)
            if not remedy:
                break
        return Cell(
            kind=kind, harm=harm, noticed_by=tuple(noticed), remedy=first,
            mended=bool(first) and not set(still) - {"verify (note)"},
        )  # fmt: skip


def main() -> int:
    """Print the table, line by line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=KINDS)
    parser.add_argument("--made", type=Path, help="a folder with src and w from an earlier run")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gi2nnunet-damage-") as folder:
        root = given.made or Path(folder)
        whole = root / "w" if given.made else make_workspace(root)
        print("| file | harm | who notices | what is said | mends it |\n|---|---|---|---|---|")
        cells = []
        for kind in given.only or KINDS:
            for harm in (*HARMS, *(["another's"] if KINDS[kind][1] else [])):
                cells.append(try_one(kind, harm, whole, root / "src"))
                print(cells[-1], flush=True)
    bad = [cell for cell in cells if not cell.good]
    print(f"\n{len(cells) - len(bad)} of {len(cells)} harms are noticed and mended.")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
