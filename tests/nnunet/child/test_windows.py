"""Slices, patches and mirrored copies in batches give what nnU-Net gives one by one."""

import weakref
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from gi2nnunet.nnunet.child import windows
from gi2nnunet.nnunet.child.windows import (
    MOST_SLICES,
    SLICES_ON_CPU,
    SlidingWindow,
    weigh_patch,
)
from tests.model_factory import DATASET_JSON, make_plans, make_weights

WORDS = [
    "CUDA out of memory. Tried to allocate 2 GiB",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "GET was unable to find an engine to execute this computation",
    "Expected canUse32BitIndexMath(input) to be true, but got false.",
]
CPU = torch.device("cpu")


def make_network():
    manager = PlansManager(make_plans())
    configuration = manager.get_configuration("2d")
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    network = nnUNetTrainer.build_network_architecture(
        manager, configuration, 1, 3, enable_deep_supervision=False
    )
    network.load_state_dict(make_weights())
    return network.eval()


def make_window(*, mirroring=True, device=CPU):
    return SlidingWindow(
        device=device, patch_size=(32, 32), heads=3, mirror_axes=(0, 1) if mirroring else (),
        step_size=0.5,
    )  # fmt: skip


def predict_by_nnunet(plans, network, image, *, mirror_axes):
    manager = PlansManager(plans)
    (name,) = plans["configurations"]
    predictor = nnUNetPredictor(device=CPU, use_mirroring=mirror_axes is not None, allow_tqdm=False)
    predictor.manual_initialization(
        network, manager, manager.get_configuration(name), [network.state_dict()],
        DATASET_JSON, "nnUNetTrainer", mirror_axes,
    )  # fmt: skip
    return predictor.predict_logits_from_preprocessed_data(image)


def make_image(depth=7, height=50, width=41, seed=0):
    chance = np.random.default_rng(seed)
    return torch.from_numpy(chance.normal(size=(1, depth, height, width)).astype(np.float32))


@pytest.mark.parametrize("mirroring", [True, False])
@pytest.mark.parametrize("slices", [1, 3, 7, 50])
def test_batches_give_the_logits_of_single_slices(mirroring, slices):
    image, network = make_image(), make_network()
    window = make_window(mirroring=mirroring)
    window.slices_at_once, window._results_at = slices, CPU
    logits = window.predict([network], image)[0]
    expected = predict_by_nnunet(
        make_plans(), network, image, mirror_axes=(0, 1) if mirroring else None
    )
    assert (logits.dtype, logits.shape) == (expected.dtype, expected.shape)
    assert expected.float().std() > 0.01
    torch.testing.assert_close(logits.float(), expected.float(), atol=5e-3, rtol=5e-3)


def test_an_image_smaller_than_the_patch_is_padded_as_nnunet_does():
    image, network = make_image(depth=2, height=20, width=17), make_network()
    expected = predict_by_nnunet(make_plans(), network, image, mirror_axes=(0, 1))
    logits = make_window().predict([network], image)[0]
    assert logits.shape == (3, 2, 20, 17)
    torch.testing.assert_close(logits.float(), expected.float(), atol=5e-3, rtol=5e-3)


class Small(torch.nn.Module):
    """A network on a device with room for a few slices; larger batches fail after some passes."""

    def __init__(self, network, most=99, words=WORDS[0], passes=0):
        super().__init__()
        self.network, self.most, self.words, self.passes = network, most, words, passes
        self.sizes = []

    def forward(self, batch):
        self.sizes.append(len(batch))
        if len(batch) > self.most and Counter(self.sizes)[len(batch)] > self.passes:
            raise RuntimeError(self.words)
        return self.network(batch)


def test_all_batches_of_a_run_have_one_size():
    network, window = Small(make_network()), make_window(mirroring=False)
    for depth in (7, 9, 4, 5):
        image = make_image(depth=depth)
        logits = window.predict([network], image)[0]
        network.sizes, sizes = [], network.sizes
        assert set(sizes) == {SLICES_ON_CPU}
        singly = make_window(mirroring=False)
        singly.slices_at_once, singly._results_at = 1, CPU
        expected = singly.predict([network], image)[0]
        network.sizes = []
        torch.testing.assert_close(logits.float(), expected.float(), atol=5e-3, rtol=5e-3)


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("passes", [0, 5])  # four passes a place: the first fails, or the second
def test_where_memory_runs_out_the_batch_is_halved_and_the_answer_is_the_same(words, passes):
    image = make_image()
    expected = make_window().predict([make_network()], image)[0]
    network, window = Small(make_network(), 2, words, passes), make_window()
    window.slices_at_once, window._results_at = 7, CPU
    logits = window.predict([network], image)[0]
    assert window.slices_at_once == 1  # 7, 3, 1
    counted = Counter(network.sizes)
    assert (counted[7], counted[3]) == (passes + 1, passes + 1)
    torch.testing.assert_close(logits.float(), expected.float(), atol=5e-3, rtol=5e-3)


