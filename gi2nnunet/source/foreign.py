"""Foreign files: what is given in place of a source, and which command or conversion takes it."""

from __future__ import annotations

import glob
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from gi2nnunet.core.errors import count, shorten

# Name of the format, and SimpleITK's reader, which it does not find for an ending in capitals.
_BY_SIMPLEITK = {
    ".mha": ("MetaImage", "MetaImageIO"),
    ".mhd": ("MetaImage", "MetaImageIO"),
    ".nrrd": ("NRRD", "NrrdImageIO"),
    ".nhdr": ("NRRD", "NrrdImageIO"),
    ".hdr": ("Analyze", "NiftiImageIO"),
}
_PACKED = (".tar", ".tgz", ".7z", ".rar", ".gz", ".bz2", ".xz", ".zst")
_PICTURES = (".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif")
_SLICE = re.compile(r"(?:.*/)?scans/slice_[^/]+\.png")
_IN_PLACE = re.compile(r"(?:[^/]+/)?(?:train|test)/")

_WRITE = "s.WriteImage(s.ReadImage(f, imageIO='{reader}'), f[:-{cut}] + '.nii.gz')"
# Columns, rows and slices of the file are those of the array.
_WRITE_ARRAY = (
    "[i := s.GetImageFromArray(numpy.load(f)), i.SetSpacing((1.5, 1.5, 3.0)), "
    "s.WriteImage(i, f[:-{cut}] + '.nii.gz')]"
)


def describe_foreign(path: Path, names: Sequence[str], *, packed: bool = False) -> str:
    """Return what files are, and what takes them, as sentences that follow an error's.

    Parameters
    ----------
    path
        What was given.
    names
        The files in it by their paths inside, ``/`` between the parts; its own name for one file.
    packed
        Whether they are in a zip.

    Returns
    -------
    str
        Sentences, each beginning with a blank; empty if nothing is known of such files.
    """
    found = Counter(_find_ending(name) for name in names)
    first = {_find_ending(name): name for name in reversed(names)}
    for ending, number in found.most_common():
        if about := _describe(path, ending, shorten(first[ending]), packed=packed):
            return f" Found {count(number, f'{ending} file')}: {about}"
    return ""


def _find_ending(name: str) -> str:
    return ".nii.gz" if name.lower().endswith(".nii.gz") else PurePosixPath(name).suffix


def _describe(path: Path, ending: str, first: str, *, packed: bool) -> str:
    """Return what a kind of files is and what takes them; empty for an unknown kind."""
    kind = ending.lower()
    given = shlex.quote(str(path))
    unpack = "Unpack it, then give the folder." if packed else ""
    if kind in _BY_SIMPLEITK:
        about = f"the format {_BY_SIMPLEITK[kind][0]}. "
        again = "give the file that it writes" if path.is_file() else "run the same again"
        return about + (unpack or f"{_spell_conversion(path, ending)} and {again}.")
    if kind == ".npy":
        return "NumPy's format, which does not hold the voxel spacing. " + (
            unpack
            or f"{_spell_conversion(path, ending)} with your spacing x, y, z in mm, and run the "
            "same with --orientation as-stored (arrays z, y, x; slice 1 nearest to the head)."
        )
    if kind in (".nii", ".nii.gz"):
        return "the format NIfTI. " + (
            unpack
            or f"They are taken right in the folder that is given, or in its images/ and "
            f"labels/, or imagesTr/ and labelsTr/; the first is {first}."
        )
    if kind in (".pth", ".safetensors"):
        return "weights of a model. " + (
            f"Take it in with: gi2nnunet import-model {given}"
            if packed
            else "To use models that nnU-Net trained, pack them with "
            "nnUNetv2_export_model_to_zip, and take them in with gi2nnunet import-model."
        )
    if kind in (".b2nd", ".npz", ".pkl"):
        return (
            "nnU-Net's preprocessed scans or other arrays. Give what they were made of: nnU-Net's "
            "raw dataset, the folder with imagesTr/."
        )
    return _describe_other(kind, first, given)


def _describe_other(kind: str, first: str, given: str) -> str:
    """Return what takes files that are no volumes."""
    if _SLICE.fullmatch(first):
        if _IN_PLACE.match(first):
            return (
                "slices of the competition, which are images. Give label volumes; the "
                "competition's masks are the rows of train.csv."
            )
        return (
            "slices of the competition without the folder train/ or test/ around them. Give the "
            "folder that holds train/ and train.csv."
        )
    if kind == ".csv":
        return (
            "a table, which has no images. Score a submission with: gi2nnunet score "
            f"{given if first in given else 'SUBMISSION'} --truth TRUTH"
        )
    if kind == ".dcm":
        return "none of which begins as a DICOM file does. Export the series again."
    if kind in _PICTURES:
        return (
            "pictures, which do not hold the voxel spacing. Give the volumes that they were made "
            "of, as NIfTI or DICOM."
        )
    if kind in _PACKED:
        return "packed files, but not a zip. Unpack them, then give the folder."
    return ""


def _spell_conversion(path: Path, ending: str) -> str:
    """Return a command line that writes files of an ending as NIfTI beside them."""
    _, reader = _BY_SIMPLEITK.get(ending.lower(), ("", ""))
    write, modules = (_WRITE, "") if reader else (_WRITE_ARRAY, "numpy, ")
    write = write.format(reader=reader, cut=len(ending))
    pattern = glob.escape(str(path)) + ("" if path.is_file() else f"/**/*{ending}")
    code = (
        f"import glob, {modules}SimpleITK as s; [{write} "
        f"for f in glob.glob({pattern!r}, recursive=True)]"
    )
    quoted = shlex.quote(code) if set(code) & set('"$`\\!') else f'"{code}"'
    return f"Write them as NIfTI with: python -c {quoted}"
