"""Run docs/notebook.ipynb from top to bottom in an empty folder and store what it shows.

    python scripts/refresh_notebook.py                  # in place
    python scripts/refresh_notebook.py --out other.ipynb

It trains a small network: a few minutes on a CPU.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

NOTEBOOK = Path(__file__).resolve().parent.parent / "docs" / "notebook.ipynb"
SECONDS = 900
# Where the engine's own variables are set they would name the workspace's folders.
ENGINE = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


def main() -> None:
    import nbformat
    from nbclient import NotebookClient

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=NOTEBOOK, help="by default the notebook itself")
    out = parser.parse_args().out.resolve()
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    environment = {name: value for name, value in os.environ.items() if name not in ENGINE}
    with tempfile.TemporaryDirectory(prefix="notebook-") as folder:
        client = NotebookClient(notebook, timeout=SECONDS, resources={"metadata": {"path": folder}})
        client.execute(env=environment, cwd=folder)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when each cell ran
    notebook.metadata["language_info"] = {"name": "python"}
    text = nbformat.writes(notebook).replace(folder, "/home/you/trial")
    out.write_text(text + "\n", encoding="utf-8")
    print(f"{out} ({out.stat().st_size / 1e3:.0f} kB)")


if __name__ == "__main__":
    main()
