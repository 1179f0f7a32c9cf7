"""Where, on what and how predictions are computed: one value that whoever predicts hands on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gi2nnunet.nnunet.hardware import Hardware
from gi2nnunet.nnunet.workspace import Workspace, choose_threads


@dataclass(frozen=True, kw_only=True)
class Computing:
    """How the networks are run.

    Attributes
    ----------
    workspace, environ, hardware
        Where and on what.
    mirroring, step_size
        nnU-Net's test-time mirroring and sliding-window step, a part of the patch.
    threads
        Of the network's operations; they change the last bits of its output. By default as
        :func:`~gi2nnunet.nnunet.workspace.choose_threads` has it; recorded either way.
    trust
        Load checkpoints and plans that could run code.
    """

    workspace: Workspace
    environ: Mapping[str, str]
    hardware: Hardware
    mirroring: bool = True
    step_size: float = 0.5
    threads: int | None = None
    trust: bool = False

    @property
    def threads_used(self) -> int:
        """Return the threads of each process."""
        return choose_threads(self.threads, device=self.hardware.device, training=False)

    def describe(self) -> dict[str, Any]:
        """Return what the predicted values depend on, as it is recorded beside them."""
        return {
            "device": self.hardware.device,
            "threads": self.threads_used,
            "mirroring": self.mirroring,
            "step_size": self.step_size,
        }


def spell_computing(described: Mapping[str, Any]) -> list[str]:
    """Return the options that compute as described, by the keys of :meth:`Computing.describe`.

    What is not told, or is the default anyway, is left out.
    """
    words: list[str] = []
    if described.get("device") in ("cpu", "mps"):
        words += ["--device", str(described["device"])]
    if described.get("threads"):
        words += ["--threads", f"{described['threads']}"]
    if described.get("mirroring") is False:
        words.append("--no-mirroring")
    if described.get("step_size", 0.5) != 0.5:
        words += ["--step-size", f"{described['step_size']}"]
    return words
