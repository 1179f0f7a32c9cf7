"""The names that nnU-Net 2.8.1 itself brings for what its plans and checkpoints import by name.

nnU-Net imports whatever stands in a plan. These are the only names that it may: the classes and
functions of nnU-Net itself, and the network parts that its planners write. A test compares the
lists with the installed package.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from gi2nnunet.core.errors import InputError, Problem, raise_problems

_TRAINERS = """
    _Primus_B_96_BS1 _Primus_L_48_BS1 _Primus_M_96_BS1 _Primus_S_96_BS1 AbstractPrimus
    nnUNet_Primus_B_Trainer nnUNet_Primus_L_Trainer nnUNet_Primus_M_Trainer
    nnUNet_Primus_M_Trainer_BS8 nnUNet_Primus_M_Trainer_BS8_2e4 nnUNet_Primus_S_Trainer
    nnUNet_PrimusV2B_Trainer nnUNet_PrimusV2L_Trainer nnUNet_PrimusV2M_Trainer
    nnUNet_PrimusV2S_Trainer nnUNet_PrimusV3B_Trainer nnUNet_PrimusV3L_Trainer
    nnUNet_PrimusV3M_Trainer nnUNet_PrimusV3S_Trainer nnUNet_Trainer_BS8 nnUNetTrainer
    nnUNetTrainer_100epochs nnUNetTrainer_10epochs nnUNetTrainer_1epoch
    nnUNetTrainer_2000epochs nnUNetTrainer_2000epochs_NoMirroring nnUNetTrainer_20epochs
    nnUNetTrainer_250epochs nnUNetTrainer_250epochs_NoMirroring nnUNetTrainer_4000epochs
    nnUNetTrainer_4000epochs_NoMirroring nnUNetTrainer_500epochs nnUNetTrainer_50epochs
    nnUNetTrainer_5epochs nnUNetTrainer_750epochs nnUNetTrainer_8000epochs
    nnUNetTrainer_8000epochs_NoMirroring nnUNetTrainer_DASegOrd0
    nnUNetTrainer_DASegOrd0_NoMirroring nnUNetTrainer_noDummy2DDA nnUNetTrainer_onlyMirror01
    nnUNetTrainer_onlyMirror01_1500ep nnUNetTrainer_onlyMirror01_DA5
    nnUNetTrainer_onlyMirror01_DASegOrd0 nnUNetTrainer_probabilisticOversampling
    nnUNetTrainer_probabilisticOversampling_010 nnUNetTrainer_probabilisticOversampling_033
    nnUNetTrainer_warmup nnUNetTrainerAdam nnUNetTrainerAdam1en3 nnUNetTrainerAdam3en4
    nnUNetTrainerAdan nnUNetTrainerAdan1en1 nnUNetTrainerAdan1en3 nnUNetTrainerAdan3en4
    nnUNetTrainerAdanCosAnneal nnUNetTrainerBenchmark_5epochs
    nnUNetTrainerBenchmark_5epochs_noDataLoading nnUNetTrainerBN nnUNetTrainerCELoss
    nnUNetTrainerCELoss_5epochs nnUNetTrainerCosAnneal nnUNetTrainerDA5
    nnUNetTrainerDA5_10epochs nnUNetTrainerDA5ord0 nnUNetTrainerDA5Segord0
    nnUNetTrainerDiceCELoss_noSmooth nnUNetTrainerDiceLoss nnUNetTrainerDiceTopK10Loss
    nnUNetTrainerNoDA nnUNetTrainerNoDeepSupervision nnUNetTrainerNoMirroring
    nnUNetTrainerTopk10Loss nnUNetTrainerTopk10LossLS01 nnUNetTrainerVanillaAdam
    nnUNetTrainerVanillaAdam1en3 nnUNetTrainerVanillaAdam3en4
