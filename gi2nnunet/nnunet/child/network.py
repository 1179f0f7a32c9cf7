"""Network of one trained configuration, step by step; runs in the engine's child process.

The steps are nnU-Net's own, taken apart so that scans can overlap in time: preprocess, run the
network of every fold, resample its logits and turn them into probabilities.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from numpy.typing import NDArray

from gi2nnunet.core.errors import InputError
from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.formats.labels import LabelMap
from gi2nnunet.nnunet.child.weights import check_weights, load_fold
from gi2nnunet.nnunet.child.windows import SlidingWindow
from gi2nnunet.nnunet.models import FINAL_CHECKPOINT, Fold, fold_folder, spell_restore_model
from gi2nnunet.nnunet.trainers import uses_planned_network
from gi2nnunet.nnunet.trust import open_model_folder

_PREPROCESSING = (
    "preprocessor_name", "normalization_schemes", "use_mask_for_norm",
    "resampling_fn_data", "resampling_fn_data_kwargs",
    "resampling_fn_seg", "resampling_fn_seg_kwargs",
)  # fmt: skip
# nnU-Net's own, which returns what has the right shape already as it is.
_RESAMPLING = "resample_data_or_seg_to_shape"
_PART_FOR_WEIGHTS = 1 / 8  # of a card's memory
_FOLDS_ON_CPU = 2
"""Folds that share a window's mirrored copies; each more takes the memory of its logits."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A preprocessed scan: float32 ``(channel, z, y, x)``, and how to undo its resampling."""

    data: torch.Tensor
    properties: Mapping[str, Any]


