"""Tiny seeded sources in the competition's layout, and what is in them.

Plain NumPy and imagecodecs: nothing of the package is used, so that it can be tested against this.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import imagecodecs
import numpy as np

ORGANS = ("large_bowel", "small_bowel", "stomach")


@dataclass(frozen=True, kw_only=True)
class MadeScan:
    """One scan: image ``(z, y, x)`` uint16 and masks ``(organ, z, y, x)`` bool, cranial first."""

    scan_id: str
    image: np.ndarray
    masks: np.ndarray
    spacing_xy: tuple[float, float] = (1.5, 1.5)
    first_number: int = 1

    @property
    def patient_id(self) -> str:
        return self.scan_id.split("_")[0]

    @property
    def bits(self) -> np.ndarray:
        return (self.masks * np.array([1, 2, 4])[:, None, None, None]).sum(0).astype(np.uint8)

    def slice_id(self, z: int) -> str:
        return f"{self.scan_id}_slice_{self.first_number + z:04d}"

    def file_name(self, z: int) -> str:
        _, height, width = self.image.shape
        x, y = self.spacing_xy
        return f"slice_{self.first_number + z:04d}_{width}_{height}_{x:.2f}_{y:.2f}.png"

    def image_path(self, z: int, part: str = "train") -> str:
        return f"{part}/{self.patient_id}/{self.scan_id}/scans/{self.file_name(z)}"


@dataclass(frozen=True, kw_only=True)
class MadeSource:
    """Scans and the rows ``[id, class, segmentation]`` of train.csv in the file's order."""

    train: tuple[MadeScan, ...]
    test: tuple[MadeScan, ...] = ()
    rows: tuple[tuple[str, str, str], ...] = field(default=())

    @property
    def truth(self) -> dict[str, MadeScan]:
        return {scan.scan_id: scan for scan in self.train}

    def files(self) -> dict[str, bytes]:
        """Every file by its path inside the source."""
        made = {}
        for part, scans in (("train", self.train), ("test", self.test)):
            for scan in scans:
                for z, pixels in enumerate(scan.image):
                    made[scan.image_path(z, part)] = imagecodecs.png_encode(pixels, level=1)
        if self.train:
            lines = ["id,class,segmentation", *(",".join(row) for row in self.rows)]
            made["train.csv"] = ("\n".join(lines) + "\n").encode()
        made["sample_submission.csv"] = b"id,class,predicted\n"
        return made


def encode_plain(mask: np.ndarray) -> str:
    """RLE of one mask, one pixel at a time: 1-based, row-major."""
    numbers: list[int] = []
    previous = False
    for index, pixel in enumerate(mask.ravel().tolist()):
        if pixel and not previous:
            numbers += [index + 1, 0]
        if pixel:
            numbers[-1] += 1
        previous = pixel
    return " ".join(map(str, numbers))


def make_scan(
    scan_id: str,
    *,
    shape: tuple[int, int, int] = (5, 12, 16),
    seed: int = 0,
    spacing_xy: tuple[float, float] = (1.5, 1.5),
    first_number: int = 1,
) -> MadeScan:
    """Noise with boxes for organs: empty first and last slices, large over small bowel."""
    rng = np.random.default_rng([seed, *scan_id.encode()])
    depth, height, width = shape
    image = rng.integers(0, 65536, shape, dtype=np.uint16)
    masks = np.zeros((3, *shape), bool)
    for organ in range(3):
        top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
        masks[organ, 1 : depth - 1, top : top + height // 3, left : left + width // 3] = True
    masks[:2, depth // 2, height // 2 : height // 2 + 2, width // 2 : width // 2 + 3] = True
    masks[2, depth // 2, height - 1, width - 1] = True  # the image's very last pixel
    return MadeScan(
        scan_id=scan_id, image=image, masks=masks, spacing_xy=spacing_xy, first_number=first_number
    )


def make_source(
    scan_ids: Sequence[str] = ("case2_day1", "case2_day10", "case10_day0", "case11_day3"),
    *,
    test_ids: Sequence[str] = (),
    seed: int = 0,
    shape: tuple[int, int, int] = (5, 12, 16),
) -> MadeSource:
    """Scans of two geometries, with the rows of train.csv shuffled."""
    scans = [
        make_scan(
            scan_id,
            seed=seed,
            shape=shape if index % 2 == 0 else (shape[0], shape[2] - 2, shape[1] + 1),
            spacing_xy=(1.5, 1.5) if index % 2 == 0 else (1.63, 1.25),
        )
        for index, scan_id in enumerate([*scan_ids, *test_ids])
    ]
    train, test = scans[: len(scan_ids)], scans[len(scan_ids) :]
    rows = [
        (scan.slice_id(z), organ, encode_plain(scan.masks[index, z]))
        for scan in train
        for z in range(len(scan.image))
        for index, organ in enumerate(ORGANS)
    ]
    np.random.default_rng(seed).shuffle(rows)
    return MadeSource(train=tuple(train), test=tuple(test), rows=tuple(tuple(row) for row in rows))


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    """Write a source as a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def write_zip(path: Path, files: dict[str, bytes], *, prefix: str = "") -> Path:
    """Write a source as a zip, last name first."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files, reverse=True):
            archive.writestr(prefix + name, files[name])
    return path


def write_source(folder: Path, source: MadeSource | None = None) -> Path:
    """Write a source, by default :func:`make_source`'s, as a folder."""
    return write_files(folder, (source or make_source()).files())
