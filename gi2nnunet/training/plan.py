"""Planning and preprocessing of a dataset for a preset; only missing steps are run.

Small JSON marks beside nnU-Net's own files record from which dataset the fingerprint and the plans
were made, and that a data folder is complete (nnU-Net trains on a half-filled one without warning).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

from pydantic import PositiveFloat
from typing_extensions import TypedDict

from gi2nnunet.core.errors import EngineError, InputError
from gi2nnunet.core.files import Count, check_place, find_record, write_json
from gi2nnunet.core.locks import hold, hold_dataset
from gi2nnunet.core.workers import Progress, ignore
from gi2nnunet.dataset.manifest import SPLITS, Dataset
from gi2nnunet.nnunet.checks import check_configurations, check_dataset, require_own_split
from gi2nnunet.nnunet.engine import Engine
from gi2nnunet.nnunet.models import Plans
from gi2nnunet.nnunet.presets import PlanOptions, Preset, choose_preset, name_sizes
from gi2nnunet.nnunet.process import LogFile

_MOST_PROCESSES = 8

FINGERPRINT_MARK = "gi2nnunet_fingerprint.json"
_PREPROCESSING_OF_PLANS = (
    "image_reader_writer", "transpose_forward", "foreground_intensity_properties_per_channel",
)  # fmt: skip
_PREPROCESSING_OF_CONFIGURATION = (
    "preprocessor_name", "spacing", "normalization_schemes", "use_mask_for_norm",
    "resampling_fn_data", "resampling_fn_data_kwargs",
    "resampling_fn_seg", "resampling_fn_seg_kwargs",
)  # fmt: skip


class PlannedEntry(TypedDict):
    """What a plan's mark says of a configuration, in nnU-Net's words."""

    data_identifier: str
    batch_size: Count
    patch_size: tuple[Count, ...]
    spacing: tuple[PositiveFloat, ...]


class PlanMark(TypedDict):
    """Our mark beside nnU-Net's plans: from what they were made, their digest, what they hold."""

    recipe: dict[str, Any]
    plans: str | None
    configurations: dict[str, PlannedEntry]


class DataMark(TypedDict, total=False):
    """Our mark of a fingerprint, and of a folder of preprocessed scans that is whole."""

    dataset: str
    preprocessing: str
    scans: Count


