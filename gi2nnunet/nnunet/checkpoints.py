"""nnU-Net's checkpoints, loaded without running what a stranger may have put into them.

A checkpoint is a pickle. PyTorch's weights-only loader builds nothing but tensors and plain
containers, and these few NumPy types besides, which nnU-Net's log of losses holds.

References
----------
https://docs.pytorch.org/docs/stable/notes/serialization.html#weights-only
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gi2nnunet.errors import InputError

# What NumPy's own pickles call to make a scalar; it has no public name.
_SCALAR = np.float64(0).__reduce__()[0]
_ALLOWED: tuple[Any, ...] = (
    _SCALAR,
    (_SCALAR, "numpy.core.multiarray.scalar"),  # written under NumPy 1
    np.dtype,
    np.dtypes.Float32DType,
    np.dtypes.Float64DType,
)
_RESTORE = "Restore it, or train again with --restart."
_KEYS = ("network_weights", "trainer_name", "init_args")


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint of nnU-Net onto the CPU.

    Raises
    ------
    InputError
        Where the file is missing, damaged, no checkpoint of nnU-Net, or holds objects that could
        run code.
    """
    try:
        with torch.serialization.safe_globals(list(_ALLOWED)):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such checkpoint. Train it with gi2nnunet train.") from error
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: refused: it is no plain checkpoint of weights ({_first_line(error)}). "
            "Such a file can run code when it is loaded; get it from a source you trust."
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: is damaged or truncated ({_first_line(error)}). "
            "Restore it, or train again with --restart."
        ) from error
    if not isinstance(checkpoint, dict) or any(key not in checkpoint for key in _KEYS):
        raise InputError(
            f"{path}: is no checkpoint of nnU-Net. Expected the entries {', '.join(_KEYS)}."
        )
    return checkpoint


def check_entries(checkpoint: Mapping[str, Any], path: Path, *, configuration: str) -> None:
    """Refuse a checkpoint of another configuration than the model folder's, or of other types.

    Raises
    ------
    InputError
        Naming the file.
    """
    arguments = checkpoint["init_args"]
    if not isinstance(arguments, Mapping) or not isinstance(checkpoint["trainer_name"], str):
        raise InputError(f"{path}: is damaged: its entries have other types. {_RESTORE}")
    if arguments.get("configuration") != configuration:
        raise InputError(
            f"{path}: found a checkpoint of {arguments.get('configuration')}; expected one of "
            f"{configuration}, as its folder says. {_RESTORE}"
        )


def check_weights(
    weights: Mapping[str, torch.Tensor], path: Path, *, expected: Mapping[str, torch.Tensor]
) -> None:
    """Refuse weights that do not fit the network that the model's plans describe.

    Raises
    ------
    InputError
        Naming the file and the first layer that differs.
    """

    def shape_of(layers: Mapping[str, torch.Tensor], name: str) -> str:
        return str(tuple(layers[name].shape)) if name in layers else "none"

    if not isinstance(weights, Mapping):
        raise InputError(f"{path}: is damaged: it holds no table of weights. {_RESTORE}")
    for name in (*expected, *weights):
        if shape_of(weights, name) != shape_of(expected, name):
            raise InputError(
                f"{path}: found weights of another network ({name}: {shape_of(weights, name)} in "
                f"place of {shape_of(expected, name)}); expected those of the model's plans.json. "
                f"{_RESTORE}"
            )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
