"""GPUs of this machine: which of them work with this PyTorch, and why the others do not.

One child process lists the cards. Each card that is to be used then computes something small in a
process of its own, so that a broken or busy one harms no other. What works is kept in the user's
cache folder, by card, driver and PyTorch.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from gi2nnunet.core.errors import EngineError, OutputError, shorten
from gi2nnunet.core.files import find_record, parse_record, write_json
from gi2nnunet.nnunet.process import COMPILE_VARIABLE, find_remedy

Ask = Callable[[str, Mapping[str, Any], int | None], Mapping[str, Any]]
"""A call of a child's task with its options, and the one card that it sees."""

_OLDER_CUDA = "Install torch and torchvision for an older CUDA (see Which PyTorch? in the README)"
_OLDEST_DRIVERS = {11: 450, 12: 525, 13: 580}  # by CUDA's major version, as NVIDIA documents them
_KERNEL = re.compile(r"(sm|compute)_(\d+)(\d)([af]?)")
# What PyTorch prints where a card, its driver or a library on it gives up.
_CARD_FAILURES = ("CUDA error", "CUDNN_STATUS", "CUBLAS_STATUS", "cudaError", "NVML")
_CACHE = Path("gi2nnunet", "cards.json")


@dataclass(frozen=True, kw_only=True)
class Card:
    """A card as PyTorch lists it; ``failure`` says why it does not answer.

    ``index`` counts the visible cards, ``capability`` is NVIDIA's compute capability, and an
    ``exclusive`` card takes one process at a time.
    """

    index: int
    name: str
    uuid: str = ""
    capability: tuple[int, int] = (0, 0)
    memory_gib: float = 0.0
    exclusive: bool = False
    failure: str = ""


@dataclass(frozen=True, kw_only=True)
class Devices:
    """Answer of the child's task ``devices``.

    ``cuda`` is the version that PyTorch is built for, ``None`` without CUDA; ``kernels`` are the
    architectures it has code for, such as ``sm_90``; ``warnings`` are PyTorch's own.
    """

    torch: str
    cuda: str | None = None
    kernels: tuple[str, ...] = ()
    driver: str | None = None
    warnings: tuple[str, ...] = ()
    cards: tuple[Card, ...] = ()
    mps: bool = False


