"""Commands around data: phantom, check, convert."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import gi2nnunet
from gi2nnunet import api
from gi2nnunet.cli.options import (
    AllowMissingOption,
    IdOption,
    JobsOption,
    JsonOption,
    SeedOption,
    SourceLabelsOption,
    WorkspaceOption,
    same_workspace,
)
from gi2nnunet.cli.output import (
    count,
    print_json,
    print_notice,
    print_result,
    print_table,
    print_warnings,
    show_progress,
)
from gi2nnunet.formats.ids import Certainty, LabelScheme, patient_of

if TYPE_CHECKING:
    from gi2nnunet.report.check_page import WrittenPage
    from gi2nnunet.source.check.check import SourceReport
    from gi2nnunet.source.check.suspects import Suspect
    from gi2nnunet.source.phantom.frame import Geometry

_SHAPE = "Made-up anatomy"
_PAINT = "Images onto given masks"


def phantom(
    context: typer.Context,
    out: Annotated[
        Path, typer.Argument(
            metavar="OUT", help="Folder (or, ending in .zip, zip) to write; must not exist yet."
        ),
    ],
    patients: Annotated[
        int, typer.Option(help="Training patients.", min=1, rich_help_panel=_SHAPE)
    ] = 6,
    days: Annotated[
        int, typer.Option(help="Scans of a patient, at most.", min=1, rich_help_panel=_SHAPE)
    ] = 2,
    test_patients: Annotated[
        int, typer.Option(help="More patients, under test/.", min=0, rich_help_panel=_SHAPE)
    ] = 0,
    size: Annotated[
        list[str] | None,
        typer.Option(
            help="WIDTHxHEIGHTxSLICES, with @MM for the pixel spacing (64x64x24@6); may be "
            "repeated. By default the four real geometries, mixed as in the real data.",
            rich_help_panel=_SHAPE,
        ),
    ] = None,
    easy: Annotated[
        bool,
        typer.Option("--easy", help="Smooth, little noise; for demos.", rich_help_panel=_SHAPE),
    ] = False,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="CSV of the competition's form: paint images onto these masks.",
            exists=True, dir_okay=False, rich_help_panel=_PAINT,
        ),
    ] = None,
    sizes: Annotated[
        Path | None,
        typer.Option(
            help="The masks' image sizes: a CSV with id, width, height, px_w, px_h, or a source. "
            "Without --labels: made-up anatomy at these scans' sizes.",
            exists=True, rich_help_panel=_PAINT,
        ),
    ] = None,
    sample: Annotated[
        Literal["header", "filled"],
        typer.Option(help="sample_submission.csv: the header alone, as published, or every row."),
    ] = "header",
    truth: Annotated[
        Path | None,
        typer.Option(help="CSV to write the truth of the test scans to.", dir_okay=False),
    ] = None,
    seed: SeedOption = 0,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Write a synthetic source in the competition's own layout.

    Example: gi2nnunet phantom my-source --patients 8 --days 2
    """
    if labels and not sizes:
        raise typer.BadParameter("needs --sizes", param_hint="--labels")
    if sizes:
        _refuse_options_of_anatomy(context, beside="--labels" if labels else "--sizes")
    geometries = [_parse_size(text) for text in size] if size else None
    anatomy = {
        "patients": patients,
        "days": days,
        "test_patients": test_patients,
        "geometries": geometries,
        "detail": "easy" if easy else "full",
        "truth": truth,
    }
    with show_progress() as report:
        made = api.make_phantom(
            out,
            labels=labels,
            sizes=sizes,
            sample=sample,
            seed=seed,
            jobs=jobs,
            progress=report,
            **({} if sizes else anatomy),
        )
    if as_json:
        print_json(
            {
                "source": made.path,
                "truth": made.truth,
                "scans": {"train": len(made.train), "test": len(made.test)},
                "patients": {
                    "train": len(set(map(patient_of, made.train))),
                    "test": len(set(map(patient_of, made.test))),
                },
                "slices": made.slices,
                "masks": made.masks,
            }
        )
        return
    parts = [
        f"{count(len(scans), f'{part} scan')} of "
        f"{count(len(set(map(patient_of, scans))), 'patient')}"
        for part, scans in (("training", made.train), ("test", made.test))
        if scans
    ]
    print_result(
        f"{made.path}: {', '.join(parts)}; {count(made.slices, 'slice')}, "
        f"{count(made.masks, 'mask')}"
    )
    if made.truth:
        print_result(f"{made.truth}: the truth of the test scans")
    if made.train:
        print_notice(f"Next: gi2nnunet convert {shlex.quote(str(out))}")


def _refuse_options_of_anatomy(context: typer.Context, *, beside: str) -> None:
    given = [
        f"--{name.replace('_', '-')}"
        for name in ("patients", "days", "test_patients", "size", "easy", "truth")
        if (source := context.get_parameter_source(name)) and source.name == "COMMANDLINE"
    ]
    if given:
        raise typer.BadParameter(
            f"do not apply together with {beside}, which says what scans there are; leave them out",
            param_hint=", ".join(given),
        )


