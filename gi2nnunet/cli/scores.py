"""Commands for submissions and their scores: encode, export-dicom, score."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gi2nnunet import api
from gi2nnunet.cli.options import (
    LABELS_HELP,
    AnyModalityOption,
    IdOption,
    JobsOption,
    JsonOption,
    LabelMapOption,
    MetricOption,
    OrientationOption,
    RoiNameOption,
    SeriesOption,
    ShowPathsOption,
    WorkspaceOption,
    call_api,
    require_number,
)
from gi2nnunet.cli.output import (
    print_json,
    print_notice,
    print_result,
    print_table,
    print_warnings,
    show_progress,
)
from gi2nnunet.core.errors import count
from gi2nnunet.formats.ids import LabelScheme
from gi2nnunet.scoring.conventions import ScanChoice

if TYPE_CHECKING:
    from gi2nnunet.scoring.result import Interval, Score

ImagesOption = Annotated[
    Path | None,
    typer.Option(
        "--images",
        help="A source of any kind to take voxel spacing from, and image sizes if the truth has no "
        "columns image_height and image_width. By default, spacing is that of the truth or of the "
        "workspace's dataset.",
    ),
]

ScansOption = Annotated[
    ScanChoice,
    typer.Option(help="Which scans: all, which each file must have, or those common to all files."),
]
_SUBMISSION = (
    "A submission CSV, a folder of predict, label volumes, or a name in the workspace: of a "
    "prediction (held-out) or of a model (2d, 2d+3d_fullres)."
)
TruthOption = Annotated[
    Path | None,
    typer.Option(
        "--truth",
        "-t",
        help="The truth: train.csv or another solution CSV, a converted dataset, or label volumes. "
        "By default truth.csv beside the submission, otherwise the workspace's dataset.",
    ),
]

MedicalOption = Annotated[
    bool, typer.Option("--medical", help="Add surface Dice, HD95 in mm and volume error in ml.")
]
ToleranceOption = Annotated[
    float, typer.Option(help="Tolerance of the surface Dice.", min=0, callback=require_number)
]

HAUSDORFF = "Hausdorff (normalised)"
"""What the competition's distance is called, which is not in mm."""

STANDINGS = {
    "held-out": "held-out: no scan of these patients was used for training",
    "out-of-fold": "out-of-fold: each scan by a model that did not see its patient",
    "seen-patient": "SEEN PATIENTS: other scans of some of these patients were used for training",
    "in-sample": "IN-SAMPLE: these scans were used for training, so the score is too optimistic",
    "unknown": "unknown: it is not known which patients the models were trained on",
    "unknown (judged by name)": "unknown (judged by name): no scan has the id or the image of a "
    "training scan, but the ids do not name the patients, or not all images could be compared",
}


