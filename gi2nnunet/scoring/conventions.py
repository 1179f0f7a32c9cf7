"""Conventions of the metric by name; :mod:`gi2nnunet.scoring.metric` says what each one means."""

from __future__ import annotations

from typing import Literal, get_args

Metric = Literal["per-class", "joined", "mle-bench", "slice-2d"]
CONVENTIONS: tuple[Metric, ...] = get_args(Metric)

# Conventions with means of single organs, so that each organ can be tuned by itself.
TunedMetric = Literal["per-class", "slice-2d"]

ScanChoice = Literal["all", "common"]


def require_convention(metric: str) -> None:
    """Raise a :class:`ValueError` for a name that is not in :data:`CONVENTIONS`."""
    if metric not in CONVENTIONS:
        raise ValueError(f"metric {metric!r} is none of {CONVENTIONS}")
