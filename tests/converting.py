"""Conversion of tests' sources, its options of source and split as keywords."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gi2nnunet.dataset.convert
from gi2nnunet.dataset.manifest import Dataset
from gi2nnunet.dataset.splits import SplitOptions
from gi2nnunet.source.scan import RECORDED, SourceOptions

_OPENING = ("jobs", "dicom", *RECORDED)
_OF_SPLIT = (
    "folds", "holdout", "keep_known_bad", "leave_out_suspects", "seed", "splits", "allow_leaks",
)  # fmt: skip


def convert(source: Path, **options: Any) -> Dataset:
    """Convert a source into a workspace."""
    split = SplitOptions(**{name: options.pop(name) for name in _OF_SPLIT if name in options})
    opening = SourceOptions(**{name: options.pop(name) for name in _OPENING if name in options})
    return gi2nnunet.dataset.convert.convert(source, split=split, options=opening, **options)