@dataclass(frozen=True, kw_only=True)
class CardTest:
    """Answer of the child's task ``card``; a failure is empty if there was none.

    ``compile_failure`` is ``None`` if nothing was compiled.
    """

    failure: str = ""
    free_gib: float | None = None
    compile_failure: str | None = None


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Why a card, or torch.compile on it, does not work, and what to do: a sentence each."""

    problem: str
    remedy: str

    def __str__(self) -> str:
        """Return both as one text."""
        return f"{self.problem}. {self.remedy}"


@dataclass(frozen=True, kw_only=True)
class CheckedCard:
    """A card with what is wrong with it, if anything; ``tested`` if it has computed something."""

    card: Card
    fault: Fault | None = None
    compile_fault: Fault | None = None
    tested: bool = False
    free_gib: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        faults = {"computes": self.fault, "compiles": self.compile_fault}
        return {
            "index": self.card.index,
            "name": self.card.name,
            "capability": ".".join(map(str, self.card.capability)),
            "memory_gib": self.card.memory_gib,
            "free_gib": self.free_gib,
            "tested": self.tested,
            **{f"why_not_{key}": str(fault) if fault else "" for key, fault in faults.items()},
        }


@dataclass(frozen=True, kw_only=True)
class Cards:
    """Cards of a machine and what was found out about them."""

    devices: Devices
    checked: tuple[CheckedCard, ...] = ()

    @property
    def working(self) -> tuple[CheckedCard, ...]:
        """Return the cards that have computed something."""
        return tuple(card for card in self.checked if card.tested and card.fault is None)

    def list_faults(self) -> list[tuple[str, Fault]]:
        """Return what does not work, by a name: cards, or the driver if there are none."""
        named = [
            (f"card {checked.card.index}, {checked.card.name}", checked.fault)
            for checked in self.checked
            if checked.fault
        ]
        if not self.devices.cards and (fault := _find_driver_fault(self.devices)):
            named.append(("an NVIDIA GPU", fault))
        return named


def check_cards(
    ask: Ask,
    *,
    wanted: int | None,
    compiling: bool = False,
    fresh: bool = False,
    environ: Mapping[str, str],
) -> Cards:
    """List the cards of this machine, and test them until ``wanted`` of them work.

    Parameters
    ----------
    wanted
        ``None`` tests every card.
    compiling
        Also compile a small function on each.
    fresh
        Test also what is known to work; only then is the free memory known.
    environ
        Environment of the user, which names the folder of caches and the C compiler.

    Raises
    ------
    EngineError
        If PyTorch cannot be imported, or takes its process down.
    """
    answer = json.dumps(dict(ask("devices", {}, None)))
    devices = parse_record(answer, Devices, where="PyTorch's devices", remedy="")
    known = _Known(find_cache(environ), devices)
    checked = {card.index: CheckedCard(card=card, fault=_find_fault(card, devices))
               for card in devices.cards}  # fmt: skip
    waiting = [card for card in devices.cards if checked[card.index].fault is None]
    working = 0

    def test(card: Card) -> CheckedCard:
        if not fresh and not card.exclusive and known.has(card, compiling=compiling):
            return CheckedCard(card=card, tested=True)
        return _judge(card, _test(ask, card, compiling=compiling), environ)

    with ThreadPoolExecutor(max(1, len(waiting))) as pool:
        while waiting and (wanted is None or working < wanted):
            number = len(waiting) if wanted is None else wanted - working
            part, waiting = waiting[:number], waiting[number:]
            results = list(pool.map(test, part))
            checked.update((result.card.index, result) for result in results)
            working += sum(result.fault is None for result in results)
    known.keep([result for result in checked.values() if result.tested], compiling=compiling)
    return Cards(devices=devices, checked=tuple(checked.values()))


def _test(ask: Ask, card: Card, *, compiling: bool) -> CardTest:
    try:
        answer = ask("card", {"compiling": compiling}, card.index)
    except EngineError as error:  # the card has taken its process down
        return CardTest(failure=shorten(str(error).splitlines()[0]))
    return parse_record(json.dumps(dict(answer)), CardTest, where=card.name, remedy="")


def _judge(card: Card, test: CardTest, environ: Mapping[str, str]) -> CheckedCard:
    """Turn the result of a test into faults with their remedies."""
    fault = compile_fault = None
    if test.failure:
        remedy = find_remedy(test.failure) or (
            "Look at nvidia-smi; CUDA_VISIBLE_DEVICES chooses other cards, --device cpu none."
        )
        fault = Fault(problem=f"it does not compute ({test.failure})", remedy=remedy)
    if test.compile_failure:
        missing = "".join(f"; there is no {part}" for part in _list_missing(environ))
        compile_fault = Fault(
            problem=f"torch.compile fails on it ({test.compile_failure}){missing}",
            remedy=find_remedy(test.compile_failure + missing)
            or f"Train without it: {COMPILE_VARIABLE}=f gi2nnunet train ...",
        )
    return CheckedCard(
        card=card, fault=fault, compile_fault=compile_fault, tested=True, free_gib=test.free_gib
    )


def _list_missing(environ: Mapping[str, str]) -> list[str]:
    """Return what compiled code needs and this machine does not have."""
    compilers = [environ["CC"]] if environ.get("CC") else ["gcc", "clang"]
    path = environ.get("PATH", "")
    found = any(shutil.which(compiler.split()[0], path=path) for compiler in compilers)
    missing = [] if found else ["C compiler"]
    if not Path(sysconfig.get_paths()["include"], "Python.h").is_file():
        missing.append("Python.h")
    return missing


def _find_fault(card: Card, devices: Devices) -> Fault | None:
    """Return what is wrong with a card, as far as that is known before it is used."""
    if card.failure:
        return Fault(
            problem=f"it does not answer ({card.failure})",
            remedy="Look at nvidia-smi; CUDA_VISIBLE_DEVICES chooses other cards.",
        )
    if has_kernels(card.capability, devices.kernels):
        return None
    listed = ", ".join(devices.kernels)
    found = ".".join(map(str, card.capability))
    newer = card.capability > max(_read_kernels(devices.kernels))
    remedy = _OLDER_CUDA.replace("an older", "a newer") if newer else _OLDER_CUDA
    return Fault(
        problem=f"PyTorch {devices.torch} has kernels for {listed}, but not for this card, of "
        f"compute capability {found}",
        remedy=f"{remedy}, or compute without it: --device cpu.",
    )


def has_kernels(capability: tuple[int, int], kernels: Sequence[str]) -> bool:
    """Return whether code for these architectures runs on a card.

    ``sm_86`` runs on 8.6 and later cards of the same major version, ``sm_90a`` only on 9.0;
    ``compute_90`` is compiled by the driver for 9.0 and everything later. If no architecture is
    one of NVIDIA's, the answer is yes: AMD's cards have other names.

    References
    ----------
    CUDA C++ Programming Guide, section Compute Compatibility: binary and PTX compatibility.
    """
    found = [match for kernel in kernels if (match := _KERNEL.fullmatch(kernel))]
    return not found or any(_fits(capability, match) for match in found)


def _fits(capability: tuple[int, int], kernel: re.Match[str]) -> bool:
    of, suffix = (int(kernel[2]), int(kernel[3])), kernel[4]
    if suffix == "a":
        return capability == of
    if kernel[1] == "compute" and not suffix:
        return capability >= of
    return capability[0] == of[0] and capability[1] >= of[1]


def _read_kernels(kernels: Sequence[str]) -> list[tuple[int, int]]:
    found = [match for kernel in kernels if (match := _KERNEL.fullmatch(kernel))]
    return [(int(match[2]), int(match[3])) for match in found]


def _find_driver_fault(devices: Devices) -> Fault | None:
    """Return why PyTorch lists no card, if there may be one."""
    said = " ".join(shorten(line) for text in devices.warnings for line in text.splitlines()[:1])
    if devices.cuda is None:
        if devices.driver is None:
            return None
        return Fault(
            problem=f"PyTorch {devices.torch} is built without CUDA, but NVIDIA's driver "
            f"{devices.driver} is here",
            remedy="Install torch and torchvision for CUDA (see Which PyTorch? in the README).",
        )
    oldest = _OLDEST_DRIVERS.get(int(devices.cuda.split(".")[0]))
    major = re.match(r"\d+", devices.driver or "")
    if "too old" in said or (oldest and major and int(major[0]) < oldest):
        needed = f" {oldest} or newer" if oldest else " of today"
        return Fault(
            problem=f"NVIDIA's driver {devices.driver or 'of this machine'} is too old for PyTorch "
            f"{devices.torch}" + (f" ({said})" if said else ""),
            remedy=f"Update it to{needed}, or {_OLDER_CUDA[0].lower()}{_OLDER_CUDA[1:]}.",
        )
    if said:
        remedy = "Check nvidia-smi; after an update of the driver, restart the machine."
        return Fault(problem=f"PyTorch finds none ({said})", remedy=remedy)
    return None


def is_card_failure(message: str) -> bool:
    """Return whether an engine's failure is one of its card; too little memory is not."""
    return any(sign in message for sign in _CARD_FAILURES)


