"""Volumes on disk with their geometry, and the order of the arrays they become.

The one place where array order meets world axes.

*Slice order* is the order of every volume in memory: an array ``(z, y, x)`` with z = 0 the most
cranial slice (the competition's slice 1), y running anterior to posterior, x running from the
patient's right to the left. It is how the slices look on a radiologist's screen.

*Files* are NIfTI with voxel axes i = x, j = y, k = z flipped: k runs inferior to superior. With the
direction the identity in ITK's LPS world (``diag(-sx, -sy, sz)`` in NIfTI's RAS world) that makes a
right-handed frame that every viewer and nnU-Net read alike. The origin is 0, because the
competition's files do not say where in the scanner a patient lay.

nibabel brings pydicom and SciPy with it, 40 MB and a third of a second that the competition's files
do not need: it is imported where it is used.

References
----------
https://nifti.nimh.nih.gov/nifti-1/documentation/nifti1fields
"""

from __future__ import annotations

import io
import math
import os
import shlex
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from isal import igzip, isal_zlib
from numpy.typing import NDArray

from gi2nnunet.core.errors import MOST_VOXELS, InputError
from gi2nnunet.core.files import replace_file

# ISA-L's level 1: on 16-bit slices as fast as its level 0 and a tenth smaller.
_COMPRESSION_LEVEL = 1
GZIP_WINDOW = 31  # zlib's way to say "gzip container"; its time stamp is 0
_NIFTI_VOXELS_AT = 352
_HEADER_BYTES = 544  # those of NIfTI-2, and where its extensions would begin
_START_BYTES = 2**16  # of a file, packed or not: holds the header
_NIFTI2_SIZES = (struct.pack("<i", 540), struct.pack(">i", 540))
_MOST_BYTES = 8 * MOST_VOXELS
_EXTRA_BYTES = 2**16  # that may follow the voxels
_ENDINGS = (".nii.gz", ".nii")
TO_LPS = np.diag([-1.0, -1.0, 1.0])  # NIfTI's RAS world to ITK's
# Letters for what each axis runs to; or nibabel's orientation, ``(3, 2)``.
Axes = str | NDArray[np.float64]
_SLICE_ORDER = "IPL"  # z runs to inferior, y to posterior, x to left
_AS_STORED = "LPI"  # what columns, rows, slices run to
_FILE_ORDER = "LPS"  # i runs to left, j to posterior, k to superior
_MOST_OBLIQUE_DEGREES = 30.0
_MOST_SHEAR = 1e-2  # cosine between two voxel axes
_MOST_APART = 0.4  # of the smallest side of a voxel; qform and sform are rounded, each on its own


def is_nifti_name(name: str) -> bool:
    """Return whether a file has a NIfTI file's name, in small letters or capitals."""
    return name.lower().endswith(_ENDINGS)


def nifti_stem(name: str) -> str:
    """Return the name of a NIfTI file without its ending."""
    ending = next((end for end in _ENDINGS if name.lower().endswith(end)), "")
    return name[: len(name) - len(ending)]


