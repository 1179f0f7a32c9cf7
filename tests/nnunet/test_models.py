from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from gi2nnunet.core.errors import InputError
from gi2nnunet.core.files import write_json
from gi2nnunet.nnunet.models import (
    DIGESTS,
    IMPORT_RECORD,
    TRAINING_RECORD,
    Ensemble,
    Fold,
    TrainedModel,
    check_digest,
    choose_ensemble,
    count_folds,
    list_folds,
    list_models,
    record_digest,
    spell_models,
    spell_restore,
    spell_restore_model,
    warn_of_unrecorded,
)

TINY, DEFAULT = "gi2nnunetTinyPlans", "nnUNetPlans"


def add(
    results: Path,
    configuration: str,
    *folds: Fold,
    plans: str = TINY,
    trainer: str = "nnUNetTrainer",
    when: int = 1000,
    name: str = "checkpoint_final.pth",
) -> None:
    for fold in folds:
        file = results / f"{trainer}__{plans}__{configuration}" / f"fold_{fold}" / name
        file.parent.mkdir(parents=True)
        file.touch()
        os.utime(file, (when, when))


def chosen(ensemble: Ensemble) -> tuple[list[str], tuple[Fold, ...], str]:
    return (
        [model.configuration for model in ensemble.models],
        ensemble.folds,
        ensemble.models[0].plans_name,
    )


def test_only_finished_folds_count(tmp_path: Path) -> None:
    add(tmp_path, "2d", 0, 10, "all")
    add(tmp_path, "2d", 1, name="checkpoint_latest.pth")
    (model,) = list_models(tmp_path)
    assert model.folds == (0, 10, "all")
    assert (model.trainer, model.plans_name, model.configuration) == ("nnUNetTrainer", TINY, "2d")


def test_every_fold_is_listed_finished_or_not_in_order_of_its_number(tmp_path: Path) -> None:
    add(tmp_path, "2d", 10, 2, "all")
    add(tmp_path, "2d", 0, name="checkpoint_latest.pth")
    (tmp_path / f"nnUNetTrainer__{TINY}__2d" / "fold_7").write_text("a file, not a folder")
    (tmp_path / "not_a_model" / "fold_0").mkdir(parents=True)
    found = list_folds(tmp_path)
    assert [(fold.fold, fold.finished) for fold in found] == [
        ("0", False), ("2", True), ("10", True), ("all", True),
    ]  # fmt: skip
    assert {(fold.trainer, fold.plans_name, fold.configuration) for fold in found} == {
        ("nnUNetTrainer", TINY, "2d")
    }
    assert list_folds(tmp_path / "nothing") == ()


def test_the_newest_complete_set_is_taken(tmp_path: Path) -> None:
    add(tmp_path, "2d", 0, 1, when=1000)
    add(tmp_path, "3d_fullres", 0, 1, when=1001)
    add(tmp_path, "2d", "all", plans=DEFAULT, when=2000)
    ensemble = choose_ensemble(tmp_path, n_folds=2)
    assert chosen(ensemble) == (["2d"], ("all",), DEFAULT)
    assert ensemble.chosen_by == "the newest complete set"


def test_every_configuration_that_has_the_folds_is_averaged(tmp_path: Path) -> None:
    add(tmp_path, "3d_fullres", 0, 1, when=1000)
    add(tmp_path, "2d", 0, 1, when=1001)
    assert chosen(choose_ensemble(tmp_path, n_folds=2)) == (["2d", "3d_fullres"], (0, 1), TINY)


def test_a_newer_incomplete_set_does_not_hide_a_complete_one(tmp_path: Path) -> None:
    add(tmp_path, "2d", 0, 1, 2, when=1000)
    add(tmp_path, "2d", 0, plans=DEFAULT, when=5000)
    assert chosen(choose_ensemble(tmp_path, n_folds=3)) == (["2d"], (0, 1, 2), TINY)


def test_with_nothing_complete_the_common_folds_are_taken_and_said(tmp_path: Path) -> None:
    add(tmp_path, "2d", 0, 1)
    add(tmp_path, "3d_fullres", 1)
    ensemble = choose_ensemble(tmp_path, n_folds=5)
    assert chosen(ensemble) == (["2d", "3d_fullres"], (1,), TINY)
    assert "no set is complete" in ensemble.chosen_by


