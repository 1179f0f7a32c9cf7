"""Planning and preprocessing of a dataset for a preset; only what is missing or damaged is made."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

from gi2nnunet.core.errors import EngineError, InputError, OutputError, name_some
from gi2nnunet.core.files import check_place, find_record, part_file, replace_file, write_json
from gi2nnunet.core.locks import hold, hold_dataset
from gi2nnunet.core.seals import Seal, find_changed, renew_seals
from gi2nnunet.core.workers import Progress, ignore
from gi2nnunet.dataset.checks import find_strangers
from gi2nnunet.dataset.manifest import SPLITS, Dataset
from gi2nnunet.nnunet.checks import check_configurations, check_dataset, require_own_split
from gi2nnunet.nnunet.engine import Engine
from gi2nnunet.nnunet.presets import (
    PlanOptions,
    Preset,
    choose_preset,
    name_sizes,
    refuse_size,
)
from gi2nnunet.nnunet.process import LogFile
from gi2nnunet.source.dataset import Fold
from gi2nnunet.source.nifti import DATASET_JSON
from gi2nnunet.training.foreground import find_organs, warn_of_absent_organs
from gi2nnunet.training.prepared import (
    FINGERPRINT,
    TRUTH_FOLDER,
    FingerprintMark,
    PlanMark,
    PlannedConfiguration,
    completion_mark,
    digest_file,
    digest_preprocessing,
    find_fingerprint,
    has_same_sizes,
    inspect_data,
    list_truth_copies,
    mark_fingerprint,
    name_data_files,
    name_strangers,
    plan_mark,
    read_planned,
    seal_data,
    seal_source,
)

_MOST_PROCESSES = 8
_NOT_PLANNED = (
    "nnU-Net plans no 3D network that can be trained for scans of one slice, or of 8 to 11 slices "
    "that are much closer than the pixels"
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A planned and preprocessed dataset, ready to train.

    Attributes
    ----------
    configurations
        By name, the requested ones.
    log
        nnU-Net's output; ``None`` if there was nothing to do.
    warnings
        Sentences on organs that are not in every fold, and on configurations that are left out.
    """

    preset: Preset
    plans_name: str
    plans_file: Path
    configurations: Mapping[str, PlannedConfiguration]
    log: Path | None
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "preset": self.preset.name,
            "plans": self.plans_name,
            "file": str(self.plans_file),
            "configurations": {
                name: {
                    "patch_size": list(planned.patch_size),
                    "batch_size": planned.batch_size,
                    "spacing_mm": list(planned.spacing_mm),
                    "folder": str(planned.data_folder),
                }
                for name, planned in self.configurations.items()
            },
            "log": str(self.log) if self.log else None,
        }


