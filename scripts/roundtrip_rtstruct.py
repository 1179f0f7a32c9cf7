"""Round trips of masks through RTSTRUCT and SEG and back, in readers that are not ours.

Each reader runs in an environment of its own, which this script makes below --folder the first
time. What a reader gives back is laid on the series by its own geometry and compared voxel by
voxel. The table names what is not exact and why no exact encoding exists; anything else that
differs, or an error of dciodvfy, makes the exit code 1. scripts/dicom_testbed.sh installs
plastimatch and dciodvfy.

    python scripts/roundtrip_rtstruct.py --folder build/roundtrip
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.ndimage
import SimpleITK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from dicom_readers.jobs import find_affine  # noqa: E402

from gi2nnunet.formats.dicom_series import Series, read_series  # noqa: E402
from gi2nnunet.formats.ids import ORGANS  # noqa: E402
from gi2nnunet.formats.rtstruct import write_rtstruct  # noqa: E402
from gi2nnunet.formats.rtstruct_reading import read_rtstruct  # noqa: E402
from gi2nnunet.formats.seg import read_seg, write_seg  # noqa: E402
from gi2nnunet.formats.structures import STANDARD_NAMES, Maker  # noqa: E402
from tests.dicom_factory import (  # noqa: E402
    CORONAL,
    FEET_FIRST,
    SAGITTAL,
    TYPE_2,
    SeriesPlan,
    oblique,
    write_series,
)

Mask = NDArray[np.bool_]
PROGRAMS = ROOT / "scripts" / "dicom_readers"
PACKAGES = {
    "rt_utils": ["rt-utils==1.2.7", "pydicom==3.0.2", "opencv-python==5.0.0.93"],
    "dcmrtstruct2nii": ["dcmrtstruct2nii==5", "pydicom==2.4.4", "SimpleITK==2.5.7"],
    "dicomrttool": ["DicomRTTool==6.2.0", "pydicom==3.0.2", "SimpleITK==2.5.7"],
    "highdicom": ["highdicom==0.28.2", "pydicom==3.0.2"],
    "dcmqi": ["dcmqi==1.5.7", "SimpleITK==2.5.7", "numpy"],
}
RTSTRUCT_READERS = ("ours", "rt_utils", "dcmrtstruct2nii", "dicomrttool", "plastimatch")
SEG_READERS = ("ours", "highdicom", "dcmqi")
# Why no file can be exact in a reader: what it does with every file of such a series.
REASONS = {
    ("rt_utils", "360 wide x 310 high"): "its masks are as wide as the image is high",
    ("rt_utils", "spacing 2.0\\1.0"): "it exchanges the distances of rows and columns",
    ("dcmrtstruct2nii", "a slice missing"): "SimpleITK stretches the distance of slices",
    ("dicomrttool", "a slice missing"): "SimpleITK stretches the distance of slices",
    ("dicomrttool", "oblique by 20 degrees"): "it chooses the slice by z",
    ("dicomrttool", "sagittal"): "it chooses the slice by z",
    ("dicomrttool", "coronal"): "it chooses the slice by z",
    ("dicomrttool", "no Type 2 attributes"): "it needs a PatientID",
}
MAKER = Maker(model="2d + 3d_fullres", model_digest="0123456789abcdef" * 4)


# --- cases --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Case:
    """A series and masks on it, both made when they are needed."""

    name: str
    plan: SeriesPlan
    make_masks: Callable[[tuple[int, int, int]], dict[str, Mask]]


def make_organs(shape: tuple[int, int, int], *, seed: int = 0) -> dict[str, Mask]:
    """Return smooth regions with holes, specks, diagonals and overlaps."""
    rng = np.random.default_rng(seed)
    masks = {}
    for organ in ORGANS:
        smooth = scipy.ndimage.gaussian_filter(rng.standard_normal(shape), (1, 3, 3))
        masks[organ] = (smooth > np.quantile(smooth, 0.75)) ^ (rng.random(shape) < 0.01)
    return masks


def one_mask(draw: Callable[[Mask], None]) -> Callable[[tuple[int, int, int]], dict[str, Mask]]:
    def make(shape: tuple[int, int, int]) -> dict[str, Mask]:
        mask = np.zeros(shape, np.bool_)
        draw(mask)
        return {"stomach": mask}

    return make


def draw_square(mask: Mask) -> None:
    mask[2:7, 10:30, 12:32] = True


def draw_nested(mask: Mask) -> None:
    for index, margin in enumerate(range(2, 18, 2)):
        mask[1:9, margin:-margin, margin:-margin] = index % 2 == 0


def draw_specks(mask: Mask) -> None:
    mask[::2, 1::4, 2::5] = True


def draw_diagonal(mask: Mask) -> None:
    mask[3, range(5, 30), range(5, 30)] = True
    mask[5, 5:10, 5:10] = mask[5, 10:15, 10:15] = mask[5, 5:10, 15:20] = True
    rows, columns = np.indices(mask.shape[1:])
    mask[7] = (rows + columns) % 2 == 0


def draw_lines(mask: Mask) -> None:
    mask[2, 7, 3:35] = mask[2, 3:35, 20] = mask[2, 12:30, 5] = True
    mask[4, 5:30, 5:30] = True
    mask[4, 6:29, 6:29] = False
    mask[6, 10:30, 10:30] = True
    mask[6, 15, 10:30] = False


def make_overlap(shape: tuple[int, int, int]) -> dict[str, Mask]:
    masks = {organ: np.zeros(shape, np.bool_) for organ in ORGANS}
    masks["large_bowel"][2:8, 5:25, 5:25] = True
    masks["small_bowel"][2:8, 10:30, 10:30] = True
    masks["stomach"][2:8, 10:25, 10:25] = True
    return masks


def draw_border(mask: Mask) -> None:
    mask[[0, -1]] = True
    mask[0, 10:20, 10:20] = False
    mask[:, 0, :] = mask[:, :, -1] = True
    mask[3:6, -1, 5] = mask[3:6, 5, 0] = True


def make_one_empty(shape: tuple[int, int, int]) -> dict[str, Mask]:
    masks = make_organs(shape)
    masks["large_bowel"][:] = False
    return masks


def list_cases() -> list[Case]:
    geometries = {
        "square, 40 x 40": SeriesPlan(),
        "360 wide x 310 high": SeriesPlan(shape=(6, 310, 360)),
        "spacing 2.0\\1.0": SeriesPlan(pixel_spacing_mm=(2.0, 1.0)),
        "many decimals": SeriesPlan(
            pixel_spacing_mm=(1.6304347826, 1.6304347826),
            slice_spacing_mm=2.9999713,
            origin_mm=(-198.54321289, -101.23456789, 33.333333333),
        ),
        "oblique by 20 degrees": SeriesPlan(directions=oblique(20.0)),
        "feet first": SeriesPlan(directions=FEET_FIRST),
        "sagittal": SeriesPlan(directions=SAGITTAL),
        "coronal": SeriesPlan(directions=CORONAL),
        "a slice missing": SeriesPlan(missing=(6,)),
        "no Type 2 attributes": SeriesPlan(without=TYPE_2),
    }
    drawn: dict[str, Callable[[tuple[int, int, int]], dict[str, Mask]]] = {
        "square organ": one_mask(draw_square),
        "holes in holes": one_mask(draw_nested),
        "specks of one pixel": one_mask(draw_specks),
        "diagonal touch": one_mask(draw_diagonal),
        "lines one pixel wide": one_mask(draw_lines),
        "organs that overlap": make_overlap,
        "first and last slice, image's edge": one_mask(draw_border),
        "an empty organ": make_one_empty,
    }
    return [
        *(Case(name=name, plan=plan, make_masks=make_organs) for name, plan in geometries.items()),
        *(
            Case(name=name, plan=SeriesPlan(), make_masks=make_masks)
            for name, make_masks in drawn.items()
        ),
    ]


def draw_random_masks(count: int) -> list[Mask]:
    """Return masks that Hypothesis draws, the same in each run."""
    masks: list[Mask] = []
    side = st.integers(1, 24)

    @settings(
        max_examples=count, derandomize=True, database=None, deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(
        st.one_of(
            hnp.arrays(np.bool_, st.tuples(st.integers(2, 4), side, side)),
            st.builds(
                lambda shape, share, seed: np.random.default_rng(seed).random(shape) < share,
                st.tuples(st.integers(2, 5), st.integers(4, 40), st.integers(4, 40)),
                st.floats(0.05, 0.95),
                st.integers(0, 2**32 - 1),
            ),
        )
    )
    def collect(mask: Mask) -> None:
        masks.append(mask)

    collect()
    return masks[:count]


def list_random_cases(count: int) -> Iterable[Case]:
    """Give cases of three random masks each, on slices of 42 x 42 that hold all of them.

    Spacing and position differ from case to case, and with them the digits of the points.
    """
    rng = np.random.default_rng(0)
    masks = draw_random_masks(count)
    for first in range(0, len(masks), len(ORGANS)):
        chosen = masks[first : first + len(ORGANS)]

        def make(shape: tuple[int, int, int], chosen: list[Mask] = chosen) -> dict[str, Mask]:
            made = {}
            for organ, mask in zip(ORGANS, chosen, strict=False):
                made[organ] = np.zeros(shape, np.bool_)
                slices, rows, columns = mask.shape
                made[organ][:slices, 1 : rows + 1, 1 : columns + 1] = mask
            return made

        yield Case(
            name=f"random {first // len(ORGANS)}",
            plan=SeriesPlan(
                shape=(5, 42, 42),
                pixel_spacing_mm=(spacing := round(float(rng.uniform(0.4, 3.2)), 4),) * 2,
                slice_spacing_mm=round(float(rng.uniform(max(spacing, 1), 5)), 4),
                origin_mm=(
                    round(float(rng.uniform(-300, 100)), 6),
                    round(float(rng.uniform(-300, 100)), 6),
                    round(float(rng.uniform(-900, 900)), 6),
                ),
            ),
            make_masks=make,
        )


# --- readers ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Job:
    """A case on disk."""

    case: Case
    folder: Path
    series: Series
    masks: dict[str, Mask]


def prepare(case: Case, folder: Path) -> Job:
    write_series(folder / "series", case.plan)
    series = read_series(folder / "series")
    masks = case.make_masks(series.shape)
    write_rtstruct(folder / "rtstruct.dcm", masks, series=series, maker=MAKER)
    write_seg(folder / "seg.dcm", masks, series=series, maker=MAKER)
    return Job(case=case, folder=folder, series=series, masks=masks)


def make_environment(reader: str, folder: Path) -> Path:
    """Return the Python of a reader's environment, made where it is missing."""
    where = folder / "environments" / reader
    python = where / "bin" / "python"
    ready = where / ".ready"
    wanted = "\n".join(PACKAGES[reader])
    if not ready.is_file() or ready.read_text() != wanted:
        venv.create(where, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES[reader]], check=True)
        ready.write_text(wanted)
    return python