def export_dicom(
    context: typer.Context,
    volumes: Annotated[
        Path,
        typer.Argument(
            metavar="VOLUMES",
            help="Label volumes (NIfTI): one, or a folder of one mask per organ (stomach.nii.gz).",
        ),
    ],
    source: Annotated[
        Path,
        typer.Option(
            metavar="SOURCE", help="A source: the DICOM series that the labels were made on."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="What to write: a folder for the files.", file_okay=False),
    ],
    series: SeriesOption = None,
    labels: Annotated[
        LabelScheme | None,
        typer.Option(help=f"{LABELS_HELP} By default as the values show."),
    ] = None,
    roi_name: RoiNameOption = None,
    any_modality: AnyModalityOption = False,
    show_paths: ShowPathsOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write rtstruct.dcm and seg.dcm of label volumes, on their DICOM series.

    Example: gi2nnunet export-dicom labels.nii.gz --source series/ --out structures/
    """
    done = call_api(context, api.export_dicom)
    if as_json:
        print_json(done.to_json())
        return
    for organ, voxels in done.voxels.items():
        print_notice(f"{organ.replace('_', ' ')}: {count(voxels, 'voxel')}")
    for file in done.files:
        print_result(str(file))


def encode(
    context: typer.Context,
    volumes: Annotated[
        Path,
        typer.Argument(metavar="VOLUMES", help="Label volumes (NIfTI): a folder of them, or one."),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="What to write: the CSV.", dir_okay=False)
    ],
    labels: Annotated[
        LabelScheme | None,
        typer.Option(
            help=f"{LABELS_HELP} By default as manifest.json or dataset.json beside them says, "
            "otherwise as the values show; values that fit both are taken as regions, with a "
            "warning.",
        ),
    ] = None,
    label_map: LabelMapOption = None,
    orientation: OrientationOption = "affine",
    sample: Annotated[
        Path | None,
        typer.Option(
            help="A sample_submission.csv. The rows are written in its order.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Turn label volumes into a submission CSV.

    Example: gi2nnunet encode labels/ --out submission.csv
    """
    encoded = call_api(context, api.encode)
    for note in encoded.labels:
        print_notice(note)
    print_warnings(encoded.warnings)
    if as_json:
        print_json(encoded.to_json())
        return
    print_result(
        f"{encoded.path}: {count(encoded.n_rows, 'row')} of {count(encoded.n_scans, 'scan')}"
    )


def score(
    context: typer.Context,
    submission: Annotated[Path, typer.Argument(metavar="SUBMISSION", help=_SUBMISSION)],
    truth: TruthOption = None,
    metric: MetricOption = "per-class",
    scans: ScansOption = "all",
    images: ImagesOption = None,
    orientation: OrientationOption = "affine",
    intervals: Annotated[
        bool,
        typer.Option(
            "--intervals", help="Add 95 % intervals from a seeded bootstrap over patients."
        ),
    ] = False,
    medical: MedicalOption = False,
    tolerance_mm: ToleranceOption = 3.0,
    per_slice: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also write a CSV with a row for each slice and organ.",
            dir_okay=False,
        ),
    ] = None,
    workspace: WorkspaceOption = None,
    dataset_id: IdOption = None,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score a submission against the truth with the competition's metric.

    Example: gi2nnunet score submission.csv --truth train.csv --metric mle-bench
    """
    with show_progress() as report:
        result = call_api(context, api.score, progress=report)
    print_warnings(result.warnings)
    if as_json:
        print_json(result.to_json() | {"warnings": result.warnings})
        return
    print_score(result, standing=result.standing or None)
    if result.intervals:
        _print_intervals(result.intervals)
    if per_slice:
        print_result(str(per_slice))


def show_number(value: float, *, digits: int = 4, sign: bool = False) -> str:
    """Return a number as a cell of a table shows it."""
    return "-" if value != value else f"{value:{'+' if sign else ''}.{digits}f}"


def _cells(of: object, *names: str) -> tuple[str, ...]:
    return tuple(show_number(getattr(of, name)) for name in names)


def _print_medical(result: Score) -> None:
    print_table(
        f"In mm and ml (surface Dice at {result.tolerance_mm:g} mm)",
        (
            "organ",
            "surface Dice",
            "HD95 (mm)",
            "volume error (ml)",
            "its size (ml)",
            "scans",
            "with HD95",
        ),
        [
            (
                organ.replace("_", " "),
                show_number(terms.surface_dice),
                show_number(terms.hd95_mm, digits=1),
                show_number(terms.volume_error_ml, digits=1),
                show_number(terms.volume_error_abs_ml, digits=1),
                terms.n_scans,
                terms.n_scans - terms.n_one_sided,
            )
            for organ, terms in (result.medical or {}).items()
        ],
    )


def _print_intervals(found: Mapping[str, Interval]) -> None:
    from gi2nnunet.scoring.bootstrap import count_digits, name_quantity

    print_table(
        "95 % intervals over patients",
        ("", "value", "from", "to"),
        [
            (
                name_quantity(name),
                *(
                    show_number(value, digits=count_digits(name))
                    for value in (interval.value, interval.low, interval.high)
                ),
            )
            for name, interval in found.items()
        ],
    )


def print_score(result: Score, *, standing: str | None = None) -> None:
    """Print a score: a table of the organs, a table of the scans, and the total last."""
    # Organs that are only in the truth, or only predicted; mostly there are none.
    names = [name for name in ("missed", "extra") if any(getattr(s, name) for s in result.per_scan)]
    if len(result.per_scan) > 1:
        print_table(
            "Scans",
            ("scan", "score", "Dice", HAUSDORFF, *names),
            [
                (
                    scan.scan_id,
                    *_cells(scan, "score", "dice", "hausdorff"),
                    *(", ".join(getattr(scan, name)).replace("_", " ") for name in names),
                )
                for scan in result.per_scan
            ],
        )
    print_table(
        f"Score ({result.metric})",
        ("organ", "score", "Dice", HAUSDORFF, "slices", "scans", "missed in", "extra in"),
        [
            (name.replace("_", " "), *_cells(terms, "score", "dice", "hausdorff"), *counts)
            for name, terms, *counts in (
                *(
                    (organ, of, of.n_rows, of.n_units, of.n_missed, of.n_extra)
                    for organ, of in result.per_organ.items()
                ),
                ("all", result, "", "", "", ""),
            )
        ],
    )
    if result.medical:
        _print_medical(result)
    print_result(f"Score {result}")
    if standing is not None:
        print_result(f"Standing: {STANDINGS.get(standing, standing)}")
