"""Checkpoints to safetensors and back; runs in the engine's child process.

Importing writes nnU-Net's own ``checkpoint_final.pth``, so that its own commands predict with an
imported model too. It is a pickle, but one that this package made, of checked tensors and plain
values.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError

from gi2nnunet.core.errors import InputError, count
from gi2nnunet.core.files import part_file
from gi2nnunet.nnunet.model_file import (
    DATASET_JSON,
    Bundle,
    notes_part,
    plans_part,
    weights_part,
    write_bundle,
)
from gi2nnunet.nnunet.models import (
    FINAL_CHECKPOINT,
    Fold,
    check_digest,
    fold_folder,
    record_digest,
    spell_restore,
)
from gi2nnunet.nnunet.trust import open_model_folder

Weights = dict[str, torch.Tensor]


def run_export(
    *,
    out: str,
    models: Sequence[Mapping[str, Any]],
    about: Mapping[str, Any],
    half: bool,
    trust: bool,
) -> dict[str, Any]:
    """Write a model file.

    ``models`` have ``folder``, ``configuration`` and ``folds`` with the notes of each; ``about``
    goes into the manifest.
    """
    with write_bundle(Path(out)) as bundle:
        for number, model in enumerate(models):
            folder, configuration = Path(model["folder"]), model["configuration"]
            files = open_model_folder(folder, trust=trust)
            if number == 0:
                bundle.add(DATASET_JSON, files.dataset_json)
            bundle.add(plans_part(configuration), files.plans)
            for noted in model["folds"]:
                path = fold_folder(folder, noted["fold"]) / FINAL_CHECKPOINT
                checkpoint = load_fold(path, trust=trust)
                weights, shared = split_shared(checkpoint["network_weights"])
                axes = checkpoint.get("inference_allowed_mirroring_axes")
                bundle.add(
                    notes_part(configuration, noted["fold"]),
                    {
                        "trained_on": noted["trained_on"],
                        "prints": noted["prints"],
                        "training": noted["training"],
                        "epochs": checkpoint.get("current_epoch"),
                        "mirroring_axes": None if axes is None else list(axes),
                        "shared_tensors": shared,
                    },
                )
                if half:
                    weights = {name: to_half(tensor) for name, tensor in weights.items()}
                bundle.add(
                    weights_part(configuration, noted["fold"]), safetensors.torch.save(weights)
                )
        packages = ("gi2nnunet", "nnunetv2", "torch", "safetensors")
        bundle.close(
            {
                "made_by": {name: version(name) for name in packages},
                **about,
                "precision": "half" if half else "as trained",
            }
        )
    return {}


def run_import(
    *, bundle: Mapping[str, Any], into: str, configurations: Sequence[str]
) -> dict[str, Any]:
    """Write the checkpoints of a model file's configurations into a folder of model folders.

    The parent has opened and checked the file; the checksums that it read are checked again as
    each part is read.
    """
    opened = Bundle.from_json(bundle)
    for configuration in configurations:
        for fold in opened.folds[configuration]:
            checkpoint = _make_checkpoint(opened, configuration, fold)
            folder = Path(into) / opened.folder_name(configuration)
            path = fold_folder(folder, fold) / FINAL_CHECKPOINT
            with part_file(path) as part:
                with part.open("wb") as stream:  # given a path, PyTorch writes its name into it
                    torch.save(checkpoint, stream)
                record_digest(path, part)
    return {}


def _make_checkpoint(bundle: Bundle, configuration: str, fold: Fold) -> dict[str, Any]:
    part = weights_part(configuration, fold)
    notes = bundle.read_notes(configuration, fold)
    try:
        weights = join_shared(
            safetensors.torch.load(bundle.read(part)), shared=notes["shared_tensors"]
        )
    except (SafetensorError, KeyError) as error:
        raise InputError(
            f"{bundle.path}: {part} is damaged ({error}). Get the file again from its source."
        ) from error
    check_finite(weights, where=f"{bundle.path}, {part}", remedy="Get another model.")
    axes = notes["mirroring_axes"]
    return {
        "network_weights": weights,
        "current_epoch": notes.get("epochs"),
        "init_args": {"configuration": configuration, "fold": fold},
        "trainer_name": bundle.trainer,
        "inference_allowed_mirroring_axes": None if axes is None else tuple(axes),
    }


def split_shared(weights: Mapping[str, torch.Tensor]) -> tuple[Weights, dict[str, str]]:
    """Keep one name of each tensor that has several, as safetensors holds each only once.

    nnU-Net's networks name every layer up to four times. Returned are the tensors, contiguous, and
    for each further name the one that holds its tensor.
    """
    kept: Weights = {}
    shared: dict[str, str] = {}
    names: dict[Any, str] = {}
    for name, tensor in weights.items():
        place = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if tensor.numel() and place in names:
            shared[name] = names[place]
        else:
            names[place] = name
            kept[name] = tensor.detach().clone(memory_format=torch.contiguous_format)
    return kept, shared


def join_shared(weights: Mapping[str, torch.Tensor], *, shared: Mapping[str, str]) -> Weights:
    """Undo :func:`split_shared`, and turn half precision into single; names are sorted.

    Raises :class:`KeyError` if the tensor of a shared name is missing.
    """
    whole = {
        name: tensor.float() if tensor.dtype == torch.float16 else tensor
        for name, tensor in weights.items()
    }
    whole |= {name: whole[held] for name, held in shared.items()}
    return dict(sorted(whole.items()))


def to_half(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor in half precision; one of integers, or of too large numbers, as it is."""
    if not tensor.is_floating_point():
        return tensor
    half = tensor.half()
    return tensor if half.isinf().any() else half


