"""Read records that may be older, or changed by hand: what has another form counts as missing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def take_mapping(content: Any, key: str) -> Mapping[str, Any]:
    """Return the table under a key; an empty one for anything else."""
    found = content.get(key) if isinstance(content, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def take_list(content: Any, key: str) -> list[Any]:
    """Return the list under a key; an empty one for anything else."""
    found = content.get(key) if isinstance(content, Mapping) else None
    return list(found) if isinstance(found, list | tuple) else []


def take_number(content: Any, key: str) -> float | None:
    """Return the finite number under a key; ``None`` for anything else."""
    found = content.get(key) if isinstance(content, Mapping) else None
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        return None
    return found