def plan_dataset(
    dataset: Dataset, options: PlanOptions, *, engine: Engine, progress: Progress | None = None
) -> Plan:
    """Fingerprint, plan and preprocess a dataset by nnU-Net; only what is missing or damaged.

    Files are compared by size and time stamp, and by content if the time stamp is another one.

    Parameters
    ----------
    engine
        At most eight of its workers preprocess.

    Raises
    ------
    InputError
        For a configuration that nnU-Net does not plan for this dataset, or sizes it cannot use;
        for a dataset with a missing or changed file, with a split that is not its own, or without
        any organ; for files among the preprocessed scans that are not of these.
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
    with (
        hold_dataset(engine.workspace.raw, dataset.dataset_id, purpose="planning"),
        # Two trainings that start together: the second waits for what the first preprocesses.
        hold(
            planning.folder / "plans",
            purpose="planning",
            on_wait=lambda holder: planning.report(0, 1, holder),
        ),
    ):
        planning.check_source()
        planning.restore_split()
        planning.fingerprint()
        planning.plan()
        chosen = planning.choose()
        planning.restore_copies()
        for configuration in chosen.values():
            planning.preprocess(configuration)
    return Plan(
        preset=planning.preset,
        plans_name=planning.plans_name,
        plans_file=planning.plans_file,
        configurations=chosen,
        log=planning.log.path if planning.log else None,
        warnings=(*planning.left_out, *warn_of_absent_organs(planning.organs, dataset.splits)),
    )


class _Planning:
    """One planning: its steps by the engine, all into one log, which the first step makes."""

    def __init__(
        self, dataset: Dataset, options: PlanOptions, engine: Engine, report: Progress
    ) -> None:
        self.dataset, self.options, self.engine, self.report = dataset, options, engine, report
        self.sizes = _sort_sizes(options.patch_sizes)
        self.preset = choose_preset(options.preset, memory_gib=engine.hardware.memory_gib)
        self.plans_name = name_plans(self.preset, options)
        self.folder = engine.workspace.preprocessed / dataset.name
        self.plans_file = self.folder / f"{self.plans_name}.json"
        axes = {_count_axes(name) for name in options.configurations}
        unused = [size for size in self.sizes if size not in axes]
        results = engine.workspace.results / dataset.name
        places = (self.plans_file, plan_mark(self.folder, self.plans_name))
        known = any(path.is_file() for path in places)
        known = known or any(results.glob(f"*__{self.plans_name}__*"))
        if unused and not known:  # else they say which plans
            shown = "x".join(map(str, self.sizes[unused[0]]))
            raise InputError(
                f"--patch-size {shown}: none of the configurations "
                f"{', '.join(options.configurations)} has {unused[0]} axes. "
                "2d takes two numbers, the 3D configurations three."
            )
        self.processes = min(_MOST_PROCESSES, engine.workers)
        self.source: dict[str, Seal] = {}
        self.organs: dict[str, list[str]] = {}
        self.truth = list_truth_copies(dataset)
        self.log: LogFile | None = None
        self.left_out: list[str] = []

    def check_source(self) -> None:
        """Refuse a dataset with other contents than its manifest says, or without any organ."""
        mark = self._find_mark()
        noted = mark["modified_ns"] if mark else {}
        self.report(0, 1, "checking the dataset")
        if strangers := find_strangers(self.dataset):
            raise InputError("\n".join(map(str, strangers)))
        seals = seal_source(self.dataset, noted)
        if changed := find_changed(self.dataset.folder, seals):
            raise InputError(
                f"{self.dataset.folder}: found other content in {name_some(changed)}; expected the "
                "files as they were converted. Repair it by running the same gi2nnunet convert "
                "again."
            )
        self.source = renew_seals(self.dataset.folder, seals)
        self.organs = mark["organs"] if mark else find_organs(self.dataset)
        if not any(self.organs.values()):
            raise InputError(
                f"{self.dataset.folder}: found no foreground in any training scan; expected masks "
                "of organs. Convert a source that has some."
            )
        if mark and self._modified_ns != noted:
            with suppress(OutputError):  # only saves reading the files next time
                mark_fingerprint(self.folder, {**mark, "modified_ns": self._modified_ns})

    @property
    def _modified_ns(self) -> dict[str, int]:
        return {name: seal["modified_ns"] for name, seal in self.source.items()}

    def _find_mark(self) -> FingerprintMark | None:
        """Return the mark of the fingerprint, if it is of this dataset."""
        mark = find_fingerprint(self.folder)
        return mark if mark and mark["dataset"] == self.dataset.digest else None

    def restore_split(self) -> None:
        """Write the split if it is missing or damaged; refuse another one than the dataset's."""
        path = self.folder / SPLITS
        if self.dataset.splits and find_record(path, list[Fold]) is None:
            check_place(path)
            replace_file(path, json.dumps(list(self.dataset.splits), indent=2) + "\n")
        if path.exists():
            require_own_split(self.dataset, self.folder)

    def fingerprint(self) -> None:
        """Extract nnU-Net's fingerprint of the dataset."""
        path, mark = self.folder / FINGERPRINT, self._find_mark()
        if mark and mark["fingerprint"] is not None and mark["fingerprint"] == digest_file(path):
            return
        self.report(0, 1, "extracting the dataset's fingerprint")
        self._run("fingerprint", {"processes": self.processes})
        content: FingerprintMark = {
            "dataset": self.dataset.digest,
            "fingerprint": digest_file(path),
            "modified_ns": self._modified_ns,
            "organs": self.organs,
        }
        mark_fingerprint(self.folder, content)

    def restore_copies(self) -> None:
        """Copy the dataset's description and labels again where nnU-Net's copies are not equal."""
        copied = {f"{TRUTH_FOLDER}/{name}": f"labelsTr/{name}" for name in self.truth}
        copied |= {DATASET_JSON: DATASET_JSON}
        for name in find_changed(self.folder, {to: self.source[of] for to, of in copied.items()}):
            with part_file(self.folder / name) as part:
                shutil.copy2(self.dataset.folder / copied[name], part)

    def plan(self) -> None:
        """Write nnU-Net's plans, unless they were made by the same recipe."""
        path = plan_mark(self.folder, self.plans_name)
        recipe = {
            "dataset": self.dataset.digest,
            "preset": asdict(self.preset),
            "batch_size": self.options.batch_size,
            "patch_sizes": self.sizes,
        }
        mark = find_record(path, PlanMark)
        if (
            mark
            and mark["recipe"] == recipe
            and mark["plans"] == digest_file(self.plans_file)
            and has_same_sizes(self.plans_file, mark)
        ):
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
                "asked": list(self.options.configurations),
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
        asked = self.options.configurations
        missing = [name for name in asked if name not in planned]
        if missing and (not self.options.by_default or len(missing) == len(asked)):
            others = (
                f"Give --config {' --config '.join(planned)}" if planned else "Give larger scans"
            )
            raise InputError(
                f"{self.plans_file}: found no plan of {', '.join(missing)}, as {_NOT_PLANNED}; "
                f"expected one, as a training is asked for. {others}."
            )
        self.left_out = [f"{name} is left out: {_NOT_PLANNED}" for name in missing]
        chosen = {name: planned[name] for name in asked if name in planned}
        for name, found in chosen.items():
            wanted = self.sizes.get(_count_axes(name))
            if wanted and list(found.patch_size) != wanted:  # planned when it was not asked for
                raise refuse_size(wanted, name, found.patch_size)
        return chosen

    def preprocess(self, configuration: PlannedConfiguration) -> None:
        """Preprocess the training scans that are missing or damaged; report progress meanwhile."""
        folder = configuration.data_folder
        digest = digest_preprocessing(self.plans_file, configuration.name)
        found = inspect_data(folder, self.dataset, preprocessing=digest)
        if strangers := list(name_strangers(folder, found)):
            raise InputError("\n".join(map(str, strangers)))
        files = found.mark["files"] if found.mark else {}
        if found.whole:
            if renew_seals(folder, files) != files:
                with suppress(OutputError):  # only saves reading the files next time
                    seal_data(folder, self.dataset, preprocessing=digest, kept=files)
            return
        scans = found.scans_to_make
        if not files:  # what was there is not known: all is made again
            completion_mark(folder).unlink(missing_ok=True)
        self._preprocess(configuration, scans)
        made = set(name_data_files(scans)) if files else set()
        kept = {name: seal for name, seal in files.items() if name not in made}
        try:
            seal_data(folder, self.dataset, preprocessing=digest, kept=kept)
        except FileNotFoundError as error:
            raise EngineError(
                f"{error.filename}: found nothing; expected a preprocessed scan. Run the same "
                "command again; if another run works on this workspace, let it end first."
            ) from error

    def _preprocess(self, configuration: PlannedConfiguration, scans: Sequence[str]) -> None:
        """Preprocess some scans or, if none are named, all of them, and show how many are done."""
        folder, total = configuration.data_folder, len(scans) or len(self.organs)
        what, done = f"preprocessing {configuration.name}", Event()

        def watch() -> None:
            while not done.wait(0.5):
                self.report(0 if scans else min(_count_scans(folder), total), total, what)

        watcher = Thread(target=watch, daemon=True)
        watcher.start()
        options = {"plans_name": self.plans_name, "configuration": configuration.name}
        try:
            self._run("preprocess", {**options, "processes": self.processes, "scans": list(scans)})
        finally:
            done.set()
            watcher.join()
        self.report(total, total, what)

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