def test_what_is_asked_for_is_taken(tmp_path: Path) -> None:
    add(tmp_path, "2d", 0, 1, "all")
    add(tmp_path, "3d_fullres", 0, 1, "all")
    add(tmp_path, "2d", "all", plans=DEFAULT, when=9000)
    add(tmp_path, "2d", "all", plans=f"{TINY}_b4", when=9001)
    pick = choose_ensemble(tmp_path, n_folds=2, folds=["cv"], configurations=["3d_fullres"])
    assert chosen(pick) == (["3d_fullres"], (0, 1), TINY)
    assert chosen(choose_ensemble(tmp_path, n_folds=2, folds=[1])) == (
        ["2d", "3d_fullres"], (1,), TINY,
    )  # fmt: skip
    assert chosen(choose_ensemble(tmp_path, n_folds=2, preset="default"))[2] == DEFAULT
    # A preset's plans with another batch size are that preset's, too.
    assert chosen(choose_ensemble(tmp_path, n_folds=2, preset="tiny"))[2] == f"{TINY}_b4"
    # nnU-Net's name of plans means those alone.
    assert chosen(choose_ensemble(tmp_path, n_folds=2, preset=TINY))[2] == TINY


def test_plans_that_only_begin_like_a_presets_are_not_its_own(tmp_path: Path) -> None:
    add(tmp_path, "2d", "all", plans=DEFAULT, when=1000)
    add(tmp_path, "2d", "all", plans=f"{DEFAULT}_best", when=9000)
    assert chosen(choose_ensemble(tmp_path, n_folds=2, preset="default"))[2] == DEFAULT
    assert chosen(choose_ensemble(tmp_path, n_folds=2, preset=f"{DEFAULT}_best"))[2] == (
        f"{DEFAULT}_best"
    )


@pytest.mark.parametrize("number", range(4))
def test_the_options_spelled_for_models_choose_them_again(tmp_path: Path, number: int) -> None:
    """Each of them beside newer ones of another batch size and of another trainer."""
    for when, (plans, trainer) in enumerate(
        [(DEFAULT, "nnUNetTrainer"), (f"{DEFAULT}_b4", "nnUNetTrainer"), (DEFAULT, "Other"),
         (f"{DEFAULT}_b4", "Other")]
    ):  # fmt: skip
        for configuration in ("2d", "3d_fullres"):
            add(tmp_path, configuration, 0, 1, plans=plans, trainer=trainer, when=1000 + when)
    groups: dict[tuple[str, str], list[TrainedModel]] = {}
    for model in list_models(tmp_path):
        groups.setdefault((model.trainer, model.plans_name), []).append(model)
    models = list(groups.values())[number]
    for some in (models, models[:1], models[1:]):
        words = iter(spell_models(some, folds=["cv"]))
        given: dict[str, list[str]] = {}
        for option in words:
            given.setdefault(option, []).append(next(words))
        found = choose_ensemble(
            tmp_path, n_folds=2, configurations=given["--config"], folds=given["--fold"],
            preset=given["--preset"][0], trainer=given["--trainer"][0],
        )  # fmt: skip
        assert list(found.models) == some
        assert found.folds == (0, 1)


def test_configurations_with_sizes_of_their_own_come_together_when_asked_for(
    tmp_path: Path,
) -> None:
    add(tmp_path, "2d", "all", plans=f"{TINY}_b4", when=1000)
    add(tmp_path, "3d_fullres", "all", plans=f"{TINY}_b2", when=1001)
    ensemble = choose_ensemble(tmp_path, n_folds=2, configurations=["2d", "3d_fullres"])
    assert [model.plans_name for model in ensemble.models] == [f"{TINY}_b4", f"{TINY}_b2"]
    assert f"{TINY}_b4" in ensemble.describe()
    assert f"{TINY}_b2" in ensemble.describe()
    assert "/" not in ensemble.name


def test_the_records_tell_how_many_folds_there_were(tmp_path: Path) -> None:
    add(tmp_path, "2d", 0, 1)
    assert count_folds(tmp_path) == 0
    record = tmp_path / f"nnUNetTrainer__{TINY}__2d" / "fold_0" / TRAINING_RECORD
    record.write_text('{"folds": 2}')
    assert count_folds(tmp_path) == 2


