"""Templates of the pages, and how they spell numbers, times and organs."""

from __future__ import annotations

import math
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from gi2nnunet.core.errors import count

DASH = "–"  # noqa: RUF001
PAGE_BEGINS = "<!DOCTYPE html>"


def render(template: str, **values: Any) -> str:
    """Fill in a template of this package; equal values give equal text."""
    environment = Environment(
        loader=PackageLoader("gi2nnunet", "pages"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    environment.filters |= {
        "number": format_number, "time": format_time, "name": name_of, "counted": count,
    }  # fmt: skip
    return environment.get_template(template).render(values).lstrip()


def format_number(value: float | None, form: str = ".4f", *, unit: float = 1) -> str:
    """Return a number, measured in a unit, for a table; a dash for none."""
    return DASH if value is None or math.isnan(value) else format(value / unit, form)


def format_time(seconds: float | None) -> str:
    """Return a duration such as ``1 h 05 min``, ``3 min 20 s`` or ``4.2 s``; a dash for none."""
    if seconds is None or math.isnan(seconds):
        return DASH
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes // 60} h {minutes % 60:02d} min"
        if minutes >= 60
        else f"{minutes} min {rest:02d} s"
    )


def name_of(organ: str) -> str:
    """Return an organ, or a pair of them, as a reader calls it."""
    return organ.replace("_", " ").replace("+", " with ")
