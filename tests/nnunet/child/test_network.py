"""Patches in batches give what nnU-Net gives one by one."""

import weakref
from collections import Counter

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from gi2nnunet.nnunet.child import network as batching
from gi2nnunet.nnunet.child.network import MOST_SLICES, BatchingPredictor
from tests.model_factory import DATASET_JSON, make_plans, make_weights

WORDS = [
    "CUDA out of memory. Tried to allocate 2 GiB",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "GET was unable to find an engine to execute this computation",
    "Expected canUse32BitIndexMath(input) to be true, but got false.",
]


def make_predictor(kind, *, mirroring=True, folds=1):
    manager = PlansManager(make_plans())
    configuration = manager.get_configuration("2d")
    labels = manager.get_label_manager(DATASET_JSON)
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    network = nnUNetTrainer.build_network_architecture(
        manager, configuration, 1, labels.num_segmentation_heads, enable_deep_supervision=False
    )
    predictor = kind(device=torch.device("cpu"), use_mirroring=mirroring, allow_tqdm=False)
    predictor.manual_initialization(
        network, manager, configuration, [make_weights(n) for n in range(folds)],
        DATASET_JSON, "nnUNetTrainer", (0, 1),
    )  # fmt: skip
    return predictor


def make_image(depth=7, height=50, width=41, seed=0):
    chance = np.random.default_rng(seed)
    return torch.from_numpy(chance.normal(size=(1, depth, height, width)).astype(np.float32))


@pytest.mark.parametrize("mirroring", [True, False])
@pytest.mark.parametrize("slices", [1, 3, 7, 50])
def test_batches_give_the_logits_of_single_slices(mirroring, slices):
    image = make_image()
    wanted = make_predictor(nnUNetPredictor, mirroring=mirroring, folds=2)
    found = make_predictor(BatchingPredictor, mirroring=mirroring, folds=2)
    found.slices_at_once = slices
    expected = wanted.predict_logits_from_preprocessed_data(image)
    logits = found.predict_logits_from_preprocessed_data(image)
    assert (logits.dtype, logits.shape) == (expected.dtype, expected.shape)
    assert expected.float().std() > 0.01
    torch.testing.assert_close(logits.float(), expected.float(), atol=5e-3, rtol=5e-3)


def test_an_image_smaller_than_the_patch_is_padded_as_nnunet_does():
    image = make_image(depth=2, height=20, width=17)
    expected = make_predictor(nnUNetPredictor).predict_logits_from_preprocessed_data(image)
    logits = make_predictor(BatchingPredictor).predict_logits_from_preprocessed_data(image)
    assert logits.shape == (3, 2, 20, 17)
    torch.testing.assert_close(logits.float(), expected.float(), atol=5e-3, rtol=5e-3)


class Small(torch.nn.Module):
    """A network on a device with room for a few slices; larger batches fail after some passes."""

    def __init__(self, network, most, words=WORDS[0], passes=0):
        super().__init__()
        self.network, self.most, self.words, self.passes = network, most, words, passes
        self.sizes = []

    def load_state_dict(self, *args, **options):
        return self.network.load_state_dict(*args, **options)

    def forward(self, batch):
        self.sizes.append(len(batch))
        if len(batch) > self.most and Counter(self.sizes)[len(batch)] > self.passes:
            raise RuntimeError(self.words)
        return self.network(batch)


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("passes", [0, 5])  # four passes a place: the first fails, or the second
def test_where_memory_runs_out_the_batch_is_halved_and_the_answer_is_the_same(words, passes):
    image = make_image()
    expected = make_predictor(BatchingPredictor).predict_logits_from_preprocessed_data(image)
    small = make_predictor(BatchingPredictor)
    small.network = Small(small.network, 2, words, passes)
    small.slices_at_once = 7
    logits = small.predict_logits_from_preprocessed_data(image)
    assert small.slices_at_once == 1  # 7, 3, 1
    counted = Counter(small.network.sizes)
    assert (counted[7], counted[3]) == (passes + 1, passes + 1)
    torch.testing.assert_close(logits.float(), expected.float(), atol=5e-3, rtol=5e-3)


def test_where_one_slice_fails_it_is_told():
    predictor = make_predictor(BatchingPredictor)
    predictor.perform_everything_on_device = False
    predictor.network = Small(predictor.network, 0, "mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes"):
        predictor.predict_logits_from_preprocessed_data(make_image())
    assert predictor.network.sizes == [4, 2, 1]


class Leaving(torch.nn.Module):
    """Fails at the second place of the first attempt; looks then for what that one left alive."""

    def __init__(self, network):
        super().__init__()
        self.network, self.calls, self.made, self.left = network, 0, [], None

    def load_state_dict(self, *args, **options):
        return self.network.load_state_dict(*args, **options)

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


def test_a_failed_attempt_leaves_nothing_on_the_device_for_the_one_on_the_cpu(monkeypatch):
    image = make_image()
    expected = make_predictor(BatchingPredictor).predict_logits_from_preprocessed_data(image)
    predictor = make_predictor(BatchingPredictor)
    predictor.perform_everything_on_device = True
    predictor.slices_at_once = 1
    network = predictor.network = Leaving(predictor.network)

    def make_zeros(*args, **options):
        made = zeros(*args, **options)
        if network.calls == 0:  # the first attempt
            network.made.append(weakref.ref(made))
        return made

    zeros = torch.zeros
    with monkeypatch.context() as patch:
        patch.setattr(batching.torch, "zeros", make_zeros)
        logits = predictor.predict_logits_from_preprocessed_data(image)
    assert len(network.made) >= 7  # five layers, logits and weights
    assert network.left == 0
    torch.testing.assert_close(logits.float(), expected.float(), atol=5e-3, rtol=5e-3)


