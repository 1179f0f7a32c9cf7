"""Network of one trained configuration, step by step; runs in the engine's child process.

The steps are nnU-Net's own, taken apart so that scans can overlap in time: preprocess, run the
network of every fold, resample its logits and turn them into probabilities.
"""

from __future__ import annotations

import json
import math
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from nnunetv2.utilities.helpers import empty_cache
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from numpy.typing import NDArray

from gi2nnunet.core.errors import InputError
from gi2nnunet.nnunet.child.trainer import find_trainer
from gi2nnunet.nnunet.child.weights import check_weights, load_fold
from gi2nnunet.nnunet.models import FINAL_CHECKPOINT, Fold, fold_folder, spell_restore_model
from gi2nnunet.nnunet.trust import open_model_folder

_PREPROCESSING = (
    "preprocessor_name", "normalization_schemes", "use_mask_for_norm",
    "resampling_fn_data", "resampling_fn_data_kwargs",
    "resampling_fn_seg", "resampling_fn_seg_kwargs",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A preprocessed scan: float32 ``(channel, z, y, x)``, and how to undo its resampling."""

    data: torch.Tensor
    properties: Mapping[str, Any]


class Network:
    """One configuration: its plans, its network as the checkpoint of ``fold`` has it, its weights.

    Raises :class:`InputError` if the model is damaged, or could run code.
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
            folder, checkpoint, device=torch.device(device),
            mirroring=mirroring, step_size=step_size, trust=trust,
        )  # fmt: skip
        self._weights = {fold: self._take_weights(path, checkpoint)}

    @property
    def configuration(self) -> str:
        """nnU-Net's name of the configuration."""
        return self.folder.name.rpartition("__")[2]

    @property
    def has_regions(self) -> bool:
        """Whether each organ has a probability of its own (else labels are exclusive)."""
        return bool(self._predictor.label_manager.has_regions)

    def describe_preprocessing(self, spacing_mm: Sequence[float]) -> str:
        """Return everything that a scan's preprocessing depends on, as text to compare."""
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

        Raises :class:`RuntimeError` if they are not finite: no voxel would be an organ then.
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

        Follows nnU-Net's ``convert_predicted_logits_to_segmentation_with_correct_shape``, without
        the segmentation, which is not needed here.
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
    device: torch.device,
    mirroring: bool,
    step_size: float,
    trust: bool,
) -> BatchingPredictor:
    """Build the predictor as nnU-Net's own does from a model folder, but from safe weights."""
    plans, dataset_json = open_model_folder(folder, trust=trust)
    configuration = checkpoint["init_args"]["configuration"]
    if configuration not in plans["configurations"] or "labels" not in dataset_json:
        raise InputError(
            f"{folder}: its plans.json or dataset.json is missing or of another model. "
            f"{spell_restore_model(folder)}"
        )
    plans_manager = PlansManager(plans)
    configuration_manager = plans_manager.get_configuration(configuration)
    trainer = find_trainer(checkpoint["trainer_name"])
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


SLICES_ON_CPU = 4
"""More gain nothing there: the cores are busy with one slice."""
MOST_SLICES = 128
PATCHES_ON_CPU = 2
"""More gain nothing there either."""
_MOST_VOXELS_ON_CPU = 1 << 19  # of a 3D patch that is paired; a larger one keeps the cores busy
_PART_OF_FREE_MEMORY = 0.7


