"""Commands for sources: phantom, check, convert."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gi2nnunet import api
from gi2nnunet.cli.options import (
    LABELS_HELP,
    JobsOption,
    JsonOption,
    SeedOption,
    SourceOptions,
    WorkspaceOption,
    WorkspaceOptions,
    call_api,
    takes_groups,
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
from gi2nnunet.formats.ids import Certainty, LabelScheme

if TYPE_CHECKING:
    from gi2nnunet.source.check.check import SourceReport
    from gi2nnunet.source.check.suspects import Suspect
    from gi2nnunet.source.phantom.frame import Geometry

SourceArgument = Annotated[
    Path,
    typer.Argument(
        metavar="SOURCE",
        help="A source: the competition's folder or zip, a folder of NIfTI volumes, or DICOM "
        "series.",
    ),
]

_SHAPE = "Made-up anatomy"
_PAINT = "Images for given masks"


def phantom(
    context: typer.Context,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o",
            help="What to write: a folder, or a zip if it ends in .zip. It must not exist yet.",
        ),
    ] = Path("phantom"),
    patients: Annotated[
        int, typer.Option(help="Number of training patients.", min=1, rich_help_panel=_SHAPE)
    ] = 6,
    days: Annotated[
        int, typer.Option(help="Most scans of a patient.", min=1, rich_help_panel=_SHAPE)
    ] = 2,
    test_patients: Annotated[
        int, typer.Option(help="Number of patients in test/.", min=0, rich_help_panel=_SHAPE)
    ] = 0,
    size: Annotated[
        list[str] | None,
        typer.Option(
            help="WIDTHxHEIGHTxSLICES, with @MM for the pixel spacing (64x64x24@6); may be "
            "repeated. By default the four sizes of the real data are mixed.",
            rich_help_panel=_SHAPE,
        ),
    ] = None,
    easy: Annotated[
        bool,
        typer.Option("--easy", help="Smooth, little noise; for demos.", rich_help_panel=_SHAPE),
    ] = False,
    masks: Annotated[
        Path | None,
        typer.Option(
            help="CSV in the competition's format: images are made for these masks.",
            exists=True, dir_okay=False, rich_help_panel=_PAINT,
        ),
    ] = None,
    sizes: Annotated[
        Path | None,
        typer.Option(
            help="Sizes of the masks' images: a CSV with id, width, height, px_w, px_h, or a "
            "source. Without --masks, anatomy of these sizes is made up.",
            exists=True, rich_help_panel=_PAINT,
        ),
    ] = None,
    fill_sample: Annotated[
        bool,
        typer.Option(
            "--fill-sample",
            help="Write every row into sample_submission.csv, not only the header as published.",
        ),
    ] = False,
    solution: Annotated[
        Path | None,
        typer.Option(help="Also write the masks of the test scans to this CSV.", dir_okay=False),
    ] = None,
    seed: SeedOption = 0,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Write a synthetic source in the competition's layout.

    Example: gi2nnunet phantom --out my-source --patients 8 --days 2
    """
    if masks and not sizes:
        raise typer.BadParameter("needs --sizes", param_hint="--masks")
    if sizes:
        _refuse_options_of_anatomy(context, beside="--masks" if masks else "--sizes")
    geometries = [_parse_size(text) for text in size or ()]
    with show_progress() as report:
        made = call_api(context, api.phantom, size=geometries or None, progress=report)
    if as_json:
        print_json(made.to_json())
        return
    print_result(
        f"{made.path}: {_describe_parts(made.count_parts(), train='training', test='test')}; "
        f"{count(made.slices, 'slice')}, {count(made.masks, 'mask')}"
    )
    if made.solution:
        print_result(f"{made.solution}: the truth of the test scans")
    if made.train:
        print_notice(f"Next: gi2nnunet convert {shlex.quote(str(out))}")


def _describe_parts(counts: Mapping[Any, tuple[int, int]], **names: str) -> str:
    """Return the numbers of scans and patients of the parts that have some."""
    return ", ".join(
        f"{count(scans, f'{names[part]} scan')} of {count(patients, 'patient')}"
        for part, (scans, patients) in counts.items()
        if scans
    )


