"""Predict scans with an ensemble through nnU-Net's predictor; runs in the engine's child process.

Per scan: preprocess for each configuration, average the folds' logits as nnU-Net does, resample to
the scan, turn into probabilities, average these over the configurations, and keep for each organ
the voxels above one half. nnU-Net's own export paints the organs one over the other at that point
and so loses overlaps; here each organ keeps its own bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.export_prediction import (
    convert_predicted_logits_to_segmentation_with_correct_shape,
)
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from numpy.typing import NDArray

from gi2nnunet.errors import InputError
from gi2nnunet.files import read_json
from gi2nnunet.kaggle import ORGANS
from gi2nnunet.labels import LabelMap, join_organs, split_organs, to_bits
from gi2nnunet.nnunet.checkpoints import check_entries, check_weights, load_checkpoint
from gi2nnunet.nnunet.models import FINAL_CHECKPOINT, Fold, fold_folder
from gi2nnunet.nnunet.trainer import find_trainer
from gi2nnunet.nnunet.trust import (
    check_dataset_json,
    check_plans,
    check_postprocessing,
    check_trainer,
)
from gi2nnunet.slices import read_image
from gi2nnunet.source import Scan, Source
from gi2nnunet.submission import encode_scan
from gi2nnunet.volumes import read_volume, write_volume, write_volume_like

Emit = Callable[[dict[str, Any]], None]


def run_prediction(
    *,
    emit: Emit,
    models: Sequence[str],
    scans: Sequence[Mapping[str, Any]],
    device: str,
    mirroring: bool,
    step_size: float,
    threads: int,
    nifti_folder: str | None,
    trust: bool,
) -> dict[str, Any]:
    """Predict scans one after another, telling each as soon as it is done.

    Parameters
    ----------
    emit
        Called for each scan with its id, its rows ``(slice_id, organ, RLE text)`` and seconds.
    models
        nnU-Net's model folders, one a configuration; their probabilities are averaged.
    scans
        Each with ``scan_id``, ``numbers``, ``folds`` (whose logits are averaged), and either
        ``volume`` (a NIfTI file) or ``source`` and ``scan`` (slices of a competition source).
    device
        ``cuda``, ``cpu`` or ``mps``.
    mirroring
        Average over mirrored images, as nnU-Net does.
    step_size
        Step of the sliding window, as a part of the patch.
    threads
        Threads of the network's operations.
    nifti_folder
        Where to write label volumes as well (``labels/`` bit-coded, ``organs/`` one mask an
        organ); ``None`` writes none.
    trust
        Load checkpoints and plans that could run code.
    """
    torch.set_num_threads(threads)
    networks = [
        _Network(Path(folder), device=device, mirroring=mirroring, step_size=step_size, trust=trust)
        for folder in models
    ]
    for scan in scans:
        started = time.monotonic()
        image, spacing_mm = _load(scan)
        total: NDArray[np.float32] | None = None
        for network in networks:
            probabilities = network.predict(image, spacing_mm=spacing_mm, folds=scan["folds"])
            total = probabilities if total is None else total + probabilities
        if total is None:
            raise ValueError("no model was given")
        bit_map = networks[0].decide(total / len(networks))
        if nifti_folder is not None:
            _write_labels(Path(nifti_folder), scan, bit_map, spacing_mm)
        emit(
            {
                "event": "scan",
                "scan_id": scan["scan_id"],
                "rows": encode_scan(scan["scan_id"], scan["numbers"], bit_map),
                "seconds": time.monotonic() - started,
            }
        )
    return {}


class _Network:
    """One configuration: its plans, its network and its folds' weights."""

    def __init__(
        self, folder: Path, *, device: str, mirroring: bool, step_size: float, trust: bool
    ) -> None:
        self.folder = folder
        self._trust = trust
        self._weights: dict[Fold, dict[str, torch.Tensor]] = {}
        self._predictor: Any = None
        self._device = torch.device(device)
        self._mirroring = mirroring
        self._step_size = step_size

    def predict(
        self,
        image: NDArray[np.generic],
        *,
        spacing_mm: tuple[float, float, float],
        folds: Sequence[Fold],
    ) -> NDArray[np.float32]:
        """Return probabilities ``(heads, z, y, x)`` in slice order for an image in slice order."""
        predictor = self._use(folds)
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
        logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data))
        _, probabilities = convert_predicted_logits_to_segmentation_with_correct_shape(
            logits,
            predictor.plans_manager,
            predictor.configuration_manager,
            predictor.label_manager,
            properties,
            return_probabilities=True,
            num_threads_torch=torch.get_num_threads(),
        )
        in_slice_order: NDArray[np.float32] = probabilities[:, ::-1]
        return in_slice_order

    def decide(self, probabilities: NDArray[np.floating]) -> LabelMap:
        """Return the bit-coded label map of probabilities ``(heads, z, y, x)``."""
        if self._predictor.label_manager.has_regions:
            return join_organs(probabilities > 0.5)
        return to_bits(probabilities.argmax(0).astype(np.uint8))

    def _use(self, folds: Sequence[Fold]) -> Any:
        self._weights = {fold: w for fold, w in self._weights.items() if fold in folds}
        for fold in folds:
            if fold not in self._weights:
                self._weights[fold] = self._load_fold(fold)
        self._predictor.list_of_parameters = [self._weights[fold] for fold in folds]
        return self._predictor

    def _load_fold(self, fold: Fold) -> dict[str, torch.Tensor]:
        path = fold_folder(self.folder, fold) / FINAL_CHECKPOINT
        checkpoint = load_checkpoint(path, trust=self._trust)
        check_entries(checkpoint, path, configuration=self.folder.name.rpartition("__")[2])
        if self._predictor is None:
            self._predictor = self._build(checkpoint, where=str(path))
        weights: dict[str, torch.Tensor] = checkpoint["network_weights"]
        check_weights(weights, self._predictor.network, where=str(path))
        return weights

    def _build(self, checkpoint: Mapping[str, Any], *, where: str) -> Any:
        """Build the predictor as nnU-Net's own does from a model folder, but from safe weights."""
        plans, dataset_json = (
            read_json(self.folder / name) for name in ("plans.json", "dataset.json")
        )
        configuration = checkpoint["init_args"]["configuration"]
        if configuration not in plans.get("configurations", {}) or "labels" not in dataset_json:
            raise InputError(
                f"{self.folder}: its plans.json or dataset.json is missing, damaged, or of another "
                "model. Restore them, or train again with --restart."
            )
        if not self._trust:
            check_trainer(checkpoint["trainer_name"], where=where)
            check_plans(plans, where=str(self.folder / "plans.json"))
            check_dataset_json(dataset_json, where=str(self.folder / "dataset.json"))
            check_postprocessing(self.folder)
        plans_manager = PlansManager(plans)
        configuration_manager = plans_manager.get_configuration(configuration)
        trainer = find_trainer(checkpoint["trainer_name"], trust=self._trust)
        network = trainer.build_network_architecture(
            plans_manager,
            configuration_manager,
            determine_num_input_channels(plans_manager, configuration_manager, dataset_json),
            plans_manager.get_label_manager(dataset_json).num_segmentation_heads,
            enable_deep_supervision=False,
        )
        predictor = nnUNetPredictor(
            tile_step_size=self._step_size,
            use_mirroring=self._mirroring,
            device=self._device,
            allow_tqdm=False,
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


def _load(scan: Mapping[str, Any]) -> tuple[NDArray[np.generic], tuple[float, float, float]]:
    if scan.get("volume"):
        volume = read_volume(Path(scan["volume"]))
        return volume.array, volume.spacing_mm
    fields: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in scan["scan"].items()
    }
    described = Scan(**fields)
    return read_image(Source(Path(scan["source"])), described), described.spacing_mm


def _write_labels(
    folder: Path,
    scan: Mapping[str, Any],
    bit_map: LabelMap,
    spacing_mm: tuple[float, float, float],
) -> None:
    """Write the bit-coded map and a binary mask an organ, in the geometry of a given volume."""
    masks = split_organs(bit_map)
    files = {f"labels/{scan['scan_id']}": bit_map} | {
        f"organs/{scan['scan_id']}_{organ}": mask.astype(np.uint8)
        for organ, mask in zip(ORGANS, masks, strict=True)
    }
    for name, array in files.items():
        path = folder / f"{name}.nii.gz"
        if scan.get("volume"):
            write_volume_like(path, array, reference=Path(scan["volume"]))
        else:
            write_volume(path, array, spacing_mm=spacing_mm)
