"""The house rules that can be read off the source code."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from gi2nnunet.formats.volumes import write_volume

ROOT = Path(__file__).resolve().parents[1] / "gi2nnunet"
MOST_LINES = 800

# The packages in the way of the data: each imports only those above it. "" is what
# `import gi2nnunet` offers; inside a package the order is free, as long as there is no circle.
ORDER = (
    "core",
    "formats",
    "source",
    "dataset",
    "scoring",
    "nnunet",
    "training",
    "prediction",
    "tuning",
    "upkeep",
    "sharing",
    "pages",
    "api",
    "",
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


def find_arrows(root):
    """Imports between modules of the package: ``(module, imported module, line)``."""
    modules = find_modules(root)
    return [
        (module, imported, line)
        for module, path in modules.items()
        for imported, line in find_imports(parse(path), module=module, known=modules)
        if imported != module
    ]


def find_violations(root, order):
    """Imports from a package of one that stands below it."""
    rank = {package: index for index, package in enumerate(order)}
    return [
        f"{module}, line {line}: imports {imported}"
        for module, imported, line in find_arrows(root)
        if rank[imported.partition(".")[0]] > rank[module.partition(".")[0]]
    ]


def find_circles(root):
    """Modules that import each other in a circle, those inside functions counted too."""
    waiting = {}
    for module, imported, _ in find_arrows(root):
        waiting.setdefault(module, set()).add(imported)
    while free := {name for names in waiting.values() for name in names} - set(waiting):
        left = {module: names - free for module, names in waiting.items()}
        waiting = {module: names for module, names in left.items() if names}
    # What only imports a circle is not in one.
    while outside := set(waiting) - {name for names in waiting.values() for name in names}:
        waiting = {module: names for module, names in waiting.items() if module not in outside}
    return sorted(waiting)


def test_every_package_has_its_place():
    assert len(ORDER) == len(set(ORDER))
    assert set(ORDER) == {module.partition(".")[0] for module in MODULES}


def test_packages_import_only_what_stands_above_them():
    assert find_violations(ROOT, ORDER) == []


def test_no_modules_import_each_other_in_a_circle():
    assert find_circles(ROOT) == []


def find_bound(tree):
    """Names that a module imports for use under its own name, and those that it defines itself."""
    imported, defined = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.asname or alias.name.partition(".")[0] for alias in node.names}
            imported |= names
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            defined.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            defined.add(node.id)
    return imported, defined


def find_chains(root, paths):
    """Names that files take from a module of the package that itself only imported them.

    What ``import gi2nnunet`` and ``gi2nnunet.api`` offer is gathered from elsewhere on purpose.
    """
    modules = find_modules(root)
    only_imported = {}
    for module, path in modules.items():
        imported, defined = find_bound(parse(path))
        only_imported[f"gi2nnunet.{module}"] = (
            imported - defined if module not in ("", "api") else set()
        )
    found = []
    for path in paths:
        tree, called = parse(path), {}  # modules of the package by the name they have here
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    if f"{node.module}.{alias.name}" in only_imported:
                        called[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                    elif alias.name in only_imported.get(node.module, ()):
                        found.append((path, node.lineno, f"{node.module}.{alias.name}"))
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    called[alias.asname or alias.name] = alias.name
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name | ast.Attribute):
                module = ast.unparse(node.value)
                module = called.get(module, module)
                if node.attr in only_imported.get(module, ()):
                    found.append((path, node.lineno, f"{module}.{node.attr}"))
    return [f"{path.name}, line {line}: {name} is not defined there" for path, line, name in found]


def test_a_name_is_imported_from_the_module_that_defines_it():
    scripts = (ROOT.parent / "scripts").rglob("*.py")
    assert find_chains(ROOT, [*MODULES.values(), *sorted(scripts)]) == []


@pytest.mark.parametrize(
    "line",
    [
        "from gi2nnunet.second.inner import x",
        "from gi2nnunet.second.inner import first as y",
        "from gi2nnunet.second import inner\ninner.x",
        "import gi2nnunet.second.inner as i\ni.x",
        "import gi2nnunet.second.other\ngi2nnunet.second.other.numpy",
    ],
)
def test_a_name_that_was_only_passed_on_is_found(tmp_path, line):
    make_package(tmp_path, "x = 1")
    user = tmp_path / "user.py"
    user.write_text(line)
    [found] = find_chains(tmp_path, [user])
    assert found.startswith("user.py, line ")
    user.write_text("from gi2nnunet.first import x\nfrom gi2nnunet.second import inner")
    parse.cache_clear()
    assert find_chains(tmp_path, [user]) == []


def make_package(folder, first):
    for name, text in {
        "__init__": "",
        "first": first,
        "second/__init__": "",
        "second/inner": "from gi2nnunet import first\nfrom gi2nnunet.first import x",
        "second/other": "import numpy",
    }.items():
        path = folder / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(first if name == "first" else text)


@pytest.mark.parametrize(
    "line",
    [
        "import gi2nnunet.second.inner",
        "from gi2nnunet.second.inner import thing",
        "from gi2nnunet.second import inner",
        "def f():\n    from gi2nnunet.second.inner import thing",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import gi2nnunet.second.inner",
    ],
)
def test_a_wrong_import_is_found(tmp_path, line):
    make_package(tmp_path, line)
    found = find_violations(tmp_path, ("first", "second", ""))
    assert len(found) == 1
    assert found[0].startswith("first, line ")
    assert find_circles(tmp_path) == ["first", "second.inner"]


def test_a_right_import_is_no_circle(tmp_path):
    make_package(tmp_path, "from gi2nnunet.second.other import thing")
    assert find_circles(tmp_path) == []
    assert find_violations(tmp_path, ("second", "first", "")) == [
        "second.inner, line 1: imports first",
        "second.inner, line 2: imports first",
    ]


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
MAY_USE = {"scoring.medical": {"torch"}}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_keeps_to_its_room(module):
    packages, names = find_used(parse(MODULES[module]))
    room = module.partition(".")[0]
    if room != "nnunet":
        assert not (packages - MAY_USE.get(module, set())) & ENGINE_PACKAGES
    if room != "cli":
        assert not names & {"print()", "input()", "exit()", "quit()"}
        assert not packages & {"typer", "click", "rich"}
    if room not in ("api", "cli") and module != "nnunet.child.main":
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
    names = set(done.stderr.split())
    return names | {name.partition(".")[0] for name in names}


HEAVY = {"numpy", "pandas", "scipy", "nibabel", "imagecodecs", "SimpleITK", "sklearn", "torch"}


def test_help_loads_nothing_heavy():
    help_of = "import gi2nnunet.cli; sys.argv = ['gi2nnunet', '--help']; gi2nnunet.cli.main()"
    loaded = loaded_by(help_of)
    assert {"gi2nnunet", "typer"} <= loaded
    assert not loaded & (HEAVY | ENGINE_PACKAGES | {"gi2nnunet.cli.training", "gi2nnunet.api"})
    # Nor does that of any command: it is made of the module's functions.
    commands = "import typer, gi2nnunet.cli; "
    commands += "list(typer.main.get_command(gi2nnunet.cli.app).commands.values())"
    assert not loaded_by(commands) & (HEAVY | ENGINE_PACKAGES)
    # The probe does see what a command loads.
    assert "numpy" in loaded_by(
        help_of.replace("--help", "score', 'none.csv', '--truth', 'none.csv")
    )


def test_the_library_does_not_load_the_engine():
    library = [
        m
        for m in MODULES
        if m
        and m.partition(".")[0] not in ("cli", "__main__")
        and (not m.startswith("nnunet.child.") or m == "nnunet.child.main")
    ]
    loaded = loaded_by("import " + ", ".join(f"gi2nnunet.{m}" for m in library))
    assert "numpy" in loaded
    assert not loaded & (ENGINE_PACKAGES | {"monai", "typer", "rich"})


def test_pandas_is_loaded_only_for_data_frames(tmp_path):
    every = [m for m in MODULES if m not in ("", "__main__") and not m.startswith("nnunet.child.")]
    loaded = loaded_by("import " + ", ".join(f"gi2nnunet.{module}" for module in every))
    assert {"numpy", "gi2nnunet.formats.tables", "gi2nnunet.cli.data"} <= loaded
    assert "pandas" not in loaded
    reading = "from gi2nnunet.formats.tables import read_csv; read_csv('t.csv', b'a\\n1\\n')"
    assert "pandas" not in loaded_by(reading)
    run = "import sys, gi2nnunet.cli; sys.argv = {!r}; gi2nnunet.cli.main()".format
    source, written = tmp_path / "source", tmp_path / "rows.csv"
    phantom = ["phantom", "-o", str(source), "--patients", "1", "--size", "16x16x2", "--jobs", "1"]
    assert "pandas" not in loaded_by(run(["gi2nnunet", *phantom]))
    write_volume(tmp_path / "a.nii.gz", np.zeros((2, 3, 4), np.uint8), spacing_mm=(3, 1, 1))
    encode = ["encode", str(tmp_path / "a.nii.gz"), "--labels", "regions", "--out", str(written)]
    assert "pandas" not in loaded_by(run(["gi2nnunet", *encode]))
    assert (source / "train.csv").is_file()
    assert written.is_file()
