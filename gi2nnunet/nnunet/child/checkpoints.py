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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gi2nnunet.core.errors import InputError

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
_DIVERGED = "It predicts nothing. Train again with --restart and a smaller --lr."
_KEYS = ("network_weights", "trainer_name", "init_args")


def load_checkpoint(path: Path, *, trust: bool = False) -> dict[str, Any]:
    """Load a checkpoint of nnU-Net onto the CPU.

    Parameters
    ----------
    path
        The checkpoint.
    trust
        Load it by the plain unpickler, which runs whatever the file says.

    Raises
    ------
    InputError
        Where the file is missing, no checkpoint of nnU-Net, damaged (by its own checksums), or
        holds objects that could run code or weights that are not finite.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # PyTorch writes checksums, and does not read them
        if damaged:
            raise zipfile.BadZipFile(f"{damaged} has another checksum than written")
        with torch.serialization.safe_globals(list(_ALLOWED)):
            checkpoint = torch.load(path, map_location="cpu", weights_only=not trust)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such checkpoint. Train it with gi2nnunet train.") from error
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: refused: it is no plain checkpoint of weights ({_first_line(error)}). "
            "Such a file can run code when it is loaded; add --trust if you trust where it is from."
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
    check_finite(checkpoint["network_weights"], where=str(path), remedy=_DIVERGED)
    return checkpoint


def check_finite(weights: object, *, where: str, remedy: str) -> None:
    """Refuse weights that are not finite, as a training that diverged leaves them.

    Raises
    ------
    InputError
        Naming the first tensor with such a value.
    """
    if found := describe_not_finite(weights):
        raise InputError(f"{where}: found {found}; expected finite ones. {remedy}")


def describe_not_finite(weights: object) -> str | None:
    """Return how many tensors of a table of weights hold NaN or infinity; ``None`` for none."""
    tensors = weights if isinstance(weights, Mapping) else {}
    bad = [
        name
        for name, tensor in tensors.items()
        if isinstance(tensor, torch.Tensor) and not tensor.isfinite().all()
    ]
    if not bad:
        return None
    return f"NaN or infinity in {len(bad)} of {len(tensors)} tensors of weights (first {bad[0]})"


def load_fold(path: Path, *, trust: bool = False) -> dict[str, Any]:
    """Load a checkpoint of a model folder, and hold it to the folder that it is in.

    Parameters
    ----------
    path
        ``<trainer>__<plans>__<configuration>/fold_<fold>/checkpoint_*.pth``.
    trust
        As in :func:`load_checkpoint`.

    Raises
    ------
    InputError
        Where it cannot be loaded, or is of another trainer, configuration or fold.
    """
    checkpoint = load_checkpoint(path, trust=trust)
    check_entries(checkpoint, path)
    return checkpoint


def run_inspection(*, checkpoints: Sequence[str]) -> dict[str, Any]:
    """Load checkpoints of model folders as a prediction does; return ``refused``: why, by path."""
    refused = {}
    for path in checkpoints:
        try:
            load_fold(Path(path))
        except InputError as error:
            refused[path] = str(error).removeprefix(f"{path}: ")
    return {"refused": refused}


def check_entries(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Refuse a checkpoint of another trainer, configuration or fold than its folder's name says.

    Raises
    ------
    InputError
        Naming the file; also where its entries have other types.
    """
    arguments = checkpoint["init_args"]
    if not isinstance(arguments, Mapping) or not isinstance(checkpoint["trainer_name"], str):
        raise InputError(f"{path}: is damaged: its entries have other types. {_RESTORE}")
    folder = path.parent
    told = (checkpoint["trainer_name"], arguments.get("configuration"), arguments.get("fold"))
    names = folder.parent.name.split("__")
    wanted = (names[0], names[-1], folder.name.removeprefix("fold_"))
    if tuple(map(str, told)) != wanted:
        raise InputError(
            f"{path}: found a checkpoint of {_name_fold(*told)}; expected one of "
            f"{_name_fold(*wanted)}, as its folder says. {_RESTORE}"
        )


def _name_fold(trainer: object, configuration: object, fold: object) -> str:
    return f"{configuration}, fold {fold}, {trainer}"


def check_weights(
    weights: Mapping[str, torch.Tensor], network: torch.nn.Module, *, where: str
) -> None:
    """Refuse weights that are not those of a network.

    Raises
    ------
    InputError
        Where tensors are missing, too many, or of other shapes.
    """
    if not isinstance(weights, Mapping) or any(
        not isinstance(tensor, torch.Tensor) for tensor in weights.values()
    ):
        raise InputError(f"{where}: is damaged: it holds no table of weights. {_RESTORE}")
    plain = getattr(network, "_orig_mod", network)  # where torch.compile has wrapped it
    expected = {name: tuple(tensor.shape) for name, tensor in plain.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    different = sorted(
        name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
    )
    if different:
        raise InputError(
            f"{where}: its weights are not of the network that the plan beside it describes "
            f"({len(different)} tensors, the first {different[0]}: found "
            f"{found.get(different[0], 'none')}, expected {expected.get(different[0], 'none')}). "
            "Restore both from where they were made."
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
