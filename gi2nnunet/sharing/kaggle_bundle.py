"""Kaggle bundle: one folder with all that the competition's offline notebook needs."""

from __future__ import annotations

import re
import shlex
import shutil
import socket
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from gi2nnunet.core.errors import InputError, OutputError
from gi2nnunet.core.files import cannot_write, write_json
from gi2nnunet.core.locks import hold
from gi2nnunet.core.workers import Progress, ignore
from gi2nnunet.dataset.manifest import Dataset
from gi2nnunet.nnunet.engine import Engine
from gi2nnunet.nnunet.models import Ensemble
from gi2nnunet.sharing.exchange import ExportedModel, export_model, swap_folder
from gi2nnunet.sharing.wheels import Fetch, Image, collect_wheels

COMPETITION = "uw-madison-gi-tract-image-segmentation"
SETTINGS = "gi2nnunet-bundle.json"  # the notebook finds the bundle by it
_FORMAT = 1
_MODEL = "model.gi2nnunet"
_NOTEBOOK = "predict.ipynb"
_OF_NOTEBOOK = "-notebook"
_LONGEST_NAME = 50 - len(_OF_NOTEBOOK)  # Kaggle takes 6 to 50 characters


@dataclass(frozen=True, kw_only=True)
class KaggleBundle:
    """A bundle that was written: its wheels by name, and its size in bytes.

    ``commands`` upload the folder, run the notebook and submit its output, in this order.
    """

    folder: Path
    model: ExportedModel
    wheels: tuple[str, ...]
    size: int
    commands: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "folder": str(self.folder),
            "bytes": self.size,
            "models": self.model.ensemble.describe(),
            "tuning": str(self.model.tuned.path) if self.model.tuned else None,
            "wheels": list(self.wheels),
            "commands": list(self.commands),
        }


@dataclass(frozen=True, kw_only=True)
class Notebook:
    """The notebook on Kaggle: its owner's account, and how it predicts.

    ``name`` is the Kaggle dataset's; the notebook's has ``-notebook`` after it. ``hours`` is its
    time budget, of the nine that the competition gives.
    """

    user: str
    name: str = "gi2nnunet-bundle"
    hours: float = 8.5
    mirroring: bool = True
    tuning: bool = True


def make_bundle(
    ensemble: Ensemble,
    out: Path,
    *,
    notebook: Notebook,
    image: Image,
    dataset: Dataset | None,
    engine: Engine,
    half: bool = False,
    replace: bool = False,
    fetch: Fetch | None = None,
    progress: Progress | None = None,
) -> KaggleBundle:
    """Write models, wheels, the notebook and the metadata of Kaggle's client into one folder.

    The folder is flat, as a Kaggle dataset is, and appears whole or not at all. It is new, empty,
    or, with ``replace``, an earlier bundle. The notebook runs on the image, and trusts the models
    if the engine does. ``fetch`` gets wheels in place of pip.

    Raises
    ------
    InputError
        For a name that Kaggle refuses, or models or an image that do not fit.
    OutputError
        If the folder holds something else, or cannot be written.
    EngineError
        If pip fails.

    References
    ----------
    https://github.com/Kaggle/kaggle-api/tree/main/docs
    """
    _check_names(notebook.user, notebook.name)
    _check_folder(out, replace=replace)
    report = progress or ignore
    with hold(out, purpose="making a bundle for Kaggle"):
        hidden = out.absolute().parent / f".{out.absolute().name}.{socket.gethostname()}.part"
        try:
            shutil.rmtree(hidden, ignore_errors=True)
            hidden.mkdir(parents=True)
            report(0, 2, "packing the models")
            model = export_model(
                ensemble, hidden / _MODEL, dataset=dataset, engine=engine, half=half
            )
            report(1, 2, "collecting wheels")
            wheels = collect_wheels(image, hidden, fetch=fetch)
            _write_notebook(hidden, notebook, python=image.version, trust=engine.trust)
            size = sum(path.stat().st_size for path in hidden.iterdir())
            old = hidden.with_suffix(".old")
            shutil.rmtree(old, ignore_errors=True)
            swap_folder(hidden, out, old=old)
            shutil.rmtree(old, ignore_errors=True)
            report(2, 2, "collecting wheels")
        except OSError as error:
            raise cannot_write(out, error) from error
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
    return KaggleBundle(
        folder=out,
        model=model,
        wheels=tuple(wheel.name for wheel in wheels),
        size=size,
        commands=(
            f"kaggle datasets create -p {shlex.quote(str(out))}",
            f"kaggle kernels push -p {shlex.quote(str(out))}",
            f"kaggle competitions submit {COMPETITION} -k "
            f"{notebook.user}/{notebook.name}{_OF_NOTEBOOK} --version 1 "
            "-f submission.csv -m gi2nnunet",
        ),
    )


def _write_notebook(folder: Path, notebook: Notebook, *, python: str, trust: bool) -> None:
    """Write the notebook, its settings, and the metadata of Kaggle's client."""
    shutil.copyfile(Path(__file__).with_name("kaggle_notebook.ipynb"), folder / _NOTEBOOK)
    options = {
        "--no-mirroring": not notebook.mirroring, "--no-tuning": not notebook.tuning,
        "--trust": trust,
    }  # fmt: skip
    settings = {
        "format": _FORMAT,
        "gi2nnunet": metadata.version("gi2nnunet"),
        "python": python,
        "model": _MODEL,
        "hours": notebook.hours,
        "options": [option for option, given in options.items() if given],
    }
    write_json(folder / SETTINGS, settings)
    bundle = f"{notebook.user}/{notebook.name}"
    dataset = {
        "title": notebook.name.replace("-", " "),  # Kaggle makes exactly that name of it
        "id": bundle,
        # The weights belong to their owner; each wheel names its own licence.
        "licenses": [{"name": "other"}],
    }
    kernel = {
        "id": bundle + _OF_NOTEBOOK,
        "title": (notebook.name + _OF_NOTEBOOK).replace("-", " "),
        "code_file": _NOTEBOOK,
        "language": "python",
        "kernel_type": "notebook",
        "is_private": True,
        "enable_gpu": True,
        # Two T4. The client's default may be a P100, which the image's PyTorch has no kernels for.
        "machine_shape": "NvidiaTeslaT4",
        "enable_internet": False,
        "dataset_sources": [bundle],
        "competition_sources": [COMPETITION],
        "kernel_sources": [],
        "model_sources": [],
    }
    write_json(folder / "dataset-metadata.json", dataset)
    write_json(folder / "kernel-metadata.json", kernel)


def _check_names(user: str, name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*", user):
        raise InputError(
            f"--user: found {user!r}; expected the name of a Kaggle account, as in "
            "kaggle.com/NAME: letters, digits and dashes."
        )
    if not re.fullmatch(rf"(?=.{{6,{_LONGEST_NAME}}}$)[a-z0-9]+(-[a-z0-9]+)*", name):
        raise InputError(
            f"--name: found {name!r}; expected 6 to {_LONGEST_NAME} lower-case letters, digits and "
            "single dashes, as Kaggle names datasets."
        )


def _check_folder(out: Path, *, replace: bool) -> None:
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise OutputError(f"{out}: is not a folder; expected one, or the name of a new one.")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not (out / SETTINGS).is_file():
        raise OutputError(
            f"{out}: holds other files; expected an empty or a new folder. Nothing was changed."
        )
    if not replace:
        raise OutputError(
            f"{out}: holds a bundle already. Replace it with --replace, or give another folder."
        )
