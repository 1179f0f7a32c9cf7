"""Keywords that many calls share: how a source is opened, the workspace, the engine."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gi2nnunet.dataset.workspace import Workspace
    from gi2nnunet.formats.ids import LabelScheme, Orientation
    from gi2nnunet.nnunet.engine import Engine
    from gi2nnunet.source.scan import SourceOptions

FilePath = Path | str


def find_workspace(folder: FilePath | None) -> Workspace:
    """Return the given folder's workspace, else that of nnU-Net's variables, else the default."""
    from gi2nnunet.dataset.workspace import open_workspace

    return open_workspace(Path(folder) if folder else None, environ=os.environ)


def open_engine(
    workspace: FilePath | None = None,
    *,
    device: str = "auto",
    gpus: int | None = None,
    jobs: int | None = None,
    threads: int | None = None,
    trust: bool = False,
) -> Engine:
    """Return what runs nnU-Net in a workspace; this starts nothing yet."""
    from gi2nnunet.nnunet.engine import Engine

    return Engine(
        workspace=find_workspace(workspace), environ=os.environ, device=device, gpus=gpus,
        jobs=jobs, threads=threads, trust=trust,
    )  # fmt: skip


def list_texts(given: str | int | Sequence[str | int] | None) -> list[str]:
    """Return one or several, given as text or number, as texts; none for ``None``."""
    if given is None:
        return []
    return [str(item) for item in ([given] if isinstance(given, str | int) else given)]


@dataclass(frozen=True, kw_only=True)
class Opening:
    """Keywords of how the images of a source are opened."""

    allow_missing: bool = False
    orientation: Orientation = "affine"
    series: str | None = None
    any_modality: bool = False
    show_paths: bool = False

    def make_source_options(self) -> SourceOptions:
        """Return these as the options of a source that is opened without truth."""
        from gi2nnunet.source.scan import DicomOptions, SourceOptions

        dicom = DicomOptions(
            series=self.series, any_modality=self.any_modality, show_paths=self.show_paths
        )
        return SourceOptions(
            truth=False, allow_missing=self.allow_missing, orientation=self.orientation, dicom=dicom
        )


@dataclass(frozen=True, kw_only=True)
class OpeningWithTruth(Opening):
    """Keywords of how a source is opened with its truth."""

    source_labels: LabelScheme | None = None
    label_map: str | None = None
    structures: FilePath | None = None
    roi: Mapping[str, str] | Sequence[str] | None = None

    def make_source_options(self) -> SourceOptions:
        """Return these as the options of a source."""
        from gi2nnunet.formats.structures import parse_names

        images = super().make_source_options()
        structures = Path(self.structures) if self.structures else None
        names = parse_names(self.roi, option="--roi")
        return replace(
            images, truth=True, source_labels=self.source_labels, label_map=self.label_map,
            dicom=replace(images.dicom, structures=structures, roi=names),
        )  # fmt: skip
