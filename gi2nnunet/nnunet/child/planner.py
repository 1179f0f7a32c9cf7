"""Fingerprint, plan and preprocess by nnU-Net's own code; runs in the engine's child process."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import (
    ExperimentPlanner,
)
from nnunetv2.experiment_planning.plan_and_preprocess_api import (
    extract_fingerprints,
    preprocess_dataset,
)
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw
from nnunetv2.utilities.dataset_name_id_conversion import convert_id_to_dataset_name
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from gi2nnunet.core.files import read_record
from gi2nnunet.nnunet.presets import refuse_size
from gi2nnunet.nnunet.trust import check_names, open_preprocessed
from gi2nnunet.source.nifti import DATASET_JSON

# The tiny network: patches that a small CPU passes through in well under a second.
_TINY_FEATURES = 8
_TINY_MOST_FEATURES = 64
_TINY_CONVOLUTIONS = (1,) * 14  # one a stage, for as many stages as nnU-Net could plan
_TINY_PATCH = {2: (192, 192), 3: (32, 80, 80)}
_TINY_BATCH = {2: 8, 3: 2}

_NO_LIMIT_GB = 1e6
_FEWEST_ACROSS = 12  # voxels along an axis of a 2D patch that nnU-Net halves by itself


def run_fingerprint(*, dataset_id: int, processes: int) -> dict[str, Any]:
    """Extract nnU-Net's dataset fingerprint and check the dataset's integrity."""
    _check_reader(dataset_id)
    extract_fingerprints(
        [dataset_id],
        num_processes=processes,
        check_dataset_integrity=True,
        clean=True,
        verbose=False,
        show_progress_bar=False,
    )
    return {}


def run_plan(
    *,
    dataset_id: int,
    planner: str,
    plans_name: str,
    data_name: str,
    tiny: bool,
    batch_size: int | None,
    patch_sizes: dict[str, list[int]],
    asked: list[str],
) -> dict[str, Any]:
    """Plan the experiment and write nnU-Net's plans file.

    ``data_name`` is the prefix of the data folders: plans that differ only in batch or patch size
    share them, presets do not. Batch size (for all) and patch sizes (by number of axes, in voxels,
    slowest axis first) replace the planner's; a configuration that is not ``asked`` for gets the
    nearest size that fits.
    """
    _check_reader(dataset_id)
    base = recursive_find_python_class(
        _planning_folder(), planner, current_module="nnunetv2.experiment_planning"
    )
    sizes = _Sizes(
        data_name=data_name, tiny=tiny, batch_size=batch_size, patch_sizes=patch_sizes, asked=asked
    )
    planned = _shape_planner(base, sizes)(dataset_id, plans_name=plans_name).plan_experiment()
    return {
        "configurations": {
            name: {
                "data_identifier": values["data_identifier"],
                "batch_size": int(values["batch_size"]),
                "patch_size": [int(size) for size in values["patch_size"]],
                "spacing": [float(value) for value in values["spacing"]],
            }
            for name, values in planned["configurations"].items()
            if "patch_size" in values and _can_train(values)
        }
    }


def _can_train(configuration: dict[str, Any]) -> bool:
    """Return whether the network halves its feature maps at all; nnU-Net trains no other.

    It plans one without that for 8 to 11 voxels along the one axis with the finest spacing.
    """
    return len(configuration["architecture"]["arch_kwargs"]["strides"]) > 1


def run_preprocess(
    *, dataset_id: int, plans_name: str, configuration: str, processes: int, scans: Sequence[str]
) -> dict[str, Any]:
    """Preprocess some scans of a configuration again or, if none are named, its whole folder.

    nnU-Net deletes the folder before it preprocesses all.
    """
    name = convert_id_to_dataset_name(dataset_id)
    folder = Path(nnUNet_preprocessed.get()) / name
    described = open_preprocessed(folder, plans_name).dataset_json
    if not scans:
        preprocess_dataset(
            dataset_id, plans_name, (configuration,), [processes], show_progress_bar=False
        )
        return {}
    plans = PlansManager(str(folder / f"{plans_name}.json"))
    chosen = plans.get_configuration(configuration)
    data = folder / chosen.data_identifier
    data.mkdir(exist_ok=True)
    listed = get_filenames_of_train_images_and_targets(str(Path(nnUNet_raw.get()) / name))
    for scan in scans:
        for path in (data / f"{scan}.b2nd", data / f"{scan}_seg.b2nd", data / f"{scan}.pkl"):
            path.unlink(missing_ok=True)
    with multiprocessing.get_context("spawn").Pool(min(processes, len(scans))) as pool:
        pool.starmap(
            chosen.preprocessor_class(verbose=False).run_case_save,
            [
                (str(data / scan), listed[scan]["images"], listed[scan]["label"], plans, chosen,
                 described)
                for scan in scans
            ],
        )  # fmt: skip
    return {}


def _check_reader(dataset_id: int) -> None:
    path = Path(nnUNet_raw.get()) / convert_id_to_dataset_name(dataset_id) / DATASET_JSON
    remedy = "Restore it with: gi2nnunet convert SOURCE"
    check_names(dataset_json={str(path): read_record(path, dict[str, Any], remedy=remedy)})


def _planning_folder() -> str:
    import nnunetv2.experiment_planning

    return str(nnunetv2.experiment_planning.__path__[0])


@dataclass(frozen=True, kw_only=True)
class _Sizes:
    """Arguments of :func:`run_plan` that replace the planner's own choices."""

    data_name: str
    tiny: bool
    batch_size: int | None
    patch_sizes: dict[str, list[int]]
    asked: list[str]


