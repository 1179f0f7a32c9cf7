"""The table of cards and what is reckoned from it."""

from __future__ import annotations

import pytest

from gi2nnunet.core.errors import InputError
from gi2nnunet.nnunet.presets import PRESETS
from gi2nnunet.training.gpus import CARDS, UTILISATION, batch_seconds, choose_card, find_card
from gi2nnunet.training.need import stock_flops
from gi2nnunet.training.pace import pace_of_card


@pytest.mark.parametrize(
    ("device", "card"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A100-PCIE-40GB (40 GiB)", "A100"),
        ("Tesla T4", "T4"),
        ("Tesla P100-PCIE-16GB", "P100"),
        ("NVIDIA GeForce RTX 2080 Ti", "RTX 2080 Ti"),
        ("NVIDIA GeForce RTX 3090", "RTX 3090"),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L40", None),
        ("NVIDIA A10G", None),
        ("rtx4090", None),
        ("rtx-4090", "RTX 4090"),
        ("", None),
    ],
)
def test_a_device_is_found_by_its_own_name_and_by_no_other(device: str, card: str | None) -> None:
    found = find_card(device)
    assert (found.name if found else None) == card


def test_each_card_is_found_by_its_name_in_the_table() -> None:
    assert {name: choose_card(name.lower()).name for name in CARDS} == {
        name: name for name in CARDS
    }


def test_an_unknown_card_is_told_with_those_that_are_known() -> None:
    with pytest.raises(InputError, match=r"--card: found 'Voodoo 2'; expected one of P100, T4"):
        choose_card("Voodoo 2")


def test_a_batch_is_three_ways_through_the_network_at_the_assumed_share_of_the_peak() -> None:
    card = CARDS["A100"]
    train, validation = batch_seconds(312e12, batch_size=2, card=card)
    assert validation == pytest.approx(2 / UTILISATION)
    assert train == pytest.approx(3 * validation)
    pace = pace_of_card(card, forward_flops=312e12, batch_size=2)
    assert "not measured" in pace.described
    assert pace.epoch_seconds(250) == pytest.approx(
        250 * train + 50 * validation + pace.epoch_end_seconds
    )


@pytest.mark.parametrize(
    ("preset", "hours"), [("default", 9), ("resenc-m", 12), ("resenc-l", 35), ("resenc-xl", 66)]
)
def test_the_hours_that_nnunets_authors_tell_for_an_a100_are_met_within_a_quarter(
    preset: str, hours: float
) -> None:
    flops = stock_flops(PRESETS[preset], "3d_fullres")  # type: ignore[index]
    pace = pace_of_card(CARDS["A100"], forward_flops=flops, batch_size=2)
    assert 1000 * pace.epoch_seconds(250) / 3600 == pytest.approx(hours, rel=0.25)
