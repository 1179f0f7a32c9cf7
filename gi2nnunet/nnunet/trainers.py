"""Trainer classes of nnU-Net and the user: names are checked before hours of preparation."""

from __future__ import annotations

import ast
import difflib
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gi2nnunet.core.errors import InputError
from gi2nnunet.formats.ids import LabelScheme
from gi2nnunet.nnunet.presets import STOCK_TRAINER
from gi2nnunet.nnunet.trust import TRAINERS, find_shipped

_EXTERNAL = "nnUNet_extTrainer"
_LOSS = "_build_loss"
_NETWORK = "build_network_architecture"
_REFUSAL = "not self.label_manager.has_regions"


@dataclass(frozen=True, kw_only=True)
class _Class:
    """A class of a source file; ``takes_regions`` is ``None`` if it inherits its loss."""

    bases: tuple[str, ...]
    takes_regions: bool | None
    builds_network: bool


def check_trainer(
    name: str, *, label_scheme: LabelScheme, environ: Mapping[str, str], trust: bool
) -> None:
    """Refuse a trainer that nnU-Net would not find, may not import, or that cannot learn labels.

    Parameters
    ----------
    label_scheme
        Of the dataset; some losses take only ``exclusive`` labels.
    environ
        Its ``nnUNet_extTrainer`` names folders of more trainers, which need ``trust``.

    Raises
    ------
    InputError
        With the names that are most like it, or the command that makes labels it takes.
    """
    classes = dict(_read_classes(find_shipped(TRAINERS)))
    own = {known for known in classes if _is_trainer(known, classes)}
    for folder in filter(None, environ.get(_EXTERNAL, "").split(os.pathsep)):
        classes = {**_read_classes(Path(folder)), **classes}
    known = {name for name in classes if _is_trainer(name, classes)}
    if name not in known:
        plain = {name.casefold(): name for name in sorted(known)}
        matches = difflib.get_close_matches(name.casefold(), plain, n=3, cutoff=0.7)
        close = [plain[match] for match in matches]
        expected = " or ".join(close) if close else f"such as {STOCK_TRAINER}"
        raise InputError(
            f"--trainer: found {name!r}; expected one of nnU-Net's trainer classes, "
            f"{expected}. Give one of these, or set {_EXTERNAL} to the folder of your own."
        )
    if name not in own and not trust:
        raise InputError(
            f"--trainer: found {name!r} in a folder of {_EXTERNAL}; expected a trainer class of "
            "nnU-Net. It would be run; if you have read it and trust it, add --trust."
        )
    if label_scheme == "regions" and not _takes_regions(name, classes):
        raise InputError(
            f"--trainer {name}: found a dataset with labels that overlap (regions); expected "
            "labels that exclude each other, because its loss takes no others. Give another "
            "trainer, or make a dataset for it with: gi2nnunet convert SOURCE --labels exclusive "
            "--id 502"
        )


def uses_planned_network(name: str) -> bool:
    """Whether a trainer of nnU-Net trains the network that the plans describe; not imported."""
    classes = _read_classes(find_shipped(TRAINERS))
    ancestors = _list_ancestors(name, classes)
    builders = [ancestor for ancestor in ancestors if classes[ancestor].builds_network]
    return builders == [STOCK_TRAINER]


@cache
def _read_classes(folder: Path) -> Mapping[str, _Class]:
    """Return the classes that the files in a folder define; nothing is imported."""
    return {
        node.name: _Class(
            bases=tuple(ast.unparse(base).rpartition(".")[2] for base in node.bases),
            takes_regions=_read_loss(node),
            builds_network=any(getattr(part, "name", None) == _NETWORK for part in node.body),
        )
        for path in sorted(folder.rglob("*.py"))
        for node in _list_classes(path)
    }


def _list_classes(path: Path) -> Iterator[ast.ClassDef]:
    with suppress(OSError, SyntaxError, ValueError, RecursionError):  # nnU-Net would not import it
        tree = ast.parse(path.read_bytes())
        yield from (node for node in tree.body if isinstance(node, ast.ClassDef))


def _read_loss(node: ast.ClassDef) -> bool | None:
    for part in node.body:
        if isinstance(part, ast.FunctionDef) and part.name == _LOSS:
            tests = (ast.unparse(n.test) for n in ast.walk(part) if isinstance(n, ast.Assert))
            return _REFUSAL not in tests
    return None


def _list_ancestors(name: str, classes: Mapping[str, _Class]) -> list[str]:
    """Return a class and those that it inherits from, as far as they are known, nearest first."""
    found = [name] if name in classes else []
    for one in found:
        found += [base for base in classes[one].bases if base in classes and base not in found]
    return found


def _is_trainer(name: str, classes: Mapping[str, _Class]) -> bool:
    return STOCK_TRAINER in _list_ancestors(name, classes)


def _takes_regions(name: str, classes: Mapping[str, _Class]) -> bool:
    answers = (classes[one].takes_regions for one in _list_ancestors(name, classes))
    return next((answer for answer in answers if answer is not None), True)
