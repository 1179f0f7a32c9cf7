"""The table of GPUs and the names that devices report."""

from __future__ import annotations

import pytest

from gi2nnunet.core.errors import InputError
from gi2nnunet.nnunet.engine import Hardware
from gi2nnunet.training.estimate import CARDS, choose_card, find_card, name_card


@pytest.mark.parametrize(
    ("device", "card"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A100-PCIE-40GB", "A100"),
        ("NVIDIA A100 80GB PCIe", "A100"),
        ("Tesla T4", "T4"),
        ("Tesla P100-PCIE-16GB", "P100"),
        ("Tesla V100-SXM2-32GB", "V100"),
        ("NVIDIA GeForce RTX 2080 Ti", "RTX 2080 Ti"),
        ("NVIDIA GeForce RTX 3090", "RTX 3090"),
        ("NVIDIA RTX A6000", "RTX A6000"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA L40S", "L40S"),
        ("rtx-4090", "RTX 4090"),
    ],
)
def test_a_device_is_found_by_its_own_name(device: str, card: str) -> None:
    found = find_card(device)
    assert found is not None
    assert found.name == card


@pytest.mark.parametrize(
    "device",
    [
        # Slices of a card, by MIG and by virtual GPUs.
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA A100-SXM4-40GB MIG 3g.20gb",
        "NVIDIA A30 MIG 1g.6gb",
        "GRID A100-10C",
        "NVIDIA A40-48Q",
        # Laptop versions and others of a similar name.
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA GeForce RTX 2080 with Max-Q Design",
        "NVIDIA H100 NVL",
        "NVIDIA A10G",
        "NVIDIA L40",
        "NVIDIA GH200 480GB",
        "NVIDIA GeForce RTX 5090",
        "NVIDIA B200",
        "Tesla V100-FHHL-16GB",
        "rtx4090",
        "CPU, 2 cores",
        "NVIDIA",
        "",
    ],
)
def test_another_device_is_unknown(device: str) -> None:
    assert find_card(device) is None


def test_each_card_is_found_by_its_name_in_the_table() -> None:
    assert {name: choose_card(name.lower()).name for name in CARDS} == {
        name: name for name in CARDS
    }


@pytest.mark.parametrize("name", ["Voodoo 2", "H100 MIG 1g.10gb", "RTX 4090 Laptop"])
def test_an_unknown_card_is_refused_with_those_that_are_known(name: str) -> None:
    expected = rf"--card: found '{name}'; expected one of P100, T4.*--measure"
    with pytest.raises(InputError, match=expected):
        choose_card(name)


def test_the_name_of_a_card_has_no_memory() -> None:
    names = ("NVIDIA A100-SXM4-80GB (79 GiB)", "NVIDIA A100-SXM4-80GB (79 GiB), Tesla T4 (15 GiB)")
    for name in names:
        hardware = Hardware(device="cuda", gpus=(0,), memory_gib=15.0, name=name)
        assert name_card(hardware) == "NVIDIA A100-SXM4-80GB"
    assert name_card(CARDS["H100 PCIe"].as_hardware()) == "H100 PCIe"
