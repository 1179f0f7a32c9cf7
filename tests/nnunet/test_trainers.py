from __future__ import annotations

import os
from pathlib import Path

import pytest

from gi2nnunet.core.errors import InputError
from gi2nnunet.formats.ids import LabelScheme
from gi2nnunet.nnunet.trainers import check_trainer, uses_planned_network
from gi2nnunet.nnunet.trust import TRAINERS, list_shipped


def check(
    name: str, labels: LabelScheme = "regions", *, folders: str = "", trust: bool = False
) -> None:
    environ = {"nnUNet_extTrainer": folders}
    check_trainer(name, label_scheme=labels, environ=environ, trust=trust)


def find_refused(labels: LabelScheme) -> set[str]:
    refused = set()
    for name in list_shipped(TRAINERS):
        try:
            check(name, labels)
        except InputError:
            refused.add(name)
    return refused


def test_trainers_of_nnunet_pass_and_those_whose_loss_takes_no_regions_need_exclusive_labels() -> (
    None
):
    no_trainers = find_refused("exclusive")
    assert no_trainers < {name for name in list_shipped(TRAINERS) if "Trainer" not in name}
    assert find_refused("regions") - no_trainers == {
        "nnUNetTrainerCELoss",
        "nnUNetTrainerCELoss_5epochs",  # inherits its loss
        "nnUNetTrainerTopk10Loss",
        "nnUNetTrainerTopk10LossLS01",
        "nnUNetTrainerDiceTopK10Loss",
    }


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("nnUNetTrainer_250epoch", "nnUNetTrainer_250epochs"),
        ("nnunettrainernomirroring", "nnUNetTrainerNoMirroring"),
        ("nnUNetTrainerDA_5", "nnUNetTrainerDA5"),
        ("Mine", "such as nnUNetTrainer"),
    ],
)
def test_the_message_offers_what_was_meant(typed: str, meant: str) -> None:
    with pytest.raises(InputError, match=f"found {typed!r}.*{meant}"):
        check(typed)
    check(meant.removeprefix("such as "))


def test_trainers_of_ones_own_need_trust_and_follow_the_class_they_are_made_of(
    tmp_path: Path,
) -> None:
    ours, broken = tmp_path / "ours", tmp_path / "broken"
    for folder in (ours, broken):
        folder.mkdir()
    (broken / "half.py").write_text("class nnUNetTrainer(")
    (ours / "own.py").write_text(
        "class Own(nnUNetTrainer):\n    pass\n"
        "class OwnCE(losses.nnUNetTrainerCELoss):\n    pass\n"
        "class OwnBoth(OwnCE):\n    def _build_loss(self):\n        return None\n"
        "class NoTrainer:\n    pass\n"
        "class Circle(Circle):\n    pass\n"
    )
    folders = os.pathsep.join((str(broken), str(ours), str(tmp_path / "nowhere")))
    with pytest.raises(InputError, match="nnUNet_extTrainer"):
        check("Own")
    with pytest.raises(InputError, match="add --trust"):
        check("Own", folders=folders)
    check("Own", folders=folders, trust=True)
    check("OwnBoth", folders=folders, trust=True)
    with pytest.raises(InputError, match="--labels exclusive"):
        check("OwnCE", folders=folders, trust=True)
    check("OwnCE", "exclusive", folders=folders, trust=True)
    for name in ("NoTrainer", "Circle"):
        with pytest.raises(InputError, match=f"found '{name}'"):
            check(name, folders=folders, trust=True)


@pytest.mark.parametrize(
    ("name", "planned"),
    [
        ("nnUNetTrainer", True),
        ("nnUNetTrainerAdam", True),
        ("nnUNetTrainer_250epochs", True),
        ("nnUNetTrainerNoDeepSupervision", True),
        ("nnUNetTrainerBN", False),
        ("nnUNet_Primus_S_Trainer", False),
        ("Unknown", False),
    ],
)
def test_trainers_that_build_a_network_of_their_own_are_known(name: str, planned: bool) -> None:
    assert uses_planned_network(name) is planned
