"""Command that compares two submissions or models."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gi2nnunet import api
from gi2nnunet.cli.options import (
    JobsOption,
    JsonOption,
    MetricOption,
    OrientationOption,
    SeedOption,
    WorkspaceOptions,
    call_api,
    takes_groups,
)
from gi2nnunet.cli.output import (
    print_json,
    print_result,
    print_table,
    print_warnings,
    show_progress,
)
from gi2nnunet.cli.scores import (
    STANDINGS,
    ImagesOption,
    MedicalOption,
    ScansOption,
    ToleranceOption,
    TruthOption,
    show_number,
)
from gi2nnunet.core.errors import count

if TYPE_CHECKING:
    from gi2nnunet.scoring.compare import Comparison, PatientChange, ScanChange

_MOST_ROWS = 10


@takes_groups
def compare(
    context: typer.Context,
    where: WorkspaceOptions,
    a: Annotated[
        str,
        typer.Argument(
            metavar="A",
            help="A submission CSV, a folder of predict or of label volumes, or a name in the "
            "workspace: of a prediction (held-out) or of a model (2d, 2d+3d_fullres).",
        ),
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    truth: TruthOption = None,
    metric: MetricOption = "per-class",
    scans: ScansOption = "all",
    images: ImagesOption = None,
    orientation: OrientationOption = "affine",
    medical: MedicalOption = False,
    tolerance_mm: ToleranceOption = 3.0,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            metavar="FILE",
            dir_okay=False,
            help="Also write a page: plots by patient and organ, and the slices that changed most.",
        ),
    ] = None,
    seed: SeedOption = 0,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two submissions or models, with intervals over patients.

    A path that exists comes before a name. The name of a model means its out-of-fold predictions,
    or those of the held-out scans if only these exist of both; the output says which were taken.

    Example: gi2nnunet compare 2d 3d_fullres
    """
    with show_progress() as report:
        found = call_api(context, api.compare, progress=report)
    print_warnings(dict.fromkeys((*found.a.warnings, *found.b.warnings)))
    if as_json:
        page = {"page": {"path": html, "bytes": html.stat().st_size}} if html else {}
        print_json(found.to_json() | page)
        return
    _print_comparison(found)
    if html is not None:
        print_result(f"{html} ({html.stat().st_size / 1e6:.1f} MB)")


def _changes(found: Iterable[ScanChange | PatientChange]) -> Iterable[tuple[str, str, str]]:
    return (
        (show_number(one.a), show_number(one.b), show_number(one.change, sign=True))
        for one in found
    )


def _print_comparison(found: Comparison) -> None:
    from gi2nnunet.scoring.bootstrap import count_digits, name_quantity

    for letter, side in zip("AB", found.sides, strict=True):
        standing = STANDINGS.get(side.standing, side.standing)
        print_result(f"{letter}: {side.taken}" + (f" ({standing})" if standing else ""))
    print_result(f"Truth: {found.truth}")
    print_table(
        f"B against A ({found.metric})",
        ("", "A", "B", "B - A", f"{found.confidence:.0%} interval"),
        [
            (
                name_quantity(name),
                *(show_number(value, digits=digits) for value in (d.a, d.b)),
                show_number(d.difference, sign=True, digits=digits),
                " to ".join(show_number(end, sign=True, digits=digits) for end in (d.low, d.high))
                if d.low == d.low
                else "-",
            )
            for name, d in found.differences.items()
            for digits in [count_digits(name)]
        ],
    )
    _print_changes(found)
    print_result(found.describe())
    print_result(found.describe_patients())
    print_result(
        f"Intervals: {found.n_resamples} resamples of {count(found.n_patients, 'patient')}, "
        f"seed {found.seed}" + (f"; {found.a.scope}" if found.a.scope else "")
    )


def _print_changes(found: Comparison) -> None:
    """Print the patients, scans and slices that moved most."""
    patients, scans = found.patients[:_MOST_ROWS], found.scans[:_MOST_ROWS]
    print_table(
        "Patients with the largest changes" if len(found.patients) > _MOST_ROWS else "Patients",
        ("patient", "A", "B", "B - A", "scans"),
        [
            (one.patient_id, *cells, one.n_scans)
            for one, cells in zip(patients, _changes(patients), strict=True)
        ],
    )
    print_table(
        "Scans with the largest changes" if len(found.scans) > _MOST_ROWS else "Scans",
        ("scan", "A", "B", "B - A", "slices that changed most (Dice, B - A)"),
        [
            (
                one.scan_id,
                *cells,
                ", ".join(f"{s.slice_number} ({s.change:+.2f})" for s in one.slices) or "-",
            )
            for one, cells in zip(scans, _changes(scans), strict=True)
        ],
    )