@dataclass(frozen=True, kw_only=True)
class PlannedConfiguration:
    """What nnU-Net planned for one configuration, such as ``2d``.

    Patch size (voxels) and target spacing have their slowest axis first.
    """

    name: str
    data_folder: Path
    batch_size: int
    patch_size: tuple[int, ...]
    spacing_mm: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A planned and preprocessed dataset, ready to train.

    Attributes
    ----------
    plans_name
        nnU-Net's plans identifier.
    configurations
        By name, the requested ones.
    log
        nnU-Net's output; ``None`` if there was nothing to do.
    """

    preset: Preset
    plans_name: str
    plans_file: Path
    configurations: Mapping[str, PlannedConfiguration]
    log: Path | None


def plan_dataset(
    dataset: Dataset, options: PlanOptions, *, engine: Engine, progress: Progress | None = None
) -> Plan:
    """Fingerprint, plan and preprocess a dataset by nnU-Net; each step only if it is missing.

    Parameters
    ----------
    dataset
        A converted dataset with training scans.
    engine
        At most eight of its workers preprocess.
    progress
        Called with ``(done, total, what)``.

    Raises
    ------
    InputError
        For a configuration that nnU-Net does not plan for this dataset, or sizes it cannot use;
        for a dataset with a missing or truncated file, or with a split that is not its own.
    EngineError
        If nnU-Net fails.
    """
    if not any(scan.part == "train" for scan in dataset.scans):
        raise InputError(
            f"{dataset.folder}: holds no training scan. Convert a source that has train.csv."
        )
    check_configurations(options.configurations)
    planning = _Planning(dataset, options, engine, progress or ignore)
    check_dataset(dataset)
    if (planning.folder / SPLITS).exists():
        require_own_split(dataset, planning.folder)
    with (
        hold_dataset(engine.workspace.raw, dataset.dataset_id, purpose="planning"),
        # Two trainings that start together: the second waits for what the first preprocesses.
        hold(
            planning.folder / "plans",
            purpose="planning",
            on_wait=lambda holder: planning.report(0, 1, holder),
        ),
    ):
        planning.fingerprint()
        planning.plan()
        chosen = planning.choose()
        for configuration in chosen.values():
            planning.preprocess(configuration)
    return Plan(
        preset=planning.preset,
        plans_name=planning.plans_name,
        plans_file=planning.plans_file,
        configurations=chosen,
        log=planning.log.path if planning.log else None,
    )


class _Planning:
    """One planning: its steps by the engine, all into one log, which the first step makes."""

    def __init__(
        self, dataset: Dataset, options: PlanOptions, engine: Engine, report: Progress
    ) -> None:
        self.dataset, self.options, self.engine, self.report = dataset, options, engine, report
        self.sizes = _assign_sizes(options.patch_sizes, options.configurations)
        self.preset = choose_preset(options.preset, memory_gib=engine.hardware.memory_gib)
        self.plans_name = self.preset.plans_name + name_sizes(options.batch_size, self.sizes)
        self.folder = engine.workspace.preprocessed / dataset.name
        self.plans_file = self.folder / f"{self.plans_name}.json"
        self.processes = min(_MOST_PROCESSES, engine.workers)
        self.source = {"dataset": dataset.digest}
        self.log: LogFile | None = None

    def fingerprint(self) -> None:
        """Extract nnU-Net's fingerprint of the dataset."""
        mark = self.folder / FINGERPRINT_MARK
        is_there = (self.folder / "dataset_fingerprint.json").is_file()
        if is_there and find_record(mark, DataMark) == self.source:
            return
        self.report(0, 1, "extracting the dataset's fingerprint")
        self._run("fingerprint", {"processes": self.processes})
        write_json(mark, self.source)

    def plan(self) -> None:
        """Write nnU-Net's plans, unless they were made by the same recipe."""
        path = _plan_mark(self.folder, self.plans_name)
        recipe = {
            **self.source,
            "preset": asdict(self.preset),
            "batch_size": self.options.batch_size,
            "patch_sizes": self.sizes,
        }
        mark = find_record(path, PlanMark)
        if mark and mark["recipe"] == recipe and mark["plans"] == digest_file(self.plans_file):
            return
        self.report(0, 1, f"planning ({self.preset.name})")
        self.plans_file.unlink(missing_ok=True)  # nnU-Net would keep configurations of an older one
        planned = self._run(
            "plan",
            {
                "planner": self.preset.planner,
                "plans_name": self.plans_name,
                "data_name": self.preset.plans_name,
                "tiny": self.preset.name == "tiny",
                "batch_size": self.options.batch_size,
                "patch_sizes": self.sizes,
            },
        )
        digest = digest_file(self.plans_file)
        write_json(
            path,
            {"recipe": recipe, "plans": digest, "configurations": planned["configurations"]},
        )

    def choose(self) -> dict[str, PlannedConfiguration]:
        """Return the configurations to use; refuse one that is not planned."""
        planned = read_planned(self.folder, self.plans_name)
        for name in self.options.configurations:
            if name not in planned:
                raise InputError(
                    f"--config {name}: nnU-Net planned {', '.join(planned)} for this dataset. "
                    "Choose one of these."
                )
        return {name: planned[name] for name in self.options.configurations}

    def preprocess(self, configuration: PlannedConfiguration) -> None:
        """Preprocess every training scan, unless that is done; report progress meanwhile."""
        folder, total = configuration.data_folder, dataset_size(self.dataset)
        digest = digest_preprocessing(self.plans_file, configuration.name)
        if is_preprocessed(configuration, self.dataset, preprocessing=digest):
            return
        completion_mark(folder).unlink(missing_ok=True)
        what, done = f"preprocessing {configuration.name}", Event()

        def watch() -> None:
            while not done.wait(0.5):
                self.report(min(_count_scans(folder), total), total, what)

        watcher = Thread(target=watch, daemon=True)
        watcher.start()
        try:
            self._run(
                "preprocess",
                {
                    "plans_name": self.plans_name,
                    "configuration": configuration.name,
                    "processes": self.processes,
                },
            )
        finally:
            done.set()
            watcher.join()
        self.report(total, total, what)
        found = _count_scans(folder)
        if found != total:
            raise EngineError(
                f"{folder}: found {found} preprocessed scans; expected {total}. Run the same "
                "command again; if another run works on this workspace, let it end first."
            )
        mark = {**self.source, "preprocessing": digest, "scans": found}
        write_json(completion_mark(folder), mark)

    def _run(self, task: str, options: Mapping[str, Any]) -> dict[str, Any]:
        check_place(self.folder / "plans.json")
        self.log = self.log or self.engine.new_log("plan")
        return self.engine.run(
            task,
            {"dataset_id": self.dataset.dataset_id, **options},
            log=self.log,
            processes=self.processes,
            helpers=self.processes,
        )


