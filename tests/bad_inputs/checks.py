"""What ``check --html`` is given: places, and sources of which no page can be made."""

from __future__ import annotations

from pathlib import Path

from tests.bad_inputs.entry import BadInput
from tests.bad_inputs.making import cut, write


def damage_last_slice(here: Path) -> None:
    path = sorted((here / "source").rglob("*.png"))[-1]
    path.write_bytes(cut(path.read_bytes()))


CHECKS = (
    BadInput(
        name="check: a page that is a folder",
        start="converted",
        command="check source --html gi2nnunet-workspace",
        message=("Invalid value for '--html'", "is a directory"),
        exit_code=2,
    ),
    BadInput(
        name="check: a page below a file",
        start="converted",
        make=write("file", "x"),
        command="check source --html file/check.html",
        message=("file",),
        exit_code=5,
    ),
    BadInput(
        name="check: a page inside its source",
        start="converted",
        command="check source --html source/train/check.html",
        message=(
            "source/train/check.html: found a place inside the source source; expected one outside",
        ),
        exit_code=5,
    ),
    BadInput(
        name="check: a page over a source's table",
        start="converted",
        command="check source --html source/train.csv",
        message=("source/train.csv: found a place inside the source",),
        exit_code=5,
    ),
    BadInput(
        name="check: no page of a source that is not there",
        command="check nowhere --html new/check.html",
        message=("nowhere", "no such"),
    ),
    BadInput(
        name="check: no page of a source with a slice cut off",
        start="converted",
        make=damage_last_slice,
        command="check source --html new/check.html --jobs 1",
        message=(".png",),
    ),
    BadInput(
        name="check: no page of a table that cannot be read",
        start="converted",
        make=write(
            "source/train.csv", "id,class,segmentation\ncase10_day0_slice_0001,stomach,5 x\n"
        ),
        command="check source --html check.html --jobs 1",
        message=("train.csv",),
    ),
)
