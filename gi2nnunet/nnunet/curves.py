"""Training curves, read from the logs that nnU-Net writes beside its checkpoints."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

_LINE = re.compile(
    r"^(?P<when>\S+ \S+): "
    r"(?P<key>Epoch time:|Epoch|Current learning rate:|train_loss|val_loss|Pseudo dice)"
    r" (?P<value>.+?) *$"
)
_NUMBER = re.compile(r"(?<![\w.])(?:nan|-?\d+(?:\.\d+)?(?:e[-+]?\d+)?)(?![\w.])")


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One epoch of a training.

    Attributes
    ----------
    number
        From 0.
    learning_rate
        At its start.
    train_loss, val_loss
        nnU-Net's losses.
    pseudo_dice
        Dice an organ over random validation patches, in [0, 1]; NaN where no patch held it.
    seconds
        Wall-clock time of its batches, as nnU-Net logs it.
    begun
        When it began, in seconds of the logging machine's local clock; NaN where no time is told.
    """

    number: int
    learning_rate: float
    train_loss: float
    val_loss: float
    pseudo_dice: tuple[float, ...]
    seconds: float
    begun: float = math.nan


def read_curves(fold_folder: Path) -> tuple[Epoch, ...]:
    """Read the finished epochs of one fold from its ``training_log_*.txt``; empty for none.

    A resumed training has several logs. Where an epoch stands in more than one (it was done again
    after an interruption), the later log counts.
    """
    epochs: dict[int, Epoch] = {}
    # The names hold the time in a form that sorts except for months and days without a zero.
    logs = sorted(
        fold_folder.glob("training_log_*.txt"),
        key=lambda path: [int(part) for part in re.findall(r"\d+", path.name)],
    )
    for path in logs:
        text = path.read_text(encoding="utf-8", errors="replace")
        epochs.update({epoch.number: epoch for epoch in parse_log(text.splitlines())})
    return tuple(epochs[number] for number in sorted(epochs))


def parse_log(lines: Iterable[str]) -> list[Epoch]:
    """Return the finished epochs of one log; an epoch without its last line is left out."""
    found: list[Epoch] = []
    current: dict[str, list[float]] = {}
    begun = math.nan
    for line in lines:
        match = _LINE.match(line)
        if match is None:
            continue
        # np.float32(0.5) and plain numbers alike; "10.38 s" has its unit after a space.
        value = match["value"].replace("np.float32(", "").replace("np.float64(", "")
        numbers = [float(number) for number in _NUMBER.findall(value)]
        if match["key"] == "Epoch":
            current, begun = {}, _parse_time(match["when"])
        if not numbers:
            continue
        current[match["key"]] = numbers
        if match["key"] == "Epoch time:" and "Epoch" in current:
            missing = [math.nan]
            found.append(
                Epoch(
                    number=int(current["Epoch"][0]),
                    learning_rate=current.get("Current learning rate:", missing)[0],
                    train_loss=current.get("train_loss", missing)[0],
                    val_loss=current.get("val_loss", missing)[0],
                    pseudo_dice=tuple(current.get("Pseudo dice", [])),
                    seconds=numbers[0],
                    begun=begun,
                )
            )
            current = {}
    return found


def _parse_time(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        return math.nan
    return moment.timestamp()
