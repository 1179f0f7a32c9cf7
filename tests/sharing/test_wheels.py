"""The wheels another machine needs, held to what is installed here."""

from __future__ import annotations

import base64
import csv
import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from gi2nnunet.core.errors import EngineError, InputError
from gi2nnunet.sharing.wheels import Image, collect_wheels, describe_image

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


def write_wheel(
    folder: Path, name: str, version: str, *, needs: Sequence[str] = (), tag: str = "py3-none-any"
) -> None:
    stem = f"{name.replace('-', '_')}-{version}"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {need}" for need in needs]
    with zipfile.ZipFile(folder / f"{stem}-{tag}.whl", "w") as members:
        members.writestr(f"{stem}.dist-info/METADATA", "\n".join(lines))


class Fetch:
    """Stands in for pip: writes wheels without content, and keeps what it was asked for."""

    def __init__(self, **special: dict[str, object]) -> None:
        self.special = special
        self.asked: list[str] = []

    def __call__(self, requirements: Sequence[str], image: Image, folder: Path) -> None:
        self.asked += requirements
        for text in requirements:
            need = Requirement(text)
            name = canonicalize_name(need.name)
            pins = [spec.version for spec in need.specifier if spec.operator == "=="]
            made = {"version": pins[0] if pins else "9.9", **self.special.get(name, {})}
            write_wheel(folder, name, **made)  # type: ignore[arg-type]


def freeze_here(*, without: Sequence[str] = (), **other: str) -> str:
    versions = {canonicalize_name(d.name): d.version for d in metadata.distributions()} | other
    return "".join(f"{name}=={v}\n" for name, v in versions.items() if name not in without)


def names_in(folder: Path) -> set[str]:
    return {str(parse_wheel_filename(path.name)[0]) for path in folder.glob("*.whl")}


def test_nothing_known_of_the_image_takes_all_but_torch(tmp_path: Path) -> None:
    fetch = Fetch()
    wheels = collect_wheels(describe_image(HERE), tmp_path, fetch=fetch)
    names = names_in(tmp_path)
    assert {"gi2nnunet", "nnunetv2", "numpy", "simpleitk", "acvl-utils", "pandas"} <= names
    assert not names & {"torch", "torchvision", "sympy", "mpmath", "triton"}
    assert not [name for name in names if name.startswith("nvidia")]
    assert [path.name for path in wheels] == sorted(path.name for path in tmp_path.iterdir())
    for text in fetch.asked:
        need = Requirement(text)
        assert str(need.specifier) == f"=={metadata.version(need.name)}"
    # Closed: whatever a wheel needs goes along, is torch's, or is a backport of Python's own.
    assert not names & sys.stdlib_module_names
    for name in names:
        for text in metadata.requires(name) or ():
            need = Requirement(text)
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                known = {*names, "torch", "torchvision", *sys.stdlib_module_names}
                assert canonicalize_name(need.name) in known, (name, text)


def test_what_the_image_holds_stays_out_unless_it_does_not_suit(tmp_path: Path) -> None:
    freeze = tmp_path / "freeze.txt"
    found = {}
    for case, text in {
        "same": freeze_here(without=["gi2nnunet"]),
        "no nnU-Net": freeze_here(without=["gi2nnunet", "nnunetv2"]),
        "old nnU-Net": freeze_here(without=["gi2nnunet"], nnunetv2="2.0"),
        "newer isal": freeze_here(without=["gi2nnunet"], isal="99.0"),
        "no version": freeze_here(without=["gi2nnunet", "isal"]) + "isal @ file:///a/b.whl\n",
        "options": "# made there\n-e git+https://x/y#egg=z\n" + freeze_here(without=["gi2nnunet"]),
    }.items():
        freeze.write_text(text)
        folder = tmp_path / case
        folder.mkdir()
        collect_wheels(describe_image(HERE, freeze), folder, fetch=Fetch())
        found[case] = names_in(folder) - {"gi2nnunet"}
    assert found["same"] == found["newer isal"] == found["options"] == set()
    assert found["no nnU-Net"] == found["old nnU-Net"] == {"nnunetv2"}
    assert found["no version"] == {"isal"}


