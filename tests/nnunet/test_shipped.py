"""The allow-lists against the installed nnU-Net."""

from __future__ import annotations

import ast
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

from gi2nnunet.nnunet import trust

pytestmark = pytest.mark.skipif(
    version("nnunetv2") != "2.8.1", reason="the lists are those of nnunetv2 2.8.1"
)


def folder_of(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def defined_in(folder: Path, kind: type[ast.stmt] = ast.ClassDef) -> dict[str, set[str]]:
    """Names that the modules of a folder define, with the names of their bases."""
    return {
        node.name: {base.id for base in getattr(node, "bases", []) if isinstance(base, ast.Name)}
        for path in folder.rglob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, kind)
    }


def test_the_names_are_those_that_nnunet_defines() -> None:
    nnunet = folder_of("nnunetv2")
    assert set(defined_in(nnunet / "training" / "nnUNetTrainer")) == trust.TRAINERS
    planning = set(defined_in(nnunet / "experiment_planning"))
    assert planning - {"DatasetFingerprintExtractor"} == trust.PLANNERS
    normalization = set(defined_in(nnunet / "preprocessing" / "normalization"))
    assert normalization - {"ImageNormalization"} == trust.NORMALIZATIONS
    readers = set(defined_in(nnunet / "imageio"))
    assert readers - {"BaseReaderWriter"} == trust.READERS
    assert set(defined_in(nnunet / "preprocessing" / "preprocessors")) == trust.PREPROCESSORS
    assert set(defined_in(nnunet / "utilities" / "label_handling")) == trust.LABEL_MANAGERS
    functions = defined_in(nnunet / "preprocessing" / "resampling", ast.FunctionDef)
    assert set(functions) >= trust.RESAMPLINGS


def test_the_networks_are_there() -> None:
    architectures = folder_of("dynamic_network_architectures") / "architectures"
    unets = {f"unet.{name}" for name in defined_in(architectures) if "UNet" in name}
    prefix = "dynamic_network_architectures.architectures."
    assert {name.removeprefix(prefix) for name in trust.NETWORKS} - {
        "residual_unet.ResidualEncoderUNet"
    } == unets


@pytest.mark.parametrize("name", sorted(trust.LAYERS))
def test_every_layer_is_a_module_of_pytorch(name: str) -> None:
    import pydoc

    import torch

    if not name.startswith("torch."):
        folder = folder_of("dynamic_network_architectures") / "building_blocks"
        assert name.rpartition(".")[2] in defined_in(folder)
        return
    assert issubclass(pydoc.locate(name), torch.nn.Module)  # type: ignore[arg-type]