def _parse_size(text: str) -> Geometry:
    match = re.fullmatch(r"(\d{1,4})x(\d{1,4})x(\d{1,4})(?:@(\d{1,3}(?:\.\d+)?))?", text)
    if not match:
        raise typer.BadParameter(
            f"found {text!r}; expected a size such as 266x266x144 or 64x64x24@6",
            param_hint="--size",
        )
    spacing = float(match[4] or 1.5)
    return gi2nnunet.Geometry(
        width=int(match[1]),
        height=int(match[2]),
        slices=int(match[3]),
        spacing_mm=(spacing, spacing),
    )


def convert(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="The competition's folder or zip, or a folder of NIfTI volumes.",
            show_default=False,
        ),
    ],
    workspace: WorkspaceOption = None,
    dataset_id: Annotated[
        int, typer.Option("--id", help="nnU-Net's dataset id.", min=1, max=999)
    ] = 501,
    name: Annotated[str, typer.Option(help="nnU-Net's dataset name.")] = "UWGI",
    labels: Annotated[
        LabelScheme,
        typer.Option(
            help="regions: bit-coded, overlaps survive. exclusive: stomach before large before "
            "small bowel."
        ),
    ] = "regions",
    folds: Annotated[
        int | None,
        typer.Option(
            help="Folds of the split, grouped by patient; by default 5, or one a patient where "
            "there are fewer.",
            min=2,
            show_default=False,
        ),
    ] = None,
    holdout: Annotated[
        str | None,
        typer.Option(
            help="Test set: a fraction of the patients (0 for none) or mle-bench; by default a "
            "tenth, at least one, of five patients or more, and none where a NIfTI source has "
            "labelled test scans, which are held out anyway.",
            show_default=False,
        ),
    ] = None,
    keep_known_bad: Annotated[
        bool, typer.Option("--keep-known-bad", help="Train on scans known to be bad, too.")
    ] = False,
    leave_out_suspects: Annotated[
        Certainty | None,
        typer.Option(
            help="Check the source first (see gi2nnunet check), and leave out of training every "
            "scan with a suspect that is at least so sure. Takes as long as a check.",
            show_default=False,
        ),
    ] = None,
    allow_missing: AllowMissingOption = False,
    source_labels: SourceLabelsOption = None,
    seed: SeedOption = 0,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Turn the competition's files into an nnU-Net raw dataset.

    Example: gi2nnunet convert uw-madison-gi-tract-image-segmentation.zip
    """
    rule = _parse_holdout(holdout)
    with show_progress() as report:
        dataset = api.convert(
            source,
            workspace=workspace,
            dataset_id=dataset_id,
            name=name,
            labels=labels,
            folds=folds,
            holdout=rule,
            keep_known_bad=keep_known_bad,
            leave_out_suspects=leave_out_suspects,
            allow_missing=allow_missing,
            source_labels=source_labels,
            seed=seed,
            jobs=jobs,
            progress=report,
            on_notice=print_notice,
        )
    print_warnings(dataset.warnings)
    parts = {part: [s for s in dataset.scans if s.part == part] for part in
             ("train", "holdout", "test")}  # fmt: skip
    if as_json:
        print_json(
            {
                "dataset": dataset.folder,
                "id": dataset.dataset_id,
                "folds": len(dataset.splits),
                "scans": {part: len(scans) for part, scans in parts.items()},
                "patients": {
                    part: len({scan.patient_id for scan in scans}) for part, scans in parts.items()
                },
                "warnings": dataset.warnings,
            }
        )
        return
    said = {"train": "training", "holdout": "held-out", "test": "unlabelled test"}
    counts = ", ".join(
        f"{count(len(scans), f'{said[part]} scan')} of "
        f"{count(len({s.patient_id for s in scans}), 'patient')}"
        for part, scans in parts.items()
        if scans
    )
    print_result(f"{dataset.folder}: {counts}; {count(len(dataset.splits), 'fold')}")
    if parts["train"]:
        print_notice("Next: " + same_workspace("gi2nnunet train --fold all", workspace))


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


def check(
    source: Annotated[
        Path, typer.Argument(
            metavar="SOURCE", help="The competition's folder or zip, or a folder of NIfTI volumes."
        ),
    ],
    allow_missing: AllowMissingOption = False,
    source_labels: SourceLabelsOption = None,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html", "--out", "-o", help="Write all of it to this page too, with plots and with "
            "pictures of the suspects.", metavar="PAGE", dir_okay=False, show_default=False,
        ),
    ] = None,
    model: Annotated[
        bool,
        typer.Option(
            "--model", help="Hold the truth against the out-of-fold predictions that are stored in "
            "the workspace (gi2nnunet out-of-fold makes them), too."
        ),
    ] = False,
    workspace: WorkspaceOption = None,
    dataset_id: IdOption = None,
    show_all: Annotated[
        bool,
        typer.Option(
            "--all", help=f"Show every suspect, not the first {_MOST_SHOWN}; picture all of them."
        ),
    ] = False,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Look at a source before training: what it holds, and what in it is worth a look.

    Writes nothing but the page that --html asks for. Suspects are measured, not proven: exit
    code 0.

    Example: gi2nnunet check uw-madison-gi-tract-image-segmentation.zip --html check.html
    """
    if not model and (workspace is not None or dataset_id is not None):
        raise typer.BadParameter("needs --model", param_hint="--workspace, --id")
    page: WrittenPage | None = None
    with show_progress() as progress:
        how: dict[str, Any] = {
            "model": model,
            "workspace": workspace,
            "dataset_id": dataset_id,
            "allow_missing": allow_missing,
            "source_labels": source_labels,
            "jobs": jobs,
            "progress": progress,
        }
        if html is None:
            found = api.check(source, **how)
        else:
            found, page = api.check_onto_page(source, html, show_all=show_all, **how)
    print_warnings(found.warnings)
    if as_json:
        content = found.to_json()
        if page is not None:
            content["page"] = {"path": str(page.path), "bytes": page.size}
        print_json(content)
        return
    _print_contents(found)
    if found.masks:
        _print_masks(found)
    _print_suspects(found, most=None if show_all else _MOST_SHOWN)
    if page is not None:
        _print_page(page)


