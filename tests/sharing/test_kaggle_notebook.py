"""The competition's notebook, executed without a network."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from nbformat import read as read_notebook

import gi2nnunet
from gi2nnunet.dataset.workspace import open_workspace
from gi2nnunet.prediction.choose import select_models
from gi2nnunet.sharing.kaggle_bundle import COMPETITION, SETTINGS, Notebook, make_bundle
from gi2nnunet.sharing.wheels import describe_image
from gi2nnunet.source.phantom.frame import Geometry
from gi2nnunet.source.phantom.writing import write_phantom
from tests.engines import make_engine
from tests.model_factory import write_model
from tests.offline_image import clean_environment, freeze, make_image, repack

NOTEBOOK = Path(gi2nnunet.__file__).parent / "sharing/kaggle_notebook.ipynb"
HEADER = "id,class,predicted\n"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"

# -- what goes wrong before anything is predicted; the cells run as a script


@dataclass(frozen=True, kw_only=True)
class Attached:
    """What Kaggle mounts, and where the notebook runs."""

    input: Path
    working: Path

    def add_test(self, place: str = COMPETITION, *, sample: str | None = HEADER) -> Path:
        """Attach a competition with two slices of one scan under test/."""
        folder = self.input / place
        scans = folder / "test" / "case9" / "case9_day1" / "scans"
        scans.mkdir(parents=True)
        for number in (1, 2):
            (scans / f"slice_{number:04d}_8_8_1.50_1.50.png").touch()
        if sample is not None:
            (folder / "sample_submission.csv").write_text(sample)
        return folder

    def add_bundle(self, place: str, **changes: object) -> Path:
        """Attach a bundle without wheels and without models."""
        folder = self.input / place
        folder.mkdir(parents=True)
        settings = {"python": PYTHON, "model": "m", "hours": 1.0, "options": []}
        (folder / SETTINGS).write_text(json.dumps(settings | changes))
        return folder

    def run(self, *, fails: bool = True) -> tuple[list[list[str]], str]:
        """Run the cells; return the submission's lines, and what was said.

        With scans and without a prediction the last cell fails.
        """
        cells = read_notebook(NOTEBOOK, as_version=4).cells
        script = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=self.working,
            env=clean_environment(GI2NNUNET_INPUT=str(self.input)),
            capture_output=True,
            text=True,
        )
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        assert ("nothing was predicted, although there are scans" in done.stderr) == fails
        with (self.working / "submission.csv").open(newline="") as file:
            return list(csv.reader(file)), done.stdout


@pytest.fixture
def attached(tmp_path: Path) -> Attached:
    made = Attached(input=tmp_path / "input", working=tmp_path / "working")
    made.working.mkdir()
    return made


TEST_ROWS = [
    [f"case9_day1_slice_{number:04d}", organ, ""]
    for number in (1, 2)
    for organ in ("large_bowel", "small_bowel", "stomach")
]


def test_nothing_attached_gives_a_header_and_says_so(attached: Attached) -> None:
    lines, said = attached.run(fails=False)
    assert lines == [HEADER.strip().split(",")]
    assert "Competition: not attached; bundle: not attached" in said
    assert "WARNING: the bundle cannot be installed" in said


@pytest.mark.parametrize(
    ("place", "sample"),
    [
        (COMPETITION, HEADER),
        (f"competitions/{COMPETITION}", ""),
        (COMPETITION, None),
        ("a-copy", None),
        ("datasets/jane/a-copy", HEADER),
    ],
)
def test_the_competition_is_found_and_its_slices_have_rows(
    attached: Attached, place: str, sample: str | None
) -> None:
    # What has a sample too does not stand in its way.
    if COMPETITION in place:
        (attached.input / "a-first").mkdir(parents=True)
        (attached.input / "a-first" / "sample_submission.csv").write_text("id,class\n1,2\n")
    attached.add_test(place, sample=sample)
    lines, said = attached.run()
    assert lines[1:] == TEST_ROWS
    assert f"Competition: {attached.input / place};" in said


def test_the_samples_rows_count_where_it_has_some(attached: Attached) -> None:
    rows = ["case9_day1_slice_0002,stomach,", "case7_day1_slice_0001,large_bowel,"]
    attached.add_test(sample=HEADER + "\n".join(rows) + "\n")
    lines, _ = attached.run()
    assert [",".join(line) for line in lines[1:]] == rows


def test_a_wheel_that_does_not_install_leaves_empty_rows(attached: Attached) -> None:
    attached.add_test()
    folder = attached.add_bundle("datasets/jane/my-bundle", python="3.99")
    (folder / "broken-1.0-py3-none-any.whl").write_text("no wheel")
    lines, said = attached.run()
    assert lines[1:] == TEST_ROWS
    assert f"bundle: {folder}" in said
    assert "the wheels are for 3.99" in said
    assert "WARNING: pip failed: rows stay empty" in said
    assert "6 rows, 0 with a mask" in said


def test_damaged_settings_leave_empty_rows(attached: Attached) -> None:
    attached.add_test()
    (attached.add_bundle("my-bundle") / SETTINGS).write_text("{")
    lines, said = attached.run()
    assert lines[1:] == TEST_ROWS
    assert "WARNING: the bundle cannot be installed" in said


COMMAND = """
import os, sys
if "predict-hidden" not in sys.argv:
    sys.exit(0)
