"""Tasks on cards: what must hold of any schedule."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gi2nnunet.training.gpus import schedule, wall_seconds

SECONDS = st.lists(st.integers(0, 10_000).map(float), max_size=30)
CARDS = st.integers(1, 8)


@given(seconds=SECONDS, cards=CARDS, longest_first=st.booleans())
def test_the_clock_lies_between_the_bounds(
    seconds: list[float], cards: int, longest_first: bool
) -> None:
    wall = wall_seconds(seconds, cards=cards, longest_first=longest_first)
    total, longest = sum(seconds), max(seconds, default=0.0)
    assert wall >= max(longest, total / cards)
    # No card waits while a task is left: Graham's bound.
    assert wall <= total / cards + (1 - 1 / cards) * longest + 1e-6


@given(seconds=SECONDS)
def test_one_card_takes_the_sum_and_enough_cards_the_longest(seconds: list[float]) -> None:
    assert wall_seconds(seconds, cards=1) == sum(seconds)
    assert wall_seconds(seconds, cards=max(1, len(seconds))) == max(seconds, default=0.0)


@given(seconds=SECONDS, cards=CARDS)
def test_every_task_runs_once_in_full_and_no_card_takes_two_at_a_time(
    seconds: list[float], cards: int
) -> None:
    slots = schedule(seconds, cards=cards)
    assert [slot.end - slot.begin for slot in slots] == seconds
    for card in range(cards):
        own = sorted(
            (slot for slot in slots if slot.card == card), key=lambda slot: (slot.begin, slot.end)
        )
        assert all(before.end <= after.begin for before, after in itertools.pairwise(own))
    # In their order: none begins before one that stands before it.
    begins = [slot.begin for slot in slots]
    assert begins == sorted(begins)


def test_the_longest_first_is_shorter_where_the_longest_comes_last() -> None:
    seconds = [1.0, 1.0, 1.0, 1.0, 4.0]
    assert wall_seconds(seconds, cards=2) == 6
    assert wall_seconds(seconds, cards=2, longest_first=True) == 4


@pytest.mark.parametrize(("seconds", "cards"), [([1.0], 0), ([-1.0], 1), ([math.nan], 1)])
def test_nonsense_is_a_mistake_of_the_caller(seconds: list[float], cards: int) -> None:
    with pytest.raises(ValueError, match="cards, tasks of"):
        schedule(seconds, cards=cards)
