"""One trained configuration at work, step by step; runs in the engine's child process.

The steps are nnU-Net's own, taken apart so that scans can overlap in time: preprocess, run the
network of every fold, resample its logits and turn them into probabilities.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from numpy.typing import NDArray

from gi2nnunet.core.errors import InputError
from gi2nnunet.core.files import read_json
from gi2nnunet.nnunet.child.batching import BatchingPredictor
from gi2nnunet.nnunet.child.checkpoints import check_weights, load_fold
from gi2nnunet.nnunet.child.trainer import find_trainer
from gi2nnunet.nnunet.models import FINAL_CHECKPOINT, Fold, fold_folder
from gi2nnunet.nnunet.trust import (
    check_dataset_json,
    check_plans,
    check_postprocessing,
    check_trainer,
)

_PREPROCESSING = (
    "preprocessor_name", "normalization_schemes", "use_mask_for_norm",
    "resampling_fn_data", "resampling_fn_data_kwargs",
    "resampling_fn_seg", "resampling_fn_seg_kwargs",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A preprocessed scan.

    Attributes
    ----------
    data
        ``(channel, z, y, x)``, float32, as the network takes it.
    properties
        What nnU-Net needs to undo cropping and resampling.
    """

    data: torch.Tensor
    properties: Mapping[str, Any]


