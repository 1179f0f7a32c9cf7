"""The allow-lists against the installed nnU-Net."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

import pytest

from gi2nnunet.nnunet import trust


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


FOLDERS = (
    trust.TRAINERS,
    trust._NORMALIZATIONS,
    *{allowed for allowed in trust._OF_PLANS.values() if isinstance(allowed, str)},
    *{allowed for allowed in trust._OF_CONFIGURATION.values() if isinstance(allowed, str)},
)


@pytest.mark.parametrize("folder", sorted(FOLDERS))
def test_the_names_are_those_that_nnunet_defines(folder: str) -> None:
    defined = set(defined_in(folder_of("nnunetv2") / folder))
    assert defined
    assert trust.list_shipped(folder) == defined


def test_the_resamplings_are_there() -> None:
    folder = folder_of("nnunetv2") / "preprocessing" / "resampling"
    assert set(defined_in(folder, ast.FunctionDef)) >= trust._RESAMPLINGS


def test_the_networks_are_there() -> None:
    architectures = folder_of("dynamic_network_architectures") / "architectures"
    unets = {f"unet.{name}" for name in defined_in(architectures) if "UNet" in name}
    prefix = "dynamic_network_architectures.architectures."
    assert {name.removeprefix(prefix) for name in trust._NETWORKS} - {
        "residual_unet.ResidualEncoderUNet"
    } == unets


@pytest.mark.parametrize("name", sorted(trust._LAYERS))
def test_every_layer_is_a_module_of_pytorch(name: str) -> None:
    import pydoc

    import torch

    if not name.startswith("torch."):
        folder = folder_of("dynamic_network_architectures") / "building_blocks"
        assert name.rpartition(".")[2] in defined_in(folder)
        return
    assert issubclass(pydoc.locate(name), torch.nn.Module)  # type: ignore[arg-type]