class _SizedPlanner(ExperimentPlanner):  # type: ignore[misc]
    """Planner that keeps to the given sizes and to its own data folders."""

    sizes: _Sizes

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.sizes.tiny:
            self.UNet_base_num_features = _TINY_FEATURES
            self.UNet_max_features_2d = self.UNet_max_features_3d = _TINY_MOST_FEATURES
            self.UNet_blocks_per_stage_encoder = _TINY_CONVOLUTIONS
            self.UNet_blocks_per_stage_decoder = _TINY_CONVOLUTIONS

    def determine_transpose(self) -> tuple[list[int], list[int]]:
        # nnU-Net cuts 2D patches across the widest spacing. If that is in the plane of the
        # slices, of which there are few, its patches would be too narrow for a network.
        found = self.dataset_fingerprint
        thickness = self.determine_fullres_target_spacing()[0]
        scans = zip(found["shapes_after_crop"], found["spacings"], strict=True)
        slices = np.median([shape[0] * spacing[0] / thickness for shape, spacing in scans])
        if slices < _FEWEST_ACROSS:
            return [0, 1, 2], [0, 1, 2]
        forward, backward = super().determine_transpose()
        return forward, backward

    def generate_data_identifier(self, configuration_name: str) -> str:
        # nnU-Net's ResEnc planners share the default planner's folders; ours never do.
        return f"{self.sizes.data_name}_{configuration_name}"

    def get_plans_for_configuration(
        self,
        spacing: Sequence[float],
        median_shape: Sequence[float],
        data_identifier: str,
        approximate_n_voxels_dataset: float,
        _cache: dict[str, Any],
    ) -> dict[str, Any]:
        def plan(shape: Sequence[float]) -> dict[str, Any]:
            planned: dict[str, Any] = super(_SizedPlanner, self).get_plans_for_configuration(
                spacing, np.array(shape), data_identifier, approximate_n_voxels_dataset, _cache
            )
            planned["median_image_size_in_voxels"] = median_shape
            return planned

        axes, sizes = len(spacing), self.sizes
        configuration = data_identifier.removeprefix(f"{sizes.data_name}_")
        if wanted := sizes.patch_sizes.get(str(axes)):
            planned = _plan_size(self, plan, wanted)
            fitting = list(planned["patch_size"])
            if fitting != wanted and configuration in sizes.asked:
                raise refuse_size(wanted, configuration, fitting)
        elif sizes.tiny:
            caps = zip(_TINY_PATCH[axes], median_shape, strict=True)
            planned = plan([float(int(min(cap, size))) for cap, size in caps])
        else:
            planned = plan(median_shape)
        if sizes.tiny:
            planned["batch_size"] = _TINY_BATCH[axes]
        if sizes.batch_size is not None:
            planned["batch_size"] = sizes.batch_size
        return planned


def _shape_planner(base: type[ExperimentPlanner], sizes: _Sizes) -> type[ExperimentPlanner]:
    """Return a planner with these sizes, of the name of its base, which nnU-Net records."""
    return type(base.__name__, (_SizedPlanner, base), {"sizes": sizes})


def _plan_size(
    planner: ExperimentPlanner,
    plan: Callable[[Sequence[float]], dict[str, Any]],
    wanted: list[int],
) -> dict[str, Any]:
    """Plan for a patch size, or the nearest one that the network can have."""
    planned = plan([float(size) for size in wanted])
    if list(planned["patch_size"]) == wanted:
        return planned
    # Perhaps it is larger than the preset's memory target allows: the user's size counts.
    target = vars(planner)["UNet_vram_target_GB"]
    vars(planner)["UNet_vram_target_GB"] = _NO_LIMIT_GB
    planned = plan([float(size) for size in wanted])
    vars(planner)["UNet_vram_target_GB"] = target
    planned["batch_size"] = planner.UNet_min_batch_size
    return planned
