"""The house rules that can be read off the source code."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "gi2nnunet"
MOST_LINES = 420

# A module may import only modules that stand before it. A package's own __init__ stands last of its
# modules where it gathers them, and so does the package's (""), which offers what stands before it.
ORDER = (
    "errors",
    "limits",
    "wheels",
    "files",
    "locks",
    "workers",
    "rle",
    "kaggle",
    "labels",
    "archive",
    "source",
    "hidden",
    "slices",
    "volumes",
    "nifti_source",
    "splits",
    "manifest",
    "findings",
    "dataset_checks",
    "opening",
    "conversion",
    "scan_measures",
    "suspects",
    "survey",
    "target",
    "dataset",
    "phantom.frame",
    "phantom.gut",
    "phantom.anatomy",
    "phantom.signal",
    "phantom.scan",
    "phantom.listing",
    "phantom.making",
    "phantom.output",
    "phantom.writing",
    "phantom",
    "submission",
    "farthest",
    "metric",
    "medical",
    "scores",
    "scoring",
    "compare",
    "encoding",
    "probabilities",
    "decision",
    "gain",
    "choice_table",
    "tuning",
    "nnunet",
    "nnunet.workspace",
    "nnunet.process",
    "nnunet.presets",
    "nnunet.devices",
    "nnunet.hardware",
    "nnunet.shipped",
    "nnunet.trust",
    "nnunet.checkpoints",
    "nnunet.models",
    "nnunet.checking",
    "nnunet.bundle",
    "nnunet.planner",
    "nnunet.plan",
    "nnunet.derived_checks",
    "nnunet.stock",
    "nnunet.machine",
    "nnunet.estimate",
    "nnunet.doctor",
    "nnunet.start",
    "nnunet.memory",
    "nnunet.trainer",
    "nnunet.measuring",
    "nnunet.training",
    "nnunet.train",
    "nnunet.curves",
    "nnunet.cards",
    "nnunet.schedule",
    "nnunet.pace",
    "nnunet.passes",
    "nnunet.costs",
    "nnunet.evidence",
    "nnunet.costing",
    "nnunet.batching",
    "nnunet.network",
    "nnunet.inference",
    "nnunet.kept",
    "nnunet.computing",
    "nnunet.predict",
    "nnunet.budget",
    "nnunet.weights",
    "nnunet.exchange",
    "nnunet.child",
    "tuned",
    "cluster",
    "cluster.profile",
    "cluster.graph",
    "cluster.running",
    "cluster.submitting",
    "standing",
    "selection",
    "handover",
    "kaggle_bundle",
    "offline",
    "parts",
    "evaluation",
    "out_of_fold",
    "model_choice",
    "verify",
    "report",
    "report.records",
    "report.trainings",
    "report.commands",
    "report.costs",
    "report.tunings",
    "report.viewer",
    "report.figures",
    "report.gather",
    "report.page",
    "report.pictures",
    "report.cards",
    "report.check_figures",
    "report.check_tables",
    "report.check_page",
    "api.wiring",
    "api.data",
    "api.training",
    "api.prediction",
    "api.results",
    "api",
    "",
    "cli.show",
    "cli.frame",
    "cli.live",
    "cli.options",
    "cli.starting",
    "cli.stopping",
    "cli.data",
    "cli.scores",
    "cli.comparison",
    "cli.cluster",
    "cli.training",
    "cli.prediction",
    "cli.tuning",
    "cli.models",
    "cli.kaggle",
    "cli.checks",
    "cli.estimating",
    "cli.reporting",
    "cli.survey",
    "cli.last_resort",
    "cli",
    "__main__",
)


def find_modules(root=ROOT):
    """Path of each module by its name inside the package; a package goes by its own name."""
    return {
        ".".join(p for p in path.relative_to(root).with_suffix("").parts if p != "__init__"): path
        for path in sorted(root.rglob("*.py"))
    }


MODULES = find_modules()


@cache
def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def find_imports(tree, *, module, known):
    """Modules of the package that a module imports, anywhere in it, by the line."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import in line {node.lineno}"
            whole = f"{node.module}."
            names = [whole + alias.name for alias in node.names]
        else:
            continue
        for name in names:
            if name == "gi2nnunet" or name.startswith("gi2nnunet."):
                inner = name.partition(".")[2]
                while inner not in known:  # a name inside a module
                    inner = inner.rpartition(".")[0]
                found.append((inner, node.lineno))
    return found


