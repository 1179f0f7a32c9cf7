"""The command that looks at a source before training: check."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gi2nnunet.cli.options import AllowMissingOption, JobsOption, JsonOption, SourceLabelsOption

if TYPE_CHECKING:
    from gi2nnunet.report.check_page import WrittenPage
    from gi2nnunet.survey import SourceReport

_MOST_SHOWN = 30


def register(app: typer.Typer) -> None:
    """Add this command to the application."""
    app.command("check")(check)


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
    from gi2nnunet.cli.show import print_json, print_warnings, show_progress
    from gi2nnunet.survey import check_source

    page: WrittenPage | None = None
    if html is not None:
        from gi2nnunet.report.check_page import check_page_place, write_check_page

        check_page_place(html, source=source)
    with show_progress() as progress:
        found = check_source(
            source,
            allow_missing=allow_missing,
            source_labels=source_labels,
            jobs=jobs,
            progress=progress,
        )
        if html is not None:
            page = write_check_page(found, html, show_all=show_all, jobs=jobs, progress=progress)
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
    from gi2nnunet.cli.show import print_table

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
    from gi2nnunet.cli.show import print_table

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
    from gi2nnunet.cli.show import count, print_result, print_table

    if found.known_bad:
        print_table(
            "Known bad scans (convert leaves them out)", ("scan", "why"), found.known_bad.items(),
            text_columns=2,
        )  # fmt: skip
    if not found.suspects:
        print_result("No suspects: nothing measures unlike the rest.")
        return
    print_table(
        f"{count(len(found.suspects), 'suspect')}, worth a look",
        ("scan", "slice", "organ", "what", "measured", "usual"),
        (
            (s.scan_id, s.slice_number or "", _name(s.organ or ""), s.kind, s.measured, s.usual)
            for s in found.suspects[:most]
        ),
        text_columns=6,
    )
    if most is not None and len(found.suspects) > most:
        print_result(f"{len(found.suspects) - most} more with --all, or --json.")
    for remedy in dict.fromkeys(f"{s.kind}: {s.remedy}" for s in found.suspects):
        print_result(remedy)


def _print_page(page: WrittenPage) -> None:
    from gi2nnunet.cli.show import count, print_result

    left_out = ""
    if page.without_pictures:
        left_out = f"; {count(page.without_pictures, 'suspect')} without pictures (--all)"
    print_result(f"{page.path} ({page.size / 1e6:.1f} MB{left_out})")


def _name(organ: str) -> str:
    return organ.replace("_", " ").replace("+", " with ")


def _share(some: int, every: int) -> str:
    return f"{some / every:.0%}" if every else "-"


def _range(values: list[float]) -> str:
    return f"{min(values):.0f} to {max(values):.0f}"