out = sys.argv[sys.argv.index("--out") + 1]
text = open(out).read()
with open(out, "w") as file:
    file.write(text.replace("stomach,", "stomach,1 1", int(os.environ["MASKS"])))
sys.exit(int(os.environ["CODE"]))
"""


@pytest.mark.parametrize(
    ("code", "masks", "fails"),
    [
        (0, 2, False),
        (0, 0, False),  # predicted, and no organ found
        (4, 1, False),  # ended early, with something
        (4, 0, True),
    ],
)
def test_the_last_cell_fails_only_if_nothing_was_predicted(
    attached: Attached, monkeypatch: pytest.MonkeyPatch, code: int, masks: int, fails: bool
) -> None:
    attached.add_test()
    attached.add_bundle("my-bundle")
    for package, content in (("gi2nnunet", COMMAND), ("pip", "")):
        (attached.working / package).mkdir()
        (attached.working / package / "__init__.py").touch()
        (attached.working / package / "__main__.py").write_text(content)
    monkeypatch.setenv("CODE", str(code))
    monkeypatch.setenv("MASKS", str(masks))
    lines, said = attached.run(fails=fails)
    assert f"6 rows, {masks} with a mask" in said
    assert ("predict-hidden ended with exit code 4" in said) == (code == 4)
    assert len(lines) == 7


def test_a_command_that_does_not_end_is_ended_with_its_children(tmp_path: Path) -> None:
    [begin] = [c.source for c in read_notebook(NOTEBOOK, as_version=4).cells if c.id == "begin"]
    sleeper = "import subprocess; print('begun', flush=True); subprocess.run(['sleep', '600'])"
    script = f"{begin}\nprint('code', run([sys.executable, '-c', {sleeper!r}], 1))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path, env=clean_environment(GI2NNUNET_INPUT=str(tmp_path)),
        capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-2:] == ["begun", "code -9"]


# -- the whole of it: a fresh environment, package indexes switched off, nbclient

EXECUTE = """
import sys
import nbformat
from nbclient import NotebookClient

notebook, working = sys.argv[1:]
read = nbformat.read(notebook, 4)
place = {"metadata": {"path": working}}
NotebookClient(read, kernel_name="image", timeout=1800, resources=place).execute()
for cell in read.cells:
    for output in cell.get("outputs", ()):
        print(output["text"], end="")
