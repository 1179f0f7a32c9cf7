from __future__ import annotations

import pytest

from gi2nnunet.core.errors import InputError
from gi2nnunet.nnunet.presets import AUTO_PRESETS, PRESET_NAMES, PRESETS, choose_preset


@pytest.mark.parametrize("name", PRESET_NAMES)
def test_a_preset_is_found_by_its_name_with_or_without_a_card(name: str) -> None:
    assert choose_preset(name, memory_gib=None).name == name
    assert choose_preset(name, memory_gib=80.0).name == name


@pytest.mark.parametrize(
    ("memory_gib", "expected"),
    [(4.0, "default"), (8.5, "default"), (10.7, "resenc-m"), (15.7, "resenc-m"), (22.1, "resenc-m"),
     (23.6, "resenc-l"), (79.1, "resenc-l")],
)  # fmt: skip
def test_auto_chooses_by_memory(memory_gib: float, expected: str) -> None:
    assert choose_preset("auto", memory_gib=memory_gib).name == expected
    assert expected in AUTO_PRESETS


def test_auto_without_a_card_names_tiny_instead_of_starting_weeks_of_work() -> None:
    with pytest.raises(InputError, match="--preset tiny"):
        choose_preset("auto", memory_gib=None)


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"found 'huge'; expected auto, default, resenc-m"):
        choose_preset("huge", memory_gib=None)


def test_presets_do_not_share_plans() -> None:
    assert len({preset.plans_name for preset in PRESETS.values()}) == len(PRESETS)
