"""Comparison of what this checkout does with what an earlier commit did.

    python scripts/same_as.py REV
    python scripts/same_as.py REV --folder same-as     # keeps the files of both runs

The commands below run once with the code of REV and once with the code of this checkout (with
uncommitted changes), on one small phantom and with one seed. A training has no seed, so only REV
trains, and this checkout gets a copy of its models. Both runs take place at the same path, one
after the other, so that absolute paths do not differ.

Files are compared byte for byte. Only in JSON that holds times or versions, the keys that both
runs have are compared. A difference is also a file or key that is gone, or a file that is new; new
keys are only listed. The exit code is 1 if there is a difference or a command fails.

The script knows only the command line, so modules may move. The code under test comes first on
PYTHONPATH, which nnU-Net's child processes inherit; an installed package does not fill in modules
that it lacks. Takes about three and a half minutes on two CPU cores.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MODELS = "gi2nnunet-workspace/results"
MOST_LINES = 10  # shown of each kind

# Names and words of the commands, in order. Each also gets --json, and its output is compared.
PHANTOM = "--patients 8 --days 2 --test-patients 1 --size 48x48x8@3 --easy --fill-sample --jobs 1"
PREPARE = {
    "phantom-zip": f"phantom --out source.zip {PHANTOM} --seed {{seed}}",
    "phantom": f"phantom --out source {PHANTOM} --seed {{seed}} --solution test_truth.csv",
    "check": "check source --jobs 1",
    "convert": "convert source.zip --folds 2 --jobs 1 --seed {seed}",
    "convert-nifti": "convert gi2nnunet-workspace/raw/Dataset501_UWGI --workspace nifti "
    "--labels exclusive --jobs 1 --seed {seed}",
    "plan": "plan --preset tiny --device cpu --jobs 1",
}
# Long enough to find organs: two empty masks would be the same whatever the code does.
TRAIN = (
    "train --fold cv --preset tiny --device cpu --jobs 1 --threads 1 "
    "--trainer nnUNetTrainerAdam --lr 0.006 --epochs 2 --iterations 60"
)
USE = {
    "train-again": TRAIN,  # leaves finished models as they are
    "predict-and-score": "predict-and-score --nifti --out held-out --device cpu --threads 1",
    "out-of-fold": "out-of-fold --device cpu --threads 1",
    "tune": "tune --device cpu --threads 1 --jobs 1 --seed {seed}",
    "compare-models": "compare-models --device cpu --threads 1 --jobs 1 --seed {seed}",
    "predict": "predict source --nifti --save-probabilities --out tuned --device cpu --threads 1",
    "encode": "encode tuned/labels --sample source/sample_submission.csv --out encoded.csv",
    "verify": "verify",
} | {
    f"score-{metric}": f"score encoded.csv --truth test_truth.csv --metric {metric} --jobs 1"
    for metric in ("per-class", "joined", "mle-bench", "slice-2d")
}

# An editable installation offers its modules where the code under test has none of that name.
# Python runs this file at every start, after the installation's own.
GUARD = """import sys
sys.meta_path[:] = [f for f in sys.meta_path if "__editable___gi2nnunet" not in str(f)]
"""

# Values that may differ between two runs of the same code (time, memory, names of log files, which
# hold the time, advice that quotes times) or between commits that do the same (versions).
IGNORED_KEYS = {"seconds_per_scan", "peak_memory_bytes", "log", "advice", "made_by", "versions"}
IGNORED_FILES = "*/logs/*"  # what nnU-Net prints, with times

# Kinds of files: name, how they are compared, patterns. A file is of the first kind that matches.
KINDS = (
    ("phantom: folder, zip, truth", "bytes", ("source/*", "source.zip", "test_truth.csv")),
    ("dataset manifests", "keys", ("*/raw/*/manifest.json",)),
    ("dataset trees, splits", "bytes", ("*/raw/*", "*/splits_final.json")),
    ("plans, other JSON of plan", "keys", ("*/preprocessed/*.json",)),
    ("preprocessed arrays", "bytes", ("*/preprocessed/*",)),
    ("tuning file", "keys", ("*/gi2nnunet_tuning_*.json",)),
    ("models, a copy of REV's", "bytes", (f"{MODELS}/*",)),
    ("probabilities", "bytes", ("*.gi2prob",)),
    ("label volumes", "bytes", ("*.nii.gz",)),
    ("submissions, truth, scores as CSV", "bytes", ("*.csv",)),
    ("JSON of predictions", "keys", ("held-out/*.json", "tuned/*.json", "*/cost.json")),
    ("output of the commands", "keys", ("printed/*.json",)),
    ("other files", "bytes", ("*",)),
)


def run_python(*words: str, checkout: Path, work: Path) -> str:
    """Run Python in ``work`` with the code of ``checkout``; return its output, or stop."""
    environment = {k: v for k, v in os.environ.items() if "NNUNET" not in k.upper()}
    path = os.pathsep.join(map(str, (checkout, work.parent / "guard")))
    done = subprocess.run(
        [sys.executable, *words],
        cwd=work,
        env={**environment, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(
            f"with the code in {checkout}, exit code {done.returncode} from: python "
            f"{' '.join(words)}\n{done.stderr[-3000:]}"
        )
    return done.stdout


def run_all(checkout: Path, work: Path, *, models: Path, seed: int) -> None:
    """Run the commands in the new folder ``work``; train only if there are no ``models`` yet."""

    def run(name: str, words: str) -> None:
        began = time.monotonic()
        command = ("-m", "gi2nnunet", *words.format(seed=seed).split(), "--json")
        text = run_python(*command, checkout=checkout, work=work)
        if name != "train":  # not run on both sides
            (work / "printed" / f"{name}.json").write_text(text)
        print(f"  {name}: {time.monotonic() - began:.0f} s", file=sys.stderr)

    (work / "printed").mkdir(parents=True)
    look = "import gi2nnunet; print(gi2nnunet.__file__)"
    found = Path(run_python("-c", look, checkout=checkout, work=work).strip())
    if not found.resolve().is_relative_to(checkout):
        sys.exit(f"found the package in {found}; expected it in {checkout}")
    for name, words in PREPARE.items():
        run(name, words)
    if models.exists():
        shutil.copytree(models, work / MODELS, dirs_exist_ok=True)
    else:
        run("train", TRAIN)
        shutil.copytree(work / MODELS, models)
    for name, words in USE.items():
        run(name, words)


def list_files(folder: Path) -> set[str]:
    """Return the relative paths of the files in ``folder`` that are to be compared."""
    paths = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    return {path for path in paths if not fnmatch(path, IGNORED_FILES)}


def compare_values(before: Any, after: Any, where: str, new: set[str]) -> Iterator[str]:
    """Yield the differences of two JSON values; add the keys of ``after`` only to ``new``."""
    if isinstance(before, dict) and isinstance(after, dict):
        place = re.sub(r"\[\d+\]", "[]", where)
        new |= {f"{place}.{key}" for key in after.keys() - before.keys() - IGNORED_KEYS}
        for key in sorted(before.keys() - IGNORED_KEYS):
            if key in after:
                yield from compare_values(before[key], after[key], f"{where}.{key}", new)
            else:
                yield f"{where}.{key}: gone"
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from compare_values(one, other, f"{where}[{number}]", new)
    elif type(before) is not type(after) or before != after:
        yield f"{where}: {json.dumps(before)[:80]} became {json.dumps(after)[:80]}"


def compare_files(before: Path, after: Path, how: str, where: str, new: set[str]) -> Iterator[str]:
    """Yield the differences of two files, of which one may be missing."""
    if not before.exists() or not after.exists():
        yield f"{where}: {'gone' if before.exists() else 'new'}"
    elif before.read_bytes() != after.read_bytes():
        if how == "bytes":
            yield f"{where}: other bytes"
        else:
            values = [json.loads(file.read_text(), parse_constant=str) for file in (before, after)]
            yield from compare_values(values[0], values[1], where, new)


def compare_runs(before: Path, after: Path) -> bool:
    """Compare the files of two runs, print what was found, return whether they are the same."""
    files = Counter[str]()
    differences: dict[str, list[str]] = {name: [] for name, _, _ in KINDS}
    new: set[str] = set()
    for path in sorted(list_files(before) | list_files(after)):
        name, how, _ = next(kind for kind in KINDS if any(fnmatch(path, p) for p in kind[2]))
        files[name] += 1
        differences[name] += compare_files(before / path, after / path, how, path, new)
    print("| compared | files | by | result |\n|---|---|---|---|")
    for name, how, patterns in KINDS:
        if not files[name] and patterns != ("*",):
            differences[name].append("found no such file; expected some: adapt KINDS")
        count = len(differences[name])
        result = f"**{count} differences**" if count else "same"
        print(f"| {name} | {files[name]} | {how} | {result} |")
    for title, lines in {**differences, "new keys": sorted(new) or ["none"]}.items():
        if lines:
            more = [f"and {len(lines) - MOST_LINES} more"] if len(lines) > MOST_LINES else []
            print(f"\n{title}:", *lines[:MOST_LINES], *more, sep="\n  ")
    return not any(differences.values())


def ask_git(*words: str) -> str:
    """Return what a git command prints in this checkout."""
    return subprocess.check_output(["git", *words], cwd=ROOT, text=True).strip()


def main() -> int:
    """Parse the options, run everything twice, compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("rev", metavar="REV", help="commit to compare with")
    parser.add_argument("--folder", type=Path, help="new folder, which keeps both runs")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began = time.monotonic()
    commit = ask_git("rev-parse", "--short", "--verify", f"{options.rev}^{{commit}}")
    if options.folder and options.folder.exists():
        parser.error(f"--folder: found {options.folder}; expected a folder that does not exist yet")
    if options.folder:
        options.folder.mkdir(parents=True)
    home = (options.folder or Path(tempfile.mkdtemp(prefix="gi2nnunet-same-as-"))).resolve()
    checkout, work = home / "checkout", home / "run"
    (home / "guard").mkdir()
    (home / "guard" / "sitecustomize.py").write_text(GUARD)
    ask_git("worktree", "add", "--quiet", "--detach", str(checkout), commit)
    try:
        for name, code in (("before", checkout), ("after", ROOT)):
            print(f"{name}: {code}", file=sys.stderr)
            run_all(code, work, models=home / "models", seed=options.seed)
            work.rename(home / name)
        print(f"before: {commit}; after: {ask_git('describe', '--always', '--dirty')}\n")
        same = compare_runs(home / "before", home / "after")
    finally:
        ask_git("worktree", "remove", "--force", str(checkout))
        if not options.folder:
            shutil.rmtree(home)
    print(f"\n{'The same' if same else 'Different'} ({time.monotonic() - began:.0f} s).")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