def test_markers_are_those_of_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that one Python needs; what it needs in turn comes out of its wheel."""
    requires = metadata.requires

    def require_more(name: str) -> list[str]:
        more = ["a-backport>1; python_version < '3.12'"] if name == "gi2nnunet" else []
        return [*(requires(name) or ()), *more]

    monkeypatch.setattr(metadata, "requires", require_more)
    fetch = Fetch(**{"a-backport": {"version": "2.9", "needs": ["its-own-need>=1"]}})
    freeze = tmp_path / "freeze.txt"
    freeze.write_text(freeze_here(without=["gi2nnunet"]))
    for python, expected in (("3.11", {"a-backport", "its-own-need"}), ("3.12", set())):
        folder = tmp_path / python
        folder.mkdir()
        collect_wheels(describe_image(python, freeze), folder, fetch=fetch)
        assert names_in(folder) == {"gi2nnunet", *expected}


def test_a_torch_that_does_not_suit_is_refused(tmp_path: Path) -> None:
    freeze = tmp_path / "freeze.txt"
    # nnunetv2 excludes 2.9.
    freeze.write_text(freeze_here(without=["gi2nnunet", "nnunetv2"], torch="2.9.1"))
    with pytest.raises(InputError, match=r"torch: found 2\.9\.1 in the image; nnunetv2 needs"):
        collect_wheels(describe_image(HERE, freeze), tmp_path, fetch=Fetch())


def test_a_wheel_of_another_python_is_refused(tmp_path: Path) -> None:
    freeze = tmp_path / "freeze.txt"
    freeze.write_text(freeze_here(without=["gi2nnunet", "isal"]))
    fetch = Fetch(isal={"tag": "cp39-cp39-manylinux_2_17_x86_64"})
    with pytest.raises(InputError, match=r"isal.*does not install on Python 3\.12"):
        collect_wheels(describe_image("3.12", freeze), tmp_path, fetch=fetch)
    for path in tmp_path.glob("*.whl"):
        path.unlink()
    fetch = Fetch(isal={"tag": "cp312-cp312-manylinux_2_28_x86_64.manylinux_2_27_x86_64"})
    assert collect_wheels(describe_image("3.12", freeze), tmp_path, fetch=fetch)


def test_the_image_is_checked(tmp_path: Path) -> None:
    for python in ("3", "2.7", "3.10", "4.0", "three", "3.12 "):
        with pytest.raises(InputError, match=r"Python: found .*; expected a version from 3\.11"):
            describe_image(python)
    freeze = tmp_path / "freeze.txt"
    for text, said in (
        ("numpy==1.0\n", "does not list torch and torchvision"),
        ("", "does not list torch"),
        ("torch==2.8.0\n", "does not list torchvision"),
        ("torch==2.6.0\nnumpy 1.0\n", r"line 2: found 'numpy 1\.0'"),
        ("torch==not-a-version\n", "line 1"),
    ):
        freeze.write_text(text)
        with pytest.raises(InputError, match=said):
            describe_image("3.12", freeze)
    with pytest.raises(InputError, match="cannot be read"):
        describe_image("3.12", tmp_path / "nothing.txt")
    freeze.write_text("Torch==2.6.0+cu124\ntorchvision @ file:///a\nscikit_learn===a-b\n")
    installed = describe_image("3.12.3", freeze).installed
    assert installed == {"torch": Version("2.6.0+cu124"), "torchvision": None, "scikit-learn": None}


def test_pip_tells_why_it_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    freeze = tmp_path / "freeze.txt"
    freeze.write_text(freeze_here(without=["gi2nnunet", "isal"]))
    with pytest.raises(EngineError, match=r"pip download failed: .*isal"):
        collect_wheels(describe_image(HERE, freeze), tmp_path)


def test_the_own_wheel_installs_and_holds_what_runs_here(tmp_path: Path) -> None:
    freeze = tmp_path / "freeze.txt"
    freeze.write_text(freeze_here(without=["gi2nnunet"]))
    [wheel] = collect_wheels(describe_image(HERE, freeze), tmp_path, fetch=Fetch())
    with zipfile.ZipFile(wheel) as members:
        record = next(name for name in members.namelist() if name.endswith("RECORD"))
        rows = list(csv.reader(members.read(record).decode().splitlines()))
        assert [row[0] for row in rows] == members.namelist()
        for name, digest, size in rows[:-1]:
            data = members.read(name)
            told = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            assert (digest, int(size)) == (f"sha256={told}", len(data))
    target = tmp_path / "target"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps",
         "--disable-pip-version-check", "--target", target, wheel],
        check=True,
    )  # fmt: skip
    installed = {
        path.relative_to(target): path.read_bytes()
        for path in (target / "gi2nnunet").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    root = Path(__file__).resolve().parents[2]
    here = {
        path.relative_to(root): path.read_bytes()
        for path in (root / "gi2nnunet").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert installed == here
    assert (target / "bin" / "gi2nnunet").is_file()