def _find_orientation(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return nibabel's orientation, ``(3, 2)``: for each axis, the patient's and its direction."""
    from nibabel.orientations import io_orientation

    axes: NDArray[np.float64] = io_orientation(affine)
    return axes


def _find_turn(start: Axes, end: Axes) -> NDArray[np.float64]:
    """Return the orientation that turns axes into others."""
    from nibabel.orientations import axcodes2ornt, ornt_transform

    both = (axcodes2ornt(axes) if isinstance(axes, str) else axes for axes in (start, end))
    turn: NDArray[np.float64] = ornt_transform(*both)
    return turn


def _apply_turn(array: NDArray[Any], turn: NDArray[np.float64]) -> NDArray[Any]:
    from nibabel.orientations import apply_orientation

    turned: NDArray[Any] = apply_orientation(array, turn)
    return turned


def _find_spacing(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    from nibabel.affines import voxel_sizes

    spacing_mm: NDArray[np.float64] = voxel_sizes(affine)
    return spacing_mm


@lru_cache(maxsize=32)
def _nifti_start(
    shape: tuple[int, int, int], dtype: np.dtype[Any], spacing_mm: tuple[float, float, float]
) -> bytes:
    """Return the 352 bytes before the voxels; shape and spacing ``(z, y, x)``."""
    import nibabel

    spacing_z, spacing_y, spacing_x = spacing_mm
    affine = np.diag([-spacing_x, -spacing_y, spacing_z, 1.0])
    header = nibabel.Nifti1Header(endianness="<")
    header.set_data_dtype(dtype)
    header.set_data_shape(shape[::-1])
    header.set_qform(affine, code=1)
    header.set_sform(affine, code=1)
    header.set_zooms(spacing_mm[::-1])
    header.set_xyzt_units("mm")
    header["vox_offset"] = _NIFTI_VOXELS_AT
    header["scl_slope"], header["scl_inter"] = 1, 0
    start: bytes = header.binaryblock
    return start.ljust(_NIFTI_VOXELS_AT, b"\0")


def encode_volume(array: NDArray[Any], *, spacing_mm: Sequence[float]) -> bytes:
    """Return the content of a ``.nii.gz`` file; the same input gives the same bytes.

    Parameters
    ----------
    array
        ``(z, y, x)`` in slice order, of a type that NIfTI knows; bool is written as uint8.
    spacing_mm
        Voxel spacing ``(z, y, x)`` in mm.
    """
    if array.ndim != 3 or 0 in array.shape:
        raise ValueError(f"expected a volume (z, y, x), got the shape {array.shape}")
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    in_file_order = np.ascontiguousarray(array[::-1], array.dtype.newbyteorder("<"))
    spacing_z, spacing_y, spacing_x = map(float, spacing_mm)
    start = _nifti_start(
        (array.shape[0], array.shape[1], array.shape[2]),
        in_file_order.dtype,
        (spacing_z, spacing_y, spacing_x),
    )
    return compress(start, in_file_order.reshape(-1).data)


def compress(*parts: bytes | memoryview) -> bytes:
    """Return the parts, one after the other, as one gzip file."""
    compressor = isal_zlib.compressobj(_COMPRESSION_LEVEL, isal_zlib.DEFLATED, GZIP_WINDOW)
    return b"".join([*map(compressor.compress, parts), compressor.flush()])


def write_volume(path: Path, array: NDArray[Any], *, spacing_mm: Sequence[float]) -> None:
    """Write a volume as ``.nii.gz``: right-handed, qform and sform set, identity direction in LPS.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    if not path.name.endswith(".nii.gz"):
        raise ValueError(f"{path} does not end in .nii.gz")
    replace_file(path, encode_volume(array, spacing_mm=spacing_mm))


@dataclass(frozen=True, kw_only=True)
class VolumeGeometry:
    """Size and place of a volume in slice order.

    Attributes
    ----------
    shape, spacing_mm
        ``(z, y, x)`` in voxels and in mm.
    corner_mm
        Centre of voxel ``[0, 0, 0]``, ``(x, y, z)`` in LPS mm.
    is_made_up
        Whether the file's affine is one that programs write if they know nothing of the patient:
        with voxels of 1 mm or without an origin.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    corner_mm: tuple[float, float, float]
    is_made_up: bool = field(default=False, compare=False)

    def __str__(self) -> str:
        """Return the geometry for a message."""
        return (
            f"{self.shape} voxels of {self.spacing_mm} mm (z, y, x), first voxel at "
            f"{self.corner_mm} mm"
        )

    def is_close(self, other: VolumeGeometry, *, most_mm: float) -> bool:
        """Return whether both have one shape, and lengths that differ by at most ``most_mm``."""
        return self.shape == other.shape and np.allclose(
            [*self.spacing_mm, *self.corner_mm],
            [*other.spacing_mm, *other.corner_mm],
            rtol=0,
            atol=most_mm,
        )


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A volume in slice order, in the file's own type (scaled values: float32)."""

    array: NDArray[Any]
    geometry: VolumeGeometry

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Return the voxel spacing ``(z, y, x)`` in mm."""
        return self.geometry.spacing_mm


def read_geometry(path: Path, *, as_stored: bool = False) -> VolumeGeometry:
    """Read the size and position of a NIfTI volume from its header.

    ``as_stored`` as in :func:`read_volume`.

    Raises
    ------
    InputError
        As :func:`read_volume`, for faults of the header.
    """
    data = _read_nifti_bytes(path, start_only=True)
    return _read_header(path, data, as_stored=as_stored).geometry


def read_volume(path: Path, *, as_stored: bool = False) -> Volume:
    """Read a NIfTI volume of any orientation and bring it to slice order.

    A volume that is tilted by up to 30 degrees is taken along the nearest axes, with its voxels as
    they are.

    Parameters
    ----------
    as_stored
        Take the array in the file as columns, rows and slices, whatever orientation the file says.

    Raises
    ------
    InputError
        If the file is missing, truncated, damaged, not a NIfTI file or not 3D, or does not give
        its orientation.
    """
    import nibabel

    data = _read_nifti_bytes(path)
    header = _read_header(path, data, as_stored=as_stored)
    try:
        stored = nibabel.arrayproxy.ArrayProxy(io.BytesIO(data), header.nifti)
        scaled = (stored.slope, stored.inter) != (1.0, 0.0)
        array = stored[...] if scaled else stored.get_unscaled()
    except Exception as error:  # nibabel raises many kinds of exception for a bad file
        _refuse(path, f"no readable NIfTI volume ({error})")
    with np.errstate(over="ignore", invalid="ignore"):  # infinity is reported by later checks
        array = np.asarray(array, np.float32 if scaled else None)
    turn = _find_turn(header.axes, _SLICE_ORDER)
    array = _apply_turn(array.reshape(array.shape[:3]), turn)
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    return Volume(array=array, geometry=header.geometry)


def read_volume_at(path: Path) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Read a NIfTI volume of any axes as it is in the file.

    Returns
    -------
    tuple
        The array, three axes in the file's order; and ``(4, 4)`` from voxels to RAS mm.

    Raises
    ------
    InputError
        As :func:`read_volume`, but for no orientation.
    """
    import nibabel

    data = _read_nifti_bytes(path)
    kind = nibabel.Nifti2Image if data[:4] in _NIFTI2_SIZES else nibabel.Nifti1Image
    try:
        image = kind.from_bytes(data)
        array = np.asarray(image.dataobj)
        forms = _list_forms(image.header)
    except Exception as error:  # nibabel raises many kinds of exception for a bad file
        _refuse(path, f"no readable NIfTI volume ({error})")
    affine = np.asarray(image.affine, np.float64)
    if array.ndim < 3 or set(array.shape[3:]) - {1} or 0 in array.shape:
        _refuse(path, f"values of shape {array.shape}", "one volume of numbers")
    if not forms or not np.isfinite(affine).all() or not np.linalg.det(affine[:3, :3]):
        _refuse(path, "no sform and no qform that says where it lies", "one of the two set")
    _require_one_place(path, forms, array.shape[:3])
    return array.reshape(array.shape[:3]), affine


@dataclass(frozen=True, kw_only=True)
class _Header:
    """A file's header, its geometry, and the orientation of its axes."""

    nifti: Any
    geometry: VolumeGeometry
    axes: Axes


def _read_header(path: Path, data: bytes, *, as_stored: bool) -> _Header:
    """Read the header in the first bytes of a file."""
    import nibabel

    kind = nibabel.Nifti2Header if data[:4] in _NIFTI2_SIZES else nibabel.Nifti1Header
    try:
        start = data[: kind.sizeof_hdr]
        header = kind(start)
        affine = np.asarray(header.get_best_affine(), np.float64)
        forms = _list_forms(header)
        units = header.get_xyzt_units()[0]
        # As in the file: nibabel replaces 0 by 1 mm.
        raw = kind(start, check=False)
        unsized = not header["sform_code"] and not (raw["pixdim"][1:4] > 0).all()
        shape, dtype = header.get_data_shape(), header.get_data_dtype()
        if min(shape) < 0:
            raise ValueError(f"the shape {shape}")
    except Exception as error:  # nibabel raises many kinds of exception for a bad file
        _refuse(path, f"no readable NIfTI volume ({error})")
    if len(shape) < 3 or set(shape[3:]) - {1} or 0 in shape or dtype.kind not in "iuf":
        _refuse(path, f"values of shape {shape}, {dtype}", "one volume of numbers")
    if units not in ("mm", "unknown"):
        _refuse(path, f"lengths in {units}", "millimetres")
    if not forms and not as_stored:
        found = "neither qform nor sform, so the orientation is unknown"
        _refuse(path, found, "one of the two set, or --orientation as-stored")
    if unsized or not np.isfinite(affine).all() or _find_spacing(affine).min() <= 0:
        _refuse(path, "a voxel size that is not a positive number", "spacing in mm")
    if as_stored:
        affine = np.diag([*-_find_spacing(affine), 1.0])
        sizes = [np.diag([*-_find_spacing(form), 1.0]) for form in forms]
        _require_one_place(path, sizes, shape[:3])
        geometry = place_volume(shape[:3], affine=affine, axes=_AS_STORED)
        return _Header(nifti=header, geometry=geometry, axes=_AS_STORED)
    _require_one_place(path, forms, shape[:3])
    axes = _find_axes(affine, where=str(path))
    geometry = place_volume(shape[:3], affine=affine, axes=axes)
    return _Header(
        nifti=header, geometry=replace(geometry, is_made_up=_is_made_up(affine)), axes=axes
    )


def _list_forms(header: Any) -> list[NDArray[np.float64]]:
    """Return the affines that a header has: first the sform, then the qform."""
    both = header.get_sform(coded=True), header.get_qform(coded=True)
    return [np.asarray(form, np.float64) for form, code in both if code]


def _require_one_place(
    path: Path, forms: Sequence[NDArray[np.float64]], shape: Sequence[int]
) -> None:
    """Raise :class:`InputError` if sform and qform put a corner of the volume elsewhere."""
    if len(forms) < 2:
        return
    corners = np.array([[*corner, 1] for corner in np.ndindex(2, 2, 2)]) * [*shape, 1]
    sform, qform = forms
    apart_mm = np.linalg.norm((corners @ (sform - qform).T)[:, :3], axis=1).max()
    sizes = [_find_spacing(form) for form in (qform, sform)]
    if apart_mm <= _MOST_APART * np.min(sizes):
        return
    by_qform, by_sform = (
        f"voxels of {' x '.join(f'{side:g}' for side in size.round(4))} mm, the first at "
        f"{np.round(TO_LPS @ form[:3, 3], 2).tolist()} (LPS)"
        for size, form in zip(sizes, (qform, sform), strict=True)
    )
    line = (
        "import nibabel, sys; p = sys.argv[1]; i = nibabel.load(p, mmap=False); "
        "i.set_sform(i.get_qform(), 1); i.to_filename(p)"
    )
    raise InputError(
        f"{path}: found a qform and an sform that contradict each other, by up to "
        f"{apart_mm:.1f} mm (qform: {by_qform}; sform: {by_sform}); expected the same place in "
        "both. If the qform is right, write the file again with: "
        f"python -c {shlex.quote(line)} {shlex.quote(str(path))}\nIf the sform is right, use the "
        "same line with i.set_qform(i.get_sform(), 1) in it."
    )


def _is_made_up(affine: NDArray[np.float64]) -> bool:
    """Return whether an affine has voxels of 1 mm or no origin, but is not as this package's."""
    sizes, without_origin = np.diag(affine)[:3], not affine[:3, 3].any()
    if np.count_nonzero(affine[:3, :3]) > 3 or not sizes.all():
        return False  # axes in another order are written on purpose
    is_own = without_origin and (np.sign(sizes) == [-1, -1, 1]).all()
    return bool((np.abs(sizes) == 1).all() or (without_origin and not is_own))


def place_volume(
    shape: Sequence[int], *, affine: NDArray[np.float64], axes: Axes | None = None
) -> VolumeGeometry:
    """Return the geometry that a volume of any axes has once it is in slice order.

    Parameters
    ----------
    shape
        Its own, three numbers.
    affine
        ``(4, 4)``, from its voxels to RAS mm. Axes that are not the patient's count as the nearest.
    axes
        The orientation of the axes, if it is known.
    """
    from nibabel.orientations import inv_ornt_aff

    turn = _find_turn(_find_orientation(affine) if axes is None else axes, _SLICE_ORDER)
    affine = affine @ inv_ornt_aff(turn, shape)
    depth, height, width = (int(shape[axis]) for axis in np.argsort(turn[:, 0]))
    return VolumeGeometry(
        shape=(depth, height, width),
        spacing_mm=_three(_find_spacing(affine)),
        corner_mm=_three(TO_LPS @ affine[:3, 3]),
    )


def to_slice_order(array: NDArray[Any], *, affine: NDArray[np.float64]) -> NDArray[Any]:
    """Return a volume of any axes in slice order; ``affine`` as in :func:`place_volume`."""
    turn = _find_turn(_find_orientation(affine), _SLICE_ORDER)
    return np.ascontiguousarray(_apply_turn(array, turn))


def from_slice_order(array: NDArray[Any], *, affine: NDArray[np.float64]) -> NDArray[Any]:
    """Return a volume in slice order with axes of its own; undoes :func:`to_slice_order`."""
    turn = _find_turn(_SLICE_ORDER, _find_orientation(affine))
    return np.ascontiguousarray(_apply_turn(array, turn))


def write_volume_at(path: Path, array: NDArray[Any], *, affine: NDArray[np.float64]) -> None:
    """Write a volume given in slice order where it lies in the patient, as ``.nii.gz``.

    Its voxel axes are those of :func:`write_volume`. ``affine`` is that of :func:`place_volume`,
    from the voxels that :func:`from_slice_order` gives. Raises :class:`OutputError`.
    """
    import nibabel

    image = nibabel.Nifti1Image(from_slice_order(array, affine=affine), affine)
    _write_image(path, image.as_reoriented(_find_turn(_find_orientation(affine), _FILE_ORDER)))


def _three(values: Sequence[float] | NDArray[np.float64]) -> tuple[float, float, float]:
    """Return three numbers without the noise of NIfTI's 32-bit fields."""
    first, second, third = (round(float(value), 6) for value in values)
    return first, second, third


def _read_nifti_bytes(path: Path, *, start_only: bool = False) -> bytes:
    """Return the content of a NIfTI file, unpacked; or its first bytes with the header."""
    try:
        with path.open("rb") as file:
            data = file.read(_START_BYTES if start_only else -1)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}).") from error
    if data[:2] != b"\x1f\x8b":
        claimed = _size_claimed(data[:_NIFTI_VOXELS_AT])
        if claimed is not None and claimed > size:
            _refuse(path, f"{size} bytes; its header says {claimed}")
        return data
    try:
        return _unpack_start(data) if start_only else _unpack(data)
    except ValueError as error:
        _refuse(path, str(error))
    except Exception as error:  # isal_zlib.error, EOFError, BadGzipFile
        _refuse(path, f"a truncated or damaged gzip file ({error})")


