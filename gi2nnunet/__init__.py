"""From the UW-Madison GI Tract competition's files to a trained nnU-Net and a scored submission.

These are the calls and objects that a notebook needs; each is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gi2nnunet.api import check as check
    from gi2nnunet.api import compare as compare
    from gi2nnunet.api import convert as convert
    from gi2nnunet.api import open_dataset as open_dataset
    from gi2nnunet.api import predict as predict
    from gi2nnunet.api import predict_and_score as predict_and_score
    from gi2nnunet.api import remove as remove
    from gi2nnunet.api import score as score
    from gi2nnunet.api import status as status
    from gi2nnunet.api import train as train
    from gi2nnunet.api import write_report as write_report
    from gi2nnunet.core.errors import EngineError as EngineError
    from gi2nnunet.core.errors import GiError as GiError
    from gi2nnunet.core.errors import InputError as InputError
    from gi2nnunet.core.errors import OutputError as OutputError
    from gi2nnunet.dataset.manifest import Dataset as Dataset
    from gi2nnunet.formats.ids import ORGANS as ORGANS
    from gi2nnunet.prediction.evaluate import Evaluation as Evaluation
    from gi2nnunet.scoring.compare import Comparison as Comparison
    from gi2nnunet.scoring.result import Score as Score
    from gi2nnunet.source.check.check import SourceReport as SourceReport
    from gi2nnunet.source.dataset import DatasetScan as DatasetScan
    from gi2nnunet.source.phantom.frame import Geometry as Geometry
    from gi2nnunet.source.phantom.writing import write_phantom as write_phantom
    from gi2nnunet.training.record import TrainingResult as TrainingResult
    from gi2nnunet.training.train import TrainingProgress as TrainingProgress
    from gi2nnunet.upkeep.remove import Removal as Removal
    from gi2nnunet.upkeep.status import WorkspaceStatus as WorkspaceStatus

    __version__: str

_HOMES = {
    "api": (
        "check", "compare", "convert", "open_dataset", "predict", "predict_and_score", "remove",
        "score", "status", "train", "write_report",
    ),
    "core.errors": ("EngineError", "GiError", "InputError", "OutputError"),
    "dataset.manifest": ("Dataset",),
    "formats.ids": ("ORGANS",),
    "prediction.evaluate": ("Evaluation",),
    "scoring.compare": ("Comparison",),
    "scoring.result": ("Score",),
    "source.check.check": ("SourceReport",),
    "source.dataset": ("DatasetScan",),
    "source.phantom.frame": ("Geometry",),
    "source.phantom.writing": ("write_phantom",),
    "training.record": ("TrainingResult",),
    "training.train": ("TrainingProgress",),
    "upkeep.remove": ("Removal",),
    "upkeep.status": ("WorkspaceStatus",),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
__all__ = sorted([*_HOME_OF, "__version__"])

if not TYPE_CHECKING:  # otherwise a type checker would accept misspelt names

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
    return __all__
