"""Model file: a zip of weights, plans and a manifest, without pickles, to pass models on.

```
manifest.json               format, names, folds, tuning, size and SHA-256 of every other part
dataset.json                nnU-Net's description of the dataset
2d/plans.json               nnU-Net's plans
2d/fold_0.safetensors       the weights of one fold
2d/fold_0.json              which scans it was trained on, and what nnU-Net needs beside its weights
```

The parts are stored, not compressed, so that the file is never larger inside than outside.

References
----------
https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from gi2nnunet.core.errors import InputError
from gi2nnunet.core.files import Count, Record, is_stray, parse_record, part_file
from gi2nnunet.dataset.manifest import dataset_id_of
from gi2nnunet.nnunet.models import Fold, Plans, TrainingRecord
from gi2nnunet.nnunet.trust import check_names
from gi2nnunet.source.nifti import DatasetDescription

FORMAT = 1
MANIFEST, DATASET_JSON = "manifest.json", "dataset.json"
MODEL_FILE_BEGINS = r"(?s)PK\x03\x04.{26}dataset\.json"
"""Pattern of how a model file begins: a zip of which this is the first part."""

_NAME = re.compile(r"_?[A-Za-z0-9](?:[A-Za-z0-9.+-]|_(?!_))*")  # "__" parts nnU-Net's folder names
_DATASET = re.compile(r"Dataset(\d{3})_[A-Za-z0-9][A-Za-z0-9_.+-]*")
_MOST_JSON = 64 * 2**20
_DAMAGED = "Get the file again from its source."
_SAME_TIME = (1980, 1, 1, 0, 0, 0)  # equal models are equal files


class Notes(TypedDict):
    """What a model file says of a fold beside its weights."""

    trained_on: list[str] | None
    prints: NotRequired[dict[str, str]]
    training: TrainingRecord
    mirroring_axes: list[Annotated[int, Field(ge=0, lt=3)]] | None
    shared_tensors: dict[str, str]
    epochs: NotRequired[int | None]


def _check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError("a name of letters, digits and . + - _")
    return name


def _check_dataset(name: str) -> str:
    if not _DATASET.fullmatch(name):
        raise ValueError("Dataset, three digits, _ and a name of letters, digits and . + - _")
    return name


_Name = Annotated[str, AfterValidator(_check_name)]
_Folds = Annotated[tuple[Count | Literal["all"], ...], Field(min_length=1)]


@dataclass(frozen=True, kw_only=True)
class _Part:
    bytes: Count
    sha256: str


@dataclass(frozen=True, kw_only=True)
class _Manifest:
    dataset: Annotated[str, AfterValidator(_check_dataset)]
    trainer: _Name
    plans_name: _Name
    models: Annotated[dict[_Name, _Folds], Field(min_length=1)]
    precision: str
    n_folds: Count
    parts: dict[str, _Part]
    tuning: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A model file of valid form; its weights are checked as they are read.

    Attributes
    ----------
    digest
        SHA-256 of its manifest, and through it of every part.
    half
        Whether the weights are in half precision.
    n_folds
        Folds of the split that the numbered ones are of; 0 without a split.
    parts
        Size in bytes and SHA-256 of every part.
    tuning
        Settings that tuning chose for these models, if any.
    """

    path: Path
    digest: str
    dataset: str
    trainer: str
    plans_name: str
    folds: Mapping[str, tuple[Fold, ...]]
    half: bool
    n_folds: int
    parts: Mapping[str, tuple[int, str]]
    tuning: Mapping[str, Any] | None

    @property
    def dataset_id(self) -> int:
        """Return nnU-Net's number of the dataset."""
        return dataset_id_of(self.dataset)

    def to_json(self) -> dict[str, Any]:
        """Return what another process needs to read the file, the inverse of :meth:`from_json`."""
        return {**vars(self), "path": str(self.path.absolute())}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Bundle:
        """Return an opened file from plain values; only checksums are checked again."""
        return cls(**{**content, "path": Path(content["path"])})

    def folder_name(self, configuration: str) -> str:
        """Return nnU-Net's name of a model folder."""
        return f"{self.trainer}__{self.plans_name}__{configuration}"

    def read(self, name: str) -> bytes:
        """Return one part; :class:`InputError` if its checksum is not that of the manifest."""
        size, digest = self.parts[name]
        with _open_zip(self.path) as members:
            content = _read(members, self.path, name, size)
        if hashlib.sha256(content).hexdigest() != digest:
            raise InputError(
                f"{self.path}: {name} does not match its recorded checksum. {_DAMAGED}"
            )
        return content

    def read_record(self, name: str, kind: type[Record]) -> Record:
        """Return one part that is JSON; raises as :meth:`read` does, and if it is damaged."""
        where = f"{self.path}, {name}"
        return parse_record(self.read(name), kind, where=where, remedy=_DAMAGED)

    def read_notes(self, configuration: str, fold: Fold) -> Notes:
        """Return the notes of a fold; raises as :meth:`read_record` does."""
        return self.read_record(notes_part(configuration, fold), Notes)


def weights_part(configuration: str, fold: Fold) -> str:
    """Return the name of the part that holds the weights of a fold."""
    return f"{configuration}/fold_{fold}.safetensors"


def notes_part(configuration: str, fold: Fold) -> str:
    """Return the name of the part with the notes of a fold."""
    return f"{configuration}/fold_{fold}.json"


def plans_part(configuration: str) -> str:
    """Return the name of the part that holds the plans of a configuration."""
    return f"{configuration}/plans.json"


