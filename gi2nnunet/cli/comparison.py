"""The command that holds two submissions to one truth: compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gi2nnunet.cli.options import JobsOption, JsonOption, MetricOption, SeedOption
from gi2nnunet.cli.scores import ImagesOption

if TYPE_CHECKING:
    from gi2nnunet.compare import Comparison

_MOST_SCANS = 10


def register(app: typer.Typer) -> None:
    """Add this command to the application."""
    app.command("compare")(compare)


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="A submission CSV.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another one.")],
    truth: Annotated[
        Path, typer.Option("--truth", "-t", help="The truth: train.csv or a grader's answers.")
    ],
    metric: MetricOption = "per-class",
    images: ImagesOption = None,
    seed: SeedOption = 0,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two submissions: the difference, its interval over patients, what moved most.

    Example: gi2nnunet compare before.csv after.csv --truth truth.csv
    """
    from gi2nnunet.api.results import read_sizes
    from gi2nnunet.cli.show import print_json, show_progress
    from gi2nnunet.compare import compare_submissions

    with show_progress() as report:
        result = compare_submissions(
            a,
            b,
            truth,
            metric=metric,
            sizes=read_sizes(images),
            seed=seed,
            jobs=jobs,
            progress=lambda done, total, what: report(done, total, "scoring scans"),
        )
    if as_json:
        print_json(result.to_json())
    else:
        _print_comparison(result)


def _print_comparison(result: Comparison) -> None:
    from gi2nnunet.cli.show import count, print_result, print_table

    def cell(value: float, *, sign: bool = False) -> str:
        return "-" if value != value else f"{value:{'+' if sign else ''}.4f}"

    print_table(
        f"B against A ({result.metric})",
        ("", "A", "B", "B - A", f"{result.confidence:.0%} interval"),
        [
            (
                name.replace("_", " ").replace(".", ", "),
                cell(d.a),
                cell(d.b),
                cell(d.difference, sign=True),
                f"{cell(d.low, sign=True)} to {cell(d.high, sign=True)}" if d.low == d.low else "-",
            )
            for name, d in result.differences.items()
        ],
    )
    print_table(
        "Scans that moved most",
        ("scan", "A", "B", "B - A"),
        [
            (scan.scan_id, cell(scan.a), cell(scan.b), cell(scan.change, sign=True))
            for scan in result.scans[:_MOST_SCANS]
        ],
    )
    print_result(
        f"Intervals: {result.n_resamples} resamples of {count(result.n_patients, 'patient')}, "
        f"seed {result.seed}" + ("; one patient has none" if result.n_patients == 1 else "")
    )