def test_where_one_slice_fails_it_is_told():
    network = Small(make_network(), 0, "mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes"):
        make_window().predict([network], make_image())
    assert network.sizes == [4, 2, 1]


class Card(str):
    """A device that is the CPU and calls itself a card."""

    type = "cuda"


@pytest.fixture
def card(monkeypatch):
    """A card without autocast and without a cache to empty."""
    monkeypatch.setattr(windows.torch, "autocast", lambda kind: windows.nullcontext())
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    return Card("cpu")


class Leaving(torch.nn.Module):
    """Fails at the second place of the first attempt; looks then for what that one left alive."""

    def __init__(self, network):
        super().__init__()
        self.network, self.calls, self.made, self.left = network, 0, [], None

    def forward(self, batch):
        self.calls += 1
        if self.calls <= 5:
            layer = batch * 2
            self.made.append(weakref.ref(layer))
            if self.calls == 5:
                raise RuntimeError(WORDS[0])
        elif self.left is None:
            self.left = sum(made() is not None for made in self.made)
        return self.network(batch)


def test_a_failed_attempt_leaves_nothing_on_the_device_for_the_one_on_the_cpu(card, monkeypatch):
    image = make_image(depth=1)
    expected = make_window().predict([make_network()], image)[0]
    network = Leaving(make_network())

    def make_empty(*args, **options):
        made = empty(*args, **options)
        if network.calls == 0:  # the first attempt
            network.made.append(weakref.ref(made))
        return made

    empty = torch.empty
    with monkeypatch.context() as patch:
        patch.setattr(windows.torch, "empty", make_empty)
        logits = make_window(device=card).predict([network], image)[0]
    assert len(network.made) >= 6  # five layers and the logits
    assert network.left == 0
    torch.testing.assert_close(logits.float(), expected.float(), atol=5e-3, rtol=5e-3)


@pytest.mark.parametrize(("depth", "slices"), [(7, 7), (MOST_SLICES + 8, MOST_SLICES)])
def test_a_card_gets_many_slices_without_measuring(card, depth, slices):
    image, network = make_image(depth=depth), Small(make_network(), most=99)
    logits = make_window(device=card).predict([network], image)[0]
    assert set(network.sizes) == {slices}
    expected = make_window().predict([make_network()], image)[0]
    torch.testing.assert_close(logits.float(), expected.float(), atol=5e-3, rtol=5e-3)


def test_the_batch_is_found_again_if_the_results_come_to_lie_elsewhere(card):
    image, network = make_image(depth=6), Small(make_network(), most=2)
    window = make_window(device=card)
    window.predict_at([network], image, card)
    assert window.slices_at_once == 1  # 6, 3, 1
    window.predict_at([network], image, CPU)
    assert network.sizes.count(6) == 2
    network.most = 99
    window.predict_at([network], image, CPU)
    assert window.slices_at_once == 1
    window.predict_at([network], image, card)
    assert window.slices_at_once == 6


class Volumes(torch.nn.Module):
    """A 3D network of one layer, on a device with room for a few patches."""

    def __init__(self, most=99):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Conv3d(1, 3, 3, padding=1)
        self.most, self.sizes = most, []

    def forward(self, batch):
        self.sizes.append(len(batch))
        if len(batch) > self.most:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] can't allocate memory")
        return torch.tanh(self.layer(batch))


def predict_volume(network, image, *, mirroring=True, device=CPU, patches=None):
    window = SlidingWindow(
        device=device, patch_size=(4, 16, 16), heads=3,
        mirror_axes=(0, 1, 2) if mirroring else (), step_size=0.5,
    )  # fmt: skip
    if patches:
        window.patches_at_once = patches
    return window.predict([network], image)[0], window


def predict_volume_by_nnunet(network, image, *, mirroring=True):
    plans = make_plans("3d_fullres")
    plans["configurations"]["3d_fullres"] |= {
        "patch_size": [4, 16, 16], "spacing": [3.0, 3.0, 3.0]
    }  # fmt: skip
    return predict_by_nnunet(plans, network, image, mirror_axes=(0, 1, 2) if mirroring else None)