"""
TRAINERS = frozenset(_TRAINERS.split())

_PLANNERS = """
    ExperimentPlanner nnUNetPlanner_torchres nnUNetPlannerResEncL
    nnUNetPlannerResEncL_noResampling nnUNetPlannerResEncL_torchres
    nnUNetPlannerResEncL_torchres_sepz nnUNetPlannerResEncM nnUNetPlannerResEncXL
    ResEncUNetPlanner
"""
PLANNERS = frozenset(_PLANNERS.split())

_NORMALIZATIONS = """
    ZScoreNormalization CTNormalization NoNormalization RescaleTo01Normalization
    RGBTo01Normalization
"""
NORMALIZATIONS = frozenset(_NORMALIZATIONS.split())

_RESAMPLINGS = """
    resample_data_or_seg_to_shape resample_torch_fornnunet no_resampling_hack
"""
RESAMPLINGS = frozenset(_RESAMPLINGS.split())

_READERS = """
    NaturalImage2DIO NibabelIO NibabelIOWithReorient SimpleITKIO SimpleITKIOWithReorient Tiff3DIO
"""
READERS = frozenset(_READERS.split())

PREPROCESSORS = frozenset({"DefaultPreprocessor"})
LABEL_MANAGERS = frozenset({"LabelManager"})

# What the planners write, and dynamic_network_architectures' U-Nets beside it.
NETWORKS = frozenset(
    f"dynamic_network_architectures.architectures.{name}"
    for name in (
        "unet.PlainConvUNet",
        "unet.ResidualEncoderUNet",
        "unet.ResidualUNet",
        "residual_unet.ResidualEncoderUNet",  # where older plans have it
    )
)
OLD_NETWORKS = frozenset({"PlainConvUNet", "ResidualEncoderUNet"})

# PyTorch's layers go by a short and a long name.
_LAYERS = {
    "conv": "Conv1d Conv2d Conv3d",
    "instancenorm": "InstanceNorm1d InstanceNorm2d InstanceNorm3d",
    "batchnorm": "BatchNorm1d BatchNorm2d BatchNorm3d",
    "dropout": "Dropout Dropout1d Dropout2d Dropout3d",
    "activation": "LeakyReLU ReLU ReLU6 PReLU ELU SELU GELU SiLU Mish",
}
LAYERS = frozenset(
    f"torch.nn.{prefix}{name}"
    for module, names in _LAYERS.items()
    for name in names.split()
    for prefix in ("", f"modules.{module}.")
) | frozenset(
    f"dynamic_network_architectures.building_blocks.residual.{name}"
    for name in ("BasicBlockD", "BottleneckD")
)

_REMEDY = (
    "nnU-Net would import these. Get the file from where it was made; if you have read it and "
    "trust it, add --trust."
)
_OF_CONFIGURATION: Mapping[str, Collection[str]] = {
    "preprocessor_name": PREPROCESSORS,
    "resampling_fn_data": RESAMPLINGS,
    "resampling_fn_seg": RESAMPLINGS,
    "resampling_fn_probabilities": RESAMPLINGS,
    "UNet_class_name": OLD_NETWORKS,
}
_OF_PLANS: Mapping[str, Collection[str]] = {
    "image_reader_writer": READERS,
    "experiment_planner_used": PLANNERS,
    "label_manager": LABEL_MANAGERS,
}

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
# What stands for a function that is not to be called while a file is only looked at.
_PLACEHOLDER = "a function"


def check_trainer(name: object, *, where: str) -> None:
    """Refuse a trainer's name that nnU-Net does not ship.

    Raises
    ------
    InputError
        Where it is no such name.
    """
    raise_problems(_compare(where, name, TRAINERS, "a trainer class of nnU-Net"), remedy=_REMEDY)


def check_plans(plans: Mapping[str, Any], *, where: str) -> None:
    """Refuse a plan that makes nnU-Net import what it does not ship itself, or leave its folders.

    Parameters
    ----------
    plans
        The content of a plans file.
    where
        Its path, for the message.

    Raises
    ------
    InputError
        Naming every such entry.
    """
    raise_problems(_find_in_plans(plans, where), remedy=_REMEDY)


def check_dataset_json(content: Mapping[str, Any], *, where: str) -> None:
    """Refuse a dataset.json whose reader nnU-Net does not ship.

    Raises
    ------
    InputError
        Where it names another.
    """
    name = content.get("overwrite_image_reader_writer", "None")
    key = f"{where}, overwrite_image_reader_writer"
    raise_problems(_compare(key, name, {"None", *READERS}), remedy=_REMEDY)


def check_split(path: Path) -> None:
    """Refuse a split whose identifiers lead out of the folder of preprocessed scans.

    A missing one is none.

    Raises
    ------
    InputError
        Naming every such entry.
    """
    remedy = "nnU-Net reads scans by it. Convert the dataset again, it makes another."
    if not path.is_file():
        return
    try:
        named = [
            (f"{path}, fold {number}, {part}", identifier)
            for number, fold in enumerate(json.loads(path.read_text(encoding="utf-8")))
            for part in ("train", "val")
            for identifier in fold[part]
        ]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: is damaged ({error!r}). {remedy}") from error
    raise_problems(
        (problem for where, name in named for problem in _find_paths(where, name)), remedy=remedy
    )


def check_data_folder(folder: Path) -> None:
    """Refuse a folder of preprocessed scans with a ``.pkl`` that holds more than data.

    Nothing in them is run: arrays are made, everything else that a pickle can ask for is refused.

    Raises
    ------
    InputError
        Naming every such file.
    """
    _check_pickles(
        sorted(Path(entry.path) for entry in os.scandir(folder) if entry.name.endswith(".pkl"))
        if folder.is_dir()
        else [],
        functions=set(),
        remedy="Delete the folder; gi2nnunet plan makes it anew.",
    )


def check_postprocessing(model_folder: Path) -> None:
    """Refuse a model folder with a postprocessing.pkl that holds more than nnU-Net's own step.

    This package never reads that file; nnU-Net's own commands do.

    Raises
    ------
    InputError
        Naming every such file.
    """
    _check_pickles(
        sorted(model_folder.rglob("postprocessing.pkl")),
        functions=_POSTPROCESSING,
        remedy="Delete it: only nnUNetv2_apply_postprocessing reads it.",
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
        yield from _compare(f"{where}, normalization_schemes", name, NORMALIZATIONS)
    if "architecture" in configuration:
        yield from _find_in_network(configuration["architecture"], f"{where}, architecture")


def _find_in_network(network: Any, where: str) -> Iterator[Problem]:
    if not isinstance(network, Mapping) or not isinstance(network.get("arch_kwargs"), Mapping):
        yield Problem(where=where, found="no arch_kwargs", expected="a network of nnU-Net")
        return
    yield from _compare(f"{where}, network_class_name", network.get("network_class_name"), NETWORKS)
    for key in _as_list(network.get("_kw_requires_import", [])):
        value = network["arch_kwargs"].get(key) if isinstance(key, str) else key
        if value is not None:
            yield from _compare(f"{where}, {key}", value, LAYERS, "a layer of PyTorch")


def _as_list(value: object) -> list[Any]:
    # What is neither is one entry of no allowed name.
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _compare(
    where: str, name: object, allowed: Collection[str], expected: str | None = None
) -> list[Problem]:
    if isinstance(name, str) and name in allowed:
        return []
    expected = expected or ("one of " if len(allowed) > 1 else "") + ", ".join(sorted(allowed))
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
    """Stand for what pickles of the older protocols make bytes with, in its one harmless use."""
    if encoding != "latin1":
        raise _RefusedError(f"the encoding {encoding!r}")
    return text.encode("latin1")


class _RefusedError(Exception):
    """A pickle asked for something that is not data."""


class _Reader(pickle.Unpickler):
    """Makes plain values and NumPy's arrays; knows nothing else."""

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