"""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The competition's machine, and the source and bundle that may be attached to it."""

    folder: Path
    source: Path
    truth: Path
    bundle: Path
    workspace: Path

    def execute(
        self, source: Path, bundle: Path, name: str, *, new: bool, fails: bool = False
    ) -> tuple[str, Path]:
        """Execute the bundle's notebook as Kaggle does; return what it said, and the CSV."""
        mounted, working = self.folder / name / "input", self.folder / name / "working"
        working.mkdir(parents=True)
        for place, target in {
            f"competitions/{COMPETITION}" if new else COMPETITION: source,
            "datasets/jane/my-bundle" if new else "my-bundle": bundle,
        }.items():
            (mounted / place).parent.mkdir(parents=True, exist_ok=True)
            (mounted / place).symlink_to(target)
        done = subprocess.run(
            [sys.executable, "-c", EXECUTE, bundle / "predict.ipynb", working],
            env=clean_environment(
                GI2NNUNET_INPUT=str(mounted),
                JUPYTER_PATH=str(self.folder / "jupyter"),
                JUPYTER_RUNTIME_DIR=str(self.folder / "runtime"),
                IPYTHONDIR=str(self.folder / "ipython"),
            ),
            capture_output=True,
            text=True,
        )
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        assert [path.name for path in working.iterdir()] == ["submission.csv"]
        return done.stderr if fails else done.stdout, working / "submission.csv"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A fresh environment that holds PyTorch alone, a source with two hidden scans, a bundle."""
    folder = tmp_path_factory.mktemp("kaggle")
    python = make_image(folder / "image")
    (folder / "freeze.txt").write_text(freeze(python))
    kernel = folder / "jupyter" / "kernels" / "image"
    kernel.mkdir(parents=True)
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(
        json.dumps({"argv": argv, "display_name": "image", "language": "python"})
    )
    missing = subprocess.run([python, "-c", "import nnunetv2"], capture_output=True, text=True)
    assert "No module named 'nnunetv2'" in missing.stderr
    write_phantom(
        folder / "source", patients=1, days=1, test_patients=2, fill_sample=True, seed=0, jobs=1,
        geometries=[Geometry(width=48, height=40, slices=6, spacing_mm=(6, 6))],
        solution=folder / "truth.csv",
    )  # fmt: skip
    space = open_workspace(folder / "w", environ={})
    write_model(space.results, folds=(0, 1))
    dataset, ensemble = select_models(space)
    made = make_bundle(
        ensemble, folder / "bundle", notebook=Notebook(user="jane"), dataset=dataset,
        engine=make_engine(space, environ=clean_environment()),
        image=describe_image(PYTHON, folder / "freeze.txt"), fetch=repack,
    )  # fmt: skip
    names = {name.split("-")[0].lower() for name in made.wheels}
    assert {"gi2nnunet", "nnunetv2", "simpleitk", "pandas"} <= names
    assert not names & {"torch", "torchvision", "numpy", "triton", "argparse"}
    return Machine(
        folder=folder, source=folder / "source", truth=folder / "truth.csv",
        bundle=folder / "bundle", workspace=folder / "w",
    )  # fmt: skip


def read_rows(path: Path) -> dict[tuple[str, str], str]:
    with path.open(newline="") as file:
        return {(row["id"], row["class"]): row["predicted"] for row in csv.DictReader(file)}


def scans_with_masks(rows: dict[tuple[str, str], str]) -> set[str]:
    return {slice_id.partition("_slice_")[0] for (slice_id, _), text in rows.items() if text}


@pytest.mark.slow
@pytest.mark.engine
def test_it_installs_offline_and_predicts_what_predict_predicts(
    machine: Machine, run: Callable[..., tuple[int, str, str]]
) -> None:
    said, path = machine.execute(machine.source, machine.bundle, "normal", new=False)
    assert "Installed, " in said
    assert "WARNING" not in said
    assert "\x1b" not in said  # plain lines, no bars
    rows = read_rows(path)
    assert len(scans_with_masks(rows)) == 2
    code, _, err = run("score", path, "--truth", machine.truth)
    assert code == 0, err
    own = ("--device", "cpu", "--no-tuning", "-w", machine.workspace)
    code, _, err = run("predict", machine.source, "--out", "predicted", *own)
    assert code == 0, err
    [predicted] = Path("predicted").rglob("*.csv")
    assert read_rows(predicted) == rows


@pytest.mark.slow
@pytest.mark.engine
def test_a_header_for_a_sample_and_a_broken_scan(
    machine: Machine, run: Callable[..., tuple[int, str, str]]
) -> None:
    source = machine.folder / "broken"
    shutil.copytree(machine.source, source)
    (source / "sample_submission.csv").write_text(HEADER)
    [first, second] = sorted((source / "test").glob("*/*"))
    png = sorted((first / "scans").iterdir())[2]
    png.write_bytes(png.read_bytes()[:50])
    said, path = machine.execute(source, machine.bundle, "broken", new=True)
    rows = read_rows(path)
    assert rows.keys() == read_rows(machine.source / "sample_submission.csv").keys()
    assert scans_with_masks(rows) == {second.name}
    assert f"{first.name} is left empty" in said
    assert run("score", path, "--truth", machine.truth)[0] == 0


@pytest.mark.slow
def test_nothing_to_predict_is_said_and_gives_a_header(machine: Machine) -> None:
    source = machine.folder / "published"
    source.mkdir()
    (source / "sample_submission.csv").write_text(HEADER)
    said, path = machine.execute(source, machine.bundle, "published", new=True)
    assert path.read_text() == HEADER
    assert "holds no scan, so the submission has no masks" in said


@pytest.mark.slow
@pytest.mark.engine
def test_a_budget_too_short_leaves_empty_rows(
    machine: Machine, run: Callable[..., tuple[int, str, str]]
) -> None:
    bundle = machine.folder / "hurried"
    shutil.copytree(machine.bundle, bundle)
    settings = json.loads((bundle / SETTINGS).read_text())
    (bundle / SETTINGS).write_text(json.dumps({**settings, "hours": 0.0003}))
    said, path = machine.execute(machine.source, bundle, "hurried", new=False, fails=True)
    assert "nothing was predicted, although there are scans" in said
    rows = read_rows(path)
    assert rows.keys() == read_rows(machine.source / "sample_submission.csv").keys()
    assert not scans_with_masks(rows)
    assert run("score", path, "--truth", machine.truth)[0] == 0
