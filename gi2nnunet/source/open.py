"""Source, opened: the one way to the scans of a folder, a zip or a file of any kind.

A further kind of source is a module with a subclass of :class:`~gi2nnunet.source.scan.Source` and
one of :class:`~gi2nnunet.source.scan.Scan`, and an entry in :data:`SOURCES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gi2nnunet.core.errors import InputError
from gi2nnunet.source.competition import CompetitionSource
from gi2nnunet.source.dataset import DatasetSource
from gi2nnunet.source.dicom import DicomSource
from gi2nnunet.source.nifti import NiftiSource
from gi2nnunet.source.scan import DicomOptions, Scan, Source, SourceOptions

SOURCES: tuple[type[Source], ...] = (DatasetSource, NiftiSource, DicomSource, CompetitionSource)
"""Tried in this order; the last one says what was expected if no kind fits."""

_ADVICE = "To go on with what is there, add --allow-missing."


def open_source(path: Path | str, options: SourceOptions | None = None) -> Source:
    """Open what a user gave: the competition's folder or zip, NIfTI, DICOM, a converted dataset.

    Names, tables and headers are read, but no image.

    Parameters
    ----------
    path
        A folder, a zip, a NIfTI file or a multi-frame DICOM file.

    Raises
    ------
    InputError
        If it is not a source, does not fit together, or an option does not fit it; all that is
        wrong is listed.
    """
    options = options or SourceOptions()
    if options.label_map and options.source_labels:
        raise InputError(
            f"{path}: found --label-map and --source-labels (of encode: --labels), which both say "
            "how labels are coded; expected one of them. Leave out the other."
        )
    for kind in SOURCES:
        source = _open(kind, Path(path), options)
        if source is not None:
            asked = replace(options.dicom, patients=None, uneven=False)
            if kind is not DicomSource and asked != DicomOptions():
                raise InputError(
                    f"{path}: found no DICOM files; expected some, because an option is only for "
                    "DICOM (--series, --structures, --roi, --any-modality, --show-paths). Leave "
                    "it out, or give a DICOM source."
                )
            if (options.label_map or options.source_labels) and not issubclass(kind, NiftiSource):
                raise InputError(
                    f"{path}: found no NIfTI labels; expected some, because an option is only for "
                    "them (--label-map, --source-labels). Leave it out, or give NIfTI labels."
                )
            return source
    raise InputError(f"{path}: is not a known kind of source.")


def _open(kind: type[Source], path: Path, options: SourceOptions) -> Source | None:
    """Open a source of one kind; a refusal says so if ``--allow-missing`` would prevent it."""
    try:
        return kind.open(path, options)
    except InputError as error:
        if options.scope == "hidden" or options.labels_only or options.dicom.uneven:
            raise  # the commands that ask for these do not have the option
        if not _can_open(kind, path, options):
            raise
        raise InputError(f"{error} {_ADVICE}") from None


def _can_open(kind: type[Source], path: Path, options: SourceOptions) -> bool:
    """Return whether a source that was refused can be opened with ``--allow-missing``."""
    if options.allow_missing:
        return False
    dicom = replace(options.dicom, patients=None)
    try:
        kind.open(path, replace(options, allow_missing=True, dicom=dicom))
    except InputError:
        return False
    return True


def scan_from_json(content: Mapping[str, Any]) -> Scan:
    """Return the scan that :meth:`~gi2nnunet.source.scan.Scan.to_json` described."""
    for kind in SOURCES:
        if kind.scan_type.kind == content["kind"]:
            return kind.scan_type.from_json(content)
    raise ValueError(f"a scan of the kind {content['kind']!r}")
