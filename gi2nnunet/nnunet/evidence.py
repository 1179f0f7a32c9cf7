"""What is known of how long trainings take: the plan, what ran here, a short run, a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from gi2nnunet.errors import InputError
from gi2nnunet.files import read_json
from gi2nnunet.manifest import DATASET_JSON, Dataset
from gi2nnunet.nnunet.cards import Card, find_card
from gi2nnunet.nnunet.checking import check_split
from gi2nnunet.nnunet.costs import Check, Request
from gi2nnunet.nnunet.hardware import Hardware
from gi2nnunet.nnunet.pace import (
    Pace,
    PastTraining,
    count_flops,
    measure_pace,
    pace_of_card,
    pace_of_past,
    read_past,
)
from gi2nnunet.nnunet.plan import (
    PlannedConfiguration,
    digest_dataset,
    digest_preprocessing,
    is_preprocessed,
    read_planned,
)
from gi2nnunet.nnunet.stock import is_stock, stock_flops, stock_plan
from gi2nnunet.nnunet.workspace import Workspace

Progress = Callable[[int, int, str], None]


class Evidence:
    """What is known for one request.

    Attributes
    ----------
    planned
        Each configuration that is asked about.
    is_planned
        Whether nnU-Net planned them here; else the plan is the one known for such scans.
    past
        By configuration, its trainings of this plan in this workspace, on any device.
    paces
        By configuration, the best that is known.
    checks
        What predictions of the trainings here came to.
    notes
        What should be known.
    """

    def __init__(
        self,
        dataset: Dataset,
        workspace: Workspace,
        environ: Mapping[str, str],
        request: Request,
        report: Progress,
    ) -> None:
        """Look at the workspace, and measure where that is asked for.

        Raises
        ------
        InputError
            Where nothing is planned, or nothing tells how long a batch takes.
        EngineError
            Where the measured run fails.
        """
        self.dataset, self.workspace, self.environ = dataset, workspace, environ
        self.request, self.report = request, report
        self.folder = workspace.preprocessed / dataset.name
        self.plans_name = request.preset.plans_name
        self.plans_file = self.folder / f"{self.plans_name}.json"
        self.notes: list[str] = []
        self._flops: dict[str, float] = {}
        self.planned, self.is_planned = self._find_plan()
        self.past = self._find_past()
        measured = self._measure() if request.measure else {}
        self.paces = self._choose_paces(measured)
        self.checks = self._check(measured)

    def is_ready(self, name: str) -> bool:
        """Return whether a configuration is preprocessed."""
        preprocessing = digest_preprocessing(self.plans_file, name)
        return is_preprocessed(self.planned[name], self.dataset, preprocessing=preprocessing)

    def _find_plan(self) -> tuple[dict[str, PlannedConfiguration], bool]:
        request = self.request
        mark = read_json(self.folder / f"gi2nnunet_{self.plans_name}.json")
        planned = read_planned(self.folder, self.plans_name)
        fresh = (mark.get("recipe") or {}).get("dataset") == digest_dataset(self.dataset)
        whole = bool(planned) and fresh and self.plans_file.is_file()
        command = f"gi2nnunet plan --preset {request.preset.name}"
        if not whole:
            if not is_stock(self.dataset):
                raise InputError(
                    f"{self.folder}: nothing is planned for the preset {request.preset.name}, and "
                    "the scans are not of the competition's usual size, for which the plan is "
                    f"known. Run {command} first."
                )
            planned = stock_plan(request.preset, folder=self.folder)
            self.notes.append(f"Nothing is planned yet; {command} makes the real plan.")
        for name in request.configurations:
            if name not in planned:
                raise InputError(
                    f"--config {name}: found {', '.join(planned)} in the plan. Choose one of these."
                )
        return {name: planned[name] for name in request.configurations}, whole

    def _find_past(self) -> dict[str, tuple[PastTraining, ...]]:
        results = self.workspace.results / self.dataset.name
        found = {}
        for name, planned in self.planned.items():
            folder = results / f"{self.request.trainer}__{self.plans_name}__{name}"
            patch = (planned.batch_size, *planned.patch_size)
            found[name] = tuple(
                entry for entry in read_past(folder, name) if entry.patch == patch
            )  # fmt: skip
        return found

    def _here(self, name: str) -> tuple[PastTraining, ...]:
        """Return the trainings that ran on such a device as is asked about."""
        hardware = self.request.hardware
        if hardware is None:
            return ()
        return tuple(entry for entry in self.past[name] if _is_same(entry.device, hardware))

    def _measure(self) -> dict[str, Pace]:
        request = self.request
        if request.hardware is None:
            raise ValueError("a card that is not here cannot be measured")
        if request.folds[0] != "all":
            check_split(self.dataset, self.folder)  # nnU-Net would make one where it is missing
        for name, planned in self.planned.items():
            if not self.is_ready(name):
                raise InputError(
                    f"{planned.data_folder}: is not preprocessed; --measure trains a few batches. "
                    f"Run gi2nnunet plan --preset {request.preset.name} --config {name} first."
                )
        measured = {}
        for done, (name, planned) in enumerate(self.planned.items()):
            self.report(done, len(self.planned), "measuring a few batches")
            measured[name] = measure_pace(
                planned,
                dataset_folder=self.folder,
                plans_name=self.plans_name,
                fold=request.folds[0],
                iterations=request.length[1],
                workspace=self.workspace,
                environ=self.environ,
                hardware=request.hardware,
                seconds=request.measure_seconds,
                jobs=request.jobs,
            )
        self.report(len(self.planned), len(self.planned), "measuring a few batches")
        return measured

    def _choose_paces(self, measured: Mapping[str, Pace]) -> dict[str, Pace]:
        paces = {}
        missing = []
        for name in self.planned:
            pace = pace_of_past(self._here(name), iterations=self.request.length[1])
            if pace and name in measured:
                # What an epoch takes is known better from epochs; the rest only from the short run.
                pace = replace(
                    pace,
                    startup_seconds=measured[name].startup_seconds,
                    measured=measured[name].measured,
                )
            found = pace or measured.get(name) or self._reckon(name)
            if found is None:
                missing.append(name)
            else:
                paces[name] = found
        if missing:
            raise InputError(
                f"{', '.join(missing)}: nothing tells how long a batch takes: found no epoch "
                f"trained here on {describe_hardware(self.request.hardware)}, and the table of "
                "cards does not have it. Use --measure to train a few batches, or --card NAME."
            )
        return paces

    def _reckon(self, name: str) -> Pace | None:
        """Return the pace of the table; ``None`` for what it does not have."""
        card = self.request.card or _card_of(self.request.hardware)
        if card is None:
            return None
        if not self._flops:
            self._flops = self._count_flops()
            self.notes.append(
                f"{card.name}: reckoned from a table, not measured: up to twice as long is "
                "possible, and more where few processor cores augment for a fast card."
                + ("" if self.request.card else " --measure would time this very card.")
            )
        return pace_of_card(
            card, forward_flops=self._flops[name], batch_size=self.planned[name].batch_size
        )

    def _count_flops(self) -> dict[str, float]:
        if not self.is_planned:
            return {name: stock_flops(self.request.preset, name) for name in self.planned}
        self.report(0, 1, "counting the operations of the planned networks")
        return count_flops(
            tuple(self.planned),
            plans_file=self.plans_file,
            dataset_json=self.dataset.folder / DATASET_JSON,
            workspace=self.workspace,
            environ=self.environ,
        )

    def _check(self, measured: Mapping[str, Pace]) -> tuple[Check, ...]:
        found = []
        for name in self.planned:
            here = [entry for entry in self._here(name) if entry.curves and entry.iterations]
            for entry in here:
                iterations = entry.iterations or 1
                others = [other for other in here if other is not entry]
                predictions = [
                    pace_of_past(others, iterations=iterations),
                    measured.get(name),
                    self._reckon(name) if _card_of(self.request.hardware) else None,
                ]
                found += [
                    Check(
                        configuration=name,
                        fold=entry.fold,
                        epochs=len(entry.curves),
                        actual_seconds=entry.epoch_seconds,
                        predicted_seconds=pace.epoch_seconds(iterations),
                        source=pace.source,
                        described=pace.described,
                    )
                    for pace in predictions
                    if pace is not None
                ]
        return tuple(found)


def _card_of(hardware: Hardware | None) -> Card | None:
    return find_card(hardware.name) if hardware and hardware.device == "cuda" else None


def describe_hardware(hardware: Hardware | None) -> str:
    """Return a device in words."""
    return hardware.name if hardware else "nothing"


def _is_same(device: str, hardware: Hardware) -> bool:
    """Return whether a training's device is of the kind at hand."""
    kind, _, card = device.partition(" ")
    return kind == hardware.device and card in hardware.name
