from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from gi2nnunet.core.errors import Finding, InputError
from gi2nnunet.core.files import write_json
from gi2nnunet.dataset.manifest import Dataset
from gi2nnunet.dataset.workspace import Workspace, open_workspace
from gi2nnunet.formats.volumes import encode_volume, read_volume
from gi2nnunet.nnunet.models import record_digest
from gi2nnunet.source.dataset import list_files
from gi2nnunet.training.prepared import (
    digest_file,
    digest_preprocessing,
    mark_fingerprint,
    seal_data,
)
from gi2nnunet.upkeep.verify import Verification, run_checks, verify_workspace
from tests.converting import convert
from tests.source_factory import make_source, write_source

NAME, PLANS = "Dataset501_UWGI", "gi2nnunetTinyPlans"
SCANS = ("case1_day0", "case1_day5", "case2_day0", "case3_day0", "case4_day2", "case5_day1")
CONFIGURED = {"data_identifier": f"{PLANS}_2d", "batch_size": 2, "patch_size": [8, 8],
              "spacing": [1.5, 1.5]}  # fmt: skip


class Space:
    """A whole workspace: a real conversion; plans, preprocessed scans and a model made up."""

    def __init__(self, root: Path, source: Path) -> None:
        self.workspace: Workspace = open_workspace(root, environ={})
        self.dataset: Dataset = convert(
            source,
            workspace=self.workspace,
            jobs=1,
        )
        self.raw = self.workspace.raw / NAME
        self.made = self.workspace.preprocessed / NAME
        self.data = self.made / f"{PLANS}_2d"
        self.model = self.workspace.results / NAME / f"nnUNetTrainer__{PLANS}__2d"
        self.train = [scan.scan_id for scan in self.dataset.scans if scan.part == "train"]
        self.held = [scan.scan_id for scan in self.dataset.scans if scan.part == "holdout"]
        self._preprocess()
        for fold in ("0", "all"):
            self._train(fold)

    def _preprocess(self) -> None:
        digest = self.dataset.digest
        plans = self.made / f"{PLANS}.json"
        write_json(plans, {"configurations": {"2d": CONFIGURED}})
        write_json(self.made / "dataset_fingerprint.json", {"spacings": []})
        mark_fingerprint(
            self.made,
            {"dataset": digest, "fingerprint": digest_file(self.made / "dataset_fingerprint.json"),
             "modified_ns": {}, "organs": {}},
        )  # fmt: skip
        shutil.copy(self.raw / "dataset.json", self.made)
        write_json(
            self.made / f"gi2nnunet_{PLANS}.json",
            {"recipe": {"dataset": digest}, "plans": digest_file(plans),
             "configurations": {"2d": CONFIGURED}},
        )  # fmt: skip
        self.data.mkdir()
        for scan_id in self.train:
            (self.data / f"{scan_id}.b2nd").write_bytes(b"image")
            (self.data / f"{scan_id}_seg.b2nd").write_bytes(b"labels")
            (self.data / f"{scan_id}.pkl").write_bytes(b"properties")
        seal_data(self.data, self.dataset, preprocessing=digest_preprocessing(plans, "2d"))
        shutil.copytree(self.raw / "labelsTr", self.made / "gt_segmentations")

    def _train(self, fold: str) -> None:
        folder = self.model / f"fold_{fold}"
        write_json(
            folder / "gi2nnunet_training.json",
            {"dataset": self.dataset.digest, "plans": digest_file(self.plans)},
        )
        copy = {"configurations": {"2d": CONFIGURED}, "continue_training": False}
        write_json(self.model / "plans.json", copy)
        shutil.copy(self.raw / "dataset.json", self.model)
        with zipfile.ZipFile(folder / "checkpoint_final.pth", "w") as archive:
            archive.writestr("archive/data.pkl", b"weights" * 100)

    @property
    def plans(self) -> Path:
        return self.made / f"{PLANS}.json"

    def image(self, index: int = 0) -> Path:
        return self.raw / "imagesTr" / f"{self.train[index]}_0000.nii.gz"

    def label(self, index: int = 0) -> Path:
        return self.raw / "labelsTr" / f"{self.train[index]}.nii.gz"

    def verify(self, *, quick: bool = False, jobs: int = 2) -> Verification:
        return verify_workspace(self.workspace, quick=quick, jobs=jobs)

    def say(self, path: Path) -> None:
        """Let the manifest tell of a file as it is now, so that only its content is wrong."""
        content = json.loads((self.raw / "manifest.json").read_text())
        name = path.relative_to(self.raw).as_posix()
        described = list_files(content)[name]  # the manifest's own entry
        data = path.read_bytes()
        described |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        write_json(self.raw / "manifest.json", content)


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("origin")
    Space(root / "w", write_source(root / "source", make_source(SCANS)))
    return root


