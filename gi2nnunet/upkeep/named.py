"""Predictions by name: the masks that a path, or a name in the workspace, means.

A path that exists comes before a name. The name of a model means its out-of-fold predictions, or
those of the held-out scans if both sides of a comparison have only these.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import partial
from itertools import product
from pathlib import Path
from typing import Literal

from gi2nnunet.core.errors import InputError, name_some
from gi2nnunet.core.files import find_kind
from gi2nnunet.core.workers import Progress, ignore
from gi2nnunet.dataset.manifest import Dataset, dataset_id_of, open_dataset
from gi2nnunet.dataset.workspace import Workspace
from gi2nnunet.formats.ids import Orientation
from gi2nnunet.formats.tables import MaskTable, read_mask_table, take_rows
from gi2nnunet.nnunet.models import (
    TrainedModel,
    fold_folder,
    list_models,
    spell_models,
    spell_options,
)
from gi2nnunet.nnunet.presets import read_plans_name
from gi2nnunet.prediction.folders import OUT_OF_FOLD, warn_of_replaced
from gi2nnunet.prediction.out_of_fold import list_stored_predictions
from gi2nnunet.scoring.masks import find_truth, read_masks
from gi2nnunet.scoring.record import SUBMISSION, TRUTH, find_standing
from gi2nnunet.source.scan import Scan
from gi2nnunet.upkeep.reading import read_status
from gi2nnunet.upkeep.status import (
    OutOfFoldStatus,
    PredictionStatus,
    TrainingStatus,
    WorkspaceStatus,
    list_names,
    refuse_several,
)

Scans = Literal["training", "held-out"]
_WHICH: Mapping[Scans, str] = {
    "training": "out-of-fold predictions of the training scans",
    "held-out": "predictions of the held-out scans",
}


@dataclass(frozen=True, kw_only=True)
class NamedMasks:
    """Masks to compare.

    Attributes
    ----------
    name
        The path or name as it was given.
    taken
        What was taken for it, in words.
    place
        The file or folder; a ``truth.csv`` may be beside it.
    table
        Its rows.
    standing
        What a score means; empty if nothing was recorded.
    dataset
        The workspace's dataset, if the masks were found by name.
    warnings
        What is to be known of them: that the models are others now than those that predicted.
    """

    name: str
    taken: str
    place: Path
    table: MaskTable = field(repr=False)
    standing: str = ""
    dataset: str = ""
    warnings: tuple[str, ...] = ()


_Load = Callable[[], NamedMasks]


@dataclass(frozen=True, kw_only=True)
class _Model:
    """A model, or the models of an ensemble, and how to load its predictions of either scans.

    ``scans`` are those that its name can mean.
    """

    name: str
    models: tuple[TrainedModel, ...]
    dataset: Dataset
    choices: Mapping[Scans, _Load]
    scans: tuple[Scans, ...] = tuple(_WHICH)

    def can_have(self, which: Scans) -> bool:
        """Return whether there are predictions of these scans, or one command makes them."""
        if which in self.choices:
            return True
        if which == "held-out":
            alike = len({(one.trainer, one.plans_name) for one in self.models}) == 1
            return alike and bool(self.list_scans(which))
        every = set(range(len(self.dataset.splits)))
        return len(every) > 1 and all(every <= set(model.folds) for model in self.models)

    def list_scans(self, which: Scans) -> set[str]:
        part = "train" if which == "training" else "holdout"
        return {s.scan_id for s in self.dataset.scans if s.part == part and s.labelled}


def find_masks(
    given: Sequence[str],
    *,
    workspace: Workspace,
    dataset_id: int | None = None,
    orientation: Orientation = "affine",
    jobs: int | None = None,
    progress: Progress | None = None,
) -> tuple[NamedMasks, ...]:
    """Find the masks of paths and names, to be compared with one another.

    Parameters
    ----------
    given
        Paths that :func:`~gi2nnunet.scoring.masks.read_masks` takes; names of predictions as
        ``status`` shows them; names of models: a configuration such as ``2d``, if several fit
        ``PLANS__2d``, and of an ensemble ``2d+3d_fullres``.
    dataset_id
        Only this dataset's models and predictions.

    Raises
    ------
    InputError
        If there is nothing of that name, several fit, or the predictions of a model are missing;
        if a file cannot be read.
    """
    here = {name: Path(name).expanduser() for name in given}
    paths = {name: path for name, path in here.items() if find_kind(path) is not None}
    found: dict[str, NamedMasks | _Model] = {}
    if len(paths) < len(here):
        status = read_status(workspace)
        naming = _Naming(
            status=status, workspace=workspace, dataset_id=dataset_id, jobs=jobs,
            progress=progress or ignore,
        )  # fmt: skip
        found = {name: naming.find(name) for name in here if name not in paths}
    for name, path in paths.items():
        found[name] = NamedMasks(
            name=name,
            taken=str(path),
            place=path,
            table=read_masks(path, orientation=orientation),
            standing=find_standing(path) or "",
        )
    sides = [found[name] for name in given]
    if any(isinstance(side, _Model) for side in sides):
        which = _choose_scans(sides, naming)
        return tuple(s.choices[which]() if isinstance(s, _Model) else s for s in sides)
    return tuple(side for side in sides if isinstance(side, NamedMasks))


def find_folder(given: str | Path, workspace: Workspace) -> Path:
    """Return the folder of a prediction, given as a path or by its name in the workspace.

    A path of nothing that is no name either is returned as it is.
    """
    path = Path(given).expanduser()
    if find_kind(path) is not None:
        return path
    fitting = [p for p in read_status(workspace).predictions if str(given) in list_names(p)]
    if len(fitting) > 1:
        raise refuse_several(str(given), [piece.name for piece in fitting])
    return fitting[0].folder if fitting else path


def _choose_scans(sides: Sequence[NamedMasks | _Model], naming: _Naming) -> Scans:
    """Choose the scans of which every side has predictions; refuse if there are none."""
    models = list({side.name: side for side in sides if isinstance(side, _Model)}.values())
    masks = [side for side in sides if isinstance(side, NamedMasks)]
    suiting: list[Scans] = [
        which
        for which in _WHICH
        if all(which in model.scans for model in models)
        and all(
            set(one.table.scan_ids) & model.list_scans(which) for one in masks for model in models
        )
    ]
    # Scans of another dataset are refused when they are scored.
    wanted = suiting or [which for which in _WHICH if which in models[0].scans]
    for which in wanted:
        if all(which in model.choices for model in models):
            return which
    found = "; ".join(
        f"{model.name}: found "
        + (" and ".join(_WHICH[which] for which in model.choices) or "no predictions")
        for model in models
    )
    expected = " or ".join(_WHICH[which] for which in wanted)
    raise InputError(
        f"{found}; expected {expected}, of every model that is compared.\n"
        + "\n".join(naming.list_remedies(models, wanted))
    )


@dataclass(frozen=True, kw_only=True)
class _Naming:
    """What the names of a workspace stand for."""

    status: WorkspaceStatus
    workspace: Workspace
    dataset_id: int | None
    jobs: int | None
    progress: Progress

    def find(self, name: str) -> NamedMasks | _Model:
        asked = name.rstrip("/")
        stored = [p for p in self.list_stored() if asked in list_names(p)]
        predictions = [p for p in self.list_predictions() if asked in list_names(p)]
        both: list[PredictionStatus | OutOfFoldStatus] = [*predictions, *stored]
        fitting = [piece for piece in both if asked == list_names(piece)[-1]] or both
        if len(fitting) > 1:
            raise refuse_several(name, [list_names(piece)[-1] for piece in fitting])
        if fitting and isinstance(fitting[0], PredictionStatus):
            return self.open_prediction(name, fitting[0])
        if fitting and isinstance(fitting[0], OutOfFoldStatus):
            asked = fitting[0].model
        ensembles = list(self.list_ensembles(asked))
        if len(ensembles) > 1:
            raise refuse_several(name, [_name_ensemble(models) for models in ensembles])
        if not ensembles:
            raise self.refuse(name)
        return self.describe(name, ensembles[0], stored=bool(fitting))

    def list_predictions(self) -> list[PredictionStatus]:
        names = self.list_datasets()
        return [p for p in self.status.predictions if not p.dataset or p.dataset in names]

    def list_stored(self) -> list[OutOfFoldStatus]:
        names = self.list_datasets()
        return [p for p in self.status.out_of_fold if p.dataset in names]

    def list_datasets(self) -> list[str]:
        """Return the names of the datasets; those of one number if it was asked for."""
        return [
            d.name
            for d in self.status.datasets
            if self.dataset_id is None or d.dataset_id == self.dataset_id
        ]

    def list_ensembles(self, name: str) -> Iterator[tuple[TrainedModel, ...]]:
        """Yield the models that a name fits; those of an ensemble are of one dataset.

        They are of one trainer and plans, unless no such models fit.
        """
        for dataset in self.list_datasets():
            models = list_models(self.workspace.results / dataset)
            parts = dict.fromkeys(name.split("+"))
            fitting = [[m for m in models if part in _list_names(m)] for part in parts]
            found = list(product(*fitting))
            alike = [some for some in found if len({(m.trainer, m.plans_name) for m in some}) == 1]
            yield from alike or found

    def open_prediction(self, name: str, piece: PredictionStatus) -> NamedMasks:
        if piece.state != "finished":
            raise InputError(
                f"{piece.folder}: found a prediction that is {piece.state}; expected a finished "
                "one. Run the same command again to complete it."
            )
        return NamedMasks(
            name=name,
            taken=f"the prediction {piece.name}",
            place=piece.folder,
            table=read_mask_table(piece.folder / SUBMISSION, any_scan=True),
            standing=find_standing(piece.folder) or "",
            dataset=piece.dataset,
            warnings=(warn_of_replaced(piece.name, piece.outdated, command=piece.command),)
            if piece.outdated
            else (),
        )

    def describe(self, name: str, models: tuple[TrainedModel, ...], *, stored: bool) -> _Model:
        """Find the predictions of some models; only the stored ones if ``stored``."""
        dataset = open_dataset(self.workspace.raw / models[0].folder.parent.name)
        model = _Model(name=name, models=models, dataset=dataset, choices={})
        found = self.find_stored(model)
        if stored:
            return replace(model, choices=found, scans=("training",))
        return replace(model, choices={**self.find_finished(model), **found})

    def find_finished(self, model: _Model) -> dict[Scans, _Load]:
        """Return how to load the finished predictions of just these models."""
        trained = {one.folder.name for one in model.models}
        found: dict[Scans, _Load] = {}
        names: dict[Scans, list[str]] = {"training": [], "held-out": []}
        for piece in self.status.predictions:
            about = (piece.state, piece.dataset, set(piece.trained))
            if about != ("finished", model.dataset.name, trained):
                continue
            scan_ids = set(read_mask_table(piece.folder / SUBMISSION, any_scan=True).scan_ids)
            for which in _WHICH:
                fair = which == "held-out" or piece.standing != "in-sample"
                if scan_ids == model.list_scans(which) and fair:
                    names[which].append(piece.name)
                    found[which] = partial(self.open_prediction, model.name, piece)
        for which, some in names.items():
            if len(some) > 1:
                found[which] = partial(_raise, refuse_several(model.name, some))
        return found

    def find_stored(self, model: _Model) -> dict[Scans, _Load]:
        """Return how to load stored out-of-fold predictions, if there is one of every scan.

        Those by former checkpoints are refused if they are loaded.
        """
        home = self.workspace.predictions / model.dataset.name / OUT_OF_FOLD
        folders = [home / one.folder.name for one in model.models]
        results = self.workspace.results / model.dataset.name
        stored = list_stored_predictions(model.dataset, folders, results=results, every=True)
        if stored.replaced:
            return {"training": partial(_raise, self.refuse_former(model, stored.replaced))}
        if set(stored.paths) != model.list_scans("training") or not stored.paths:
            return {}

        def load() -> NamedMasks:
            what = f"out-of-fold predictions of {_describe(model.models)}"
            return NamedMasks(
                name=model.name,
                taken=f"the {what}, without tuning",
                place=home,
                table=stored.tabulate(what, jobs=self.jobs, progress=self.progress),
                standing=stored.standing,
                dataset=model.dataset.name,
            )

        return {"training": load}

    def refuse_former(self, model: _Model, replaced: Sequence[str]) -> InputError:
        """Return why the stored out-of-fold predictions of replaced checkpoints are not taken."""
        former = [
            one
            for one in model.models
            if any(name.startswith(f"{one.folder.name}/") for name in replaced)
        ]
        remedies = [self.spell_out_of_fold(one, model) for one in former]
        return InputError(
            f"{model.name}: found out-of-fold predictions by former checkpoints of "
            f"{name_some(replaced)}; expected those by the checkpoints that are there now.\n"
            + "\n".join(remedies)
        )

    def list_remedies(self, models: Sequence[_Model], wanted: Sequence[Scans]) -> Iterator[str]:
        """Yield the commands that make what is missing, of the scans that need the fewest."""
        possible = [which for which in wanted if all(model.can_have(which) for model in models)]
        missing = {which: [m for m in models if which not in m.choices] for which in wanted}
        if not possible and all(len(model.dataset.splits) < 2 for model in models):
            for model in models:
                options = shlex.join([*spell_models(model.models), *self.spell_id(model)])
                yield (
                    f"{model.dataset.name} has neither folds nor held-out scans, as its patients "
                    "are too few. Score the scans that the models were trained on with: gi2nnunet "
                    f"predict-and-score {options}"
                )
            return
        which = min(possible or wanted, key=lambda which: len(missing[which]))
        for model in missing[which]:
            if which == "held-out" and model.can_have(which):
                options = shlex.join([*spell_models(model.models), *self.spell_id(model)])
                yield f"Make them with: gi2nnunet predict-and-score {options}"
                continue
            for one in model.models:
                if not set(range(len(model.dataset.splits))) <= set(one.folds):
                    yield f"Train every fold with: {self.spell_training(one)}"
                yield self.spell_out_of_fold(one, model)

    def spell_out_of_fold(self, one: TrainedModel, model: _Model) -> str:
        """Return the command that makes the out-of-fold predictions of one of its models."""
        options = shlex.join([*spell_models([one]), *self.spell_id(model)])
        return f"Make them with: gi2nnunet out-of-fold {options}"

    def spell_id(self, model: _Model) -> tuple[str, ...]:
        """Return the option that names a model's dataset, if there are several."""
        several = len(self.status.datasets) > 1
        return ("--id", str(model.dataset.dataset_id)) if several else ()

    def spell_training(self, model: TrainedModel) -> str:
        """Return the command that trains every fold of a model."""
        for one in self.status.trainings:
            if one.folder.parent == model.folder and one.command:
                return one.command.replace(f"--fold {one.fold}", "--fold cv", 1)
        own = fold_folder(model.folder, model.folds[0])
        return f"gi2nnunet train {spell_options(model.folder, ['cv'], settings_of=own)}"

    def refuse(self, name: str) -> InputError:
        """Return why a name stands for nothing."""
        pieces: list[PredictionStatus | OutOfFoldStatus]
        pieces = [*self.list_predictions(), *self.list_stored()]
        models = [
            _list_names(model)
            for dataset in self.list_datasets()
            for model in list_models(self.workspace.results / dataset)
        ]
        begun = [t for t in self.status.trainings if name in _list_model_names(t)]
        if begun and begun[0].command:
            return InputError(
                f"{name}: found a model that is not trained to its end ({begun[0].name} after "
                f"epoch {begun[0].epoch}); expected a finished one. Go on with: {begun[0].command}"
            )
        known = [*dict.fromkeys(names[0] for names in models), *(p.name for p in pieces)]
        near = get_close_matches(name, known, n=3) or known
        there = (
            f"one of {name_some(near, most=10)}" if near else "a path, as there is no prediction"
        )
        return InputError(
            f"{name}: found no such file, and no prediction or model of that name in "
            f"{self.status.folder}; expected {there}. gi2nnunet status shows the names."
        )


