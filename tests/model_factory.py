"""Makes model folders as nnU-Net writes them, with a small untrained network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

DATASET = "Dataset501_UWGI"
DATASET_JSON: dict[str, Any] = {
    "channel_names": {"0": "MRI"},
    "labels": {
        "background": 0,
        "large_bowel": [1, 3, 5, 7],
        "small_bowel": [2, 3, 6, 7],
        "stomach": [4, 5, 6, 7],
    },
    "regions_class_order": [1, 2, 4],
    "numTraining": 1,
    "file_ending": ".nii.gz",
}


def make_plans(configuration: str = "2d") -> dict[str, Any]:
    """Plans of a two-stage network, with every entry that nnU-Net imports by name."""
    resampling = {
        key: value
        for kind, is_seg in (("data", False), ("seg", True), ("probabilities", False))
        for key, value in (
            (f"resampling_fn_{kind}", "resample_data_or_seg_to_shape"),
            (
                f"resampling_fn_{kind}_kwargs",
                {"is_seg": is_seg, "order": 1, "order_z": 0, "force_separate_z": None},
            ),
        )
    }
    return {
        "dataset_name": DATASET,
        "plans_name": "gi2nnunetTinyPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            "0": {"mean": 100.0, "std": 50.0, "percentile_00_5": 0.0, "percentile_99_5": 250.0}
        },
        "configurations": {
            configuration: {
                "data_identifier": f"gi2nnunetTinyPlans_{configuration}",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 2,
                "patch_size": [32, 32],
                "median_image_size_in_voxels": [32.0, 32.0],
                "spacing": [3.0, 3.0],
                "normalization_schemes": ["ZScoreNormalization"],
                "use_mask_for_norm": [False],
                "batch_dice": True,
                **resampling,
                "architecture": {
                    "network_class_name": (
                        "dynamic_network_architectures.architectures.unet.PlainConvUNet"
                    ),
                    "arch_kwargs": {
                        "n_stages": 2,
                        "features_per_stage": [4, 8],
                        "conv_op": "torch.nn.modules.conv.Conv2d",
                        "kernel_sizes": [[3, 3], [3, 3]],
                        "strides": [[1, 1], [2, 2]],
                        "n_conv_per_stage": [1, 1],
                        "n_conv_per_stage_decoder": [1],
                        "conv_bias": True,
                        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
                        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
                        "dropout_op": None,
                        "dropout_op_kwargs": None,
                        "nonlin": "torch.nn.LeakyReLU",
                        "nonlin_kwargs": {"inplace": True},
                    },
                    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
                },
            }
        },
    }


def make_weights(seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights of that network, as nnU-Net names them: most layers under several names."""
    import torch

    random = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random) * 0.3

    weights: dict[str, torch.Tensor] = {}

    def add_block(name: str, out: int, into: int) -> None:
        tensors = {
            "conv.weight": draw(out, into, 3, 3),
            "conv.bias": draw(out),
            "norm.weight": 1 + draw(out),
            "norm.bias": draw(out),
        }
        for key, tensor in tensors.items():
            part, _, kind = key.partition(".")
            weights[f"{name}.{key}"] = tensor
            weights[f"{name}.all_modules.{0 if part == 'conv' else 1}.{kind}"] = tensor

    add_block("encoder.stages.0.0.convs.0", 4, 1)
    add_block("encoder.stages.1.0.convs.0", 8, 4)
    weights |= {f"decoder.{name}": tensor for name, tensor in weights.items()}
    add_block("decoder.stages.0.convs.0", 4, 8)
    weights |= {
        "decoder.transpconvs.0.weight": draw(8, 4, 2, 2),
        "decoder.transpconvs.0.bias": draw(4),
        "decoder.seg_layers.0.weight": draw(3, 4, 1, 1),
        "decoder.seg_layers.0.bias": draw(3),
    }
    return weights


def make_checkpoint(
    *,
    configuration: str = "2d",
    seed: int = 0,
    fold: int | str = "all",
    trainer: str = "nnUNetTrainer",
) -> dict[str, Any]:
    """What nnU-Net saves of a training, in little."""
    return {
        "network_weights": make_weights(seed),
        "optimizer_state": {},
        "current_epoch": 2,
        "init_args": {"configuration": configuration, "fold": fold},
        "trainer_name": trainer,
        "inference_allowed_mirroring_axes": (0, 1),
    }


def write_model(
    results: Path,
    *,
    configuration: str = "2d",
    folds: Sequence[int | str] = ("all",),
    plans: str = "gi2nnunetTinyPlans",
    trainer: str = "nnUNetTrainer",
) -> Path:
    """Write a model folder under nnU-Net's results; return it."""
    import torch

    folder = results / DATASET / f"{trainer}__{plans}__{configuration}"
    for seed, fold in enumerate(folds):
        path = folder / f"fold_{fold}" / "checkpoint_final.pth"
        path.parent.mkdir(parents=True)
        torch.save(
            make_checkpoint(configuration=configuration, seed=seed, fold=fold, trainer=trainer),
            path,
        )
    (folder / "plans.json").write_text(json.dumps(make_plans(configuration)))
    (folder / "dataset.json").write_text(json.dumps(DATASET_JSON))
    return folder