def _refuse_options_of_anatomy(context: typer.Context, *, beside: str) -> None:
    given = [
        f"--{name.replace('_', '-')}"
        for name in ("patients", "days", "test_patients", "size", "easy", "solution")
        if (source := context.get_parameter_source(name)) and source.name == "COMMANDLINE"
    ]
    if given:
        raise typer.BadParameter(
            f"cannot be combined with {beside}, which already sets the scans; leave them out",
            param_hint=", ".join(given),
        )


def _parse_size(text: str) -> Geometry:
    from gi2nnunet.source.phantom.frame import parse_geometry  # with NumPy, which --help need not

    try:
        return parse_geometry(text)
    except ValueError as error:
        raise typer.BadParameter(str(error).removeprefix("size: "), param_hint="--size") from error


@takes_groups
def convert(
    context: typer.Context,
    source: SourceArgument,
    opening: SourceOptions,
    workspace: WorkspaceOption = None,
    dataset_id: Annotated[
        int, typer.Option("--id", help="nnU-Net's dataset id.", min=1, max=999)
    ] = 501,
    name: Annotated[
        str, typer.Option(help="Name of the dataset that is made: of nnU-Net's.")
    ] = "UWGI",
    labels: Annotated[
        LabelScheme,
        typer.Option(
            help=f"{LABELS_HELP} exclusive gives each voxel one organ: stomach before large bowel "
            "before small bowel."
        ),
    ] = "regions",
    folds: Annotated[
        int | None,
        typer.Option(
            help="Number of folds, grouped by patient; by default 5, or one per patient if there "
            "are fewer.",
            min=2,
        ),
    ] = None,
    splits: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Folds of your own: nnU-Net's splits_final.json, or a CSV with the columns "
            "patient_id,fold or scan_id,fold (0, 1, ...).",
        ),
    ] = None,
    allow_leaks: Annotated[
        bool,
        typer.Option(
            "--allow-leaks",
            help="Take these folds even if scans of a patient are trained on and validated on; "
            "every score then says so.",
        ),
    ] = False,
    holdout: Annotated[
        str | None,
        typer.Option(
            help="Test set: a fraction of the patients (0 for none) or mle-bench. By default one "
            "tenth of the patients, at least one, if there are five or more. Labelled test scans "
            "of a NIfTI source are always held out; with them the default is 0."
        ),
    ] = None,
    keep_known_bad: Annotated[
        bool, typer.Option("--keep-known-bad", help="Also train on scans known to be bad.")
    ] = False,
    leave_out_suspects: Annotated[
        Certainty | None,
        typer.Option(
            help="Check the source first (see gi2nnunet check), and leave scans with a suspect of "
            "this certainty or more out of training. This takes as long as a check."
        ),
    ] = None,
    seed: SeedOption = 0,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Turn a source into an nnU-Net raw dataset.

    Example: gi2nnunet convert uw-madison-gi-tract-image-segmentation.zip
    """
    rule = _parse_holdout(holdout)
    with show_progress() as report:
        dataset = call_api(context, api.convert, holdout=rule, progress=report)
    print_warnings(dataset.warnings)
    if as_json:
        print_json(dataset.to_json())
        return
    counts = dataset.count_parts()
    parts = _describe_parts(counts, train="training", holdout="held-out", test="unlabelled test")
    print_result(f"{dataset.folder}: {parts}; {count(len(dataset.splits), 'fold')}")
    if counts["train"][0]:
        from gi2nnunet.training.machine import suggest_training

        command, why = suggest_training()
        print_notice(f"Next: {command}" + (f"  # {why}" if why else ""))


def _parse_holdout(text: str | None) -> float | Literal["mle-bench"] | None:
    if text is None:
        return None
    if text == "mle-bench":
        return "mle-bench"
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise typer.BadParameter(
            f"found {text!r}; expected a fraction from 0 to below 1, or mle-bench",
            param_hint="--holdout",
        )
    return value


_MOST_SHOWN = 30


@takes_groups
def check(
    context: typer.Context,
    source: SourceArgument,
    where: WorkspaceOptions,
    opening: SourceOptions,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html", metavar="FILE", dir_okay=False,
            help="Also write a page: plots, and pictures of the suspects.",
        ),
    ] = None,
    out_of_fold: Annotated[
        bool,
        typer.Option(
            "--out-of-fold",
            help="Also compare the truth with the out-of-fold predictions stored in the workspace "
            "(see gi2nnunet out-of-fold).",
        ),
    ] = False,
    show_all: Annotated[
        bool,
        typer.Option(
            "--all",
            help=f"Show all: every suspect, not only the first {_MOST_SHOWN}, with pictures.",
        ),
    ] = False,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Show what a source holds, and which scans look unusual.

    The only file that is written is the page of --html. Suspects are measured, not proven, so the
    exit code is 0 even if there are some.

    Example: gi2nnunet check uw-madison-gi-tract-image-segmentation.zip --html check.html
    """
    if not out_of_fold and where.dataset_id is not None:
        raise typer.BadParameter("needs --out-of-fold", param_hint="--id")
    with show_progress() as progress:
        found, page = call_api(context, api.check_with_page, progress=progress)
    for note in found.labels:
        print_notice(note)
    print_warnings(found.warnings)
    if as_json:
        written = {"page": {"path": str(page.path), "bytes": page.size}} if page else {}
        print_json(found.to_json() | written)
        return
    _print_contents(found)
    _print_suspects(found, most=None if show_all else _MOST_SHOWN)
    if page is not None:
        left_out = ""
        if page.without_pictures:
            left_out = f"; {count(page.without_pictures, 'suspect')} without pictures (--all)"
        print_result(f"{page.path} ({page.size / 1e6:.1f} MB{left_out})")


