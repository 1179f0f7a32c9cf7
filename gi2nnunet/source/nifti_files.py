"""NIfTI files of a folder: which images, label volumes and masks of single organs make a scan."""

from __future__ import annotations

import re
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gi2nnunet.core.errors import InputError, Problem, raise_problems
from gi2nnunet.core.files import find_kind, is_stray
from gi2nnunet.formats.coding import parse_mask_names
from gi2nnunet.formats.ids import scan_order
from gi2nnunet.formats.volumes import is_nifti_name, nifti_stem
from gi2nnunet.source.archive import Archive
from gi2nnunet.source.foreign import describe_foreign
from gi2nnunet.source.scan import Part, SourceOptions

# Folder of images, folder of labels, part; the first row that is there decides the layout.
_LAYOUTS: tuple[tuple[tuple[str, str, Part], ...], ...] = (
    (("imagesTr", "labelsTr", "train"), ("imagesTs", "labelsTs", "test")),
    (("images", "labels", "train"),),
)
_CHANNEL = "_0000"  # of nnU-Net's images with one channel
_SCAN_ID = re.compile(r"\w(?:[\w.+=@ -]{0,198}[\w.+=@-])?")
# Names of masks, as in this package's organs/ and from TotalSegmentator.
_MASKS: Mapping[str, tuple[str, ...]] = {
    "large_bowel": ("large_bowel", "colon"),
    "small_bowel": ("small_bowel",),
    "stomach": ("stomach",),
}
_DUODENUM = "duodenum"
_ALONE = "labels without an image"
_MASK_ENDINGS = tuple(f"_{name}" for names in _MASKS.values() for name in names)


@dataclass(frozen=True, kw_only=True)
class ScanFiles:
    """The files of one scan, and where the folder puts it.

    Attributes
    ----------
    masks
        Its masks of single organs, each with the organ, in place of a label volume.
    """

    part: Part
    image: Path
    label: Path | None
    masks: tuple[tuple[Path, str], ...] = ()


def is_nifti(path: Path, options: SourceOptions) -> bool:
    """Return whether a path is NIfTI, by its name or by what the folder holds."""
    if options.scope == "hidden":  # only the competition hides a test set
        return False
    is_folder = find_kind(path) == "folder"
    if options.labels_only or is_nifti_name(path.name):
        return True
    folders = [path, *(path / images for layout in _LAYOUTS for images, _, _ in layout)]
    return is_folder and any(volumes_of(folder) for folder in folders)


def volumes_of(folder: Path) -> list[Path]:
    """Return the NIfTI files right in a folder."""
    if not folder.is_dir():
        return []
    return sorted(
        file
        for file in folder.iterdir()
        if is_nifti_name(file.name)
        and not is_stray(file.name)
        and (file.is_file() or file.is_symlink())  # a link to nowhere is reported when it is read
    )


def _stem(file: Path) -> str:
    return nifti_stem(file.name)


def list_volumes(
    path: Path, options: SourceOptions, left_out: dict[str, str]
) -> dict[str, ScanFiles]:
    """Return the files of each scan, scans in numeric order of patient and day.

    Scans of labels without an image are added to ``left_out`` if that is allowed.

    Raises
    ------
    InputError
        For ids that do not fit a CSV, second images of a scan, labels without an image; all of
        them are listed together. If the path holds no volume.
    """
    kind = find_kind(path)
    problems: list[Problem] = []
    if kind == "file":
        beside = volumes_of(path.parent)
        scan_id = _stem(path)
        if options.labels_only and f"_{scan_id.lower()}".endswith(_MASK_ENDINGS):
            raise InputError(
                f"{path}: found a name that ends in an organ's, as that of a mask of this organ; "
                "expected labels of all organs. Give the folder of the masks, or rename the file."
            )
        if not options.labels_only and _are_channels(beside, ()):
            scan_id = scan_id.removesuffix(_CHANNEL)
        found = {scan_id: ScanFiles(part="test", image=path, label=None)}
        problems += _find_bad_id(scan_id, path)
    elif kind == "folder":
        found = _list_folder(path, problems, options, left_out)
    else:
        raise InputError(f"{path}: no such file or folder. Give a folder of NIfTI volumes, or one.")
    raise_problems(problems, remedy=f"Correct these in {path}.")
    if not found:
        raise InputError(
            f"{path}: holds no NIfTI image. Expected .nii or .nii.gz files in it, in images/ or "
            f"in imagesTr/.{_describe_others(path)}"
        )
    if options.labels_only:
        # A folder that holds images too, as a whole dataset does, keeps its labels apart.
        apart = {s: files for s, files in found.items() if files.label or files.masks}
        found = {
            scan_id: replace(files, part="train", image=files.masks[0][0])
            if files.masks
            else replace(files, part="train", image=label, label=label)
            for scan_id, files in (apart or found).items()
            for label in (files.label or files.image,)
        }
    elif not options.truth:
        found = {scan_id: replace(files, label=None, masks=()) for scan_id, files in found.items()}
    return {scan_id: found[scan_id] for scan_id in sorted(found, key=scan_order)}


