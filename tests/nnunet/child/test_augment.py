"""Our augmentation against nnU-Net's own transforms, with the same drawn parameters."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.noise.median_filter import MedianFilterTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDA5 import (
    nnUNetTrainerDA5,
)

from gi2nnunet.nnunet.child.augment import (
    PAD_LABEL,
    Recipe,
    Sample,
    UnknownTransform,
    apply_steps,
    build_batch,
    draw,
    read_recipe,
)

# The bit code of formats.labels, as dataset.json tells it to nnU-Net.
REGIONS = ((1, 3, 5, 7), (2, 3, 6, 7), (4, 5, 6, 7))
IMAGE_BOUND = 1e-4  # of the image's range

# Patch, the larger patch nnU-Net reads for it, and whether its slices are turned in their plane.
SHAPES = {
    "2d": ((48, 40), (75, 71), False),
    "3d": ((16, 32, 24), (35, 51, 46), False),
    "slicewise": ((6, 32, 40), (6, 60, 63), True),
}
NAMES = (
    "GaussianNoiseTransform", "GaussianBlurTransform", "MultiplicativeBrightnessTransform",
    "ContrastTransform", "SimulateLowResolutionTransform", "GammaTransform",
)  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in a worker; several wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_transforms(
    kind: str, *, regions: Any = REGIONS, masked: bool = False, trainer: Any = nnUNetTrainer
) -> ComposeTransforms:
    """What nnU-Net's trainer does to training patches of this kind."""
    patch, _, slicewise = SHAPES[kind]
    turn = np.pi / 6 if kind == "3d" else np.pi
    n = len(patch)
    scales = [[1.0] * n, [0.5] * n, [1.0] + [0.25] * (n - 1)]
    made: ComposeTransforms = trainer.get_training_transforms(
        patch, (-turn, turn), scales, tuple(range(n)), slicewise,
        use_mask_for_norm=[masked, False], regions=regions,
    )  # fmt: skip
    return made


def always(transforms: ComposeTransforms, *, without: Sequence[str] = ()) -> ComposeTransforms:
    """The same list, each transform of it always applied; some left out."""
    kept = []
    for transform in copy.deepcopy(transforms.transforms):
        inner = transform.transform if isinstance(transform, RandomTransform) else transform
        if type(inner).__name__ in without:
            continue
        for name in ("apply_probability", "p_rotation", "p_scaling"):
            if hasattr(transform, name):
                setattr(transform, name, 1)
        if hasattr(inner, "p_per_channel"):
            inner.p_per_channel = 1
        kept.append(transform)
    return ComposeTransforms(kept)


