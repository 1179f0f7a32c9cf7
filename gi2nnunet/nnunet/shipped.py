"""The names that nnU-Net 2.8.1 itself brings for what its plans and checkpoints import by name.

nnU-Net imports whatever stands in a plan. These are the only names that it may: the classes and
functions of nnU-Net itself, and the network parts that its planners write. A test compares the
lists with the installed package.
"""

from __future__ import annotations

_TRAINERS = """
    _Primus_B_96_BS1 _Primus_L_48_BS1 _Primus_M_96_BS1 _Primus_S_96_BS1 AbstractPrimus
    nnUNet_Primus_B_Trainer nnUNet_Primus_L_Trainer nnUNet_Primus_M_Trainer
    nnUNet_Primus_M_Trainer_BS8 nnUNet_Primus_M_Trainer_BS8_2e4 nnUNet_Primus_S_Trainer
    nnUNet_PrimusV2B_Trainer nnUNet_PrimusV2L_Trainer nnUNet_PrimusV2M_Trainer
    nnUNet_PrimusV2S_Trainer nnUNet_PrimusV3B_Trainer nnUNet_PrimusV3L_Trainer
    nnUNet_PrimusV3M_Trainer nnUNet_PrimusV3S_Trainer nnUNet_Trainer_BS8 nnUNetTrainer
    nnUNetTrainer_100epochs nnUNetTrainer_10epochs nnUNetTrainer_1epoch
    nnUNetTrainer_2000epochs nnUNetTrainer_2000epochs_NoMirroring nnUNetTrainer_20epochs
    nnUNetTrainer_250epochs nnUNetTrainer_250epochs_NoMirroring nnUNetTrainer_4000epochs
    nnUNetTrainer_4000epochs_NoMirroring nnUNetTrainer_500epochs nnUNetTrainer_50epochs
    nnUNetTrainer_5epochs nnUNetTrainer_750epochs nnUNetTrainer_8000epochs
    nnUNetTrainer_8000epochs_NoMirroring nnUNetTrainer_DASegOrd0
    nnUNetTrainer_DASegOrd0_NoMirroring nnUNetTrainer_noDummy2DDA nnUNetTrainer_onlyMirror01
    nnUNetTrainer_onlyMirror01_1500ep nnUNetTrainer_onlyMirror01_DA5
    nnUNetTrainer_onlyMirror01_DASegOrd0 nnUNetTrainer_probabilisticOversampling
    nnUNetTrainer_probabilisticOversampling_010 nnUNetTrainer_probabilisticOversampling_033
    nnUNetTrainer_warmup nnUNetTrainerAdam nnUNetTrainerAdam1en3 nnUNetTrainerAdam3en4
    nnUNetTrainerAdan nnUNetTrainerAdan1en1 nnUNetTrainerAdan1en3 nnUNetTrainerAdan3en4
    nnUNetTrainerAdanCosAnneal nnUNetTrainerBenchmark_5epochs
    nnUNetTrainerBenchmark_5epochs_noDataLoading nnUNetTrainerBN nnUNetTrainerCELoss
    nnUNetTrainerCELoss_5epochs nnUNetTrainerCosAnneal nnUNetTrainerDA5
    nnUNetTrainerDA5_10epochs nnUNetTrainerDA5ord0 nnUNetTrainerDA5Segord0
    nnUNetTrainerDiceCELoss_noSmooth nnUNetTrainerDiceLoss nnUNetTrainerDiceTopK10Loss
    nnUNetTrainerNoDA nnUNetTrainerNoDeepSupervision nnUNetTrainerNoMirroring
    nnUNetTrainerTopk10Loss nnUNetTrainerTopk10LossLS01 nnUNetTrainerVanillaAdam
    nnUNetTrainerVanillaAdam1en3 nnUNetTrainerVanillaAdam3en4
"""
TRAINERS = frozenset(_TRAINERS.split())

_PLANNERS = """
    ExperimentPlanner nnUNetPlanner_torchres nnUNetPlannerResEncL
    nnUNetPlannerResEncL_noResampling nnUNetPlannerResEncL_torchres
    nnUNetPlannerResEncL_torchres_sepz nnUNetPlannerResEncM nnUNetPlannerResEncXL
    ResEncUNetPlanner
"""
PLANNERS = frozenset(_PLANNERS.split())

_NORMALIZATIONS = """
    ZScoreNormalization CTNormalization NoNormalization RescaleTo01Normalization
    RGBTo01Normalization
"""
NORMALIZATIONS = frozenset(_NORMALIZATIONS.split())

_RESAMPLINGS = """
    resample_data_or_seg_to_shape resample_torch_fornnunet no_resampling_hack
"""
RESAMPLINGS = frozenset(_RESAMPLINGS.split())

_READERS = """
    NaturalImage2DIO NibabelIO NibabelIOWithReorient SimpleITKIO SimpleITKIOWithReorient Tiff3DIO
"""
READERS = frozenset(_READERS.split())

PREPROCESSORS = frozenset({"DefaultPreprocessor"})
LABEL_MANAGERS = frozenset({"LabelManager"})

# What the planners write, and dynamic_network_architectures' U-Nets beside it.
NETWORKS = frozenset(
    f"dynamic_network_architectures.architectures.{name}"
    for name in (
        "unet.PlainConvUNet",
        "unet.ResidualEncoderUNet",
        "unet.ResidualUNet",
        "residual_unet.ResidualEncoderUNet",  # where older plans have it
    )
)
OLD_NETWORKS = frozenset({"PlainConvUNet", "ResidualEncoderUNet"})

# PyTorch's layers go by a short and a long name.
_LAYERS = {
    "conv": "Conv1d Conv2d Conv3d",
    "instancenorm": "InstanceNorm1d InstanceNorm2d InstanceNorm3d",
    "batchnorm": "BatchNorm1d BatchNorm2d BatchNorm3d",
    "dropout": "Dropout Dropout1d Dropout2d Dropout3d",
    "activation": "LeakyReLU ReLU ReLU6 PReLU ELU SELU GELU SiLU Mish",
}
LAYERS = frozenset(
    f"torch.nn.{prefix}{name}"
    for module, names in _LAYERS.items()
    for name in names.split()
    for prefix in ("", f"modules.{module}.")
) | frozenset(
    f"dynamic_network_architectures.building_blocks.residual.{name}"
    for name in ("BasicBlockD", "BottleneckD")
)
