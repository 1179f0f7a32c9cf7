"""nnU-Net's own tools on models trained here: each line of the page's table is run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.slow]

PAGE = Path(__file__).parents[1] / "docs" / "plain-nnunet.md"
ROWS = re.findall(r"^\| `(nnUNetv2_[^`]+)` \| `(train[^`]*)` \|$", PAGE.read_text(), re.MULTILINE)
PLANS = "gi2nnunetTinyPlans"
TRAIN = ("train", "--preset", "tiny", "-c", "2d", "--fold", "cv", "--epochs", "1",
         "--iterations", "2", "--device", "cpu", "--workspace", ".")  # fmt: skip
# Options that only say what to compute on.
_ON_CPU = ("-device", "cpu", "-npp", "1", "-nps", "1")

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a program in a workspace with a model of two folds, without nnU-Net's validation."""
    folder = tmp_path_factory.mktemp("plain")
    names = ("raw", "preprocessed", "results")
    environ = {
        **os.environ,
        **{f"nnUNet_{name}": str(folder / name) for name in names},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "nnUNet_def_n_proc": "1",
    }

    def run_program(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, cwd=folder, env=environ, capture_output=True, text=True, check=False
        )

    source = ("phantom", "--out", "source", "--patients", "4", "--days", "1", "--size", "32x32x6@3")
    convert = ("convert", "source", "--folds", "2", "--holdout", "0", "--workspace", ".")
    for words in (source, convert, TRAIN):
        done = run_program("gi2nnunet", *words)
        assert done.returncode == 0, done.stderr
    raw = folder / "raw" / "Dataset501_UWGI"
    image = min((raw / "imagesTr").iterdir())
    for to, path in (
        ("images", image),
        ("labels", raw / "labelsTr" / image.name.replace("_0000", "")),
    ):
        (folder / to).mkdir()
        shutil.copy(path, folder / to)
    return run_program


def test_every_tool_of_the_page_works_after_what_it_says_and_not_before(run: Run) -> None:
    assert {need for _, need in ROWS} == {"train", "train --nnunet-validation"}
    assert len(ROWS) == PAGE.read_text().count("\n| `nnUNetv2_")

    def run_all(needs: str) -> dict[str, tuple[int, str]]:
        outcome = {}
        for command, need in ROWS:
            words = shlex.split(command.replace("PLANS", PLANS))
            words += _ON_CPU if words[0].startswith("nnUNetv2_predict") else ()
            if needs in ("", need):
                done = run(*words)
                outcome[command] = (done.returncode, done.stderr[-500:])
        return outcome

    first = run_all("")
    for command, need in ROWS:
        assert (first[command][0] == 0) == (need == "train"), (command, first[command])
    validated = run("gi2nnunet", *TRAIN, "--nnunet-validation")
    assert validated.returncode == 0, validated.stderr
    for command, (code, err) in run_all("train --nnunet-validation").items():
        assert code == 0, (command, err)
