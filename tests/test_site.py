"""The site of docs/, built with warnings as errors: broken links, pages in no table of contents."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def build(source: Path, out: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "sphinx", "-q", "-n", "-W", "--keep-going", "-b", "dummy"]
    return subprocess.run(
        [*command, str(source), str(out)], capture_output=True, text=True, check=False, timeout=600
    )


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("sphinx", reason="needs pip install -e '.[docs]'")
    done = build(ROOT / "docs", tmp_path / "site")
    assert done.returncode == 0, done.stderr
