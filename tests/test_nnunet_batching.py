"""Patches in batches give what nnU-Net gives one by one."""

import numpy as np
import pytest
import torch
from model_factory import DATASET_JSON, make_plans, make_weights
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from gi2nnunet.nnunet.batching import BatchingPredictor


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
    """A network on a device with room for a few slices."""

    def __init__(self, network, most, words):
        super().__init__()
        self.network, self.most, self.words = network, most, words
        self.sizes = []

    def load_state_dict(self, *args, **options):
        return self.network.load_state_dict(*args, **options)

    def forward(self, batch):
        self.sizes.append(len(batch))
        if len(batch) > self.most:
            raise RuntimeError(self.words)
        return self.network(batch)


def test_where_memory_runs_out_the_batch_is_halved_and_the_answer_is_the_same():
    image = make_image()
    expected = make_predictor(BatchingPredictor).predict_logits_from_preprocessed_data(image)
    small = make_predictor(BatchingPredictor)
    small.network = Small(small.network, 2, "CUDA out of memory. Tried to allocate 2 GiB")
    small.slices_at_once = 7
    logits = small.predict_logits_from_preprocessed_data(image)
    assert small.slices_at_once == 1  # 7, 3, 1
    assert max(small.network.sizes) == 7
    torch.testing.assert_close(logits.float(), expected.float(), atol=5e-3, rtol=5e-3)


@pytest.mark.parametrize(
    ("most", "words"), [(0, "CUDA out of memory"), (2, "mat1 and mat2 shapes cannot be multiplied")]
)
def test_what_is_no_lack_of_memory_or_cannot_be_halved_is_told(most, words):
    predictor = make_predictor(BatchingPredictor)
    predictor.perform_everything_on_device = False
    predictor.network = Small(predictor.network, most, words)
    with pytest.raises(RuntimeError, match=words):
        predictor.predict_logits_from_preprocessed_data(make_image())


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