def is_compiling(environ: Mapping[str, str]) -> bool:
    """Return whether nnU-Net compiles the network of a training on a card."""
    return environ.get(COMPILE_VARIABLE, "true").lower() in ("true", "1", "t")


def find_cache(environ: Mapping[str, str]) -> Path | None:
    """Return the user's folder of caches; ``None`` if the environment names none."""
    if place := environ.get("XDG_CACHE_HOME"):
        return Path(place)
    return Path(environ["HOME"], ".cache") if environ.get("HOME") else None


class _Test(TypedDict):
    compiles: bool


@dataclass(kw_only=False)
class _Known:
    """Cards that have worked with this driver, PyTorch and Python before."""

    folder: Path | None
    devices: Devices
    found: dict[str, _Test] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.folder is not None:
            self.found = find_record(self.folder / _CACHE, dict[str, _Test]) or {}

    def has(self, card: Card, *, compiling: bool) -> bool:
        test = self.found.get(self._name(card))
        return test is not None and (test["compiles"] or not compiling)

    def keep(self, cards: Sequence[CheckedCard], *, compiling: bool) -> None:
        """Keep what works, forget what does not; a folder that cannot be written does no harm."""
        now = dict(self.found)
        for checked in cards:
            name = self._name(checked.card)
            former = now.pop(name, {"compiles": False})
            if checked.fault is None:
                compiles = checked.compile_fault is None if compiling else former["compiles"]
                now[name] = {"compiles": compiles}
        if self.folder is not None and now != self.found:
            with suppress(OutputError):
                write_json(self.folder / _CACHE, now)

    def _name(self, card: Card) -> str:
        known = (card.uuid or card.name, self.devices.driver, self.devices.torch, sys.base_prefix)
        return " | ".join(map(str, known))
