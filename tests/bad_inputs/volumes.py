"""NIfTI volumes: damaged, of another geometry, with other labels."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable

import nibabel
import numpy as np

from tests.bad_inputs.entry import BadInput
from tests.bad_inputs.making import Make, cut, then, write

SHAPE = (6, 5, 4)  # x, y, z
AFFINE = np.diag([-1.5, -1.5, 3.0, 1.0])
IMAGE, LABEL = "in/images/case1_day0.nii.gz", "in/labels/case1_day0.nii.gz"
CONVERT = "convert in --jobs 1 --holdout 0 --source-labels regions"
ENCODE = "encode in --out out.csv --labels regions"
AGAIN = "Write or download it again"


def nifti(
    array: np.ndarray | None = None,
    *,
    affine: np.ndarray = AFFINE,
    change: Callable[[nibabel.Nifti1Header], object] | None = None,
    packed: bool = True,
    forms: tuple[int, int] = (1, 1),
) -> bytes:
    """Return a NIfTI file, by default a volume of zeros."""
    array = np.zeros(SHAPE, np.uint8) if array is None else array
    made = nibabel.Nifti1Image(array, affine)
    made.set_qform(affine, code=forms[0])
    made.set_sform(affine, code=forms[1])
    made.header.set_xyzt_units("mm")
    if change:
        change(made.header)
    data = made.to_bytes()
    return gzip.compress(data, 1) if packed else data


def patched(at: int, value: bytes, **kwargs) -> bytes:
    """Return a NIfTI file with bytes of its header overwritten."""
    data = bytearray(nifti(packed=False, **kwargs))
    data[at : at + len(value)] = value
    return gzip.compress(bytes(data), 1)


def dims(*sizes: int) -> bytes:
    return np.array([len(sizes), *sizes], "<i2").tobytes()


def turned(degrees: float) -> np.ndarray:
    angle = np.deg2rad(degrees)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return turn @ AFFINE


def moved(mm: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[0, 3] = mm
    return affine


def sheared() -> bytes:
    affine = AFFINE.copy()
    affine[0, 1] = 0.5
    made = nibabel.Nifti1Image(np.zeros(SHAPE, np.uint8), affine)
    made.set_sform(affine, code=1)
    made.set_qform(None, code=0)
    return gzip.compress(made.to_bytes(), 1)


def contradicting() -> bytes:
    made = nibabel.Nifti1Image(np.zeros(SHAPE, np.uint8), AFFINE)
    made.set_sform(AFFINE, code=1)
    made.set_qform(np.diag([1.5, -1.5, 3.0, 1.0]), code=1)
    return gzip.compress(made.to_bytes(), 1)


def labels(content: bytes) -> Make:
    """Write one label volume for encode."""
    return write("in/case1_day0.nii.gz", content)


def pair(image: bytes | None = None, label: bytes | None = None) -> Make:
    """Write an image and its labels for convert."""
    return then(
        write(IMAGE, nifti(np.ones(SHAPE, np.int16)) if image is None else image),
        write(LABEL, nifti() if label is None else label),
    )


def encoding(name: str, content: bytes, *message: str, remedy: str = AGAIN) -> BadInput:
    """An entry for a volume given to encode."""
    return BadInput(
        name=f"a volume: {name}",
        make=labels(content),
        command=ENCODE,
        message=("case1_day0.nii.gz: found", *message, remedy),
    )


def converting(name: str, make: Make, *message: str) -> BadInput:
    return BadInput(name=f"volumes: {name}", make=make, command=CONVERT, message=message)


def of(value: float, dtype: type = np.float32) -> np.ndarray:
    array = np.zeros(SHAPE, dtype)
    array[1, 2, 3] = value
    return array


VALUES = ("expected labels, whole numbers", "Give label volumes of large_bowel")
VOLUMES = (
    encoding("an empty file", b"", "no readable NIfTI volume"),
    encoding("text", b"hello" * 100, "no readable NIfTI volume"),
    encoding("gzipped text", gzip.compress(b"hello" * 100), "a gzip file without a NIfTI volume"),
    encoding(
        "a gzip cut off",
        cut(nifti(np.random.default_rng(0).integers(0, 8, SHAPE, dtype=np.uint8))),
        "a truncated or damaged gzip file",
    ),
    encoding("a gzip of a few bytes", nifti()[:15], "a truncated or damaged gzip file"),
    encoding(
        "a gzip with a wrong checksum", nifti()[:-8] + bytes(8), "a truncated or damaged gzip file"
    ),
    encoding(
        "cut off inside",
        gzip.compress(nifti(packed=False)[:-20]),
        "bytes; its header says 472",
    ),
    encoding("a header alone", nifti(packed=False)[:348], "bytes; its header says"),
    encoding(
        "larger in its header",
        patched(40, dims(60, 50, 40)),
        "472 bytes; its header says 120352",
    ),
    encoding(
        "35 TB in its header",
        patched(40, dims(32767, 32767, 32767)),
        "a header that claims 35181150962015 bytes",
    ),
    encoding(
        "a bomb",
        gzip.compress(nifti(packed=False) + bytes(50_000_000)),
        "far more than the 472 bytes that its header says",
    ),
    encoding("a size below zero", patched(40, dims(6, -5, 4)), "no readable NIfTI volume"),
    encoding("eight axes", patched(40, np.array([9], "<i2").tobytes()), "no readable NIfTI volume"),
    encoding("an unknown type", patched(70, b"\x99\x09"), "no readable NIfTI volume"),
    encoding("no 16-bit signature", patched(344, b"xxxx"), "no readable NIfTI volume"),
    encoding(
        "four axes",
        nifti(np.zeros((*SHAPE, 2), np.uint8)),
        "values of shape (6, 5, 4, 2), uint8",
        "expected one volume of numbers",
    ),
    encoding("two axes", nifti(np.zeros((6, 5), np.uint8)), "values of shape (6, 5"),
    encoding(
        "colours",
        nifti(np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])),
        "values of shape",
        "expected one volume of numbers",
    ),
    encoding("complex numbers", nifti(np.zeros(SHAPE, np.complex64)), "complex64"),
    encoding(
        "no orientation",
        nifti(forms=(0, 0)),
        "neither qform nor sform",
        "expected one of the two set",
    ),
    encoding(
        "two orientations",
        contradicting(),
        "a qform and an sform that contradict each other",
        remedy="If the qform is right, write the file again with: python -c ",
    ),
    encoding(
        "sheared axes", sheared(), "voxel axes along", remedy="Resample it to the patient's axes"
    ),
    encoding(
        "turned by 40 degrees",
        nifti(affine=turned(40)),
        "voxel axes along",
        "within 30 degrees",
        remedy="Resample it",
    ),
    encoding(
        "a voxel of no size",
        patched(296, bytes(16), forms=(0, 1)),
        "a voxel size that is not a positive number",
        "expected spacing in mm",
    ),
    encoding(
        "a voxel of no size in its qform",
        patched(80, bytes(4), forms=(1, 0)),
        "a voxel size that is not a positive number",
        "expected spacing in mm",
    ),
    encoding(
        "a position that is no number",
        patched(292, np.array([np.nan], "<f4").tobytes()),
        "a voxel size that is not a positive number",
    ),
    encoding(
        "metres",
        nifti(change=lambda h: h.set_xyzt_units("meter")),
        "lengths in meter",
        "expected millimetres",
    ),
    encoding(
        "labels above 7", nifti(of(8, np.uint8)), "the labels [8]", remedy="or correct the files"
    ),
    encoding("labels below 0", nifti(of(-1, np.int16)), "the values [-1]", remedy=VALUES[1]),
    encoding("labels of a half", nifti(of(0.5)), "the values [0.5]", remedy=VALUES[1]),
    encoding("labels of 257", nifti(of(257, np.int32)), "the values [257]", remedy=VALUES[1]),
    encoding("labels that are no numbers", nifti(of(np.nan)), "the values [nan]", remedy=VALUES[1]),
    encoding("labels without end", nifti(of(np.inf)), "the values [inf]", remedy=VALUES[1]),
    BadInput(
        name="a volume: exclusive labels above 3",
        make=labels(nifti(of(5, np.uint8))),
        command="encode in --out out.csv --labels exclusive",
        message=(
            "case1_day0.nii.gz: found the labels [5]",
            "expected those of exclusive",
            "Give --labels regions",
        ),
    ),
    BadInput(
        name="a volume that is a link to nowhere",
        command=ENCODE,
        make=then(labels(nifti()), lambda here: (here / "in/case2_day0.nii.gz").symlink_to("gone")),
        message=("case2_day0.nii.gz: cannot be read (No such file or directory)",),
    ),
    BadInput(
        name="a volume whose name breaks a CSV",
        command=ENCODE,
        make=write("in/case1,day0.nii.gz", nifti()),
        message=(
            "case1,day0.nii.gz",
            "found the scan id 'case1,day0'",
            "expected letters",
            "Correct these in in",
        ),
    ),
    converting(
        "not one",
        lambda here: (here / "in/images").mkdir(parents=True),
        "in: is not a source of the competition",
        "expected the folder",
    ),
    converting(
        "an image cut off",
        pair(image=cut(nifti())),
        f"{IMAGE}: found a truncated or damaged gzip file",
        "Correct these in in",
    ),
    converting(
        "values that are no numbers",
        pair(image=nifti(of(np.nan))),
        f"{IMAGE}: found NaN or infinity; expected finite intensities",
        "Correct these in",
    ),
    converting(
        "labels of another shape",
        pair(label=nifti(np.zeros((6, 5, 3), np.uint8))),
        f"{LABEL}: found the geometry (3, 5, 6) voxels",
        "expected the image's, (4, 5, 6)",
        "Correct these in",
    ),
    converting(
        "labels of another spacing",
        pair(label=nifti(affine=np.diag([-1.5, -1.6, 3.0, 1.0]))),
        f"{LABEL}: found the geometry",
        "(3.0, 1.6, 1.5) mm",
        "expected the image's",
    ),
    converting(
        "labels in another place",
        pair(label=nifti(affine=moved(5.0))),
        f"{LABEL}: found the geometry",
        "first voxel at (-5.0",
        "expected the image's",
    ),
    converting(
        "labels without an image",
        then(pair(), write("in/labels/case2_day0.nii.gz", nifti())),
        "in/labels/case2_day0.nii.gz: found labels without an image",
        "expected one in in/images",
        "Correct these in in",
    ),
    converting(
        "a second channel",
        then(pair(), write("in/images/case1_day0_0001.nii.gz", nifti())),
        "case1_day0_0001.nii.gz: found channel 0001",
        "expected one image a scan",
    ),
    converting(
        "two images of a scan",
        then(pair(), write("in/images/case1_day0_0000.nii", nifti())),
        "found a second image of case1_day0",
        "expected one image a scan, channel 0000",
    ),
    BadInput(
        name="volumes: labels that may mean two things",
        make=pair(label=nifti(of(3, np.uint8))),
        command="convert in --holdout 0",
        message=("in: found the label 3 and none above it", "--source-labels"),
    ),
    BadInput(
        name="volumes: labels that are not exclusive",
        make=pair(label=nifti(of(6, np.uint8))),
        command="convert in --holdout 0 --source-labels exclusive",
        message=(
            f"{LABEL}: found the labels [6]",
            "expected those of exclusive",
            "Correct these in in",
        ),
    ),
    BadInput(
        name="volumes: a dataset.json cut off",
        make=then(pair(), write("in/dataset.json", '{"labels": {')),
        command="convert in --holdout 0",
        message=("in/dataset.json: found no JSON", "Restore it, or remove it"),
    ),
    BadInput(
        name="volumes: a dataset.json of other labels",
        make=then(pair(), write("in/dataset.json", json.dumps({"labels": {"liver": 1}}))),
        command="convert in --holdout 0",
        message=(
            "in/dataset.json: found the labels {'liver': 1}",
            "--label-map stomach=1,small_bowel=2,large_bowel=3",
        ),
    ),
)
