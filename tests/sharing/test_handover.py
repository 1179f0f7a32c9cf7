"""Models go from one workspace into another, with what tuning chose for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from gi2nnunet.core.errors import InputError
from gi2nnunet.core.files import write_json
from gi2nnunet.dataset.workspace import Workspace, open_workspace
from gi2nnunet.nnunet.models import Ensemble, choose_ensemble, digest_checkpoint
from gi2nnunet.nnunet.postprocess import find_tuning, tuning_path
from gi2nnunet.sharing.exchange import ExportedModel, ImportedModel, export_model, import_model
from tests.engines import make_engine
from tests.model_factory import DATASET, make_checkpoint, write_model

pytestmark = pytest.mark.usefixtures("engine_here")

GAINS = {"all": {"gain": 0.01, "low": 0.0, "high": 0.02}}


DECISION = {
    organ: {
        "weights": {"2d": 1.0}, "threshold": 0.25, "gate": 0.0, "smallest_ml": 0.5,
        "fill_slices": 1,
    }
    for organ in ("large_bowel", "small_bowel", "stomach")
}  # fmt: skip


def space(name: str) -> Workspace:
    return open_workspace(Path(name), environ={})


def ensemble_of(name: str) -> Ensemble:
    return choose_ensemble(space(name).results / DATASET, n_folds=2)


def give(name: str = "ours", out: str = "m.gi2nnunet", **options: Any) -> ExportedModel:
    return export_model(
        ensemble_of(name), Path(out), dataset=None, engine=make_engine(space(name)), **options
    )


def take(name: str = "theirs", **options: Any) -> ImportedModel:
    return import_model(Path("m.gi2nnunet"), engine=make_engine(space(name)), **options)


@pytest.fixture(autouse=True)
def ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace ``ours`` with a model of two folds and what was tuned for it."""
    monkeypatch.chdir(tmp_path)
    write_model(Path("ours/results"), folds=(0, 1))
    [model] = ensemble_of("ours").models
    content = {
        "format": 1,
        "metric": "per-class",
        "decision": DECISION,
        "gains": GAINS,
        "n_patients": 7,
        "models": [model.folder.name],
        "checkpoints": {
            model.folder.name: {str(fold): digest_checkpoint(model, fold) for fold in (0, 1)}
        },
    }
    path = tuning_path([model])
    write_json(path, content)
    return path


@pytest.mark.parametrize("half", [False, True])
def test_what_tuning_chose_goes_along(half: bool) -> None:
    made = give(half=half)
    assert made.tuned is not None
    assert made.warnings == ()
    assert made.path == Path("m.gi2nnunet")
    taken = take()
    assert [model.configuration for model in taken.models] == ["2d"]
    assert taken.tuning == tuning_path(ensemble_of("theirs").models)
    found, warnings = find_tuning(ensemble_of("theirs"))
    assert warnings == []
    assert found is not None
    assert found.decision == made.tuned.decision
    assert (found.content["gains"], found.content["n_patients"]) == (
        GAINS,
        7,
    )
    # And from there on, to others.
    assert give("theirs", "again").tuned is not None


def test_models_that_were_not_tuned_bring_nothing(ours: Path) -> None:
    ours.unlink()
    made = give()
    assert (made.tuned, made.warnings) == (None, ())
    assert take().tuning is None
    assert find_tuning(ensemble_of("theirs")) == (None, [])


def test_a_choice_for_former_checkpoints_stays_behind_with_a_warning() -> None:
    [model] = ensemble_of("ours").models
    torch.save(make_checkpoint(seed=9, fold=1), model.folder / "fold_1" / "checkpoint_final.pth")
    made = give()
    assert made.tuned is None
    assert len(made.warnings) == 1
    assert "trained again" in made.warnings[0]
    assert take().tuning is None


def test_a_damaged_choice_is_told_and_nothing_is_written(ours: Path) -> None:
    ours.write_text(ours.read_text()[:40])
    with pytest.raises(InputError, match=r"(?s)gi2nnunet_tuning_.*gi2nnunet tune"):
        give()
    assert not Path("m.gi2nnunet").exists()


def test_models_that_are_there_already_keep_their_choice(ours: Path) -> None:
    give()
    before = ours.read_bytes()
    with pytest.raises(InputError, match="--replace"):
        take("ours")
    assert ours.read_bytes() == before
    take()
    again = take()
    assert [folder.name for folder in again.kept] == [again.models[0].folder.name]
    assert again.tuning is not None
    assert find_tuning(ensemble_of("theirs"))[0] is not None