def _unpack_start(data: bytes) -> bytes:
    """Return the first bytes in a gzip file, after checking the size in its header."""
    unpacker = isal_zlib.decompressobj(GZIP_WINDOW)
    start: bytes = unpacker.decompress(data, _HEADER_BYTES)
    if len(start) < _NIFTI_VOXELS_AT and not unpacker.eof:
        raise EOFError("it is cut off")
    if (claimed := _size_claimed(start)) is None:
        raise ValueError("a gzip file without a NIfTI volume")
    if claimed > _MOST_BYTES:
        raise ValueError(f"a header that claims {claimed} bytes; at most {_MOST_BYTES} are read")
    return start


def _unpack(data: bytes) -> bytes:
    """Return the content of a gzip file, after checking that its size matches the header."""
    claimed = _size_claimed(_unpack_start(data)) or 0
    with igzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
        unpacked: bytes = packed.read(claimed + _EXTRA_BYTES + 1)
    if len(unpacked) > claimed + _EXTRA_BYTES:
        raise ValueError(f"far more than the {claimed} bytes that its header says")
    if claimed > len(unpacked):
        raise ValueError(f"{len(unpacked)} bytes; its header says {claimed}")
    return unpacked


def _size_claimed(start: bytes) -> int | None:
    """Return the size of a NIfTI file by its first 352 bytes; ``None`` if it is not one."""
    for size, order, type_code, dim_at, bits_at, offset_at, offset in (
        (348, "<", "h", 40, 72, 108, "f"), (348, ">", "h", 40, 72, 108, "f"),
        (540, "<", "q", 16, 14, 168, "q"), (540, ">", "q", 16, 14, 168, "q"),
    ):  # fmt: skip
        if len(start) >= 348 and struct.unpack_from(f"{order}i", start)[0] == size:
            dims = struct.unpack_from(f"{order}8{type_code}", start, dim_at)
            (bits,) = struct.unpack_from(f"{order}h", start, bits_at)
            (voxels_at,) = struct.unpack_from(f"{order}{offset}", start, offset_at)
            used = dims[1 : 1 + min(max(dims[0], 0), 7)]
            at = int(voxels_at) if 0 <= voxels_at < _MOST_BYTES else 0
            return at + math.prod(max(int(dim), 1) for dim in used) * max(int(bits), 0) // 8
    return None


