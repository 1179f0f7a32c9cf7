"""Calls that do what the commands do, for notebooks and scripts, with the same names and defaults.

Every option of a command is a keyword of its call, named like the command's Python parameter
(``--fold`` is ``fold``, ``--id`` is ``dataset_id``). A call returns what its command prints. All
are available from :mod:`gi2nnunet` itself, where messages name keywords instead of options. For
more control, use the functions of the packages that a call connects.

These keywords are the same in each call that takes them:

- ``source``: the competition's folder or zip, a folder of NIfTI volumes, or DICOM series.
  ``allow_missing`` takes masks without a row in ``train.csv`` as empty, skips rows without an
  image and leaves out scans that miss a slice. :func:`check` explains the other keywords on how it
  is opened.
- ``workspace``: the folder of all data and models; by default nnU-Net's three environment variables
  if all are set, otherwise ``./gi2nnunet-workspace``. ``dataset_id`` names one of its datasets.
- ``device`` (``auto``, ``cuda``, ``cpu`` or ``mps``), ``gpus`` (by default one), ``jobs`` (worker
  processes or threads, by default one per core) and ``threads`` (of the network's operations).
- ``trust`` loads checkpoints and plans unchecked: they can run any code.
- ``progress=True`` draws bars, in a notebook or a terminal. A callable is called with
  ``(done, total, what)``, also from another thread; ``on_notice`` and ``on_warning`` are called
  with sentences.

:class:`~gi2nnunet.core.errors.InputError` means that something given is damaged or missing,
:class:`~gi2nnunet.core.errors.EngineError` that nnU-Net or a worker process failed,
:class:`~gi2nnunet.core.errors.OutputError` that a result cannot be written, ``ValueError`` that
a number is out of range or a name unknown, and ``TypeError`` that a keyword does not exist or its
value is of another kind.
"""

from __future__ import annotations

# Each call imports only what it needs, so that score need not wait for what train imports.
from gi2nnunet.api.data import check, check_with_page, convert, open_dataset, phantom
from gi2nnunet.api.opening import find_workspace, open_engine
from gi2nnunet.api.prediction import (
    Prediction,
    ScoredPrediction,
    evaluate_work,
    predict,
    predict_and_score,
    predict_part,
)
from gi2nnunet.api.scores import compare, encode, export_dicom, score
from gi2nnunet.api.sharing import export_model, import_model, kaggle_bundle, predict_hidden
from gi2nnunet.api.training import choose_trainings, doctor, estimate, jobs, plan, train
from gi2nnunet.api.tuning import compare_models, out_of_fold, tune
from gi2nnunet.api.workspace import remove, report, status, verify

__all__ = [
    "Prediction",
    "ScoredPrediction",
    "check",
    "check_with_page",
    "choose_trainings",
    "compare",
    "compare_models",
    "convert",
    "doctor",
    "encode",
    "estimate",
    "evaluate_work",
    "export_dicom",
    "export_model",
    "find_workspace",
    "import_model",
    "jobs",
    "kaggle_bundle",
    "open_dataset",
    "open_engine",
    "out_of_fold",
    "phantom",
    "plan",
    "predict",
    "predict_and_score",
    "predict_hidden",
    "predict_part",
    "remove",
    "report",
    "score",
    "status",
    "train",
    "tune",
    "verify",
]
