"""Plan and preprocess a dataset for a preset, doing only what is missing.

Beside nnU-Net's own files in the preprocessed folder lie small JSON marks of ours: one says of
which dataset the fingerprint and the plans were made, and one says of each data folder that it is
whole (nnU-Net trains on a half-filled one without a word).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

from gi2nnunet.core.errors import EngineError, InputError
from gi2nnunet.core.files import check_place, read_json, write_json
from gi2nnunet.core.locks import hold, hold_dataset
from gi2nnunet.core.workers import Progress, ignore
from gi2nnunet.dataset.manifest import SPLITS, Dataset
from gi2nnunet.nnunet.checks import check_configurations, check_dataset, check_split
from gi2nnunet.nnunet.engine import Engine
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


@dataclass(frozen=True, kw_only=True)
class PlannedConfiguration:
    """What nnU-Net planned for one configuration.

    Attributes
    ----------
    name
        ``2d`` or ``3d_fullres``.
    data_folder
        The preprocessed scans.
    batch_size
        Patches in a batch.
    patch_size
        In voxels, slowest axis first.
    spacing_mm
        Target spacing in the same order.
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
    preset
        The preset it was planned by.
    plans_name
        nnU-Net's plans identifier.
    plans_file
        The plans.
    configurations
        By name, those that were asked for.
    log
        nnU-Net's output, ``None`` where there was nothing to do.
    """

    preset: Preset
    plans_name: str
    plans_file: Path
    configurations: Mapping[str, PlannedConfiguration]
    log: Path | None


def plan_dataset(
    dataset: Dataset, options: PlanOptions, *, engine: Engine, progress: Progress | None = None
) -> Plan:
    """Fingerprint, plan and preprocess by nnU-Net, where that has not been done.

    Parameters
    ----------
    dataset
        A converted dataset with training scans.
    options
        What to plan.
    engine
        Where to work, and with how many workers: at most eight.
    progress
        Called with ``(done, total, what)``.

    Raises
    ------
    InputError
        For a configuration that nnU-Net does not plan for this dataset, or sizes it cannot use;
        for a dataset of which a file is missing or cut off, or a split that is not its own.
    EngineError
        Where nnU-Net fails.
    """
    if not any(scan.part == "train" for scan in dataset.scans):
        raise InputError(
            f"{dataset.folder}: holds no training scan. Convert a source that has train.csv."
        )
    check_configurations(options.configurations)
    sizes = _assign_sizes(options.patch_sizes, options.configurations)
    preset = choose_preset(options.preset, memory_gib=engine.hardware.memory_gib)
    check_dataset(dataset)
    folder = engine.workspace.preprocessed / dataset.name
    if (folder / SPLITS).exists():
        check_split(dataset, folder)
    plans_name = preset.plans_name + name_sizes(options.batch_size, sizes)
    steps = _Steps(engine, folder)
    processes = steps.processes
    report = progress or ignore

    with (
        hold_dataset(engine.workspace.raw, dataset.dataset_id, purpose="planning"),
        # Two trainings that start together: the second waits for what the first preprocesses.
        hold(folder / "plans", purpose="planning", on_wait=lambda holder: report(0, 1, holder)),
    ):
        source = {"dataset": dataset.digest}
        fingerprint_mark = folder / FINGERPRINT_MARK
        if (
            read_json(fingerprint_mark) != source
            or not (folder / "dataset_fingerprint.json").is_file()
        ):
            report(0, 1, "extracting the dataset's fingerprint")
            steps.run("fingerprint", {"dataset_id": dataset.dataset_id, "processes": processes})
            write_json(fingerprint_mark, source)

        plans_file = folder / f"{plans_name}.json"
        plan_mark = folder / f"gi2nnunet_{plans_name}.json"
        recipe = {
            **source,
            "preset": asdict(preset),
            "batch_size": options.batch_size,
            "patch_sizes": sizes,
        }
        mark = read_json(plan_mark)
        if mark.get("recipe") != recipe or mark.get("plans") != digest_file(plans_file):
            report(0, 1, f"planning ({preset.name})")
            plans_file.unlink(missing_ok=True)  # nnU-Net would keep configurations of an older one
            planned = steps.run(
                "plan",
                {
                    "dataset_id": dataset.dataset_id,
                    "planner": preset.planner,
                    "plans_name": plans_name,
                    "data_name": preset.plans_name,
                    "tiny": preset.name == "tiny",
                    "batch_size": options.batch_size,
                    "patch_sizes": sizes,
                },
            )
            mark = {
                "recipe": recipe,
                "plans": digest_file(plans_file),
                "configurations": planned["configurations"],
            }
            write_json(plan_mark, mark)

        planned_now = read_planned(folder, plans_name)
        chosen: dict[str, PlannedConfiguration] = {}
        for name in options.configurations:
            if name not in planned_now:
                raise InputError(
                    f"--config {name}: nnU-Net planned {', '.join(mark['configurations'])} "
                    "for this dataset. Choose one of these."
                )
            chosen[name] = planned_now[name]
        for name, configuration in chosen.items():
            preprocessing = digest_preprocessing(plans_file, name)
            if is_preprocessed(configuration, dataset, preprocessing=preprocessing):
                continue
            completion_mark(configuration.data_folder).unlink(missing_ok=True)
            steps.run_watched(
                {
                    "dataset_id": dataset.dataset_id,
                    "plans_name": plans_name,
                    "configuration": name,
                    "processes": processes,
                },
                folder=configuration.data_folder,
                total=dataset_size(dataset),
                report=partial(_report_as, report, f"preprocessing {name}"),
            )
            found = _count_scans(configuration.data_folder)
            if found != dataset_size(dataset):
                raise EngineError(
                    f"{configuration.data_folder}: found {found} preprocessed scans; expected "
                    f"{dataset_size(dataset)}. Run the same command again; if another run works on "
                    "this workspace, let it end first."
                )
            write_json(
                completion_mark(configuration.data_folder),
                {**source, "preprocessing": preprocessing, "scans": found},
            )
        return Plan(
            preset=preset,
            plans_name=plans_name,
            plans_file=plans_file,
            configurations=chosen,
            log=steps.log.path if steps.log else None,
        )


def read_planned(folder: Path, plans_name: str) -> dict[str, PlannedConfiguration]:
    """Return what was planned under a name in a preprocessed folder; empty where nothing was."""
    mark = read_json(folder / f"gi2nnunet_{plans_name}.json")
    return {
        name: PlannedConfiguration(
            name=name,
            data_folder=folder / values["data_identifier"],
            batch_size=values["batch_size"],
            patch_size=tuple(values["patch_size"]),
            spacing_mm=tuple(values["spacing"]),
        )
        for name, values in mark.get("configurations", {}).items()
    }


def is_preprocessed(
    configuration: PlannedConfiguration, dataset: Dataset, *, preprocessing: str
) -> bool:
    """Return whether a data folder holds every training scan of this very dataset.

    ``preprocessing`` is what :func:`digest_preprocessing` gives for the plan to train by.
    """
    mark = read_json(completion_mark(configuration.data_folder))
    return (
        mark.get("dataset") == dataset.digest
        and mark.get("preprocessing") == preprocessing
        and _count_scans(configuration.data_folder) == dataset_size(dataset)
    )


def digest_preprocessing(plans_file: Path, configuration: str) -> str:
    """Return a short digest of all in a plan that preprocessed scans depend on.

    Network, batch and patch size are left out: plans that differ in these share a data folder.
    """
    plans = read_json(plans_file)
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
    """Return the file that says that a data folder is whole."""
    # Beside the data folder: nnU-Net takes every file inside for a scan.
    return folder.with_name(f"gi2nnunet_{folder.name}.complete.json")


def _count_scans(folder: Path) -> int:
    try:
        return sum(entry.name.endswith(".pkl") for entry in os.scandir(folder))
    except OSError:
        return 0


def digest_file(path: Path) -> str | None:
    """Return a short digest of a file; ``None`` where it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError:
        return None


def _report_as(report: Progress, what: str, done: int, total: int) -> None:
    report(done, total, what)


class _Steps:
    """Runs the engine's steps of one planning, all into one log, made at the first of them."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine = engine
        self.folder = folder
        self.processes = min(_MOST_PROCESSES, engine.workers)
        self.log: LogFile | None = None

    def run(self, task: str, options: Mapping[str, Any]) -> dict[str, Any]:
        check_place(self.folder / "plans.json")
        self.log = self.log or self.engine.new_log("plan")
        return self.engine.run(
            task, options, log=self.log, processes=self.processes, helpers=self.processes
        )

    def run_watched(
        self,
        options: Mapping[str, Any],
        *,
        folder: Path,
        total: int,
        report: Callable[[int, int], None],
    ) -> None:
        """Preprocess, telling the progress by the files that appear."""
        done = Event()

        def watch() -> None:
            while not done.wait(0.5):
                report(min(_count_scans(folder), total), total)

        watcher = Thread(target=watch, daemon=True)
        watcher.start()
        try:
            self.run("preprocess", options)
        finally:
            done.set()
            watcher.join()
        report(total, total)
