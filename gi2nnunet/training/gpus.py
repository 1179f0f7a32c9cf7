"""GPUs by name: what their makers say they compute, and trainings spread over several."""

from __future__ import annotations

import heapq
import re
from collections.abc import Sequence
from dataclasses import dataclass

from gi2nnunet.core.errors import InputError

# Assumed, not measured here. nnU-Net's authors tell a training's hours on an A100 (312 TFLOPS) for
# their 3D plans: 9 (default), 12 (ResEnc M), 35 (L), 66 (XL); 1000 epochs of 250 batches forward
# and back and 50 forward, of the networks that these presets plan for the competition's scans, come
# to 0.17, 0.19, 0.23 and 0.18 of that peak. See docs/estimate.md.
UTILISATION = 0.19


@dataclass(frozen=True, kw_only=True)
class Card:
    """A GPU as its maker describes it.

    Attributes
    ----------
    name
        As it is called.
    peak_tflops
        Published peak of matrix products in float16 that are summed in float32, without sparsity;
        10^12 operations a second. It is what nnU-Net's mixed precision can use.
    memory_gib
        Of the smallest that is sold.
    """

    name: str
    peak_tflops: float
    memory_gib: int


_CARDS = (
    Card(name="P100", peak_tflops=18.7, memory_gib=16),
    Card(name="T4", peak_tflops=65, memory_gib=16),
    Card(name="V100", peak_tflops=125, memory_gib=16),
    Card(name="RTX 2080 Ti", peak_tflops=53.8, memory_gib=11),
    Card(name="RTX 3090", peak_tflops=71, memory_gib=24),
    Card(name="RTX 4090", peak_tflops=165.2, memory_gib=24),
    Card(name="RTX A6000", peak_tflops=154.8, memory_gib=48),
    Card(name="A10", peak_tflops=125, memory_gib=24),
    Card(name="A30", peak_tflops=165, memory_gib=24),
    Card(name="A40", peak_tflops=149.7, memory_gib=48),
    Card(name="A100", peak_tflops=312, memory_gib=40),
    Card(name="L4", peak_tflops=121, memory_gib=24),
    Card(name="L40S", peak_tflops=362, memory_gib=48),
    Card(name="H100 PCIe", peak_tflops=756, memory_gib=80),
    Card(name="H100", peak_tflops=989, memory_gib=80),
    Card(name="H200", peak_tflops=989, memory_gib=141),
)
CARDS = {card.name: card for card in _CARDS}


def find_card(name: str) -> Card | None:
    """Return the card that a device's name tells, as in ``NVIDIA A100-SXM4-80GB``; else ``None``.

    Of several, the one with the longest name; ``RTX 3090 Ti`` is no ``RTX 3090``.
    """
    words = _words(name)
    found = [
        card
        for card in _CARDS
        if re.search(rf"(?<!\w){_words(card.name)}(?!\w)(?! (ti|super)\b)", words)
    ]
    return max(found, key=lambda card: len(card.name), default=None)


def choose_card(name: str) -> Card:
    """Return the card that ``--card`` names.

    Raises
    ------
    InputError
        For a card that the table does not have.
    """
    card = find_card(name)
    if card is None:
        raise InputError(
            f"--card: found {name!r}; expected one of {', '.join(CARDS)}. "
            "For another one, run gi2nnunet estimate --measure on a machine that has it."
        )
    return card


def batch_seconds(forward_flops: float, *, batch_size: int, card: Card) -> tuple[float, float]:
    """Return the seconds of one training batch and of one validation batch.

    Parameters
    ----------
    forward_flops
        Operations of one patch on its way forward; the way back takes twice as many.
    batch_size
        Patches in a batch.
    card
        On which.
    """
    forward = forward_flops * batch_size / (card.peak_tflops * 1e12 * UTILISATION)
    return 3 * forward, forward


def _words(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()


@dataclass(frozen=True, kw_only=True)
class Slot:
    """When and where one task runs.

    Attributes
    ----------
    card
        From 0.
    begin, end
        In seconds from the start of the first.
    """

    card: int
    begin: float
    end: float


def schedule(seconds: Sequence[float], *, cards: int) -> tuple[Slot, ...]:
    """Give tasks to cards in their order, as ``train --gpus`` does; one slot a task.

    Parameters
    ----------
    seconds
        How long each takes.
    cards
        How many run at a time.

    Raises
    ------
    ValueError
        For no card, or a time below 0.
    """
    if cards < 1 or any(not value >= 0 for value in seconds):
        raise ValueError(f"{cards} cards, tasks of {list(seconds)} s")
    free = [(0.0, card) for card in range(cards)]
    slots = []
    for value in seconds:
        begin, card = heapq.heappop(free)
        slots.append(Slot(card=card, begin=begin, end=begin + value))
        heapq.heappush(free, (begin + value, card))
    return tuple(slots)


def wall_seconds(seconds: Sequence[float], *, cards: int, longest_first: bool = False) -> float:
    """Return when the last task ends; 0 for none.

    Parameters
    ----------
    seconds, cards
        As :func:`schedule` takes them.
    longest_first
        Give out the longest first, which is never worse than 4/3 of the best order.
    """
    order = sorted(seconds, reverse=True) if longest_first else seconds
    return max((slot.end for slot in schedule(order, cards=cards)), default=0.0)