class Network:
    """One configuration: its plans, its network and its folds' weights.

    Parameters
    ----------
    folder
        nnU-Net's model folder.
    fold
        A fold whose checkpoint says how the network is built.
    device
        ``cuda``, ``cpu`` or ``mps``.
    mirroring, step_size
        nnU-Net's test-time mirroring and sliding-window step.
    trust
        Load checkpoints and plans that could run code.

    Raises
    ------
    InputError
        Where the model is damaged, or could run code.
    """

    def __init__(
        self,
        folder: Path,
        *,
        fold: Fold,
        device: str,
        mirroring: bool,
        step_size: float,
        trust: bool,
    ) -> None:
        self.folder = folder
        self._trust = trust
        path, checkpoint = self._read_checkpoint(fold)
        self._predictor = _build_predictor(
            folder, checkpoint, where=str(path), device=torch.device(device),
            mirroring=mirroring, step_size=step_size, trust=trust,
        )  # fmt: skip
        self._weights = {fold: self._take_weights(path, checkpoint)}

    @property
    def configuration(self) -> str:
        """nnU-Net's name of the configuration."""
        return self.folder.name.rpartition("__")[2]

    @property
    def has_regions(self) -> bool:
        """Whether each organ has a probability of its own, or they exclude one another."""
        return bool(self._predictor.label_manager.has_regions)

    def describe_preprocessing(self, spacing_mm: Sequence[float]) -> str:
        """Return what preprocessing of a scan depends on: alike for alike configurations."""
        plans = self._predictor.plans_manager.plans
        configured = self._predictor.configuration_manager.configuration
        target = list(self._predictor.configuration_manager.spacing)
        if len(target) == 2:  # nnU-Net leaves the slices of 2d where they are
            target = [float(spacing_mm[plans["transpose_forward"][0]]), *target]
        values = [
            target,
            plans["transpose_forward"],
            plans["foreground_intensity_properties_per_channel"],
            *(configured.get(key) for key in _PREPROCESSING),
        ]
        return json.dumps(values, sort_keys=True, default=str)

    def prepare(self, image: NDArray[np.generic], *, spacing_mm: Sequence[float]) -> Prepared:
        """Preprocess an image ``(z, y, x)`` in slice order."""
        predictor = self._predictor
        # The dataset's files run from the lowest slice to the highest.
        in_file_order = image[::-1][None].astype(np.float32)
        preprocessor = predictor.configuration_manager.preprocessor_class(verbose=False)
        data, _, properties = preprocessor.run_case_npy(
            in_file_order,
            None,
            {"spacing": [float(np.float32(value)) for value in spacing_mm]},
            predictor.plans_manager,
            predictor.configuration_manager,
            predictor.dataset_json,
        )
        return Prepared(data=torch.from_numpy(data), properties=properties)

    def infer(self, prepared: Prepared, folds: Sequence[Fold]) -> torch.Tensor:
        """Return the folds' mean logits ``(heads, z, y, x)``, half precision, on the CPU.

        Raises
        ------
        RuntimeError
            Where they are not finite: no voxel would be an organ then.
        """
        self._weights = {fold: w for fold, w in self._weights.items() if fold in folds}
        for fold in folds:
            if fold not in self._weights:
                self._weights[fold] = self._take_weights(*self._read_checkpoint(fold))
        self._predictor.list_of_parameters = [self._weights[fold] for fold in folds]
        logits: torch.Tensor = self._predictor.predict_logits_from_preprocessed_data(prepared.data)
        if not logits.isfinite().all():
            raise RuntimeError("the network's output is not finite in some voxels")
        return logits

    def finish(self, logits: torch.Tensor, prepared: Prepared) -> NDArray[np.float32]:
        """Return probabilities ``(heads, z, y, x)`` in slice order on the scan's own grid.

        As nnU-Net's ``convert_predicted_logits_to_segmentation_with_correct_shape``, without the
        segmentation, which nobody needs here.
        """
        predictor, properties = self._predictor, prepared.properties
        forward = predictor.plans_manager.transpose_forward
        spacing = [properties["spacing"][axis] for axis in forward]
        shape = properties["shape_after_cropping_and_before_resampling"]
        current = list(predictor.configuration_manager.spacing)
        if len(current) < len(shape):
            current = [spacing[0], *current]
        resampled = predictor.configuration_manager.resampling_fn_probabilities(
            logits, shape, current, spacing
        )
        probabilities = predictor.label_manager.apply_inference_nonlin(resampled)
        if tuple(shape) != tuple(properties["shape_before_cropping"]):
            probabilities = predictor.label_manager.revert_cropping_on_probabilities(
                probabilities,
                properties["bbox_used_for_cropping"],
                properties["shape_before_cropping"],
            )
        backward = predictor.plans_manager.transpose_backward
        in_file_order = probabilities.numpy().transpose([0, *[axis + 1 for axis in backward]])
        in_slice_order: NDArray[np.float32] = in_file_order[:, ::-1]
        return in_slice_order

    def _read_checkpoint(self, fold: Fold) -> tuple[Path, dict[str, Any]]:
        path = fold_folder(self.folder, fold) / FINAL_CHECKPOINT
        return path, load_fold(path, trust=self._trust)

    def _take_weights(self, path: Path, checkpoint: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        weights: dict[str, torch.Tensor] = checkpoint["network_weights"]
        check_weights(weights, self._predictor.network, where=str(path))
        return weights


def _build_predictor(
    folder: Path,
    checkpoint: Mapping[str, Any],
    *,
    where: str,
    device: torch.device,
    mirroring: bool,
    step_size: float,
    trust: bool,
) -> BatchingPredictor:
    """Build the predictor as nnU-Net's own does from a model folder, but from safe weights."""
    plans, dataset_json = (read_json(folder / name) for name in ("plans.json", "dataset.json"))
    configuration = checkpoint["init_args"]["configuration"]
    if configuration not in plans.get("configurations", {}) or "labels" not in dataset_json:
        raise InputError(
            f"{folder}: its plans.json or dataset.json is missing, damaged, or of another "
            "model. Restore them, or train again with --restart."
        )
    if not trust:
        check_trainer(checkpoint["trainer_name"], where=where)
        check_plans(plans, where=str(folder / "plans.json"))
        check_dataset_json(dataset_json, where=str(folder / "dataset.json"))
        check_postprocessing(folder)
    plans_manager = PlansManager(plans)
    configuration_manager = plans_manager.get_configuration(configuration)
    trainer = find_trainer(checkpoint["trainer_name"], trust=trust)
    network = trainer.build_network_architecture(
        plans_manager,
        configuration_manager,
        determine_num_input_channels(plans_manager, configuration_manager, dataset_json),
        plans_manager.get_label_manager(dataset_json).num_segmentation_heads,
        enable_deep_supervision=False,
    )
    predictor = BatchingPredictor(
        tile_step_size=step_size, use_mirroring=mirroring, device=device, allow_tqdm=False
    )
    predictor.manual_initialization(
        network,
        plans_manager,
        configuration_manager,
        None,
        dataset_json,
        checkpoint["trainer_name"],
        checkpoint.get("inference_allowed_mirroring_axes"),
    )
    return predictor