def find_violations(root, order):
    """Imports that go against the order."""
    modules = find_modules(root)
    rank = {module: index for index, module in enumerate(order)}
    return [
        f"{module}, line {line}: imports {imported}"
        for module, path in modules.items()
        for imported, line in find_imports(parse(path), module=module, known=modules)
        if imported != module and rank.get(imported, len(rank)) >= rank.get(module, len(rank))
    ]


def test_every_module_has_its_place():
    assert len(ORDER) == len(set(ORDER))
    assert set(ORDER) == set(MODULES)


def test_modules_import_only_what_stands_before_them():
    assert find_violations(ROOT, ORDER) == []


@pytest.mark.parametrize(
    "line",
    [
        "import gi2nnunet.second",
        "from gi2nnunet.second import thing",
        "from gi2nnunet import second",
        "def f():\n    from gi2nnunet.second import thing",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import gi2nnunet.second",
        "from gi2nnunet.sub.inner import thing",
        "from gi2nnunet.sub import name_of_its_own",
    ],
)
def test_a_wrong_import_is_found(tmp_path, line):
    for name, text in {
        "__init__": "",
        "first": line,
        "second": "from gi2nnunet import first\nfrom gi2nnunet.first import x",
        "sub/__init__": "from gi2nnunet.sub import inner",
        "sub/inner": "import numpy",
    }.items():
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    found = find_violations(tmp_path, ("first", "second", "sub.inner", "sub"))
    assert len(found) == 1
    assert found[0].startswith("first, line ")


def find_used(tree):
    """Top-level packages that a module imports, and the dotted names that it uses."""
    packages, names = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            packages |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            packages.add(node.module.partition(".")[0])
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            names.add(f"{node.value.id}.{node.attr}")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            names.add(f"{node.func.id}()")
    return packages, names


ENGINE_PACKAGES = {
    "nnunetv2",
    "torch",
    "torchvision",
    "batchgenerators",
    "batchgeneratorsv2",
    "dynamic_network_architectures",
    "acvl_utils",
    "safetensors",
}

# MONAI's measures take tensors; both are imported only when they are asked for.
MAY_USE = {"medical": {"torch"}}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_keeps_to_its_room(module):
    packages, names = find_used(parse(MODULES[module]))
    room = module.partition(".")[0]
    if room != "nnunet":
        assert not (packages - MAY_USE.get(module, set())) & ENGINE_PACKAGES
    if room != "cli":
        assert not names & {"print()", "input()", "exit()", "quit()"}
        assert not packages & {"typer", "click", "rich"}
    if room != "cli" and module not in ("nnunet.child", "api.wiring"):
        process_wide = {
            "sys.argv", "sys.exit", "sys.stdout", "sys.stderr", "os.environ", "os.getenv",
            "os.putenv", "os.chdir",
        }  # fmt: skip
        assert not names & process_wide
    lines = len(MODULES[module].read_text(encoding="utf-8").splitlines())
    assert lines <= MOST_LINES, f"{lines} lines: split it by what makes it change"


def loaded_by(code):
    """Modules that a fresh interpreter has loaded after running some code."""
    script = f"import sys\ntry:\n    {code}\nexcept SystemExit:\n    pass\n"
    script += "sys.stderr.write('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    return {name.partition(".")[0] for name in done.stderr.split()}


HEAVY = {"numpy", "pandas", "scipy", "nibabel", "imagecodecs", "SimpleITK", "sklearn", "torch"}


def test_help_loads_nothing_heavy():
    help_of = "import gi2nnunet.cli; sys.argv = ['gi2nnunet', '--help']; gi2nnunet.cli.main()"
    loaded = loaded_by(help_of)
    assert {"gi2nnunet", "typer"} <= loaded
    assert not loaded & (HEAVY | ENGINE_PACKAGES)
    # The probe does see what a command loads.
    assert "numpy" in loaded_by(help_of.replace("--help", "score', 'none.csv', 'none.csv"))


def test_the_library_does_not_load_the_engine():
    child_only = {
        f"nnunet.{m}"
        for m in (
            "checkpoints",
            "planner",
            "trainer",
            "memory",
            "measuring",
            "batching",
            "network",
            "inference",
            "weights",
        )
    }
    library = [
        m
        for m in ORDER
        if m and m.partition(".")[0] not in ("cli", "__main__") and m not in child_only
    ]
    loaded = loaded_by("import " + ", ".join(f"gi2nnunet.{m}" for m in library))
    assert "numpy" in loaded
    assert not loaded & (ENGINE_PACKAGES | {"monai", "typer", "rich"})