@pytest.mark.parametrize(
    ("asked", "remedy"),
    [
        ({"folds": [7]}, "Choose among these with --config, --fold"),
        ({"folds": ["all"]}, "train --config 2d --fold all --preset tiny"),
        ({"configurations": ["3d_lowres"]}, "train --config 3d_lowres --fold cv --preset tiny"),
        ({"configurations": ["2d", "3d_fullres"]}, "train --config 3d_fullres --fold cv --preset"),
        ({"preset": "resenc-l"}, "train --config 2d --fold cv --preset resenc-l"),
        ({"preset": "MyPlans"}, "with nnUNetv2_train, with the plans MyPlans"),
        ({"trainer": "nnUNetTrainerDA5"}, "--preset tiny --trainer nnUNetTrainerDA5"),
    ],
)
def test_what_is_not_trained_is_refused_with_what_is(
    tmp_path: Path, asked: dict[str, list[str]], remedy: str
) -> None:
    add(tmp_path, "2d", 0, 1)
    with pytest.raises(InputError, match=rf"(?s)Finished: 2d fold 0, 1 .*\n.*{remedy}"):
        choose_ensemble(tmp_path, n_folds=2, **asked)  # type: ignore[arg-type]


def test_cv_without_a_split_is_refused(tmp_path: Path) -> None:
    add(tmp_path, "2d", "all")
    with pytest.raises(InputError, match="no split"):
        choose_ensemble(tmp_path, n_folds=0, folds=["cv"])


def test_no_model_at_all_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gi2nnunet train"):
        choose_ensemble(tmp_path, n_folds=5)


def test_the_name_is_fit_for_a_folder(tmp_path: Path) -> None:
    add(tmp_path, "2d", 0, 1)
    name = choose_ensemble(tmp_path, n_folds=2).name
    assert name == f"nnUNetTrainer__{TINY}__2d__fold_01"
    assert "/" not in name


def make_checkpoint(results: Path, content: bytes = b"weights") -> Path:
    path = results / f"nnUNetTrainer__{TINY}__2d" / "fold_1" / "checkpoint_final.pth"
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_bytes(content)
    record_digest(path, new)
    new.replace(path)
    return path


def test_a_checkpoint_is_the_one_that_was_recorded(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path)
    assert check_digest(path) == hashlib.sha256(b"weights").hexdigest()
    before = path.stat()
    path.write_bytes(b"weightz")  # of the same size
    remedy = r"gi2nnunet train --config 2d --fold 1 --preset tiny --restart$"
    with pytest.raises(InputError, match=rf"found other content than was saved .*{remedy}"):
        check_digest(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    path.unlink()
    with pytest.raises(InputError, match=rf"no such file.*{remedy}"):
        check_digest(path)


def test_a_run_killed_between_record_and_checkpoint_leaves_a_good_one(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path)
    new = path.with_suffix(".new")
    new.write_bytes(b"later")
    record_digest(path, new)
    assert check_digest(path) == hashlib.sha256(b"weights").hexdigest()
    new.replace(path)
    assert check_digest(path) == hashlib.sha256(b"later").hexdigest()


def test_plain_nnunets_checkpoints_have_no_digest_which_is_said(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path)
    (model,) = list_models(tmp_path)
    ensemble = Ensemble(models=(model,), folds=(1,), chosen_by="")
    assert warn_of_unrecorded(ensemble) is None
    (path.parent / DIGESTS).write_text("[")
    with pytest.raises(InputError, match=f"{DIGESTS}: found no JSON"):
        check_digest(path)
    (path.parent / DIGESTS).unlink()  # the remedy
    path.write_bytes(b"anything")
    assert check_digest(path) == hashlib.sha256(b"anything").hexdigest()
    assert str(path) in str(warn_of_unrecorded(ensemble))


def test_a_checkpoint_is_restored_by_what_made_it(tmp_path: Path) -> None:
    plans = f"{TINY}_b3_p8x8"
    folder = tmp_path / f"nnUNetTrainerDA5__{plans}__2d" / "fold_all"
    settings = {"epochs": 3, "iterations": 4, "learning_rate": 0.5, "pretrained_weights": "/a b"}
    write_json(folder / TRAINING_RECORD, {"settings": settings})
    assert spell_restore(folder) == (
        "Restore it, or train it again: gi2nnunet train --config 2d --fold all --preset tiny "
        "--batch-size 3 --patch-size 8x8 --trainer nnUNetTrainerDA5 --epochs 3 --iterations 4 "
        "--lr 0.5 --pretrained-weights '/a b' --restart"
    )
    assert spell_restore_model(folder.parent) == spell_restore(folder)
    write_json(folder / IMPORT_RECORD, {"file": "my model.zip"})
    assert spell_restore(folder) == (
        "Import it again: gi2nnunet import-model 'my model.zip' --replace"
    )
    (folder / IMPORT_RECORD).write_text("{")
    assert spell_restore(folder).endswith("import-model MODEL --replace")
    plain = tmp_path / "nnUNetTrainer__nnUNetPlansX__2d" / "fold_0"
    assert spell_restore(plain) == "Restore it, or train it again."