class BundleWriter:
    """Writer of a model file, part by part; see :func:`write_bundle`."""

    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        self._archive = archive
        self._path = path
        self._parts: dict[str, dict[str, Any]] = {}

    def add(self, name: str, content: bytes | Mapping[str, Any]) -> None:
        """Add a part: bytes, or content to write as JSON."""
        data = content if isinstance(content, bytes) else _dump(content)
        self._archive.writestr(zipfile.ZipInfo(name, _SAME_TIME), data)
        self._parts[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    def close(self, about: Mapping[str, Any]) -> None:
        """Add the manifest, which comes last; names that cannot be imported are an InputError."""
        manifest = _dump({"format": FORMAT, **about, "parts": self._parts})
        _describe(self._path, manifest)
        self._archive.writestr(zipfile.ZipInfo(MANIFEST, _SAME_TIME), manifest)


@contextmanager
def write_bundle(path: Path) -> Iterator[BundleWriter]:
    """Write a model file, whole or not at all; :class:`OutputError` if it cannot be written."""
    with part_file(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
        yield BundleWriter(archive, path)


def open_bundle(path: Path, *, trust: bool = False) -> Bundle:
    """Read a model file's manifest and check everything in the file but its weights.

    With ``trust`` plans may name code that nnU-Net does not ship.

    Raises
    ------
    InputError
        If it is not a model file, is damaged, or its plans would make nnU-Net import other code.
    """
    with _open_zip(path) as members:
        parts = [member for member in members.infolist() if not is_stray(member.filename)]
        listed = {member.filename: member.file_size for member in parts}
        if MANIFEST not in listed:
            raise InputError(
                f"{path}: found no {MANIFEST}; expected a model made by gi2nnunet export-model or "
                "nnUNetv2_export_model_to_zip. A single checkpoint cannot be imported; data are "
                "taken by gi2nnunet convert."
            )
        packed = any(member.compress_type != zipfile.ZIP_STORED for member in parts)
        if packed or sum(listed.values()) > path.stat().st_size:
            raise InputError(f"{path}: found packed parts; expected stored ones. {_DAMAGED}")
        if len(listed) != len(parts):
            raise InputError(f"{path}: holds several parts of one name. {_DAMAGED}")
        text = _read(members, path, MANIFEST, listed.pop(MANIFEST))
    found = parse_record(text, dict[str, Any], where=f"{path}, {MANIFEST}", remedy=_DAMAGED)
    if found.get("format") != FORMAT:
        raise InputError(
            f"{path}: found format {found.get('format')!r}; expected {FORMAT}. "
            "Use the version of gi2nnunet that made the file."
        )
    bundle = _describe(path, text)
    expected = {DATASET_JSON} | {
        name
        for configuration, folds in bundle.folds.items()
        for name in (
            plans_part(configuration),
            *(weights_part(configuration, fold) for fold in folds),
            *(notes_part(configuration, fold) for fold in folds),
        )
    }
    sizes = {name: size for name, (size, _) in bundle.parts.items()}
    if set(sizes) != expected or sizes != listed:
        names = sorted(expected | set(sizes) | set(listed))
        strange = [n for n in names if n not in expected or sizes.get(n) != listed.get(n)]
        raise InputError(
            f"{path}: its parts are not those that its {MANIFEST} lists "
            f"(the first: {strange[0]!r}). {_DAMAGED}"
        )
    _check_parts(bundle, trust=trust)
    return bundle


def _describe(path: Path, text: bytes) -> Bundle:
    manifest = parse_record(text, _Manifest, where=f"{path}, {MANIFEST}", remedy=_DAMAGED)
    return Bundle(
        path=path,
        digest=hashlib.sha256(text).hexdigest(),
        dataset=manifest.dataset,
        trainer=manifest.trainer,
        plans_name=manifest.plans_name,
        folds=manifest.models,
        half=manifest.precision == "half",
        n_folds=manifest.n_folds,
        parts={name: (part.bytes, part.sha256) for name, part in manifest.parts.items()},
        tuning=manifest.tuning,
    )


def _check_parts(bundle: Bundle, *, trust: bool) -> None:
    """Check the names that nnU-Net would import; read each small part once, and so check it."""
    dataset_json = bundle.read_record(DATASET_JSON, DatasetDescription)
    plans = {name: bundle.read_record(plans_part(name), Plans) for name in bundle.folds}
    for name, content in plans.items():
        if name not in content["configurations"]:
            part = plans_part(name)
            raise InputError(f"{bundle.path}: {part} has no {name!r}. {_DAMAGED}")
    if not trust:
        check_names(
            trainer={f"{bundle.path}, trainer": bundle.trainer},
            plans={f"{bundle.path}, {plans_part(name)}": plans[name] for name in plans},
            dataset_json={f"{bundle.path}, {DATASET_JSON}": dataset_json},
        )
    for configuration, folds in bundle.folds.items():
        for fold in folds:
            bundle.read_notes(configuration, fold)


@contextmanager
def _open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as members:
            yield members
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: no such file. Make one with: gi2nnunet export-model --workspace WORKSPACE"
        ) from error
    except IsADirectoryError as error:
        raise InputError(
            f"{path}: is a folder; expected a file made by gi2nnunet export-model or "
            "nnUNetv2_export_model_to_zip. Give that file."
        ) from error
    # NotImplementedError, RuntimeError: packed or encrypted in ways that a whole file is not.
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{path}: is not a model file, or a damaged one ({error}). {_DAMAGED}"
        ) from error


def _read(members: zipfile.ZipFile, path: Path, name: str, size: int) -> bytes:
    if name.endswith(".json") and size > _MOST_JSON:
        raise InputError(f"{path}: {name} is of {size} bytes; expected less than {_MOST_JSON}.")
    return members.read(name)


def _dump(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
