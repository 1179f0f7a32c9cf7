"""Preprocessed folders as planning and preprocessing leave them, of empty files."""

from __future__ import annotations

import shutil
from pathlib import Path

from gi2nnunet.core.files import write_json
from gi2nnunet.dataset.manifest import Dataset
from gi2nnunet.training.prepared import (
    digest_file,
    digest_preprocessing,
    mark_fingerprint,
    name_data_files,
    seal_data,
)


def prepare(dataset: Dataset, plans_file: Path) -> None:
    """Leave what planning and preprocessing leave."""
    folder, configured = plans_file.parent, {}
    for name in ("2d", "3d_fullres"):
        configured[name] = {"data_identifier": name, "batch_size": 2, "patch_size": [8, 8],
                            "spacing": [1.0, 1.0]}  # fmt: skip
    write_json(plans_file, {"configurations": configured})
    write_json(folder / "dataset_fingerprint.json", {})
    digest = digest_file(folder / "dataset_fingerprint.json")
    shutil.copy(dataset.folder / "dataset.json", folder)
    shutil.copytree(dataset.folder / "labelsTr", folder / "gt_segmentations")
    mark_fingerprint(
        folder,
        {"dataset": dataset.digest, "fingerprint": digest, "modified_ns": {}, "organs": {}},
    )
    write_json(
        folder / f"gi2nnunet_{plans_file.name}",
        {"recipe": {"dataset": dataset.digest}, "plans": digest_file(plans_file),
         "configurations": configured},
    )  # fmt: skip
    for name in configured:
        (folder / name).mkdir()
        for file in name_data_files(s.scan_id for s in dataset.scans if s.part == "train"):
            (folder / name / file).touch()
        preprocessing = digest_preprocessing(plans_file, name)
        seal_data(folder / name, dataset, preprocessing=preprocessing)