class BatchingPredictor(nnUNetPredictor):  # type: ignore[misc]
    """Predictor of 2D slices in batches, and on a CPU of small 3D patches in batches.

    Attributes
    ----------
    slices_at_once
        Slices in a batch; ``None`` until the first scan on a GPU has shown how much memory one
        takes. Halved after any failure of more than one, as out-of-memory errors have many
        wordings. Measured again if the results move to another device.
    patches_at_once
        3D patches in a batch, on a CPU. Halved in the same way.
    """

    slices_at_once: int | None = None
    patches_at_once: int = PATCHES_ON_CPU
    _results_on_device: bool | None = None  # as slices_at_once was found

    @torch.inference_mode()
    def _internal_predict_sliding_window_return_logits(
        self, data: torch.Tensor, slicers: list[tuple[Any, ...]], do_on_device: bool = True
    ) -> torch.Tensor:
        """Return logits ``(heads, z, y, x)`` of one padded image ``(channel, z, y, x)``."""
        patch = tuple(self.configuration_manager.patch_size)
        try:
            if len(patch) == 2:
                return self._predict_slices(data, slicers, do_on_device=do_on_device)
            if self.device.type == "cpu" and math.prod(patch) <= _MOST_VOXELS_ON_CPU:
                return self._predict_patches(data, slicers)
            whole: torch.Tensor = super()._internal_predict_sliding_window_return_logits(
                data, slicers, do_on_device
            )
            return whole
        except Exception as error:
            # nnU-Net holds it while it tries again with the results on the CPU: what the frames of
            # the failed attempt hold would lie on the device all that time.
            traceback.clear_frames(error.__traceback__)
            empty_cache(self.device)
            raise

    def _predict_slices(
        self, data: torch.Tensor, slicers: list[tuple[Any, ...]], *, do_on_device: bool
    ) -> torch.Tensor:
        """Return logits ``(heads, z, y, x)`` from 2D slices in batches."""
        if self._results_on_device not in (None, do_on_device):
            self.slices_at_once = None
        self._results_on_device = do_on_device
        results_device = self.device if do_on_device else torch.device("cpu")
        # The slicers go slice by slice; every slice has the same places.
        places = [slicer[2:] for slicer in slicers if slicer[1] == 0]
        heads = self.label_manager.num_segmentation_heads
        gaussian = self._weigh_patch(results_device)
        data = data.to(results_device)
        logits = torch.zeros((heads, *data.shape[1:]), dtype=torch.half, device=results_device)
        weights = torch.zeros(data.shape[2:], dtype=torch.half, device=results_device)
        for place in places:
            weights[place] += gaussian
        first = 0
        while first < data.shape[1]:
            last = min(data.shape[1], first + self._choose_batch(data, places[0]))
            try:
                for place in places:
                    predicted = self._predict_place(data, first, last, place)
                    predicted = predicted.to(results_device)
                    if self.use_gaussian:
                        predicted *= gaussian
                    logits[(slice(None), slice(first, last), *place)] += predicted.transpose(0, 1)
                    del predicted
                first = last
                continue
            except RuntimeError:
                if last - first == 1:
                    raise
            # What this batch has added is taken back, and it is tried again by halves.
            logits[:, first:last] = 0
            self.slices_at_once = (last - first) // 2
            empty_cache(self.device)
        return _divide(logits, weights)

    def _weigh_patch(self, device: torch.device) -> torch.Tensor | int:
        """Return the weights of a patch's voxels."""
        if not self.use_gaussian:
            return 1
        weights: torch.Tensor = compute_gaussian(
            tuple(self.configuration_manager.patch_size),
            sigma_scale=1.0 / 8, value_scaling_factor=10, device=device,
        )  # fmt: skip
        return weights

    def _predict_patches(self, data: torch.Tensor, slicers: list[tuple[Any, ...]]) -> torch.Tensor:
        """Return logits ``(heads, z, y, x)`` from 3D patches in batches, on the CPU."""
        heads = self.label_manager.num_segmentation_heads
        gaussian = self._weigh_patch(torch.device("cpu"))
        logits = torch.zeros((heads, *data.shape[1:]), dtype=torch.half)
        weights = torch.zeros(data.shape[1:], dtype=torch.half)
        first = 0
        while first < len(slicers):
            part = slicers[first : first + self.patches_at_once]
            try:
                predicted = self._internal_maybe_mirror_and_predict(
                    torch.stack([data[slicer] for slicer in part])
                )
            except RuntimeError:
                if len(part) == 1:
                    raise
                self.patches_at_once = len(part) // 2
                continue
            predicted *= gaussian
            for slicer, patch in zip(part, predicted, strict=True):
                logits[slicer] += patch
                weights[slicer[1:]] += gaussian
            first += len(part)
        return _divide(logits, weights)

    def _predict_place(
        self, data: torch.Tensor, first: int, last: int, place: tuple[Any, ...]
    ) -> torch.Tensor:
        """Return the network's output ``(slices, heads, y, x)`` at one place of some slices."""
        patches = data[(slice(None), slice(first, last), *place)].transpose(0, 1)
        batch = torch.clone(patches, memory_format=torch.contiguous_format).to(self.device)
        predicted: torch.Tensor = self._internal_maybe_mirror_and_predict(batch)
        return predicted

    def _choose_batch(self, data: torch.Tensor, place: tuple[Any, ...]) -> int:
        if self.slices_at_once is None:
            self.slices_at_once = (
                self._measure_batch(data, place) if self.device.type == "cuda" else SLICES_ON_CPU
            )
        return self.slices_at_once

    def _measure_batch(self, data: torch.Tensor, place: tuple[Any, ...]) -> int:
        """Return how many slices fit, from the peak memory of one and of some more."""
        one = self._measure_height(data, 1, place)
        count = min(3, data.shape[1])
        each = one
        if count > 1:
            try:
                more = self._measure_height(data, count, place)
            except RuntimeError:
                return 1
            each = max((more - one) // (count - 1), one // 4)
        empty_cache(self.device)
        free, _ = torch.cuda.mem_get_info(self.device)
        return max(1, min(MOST_SLICES, int(_PART_OF_FREE_MEMORY * free) // max(1, each)))

    def _measure_height(self, data: torch.Tensor, count: int, place: tuple[Any, ...]) -> int:
        """Return the peak memory of so many slices on the device, in bytes."""
        torch.cuda.synchronize(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        self._predict_place(data, 0, count, place)
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device) - before


def _divide(logits: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    torch.div(logits, weights, out=logits)
    if torch.any(torch.isinf(logits)):
        raise RuntimeError("the network's output is infinite in some voxels")
    return logits