def make_patch(shape: Sequence[int], *, seed: int, exclusive: bool = False) -> Any:
    """Two channels and bit-coded balls that overlap; the last columns are outside of the scan."""
    random = np.random.default_rng(seed)
    image = torch.from_numpy(random.normal(0.5, 1, (2, *shape)).astype(np.float32))
    grid = np.indices(shape)
    labels = np.zeros(shape, np.int16)
    for organ in range(3):
        center = random.uniform(0.35, 0.65, len(shape)) * shape
        distance = sum((axis - c) ** 2 for axis, c in zip(grid, center, strict=True)) ** 0.5
        inside = distance < 0.3 * shape[-1]
        labels = np.where(inside, organ + 1 if exclusive else labels | 1 << organ, labels)
    labels[..., -shape[-1] // 4 :] = -1
    return image, torch.from_numpy(labels.astype(np.int16))


def read(image: Any, labels: Any, drawn: Any) -> Sample:
    """Take from the larger patch what the draw needs."""
    first, size = drawn.window
    pixels = torch.zeros((len(image), *size))
    values = torch.full(size, PAD_LABEL, dtype=torch.uint8)
    low = [max(f, 0) for f in first]
    high = [min(f + s, n) for f, s, n in zip(first, size, labels.shape, strict=True)]
    source = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    goal = tuple(slice(a - f, b - f) for a, b, f in zip(low, high, first, strict=True))
    pixels[(slice(None), *goal)] = image[(slice(None), *source)]
    values[goal] = labels[source].to(torch.uint8)
    return Sample(image=pixels, labels=values, draw=drawn)


def seed_all(seed: int) -> None:
    np.random.seed(seed)  # noqa: NPY002 - nnU-Net draws from it
    torch.manual_seed(seed)


def compare(
    kind: str, transforms: ComposeTransforms, *, seeds: int = 5, exclusive: bool = False
) -> int:
    """Compute patches both ways from the same draws; return the voxels whose mask differs."""
    patch, larger, _ = SHAPES[kind]
    recipe = read_recipe(transforms, patch)
    samples, theirs = [], []
    for seed in range(seeds):
        image, labels = make_patch(larger, seed=seed, exclusive=exclusive)
        seed_all(seed)
        theirs.append(transforms(image=image.clone(), segmentation=labels.clone()[None]))
        seed_all(seed)
        samples.append(read(image, labels, draw(recipe, channels=2, larger=larger)))
    different = 0
    for together in (False, True):
        torch.manual_seed(0)
        ours = build_batch(
            samples, recipe=recipe, size=seeds, device=torch.device("cpu"),
            together=together,
        )  # fmt: skip
        for j, expected in enumerate(theirs):
            image = expected["image"]
            error = (ours["data"][j] - image).abs().max()
            assert error <= IMAGE_BOUND * (image.max() - image.min())
            for level, target in enumerate(expected["segmentation"]):
                assert ours["target"][level].dtype == target.dtype
                different += int((ours["target"][level][j] != target).sum())
    return different


@pytest.mark.parametrize("kind", SHAPES)
def test_the_whole_list_gives_what_nnunet_gives(kind: str) -> None:
    transforms = always(make_transforms(kind), without=["GaussianNoiseTransform"])
    assert compare(kind, transforms) == 0


@pytest.mark.parametrize("kind", SHAPES)
def test_a_crop_gives_the_same_bits(kind: str) -> None:
    transforms = always(make_transforms(kind), without=NAMES)
    spatial = next(t for t in transforms.transforms if hasattr(t, "p_rotation"))
    spatial.p_rotation = spatial.p_scaling = 0
    assert compare(kind, transforms) == 0


@pytest.mark.parametrize("scaling", [0.7, 1.4])
@pytest.mark.parametrize("kind", SHAPES)
def test_rotation_and_scaling_reach_beyond_the_patch(kind: str, scaling: float) -> None:
    transforms = always(make_transforms(kind), without=NAMES)
    spatial = next(t for t in transforms.transforms if hasattr(t, "p_rotation"))
    spatial.scaling = (scaling, scaling)
    assert compare(kind, transforms) == 0


def test_exclusive_labels() -> None:
    transforms = always(make_transforms("3d", regions=None), without=NAMES)
    assert compare("3d", transforms, exclusive=True) == 0


def test_regions_that_are_no_bits() -> None:
    transforms = always(make_transforms("3d", regions=[(1, 2, 3), (3,), 2]), without=NAMES)
    assert compare("3d", transforms) == 0


def test_outside_of_the_mask_the_image_is_zero() -> None:
    transforms = always(make_transforms("3d", masked=True), without=["GaussianNoiseTransform"])
    assert compare("3d", transforms) == 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", SHAPES)
def test_each_transform_of_the_image(kind: str, name: str) -> None:
    patch, larger, _ = SHAPES[kind]
    others = [other for other in NAMES if other != name]
    transforms = always(make_transforms(kind), without=[*others, "MirrorTransform"])
    steps = [t for t in transforms.transforms if hasattr(t, "apply_probability")]
    assert steps
    recipe = read_recipe(transforms, patch)
    for seed in range(5):
        image, _ = make_patch(patch, seed=seed)
        seed_all(seed)
        expected = image.clone()
        for step in steps:
            expected = step(image=expected)["image"]
        seed_all(seed)
        steps_only = Recipe(patch=recipe.patch, steps=recipe.steps)
        drawn = draw(steps_only, channels=2, larger=larger)
        found = image.clone()[None]
        apply_steps(found, [drawn], steps_only)
        assert (expected - image).abs().max() > 0.01
        # The noise itself has no parameters: nnU-Net draws it in another order.
        if name == "GaussianNoiseTransform":
            sigma = drawn.rows[0][0][1][0]
            for noise in (found[0] - image, expected - image):
                assert float(noise.std()) == pytest.approx(sigma, rel=0.1)
                assert abs(float(noise.mean())) < 0.1 * sigma
        else:
            error = (found[0] - expected).abs().max()
            assert error <= IMAGE_BOUND * (expected.max() - expected.min())


def test_a_batch_at_once_and_a_sample_at_a_time_are_the_same() -> None:
    patch, larger, _ = SHAPES["3d"]
    recipe = read_recipe(make_transforms("3d"), patch)
    seed_all(3)
    draws = [draw(recipe, channels=2, larger=larger) for _ in range(40)]
    no_noise = [replace(drawn, rows=((), *drawn.rows[1:])) for drawn in draws]
    images = torch.randn((40, 2, *patch))
    alone = images.clone()
    for j, drawn in enumerate(no_noise):
        apply_steps(alone[j : j + 1], [drawn], recipe)
    apply_steps(images, no_noise, recipe)
    assert (alone - images).abs().max() <= IMAGE_BOUND * (alone.max() - alone.min())


def test_draws_have_nnunets_probabilities_and_ranges() -> None:
    patch, larger, _ = SHAPES["3d"]
    recipe = read_recipe(make_transforms("3d"), patch)
    seed_all(7)
    n = 20_000
    draws = [draw(recipe, channels=1, larger=larger) for _ in range(n)]

    def near(found: float, expected: float) -> None:
        assert abs(found - expected) < 4 * (expected * (1 - expected) / n) ** 0.5

    near(sum(d.matrix is not None for d in draws) / n, 1 - 0.8 * 0.8)
    for axis in range(3):
        near(sum(axis in d.mirror for d in draws) / n, 0.5)
    # Noise, blur, brightness, contrast, low resolution, gamma of the inverse, gamma.
    chances = (0.1, 0.2 * 0.5, 0.15, 0.15, 0.25 * 0.5, 0.1, 0.3)
    ranges = ((0, 0.1), (0.5, 1), (0.75, 1.25), (0.75, 1.25), (0.5, 1), (0.7, 1.5), (0.7, 1.5))
    for step, (chance, (low, high)) in enumerate(zip(chances, ranges, strict=True)):
        drawn = [values for d in draws for _, values in d.rows[step]]
        near(len(drawn) / n, chance)
        first = np.array([values[0] for values in drawn])
        assert low <= first.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < first.max() <= high
        if low < 1 < high:  # half of them below 1
            assert abs((first < 1).mean() - 0.5) < 4 * 0.5 / len(first) ** 0.5
    matrices = [d.matrix for d in draws if d.matrix is not None]
    scales = np.array([np.linalg.norm(m, axis=0) for m in matrices])
    assert np.allclose(scales, scales[:, :1])  # the same along all axes
    scaled = scales[~np.isclose(scales[:, 0], 1), 0]
    near(len(scaled) / n, 0.2)
    assert 0.7 <= scaled.min() < 0.71
    assert 1.39 < scaled.max() <= 1.4
    turned = [
        m for m, s in zip(matrices, scales, strict=True) if not np.allclose(m, s[0] * np.eye(3))
    ]
    near(len(turned) / n, 0.2)
    angles = np.arcsin([-(m / np.linalg.norm(m, axis=0))[2, 0] for m in turned])
    assert np.abs(angles).max() <= np.pi / 6
    assert np.abs(angles).max() > 0.99 * np.pi / 6


@pytest.mark.parametrize("kind", SHAPES)
def test_the_window_holds_what_a_draw_needs_and_no_more_than_the_patch(kind: str) -> None:
    patch, larger, _ = SHAPES[kind]
    recipe = read_recipe(make_transforms(kind), patch)
    seed_all(1)
    for _ in range(300):
        drawn = draw(recipe, channels=1, larger=larger)
        first, size = drawn.window
        assert all(f >= -1 for f in first)
        assert all(f + s <= n + 1 for f, s, n in zip(first, size, larger, strict=True))
        if drawn.matrix is None:
            assert size == patch


def test_what_is_unknown_is_named() -> None:
    patch = SHAPES["3d"][0]
    with pytest.raises(UnknownTransform, match="OneOfTransform"):
        read_recipe(make_transforms("3d", trainer=nnUNetTrainerDA5), patch)
    known = make_transforms("3d")
    known.transforms.insert(2, MedianFilterTransform((1, 2)))
    with pytest.raises(UnknownTransform, match="MedianFilterTransform"):
        read_recipe(known, patch)
    deformed = make_transforms("3d")
    deformed.transforms[0].p_elastic_deform = 0.5
    with pytest.raises(UnknownTransform, match=r"p_elastic_deform 0\.5"):
        read_recipe(deformed, patch)

    class Mine(GaussianBlurTransform):  # type: ignore[misc]
        """A subclass may do anything."""

    replaced = make_transforms("3d")
    replaced.transforms[2] = Mine((1, 2))
    with pytest.raises(UnknownTransform, match="Mine"):
        read_recipe(replaced, patch)
