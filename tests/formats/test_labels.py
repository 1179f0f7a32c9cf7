import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.formats.labels import (
    EXCLUSIVE_PRIORITY,
    find_box,
    join_organs,
    nnunet_labels,
    split_organs,
    to_bits,
    to_exclusive,
)

masks = hnp.arrays(
    bool, st.tuples(st.just(3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
)


@given(masks=masks)
def test_bits_hold_every_overlap(masks):
    label_map = join_organs(masks)
    assert label_map.dtype == np.uint8
    np.testing.assert_array_equal(split_organs(label_map), masks)
    np.testing.assert_array_equal(label_map, masks[0] + 2 * masks[1] + 4 * masks[2])


@given(masks=masks, count=st.integers(1, 3))
def test_the_box_is_that_of_all_voxels_of_all_masks(masks, count):
    at = np.argwhere(masks[:count].any(axis=0))
    if len(at):
        box = tuple(map(slice, at.min(axis=0).tolist(), (at.max(axis=0) + 1).tolist()))
    else:
        box = (slice(0, 0),) * 3
    assert find_box(*masks[:count]) == box
    turned = masks[:count].any(axis=0)[::-1].transpose(2, 0, 1)[:, ::-1]
    assert find_box(turned) == (box[2], box[0], box[1])


@given(masks=masks)
def test_exclusive_labels_follow_the_priority_voxel_by_voxel(masks):
    exclusive = to_exclusive(join_organs(masks))
    for at in np.ndindex(exclusive.shape):
        present = [organ for i, organ in enumerate(ORGANS) if masks[(i, *at)]]
        winner = next((organ for organ in EXCLUSIVE_PRIORITY if organ in present), None)
        assert exclusive[at] == (ORGANS.index(winner) + 1 if winner else 0)
    np.testing.assert_array_equal(
        split_organs(exclusive, scheme="exclusive"), split_organs(to_bits(exclusive))
    )


@given(values=hnp.arrays(np.uint8, (3, 3), elements=st.integers(0, 3)))
def test_exclusive_labels_come_back_from_bits(values):
    np.testing.assert_array_equal(to_exclusive(to_bits(values)), values)


def test_table_of_regions_is_what_nnunet_trains_on():
    """nnU-Net's own label manager reads the table and gives each organ its bit."""
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    table, order = nnunet_labels("regions")
    table, order = json.loads(json.dumps(table)), json.loads(json.dumps(order))
    manager = LabelManager(table, order)
    assert manager.has_regions
    assert list(table)[1:] == list(ORGANS)
    for index, region in enumerate(manager.foreground_regions):
        for value in range(1, 8):
            organs = split_organs(np.array([value], np.uint8))[:, 0]
            assert (value in region) == organs[index]


def test_table_of_exclusive_labels():
    table, order = nnunet_labels("exclusive")
    assert order is None
    assert table == {"background": 0, "large_bowel": 1, "small_bowel": 2, "stomach": 3}


@pytest.mark.parametrize("scheme", ["regions", "exclusive"])
def test_empty_maps(scheme):
    assert not split_organs(np.zeros((2, 3), np.uint8), scheme=scheme).any()
