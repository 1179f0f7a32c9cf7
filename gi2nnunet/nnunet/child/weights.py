"""Checkpoints to safetensors and back; runs in the engine's child process.

Importing writes nnU-Net's own ``checkpoint_final.pth``, so that its own commands predict with an
imported model too. It is a pickle, but one that this package made, of checked tensors and plain
values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from gi2nnunet.core.errors import InputError
from gi2nnunet.core.files import part_file, read_json
from gi2nnunet.nnunet.child.checkpoints import check_finite, load_fold
from gi2nnunet.nnunet.model_file import (
    DATASET_JSON,
    Bundle,
    notes_part,
    open_bundle,
    plans_part,
    weights_part,
    write_bundle,
)
from gi2nnunet.nnunet.models import FINAL_CHECKPOINT, Fold, fold_folder
from gi2nnunet.nnunet.trust import check_dataset_json, check_plans, check_trainer

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

    Parameters
    ----------
    out
        The file.
    models
        Each with ``folder``, ``configuration`` and ``folds``: of each ``fold`` what to note of it.
    about
        The manifest's names.
    half
        Write weights in half precision.
    trust
        Load checkpoints that could run code.
    """
    with write_bundle(Path(out)) as bundle:
        for number, model in enumerate(models):
            folder, configuration = Path(model["folder"]), model["configuration"]
            plans, dataset_json = (
                read_json(folder / name) for name in ("plans.json", DATASET_JSON)
            )
            if not trust:
                check_plans(plans, where=str(folder / "plans.json"))
                check_dataset_json(dataset_json, where=str(folder / DATASET_JSON))
            if number == 0:
                bundle.add(DATASET_JSON, dataset_json)
            bundle.add(plans_part(configuration), plans)
            for noted in model["folds"]:
                path = fold_folder(folder, noted["fold"]) / FINAL_CHECKPOINT
                checkpoint = load_fold(path, trust=trust)
                if not trust:
                    check_trainer(checkpoint["trainer_name"], where=str(path))
                weights, shared = split_shared(checkpoint["network_weights"])
                axes = checkpoint.get("inference_allowed_mirroring_axes")
                bundle.add(
                    notes_part(configuration, noted["fold"]),
                    {
                        "trained_on": noted["trained_on"],
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
    *, file: str, into: str, configurations: Sequence[str], trust: bool
) -> dict[str, Any]:
    """Write the checkpoints of a model file's configurations into a folder of model folders."""
    bundle = open_bundle(Path(file), trust=trust)
    for configuration in configurations:
        for fold in bundle.folds[configuration]:
            checkpoint = _make_checkpoint(bundle, configuration, fold)
            folder = Path(into) / bundle.folder_name(configuration)
            with (
                part_file(fold_folder(folder, fold) / FINAL_CHECKPOINT) as part,
                part.open("wb") as stream,  # given a path, PyTorch writes its name into the file
            ):
                torch.save(checkpoint, stream)
    return {}


def _make_checkpoint(bundle: Bundle, configuration: str, fold: Fold) -> dict[str, Any]:
    part = weights_part(configuration, fold)
    notes = bundle.read_json(notes_part(configuration, fold))
    try:
        weights = join_shared(
            safetensors.torch.load(bundle.read(part)), shared=notes["shared_tensors"]
        )
    except (SafetensorError, KeyError) as error:
        raise InputError(
            f"{bundle.path}: {part} is damaged ({error}). "
            "Get the file again from where it was made."
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
    """Keep one name of each tensor that stands under several, as safetensors holds each once.

    nnU-Net's networks name every layer up to four times.

    Returns
    -------
    tuple
        The tensors, contiguous, and for each further name the one that holds its tensor.
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
    """Undo :func:`split_shared`, and bring half precision back to single; names are sorted.

    Raises
    ------
    KeyError
        Where a name is shared with one that is not there.
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
