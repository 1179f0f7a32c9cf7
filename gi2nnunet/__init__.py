"""Medical image segmentation: Kaggle's UW-Madison GI Tract data, nnU-Net, a scored submission.

::

    import gi2nnunet

    gi2nnunet.convert("uw-madison-gi-tract-image-segmentation.zip")
    gi2nnunet.train(fold="all")
    prediction = gi2nnunet.predict_and_score()
    print(prediction.score)

Each command is a call, and its options are keywords. ``help(gi2nnunet.train)`` explains one call,
``help(gi2nnunet.api)`` the keywords that many calls share.

=========== =====================================================================
sources     ``phantom``, ``check``, ``convert``, ``open_dataset``
training    ``doctor``, ``estimate``, ``plan``, ``train``, ``jobs``
prediction  ``predict``, ``predict_and_score``, ``predict_hidden``
tuning      ``out_of_fold``, ``tune``, ``compare_models``
scores      ``score``, ``compare``, ``report``
workspace   ``status``, ``verify``, ``remove``
files       ``encode``, ``export_dicom``
models      ``export_model``, ``import_model``, ``kaggle_bundle``
=========== =====================================================================

Errors are ``InputError``, ``EngineError`` and ``OutputError``, all of them ``GiError``. A call
prints nothing, unless ``progress=True`` asks for bars. Each name is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inspect import Signature

    from gi2nnunet.api import check as check
    from gi2nnunet.api import compare as compare
    from gi2nnunet.api import compare_models as compare_models
    from gi2nnunet.api import convert as convert
    from gi2nnunet.api import doctor as doctor
    from gi2nnunet.api import encode as encode
    from gi2nnunet.api import estimate as estimate
    from gi2nnunet.api import export_dicom as export_dicom
    from gi2nnunet.api import export_model as export_model
    from gi2nnunet.api import import_model as import_model
    from gi2nnunet.api import jobs as jobs
    from gi2nnunet.api import kaggle_bundle as kaggle_bundle
    from gi2nnunet.api import open_dataset as open_dataset
    from gi2nnunet.api import out_of_fold as out_of_fold
    from gi2nnunet.api import phantom as phantom
    from gi2nnunet.api import plan as plan
    from gi2nnunet.api import predict as predict
    from gi2nnunet.api import predict_and_score as predict_and_score
    from gi2nnunet.api import predict_hidden as predict_hidden
    from gi2nnunet.api import remove as remove
    from gi2nnunet.api import report as report
    from gi2nnunet.api import score as score
    from gi2nnunet.api import status as status
    from gi2nnunet.api import train as train
    from gi2nnunet.api import tune as tune
    from gi2nnunet.api import verify as verify
    from gi2nnunet.core.errors import EngineError as EngineError
    from gi2nnunet.core.errors import GiError as GiError
    from gi2nnunet.core.errors import InputError as InputError
    from gi2nnunet.core.errors import OutputError as OutputError
    from gi2nnunet.dataset.encode import Encoded as Encoded
    from gi2nnunet.dataset.export_dicom import ExportedDicom as ExportedDicom
    from gi2nnunet.dataset.manifest import Dataset as Dataset
    from gi2nnunet.formats.ids import ORGANS as ORGANS
    from gi2nnunet.pages.page import WrittenReport as WrittenReport
    from gi2nnunet.prediction.evaluate import Evaluation as Evaluation
    from gi2nnunet.prediction.out_of_fold import OutOfFold as OutOfFold
    from gi2nnunet.scoring.compare import Comparison as Comparison
    from gi2nnunet.scoring.result import Score as Score
    from gi2nnunet.sharing.exchange import ExportedModel as ExportedModel
    from gi2nnunet.sharing.exchange import ImportedModel as ImportedModel
    from gi2nnunet.sharing.hidden import HiddenPrediction as HiddenPrediction
    from gi2nnunet.sharing.kaggle_bundle import KaggleBundle as KaggleBundle
    from gi2nnunet.source.check.check import SourceReport as SourceReport
    from gi2nnunet.source.dataset import DatasetScan as DatasetScan
    from gi2nnunet.source.phantom.frame import Geometry as Geometry
    from gi2nnunet.source.phantom.writing import PhantomSummary as PhantomSummary
    from gi2nnunet.training.doctor import Diagnosis as Diagnosis
    from gi2nnunet.training.estimate import Estimate as Estimate
    from gi2nnunet.training.plan import Plan as Plan
    from gi2nnunet.training.record import TrainingResult as TrainingResult
    from gi2nnunet.training.train import TrainingProgress as TrainingProgress
    from gi2nnunet.tuning.compare_models import ModelComparison as ModelComparison
    from gi2nnunet.tuning.search import TunedModels as TunedModels
    from gi2nnunet.upkeep.jobs import SlurmJobs as SlurmJobs
    from gi2nnunet.upkeep.remove import Removal as Removal
    from gi2nnunet.upkeep.status import WorkspaceStatus as WorkspaceStatus
    from gi2nnunet.upkeep.verify import Verification as Verification

    __version__: str

_HOMES = {
    "api": (
        "check", "compare", "compare_models", "convert", "doctor", "encode", "estimate",
        "export_dicom", "export_model", "import_model", "jobs", "kaggle_bundle",
        "open_dataset", "out_of_fold", "phantom", "plan", "predict", "predict_and_score",
        "predict_hidden", "remove", "report", "score", "status", "train", "tune", "verify",
    ),
    "core.errors": ("EngineError", "GiError", "InputError", "OutputError"),
    "dataset.encode": ("Encoded",),
    "dataset.export_dicom": ("ExportedDicom",),
    "dataset.manifest": ("Dataset",),
    "formats.ids": ("ORGANS",),
    "prediction.evaluate": ("Evaluation",),
    "prediction.out_of_fold": ("OutOfFold",),
    "pages.page": ("WrittenReport",),
    "scoring.compare": ("Comparison",),
    "scoring.result": ("Score",),
    "sharing.exchange": ("ExportedModel", "ImportedModel"),
    "sharing.hidden": ("HiddenPrediction",),
    "sharing.kaggle_bundle": ("KaggleBundle",),
    "source.check.check": ("SourceReport",),
    "source.dataset": ("DatasetScan",),
    "source.phantom.frame": ("Geometry",),
    "source.phantom.writing": ("PhantomSummary",),
    "training.doctor": ("Diagnosis",),
    "training.estimate": ("Estimate",),
    "training.plan": ("Plan",),
    "training.record": ("TrainingResult",),
    "training.train": ("TrainingProgress",),
    "tuning.compare_models": ("ModelComparison",),
    "tuning.search": ("TunedModels",),
    "upkeep.jobs": ("SlurmJobs",),
    "upkeep.remove": ("Removal",),
    "upkeep.status": ("WorkspaceStatus",),
    "upkeep.verify": ("Verification",),
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
            if _HOME_OF[name] == "api":
                from gi2nnunet.api.arguments import check_arguments
                from gi2nnunet.core.keywords import speak_python

                value = speak_python(check_arguments(value), _list_signatures())
        else:
            raise AttributeError(f"module 'gi2nnunet' has no attribute {name!r}")
        globals()[name] = value
        return value


def _list_signatures() -> dict[str, Signature]:
    """Return the parameters of the calls that are commands too."""
    from inspect import signature

    api = import_module("gi2nnunet.api")
    return {name: signature(getattr(api, name)) for name in _HOMES["api"]}


def __dir__() -> list[str]:
    return __all__
