"""From the UW-Madison GI Tract competition's files to a trained nnU-Net and a scored submission.

The handful of calls and objects that a notebook needs; each is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gi2nnunet.api import (
        check,
        convert,
        open_dataset,
        predict,
        predict_and_score,
        score,
        train,
        write_report,
    )
    from gi2nnunet.core.errors import EngineError, GiError, InputError, OutputError
    from gi2nnunet.dataset.manifest import Dataset
    from gi2nnunet.formats.ids import ORGANS
    from gi2nnunet.prediction.evaluate import Evaluation
    from gi2nnunet.scoring.result import Score
    from gi2nnunet.source.check.check import SourceReport
    from gi2nnunet.source.dataset import DatasetScan
    from gi2nnunet.source.phantom.frame import Geometry
    from gi2nnunet.source.phantom.writing import write_phantom
    from gi2nnunet.training.record import TrainingResult
    from gi2nnunet.training.train import TrainingProgress

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
    "api": (
        "check", "convert", "open_dataset", "predict", "predict_and_score", "score", "train",
        "write_report",
    ),
    "core.errors": ("EngineError", "GiError", "InputError", "OutputError"),
    "dataset.manifest": ("Dataset",),
    "formats.ids": ("ORGANS",),
    "prediction.evaluate": ("Evaluation",),
    "scoring.result": ("Score",),
    "source.check.check": ("SourceReport",),
    "source.dataset": ("DatasetScan",),
    "source.phantom.frame": ("Geometry",),
    "source.phantom.writing": ("write_phantom",),
    "training.record": ("TrainingResult",),
    "training.train": ("TrainingProgress",),
}  # fmt: skip
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
