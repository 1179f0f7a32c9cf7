"""From the UW-Madison GI Tract competition's files to a trained nnU-Net and a scored submission.

The handful of calls and objects that a notebook needs; each is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gi2nnunet.api.data import check, convert, open_dataset
    from gi2nnunet.api.prediction import predict, predict_and_score
    from gi2nnunet.api.results import score, write_report
    from gi2nnunet.api.training import train
    from gi2nnunet.errors import EngineError, GiError, InputError, OutputError
    from gi2nnunet.evaluation import Evaluation
    from gi2nnunet.kaggle import ORGANS
    from gi2nnunet.manifest import Dataset, DatasetScan
    from gi2nnunet.nnunet.train import TrainingProgress
    from gi2nnunet.nnunet.training import TrainingResult
    from gi2nnunet.phantom import Geometry, write_phantom
    from gi2nnunet.scores import Score
    from gi2nnunet.survey import SourceReport

    __version__: str

__all__ = [
    "ORGANS",
    "Dataset",
    "DatasetScan",
    "EngineError",
    "Evaluation",
    "Geometry",
    "GiError",
    "InputError",
    "OutputError",
    "Score",
    "SourceReport",
    "TrainingProgress",
    "TrainingResult",
    "__version__",
    "check",
    "convert",
    "open_dataset",
    "predict",
    "predict_and_score",
    "score",
    "train",
    "write_phantom",
    "write_report",
]

_HOMES = {
    "api.data": ("check", "convert", "open_dataset"),
    "api.prediction": ("predict", "predict_and_score"),
    "api.results": ("score", "write_report"),
    "api.training": ("train",),
    "errors": ("EngineError", "GiError", "InputError", "OutputError"),
    "evaluation": ("Evaluation",),
    "kaggle": ("ORGANS",),
    "manifest": ("Dataset", "DatasetScan"),
    "nnunet.train": ("TrainingProgress",),
    "nnunet.training": ("TrainingResult",),
    "phantom": ("Geometry", "write_phantom"),
    "scores": ("Score",),
    "survey": ("SourceReport",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

if not TYPE_CHECKING:  # else every misspelt name would pass for one of these

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            from importlib.metadata import version

            value = version("gi2nnunet")
        elif name in _HOME_OF:
            value = getattr(import_module(f"gi2nnunet.{_HOME_OF[name]}"), name)
        else:
            raise AttributeError(f"module 'gi2nnunet' has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