def _print_contents(found: SourceReport) -> None:
    """Print the tables that the page of --html also has."""
    from gi2nnunet.pages.check_page import build_tables, find_typical

    print_result(f"{found.path} ({found.kind})")
    tables = build_tables(found, typical=find_typical(found))
    of_masks = ("prevalence", "volumes", "overlaps") if found.masks else ()
    for name in ("parts", "geometries", *of_masks):
        print_table(tables[name].label, tables[name].heads, tables[name].rows)
    days = found.count_days()
    print_table("Scans of a patient", ("scans", *map(str, days)), [("patients", *days.values())])


def _print_suspects(found: SourceReport, *, most: int | None) -> None:
    if found.known_bad:
        print_table(
            "Known bad scans (convert leaves them out)", ("scan", "why"), found.known_bad.items(),
            text_columns=2,
        )  # fmt: skip
    print_table(
        "Tested",
        ("what", "scans", "suspects", "remark"),
        (
            (
                tested.what, tested.scans or "not tested",
                sum(s.kind in tested.kinds for s in found.suspects) if tested.scans else "-",
                tested.note,
            )
            for tested in found.tested
        ),
    )  # fmt: skip
    if not found.suspects:
        print_result("Nothing unusual was found in what was tested.")
        return
    ordered = sorted(found.suspects, key=lambda s: s.rank)
    print_table(
        f"{count(len(found.suspects), 'suspect')}, the most certain first",
        ("scan", "slice", "organ", "what", "how sure", "measured", "usual"),
        (
            (
                s.scan_id, _slices(s), (s.organ or "").replace("_", " "), s.kind, s.certainty,
                s.measured, s.usual,
            )
            for s in ordered[:most]
        ),
        text_columns=7,
    )  # fmt: skip
    if most is not None and len(found.suspects) > most:
        print_result(f"{len(found.suspects) - most} more with --all or --json.")
    for remedy in dict.fromkeys(f"{s.kind}: {s.remedy}" for s in found.suspects):
        print_result(remedy)


def _slices(suspect: Suspect) -> str:
    if suspect.slice_number is None:
        return ""
    last = suspect.last_slice_number
    return f"{suspect.slice_number}" if last is None else f"{suspect.slice_number} to {last}"
