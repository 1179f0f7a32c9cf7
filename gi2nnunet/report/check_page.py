"""What a source holds and what in it is worth a look, as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from gi2nnunet.errors import OutputError
from gi2nnunet.files import check_place, replace_file
from gi2nnunet.kaggle import ORGANS
from gi2nnunet.report.cards import Card, Strip, find_typical, plan_cards, show_scan
from gi2nnunet.report.check_figures import draw_figures
from gi2nnunet.report.check_tables import build_tables, name_of
from gi2nnunet.report.pictures import CONTOUR_COLOURS, Picture, View, take_pictures
from gi2nnunet.survey import SourceReport
from gi2nnunet.suspects import LEAST_SCANS, MEANINGS
from gi2nnunet.workers import count_cores

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class WrittenPage:
    """What was written: where, its bytes, and how many suspects it tells without a picture."""

    path: Path
    size: int
    without_pictures: int


def check_page_place(path: Path, *, source: Path) -> None:
    """Refuse a place where the page cannot be written, or would be written into its source.

    Raises
    ------
    OutputError
        Saying which.
    """
    there, of_source = path.absolute().resolve(), source.absolute().resolve()
    if there == of_source or of_source in there.parents:
        raise OutputError(
            f"{path}: found a place inside the source {source}; expected one outside it, so that "
            "the source stays as it is. Give another place."
        )
    check_place(path)


def write_check_page(
    found: SourceReport,
    path: Path,
    *,
    show_all: bool = False,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> WrittenPage:
    """Write the page; scans that it shows are read again.

    Parameters
    ----------
    found
        What :func:`~gi2nnunet.survey.check_source` found.
    path
        Where; a former page is replaced.
    show_all
        Take pictures of all suspects, not of the first of each kind.
    jobs
        Scans in work at once; by default one a core.
    progress
        Told ``(done, total, what)``.

    Raises
    ------
    InputError
        Where a scan cannot be read any more.
    OutputError
        Where the page cannot be written.
    """
    check_page_place(path, source=found.path)
    cards = plan_cards(found, show_all=show_all)
    scans = {scan.scan_id: scan for scan in found.scans}
    typical = {key: show_scan(scans[scan_id]) for key, scan_id in find_typical(found).items()}
    bad = {scan_id: show_scan(scans[scan_id]) for scan_id in found.known_bad}
    strips = [*typical.values(), *bad.values(), *(s for card in cards for s in card.strips)]
    pictures = take_pictures(
        (frame.view for strip in strips for frame in strip.frames),
        load=found.load,
        jobs=jobs or count_cores(),
        progress=progress or (lambda done, total, what: None),
    )
    text = _render(found, cards=cards, typical=typical, bad=bad, pictures=pictures)
    replace_file(path, text)
    return WrittenPage(
        path=path,
        size=len(text.encode("utf-8")),
        without_pictures=sum(len(card.suspects) for card in cards if not card.strips),
    )


def _render(
    found: SourceReport, *, cards: tuple[Card, ...],
    typical: dict[tuple[tuple[int, int, int], tuple[float, float, float]], Strip],
    bad: dict[str, Strip], pictures: dict[View, Picture],
) -> str:  # fmt: skip
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["name"] = name_of
    template = environment.from_string(_read("check.html"))
    labelled = len(found.masks)
    return template.render(
        found=found,
        title=found.path.name or found.path.resolve().name,
        tables=build_tables(found, typical={key: strip.title for key, strip in typical.items()}),
        figures={name: Markup(svg) for name, svg in draw_figures(found).items()},  # noqa: S704
        cards=cards,
        anchors={suspect: card.anchor for card in cards for suspect in card.suspects},
        kinds={
            kind: (
                sum(suspect.kind == kind for suspect in found.suspects),
                meaning,
                list(dict.fromkeys(s.remedy for s in found.suspects if s.kind == kind)),
            )
            for kind, meaning in MEANINGS.items()
        },
        too_few=0 < labelled < LEAST_SCANS,
        least_scans=LEAST_SCANS,
        typical=typical,
        bad=bad,
        pictures=pictures,
        organs=ORGANS,
        colours=CONTOUR_COLOURS,
        version=version("gi2nnunet"),
        css=Markup(_read("report.css") + _read("check.css")),  # noqa: S704
    )


def _read(name: str) -> str:
    return (files("gi2nnunet.report") / name).read_text(encoding="utf-8")
