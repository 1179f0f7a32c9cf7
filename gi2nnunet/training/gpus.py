"""Table of GPUs: published peak and memory of each, found by the name that a device reports."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gi2nnunet.core.errors import InputError
from gi2nnunet.nnunet.hardware import Hardware


@dataclass(frozen=True, kw_only=True)
class Card:
    """A GPU as its maker describes it.

    Attributes
    ----------
    name
        As it is called.
    peak_tflops
        Published peak of matrix products in float16 that are summed in float32, without sparsity;
        10^12 operations a second. nnU-Net's mixed precision uses these.
    memory_gib
        Of the smallest that is sold.
    """

    name: str
    peak_tflops: float
    memory_gib: int

    def as_hardware(self) -> Hardware:
        """Return one such card as the hardware of a machine."""
        return Hardware(device="cuda", gpus=(0,), memory_gib=self.memory_gib, name=self.name)


_TABLE = {
    "P100": (18.7, 16), "T4": (65, 16), "V100": (125, 16), "RTX 2080 Ti": (53.8, 11),
    "RTX 3090": (71, 24), "RTX 4090": (165.2, 24), "RTX A6000": (154.8, 48), "A10": (125, 24),
    "A30": (165, 24), "A40": (149.7, 48), "A100": (312, 40), "L4": (121, 24), "L40S": (362, 48),
    "H100 PCIe": (756, 80), "H100": (989, 80), "H200": (989, 141),
}  # fmt: skip
CARDS = {
    name: Card(name=name, peak_tflops=peak, memory_gib=memory)
    for name, (peak, memory) in _TABLE.items()
}
# Words of a device's name that do not change its speed: maker, memory, socket.
_PLAIN_WORDS = re.compile(r"\b(nvidia|tesla|geforce|hbm3|sxm\d|\d+gb)\b")


def find_card(device: str) -> Card | None:
    """Return the card of a device's name, such as ``NVIDIA A100-SXM4-80GB``.

    ``None`` if the name has any other word in it: a slice of a card (``MIG 1g.10gb``), its laptop
    version and its ``Ti`` are other cards.
    """
    by_words = {name.lower(): card for name, card in CARDS.items()}
    words = re.sub(r"[^a-z0-9]+", " ", device.lower())
    plain = " ".join(_PLAIN_WORDS.sub(" ", words).split())
    return by_words.get(plain) or by_words.get(plain.removesuffix(" pcie"))


def choose_card(name: str) -> Card:
    """Return the card that ``--card`` names.

    Raises
    ------
    InputError
        For a card that is not in the table.
    """
    card = find_card(name)
    if card is None:
        raise InputError(
            f"--card: found {name!r}; expected one of {', '.join(CARDS)}. A MIG slice, a laptop "
            "version or a Ti is another card than these: run gi2nnunet estimate --measure on a "
            "machine that has it."
        )
    return card


def name_card(hardware: Hardware) -> str:
    """Return the name of the first card, without its memory."""
    return re.split(r" \(\d+ GiB\)", hardware.name)[0]
