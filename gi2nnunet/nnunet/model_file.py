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
from typing import Any

from gi2nnunet.core.errors import InputError
from gi2nnunet.core.files import part_file
from gi2nnunet.nnunet.models import Fold
from gi2nnunet.nnunet.trust import check_names

FORMAT = 1
MANIFEST, DATASET_JSON = "manifest.json", "dataset.json"

_NAME = re.compile(r"_?[A-Za-z0-9](?:[A-Za-z0-9.+-]|_(?!_))*")  # "__" parts nnU-Net's folder names
_DATASET = re.compile(r"Dataset(\d{3})_[A-Za-z0-9][A-Za-z0-9_.+-]*")
_MOST_JSON = 64 * 2**20
_DAMAGED = "Get the file again from its source."
_SAME_TIME = (1980, 1, 1, 0, 0, 0)  # equal models are equal files


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A model file of valid form; its weights are checked as they are read.

    Attributes
    ----------
    digest
        SHA-256 of its manifest, and through it of every part.
    folds
        Folds by configuration.
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
        return int(self.dataset[7:10])

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

    def read_json(self, name: str) -> dict[str, Any]:
        """Return one part that is JSON; raises as :meth:`read` does."""
        return _parse(self.path, name, self.read(name))


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
        manifest = {"format": FORMAT, **about, "parts": self._parts}
        try:
            _describe(self._path, manifest, "")
        except ValueError as error:
            raise InputError(
                f"{self._path}: cannot hold a model with the {error}. Expected letters, digits "
                "and . + - _ in the names of dataset, trainer, plans and configurations."
            ) from error
        self._archive.writestr(zipfile.ZipInfo(MANIFEST, _SAME_TIME), _dump(manifest))


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
        listed = {member.filename: member.file_size for member in members.infolist()}
        packed = any(m.compress_type != zipfile.ZIP_STORED for m in members.infolist())
        if packed or sum(listed.values()) > path.stat().st_size:
            raise InputError(f"{path}: found packed parts; expected stored ones. {_DAMAGED}")
        if len(listed) != len(members.infolist()):
            raise InputError(f"{path}: holds several parts of one name. {_DAMAGED}")
        if MANIFEST not in listed:
            raise InputError(
                f"{path}: found no {MANIFEST}; expected a model made by gi2nnunet export-model."
            )
        text = _read(members, path, MANIFEST, listed.pop(MANIFEST))
    manifest = _parse(path, MANIFEST, text)
    if manifest.get("format") != FORMAT:
        raise InputError(
            f"{path}: found format {manifest.get('format')!r}; expected {FORMAT}. "
            "Use the version of gi2nnunet that made the file."
        )
    try:
        bundle = _describe(path, manifest, hashlib.sha256(text).hexdigest())
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: its {MANIFEST} is damaged ({error!r}). {_DAMAGED}") from error
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


def _describe(path: Path, manifest: Mapping[str, Any], digest: str) -> Bundle:
    names = [manifest[key] for key in ("trainer", "plans_name")] + list(manifest["models"])
    for name in names:
        if not _NAME.fullmatch(name):
            raise ValueError(f"name {name!r}")
    if not _DATASET.fullmatch(manifest["dataset"]):
        raise ValueError(f"dataset {manifest['dataset']!r}")
    for fold in (fold for folds in manifest["models"].values() for fold in folds):
        if fold != "all" and (type(fold) is not int or fold < 0):
            raise ValueError(f"fold {fold!r}")
    if not manifest["models"] or not all(manifest["models"].values()):
        raise ValueError("no models")
    tuning = manifest.get("tuning")
    if tuning is not None and not isinstance(tuning, dict):
        raise ValueError("tuning that is not a table")
    return Bundle(
        path=path,
        digest=digest,
        dataset=manifest["dataset"],
        trainer=manifest["trainer"],
        plans_name=manifest["plans_name"],
        folds={name: tuple(folds) for name, folds in manifest["models"].items()},
        half=manifest["precision"] == "half",
        n_folds=int(manifest["n_folds"]),
        parts={
            name: (int(part["bytes"]), str(part["sha256"]))
            for name, part in manifest["parts"].items()
        },
        tuning=tuning,
    )


def _check_parts(bundle: Bundle, *, trust: bool) -> None:
    """Check the names that nnU-Net would import; read each small part once, and so check it."""
    dataset_json = bundle.read_json(DATASET_JSON)
    _expect_key(bundle, DATASET_JSON, dataset_json, "labels")
    plans = {name: bundle.read_json(plans_part(name)) for name in bundle.folds}
    for name, content in plans.items():
        _expect_key(bundle, plans_part(name), content.get("configurations", {}), name)
    if not trust:
        check_names(
            trainer={f"{bundle.path}, trainer": bundle.trainer},
            plans={f"{bundle.path}, {plans_part(name)}": plans[name] for name in plans},
            dataset_json={f"{bundle.path}, {DATASET_JSON}": dataset_json},
        )
    for configuration, folds in bundle.folds.items():
        for fold in folds:
            name = notes_part(configuration, fold)
            if not _are_notes(bundle.read_json(name)):
                raise InputError(f"{bundle.path}: {name} is damaged. {_DAMAGED}")


def _expect_key(bundle: Bundle, part: str, content: Any, key: str) -> None:
    if not isinstance(content, dict) or key not in content:
        raise InputError(f"{bundle.path}: {part} has no {key!r}. {_DAMAGED}")


def _are_notes(notes: Mapping[str, Any]) -> bool:
    axes, scans, shared = (
        notes.get(key) for key in ("mirroring_axes", "trained_on", "shared_tensors")
    )
    return (
        (axes is None or (_all_of(axes, int) and all(0 <= axis < 3 for axis in axes)))
        and (scans is None or _all_of(scans, str))
        and isinstance(shared, dict)
        and _all_of(list(shared.values()), str)
        and isinstance(notes.get("training"), dict)
    )


def _all_of(values: Any, kind: type) -> bool:
    return isinstance(values, list) and all(type(value) is kind for value in values)


@contextmanager
def _open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as members:
            yield members
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: no such file. Make one with: gi2nnunet export-model OUT"
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


def _parse(path: Path, name: str, text: bytes) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: {name} is damaged ({error}). {_DAMAGED}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: {name} is damaged (no object). {_DAMAGED}")
    return content


def _dump(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