def _plan_mark(folder: Path, plans_name: str) -> Path:
    return folder / f"gi2nnunet_{plans_name}.json"


def read_planned(folder: Path, plans_name: str) -> dict[str, PlannedConfiguration]:
    """Return what was planned under a name in a preprocessed folder; empty if nothing was."""
    mark = find_record(_plan_mark(folder, plans_name), PlanMark)
    return {
        name: PlannedConfiguration(
            name=name,
            data_folder=folder / values["data_identifier"],
            batch_size=values["batch_size"],
            patch_size=values["patch_size"],
            spacing_mm=values["spacing"],
        )
        for name, values in (mark["configurations"] if mark else {}).items()
    }


def is_preprocessed(
    configuration: PlannedConfiguration, dataset: Dataset, *, preprocessing: str
) -> bool:
    """Return whether a data folder holds every training scan of this dataset as it is now.

    ``preprocessing`` is :func:`digest_preprocessing` of the plan to train by.
    """
    mark = find_record(completion_mark(configuration.data_folder), DataMark) or {}
    return (
        mark.get("dataset") == dataset.digest
        and mark.get("preprocessing") == preprocessing
        and _count_scans(configuration.data_folder) == dataset_size(dataset)
    )


def digest_preprocessing(plans_file: Path, configuration: str) -> str:
    """Return a short digest of everything in a plan that preprocessed scans depend on.

    Network, batch and patch size are left out: plans that differ in these share a data folder.
    """
    remedy = "Make it again with: gi2nnunet plan"
    plans: dict[str, Any] = {**(find_record(plans_file, Plans, remedy=remedy) or {})}
    configured = plans.get("configurations", {}).get(configuration, {})
    values = [
        *(plans.get(key) for key in _PREPROCESSING_OF_PLANS),
        *(configured.get(key) for key in _PREPROCESSING_OF_CONFIGURATION),
    ]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def dataset_size(dataset: Dataset) -> int:
    """Return the number of training scans."""
    return sum(scan.part == "train" for scan in dataset.scans)


def _assign_sizes(
    patch_sizes: Sequence[Sequence[int]], configurations: Sequence[str]
) -> dict[str, list[int]]:
    """Give each patch size to the configurations of as many axes."""
    axes_of = {name: 2 if name == "2d" else 3 for name in configurations}
    by_axes: dict[int, list[int]] = {}
    for size in patch_sizes:
        shown = "x".join(map(str, size))
        if len(size) not in axes_of.values():
            raise InputError(
                f"--patch-size {shown}: none of the configurations {', '.join(configurations)} "
                f"has {len(size)} axes. 2d takes two numbers, the 3D configurations three."
            )
        if len(size) in by_axes:
            raise InputError(f"--patch-size {shown}: a second one of {len(size)} axes. Give one.")
        by_axes[len(size)] = [int(value) for value in size]
    return {name: by_axes[axes] for name, axes in axes_of.items() if axes in by_axes}


def completion_mark(folder: Path) -> Path:
    """Return the file that records that a data folder is complete."""
    # Beside the data folder: nnU-Net reads every file inside as a scan.
    return folder.with_name(f"gi2nnunet_{folder.name}.complete.json")


def _count_scans(folder: Path) -> int:
    try:
        return sum(entry.name.endswith(".pkl") for entry in os.scandir(folder))
    except OSError:
        return 0


def digest_file(path: Path) -> str | None:
    """Return a short digest of a file; ``None`` if it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError:
        return None
