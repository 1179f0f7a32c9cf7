"""Organs of the training scans: which scans and folds have them, and what is missing to train."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from gi2nnunet.core.errors import name_some
from gi2nnunet.core.workers import count_cores
from gi2nnunet.dataset.manifest import Dataset
from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.formats.labels import split_organs
from gi2nnunet.formats.volumes import read_volume
from gi2nnunet.source.dataset import Fold


def find_organs(dataset: Dataset) -> dict[str, list[str]]:
    """Return the organs in the labels of each training scan, by scan id."""
    scans = [scan.scan_id for scan in dataset.scans if scan.part == "train"]

    def find(scan_id: str) -> list[str]:
        labels = read_volume(dataset.label_path(scan_id)).array
        values = np.flatnonzero(np.bincount(labels.astype(np.uint8).ravel())).astype(np.uint8)
        masks = split_organs(values, scheme=dataset.label_scheme)
        return [organ for organ, mask in zip(ORGANS, masks, strict=True) if mask.any()]

    with ThreadPoolExecutor(count_cores()) as pool:
        return dict(zip(scans, pool.map(find, scans), strict=True))


def warn_of_absent_organs(
    organs: Mapping[str, Sequence[str]], splits: Sequence[Fold]
) -> Iterator[str]:
    """Give a sentence for each organ that no training scan has, or none of a fold."""
    for organ in ORGANS:
        name = organ.replace("_", " ")
        having = {scan_id for scan_id, found in organs.items() if organ in found}
        if not having:
            yield (
                f"{name} is in no training scan: no network can learn it, and nnU-Net's "
                "nnUNetv2_find_best_configuration fails or compares wrongly"
            )
            continue
        for part, what in (("train", "trained"), ("val", "validated")):
            folds = [
                str(number)
                for number, fold in enumerate(splits)
                if not having & set(fold["train"] if part == "train" else fold["val"])
            ]
            if folds:
                yield (
                    f"{name} is in no scan that fold {name_some(folds)} is {what} on: "
                    + (
                        "its network cannot learn it"
                        if part == "train"
                        else "its scores say nothing of it, and nnU-Net's "
                        "nnUNetv2_find_best_configuration may fail"
                    )
                )
