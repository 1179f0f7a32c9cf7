from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gi2nnunet.core.errors import InputError
from gi2nnunet.dataset.manifest import Dataset
from gi2nnunet.dataset.workspace import open_workspace
from gi2nnunet.nnunet.checks import (
    check_checkpoint_file,
    check_configurations,
    check_dataset,
    check_labels_of,
    check_same_labels,
    require_own_split,
)
from gi2nnunet.nnunet.models import TrainedModel
from gi2nnunet.nnunet.presets import TrainingSettings
from tests.converting import convert
from tests.source_factory import write_source


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    source = write_source(tmp_path / "source")
    return convert(
        source,
        workspace=open_workspace(tmp_path, environ={}),
        jobs=1,
    )


def test_what_convert_wrote_passes(dataset: Dataset, tmp_path: Path) -> None:
    check_dataset(dataset)
    require_own_split(dataset, tmp_path / "preprocessed" / dataset.name)


def test_a_split_that_is_missing_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    """nnU-Net would draw one of its own, one patient's days on both sides."""
    folder = tmp_path / "preprocessed" / dataset.name
    (folder / "splits_final.json").unlink()
    with pytest.raises(InputError, match=r"splits_final.json: no such file"):
        require_own_split(dataset, folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda splits: splits[::-1],
        lambda splits: [{**splits[0], "val": splits[1]["val"]}, *splits[1:]],
        lambda splits: [*splits, splits[0]],
        lambda splits: {"0": splits},
        lambda splits: None,
    ],
)
def test_other_folds_are_refused(
    dataset: Dataset, tmp_path: Path, change: Callable[[list[dict[str, list[str]]]], object]
) -> None:
    folder = tmp_path / "preprocessed" / dataset.name
    path = folder / "splits_final.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(InputError, match=r"splits_final.json: found (another|.*; expected a)"):
        require_own_split(dataset, folder)


def test_the_cascade_is_no_configuration_to_train() -> None:
    check_configurations(["2d", "3d_fullres", "3d_lowres"])
    with pytest.raises(InputError, match="found '3d_cascade_fullres'; expected 2d, 3d_fullres, 3"):
        check_configurations(["2d", "3d_cascade_fullres"])


def test_only_the_files_asked_for_are_looked_at(dataset: Dataset) -> None:
    scan = dataset.scans[0].scan_id
    label = f"labelsTr/{scan}.nii.gz"
    (dataset.folder / label).unlink()
    check_dataset(dataset, names={f"imagesTr/{scan}_0000.nii.gz"})
    with pytest.raises(InputError, match=rf"found {label} missing or of another size"):
        check_dataset(dataset, names={label})


REGIONS = {"background": 0, "large_bowel": [1, 3, 5, 7], "stomach": [4, 5, 6, 7]}
EXCLUSIVE = {"background": 0, "large_bowel": 1, "stomach": 2}


def make_model(results: Path, configuration: str, labels: object) -> TrainedModel:
    folder = results / f"nnUNetTrainer__nnUNetPlans__{configuration}"
    folder.mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps({"labels": labels}))
    return TrainedModel(
        folder=folder, trainer="nnUNetTrainer", plans_name="nnUNetPlans",
        configuration=configuration, folds=(0,), newest=0.0,
    )  # fmt: skip


def test_models_of_one_label_scheme_may_be_averaged(tmp_path: Path) -> None:
    models = [make_model(tmp_path, name, REGIONS) for name in ("2d", "3d_fullres")]
    check_same_labels(models)
    check_same_labels(models[:1])
    check_same_labels([])


def test_models_of_different_label_schemes_are_refused(tmp_path: Path) -> None:
    models = [
        make_model(tmp_path, name, labels)
        for name, labels in (("2d", REGIONS), ("3d_fullres", REGIONS), ("3d_lowres", EXCLUSIVE))
    ]
    with pytest.raises(InputError, match=r"3d_lowres: found labels .*expected those of .*__2d,"):
        check_same_labels(models)
    (models[0].folder / "dataset.json").unlink()
    with pytest.raises(InputError, match=r"2d/dataset.json: no such file"):
        check_same_labels(models)


def test_a_model_of_other_labels_than_the_datasets_is_refused(
    dataset: Dataset, tmp_path: Path
) -> None:
    labels = json.loads((dataset.folder / "dataset.json").read_text())["labels"]
    fitting = make_model(tmp_path / "a", "2d", labels)
    check_labels_of([fitting], dataset)
    other = make_model(tmp_path / "b", "3d_fullres", EXCLUSIVE)
    with pytest.raises(InputError, match=r"b/.*3d_fullres: found labels .*Dataset501.*--trainer"):
        check_labels_of([fitting, other], dataset)


@pytest.mark.parametrize("name", ["nnUNetTrainer", "nnUNetTrainer_250epochs", "_Mine"])
def test_a_class_name_is_a_trainer(name: str) -> None:
    TrainingSettings(trainer=name)


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b", "1a", "a\n", "é", "a" * 101])
def test_what_is_no_class_name_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="expected the name of a trainer class"):
        TrainingSettings(trainer=name)


def test_a_checkpoint_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(InputError, match="no such file; expected a checkpoint"):
            check_checkpoint_file(path)


def test_a_real_checkpoint_passes(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"weights": torch.zeros(3)}, tmp_path / "checkpoint_final.pth")
    check_checkpoint_file(tmp_path / "checkpoint_final.pth")