def name_plans(preset: Preset, options: PlanOptions) -> str:
    """Return the name of the plans of a preset with the options' batch and patch sizes."""
    return preset.plans_name + name_sizes(options.batch_size, _sort_sizes(options.patch_sizes))


def _count_axes(configuration: str) -> str:
    return "2" if configuration == "2d" else "3"


def _sort_sizes(patch_sizes: Sequence[Sequence[int]]) -> dict[str, list[int]]:
    """Return patch sizes by their number of axes, the smaller one first.

    Each is that of all configurations with so many axes, as it is part of the plans' name.
    """
    by_axes: dict[str, list[int]] = {}
    for size in patch_sizes:
        axes, shown = str(len(size)), "x".join(map(str, size))
        if axes not in ("2", "3"):
            raise InputError(
                f"--patch-size {shown}: found {axes} axes; expected two numbers for 2d, three for "
                "the 3D configurations."
            )
        if axes in by_axes:
            raise InputError(f"--patch-size {shown}: a second one of {axes} axes. Give one.")
        by_axes[axes] = [int(value) for value in size]
    return dict(sorted(by_axes.items()))


def _count_scans(folder: Path) -> int:
    try:
        return sum(entry.name.endswith(".pkl") for entry in os.scandir(folder))
    except OSError:
        return 0
