"""A workspace with models of every fold, and a stand-in for the engine that knows the truth."""

import numpy as np

from gi2nnunet.core.errors import EngineError
from gi2nnunet.dataset.workspace import open_workspace
from gi2nnunet.formats.labels import split_organs
from gi2nnunet.formats.probabilities import SUFFIX, to_eight_bits, write_probabilities
from gi2nnunet.formats.volumes import read_volume
from gi2nnunet.nnunet.models import choose_ensemble
from gi2nnunet.nnunet.postprocess import save_tuning
from gi2nnunet.prediction.out_of_fold import predict_out_of_fold
from gi2nnunet.prediction.predict import PredictedScans
from gi2nnunet.tuning.search import list_tuning_scans, tune_decision
from tests.converting import convert
from tests.engines import compute
from tests.model_factory import write_model
from tests.source_factory import make_source, write_files


class Bench:
    """A converted source of seven patients, models of three folds, a stand-in for the engine."""

    def __init__(self, folder, *, folds=(0, 1, 2), labels="regions", splits=None):
        self.workspace = open_workspace(folder / "w", environ={})
        source = make_source([f"case{n}_day{day}" for n in range(1, 8) for day in (0, 5)])
        self.dataset = convert(
            write_files(folder / "source", source.files()),
            workspace=self.workspace,
            folds=None if splits else 3, holdout=0, jobs=1, labels=labels, splits=splits,
            allow_leaks=splits is not None,
        )  # fmt: skip
        for configuration in ("2d", "3d_fullres"):
            write_model(self.workspace.results, configuration=configuration, folds=folds)
        self.asked = []
        self.dies_after = None
        self.cut = {}  # by configuration; 0.7 where not told
        self.train = [s.scan_id for s in self.dataset.scans if s.part == "train"]

    @property
    def ensemble(self):
        return choose_ensemble(
            self.results, n_folds=3, folds=["cv"], configurations=["2d", "3d_fullres"],
        )  # fmt: skip

    @property
    def results(self):
        return self.workspace.results / self.dataset.name

    def engine(self, ensemble, scans, *, folds, probability_folders, about, on_scan, **_):
        """Give the truth at 0.9, and what lies beside it at the threshold to be found."""
        (model,) = ensemble.models
        for number, scan in enumerate(scans):
            if self.dies_after is not None and number == self.dies_after:
                raise EngineError("killed")
            self.asked.append((model.configuration, scan.scan_id, folds[scan.scan_id]))
            truth = split_organs(read_volume(self.dataset.label_path(scan.scan_id)).array)
            beside = np.roll(truth, 1, axis=-1) & ~truth
            value = truth * 0.95 + beside * (self.cut.get(model.configuration, 0.7) - 0.05)
            write_probabilities(
                probability_folders[model.folder.name] / f"{scan.scan_id}{SUFFIX}",
                to_eight_bits(value), scan_id=scan.scan_id, numbers=scan.numbers,
                spacing_mm=(3, 1.5, 1.5), about=about[scan.scan_id],
            )  # fmt: skip
            on_scan(scan)
        return PredictedScans(scans=(), peaks={"peak_memory_bytes": 5 << 20})

    def compute(self, **options):
        return compute(self.workspace, **options)

    def describe(self, **options):
        computing = self.compute(**options)
        return computing["settings"].describe(computing["engine"])

    def predict(self, progress=None, truth=False, **options):
        return predict_out_of_fold(
            self.dataset, self.ensemble, **self.compute(**options), truth=truth,
            progress=progress,
        )  # fmt: skip

    def tune(self):
        predicted = self.predict()
        found = tune_decision(
            list_tuning_scans(self.dataset, predicted), configurations=("2d", "3d_fullres"), jobs=1
        )
        return save_tuning(found, self.ensemble.models, (0, 1, 2), computing=self.describe())
