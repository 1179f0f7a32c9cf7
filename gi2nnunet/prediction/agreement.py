"""Agreement of stored out-of-fold predictions with the truth, scan by scan and slice by slice."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gi2nnunet.core.errors import InputError
from gi2nnunet.core.workers import Progress, count_cores, ignore
from gi2nnunet.dataset.manifest import Dataset
from gi2nnunet.dataset.workspace import Workspace
from gi2nnunet.formats.labels import ORGAN_BITS, LabelMap, split_organs
from gi2nnunet.formats.probabilities import SUFFIX, read_about, read_probabilities
from gi2nnunet.formats.volumes import read_volume
from gi2nnunet.source.check.in_models import ScanAgreement

_HALF = 127.5  # of probabilities in eight bits


@dataclass(frozen=True, kw_only=True)
class StoredPredictions:
    """Out-of-fold predictions that are there for a dataset as it is now.

    Attributes
    ----------
    dataset
        The dataset.
    paths
        By scan the files of every model that predicted it.
    """

    dataset: Dataset
    paths: dict[str, tuple[Path, ...]]

    def predict(self, scan_id: str) -> LabelMap:
        """Return the label map ``(z, y, x)`` of one scan: where the models' mean is above a half.

        Raises
        ------
        InputError
            Where a file is damaged, or has another shape than the scan.
        """
        paths = self.paths[scan_id]
        total = read_probabilities(paths[0]).array.astype(np.uint16)
        for path in paths[1:]:
            array = read_probabilities(path).array
            if array.shape != total.shape:
                raise InputError(
                    f"{path}: found {array.shape[1:]} voxels; expected {total.shape[1:]}, as "
                    f"{paths[0]} has. Delete both and run gi2nnunet out-of-fold again."
                )
            total += array
        label_map = np.zeros(total.shape[1:], np.uint8)
        for organ, bit in enumerate(ORGAN_BITS):
            label_map |= (total[organ] > _HALF * len(paths)) * np.uint8(bit)
        return label_map

    def measure(
        self, scan_ids: Collection[str], *, jobs: int | None = None, progress: Progress = ignore
    ) -> tuple[ScanAgreement, ...]:
        """Hold the truth of scans against their predictions.

        Parameters
        ----------
        scan_ids
            Which; those without a prediction are passed over.
        jobs
            Scans in work at once; by default one a core.
        progress
            Called with ``(done, total, what)``.

        Raises
        ------
        InputError
            Where a file is damaged or missing.
        """
        chosen = [scan_id for scan_id in self.paths if scan_id in scan_ids]
        found = []
        with ThreadPoolExecutor(jobs or count_cores(), thread_name_prefix="agreement") as pool:
            try:
                for done, agreement in enumerate(pool.map(self._measure, chosen), 1):
                    found.append(agreement)
                    progress(done, len(chosen), "comparing with predictions")
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return tuple(found)

    def _measure(self, scan_id: str) -> ScanAgreement:
        truth_map = read_volume(self.dataset.label_path(scan_id)).array.astype(np.uint8)
        predicted_map = self.predict(scan_id)
        if truth_map.shape != predicted_map.shape:
            raise InputError(
                f"{self.paths[scan_id][0]}: found {predicted_map.shape} voxels; expected "
                f"{truth_map.shape}, as the scan has. Delete it and run gi2nnunet out-of-fold "
                "again."
            )
        truth, predicted = split_organs(truth_map), split_organs(predicted_map)
        return ScanAgreement(
            scan_id=scan_id,
            first_number=self.dataset.scan(scan_id).numbers[0],
            truth=truth.sum(axis=(2, 3)),
            predicted=predicted.sum(axis=(2, 3)),
            shared=(truth & predicted).sum(axis=(2, 3)),
        )


def find_stored_predictions(dataset: Dataset, *, workspace: Workspace) -> StoredPredictions:
    """Find the out-of-fold predictions of a dataset's training scans; nothing is predicted.

    A file counts if its fold is the one that the scan is validated in, and if it was made of the
    image that is there now.

    Raises
    ------
    InputError
        Where there is none.
    """
    home = workspace.predictions / dataset.name / "out_of_fold"
    fold_of = {
        scan_id: number for number, fold in enumerate(dataset.splits) for scan_id in fold["val"]
    }
    paths: dict[str, tuple[Path, ...]] = {}
    for scan in dataset.scans:
        if scan.part != "train" or not scan.labelled:
            continue
        image = [dataset.image_path(scan.scan_id).stat().st_size, len(scan.numbers)]
        found = []
        for path in sorted(home.glob(f"*/{scan.scan_id}{SUFFIX}")):
            about = read_about(path)
            if about.get("fold") == fold_of.get(scan.scan_id) and about.get("image") == image:
                found.append(path)
        if found:
            paths[scan.scan_id] = tuple(found)
    if not paths:
        raise InputError(
            f"{home}: found no out-of-fold prediction of {dataset.name}; expected some, to hold "
            "the truth against. Make them with: gi2nnunet out-of-fold"
        )
    return StoredPredictions(dataset=dataset, paths=paths)
