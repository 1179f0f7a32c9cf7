"""Commands around CSVs and scores: encode, score."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from gi2nnunet.cli.options import JobsOption, JsonOption, MetricOption

if TYPE_CHECKING:
    from gi2nnunet.scoring import Score
    from gi2nnunet.submission import Size

ImagesOption = Annotated[
    Path | None,
    typer.Option(
        "--images",
        help="The source whose file names tell the image sizes, where the truth has no "
        "image_height and image_width columns.",
        show_default=False,
    ),
]

_STANDINGS = {
    "held-out": "held-out: no scan of these patients was trained on",
    "out-of-fold": "out-of-fold: each scan by a model that did not see its patient",
    "seen-patient": "SEEN PATIENTS: other days of some of these patients were trained on",
    "in-sample": "IN-SAMPLE: these scans were trained on; no measure of new patients",
    "unknown": "it is not known here what the models were trained on",
}


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    app.command("encode")(encode)
    app.command("score")(score)


def encode(
    labels: Annotated[
        Path,
        typer.Argument(metavar="LABELS", help="A folder of label volumes (NIfTI), or one of them."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The CSV to write.", dir_okay=False)],
    scheme: Annotated[
        Literal["auto", "regions", "exclusive"],
        typer.Option(
            "--labels",
            help="How the volumes are coded. regions: bit-coded (1, 2, 4). exclusive: 1, 2, 3. "
            "auto: as a manifest beside them says, else regions.",
        ),
    ] = "auto",
    sample: Annotated[
        Path | None,
        typer.Option(
            help="sample_submission.csv whose rows and order to follow.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
) -> None:
    """Turn label volumes into a submission CSV.

    Example: gi2nnunet encode labels/ --out submission.csv
    """
    from gi2nnunet.cli.show import count, print_result, print_warnings
    from gi2nnunet.encoding import encode_labels

    encoded = encode_labels(labels, out, scheme=scheme, sample=sample)
    print_warnings(encoded.warnings)
    print_result(
        f"{encoded.path}: {count(encoded.n_rows, 'row')} of {count(encoded.n_scans, 'scan')}"
    )


def score(
    submission: Annotated[Path, typer.Argument(metavar="SUBMISSION", help="The submission CSV.")],
    truth: Annotated[
        Path, typer.Argument(metavar="TRUTH", help="The truth: train.csv or a grader's answers.")
    ],
    metric: MetricOption = "per-class",
    images: ImagesOption = None,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score a submission against the truth by the competition's metric.

    Example: gi2nnunet score submission.csv truth.csv --metric mle-bench --json
    """
    from gi2nnunet.cli.show import print_json, show_progress
    from gi2nnunet.scoring import score_submission

    with show_progress() as report:
        result = score_submission(
            submission,
            truth,
            metric=metric,
            sizes=_read_sizes(images) if images else None,
            jobs=jobs,
            progress=lambda done, total, what: report(done, total, "scoring scans"),
        )
    if as_json:
        print_json(result.to_json())
    else:
        print_score(result)


def _read_sizes(images: Path) -> Mapping[str, Size]:
    from gi2nnunet.source import read_index

    index = read_index(images, allow_missing=True)
    scans = {**index.train, **index.test}
    return {scan_id: (scan.height, scan.width) for scan_id, scan in scans.items()}


def print_score(result: Score, *, standing: str | None = None) -> None:
    """Print a score: a table of the organs, a table of the scans, and the total last."""
    from gi2nnunet.cli.show import print_result, print_table

    def cell(value: float) -> str:
        return "-" if value != value else f"{value:.4f}"

    if len(result.per_scan) > 1:
        print_table(
            "Scans",
            ("scan", "score", "Dice", "Hausdorff"),
            [
                (scan.scan_id, cell(scan.score), cell(scan.dice), cell(scan.hausdorff))
                for scan in result.per_scan
            ],
        )
    print_table(
        f"Score ({result.metric})",
        ("organ", "score", "Dice", "Hausdorff", "slices", "scans"),
        [
            (
                organ.replace("_", " "),
                cell(terms.score),
                cell(terms.dice),
                cell(terms.hausdorff),
                terms.n_rows,
                terms.n_units,
            )
            for organ, terms in result.per_organ.items()
        ]
        + [("all", cell(result.score), cell(result.dice), cell(result.hausdorff), "", "")],
    )
    print_result(
        f"Score {result.score:.5f} = 0.4 x Dice {result.dice:.5f} + "
        f"0.6 x (1 - Hausdorff {result.hausdorff:.5f}); convention {result.metric}"
    )
    if standing is not None:
        print_result(f"Standing: {_STANDINGS[standing]}")