@pytest.mark.parametrize(("mirroring", "patches"), [(True, 2), (False, 2), (False, 5)])
def test_pairs_of_3d_patches_give_the_logits_of_single_ones(mirroring, patches):
    image, network = make_image(depth=9, height=30, width=23), Volumes()
    expected = predict_volume_by_nnunet(network, image, mirroring=mirroring)
    assert set(network.sizes) == {1}
    network.sizes.clear()
    logits, _ = predict_volume(network, image, mirroring=mirroring, patches=patches)
    assert max(network.sizes) == patches
    assert (logits.dtype, logits.shape) == (expected.dtype, expected.shape)
    torch.testing.assert_close(logits.float(), expected.float(), atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize(("most", "copies"), [(99, 8), (4, 4), (3, 2), (1, 1)])
def test_mirrored_copies_go_through_a_card_together_as_far_as_memory_allows(card, most, copies):
    image, network = make_image(depth=9, height=30, width=23), Volumes(most)
    expected = predict_volume_by_nnunet(Volumes(), image)
    logits, window = predict_volume(network, image, device=card)
    assert (window.copies_at_once, network.sizes[-1]) == (copies, copies)
    torch.testing.assert_close(logits.float(), expected.float(), atol=2e-3, rtol=2e-3)


def test_one_copy_that_fails_is_told(card):
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        predict_volume(Volumes(most=0), make_image(depth=9), device=card)


def test_where_memory_runs_out_3d_patches_go_one_by_one():
    image = make_image(depth=9, height=30, width=23)
    expected, _ = predict_volume(Volumes(), image)
    logits, window = predict_volume(Volumes(most=1), image)
    assert window.patches_at_once == 1
    torch.testing.assert_close(logits.float(), expected.float(), atol=2e-3, rtol=2e-3)


class Exact(torch.nn.Module):
    """A network that gives the same bits in any batch, and differs from voxel to voxel."""

    def __init__(self, patch_size, seed=1):
        super().__init__()
        ramp = torch.from_numpy(np.random.default_rng(seed).normal(size=patch_size))
        self.register_buffer("ramp", ramp.float())

    def forward(self, batch):
        return torch.cat([batch * self.ramp, batch - self.ramp, self.ramp - batch * batch], 1)


@st.composite
def draw_volumes(draw):
    axes = draw(st.sampled_from([2, 3]))
    return (
        draw(st.tuples(*[st.integers(4, 9)] * axes)),
        draw(st.tuples(*[st.integers(1, 12)] * 3)),
        draw(st.lists(st.integers(0, axes - 1), unique=True).map(sorted)),
        draw(st.integers(1, 5)),
    )


@given(draw_volumes())
@settings(max_examples=20, deadline=None)
@example(((8, 8), (5, 6, 7), [0, 1], 4))  # all of it within one patch
@example(((9, 4, 4), (5, 9, 3), [0, 1, 2], 2))  # two axes are padded, to an odd place
def test_the_logits_have_the_bits_of_nnunets_own(drawn):
    patch, shape, mirror, at_once = drawn
    image, network = make_image(*shape), Exact(patch)
    name = "2d" if len(patch) == 2 else "3d_fullres"
    plans = make_plans(name)
    plans["configurations"][name]["patch_size"] = list(patch)
    expected = predict_by_nnunet(plans, network, image, mirror_axes=mirror or None)
    window = SlidingWindow(
        device=CPU, patch_size=patch, heads=3, mirror_axes=tuple(mirror), step_size=0.5,
        slices_at_once=at_once, _results_at=CPU,
    )  # fmt: skip
    window.patches_at_once = at_once
    logits = window.predict([network], image)[0]
    assert logits.shape == (3, *shape)
    assert torch.equal(logits, expected)


@pytest.mark.parametrize("patch", [(8, 8), (4, 8, 8)])
@pytest.mark.parametrize("narrow", [None, 0, 1, 2])
def test_networks_that_share_mirrored_copies_give_the_bits_that_each_gives_alone(patch, narrow):
    """Also where a batch does not fit one of them, and the others are ahead or behind by then."""
    image = make_image(7, 19, 15)
    networks = [Exact(patch, seed) for seed in (1, 2, 3)]

    def make():
        window = SlidingWindow(
            device=CPU, patch_size=patch, heads=3, mirror_axes=tuple(range(len(patch))),
            step_size=0.5, slices_at_once=4, _results_at=CPU,
        )  # fmt: skip
        window.patches_at_once = 4
        return window

    expected = [make().predict([network], image)[0] for network in networks]
    assert not torch.equal(expected[0], expected[1])
    counting = [Small(network, 1 if at == narrow else 99) for at, network in enumerate(networks)]
    for found, wanted in zip(make().predict(counting, image), expected, strict=True):
        assert torch.equal(found, wanted)
    assert {4, 1} & set(counting[0].sizes) == ({4} if narrow is None else {4, 1})


@given(st.lists(st.integers(1, 40), min_size=2, max_size=3).map(tuple))
@settings(max_examples=60, deadline=None)
@example((320, 320))
@example((80, 160, 160))
def test_weights_have_the_bits_of_nnunets_own(patch):
    expected = compute_gaussian(patch, sigma_scale=1.0 / 8, value_scaling_factor=10, device=CPU)
    assert torch.equal(weigh_patch(patch, CPU), expected)