def _print_contents(found: SourceReport) -> None:
    print_table(
        f"{found.path} ({found.kind})",
        ("part", "patients", "scans", "slices", "with truth", "of these empty"),
        (
            (
                part, row["patients"], row["scans"], row["slices"], row["labelled_slices"],
                f"{row['empty_slices']} ({_share(row['empty_slices'], row['labelled_slices'])})",
            )
            for part, row in found.count_parts().items()
        ),
    )  # fmt: skip
    intensity = {
        geometry[:2]: [
            scan.intensity for scan in found.scans if (scan.shape, scan.spacing_mm) == geometry[:2]
        ]
        for geometry in found.count_geometries()
    }
    print_table(
        "Geometries, and intensities of their scans",
        ("width x height x slices", "spacing mm", "scans", "median", "99 %", "greatest"),
        (
            (
                " x ".join(map(str, reversed(shape))),
                " x ".join(f"{mm:g}" for mm in reversed(spacing)),
                number,
                *(_range([row[at] for row in intensity[shape, spacing]]) for at in (1, 2, 3)),
            )
            for shape, spacing, number in found.count_geometries()
        ),
    )
    days = found.count_days()
    print_table("Scans of a patient", ("scans", *map(str, days)), [("patients", *days.values())])


def _print_masks(found: SourceReport) -> None:

    prevalence = found.measure_prevalence()
    print_table(
        "Slices that show the organ, % by tenth of the height, cranial first",
        ("organ", *(str(tenth + 1) for tenth in range(len(next(iter(prevalence.values())))))),
        (
            (_name(organ), *("-" if share is None else f"{share:.0%}" for share in shares))
            for organ, shares in prevalence.items()
        ),
    )
    print_table(
        "Volumes, ml",
        ("organ", "scans", "least", "median", "greatest"),
        (
            (_name(organ), *(f"{value:.0f}" for value in row or (0,)), *([] if row else "---"))
            for organ, row in found.measure_volumes().items()
        ),
    )
    print_table(
        "Overlaps",
        ("organs", "pixels", "slices"),
        ((_name(pair), *row) for pair, row in found.count_overlaps().items()),
    )


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
        f"{count(len(found.suspects), 'suspect')}, worth a look; the surest first",
        ("scan", "slice", "organ", "what", "how sure", "measured", "usual"),
        (
            (
                s.scan_id, _slices(s), _name(s.organ or ""), s.kind, s.certainty, s.measured,
                s.usual,
            )
            for s in ordered[:most]
        ),
        text_columns=7,
    )  # fmt: skip
    if most is not None and len(found.suspects) > most:
        print_result(f"{len(found.suspects) - most} more with --all, or --json.")
    for remedy in dict.fromkeys(f"{s.kind}: {s.remedy}" for s in found.suspects):
        print_result(remedy)


def _print_page(page: WrittenPage) -> None:

    left_out = ""
    if page.without_pictures:
        left_out = f"; {count(page.without_pictures, 'suspect')} without pictures (--all)"
    print_result(f"{page.path} ({page.size / 1e6:.1f} MB{left_out})")


def _slices(suspect: Suspect) -> str:
    if suspect.slice_number is None:
        return ""
    last = suspect.last_slice_number
    return f"{suspect.slice_number}" if last is None else f"{suspect.slice_number} to {last}"


def _name(organ: str) -> str:
    return organ.replace("_", " ").replace("+", " with ")


def _share(some: int, every: int) -> str:
    return f"{some / every:.0%}" if every else "-"


def _range(values: list[float]) -> str:
    return f"{min(values):.0f} to {max(values):.0f}"