def _describe_others(folder: Path) -> str:
    """Return what the files of a folder are that holds no volume."""
    try:
        return describe_foreign(folder, Archive(folder).names())
    except InputError:
        return ""


def _are_channels(images: Sequence[Path], label_names: Iterable[str]) -> bool:
    """Return whether images have nnU-Net's names: all end in _0000, which no label's name does."""
    stems = {_stem(file) for file in images}
    return all(stem.endswith(_CHANNEL) for stem in stems) and stems.isdisjoint(label_names)


def _find_channels(images: Sequence[Path], label_names: Collection[str]) -> list[Problem]:
    """Return the files that are further channels of a scan, by the names of all."""
    stems = [_stem(file) for file in images]
    first = {stem.removesuffix(_CHANNEL) for stem in stems if stem.endswith(_CHANNEL)}
    numbered = {s for s in stems if s[-5:-4] == "_" and s[-4:].isdecimal() and s not in label_names}
    several = {stem[:-5] for stem in numbered if stem[-4:] != "0000"} & first
    # Numbered scans have one start; a start that a label has, or several of them, are scans.
    channels = {start for start in several if len(several) > 1} | set(label_names)
    return [
        Problem(
            where=str(file),
            found=f"a second image of {stem[:-5]}"
            if stem.endswith(_CHANNEL)
            else f"channel {stem[-4:]}",
            expected="one image a scan, channel 0000",
        )
        for file, stem in zip(images, stems, strict=True)
        if stem in numbered and stem[:-5] in channels
        if stem[:-5] in stems or not stem.endswith(_CHANNEL)
    ]


def _list_folder(
    path: Path, problems: list[Problem], options: SourceOptions, left_out: dict[str, str]
) -> dict[str, ScanFiles]:
    found: dict[str, ScanFiles] = {}
    for images, labels, part in _find_layout(path):
        files = volumes_of(images)
        label_of, masks = _list_truth(images, labels, problems, options)
        are_labels = options.labels_only and labels is None
        if are_labels and masks:
            found |= {
                scan_id: ScanFiles(part=part, image=of_scan[0][0], label=None, masks=of_scan)
                for scan_id, of_scan in masks.items()
            }
            continue
        strip = not are_labels and _are_channels(files, label_of)
        if not are_labels and (channels := _find_channels(files, label_of)):
            problems += channels
            named = {_stem(file) for file in files}
            named |= {stem.removesuffix(_CHANNEL) for stem in named}
            label_of = {name: label_of[name] for name in label_of.keys() - named}
            files = []
        for file in files:
            scan_id = _stem(file).removesuffix(_CHANNEL) if strip else _stem(file)
            if bad := _find_bad_id(scan_id, file) or _find_second(scan_id, file, found):
                label_of.pop(scan_id, None)
                problems += bad
                continue
            label, of_scan = label_of.pop(scan_id, None), masks.pop(scan_id, ())
            found[scan_id] = ScanFiles(
                part=part if label or of_scan else "test", image=file, label=label, masks=of_scan
            )
        without = label_of | {scan_id: of_scan[0][0] for scan_id, of_scan in masks.items()}
        if options.allow_missing:
            left_out |= dict.fromkeys(without, f"{_ALONE} in {images}")
            continue
        problems += [
            Problem(where=str(file), found=_ALONE, expected=f"one in {images}")
            for file in without.values()
        ]
    return found


def _list_truth(
    images: Path, labels: Path | None, problems: list[Problem], options: SourceOptions
) -> tuple[dict[str, Path], dict[str, tuple[tuple[Path, str], ...]]]:
    """Return the label volume of each scan, or else its masks of single organs, by scan id.

    Without a folder of labels, the images are looked at if they are to be the labels.
    """
    are_labels = options.labels_only and labels is None
    if not labels and not are_labels:
        return {}, {}
    label_of = _list_labels(labels, problems) if labels else {}
    own = _find_masks(labels or images, problems, label_map=options.label_map)
    label_of = {name: file for name, file in label_of.items() if file not in own.files}
    if not own.scans:
        return label_of, {}
    whole = volumes_of(images) if are_labels else label_of.values()
    problems += _find_mixed([file for file in whole if file not in own.files])
    return {}, dict(own.scans)