@pytest.fixture
def space(origin: Path, tmp_path: Path) -> Space:
    """A copy of it that a test may harm."""
    shutil.copytree(origin / "w", tmp_path / "w")
    copy = Space.__new__(Space)
    copy.workspace = open_workspace(tmp_path / "w", environ={})
    copy.raw, copy.made = (r / NAME for r in (copy.workspace.raw, copy.workspace.preprocessed))
    copy.data = copy.made / f"{PLANS}_2d"
    copy.model = copy.workspace.results / NAME / f"nnUNetTrainer__{PLANS}__2d"
    scans = json.loads((copy.raw / "manifest.json").read_text())["scans"]
    copy.train = [scan["scan_id"] for scan in scans if scan["part"] == "train"]
    copy.held = [scan["scan_id"] for scan in scans if scan["part"] == "holdout"]
    return copy


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("quick", [False, True])
def test_a_sound_workspace_has_no_finding_and_stays_as_it_is(space: Space, quick: bool) -> None:
    before = digests(space.workspace.raw.parent)
    result = space.verify(quick=quick)
    assert result.findings == ()
    assert result.sound
    assert result.datasets == (NAME,)
    assert result.checks > 15
    assert digests(space.workspace.raw.parent) == before


def cut(path: Path, count: int = 3) -> None:
    path.write_bytes(path.read_bytes()[:-count])