# The function by which NumPy's own pickles make a scalar; it has no public name.
_SCALAR = np.float64(0).__reduce__()[0]
_ALLOWED: tuple[Any, ...] = (
    _SCALAR,
    (_SCALAR, "numpy.core.multiarray.scalar"),  # written under NumPy 1
    np.dtype,
    np.dtypes.Float32DType,
    np.dtypes.Float64DType,
)
_DIVERGED = "It predicts nothing. Train again with --restart and a smaller --lr."
_KEYS = ("network_weights", "trainer_name", "init_args")


def load_checkpoint(path: Path, *, trust: bool = False) -> dict[str, Any]:
    """Load a checkpoint of nnU-Net onto the CPU.

    With ``trust`` the plain unpickler loads it, which runs whatever the file says.

    Raises
    ------
    InputError
        If the file is missing, not a checkpoint of nnU-Net, or damaged (by its own checksums), or
        if it holds objects that could run code or weights that are not finite.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # PyTorch writes checksums, and does not read them
        if damaged:
            raise zipfile.BadZipFile(f"{damaged} does not match its checksum")
        with torch.serialization.safe_globals(list(_ALLOWED)):
            checkpoint = torch.load(path, map_location="cpu", weights_only=not trust)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such checkpoint. Train it with gi2nnunet train.") from error
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: refused: it is not a plain checkpoint of weights ({_first_line(error)}). "
            "Such a file can run code when it is loaded; add --trust if you trust its source."
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: is damaged or truncated ({_first_line(error)}). {spell_restore(path.parent)}"
        ) from error
    if not isinstance(checkpoint, dict) or any(key not in checkpoint for key in _KEYS):
        raise InputError(
            f"{path}: is not a checkpoint of nnU-Net. Expected the entries {', '.join(_KEYS)}."
        )
    check_finite(checkpoint["network_weights"], where=str(path), remedy=_DIVERGED)
    return checkpoint


def check_finite(weights: object, *, where: str, remedy: str) -> None:
    """Refuse weights that are not finite, as a training that diverged leaves them."""
    if found := describe_not_finite(weights):
        raise InputError(f"{where}: found {found}; expected finite ones. {remedy}")


def describe_not_finite(weights: object) -> str | None:
    """Return how many tensors of a table of weights hold NaN or infinity; ``None`` if none does."""
    tensors = weights if isinstance(weights, Mapping) else {}
    # nnU-Net's networks hold the same weights under several names: each is looked at once.
    finite: dict[tuple[int, torch.Size, tuple[int, ...], torch.dtype], bool] = {}
    bad = []
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor):
            continue
        place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if place not in finite:
            finite[place] = bool(tensor.isfinite().all())
        if not finite[place]:
            bad.append(name)
    if not bad:
        return None
    among = count(len(tensors), "tensor")
    return f"NaN or infinity in {len(bad)} of {among} of weights (first {bad[0]})"


def load_fold(path: Path, *, trust: bool = False) -> dict[str, Any]:
    """Load a checkpoint of a model folder; refuse one of another trainer, configuration or fold.

    Refused is also one with other content than was recorded when it was saved.
    """
    check_digest(path)
    checkpoint = load_checkpoint(path, trust=trust)
    check_entries(checkpoint, path)
    return checkpoint


def run_inspection(*, checkpoints: Sequence[str]) -> dict[str, Any]:
    """Load checkpoints of model folders as a prediction does; return refusals by path."""
    refused = {}
    for path in checkpoints:
        try:
            load_fold(Path(path))
        except InputError as error:
            refused[path] = str(error).removeprefix(f"{path}: ")
    return {"refused": refused}


def check_entries(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Refuse a checkpoint of another trainer, configuration or fold than its folder's name says."""
    arguments, remedy = checkpoint["init_args"], spell_restore(path.parent)
    if not isinstance(arguments, Mapping) or not isinstance(checkpoint["trainer_name"], str):
        raise InputError(f"{path}: is damaged: its entries have other types. {remedy}")
    folder = path.parent
    found = (checkpoint["trainer_name"], arguments.get("configuration"), arguments.get("fold"))
    names = folder.parent.name.split("__")
    wanted = (names[0], names[-1], folder.name.removeprefix("fold_"))
    if tuple(map(str, found)) != wanted:
        raise InputError(
            f"{path}: found a checkpoint of {_name_fold(*found)}; expected one of "
            f"{_name_fold(*wanted)}, as its folder says. {remedy}"
        )


def _name_fold(trainer: object, configuration: object, fold: object) -> str:
    return f"{configuration}, fold {fold}, {trainer}"


def check_weights(
    weights: Mapping[str, torch.Tensor], network: torch.nn.Module, *, where: str
) -> None:
    """Refuse (:class:`InputError`) weights with other names or shapes than a network's."""
    if not isinstance(weights, Mapping) or any(
        not isinstance(tensor, torch.Tensor) for tensor in weights.values()
    ):
        raise InputError(
            f"{where}: is damaged: it holds no table of weights. Restore it from its source."
        )
    plain = getattr(network, "_orig_mod", network)  # where torch.compile has wrapped it
    expected = {name: tuple(tensor.shape) for name, tensor in plain.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    different = sorted(
        name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
    )
    if different:
        raise InputError(
            f"{where}: its weights are not of the network that the plan beside it describes "
            f"({count(len(different), 'tensor')}, the first {different[0]}: found "
            f"{found.get(different[0], 'none')}, expected {expected.get(different[0], 'none')}). "
            "Restore both from their source."
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