def _list_labels(folder: Path, problems: list[Problem]) -> dict[str, Path]:
    """Return the volumes in a folder of labels by their names; add second ones of a name."""
    label_of: dict[str, Path] = {}
    for file in volumes_of(folder):
        if label_of.setdefault(_stem(file), file) is not file:
            found = f"a second label volume of {_stem(file)}"
            problems.append(
                Problem(where=str(file), found=found, expected="one label volume a scan")
            )
    return label_of


def _find_layout(path: Path) -> list[tuple[Path, Path | None, Part]]:
    for layout in _LAYOUTS:
        if any(volumes_of(path / images) for images, _, _ in layout):
            return [(path / images, path / labels, part) for images, labels, part in layout]
    return [(path, None, "test")]


def _find_bad_id(scan_id: str, file: Path) -> list[Problem]:
    if _SCAN_ID.fullmatch(scan_id):
        return []
    expected = "letters, digits, blanks and . _ + = @ -, fit for a CSV"
    return [Problem(where=repr(str(file)), found=f"the scan id {scan_id!r}", expected=expected)]


def _find_second(scan_id: str, file: Path, found: Container[str]) -> list[Problem]:
    if scan_id not in found:
        return []
    what = f"a second image of {scan_id}"
    return [Problem(where=str(file), found=what, expected="one image a scan")]


@dataclass(frozen=True, kw_only=True)
class _MaskFolder:
    """Masks of single organs in a folder by scan id, and every file that belongs to them."""

    scans: Mapping[str, tuple[tuple[Path, str], ...]]
    files: frozenset[Path]


def _find_masks(folder: Path, problems: list[Problem], *, label_map: str | None) -> _MaskFolder:
    """Find masks named ``ID_stomach.nii.gz``, or ``stomach.nii.gz`` in a folder of the scan."""
    given = parse_mask_names(label_map) if label_map else None
    organ_of = {name: organ for organ, names in (given or _MASKS).items() for name in names}
    names = sorted({*organ_of, _DUODENUM}, key=len, reverse=True)
    found: dict[str, list[tuple[Path, str]]] = {}
    files: set[Path] = set()

    def take(places: Sequence[Path], scan_id: str | None) -> None:
        """Take masks among files; the scan is in their names if it is not given."""
        for file in places:
            stem = _stem(file).lower()
            name = next((n for n in names if stem == n or stem.endswith(f"_{n}")), None)
            if name is None or (stem == name) != (scan_id is not None):
                continue
            files.add(file)
            if name in organ_of:
                of_scan = found.setdefault(scan_id or _stem(file)[: -len(name) - 1], [])
                of_scan.append((file, organ_of[name]))

    def holds_one_scan(places: Sequence[Path]) -> bool:
        bare = sum(_stem(file).lower() in names for file in places)
        return bare > 1 or bare == len(places) == 1

    own = volumes_of(folder)
    if holds_one_scan(own):
        take(own, folder.resolve().name)
        files.update(own)  # of other structures
    else:
        take(own, None)
        folders = sorted(f for f in folder.iterdir() if f.is_dir()) if folder.is_dir() else []
        for scan in (f for f in folders if not is_stray(f.name)):
            for place in (scan, scan / "segmentations"):
                if holds_one_scan(inside := volumes_of(place)):
                    take(inside, scan.name)
    for scan_id, masks in found.items():
        problems += [] if given else _find_doubled(scan_id, masks)
        problems += _find_bad_id(scan_id, masks[0][0])
    return _MaskFolder(
        scans={scan_id: tuple(masks) for scan_id, masks in found.items()}, files=frozenset(files)
    )


def _find_doubled(scan_id: str, masks: Sequence[tuple[Path, str]]) -> list[Problem]:
    """Find the masks of an organ that has one already."""
    organs = [organ for _, organ in masks]
    return [
        Problem(
            where=str(file),
            found=f"a second mask of {organ} of {scan_id}",
            expected="one, or --label-map with the names of both, such as large_bowel="
            "large_bowel+colon,small_bowel=small_bowel,stomach=stomach",
        )
        for n, (file, organ) in enumerate(masks)
        if organ in organs[:n]
    ]


def _find_mixed(volumes: Iterable[Path]) -> list[Problem]:
    return [
        Problem(
            where=str(file),
            found="a volume beside masks of single organs",
            expected="only masks, such as ID_stomach.nii.gz, or only volumes of all organs; move "
            "one kind into another folder",
        )
        for file in volumes
    ]
