"""Presets of networks (planner, plans name, size), and the options of planning and training."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from gi2nnunet.core.errors import InputError, require_positive

PresetName = Literal["default", "resenc-m", "resenc-l", "resenc-xl", "tiny"]
Augment = Literal["processor", "device", "nnunet"]
DeviceChoice = Literal["auto", "cuda", "cpu", "mps"]
PresetChoice = Literal["auto", PresetName]
PRESET_NAMES: tuple[PresetName, ...] = get_args(PresetName)
CONFIGURATIONS = ("2d", "3d_fullres")
STOCK_TRAINER = "nnUNetTrainer"
DEFAULT_AUGMENT: Augment = "processor"

# nnU-Net's own: 1000 epochs of 250 iterations.
STOCK_EPOCHS, STOCK_ITERATIONS = 1000, 250


@dataclass(frozen=True)
class Preset:
    """One way to plan a network.

    Attributes
    ----------
    planner, plans_name
        nnU-Net's planner class and plans identifier.
    memory_gib
        GPU memory its batch and patch size are planned for.
    epochs, iterations
        Default length of a training.
    """

    name: PresetName
    planner: str
    plans_name: str
    memory_gib: int
    epochs: int = STOCK_EPOCHS
    iterations: int = STOCK_ITERATIONS


PRESETS: Mapping[str, Preset] = {
    "default": Preset("default", "ExperimentPlanner", "nnUNetPlans", 8),
    "resenc-m": Preset("resenc-m", "nnUNetPlannerResEncM", "nnUNetResEncUNetMPlans", 9),
    "resenc-l": Preset("resenc-l", "nnUNetPlannerResEncL", "nnUNetResEncUNetLPlans", 24),
    "resenc-xl": Preset("resenc-xl", "nnUNetPlannerResEncXL", "nnUNetResEncUNetXLPlans", 40),
    "tiny": Preset("tiny", "ExperimentPlanner", "gi2nnunetTinyPlans", 0, epochs=40, iterations=50),
}
AUTO_PRESETS = ("default", "resenc-m", "resenc-l")
"""What ``auto`` can be."""

_CLASS_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_SIZES = re.compile(r"(?:_b([0-9]+))?((?:_p[0-9]+(?:x[0-9]+)+)*)")


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """Options of planning.

    Attributes
    ----------
    preset
        A name of :data:`PRESET_NAMES`, or ``auto``; see :func:`choose_preset`.
    by_default
        Whether nobody asked for these configurations, so that those that nnU-Net does not plan for
        the dataset are left out.
    batch_size, patch_sizes
        Replace the planner's; patch sizes in voxels, slowest axis first: two numbers are for
        ``2d``, three for the 3D configurations.

    Raises
    ------
    ValueError
        For a batch size below 1.
    """

    preset: str = "auto"
    configurations: tuple[str, ...] = CONFIGURATIONS
    by_default: bool = False
    batch_size: int | None = None
    patch_sizes: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        require_positive(batch_size=self.batch_size)

    @property
    def resized(self) -> bool:
        """Return whether batch or patch size are the user's own."""
        return self.batch_size is not None or bool(self.patch_sizes)


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Settings of a training; recorded beside each fold, and the same when it resumes.

    Attributes
    ----------
    epochs, iterations, learning_rate
        Replace the trainer's own.
    augment
        Where and how patches are augmented: by this program on the processors or on the device,
        or by nnU-Net's own data pipeline. ``None``: as the training was begun, a new one by
        :data:`DEFAULT_AUGMENT`.

    Raises
    ------
    InputError
        If the trainer is not the name of a class: it becomes part of a folder's name.
    ValueError
        For a number that is not above 0.
    """

    trainer: str = STOCK_TRAINER
    epochs: int | None = None
    iterations: int | None = None
    learning_rate: float | None = None
    pretrained_weights: str | None = None
    augment: Augment | None = None

    def __post_init__(self) -> None:
        require_positive(epochs=self.epochs, iterations=self.iterations, lr=self.learning_rate)
        if not _CLASS_NAME.fullmatch(self.trainer):
            raise InputError(
                f"--trainer: found {self.trainer!r}; expected the name of a trainer class, such as "
                "nnUNetTrainer or nnUNetTrainerNoMirroring. Give one of nnU-Net's."
            )
        if self.augment not in (None, *get_args(Augment)):
            raise InputError(
                f"--augment: found {self.augment!r}; expected {', '.join(get_args(Augment))}."
            )


def choose_configurations(asked: Sequence[str] | None) -> tuple[str, ...]:
    """Return each configuration given, once; by default 2d and 3d_fullres."""
    return tuple(dict.fromkeys(asked or CONFIGURATIONS))


def refuse_size(wanted: Sequence[int], configuration: str, fitting: Sequence[int]) -> InputError:
    """Return the error for a patch size that the network of a configuration cannot have."""
    sizes = ["x".join(str(int(n)) for n in size) for size in (wanted, fitting)]
    return InputError(
        f"--patch-size {sizes[0]}: {configuration} halves its feature maps too often for it; the "
        f"nearest that fits is {sizes[1]}."
    )


def name_sizes(batch_size: int | None, sizes: Mapping[str, Sequence[int]]) -> str:
    """Return the ending of a plans name for batch and patch sizes other than the preset's.

    ``sizes`` are by their number of axes, ``"2"`` or ``"3"``.
    """
    parts = [f"_b{batch_size}"] if batch_size else []
    parts += [f"_p{'x'.join(map(str, size))}" for _, size in sorted(sizes.items())]
    return "".join(parts)


def read_plans_name(plans_name: str) -> tuple[Preset, int | None, tuple[str, ...]] | None:
    """Undo :func:`name_sizes`: return the preset, the batch size, and patch sizes as text.

    ``None`` if the plans are not those of a preset.
    """
    for preset in PRESETS.values():
        rest = plans_name.removeprefix(preset.plans_name)
        match = _SIZES.fullmatch(rest) if plans_name.startswith(preset.plans_name) else None
        if match:
            patches = dict.fromkeys(re.findall(r"_p([0-9x]+)", match[2]))
            return preset, int(match[1]) if match[1] else None, tuple(patches)
    return None


def spell_preset(plans_name: str) -> list[str]:
    """Return the options of ``plan`` and ``train`` that give plans of a name; none if unknown."""
    known = read_plans_name(plans_name)
    if known is None:
        return []
    preset, batch_size, patches = known
    words = [f"--preset {preset.name}"]
    words += [f"--batch-size {batch_size}"] if batch_size else []
    return words + [f"--patch-size {patch}" for patch in patches]


def choose_preset(name: str, *, memory_gib: float | None) -> Preset:
    """Return a preset by its name; ``auto`` chooses by the memory of the card, if there is one.

    ``auto`` is ResEnc L from 23 GiB on (nnU-Net's own recommendation is a card with 24 GB, of which
    it saw 22.7 in use: the 22 GiB of an A10 or L4 may not do), ResEnc M from 9 GiB on, else
    nnU-Net's default planner. XL takes more than twice the time of L and is chosen only by name.

    Raises
    ------
    InputError
        For an unknown name; for ``auto`` without a card, as stock training takes weeks then.
    """
    if name in PRESETS:
        return PRESETS[name]
    if name != "auto":
        raise InputError(f"--preset: found {name!r}; expected auto, {', '.join(PRESET_NAMES)}.")
    if memory_gib is None:
        raise InputError(
            "--preset auto: found no GPU; on a CPU nnU-Net's networks take weeks to train. "
            "Use --preset tiny (a small network, for CPUs and smoke tests), or name another "
            "preset to train it on the CPU anyway."
        )
    if memory_gib >= 23:
        return PRESETS["resenc-l"]
    return PRESETS["resenc-m" if memory_gib >= 9 else "default"]
