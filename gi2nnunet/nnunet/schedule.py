"""Tasks on several cards: which runs when, each card taking the next task as it gets free."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass


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