class Network:
    """One configuration: its plans, and its network with the weights of each fold.

    Each fold's weights are loaded once, and stay on the device as far as an eighth of a card's
    memory holds them. Raises :class:`InputError` if the model is damaged, or could run code.
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
        self._device = torch.device(device)
        path, checkpoint = self._read_checkpoint(fold)
        plans, self._dataset_json = open_model_folder(folder, trust=trust)
        configuration = checkpoint["init_args"]["configuration"]
        if configuration not in plans["configurations"] or "labels" not in self._dataset_json:
            raise InputError(
                f"{folder}: its plans.json or dataset.json is missing or of another model. "
                f"{spell_restore_model(folder)}"
            )
        self._plans = PlansManager(plans)
        self._configured = self._plans.get_configuration(configuration)
        self._labels = self._plans.get_label_manager(self._dataset_json)
        self._blank = self._build(checkpoint["trainer_name"])
        self._networks = {fold: self._fill(path, checkpoint)}
        axes = checkpoint.get("inference_allowed_mirroring_axes") if mirroring else None
        self.window = SlidingWindow(
            device=self._device,
            patch_size=tuple(self._configured.patch_size),
            heads=self._labels.num_segmentation_heads,
            mirror_axes=tuple(axes or ()),
            step_size=step_size,
        )
        self.folds_at_once = _FOLDS_ON_CPU if self._device.type == "cpu" else 1
        if self._device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # as nnU-Net's predictor

    @property
    def configuration(self) -> str:
        """nnU-Net's name of the configuration."""
        return self.folder.name.rpartition("__")[2]

    @property
    def has_regions(self) -> bool:
        """Whether each organ has a probability of its own (else labels are exclusive)."""
        return bool(self._labels.has_regions)

    def describe_preprocessing(self, spacing_mm: Sequence[float]) -> str:
        """Return everything that a scan's preprocessing depends on, as text to compare."""
        plans = self._plans.plans
        configured = self._configured.configuration
        target = list(self._configured.spacing)
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
        # The dataset's files run from the lowest slice to the highest.
        in_file_order = image[::-1][None]  # the preprocessor copies it to float32
        preprocessor = self._configured.preprocessor_class(verbose=False)
        data, _, properties = preprocessor.run_case_npy(
            in_file_order,
            None,
            {"spacing": [float(np.float32(value)) for value in spacing_mm]},
            self._plans,
            self._configured,
            self._dataset_json,
        )
        return Prepared(data=torch.from_numpy(data), properties=properties)

    @torch.inference_mode()
    def infer(self, prepared: Prepared, folds: Sequence[Fold]) -> torch.Tensor:
        """Return the folds' mean logits ``(heads, z, y, x)``, half precision, where they were made.

        Raises :class:`RuntimeError` if they are not finite: no voxel would be an organ then.
        """
        self._networks = {fold: n for fold, n in self._networks.items() if fold in folds}
        staying = self._count_staying()
        total: torch.Tensor | None = None
        for number in range(0, len(folds), self.folds_at_once):
            networks = [self._load(fold) for fold in folds[number : number + self.folds_at_once]]
            for logits in self.window.predict(networks, prepared.data):
                total = logits if total is None else total.add_(logits.to(total.device))
            if number >= staying:
                networks[0].to("cpu")
        if total is None:
            raise ValueError("no fold was given")
        if len(folds) > 1:
            total /= len(folds)
        if not all(end.isfinite() for end in torch.aminmax(total)):
            raise RuntimeError("the network's output is not finite in some voxels")
        return total

    def describe_grid(self, logits: torch.Tensor, prepared: Prepared) -> Hashable:
        """Return how logits lie on the scan's own grid, to compare; ``None`` if they do not.

        They do if nothing is resampled. Then a voxel's sigmoids are the organs' probabilities.
        """
        properties = prepared.properties
        shape = tuple(properties["shape_after_cropping_and_before_resampling"])
        kind = self._configured.configuration["resampling_fn_probabilities"]
        if (
            kind != _RESAMPLING
            or tuple(logits.shape) != (len(ORGANS), *shape)
            or self._labels.inference_nonlin is not torch.sigmoid
        ):
            return None
        return json.dumps([
            self._plans.transpose_backward,
            [list(map(int, ends)) for ends in properties["bbox_used_for_cropping"]],
        ])  # fmt: skip

    def restore(self, bit_map: LabelMap, prepared: Prepared) -> LabelMap:
        """Return a label map of the logits' grid in slice order on the scan's own grid."""
        properties = prepared.properties
        whole = np.zeros(properties["shape_before_cropping"], np.uint8)
        whole[tuple(slice(*ends) for ends in properties["bbox_used_for_cropping"])] = bit_map
        in_file_order = whole.transpose(self._plans.transpose_backward)
        return np.ascontiguousarray(in_file_order[::-1])

    def finish(self, logits: torch.Tensor, prepared: Prepared) -> NDArray[np.float32]:
        """Return probabilities ``(heads, z, y, x)`` in slice order on the scan's own grid.

        Follows nnU-Net's ``convert_predicted_logits_to_segmentation_with_correct_shape``, without
        the segmentation, which is not needed here.
        """
        properties = prepared.properties
        forward = self._plans.transpose_forward
        spacing = [properties["spacing"][axis] for axis in forward]
        shape = properties["shape_after_cropping_and_before_resampling"]
        current = list(self._configured.spacing)
        if len(current) < len(shape):
            current = [spacing[0], *current]
        resampled = self._configured.resampling_fn_probabilities(
            logits.cpu(), shape, current, spacing
        )
        probabilities = self._labels.apply_inference_nonlin(resampled)
        if tuple(shape) != tuple(properties["shape_before_cropping"]):
            probabilities = self._labels.revert_cropping_on_probabilities(
                probabilities,
                properties["bbox_used_for_cropping"],
                properties["shape_before_cropping"],
            )
        backward = self._plans.transpose_backward
        in_file_order = probabilities.numpy().transpose([0, *[axis + 1 for axis in backward]])
        in_slice_order: NDArray[np.float32] = in_file_order[:, ::-1]
        return in_slice_order

    def _load(self, fold: Fold) -> torch.nn.Module:
        """Return a fold's network on the device."""
        if fold not in self._networks:
            self._networks[fold] = self._fill(*self._read_checkpoint(fold))
        return self._networks[fold].to(self._device)

    def _read_checkpoint(self, fold: Fold) -> tuple[Path, dict[str, Any]]:
        path = fold_folder(self.folder, fold) / FINAL_CHECKPOINT
        return path, load_fold(path, trust=self._trust)

    def _build(self, trainer: str) -> torch.nn.Module:
        """Build the network as nnU-Net's own predictor does, with weights of no meaning."""
        channels = determine_num_input_channels(self._plans, self._configured, self._dataset_json)
        heads = self._labels.num_segmentation_heads
        if uses_planned_network(trainer):
            built: torch.nn.Module = get_network_from_plans(
                self._configured.network_arch_class_name,
                self._configured.network_arch_init_kwargs,
                self._configured.network_arch_init_kwargs_req_import,
                channels,
                heads,
                deep_supervision=False,
            )
            return built.eval()
        # All that trains is loaded only here, as it takes seconds.
        from gi2nnunet.nnunet.child.trainer import find_trainer

        built = find_trainer(trainer).build_network_architecture(
            self._plans, self._configured, channels, heads, enable_deep_supervision=False
        )
        return built.eval()

    def _fill(self, path: Path, checkpoint: Mapping[str, Any]) -> torch.nn.Module:
        """Return the network with a checkpoint's weights."""
        weights: dict[str, torch.Tensor] = checkpoint["network_weights"]
        check_weights(weights, self._blank, where=str(path))
        network = copy.deepcopy(self._blank)
        network.load_state_dict(weights)
        return network

    def _count_staying(self) -> int:
        """Return how many folds' weights stay on the device between two scans."""
        if self._device.type != "cuda":
            return sys.maxsize
        each = sum(tensor.nbytes for tensor in self._blank.parameters())
        _, memory = torch.cuda.mem_get_info(self._device)
        return max(1, int(_PART_FOR_WEIGHTS * memory) // max(1, each))
