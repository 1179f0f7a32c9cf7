"""pandas tables of dataclasses, one row for each object."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame


def make_frame(kind: type[Any], rows: Iterable[Any], *, index: str | None = None) -> DataFrame:
    """Return a table with the fields of a dataclass as columns, also if it has no rows.

    ``index`` names the field that becomes the index.
    """
    import pandas as pd

    names = [one.name for one in fields(kind)]
    frame = pd.DataFrame([asdict(row) for row in rows], columns=names)
    return frame if index is None else frame.set_index(index)


class ShownAsTable:
    """What a notebook shows as its table."""

    def to_frame(self) -> DataFrame:
        """Return a table."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        return str(self.to_frame().to_html(max_rows=20, na_rep="-"))