def _raise(error: InputError) -> NamedMasks:
    raise error


def _list_names(model: TrainedModel) -> tuple[str, ...]:
    """Return the names of a model; the last one is that of no other model of the dataset."""
    return _spell_names(model.configuration, model.plans_name, model.folder.name)


def _list_model_names(training: TrainingStatus) -> tuple[str, ...]:
    folder = training.folder.parent.name
    return _spell_names(training.configuration, training.plans, folder)


def _spell_names(configuration: str, plans_name: str, folder: str) -> tuple[str, ...]:
    preset = read_plans_name(plans_name)
    by_preset = (f"{preset[0].name}__{configuration}",) if preset else ()
    return configuration, *by_preset, f"{plans_name}__{configuration}", folder


def _name_ensemble(models: Sequence[TrainedModel]) -> str:
    return "+".join(model.folder.name for model in models)


def _describe(models: Sequence[TrainedModel]) -> str:
    """Return models as a reader calls them; those of one trainer and plans shortly."""
    made = {(model.trainer, model.plans_name) for model in models}
    if len(made) > 1:
        return _name_ensemble(models)
    return f"{'+'.join(model.configuration for model in models)} ({', '.join(*made)})"


def find_common_truth(
    sides: Sequence[NamedMasks], *, workspace: Workspace, dataset_id: int | None = None
) -> MaskTable:
    """Return the truth of all sides, each as :func:`~gi2nnunet.scoring.masks.find_truth` finds it.

    Raises
    ------
    InputError
        If there is none, or two of them differ in a scan that both have.
    """
    scored = [side for side in sides if _has_truth_beside(side.place)]
    truths = [
        find_truth(
            side.place, side.table, workspace=workspace,
            dataset_id=dataset_id_of(side.dataset) if side.dataset else dataset_id,
        )
        for side in scored or sides[:1]
    ]  # fmt: skip
    first = truths[0]
    for other in truths[1:]:
        shared = sorted(set(first.scan_ids) & set(other.scan_ids))
        rows = [take_rows(table, shared) for table in (first, other)]
        one, two = (sorted(some.list_rows()) if some else [] for some in rows)
        if one != two:
            raise InputError(
                f"{other.name}: found other true rows than in {first.name}; expected the same "
                "truth of both. Give the one to score with: --truth TRUTH"
            )
    return first


def find_images(
    sides: Sequence[NamedMasks], *, workspace: Workspace, dataset_id: int | None = None
) -> dict[str, Scan]:
    """Return the scans of the workspace's dataset by id; none if there is not one dataset."""
    found = {side.dataset for side in sides if side.dataset}
    names = found or set(workspace.list_datasets(dataset_id))
    try:
        (dataset,) = (open_dataset(workspace.raw / name) for name in names)
    except (InputError, ValueError):
        return {}
    return {scan.scan_id: dataset.open_scan(scan.scan_id) for scan in dataset.scans}


def _has_truth_beside(place: Path) -> bool:
    beside = (place if find_kind(place) == "folder" else place.parent) / TRUTH
    return beside.is_file() and beside != place