class Card(str):
    """A device that is the CPU and calls itself a card."""

    type = "cuda"


@pytest.fixture
def card(monkeypatch):
    """Stands in for a card's memory: 100 bytes of its own and 40 a slice."""

    class Memory:
        sizes, free = (), 40 * 10 / 0.7 + 1

    def find_peak(device):
        return 1000 + 100 + 40 * Memory.sizes[-1]

    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1000)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", find_peak)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (Memory.free, 0))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    return Memory


def predict_on(card, predictor, image, *, do_on_device=True):
    if not isinstance(predictor.network, Small):
        predictor.network = Small(predictor.network, 99)
    predictor.network.load_state_dict(predictor.list_of_parameters[0])
    predictor.device, card.sizes = Card("cpu"), predictor.network.sizes
    slicers = predictor._internal_get_sliding_window_slicers(image.shape[1:])
    return predictor._internal_predict_sliding_window_return_logits(image, slicers, do_on_device)


@pytest.mark.parametrize(
    ("depth", "slices"),
    [
        (7, 10),  # 400 bytes by 40
        (3, 10),
        (2, 10),
        (1, 2),  # what more than one take is not known: 140 each
    ],
)
def test_a_cards_batch_is_measured_on_the_first_scan(card, depth, slices):
    image = make_image(depth=depth)
    predictor = make_predictor(BatchingPredictor)
    logits = predict_on(card, predictor, image)
    assert predictor.slices_at_once == slices
    sizes = predictor.network.sizes
    measured = [1] * 4 + [min(3, depth)] * 4 * (depth > 1)
    assert sizes[: len(measured)] == measured
    assert set(sizes[len(measured) :]) == {min(depth, slices)}
    expected = make_predictor(BatchingPredictor).predict_logits_from_preprocessed_data(image)
    torch.testing.assert_close(logits.float(), expected.float(), atol=5e-3, rtol=5e-3)


def test_a_card_of_much_or_no_memory_gets_a_batch_within_bounds(card):
    for free, slices in ((1 << 40, MOST_SLICES), (0, 1)):
        card.free = free
        predictor = make_predictor(BatchingPredictor)
        predict_on(card, predictor, make_image(depth=3))
        assert predictor.slices_at_once == slices


def test_a_card_with_room_for_one_slice_goes_slice_by_slice(card):
    image = make_image()
    predictor = make_predictor(BatchingPredictor)
    predictor.network = Small(predictor.network, 1)
    logits = predict_on(card, predictor, image)
    assert predictor.slices_at_once == 1
    expected = make_predictor(BatchingPredictor).predict_logits_from_preprocessed_data(image)
    torch.testing.assert_close(logits.float(), expected.float(), atol=5e-3, rtol=5e-3)


def test_the_batch_is_found_anew_where_the_results_come_to_lie_elsewhere(card):
    image = make_image(depth=3)
    predictor = make_predictor(BatchingPredictor)
    predictor.network = network = Small(predictor.network, 0)
    with pytest.raises(RuntimeError, match=WORDS[0]):
        predict_on(card, predictor, image)
    network.most = 1
    predict_on(card, predictor, image, do_on_device=False)
    assert predictor.slices_at_once == 1
    network.most = 99
    predict_on(card, predictor, image, do_on_device=False)
    assert predictor.slices_at_once == 1
    predict_on(card, predictor, image)
    assert predictor.slices_at_once == 10


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


def make_volume_predictor(kind, network, *, mirroring=True):
    plans = make_plans("3d_fullres")
    plans["configurations"]["3d_fullres"] |= {
        "patch_size": [4, 16, 16], "spacing": [3.0, 3.0, 3.0]
    }  # fmt: skip
    manager = PlansManager(plans)
    predictor = kind(device=torch.device("cpu"), use_mirroring=mirroring, allow_tqdm=False)
    predictor.manual_initialization(
        network, manager, manager.get_configuration("3d_fullres"), [network.state_dict()],
        DATASET_JSON, "nnUNetTrainer", (0, 1, 2),
    )  # fmt: skip
    return predictor


@pytest.mark.parametrize(("mirroring", "patches"), [(True, 2), (False, 2), (False, 5)])
def test_pairs_of_3d_patches_give_the_logits_of_single_ones(mirroring, patches):
    image, network = make_image(depth=9, height=30, width=23), Volumes()
    wanted = make_volume_predictor(nnUNetPredictor, network, mirroring=mirroring)
    expected = wanted.predict_logits_from_preprocessed_data(image)
    assert set(network.sizes) == {1}
    network.sizes.clear()
    found = make_volume_predictor(BatchingPredictor, network, mirroring=mirroring)
    found.patches_at_once = patches
    logits = found.predict_logits_from_preprocessed_data(image)
    assert max(network.sizes) == patches
    assert (logits.dtype, logits.shape) == (expected.dtype, expected.shape)
    torch.testing.assert_close(logits.float(), expected.float(), atol=2e-3, rtol=2e-3)


def test_where_memory_runs_out_3d_patches_go_one_by_one():
    image, network = make_image(depth=9, height=30, width=23), Volumes()
    expected = make_volume_predictor(
        BatchingPredictor, network
    ).predict_logits_from_preprocessed_data(image)
    small = make_volume_predictor(BatchingPredictor, Volumes(most=1))
    logits = small.predict_logits_from_preprocessed_data(image)
    assert small.patches_at_once == 1
    torch.testing.assert_close(logits.float(), expected.float(), atol=2e-3, rtol=2e-3)
