"""Checks of model files from strangers: names that nnU-Net would import, paths, and pickles.

nnU-Net imports whatever class or function a plan names. Allowed are only those that the installed
nnU-Net defines itself, and the network parts that its planners write.
"""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from gi2nnunet.core.errors import Problem, raise_problems
from gi2nnunet.core.files import find_record, read_record
from gi2nnunet.dataset.manifest import SPLITS
from gi2nnunet.nnunet.models import Plans, spell_restore_model
from gi2nnunet.source.dataset import Fold
from gi2nnunet.source.nifti import DATASET_JSON


def find_shipped(folder: str) -> Path:
    """Return a folder of nnU-Net's package; nothing is imported."""
    spec = find_spec("nnunetv2")
    return (Path(spec.origin or "").parent if spec else Path()) / folder


@cache
def list_shipped(folder: str) -> frozenset[str]:
    """Return the classes that nnU-Net's modules in a folder of its package define.

    The files are only read: importing nnU-Net takes seconds and runs code.
    """
    return frozenset(
        name
        for path in find_shipped(folder).rglob("*.py")
        for name in re.findall(r"^class (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    )


TRAINERS = "training/nnUNetTrainer"
_RESAMPLINGS = frozenset(
    {"resample_data_or_seg_to_shape", "resample_torch_fornnunet", "no_resampling_hack"}
)

# What the planners write, and the other U-Nets of dynamic_network_architectures.
_NETWORKS = frozenset(
    f"dynamic_network_architectures.architectures.{name}"
    for name in (
        "unet.PlainConvUNet",
        "unet.ResidualEncoderUNet",
        "unet.ResidualUNet",
        "residual_unet.ResidualEncoderUNet",  # where older plans have it
    )
)
_OLD_NETWORKS = frozenset({"PlainConvUNet", "ResidualEncoderUNet"})

# PyTorch's layers go by a short and a long name.
_LAYER_NAMES = {
    "conv": "Conv1d Conv2d Conv3d",
    "instancenorm": "InstanceNorm1d InstanceNorm2d InstanceNorm3d",
    "batchnorm": "BatchNorm1d BatchNorm2d BatchNorm3d",
    "dropout": "Dropout Dropout1d Dropout2d Dropout3d",
    "activation": "LeakyReLU ReLU ReLU6 PReLU ELU SELU GELU SiLU Mish",
}
_LAYERS = frozenset(
    f"torch.nn.{prefix}{name}"
    for module, names in _LAYER_NAMES.items()
    for name in names.split()
    for prefix in ("", f"modules.{module}.")
) | frozenset(
    f"dynamic_network_architectures.building_blocks.residual.{name}"
    for name in ("BasicBlockD", "BottleneckD")
)

_REMEDY = (
    "nnU-Net would import these. Get the file again from its source; if you have read it and trust "
    "it, add --trust."
)
# The allowed names by key, or the folder of nnU-Net that defines them.
_OF_CONFIGURATION: Mapping[str, str | Collection[str]] = {
    "preprocessor_name": "preprocessing/preprocessors",
    "resampling_fn_data": _RESAMPLINGS,
    "resampling_fn_seg": _RESAMPLINGS,
    "resampling_fn_probabilities": _RESAMPLINGS,
    "UNet_class_name": _OLD_NETWORKS,
}
_OF_PLANS: Mapping[str, str | Collection[str]] = {
    "image_reader_writer": "imageio",
    "experiment_planner_used": "experiment_planning",
    "label_manager": "utilities/label_handling",
}
_NORMALIZATIONS = "preprocessing/normalization"

# What NumPy's own pickles name, under NumPy 2 and under 1.
_NUMPY = {
    (module, name)
    for core in ("numpy._core", "numpy.core")
    for module, name in (
        (f"{core}.multiarray", "_reconstruct"),
        (f"{core}.multiarray", "scalar"),
        (f"{core}.numeric", "_frombuffer"),
    )
} | {("numpy", "ndarray"), ("numpy", "dtype")}
_POSTPROCESSING = {
    (
        "nnunetv2.postprocessing.remove_connected_components",
        "remove_all_but_largest_component_from_segmentation",
    )
}
# Replaces a function, which must not be called while a file is only checked.
_PLACEHOLDER = "a function"


class ModelFiles(NamedTuple):
    """The checked content of the two files that nnU-Net builds a network from."""

    plans: dict[str, Any]
    dataset_json: dict[str, Any]


def open_model_folder(folder: Path, *, trust: bool) -> ModelFiles:
    """Read plans and dataset.json of a model folder, and check every name in them.

    The folder, ``<trainer>__<plans>__<configuration>``, also names the trainer, which must be that
    of each of its checkpoints. With ``trust`` nothing is checked.

    Raises
    ------
    InputError
        With all names that nnU-Net does not ship; or naming a postprocessing.pkl that holds more
        than nnU-Net's own step (only nnU-Net's own commands read that file).
    """
    trainer = {f"{folder}, trainer": folder.name.partition("__")[0]}
    remedy = spell_restore_model(folder)
    files = _open(folder, "plans.json", trainer, remedy=remedy, trust=trust)
    if not trust:
        _check_pickles(
            sorted(folder.rglob("postprocessing.pkl")),
            functions=_POSTPROCESSING,
            remedy="Delete it: only nnUNetv2_apply_postprocessing reads it.",
        )
    return files


def open_preprocessed(
    folder: Path, plans_name: str, *, trainer: str | None = None, trust: bool = False
) -> ModelFiles:
    """Read plans and dataset.json of nnU-Net's preprocessed folder, and check every name in them.

    The split is checked too, if there is one, and the trainer, if there is something to train. With
    ``trust`` nothing is checked.

    Raises
    ------
    InputError
        With all names that nnU-Net does not ship, or identifiers that lead out of the folder.
    """
    given = {} if trainer is None else {"--trainer": trainer}
    remedy = "Make it again with: gi2nnunet plan"
    files = _open(folder, f"{plans_name}.json", given, remedy=remedy, trust=trust)
    if not trust:
        _check_split(folder / SPLITS)
    return files


def _open(
    folder: Path, plans: str, trainer: Mapping[str, object], *, remedy: str, trust: bool
) -> ModelFiles:
    paths = str(folder / plans), str(folder / DATASET_JSON)
    described = find_record(Path(paths[1]), dict[str, Any], remedy=remedy)
    files = ModelFiles(
        plans={**read_record(Path(paths[0]), Plans, remedy=remedy)}, dataset_json=described or {}
    )
    if not trust:
        check_names(
            trainer=trainer,
            plans={paths[0]: files.plans},
            dataset_json={paths[1]: files.dataset_json},
        )
    return files


def check_names(
    *,
    trainer: Mapping[str, object] | None = None,
    plans: Mapping[str, Mapping[str, Any]] | None = None,
    dataset_json: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Refuse every name in a model's files that nnU-Net would import and does not ship itself.

    Each argument is by place, for the message: a trainer's name, contents of plans files and of
    dataset.json files. A name in plans that becomes part of a path must be a plain name.

    Raises
    ------
    InputError
        With all such names.
    """
    problems: list[Problem] = []
    for where, name in (trainer or {}).items():
        problems += _compare(where, name, TRAINERS, "a trainer class of nnU-Net")
    for where, content in (plans or {}).items():
        problems += _find_in_plans(content, where)
    for where, content in (dataset_json or {}).items():
        name = content.get("overwrite_image_reader_writer", "None")
        if name != "None":
            problems += _compare(f"{where}, overwrite_image_reader_writer", name, "imageio")
    raise_problems(problems, remedy=_REMEDY)


def _check_split(path: Path) -> None:
    """Refuse a split with identifiers that lead out of the folder of preprocessed scans."""
    remedy = "nnU-Net reads scans by it. Restore it by running the same gi2nnunet convert again."
    problems: list[Problem] = []
    for number, fold in enumerate(find_record(path, list[Fold], remedy=remedy) or ()):
        for part, names in (("train", fold["train"]), ("val", fold["val"])):
            for name in names:
                problems += _find_paths(f"{path}, fold {number}, {part}", name)
    raise_problems(problems, remedy=remedy)


def check_data_folder(folder: Path) -> None:
    """Refuse a folder of preprocessed scans if a ``.pkl`` in it holds more than data.

    Nothing in them is run: only arrays are made. :class:`InputError` names every such file.
    """
    _check_pickles(
        sorted(Path(entry.path) for entry in os.scandir(folder) if entry.name.endswith(".pkl"))
        if folder.is_dir()
        else [],
        functions=set(),
        remedy="Delete the folder; gi2nnunet plan makes it again.",
    )


def is_plain_name(name: object) -> bool:
    """Return whether a name is one part of a path, and a visible one."""
    return (
        isinstance(name, str)
        and bool(name)
        and not name.startswith(".")
        and not set(name) & set("/\\:\0")
        and name.isprintable()
    )


def _find_in_plans(plans: Mapping[str, Any], where: str) -> Iterator[Problem]:
    for key, allowed in _OF_PLANS.items():
        if key in plans:
            yield from _compare(f"{where}, {key}", plans[key], allowed)
    for key in ("dataset_name", "plans_name"):
        if key in plans:
            yield from _find_paths(f"{where}, {key}", plans[key])
    configurations = plans.get("configurations")
    if not isinstance(configurations, Mapping):
        yield Problem(where=where, found="no configurations", expected="a plan of nnU-Net")
        return
    for name, configuration in configurations.items():
        inside = f"{where}, {name}"
        yield from _find_paths(inside, name)
        if isinstance(configuration, Mapping):
            yield from _find_in_configuration(configuration, inside)
        else:
            yield Problem(where=inside, found=repr(configuration), expected="a configuration")


def _find_in_configuration(configuration: Mapping[str, Any], where: str) -> Iterator[Problem]:
    for key, allowed in _OF_CONFIGURATION.items():
        if key in configuration:
            yield from _compare(f"{where}, {key}", configuration[key], allowed)
    for key in ("data_identifier", "previous_stage", "inherits_from"):
        if configuration.get(key) is not None:
            yield from _find_paths(f"{where}, {key}", configuration[key])
    following = configuration.get("next_stage")
    for name in following if isinstance(following, list) else [following] if following else []:
        yield from _find_paths(f"{where}, next_stage", name)
    for name in _as_list(configuration.get("normalization_schemes", [])):
        yield from _compare(f"{where}, normalization_schemes", name, _NORMALIZATIONS)
    if "architecture" in configuration:
        yield from _find_in_network(configuration["architecture"], f"{where}, architecture")


def _find_in_network(network: Any, where: str) -> Iterator[Problem]:
    if not isinstance(network, Mapping) or not isinstance(network.get("arch_kwargs"), Mapping):
        yield Problem(where=where, found="no arch_kwargs", expected="a network of nnU-Net")
        return
    yield from _compare(
        f"{where}, network_class_name", network.get("network_class_name"), _NETWORKS
    )
    for key in _as_list(network.get("_kw_requires_import", [])):
        value = network["arch_kwargs"].get(key) if isinstance(key, str) else key
        if value is not None:
            yield from _compare(f"{where}, {key}", value, _LAYERS, "a layer of PyTorch")


def _as_list(value: object) -> list[Any]:
    # Anything else is one entry, which is not an allowed name.
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _compare(
    where: str, name: object, allowed: str | Collection[str], expected: str | None = None
) -> list[Problem]:
    """Compare a name with those allowed; a text is the folder of nnU-Net that defines them."""
    names = list_shipped(allowed) if isinstance(allowed, str) else allowed
    if isinstance(name, str) and name in names:
        return []
    expected = expected or ("one of " if len(names) > 1 else "") + ", ".join(sorted(names))
    return [Problem(where=where, found=repr(name), expected=expected)]


def _find_paths(where: str, name: object) -> list[Problem]:
    if is_plain_name(name):
        return []
    return [Problem(where=where, found=repr(name), expected="a name, no path")]


def _check_pickles(
    paths: Sequence[Path], *, functions: Collection[tuple[str, str]], remedy: str
) -> None:
    raise_problems(
        (problem for path in paths if (problem := _find_in_pickle(path, functions))), remedy=remedy
    )


def _find_in_pickle(path: Path, functions: Collection[tuple[str, str]]) -> Problem | None:
    try:
        with path.open("rb") as file:
            _Reader(file, functions).load()
    except _RefusedError as error:
        return Problem(where=str(path), found=str(error), expected="numbers, text and arrays")
    except Exception as error:  # a damaged pickle can make its reader raise anything
        return Problem(where=str(path), found=f"damage ({error})", expected="a whole file")
    return None


def _encode_latin1(text: str, encoding: str) -> bytes:
    """Replace the codec by which pickles of the older protocols make bytes, in its one use."""
    if encoding != "latin1":
        raise _RefusedError(f"the encoding {encoding!r}")
    return text.encode("latin1")


class _RefusedError(Exception):
    """A pickle asked for something that is not data."""


class _Reader(pickle.Unpickler):
    """Unpickler of plain values and NumPy's arrays; it refuses anything else."""

    def __init__(self, file: IO[bytes], functions: Collection[tuple[str, str]]) -> None:
        super().__init__(file)
        self._functions = functions

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self._functions:
            return _PLACEHOLDER
        if (module, name) == ("_codecs", "encode"):
            return _encode_latin1
        if (module, name) not in _NUMPY:
            raise _RefusedError(f"{module}.{name}, which it would run")
        if name in ("ndarray", "dtype"):
            return getattr(np, name)
        return super().find_class(module, name)
