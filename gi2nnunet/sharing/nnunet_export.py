"""Zip of ``nnUNetv2_export_model_to_zip``: the models in it, unpacked to be checked.

Only plans, dataset.json and final checkpoints are unpacked. The checkpoints are pickles: they are
read as those of any model folder are, which runs no code.

References
----------
https://github.com/MIC-DKFZ/nnUNet/blob/master/nnunetv2/model_sharing/model_export.py
"""

from __future__ import annotations

import re
import shutil
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gi2nnunet.core.errors import InputError, Problem, raise_problems
from gi2nnunet.core.files import cannot_write
from gi2nnunet.nnunet.model_file import DATASET_JSON, MANIFEST
from gi2nnunet.nnunet.models import FINAL_CHECKPOINT, Ensemble, list_models

_DESCRIPTIONS = ("plans.json", DATASET_JSON)
# Dataset; name of a model folder; number of a fold, and a file in either.
_MEMBER = re.compile(
    r"(Dataset\d{3}_[a-z0-9][\w.+-]*)/([a-z0-9][\w.+-]*?__[\w.+-]*?__[\w.+-]*)/"
    r"(?:fold_(\d{1,4}|all)/)?([\w.+-]+)",
    re.ASCII | re.IGNORECASE,
)
_MOST_JSON = 64 * 2**20
_MOST_RATIO = 50  # unpacked bytes per packed byte; plans reach 15, weights 2
_ENCRYPTED = 0x1
_AGAIN = "Export it again with nnUNetv2_export_model_to_zip, which leaves a part if it fails."


@dataclass(frozen=True, kw_only=True)
class NnunetExport:
    """What is used of a zip of nnU-Net's export.

    Attributes
    ----------
    folds
        Folds with a final checkpoint by the name of each model folder.
    members
        Plans, dataset.json and final checkpoints.
    """

    path: Path
    dataset: str
    folds: Mapping[str, tuple[str, ...]]
    members: tuple[zipfile.ZipInfo, ...] = field(repr=False)

    @property
    def size(self) -> int:
        """Return the bytes of all members."""
        return sum(member.file_size for member in self.members)


def find_export(path: Path) -> NnunetExport | None:
    """Read the list of a zip; ``None`` if it is not one, or not of nnU-Net's export.

    Raises
    ------
    InputError
        If it is one, but parts are missing, encrypted, there twice, or larger than they can be; if
        the models do not make one ensemble.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            listed = {m: _MEMBER.fullmatch(m.filename) for m in archive.infolist()}
    except (OSError, zipfile.BadZipFile, ValueError, RuntimeError):
        return None  # reported by the reader of model files
    found = {member: match for member, match in listed.items() if match}
    models = {match[2]: match[1] for match in found.values() if match[3]}
    if not models or any(member.filename == MANIFEST for member in listed):
        return None
    used = {
        member: match
        for member, match in found.items()
        if match[2] in models and match[4] in ([FINAL_CHECKPOINT] if match[3] else _DESCRIPTIONS)
    }
    folds = {
        model: tuple(sorted(match[3] for match in used.values() if match[2] == model and match[3]))
        for model in models
    }
    raise_problems(_find_problems(path, models, folds, tuple(used)), remedy=_AGAIN)
    return NnunetExport(
        path=path, dataset=next(iter(models.values())), folds=folds, members=tuple(used)
    )


def _find_problems(
    path: Path,
    models: Mapping[str, str],
    folds: Mapping[str, tuple[str, ...]],
    members: Sequence[zipfile.ZipInfo],
) -> Iterator[Problem]:
    """Yield what is wrong with the parts of an export, by its list."""
    names = Counter(member.filename for member in members)
    for model, dataset in models.items():
        for name in _DESCRIPTIONS:
            if f"{dataset}/{model}/{name}" not in names:
                yield Problem(
                    where=f"{path}, {dataset}/{model}", found=f"no {name}", expected="one"
                )
        if not folds[model]:
            found = f"no {FINAL_CHECKPOINT} of any fold"
            yield Problem(where=f"{path}, {dataset}/{model}", found=found, expected="one a fold")
    for what, values in (
        ("datasets", set(models.values())),
        ("trainers or plans", {model.rpartition("__")[0] for model in models}),
        ("sets of folds", set(folds.values())),
    ):
        if len(values) > 1:
            listed = "; ".join(sorted(map(str, values)))
            yield Problem(where=str(path), found=f"several {what} ({listed})", expected="one")
    for member in members:
        where = f"{path}, {member.filename}"
        size, packed = member.file_size, member.compress_size
        if names[member.filename] > 1:
            yield Problem(where=where, found="it several times", expected="it once")
        if member.flag_bits & _ENCRYPTED:
            yield Problem(where=where, found="an encrypted file", expected="a plain one")
        if size > _MOST_RATIO * max(packed, 1) or (
            member.filename.endswith(".json") and size > _MOST_JSON
        ):
            found, expected = f"{size} bytes, packed into {packed}", "a file of a real model"
            yield Problem(where=where, found=found, expected=expected)


def unpack_export(export: NnunetExport, into: Path) -> Ensemble:
    """Write the members into a folder, as nnU-Net's results; return the models.

    Raises
    ------
    InputError
        If a member is damaged.
    OutputError
        If one cannot be written.
    """
    for member in export.members:
        target = into / member.filename
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with zipfile.ZipFile(export.path) as archive, target.open("wb") as file:
                shutil.copyfileobj(archive.open(member), file)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            raise InputError(
                f"{export.path}, {member.filename}: is damaged ({error}). Get it again."
            ) from error
        except OSError as error:
            raise cannot_write(target, error) from error
    models = list_models(into / export.dataset)
    return Ensemble(models=models, folds=models[0].folds, chosen_by="all of the file")