def _refuse(path: Path, found: str, expected: str = "a whole .nii or .nii.gz file") -> NoReturn:
    raise InputError(f"{path}: found {found}; expected {expected}. Write or download it again.")


def _find_axes(affine: NDArray[np.float64], *, where: str) -> NDArray[np.float64]:
    """Return nibabel's orientation, ``(3, 2)``, of axes that are nearly the patient's."""
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        shear = cosines.T @ cosines - np.eye(3)
    if np.isfinite(cosines).all() and np.abs(shear).max() <= _MOST_SHEAR:
        axes = _find_orientation(affine)
        along = np.abs(cosines[axes[:, 0].astype(int), [0, 1, 2]])
        if along.min() >= np.cos(np.deg2rad(_MOST_OBLIQUE_DEGREES)):
            return axes
    raise InputError(
        f"{where}: found voxel axes along {np.round((TO_LPS @ cosines).T, 3).tolist()} (LPS); "
        f"expected axes at right angles within {_MOST_OBLIQUE_DEGREES:.0f} degrees of the "
        "patient's. Resample it to the patient's axes."
    )


def write_volume_like(
    path: Path, array: NDArray[Any], *, reference: Path, as_stored: bool = False
) -> None:
    """Write a volume ``(z, y, x)`` in slice order as ``.nii.gz`` in the geometry of another file.

    ``as_stored`` is how the other file was read.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    import nibabel

    data = _read_nifti_bytes(reference, start_only=True)
    header = _read_header(reference, data, as_stored=as_stored)
    affine = header.nifti.get_best_affine()
    turn = _find_turn(_SLICE_ORDER, header.axes)
    _write_image(path, nibabel.Nifti1Image(_apply_turn(array, turn), affine))


def _write_image(path: Path, image: Any) -> None:
    image.set_qform(image.affine, code=1)
    image.set_sform(image.affine, code=1)
    image.header.set_xyzt_units("mm")
    replace_file(path, compress(image.to_bytes()))
