"""DICOM series and structures: not there, several, damaged, or of one another's."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from gi2nnunet.formats.dicom_series import read_series
from gi2nnunet.formats.rtstruct import write_rtstruct
from gi2nnunet.formats.seg import write_seg
from tests.bad_inputs.entry import BadInput
from tests.bad_inputs.making import Make
from tests.dicom_factory import AXIAL, CORONAL, SeriesPlan, write_series

PLAN = SeriesPlan(shape=(4, 12, 14))
SIZE = PLAN.shape
# In mm; the first pixel of slice 0 is at -101.25, -87.3, -13.7.
INSIDE = [(-98, -84, -13.7), (-90, -84, -13.7), (-90, -76, -13.7)]


def series(plan: SeriesPlan = PLAN, *, name: str = "in/s", **values: object) -> Make:
    """Write a series, with values of its attributes."""

    def change(dataset: Dataset, _: int) -> None:
        for keyword, value in values.items():
            setattr(dataset, keyword, value)

    return lambda here: write_series(here / name, plan, change=change) and None


def then(*steps: Make) -> Make:
    def make(here: Path) -> None:
        for step in steps:
            step(here)

    return make


def truth(change: Callable[[Dataset], object] = id, *, of: str = "in/s") -> Make:
    """Write an RTSTRUCT of a series into ``in/r.dcm``, after a change."""

    def make(here: Path) -> None:
        mask = np.zeros(SIZE, np.bool_)
        mask[0, 2:6, 2:6] = True
        write_rtstruct(here / "in" / "r.dcm", {"stomach": mask}, series=read_series(here / of))
        dataset = pydicom.dcmread(here / "in" / "r.dcm")
        change(dataset)
        dataset.save_as(here / "in" / "r.dcm")

    return make


def contour(points: list[tuple[float, float, float]], kind: str = "CLOSED_PLANAR") -> Make:
    """Write an RTSTRUCT with one contour."""

    def change(dataset: Dataset) -> None:
        (found,) = dataset.ROIContourSequence[0].ContourSequence
        found.ContourGeometricType, found.NumberOfContourPoints = kind, len(points)
        found.ContourData = [value for point in points for value in point]
        if points[0][2] != INSIDE[0][2]:
            del found.ContourImageSequence

    return then(series(), truth(change))


def two_names(dataset: Dataset) -> None:
    other = Dataset()
    other.ROINumber, other.ROIName = 2, "Gaster"
    dataset.StructureSetROISequence.append(other)


def set_name(dataset: Dataset) -> None:
    dataset.StructureSetROISequence[0].ROIName = "PTV"


def set_frame(dataset: Dataset) -> None:
    dataset.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = "1.2.888"


def cut(here: Path) -> None:
    path = sorted((here / "in" / "s").iterdir())[1]
    path.write_bytes(path.read_bytes()[:-100])


def empty(here: Path) -> None:
    sorted((here / "in" / "s").iterdir())[1].write_bytes(b"")


def fractional(here: Path) -> None:
    mask = np.zeros(SIZE, np.bool_)
    mask[0, 2:6, 2:6] = True
    write_seg(here / "in" / "g.dcm", {"stomach": mask}, series=read_series(here / "in" / "s"))
    dataset = pydicom.dcmread(here / "in" / "g.dcm")
    dataset.SegmentationType = "FRACTIONAL"
    dataset.save_as(here / "in" / "g.dcm")


def set_number(dataset: Dataset) -> None:
    dataset.ROIContourSequence[0].ReferencedROINumber = 77


def double(here: Path) -> None:
    path = sorted((here / "in" / "s").iterdir())[1]
    shutil.copy(path, here / "in" / "again")


def write_text(here: Path) -> None:
    (here / "in" / "notes").write_text("text " * 100)


def bad(name: str, make: Make, *message: str, options: str = "") -> BadInput:
    return BadInput(
        name=f"DICOM: {name}", make=make, command=f"check in --jobs 1 {options}".strip(),
        message=message,
    )  # fmt: skip


CLINIC: tuple[BadInput, ...] = (
    bad(
        "no image series", then(series(name="else"), truth(of="else"), write_text),
        "found 1 RTSTRUCT or SEG file and 1 other file; expected a series of MR images.",
        "Give the folder that holds the images.",
    ),
    bad(
        "two series that fit",
        then(
            series(StudyInstanceUID="1.2", name="in/a"), series(StudyInstanceUID="1.2", name="in/b")
        ),
        "found several series that fit:", "3: MR, 4 slices of 14 x 12", "Choose with --series",
    ),
    bad(
        "a series that is not there", series(), "The series '9': found no such series;",
        "'TRUFI'", options="--series 9",
    ),
    bad(
        "a slice missing", series(SeriesPlan(shape=(6, 12, 14), missing=(3,))),
        "found 6.000 mm between them, at -7.70 and -1.70 mm; expected 3.000 mm",
    ),
    bad("a slice twice", then(series(), double), "found both at [-101.25", "one image at each"),
    bad(
        "two orientations",
        then(
            *(
                series(
                    SeriesPlan(shape=(2, 12, 14), directions=directions), name=f"in/{at}",
                    StudyInstanceUID="1.2", SeriesInstanceUID="1.2.3",
                )
                for at, directions in enumerate((AXIAL, CORONAL))
            )
        ),
        "found the orientation [", "as in the first file",
    ),
    bad("no pixel spacing", series(PixelSpacing=None), "found no PixelSpacing; expected one"),
    bad("CT", series(Modality="CT"), "the modality CT; expected MR", "--any-modality"),
    bad("PET", series(Modality="PT"), "the modality PT; expected MR", "--any-modality"),
    bad("an empty file", then(series(), empty), "found an empty file; expected a DICOM file"),
    bad("a SEG with fractional values", then(series(), fractional),
        "found fractional values; expected binary segments. Export it as binary"),
    bad("contours of no structure", then(series(), truth(set_number)),
        "found contours of the structures number 77; expected of those that it lists, 1"),
    bad("a truncated file", then(series(), cut), "of the series ...", "Copy the file again"),
    bad(
        "structures of another series", then(series(name="else"), series(), truth(of="else")),
        "found structures of other series", "Give the right file with --structures",
    ),
    bad("another frame of reference", then(series(), truth(set_frame)),
        "found the frame of reference ....2.888; expected that of the series"),
    bad("no organ among the structures", then(series(), truth(set_name)),
        "found the structures 'PTV'; expected a structure for at least one of", "--roi"),
    bad("two structures for an organ", then(series(), truth(two_names)),
        "found 2 structures for stomach: 'Stomach' (number 1), 'Gaster' (number 2)", "--roi"),
    bad("an open contour", contour(INSIDE, "OPEN_PLANAR"), "found the type OPEN_PLANAR"),
    bad("a contour of one point", contour(INSIDE[:1]), "found a contour of one point"),
    bad("a contour between slices", contour([(x, y, -12.2) for x, y, _ in INSIDE]),
        "found points at -12.20 mm along the normal; expected the plane of a slice"),
    bad("a contour off the image", contour([*INSIDE, (-300, -76, -13.7)]),
        "found points outside the image"),
    bad("a contour that crosses itself",
        contour([(-98, -84, -13.7), (-88, -76, -13.7), (-88, -84, -13.7), (-98, -76, -13.7)]),
        "found a line that crosses itself"),
    bad("an organ that there is not", series(), "--roi 'liver=Liver': expected ORGAN=NAME",
        options="--roi liver=Liver"),
    bad("structures that are not there", series(), "--structures: found no RTSTRUCT or SEG there",
        options="--structures nowhere"),
    BadInput(
        name="DICOM: an option for DICOM with another source", start="converted",
        command="check source --series 3",
        message=("found no DICOM files; expected some", "Leave it out, or give a DICOM source."),
    ),
    BadInput(
        name="DICOM: export-dicom of labels that are not there", make=series(),
        command="export-dicom labels.nii.gz --source in --out out",
        message=("labels.nii.gz: cannot be read",),
    ),
    BadInput(
        name="DICOM: export-dicom of the wrong series", start="converted",
        command="export-dicom source --source source --out out",
        message=("--source: found", "expected one DICOM series"),
    ),
)  # fmt: skip