def flip(path: Path) -> None:
    """Alter a file, but not its size."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def flip_unseen(path: Path) -> None:
    """Alter a file, but neither its size nor its time stamp, as a disk may do."""
    before = path.stat()
    flip(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def edit(path: Path, **values: object) -> None:
    write_json(path, {**json.loads(path.read_text()), **values})


def edit_text(path: Path, old: str, new: str, count: int = -1) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, count))


def edit_split(path: Path, change: Callable[[list[dict[str, list[str]]]], object]) -> None:
    splits = json.loads(path.read_text())
    change(splits)
    path.write_text(json.dumps(splits))


def leak(splits: list[dict[str, list[str]]]) -> None:
    splits[0]["train"].append(splits[0]["val"][0])


Harm = Callable[[Space], object]
# What is done, where it is found, what is said of it; the last: whether --quick sees it.
HARMS: dict[str, tuple[Harm, Callable[[Space], Path], str, bool]] = {
    "an image is gone": (
        lambda s: s.image().unlink(), lambda s: s.image(), "found nothing", True,
    ),
    "an image is cut": (lambda s: cut(s.image()), lambda s: s.image(), "bytes; expected", True),
    "labels are altered": (
        lambda s: flip(s.label()), lambda s: s.label(), "other content (SHA-256", False,
    ),
    "a table is altered": (
        lambda s: flip(s.raw / "truth.csv"), lambda s: s.raw / "truth.csv", "SHA-256", False,
    ),
    "a stranger among the images": (
        lambda s: (s.raw / "imagesTr" / "case99_day1_0000.nii.gz").touch(),
        lambda s: s.raw / "imagesTr" / "case99_day1_0000.nii.gz", "not in the manifest", True,
    ),
    "other labels described": (
        lambda s: edit(s.raw / "dataset.json", labels={"background": 0}),
        lambda s: s.raw / "dataset.json", "those of the scheme regions", True,
    ),
    "a leak in the raw split": (
        lambda s: edit_split(s.raw / "splits_final.json", leak),
        lambda s: s.raw / "splits_final.json", "is in training and in validation", True,
    ),
    "a leak in the split that nnU-Net reads": (
        lambda s: edit_split(s.made / "splits_final.json", leak),
        lambda s: s.made / "splits_final.json", "is in training and in validation", True,
    ),
    "another split": (
        lambda s: edit_split(s.made / "splits_final.json", lambda splits: splits.reverse()),
        lambda s: s.made / "splits_final.json", "not as in the manifest", True,
    ),
    "a held-out scan in the split": (
        lambda s: edit_split(
            s.made / "splits_final.json", lambda splits: splits[0]["train"].append(s.held[0])
        ),
        lambda s: s.made / "splits_final.json", "not among the training scans", True,
    ),
    "no split for nnU-Net": (
        lambda s: (s.made / "splits_final.json").unlink(),
        lambda s: s.made / "splits_final.json", "random split", True,
    ),
    "a split of another form": (
        lambda s: (s.made / "splits_final.json").write_text('{"train": 1}'),
        lambda s: s.made / "splits_final.json", "no list of folds", True,
    ),
    "no manifest": (
        lambda s: (s.raw / "manifest.json").unlink(),
        lambda s: s.raw / "manifest.json", "whole dataset", True,
    ),
    "a damaged manifest": (
        lambda s: cut(s.raw / "manifest.json"),
        lambda s: s.raw / "manifest.json", "cannot be used", True,
    ),
    "an interrupted conversion": (
        lambda s: (s.workspace.raw / f".{NAME}.part").mkdir(),
        lambda s: s.workspace.raw / f".{NAME}.part", "interrupted", True,
    ),
    "a file left behind": (
        lambda s: (s.model / "fold_0" / ".checkpoint_latest.pth.77.part").touch(),
        lambda s: s.model / "fold_0" / ".checkpoint_latest.pth.77.part", "killed", True,
    ),
    "a fingerprint of another dataset": (
        lambda s: mark_fingerprint(
            s.made,
            {"dataset": "0", "fingerprint": digest_file(s.made / "dataset_fingerprint.json"),
             "modified_ns": {}, "organs": {}},
        ),
        lambda s: s.made / "dataset_fingerprint.json", "of another dataset", True,
    ),
    "no fingerprint": (
        lambda s: (s.made / "dataset_fingerprint.json").unlink(),
        lambda s: s.made / "dataset_fingerprint.json", "found nothing", True,
    ),
    "plans of another dataset": (
        lambda s: edit(s.made / f"gi2nnunet_{PLANS}.json", recipe={"dataset": "0"}),
        lambda s: s.plans, "plans of another dataset", True,
    ),
    "altered plans": (lambda s: edit(s.plans, x=1), lambda s: s.plans, "were altered", True),
    "no plans": (lambda s: s.plans.unlink(), lambda s: s.plans, "found nothing", True),
    "an altered fingerprint": (
        lambda s: cut(s.made / "dataset_fingerprint.json"),
        lambda s: s.made / "dataset_fingerprint.json", "was altered", True,
    ),
    "another description preprocessed": (
        lambda s: edit(s.made / "dataset.json", labels={}),
        lambda s: s.made / "dataset.json", "another description", True,
    ),
    "no description preprocessed": (
        lambda s: (s.made / "dataset.json").unlink(),
        lambda s: s.made / "dataset.json", "or none", True,
    ),
    "a scan is not preprocessed": (
        lambda s: (s.data / f"{s.train[1]}_seg.b2nd").unlink(),
        lambda s: s.data / f"{s.train[1]}_seg.b2nd", "found nothing", True,
    ),
    "an empty file": (
        lambda s: (s.data / f"{s.train[1]}.pkl").write_bytes(b""),
        lambda s: s.data / f"{s.train[1]}.pkl", "0 bytes", True,
    ),
    "a truncated scan": (
        lambda s: cut(s.data / f"{s.train[1]}.b2nd"),
        lambda s: s.data / f"{s.train[1]}.b2nd", "2 bytes; expected 5 bytes", True,
    ),
    "an altered scan": (
        lambda s: flip(s.data / f"{s.train[1]}.b2nd"),
        lambda s: s.data / f"{s.train[1]}.b2nd", "other content (SHA-256", True,
    ),
    "an altered scan with its old time stamp": (
        lambda s: flip_unseen(s.data / f"{s.train[1]}.b2nd"),
        lambda s: s.data / f"{s.train[1]}.b2nd", "other content (SHA-256", False,
    ),
    "a held-out scan preprocessed": (
        lambda s: (s.data / f"{s.held[0]}.pkl").touch(),
        lambda s: s.data / f"{s.held[0]}.pkl", "not of a training scan", True,
    ),
    "a stray file among the preprocessed scans": (
        lambda s: (s.data / "notes.txt").touch(), lambda s: s.data / "notes.txt",
        "not of a training scan", True,
    ),
    "no mark of completion": (
        lambda s: (s.made / f"gi2nnunet_{PLANS}_2d.complete.json").unlink(),
        lambda s: s.data, "was interrupted", True,
    ),
    "scans of another dataset": (
        lambda s: edit(s.made / f"gi2nnunet_{PLANS}_2d.complete.json", dataset="0"),
        lambda s: s.data, "scans of another dataset", True,
    ),
    "scans of another plan": (
        lambda s: edit(s.made / f"gi2nnunet_{PLANS}_2d.complete.json", preprocessing="0"),
        lambda s: s.data, "by another plan", True,
    ),
    "nnU-Net's copy of the truth": (
        lambda s: flip(s.made / "gt_segmentations" / f"{s.train[0]}.nii.gz"),
        lambda s: s.made / "gt_segmentations" / f"{s.train[0]}.nii.gz", "SHA-256", False,
    ),
    "a model of another dataset": (
        lambda s: edit(s.model / "fold_0" / "gi2nnunet_training.json", dataset="0"),
        lambda s: s.model / "fold_0", "trained on another dataset", True,
    ),
    "a model of another plan": (
        lambda s: edit(s.model / "fold_0" / "gi2nnunet_training.json", plans="0"),
        lambda s: s.model / "fold_0", "trained on another plan", True,
    ),
    "a model's plans are altered": (
        lambda s: edit(s.model / "plans.json", x=1),
        lambda s: s.model / "plans.json", "was altered", True,
    ),
    "a model's plans are cut": (
        lambda s: cut(s.model / "plans.json"),
        lambda s: s.model / "plans.json", "is damaged", True,
    ),
    "a model's description is altered": (
        lambda s: edit(s.model / "dataset.json", labels={"background": 0}),
        lambda s: s.model / "dataset.json", "was altered", True,
    ),
    "a model's description is cut": (
        lambda s: cut(s.model / "dataset.json"),
        lambda s: s.model / "dataset.json", "is damaged", True,
    ),
    "a mark of the plans is gone": (
        lambda s: (s.made / f"gi2nnunet_{PLANS}.json").unlink(),
        lambda s: s.made / f"gi2nnunet_{PLANS}.json", "found nothing", True,
    ),
    "a mark of the plans with other sizes": (
        lambda s: edit(
            s.made / f"gi2nnunet_{PLANS}.json",
            configurations={"2d": {**CONFIGURED, "batch_size": 9}},
        ),
        lambda s: s.made / f"gi2nnunet_{PLANS}.json", "sizes that were altered", True,
    ),
    "an altered mark of the fingerprint": (
        lambda s: edit_text(
            s.made / "gi2nnunet_fingerprint.json", '"organs": {}', '"organs": {"a": []}'
        ),
        lambda s: s.made / "gi2nnunet_fingerprint.json", "a mark that was altered", True,
    ),
    "a manifest with a scan of another name": (
        lambda s: edit_text(
            s.raw / "manifest.json", f'"scan_id": "{s.train[0]}"', '"scan_id": "case98_day1"'
        ),
        lambda s: s.raw / "manifest.json", "only in some of its lists", True,
    ),
    "a manifest without the prints of a scan": (
        lambda s: edit_text(s.raw / "manifest.json", '"prints"', '"print"', count=1),
        lambda s: s.raw / "manifest.json", ".prints", True,
    ),
    "an interrupted import": (
        lambda s: (s.workspace.results / f".{NAME}.part").mkdir(),
        lambda s: s.workspace.results / f".{NAME}.part", "interrupted", True,
    ),
    "digests of a checkpoint of another name": (
        lambda s: (
            record_digest(s.model / "fold_0" / "checkpoint_final.pth", s.plans),
            edit_text(s.model / "fold_0" / "gi2nnunet_digests.json", "_final", "_fjnal"),
        ),
        lambda s: s.model / "fold_0" / "gi2nnunet_digests.json", "damaged", True,
    ),
    "a model's plans are gone": (
        lambda s: (s.model / "plans.json").unlink(),
        lambda s: s.model / "plans.json", "found nothing", True,
    ),
    "a checkpoint is gone": (
        lambda s: (
            record_digest(s.model / "fold_0" / "checkpoint_final.pth", s.plans),
            (s.model / "fold_0" / "checkpoint_final.pth").unlink(),
        ),
        lambda s: s.model / "fold_0" / "checkpoint_final.pth", "though it was saved", True,
    ),
    "a checkpoint of another size of weights": (
        lambda s: record_digest(s.model / "fold_0" / "checkpoint_final.pth", s.plans),
        lambda s: s.model / "fold_0" / "checkpoint_final.pth", "other content than was saved",
        False,
    ),
    "a truncated checkpoint": (
        lambda s: cut(s.model / "fold_0" / "checkpoint_final.pth", 40),
        lambda s: s.model / "fold_0" / "checkpoint_final.pth", "truncated or damaged", True,
    ),
    "an altered checkpoint": (
        lambda s: flip(s.model / "fold_0" / "checkpoint_final.pth"),
        lambda s: s.model / "fold_0" / "checkpoint_final.pth", "damaged", False,
    ),
    "a fold that is not of the split": (
        lambda s: shutil.copytree(s.model / "fold_0", s.model / "fold_7"),
        lambda s: s.model / "fold_7", "random split", True,
    ),
}  # fmt: skip


def test_a_note_says_how_a_checkpoint_without_digests_is_made_again(space: Space) -> None:
    final = space.model / "fold_0" / "checkpoint_final.pth"
    record_digest(final, final)
    (final.parent / "gi2nnunet_digests.json").unlink()
    (final.parents[1] / "fold_all" / "gi2nnunet_training.json").unlink()  # as nnU-Net trains
    ours, plain = space.verify().notes
    assert "fold_0/gi2nnunet_digests.json: it is missing" in ours
    assert "gi2nnunet train --config 2d --fold 0 --preset tiny --restart" in ours
    assert "fold_all/checkpoint_final.pth: no SHA-256 was recorded" in plain


@pytest.mark.parametrize("quick", [False, True], ids=["whole", "quick"])
@pytest.mark.parametrize("harm", HARMS)
def test_each_harm_is_found_where_it_is(space: Space, harm: str, quick: bool) -> None:
    do, where, said, seen_quickly = HARMS[harm]
    do(space)
    found = [
        f for f in space.verify(quick=quick).findings if f.file == where(space) and said in str(f)
    ]
    assert len(found) == (1 if seen_quickly or not quick else 0)
    assert all(f.remedy.endswith(".") or "gi2nnunet " in f.remedy for f in found)


def rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray], spacing: float = 1.5) -> None:
    volume = read_volume(path)
    path.write_bytes(encode_volume(change(volume.array), spacing_mm=(3.0, spacing, spacing)))


def mirror(path: Path) -> None:
    """Store the same volume in the other order of slices, lying where it lay."""
    image = nibabel.load(path)
    turned = image.as_reoriented(np.array([[0, 1], [1, 1], [2, -1]]))
    path.write_bytes(gzip.compress(turned.to_bytes()))


@pytest.mark.parametrize(
    ("which", "change", "said"),
    [
        ("label", lambda p: rewrite(p, lambda a: a + np.uint8(4)), "the values 8"),
        ("label", lambda p: rewrite(p, lambda a: a[:, 1:]), "voxels; expected (5, 12, 16)"),
        ("label", lambda p: rewrite(p, lambda a: a, spacing=2.0), "an affine"),
        ("label", mirror, "an affine"),
        ("label", lambda p: p.write_bytes(gzip.compress(b"no volume")), "an unreadable volume"),
        ("image", lambda p: rewrite(p, lambda a: a[1:]), "4 x 12 x 16 voxels of 3 x 1.5 x 1.5 mm"),
        ("image", lambda p: rewrite(p, lambda a: a, spacing=2.0), "voxels of 3 x 2 x 2 mm"),
    ],
)
def test_content_is_checked_beyond_its_digest(
    space: Space, which: str, change: Callable[[Path], None], said: str
) -> None:
    index = next(i for i, s in enumerate(space.train) if read_volume(space.image(i)).array.shape
                 == (5, 12, 16))  # fmt: skip
    path = space.label(index) if which == "label" else space.image(index)
    change(path)
    space.say(path)
    told = [str(f) for f in space.verify().findings if f.file == path]
    assert len(told) == 1
    assert said in told[0]
    quickly = [f for f in space.verify(quick=True).findings if f.file == path]
    assert quickly == []


def test_exclusive_labels_have_their_own_values(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", make_source(SCANS))
    workspace = open_workspace(tmp_path / "w", environ={})
    dataset = convert(
        source, workspace=workspace,
        labels="exclusive", jobs=1,
    )  # fmt: skip
    assert verify_workspace(workspace).sound
    path = dataset.label_path(next(s.scan_id for s in dataset.scans if s.part == "train"))
    rewrite(path, lambda a: np.where(a == 3, np.uint8(4), a))
    assert any(
        "the values 4; expected 0 to 3" in str(f) for f in verify_workspace(workspace).findings
    )


def test_a_patient_on_both_sides_of_the_hold_out_is_found(space: Space) -> None:
    content = json.loads((space.raw / "manifest.json").read_text())
    scan = next(s for s in content["scans"] if s["part"] == "train")
    twin = next(s for s in content["scans"] if s["part"] == "holdout")
    patient = twin["scan_id"].split("_")[0]
    for old, new in ((scan["scan_id"], f"{patient}_day99"),):
        text = (space.raw / "manifest.json").read_text().replace(old, new)
        (space.raw / "manifest.json").write_text(text)
    told = [str(f) for f in space.verify(quick=True).findings]
    assert any(f"{patient} in training and in the held-out set" in line for line in told)
    edit(space.raw / "manifest.json", shared_patients=[patient])  # as mle-bench has it
    told = [str(f) for f in space.verify(quick=True).findings]
    assert not any("held-out set" in line for line in told)


def test_the_result_does_not_depend_on_jobs(space: Space) -> None:
    for name in (
        "an image is gone",
        "a stranger among the images",
        "no plans",
        "a file left behind",
    ):
        HARMS[name][0](space)
    one, many = space.verify(jobs=1), space.verify(jobs=7)
    assert len(one.findings) >= 4
    assert one == many


def test_what_plain_nnunet_made_has_no_marks_and_is_no_finding(space: Space) -> None:
    shutil.copytree(space.data, space.made / "nnUNetPlans_2d")
    model = space.workspace.results / NAME / "nnUNetTrainer__nnUNetPlans__2d"
    shutil.copytree(space.model, model)
    for fold in ("0", "all"):
        (model / f"fold_{fold}" / "gi2nnunet_training.json").unlink()
    assert space.verify().sound


def test_models_alone_are_checked_as_far_as_they_go(space: Space) -> None:
    shutil.rmtree(space.workspace.raw)
    shutil.rmtree(space.workspace.preprocessed)
    result = space.verify()
    assert result.sound
    assert "its dataset is missing" in result.notes[0]
    flip(space.model / "fold_all" / "checkpoint_final.pth")
    assert [f.file.name for f in space.verify().findings] == ["checkpoint_final.pth"]


def test_one_dataset_of_several_can_be_named(space: Space) -> None:
    shutil.copytree(space.raw, space.workspace.raw / "Dataset502_Other")
    (space.workspace.raw / "Dataset502_Other" / "truth.csv").unlink()
    assert len(space.verify(quick=True).findings) == 1
    assert verify_workspace(space.workspace, dataset_id=501, quick=True).sound
    with pytest.raises(InputError, match="holds no dataset 7"):
        verify_workspace(space.workspace, dataset_id=7)


def test_nothing_to_check_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gi2nnunet convert SOURCE"):
        verify_workspace(open_workspace(tmp_path, environ={}))
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_every_check() -> None:
    finding = Finding(file=Path("x"), found="a", expected="b", remedy="C.")
    told: list[tuple[int, int, str]] = []
    found = run_checks(
        [lambda: [finding], list, lambda: [finding, finding]], jobs=2,
        progress=lambda *args: told.append(args),
    )  # fmt: skip
    assert found == [finding] * 3
    assert told == [(1, 3, "checking files"), (2, 3, "checking files"), (3, 3, "checking files")]
    assert str(finding) == "x: found a; expected b. C."
    with pytest.raises(ValueError, match="jobs 0"):
        run_checks([], jobs=0)


class Inspector:
    """A stand-in for the engine that refuses some of the checkpoints that it is to load."""

    def __init__(self, *refused: Path) -> None:
        self.refused = {str(path): "found NaN" for path in refused}
        self.asked: list[str] = []

    def run(self, task: str, options: dict[str, Any], **_: Any) -> dict[str, Any]:
        assert task == "inspect"
        self.asked += options["checkpoints"]
        return {"refused": self.refused}


def test_checkpoints_that_a_prediction_refuses_are_found(space: Space) -> None:
    final = space.model / "fold_0" / "checkpoint_final.pth"
    engine = Inspector(final)
    found = verify_workspace(space.workspace, engine=engine).findings  # type: ignore[arg-type]
    assert [(f.file, f.found, f.remedy) for f in found] == [
        (final, "a checkpoint that is refused (found NaN)",
         "Restore it, or train it again: gi2nnunet train --config 2d --fold 0 --preset tiny "
         "--restart"),
    ]  # fmt: skip
    assert str(final) in engine.asked
    cut(final, 40)  # what is damaged is reported once
    found = verify_workspace(space.workspace, engine=engine).findings  # type: ignore[arg-type]
    assert len(found) == 1
    assert "truncated or damaged" in found[0].found
    assert verify_workspace(space.workspace, quick=True, engine=engine).findings == found  # type: ignore[arg-type]