def run_program(reader: str, jobs: Sequence[Job], file: str, folder: Path) -> None:
    """Let a reader read all jobs; its arrays are in ``<reader>.npz`` beside each file."""
    listed = [
        {
            "series": str(job.folder / "series"),
            "file": str(job.folder / file),
            "names": [STANDARD_NAMES[organ] for organ in job.masks],
            "out": str(job.folder / f"{reader}.npz"),
        }
        for job in jobs
    ]
    table = folder / f"{reader}.json"
    table.write_text(json.dumps(listed))
    program = PROGRAMS / f"read_{reader}.py"
    python = make_environment(reader, folder)
    with (folder / f"{reader}.log").open("w") as log:
        done = subprocess.run([python, program, table], stdout=log, stderr=subprocess.STDOUT)
    if done.returncode:
        raise SystemExit(f"{program}: failed; see {folder / f'{reader}.log'}")


def run_plastimatch(jobs: Sequence[Job]) -> None:
    for job in jobs:
        out = job.folder / "plastimatch"
        subprocess.run(
            [
                "plastimatch", "convert", "--input", job.folder / "rtstruct.dcm",
                "--referenced-ct", job.folder / "series", "--output-prefix", out,
                "--prefix-format", "nrrd",
            ],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        arrays = {}
        for organ in job.masks:
            path = out / f"{STANDARD_NAMES[organ]}.nrrd"
            if path.is_file():
                image = SimpleITK.ReadImage(str(path))
                arrays[f"mask {STANDARD_NAMES[organ]}"] = SimpleITK.GetArrayFromImage(image) > 0
                arrays["affine"] = find_affine(image)
        np.savez_compressed(job.folder / "plastimatch.npz", **arrays)


def lay_on_series(mask: Mask, affine: NDArray[np.float64], series: Series) -> Mask:
    """Return a mask at the centres of the series' voxels, by the nearest voxel of its own."""
    slices, rows, columns = np.indices(series.shape).reshape(3, -1)
    centres = (
        series.positions_mm[slices]
        + columns[:, None] * series.pixel_spacing_mm[1] * np.array(series.row_direction)
        + rows[:, None] * series.pixel_spacing_mm[0] * np.array(series.column_direction)
    )
    inverse = np.linalg.inv(affine)
    place = np.rint(centres @ inverse[:3, :3].T + inverse[:3, 3]).astype(np.int64)[:, ::-1]
    inside = ((place >= 0) & (place < mask.shape)).all(axis=1)
    found = np.zeros(len(place), np.bool_)
    found[inside] = mask[tuple(place[inside].T)]
    return found.reshape(series.shape)


def compare(job: Job, reader: str, file: str) -> str:
    """Return "exact", or how many of the masks' voxels differ."""
    if reader == "ours":
        read = read_rtstruct if file == "rtstruct.dcm" else read_seg
        found = read(job.folder / file, series=job.series).masks
        wrong = sum(int((found[organ] != mask).sum()) for organ, mask in job.masks.items())
    else:
        with np.load(job.folder / f"{reader}.npz") as arrays:
            if "error" in arrays:
                return "fails"
            wrong = 0
            for organ, mask in job.masks.items():
                wrong += int((lay_mask(arrays, STANDARD_NAMES[organ], job.series) != mask).sum())
    total = sum(int(mask.sum()) for mask in job.masks.values())
    return "exact" if not wrong else f"{wrong} of {total}"


def lay_mask(arrays: Mapping[str, NDArray[Any]], name: str, series: Series) -> Mask:
    """Return a reader's mask on the series; all False if it gave none, as for an empty organ."""
    laid = np.zeros(series.shape, np.bool_)
    if f"mask {name}" not in arrays:
        return laid
    found = arrays[f"mask {name}"]
    if "uids" not in arrays:
        key = "affine" if "affine" in arrays else f"affine {name}"
        return lay_on_series(found, arrays[key], series)
    uids = arrays["uids"].tolist()
    order = [uids.index(uid) for uid in series.sop_instance_uids]
    rows, columns = np.minimum(series.shape[1:], found.shape[1:]).tolist()
    laid[:, :rows, :columns] = found[order][:, :rows, :columns]
    return laid


def find_errors(path: Path) -> list[str]:
    """Return dciodvfy's errors about a file."""
    done = subprocess.run(["dciodvfy", path], capture_output=True, text=True)
    return [line for line in done.stderr.splitlines() if line.startswith("Error")]


def print_table(jobs: Sequence[Job], readers: Sequence[str], file: str) -> bool:
    """Print which cases are exact in which reader; return whether all is as it should be."""
    good = True
    rows, used = [], []
    random = [job for job in jobs if job.case.name.startswith("random")]
    for job in [job for job in jobs if job not in random]:
        row = [job.case.name]
        for reader in readers:
            text = compare(job, reader, file)
            reason = REASONS.get((reader, job.case.name)) if file == "rtstruct.dcm" else None
            if text != "exact" and reason:
                if reason not in used:
                    used.append(reason)
                text += f" [{used.index(reason) + 1}]"
            elif text != "exact":
                text += " (!)"
                good = False
            row.append(text)
        errors = find_errors(job.folder / file)
        good &= not errors
        rows.append([*row, "no error" if not errors else f"{len(errors)} errors (!)"])
    if random:
        row = [f"random masks in {len(random)} files"]
        for reader in readers:
            bad = [job.folder.name for job in random if compare(job, reader, file) != "exact"]
            good &= not bad
            row.append("exact" if not bad else f"not exact (!): {' '.join(bad)}")
        broken = [job.folder.name for job in random if find_errors(job.folder / file)]
        good &= not broken
        rows.append([*row, "no error" if not broken else f"errors (!): {' '.join(broken)}"])
    heads = ["", *(reader.replace("_", "-") for reader in readers), "dciodvfy"]
    print(f"\n## {file}\n")
    print("| " + " | ".join(heads) + " |")
    print("|" + "---|" * len(heads))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    for number, reason in enumerate(used, start=1):
        print(f"\n[{number}] {reason}")
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "roundtrip")
    parser.add_argument("--random", type=int, default=200, help="masks drawn at random")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    missing = [name for name in ("plastimatch", "dciodvfy") if not shutil.which(name)]
    if missing:
        parser.error(f"no {' and no '.join(missing)}: run scripts/dicom_testbed.sh")
    shutil.rmtree(folder / "cases", ignore_errors=True)
    cases = [*list_cases(), *list_random_cases(arguments.random)]
    jobs = [
        prepare(case, folder / "cases" / str(number)) for number, case in enumerate(cases, start=1)
    ]
    for reader in ("rt_utils", "dcmrtstruct2nii", "dicomrttool"):
        run_program(reader, jobs, "rtstruct.dcm", folder)
    run_plastimatch(jobs)
    for reader in ("highdicom", "dcmqi"):
        run_program(reader, jobs, "seg.dcm", folder)
    print(f"Masks drawn at random: {arguments.random}. Voxels that differ, of those in the masks.")
    good = print_table(jobs, RTSTRUCT_READERS, "rtstruct.dcm")
    good &= print_table(jobs, SEG_READERS, "seg.dcm")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
