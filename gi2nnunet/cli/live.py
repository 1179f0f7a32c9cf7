"""Live view of running trainings; without a terminal, a line now and then."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gi2nnunet.cli.output import (
    PLAIN_EVERY_SECONDS,
    draw,
    format_seconds,
    print_notice,
    show_progress,
)
from gi2nnunet.core.workers import Progress, ignore

if TYPE_CHECKING:
    from gi2nnunet.training.plan import Plan
    from gi2nnunet.training.record import TrainingResult
    from gi2nnunet.training.train import TrainingProgress

_REFRESHES = 2  # a second


@dataclass
class _Running:
    """A running training."""

    name: str
    since: float = field(default_factory=time.monotonic)  # its start, then its last epoch's end
    told_at: float = float("-inf")
    last: TrainingProgress | None = None

    def line(self) -> str:
        """Return the state in one line."""
        if self.last is None:
            return f"{self.name}: first epoch"
        return (
            f"{self.name}: epoch {self.last.epoch} of {self.last.epochs}, "
            f"{_describe_losses(self.last)}, {_describe_dice(self.last)}, "
            f"{_format_pace(self.last)}, {self.time_left()}"
        )

    def time_left(self) -> str:
        if self.last is None:
            return f"{format_seconds(time.monotonic() - self.since)} so far"
        left = self.last.seconds_left - (time.monotonic() - self.since)
        return f"{format_seconds(max(0.0, left))} left"

    def draw(self) -> RenderableType:
        """Return a line with a bar, and one with the last epoch's numbers."""
        head = Table.grid(padding=(0, 1), expand=True)
        for ratio in (None, 1, None, None):
            head.add_column(ratio=ratio, no_wrap=True)
        epoch, epochs = (self.last.epoch, self.last.epochs) if self.last else (0, None)
        head.add_row(
            Text(self.name, style="bold"),
            ProgressBar(total=epochs, completed=epoch, pulse=epochs is None),
            f"epoch {epoch} of {epochs}" if self.last else "first epoch",
            Text(self.time_left(), style="cyan"),
        )
        if self.last is None:
            return head
        parts = (_describe_losses(self.last), _describe_dice(self.last), _format_pace(self.last))
        return Group(head, Text("  " + ", ".join(parts), style="dim"))


class TrainingView:
    """Shows the data being prepared, then each running training.

    That is epoch, losses, pseudo Dice per organ, pace and time left.
    """

    plan: Plan  # from begin on

    def __init__(self) -> None:
        self._last: dict[tuple[str, int | str], TrainingProgress] = {}
        self._running: dict[tuple[str, int | str], _Running] = {}
        self._stack = ExitStack()
        self._console: Console | None = None
        self.report: Progress = ignore

    def __enter__(self) -> TrainingView:
        self.report = self._stack.enter_context(show_progress())
        return self

    def begin(self, plan: Plan) -> None:
        """Replace the progress of the preparation by the trainings."""
        self.plan = plan
        self._stack.close()
        self._console = self._stack.enter_context(draw())
        if self._console is not None:
            live = Live(
                get_renderable=self._draw,
                console=self._console,
                refresh_per_second=_REFRESHES,
                transient=True,
            )
            self._stack.enter_context(live)

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self, configuration: str, fold: int | str, log: Path) -> None:
        """Add a training that begins."""
        name = f"{configuration}, fold {fold}"
        self._running[configuration, fold] = _Running(name)
        print_notice(f"{name}: log {log}")

    def update(self, progress: TrainingProgress) -> None:
        """Show an epoch."""
        key = (progress.configuration, progress.fold)
        running = self._running.setdefault(key, _Running(f"{key[0]}, fold {key[1]}"))
        first = running.last is None
        running.last = self._last[key] = progress
        running.since = now = time.monotonic()
        ended = progress.epoch == progress.epochs
        due = first or now - running.told_at >= PLAIN_EVERY_SECONDS
        if ended or (due and self._console is None):
            running.told_at = now
            print_notice(running.line())
        if ended:
            del self._running[key]

    def describe_last(self, result: TrainingResult) -> dict[str, Any]:
        """Return the numbers of a training's last epoch; ``None`` if it was not trained now."""
        last = self._last.get((result.configuration, result.fold))
        return {
            "epochs": last and last.epochs,
            "train_loss": last and last.train_loss,
            "val_loss": last and last.val_loss,
            "pseudo_dice": last and dict(last.pseudo_dice),
            "epoch_seconds": last and last.epoch_seconds,
        }

    def _draw(self) -> RenderableType:
        return Group(*(running.draw() for running in list(self._running.values())))


def _describe_losses(progress: TrainingProgress) -> str:
    return f"loss {progress.train_loss:.3f} (validation {progress.val_loss:.3f})"


def _describe_dice(progress: TrainingProgress) -> str:
    dice = ", ".join(
        f"{organ.replace('_', ' ')} {'-' if value != value else f'{value:.2f}'}"
        for organ, value in progress.pseudo_dice.items()
    )
    return f"pseudo Dice {dice}"


def _format_pace(progress: TrainingProgress) -> str:
    seconds = progress.epoch_seconds
    return f"{seconds:.1f} s per epoch" if seconds < 10 else f"{format_seconds(seconds)} per epoch"


_WARNING = signal.SIGUSR2


@contextmanager
def stop_when_warned() -> Iterator[threading.Event]:
    """Give an event that the signal SIGUSR2 sets.

    The main thread may be waiting for the engine, so it blocks the signal. The engine's processes
    inherit that, so they survive a batch system that sends the signal to every process of a job.
    Another thread receives it here and reads it from a pipe, because Python's own handler would
    only run in the main thread.
    """
    stop = threading.Event()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {_WARNING})
    pipe = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    handler = signal.signal(_WARNING, lambda *_: None)

    def watch() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {_WARNING})
        while number := os.read(reading, 1):
            if number[0] == _WARNING and not stop.is_set():
                print_notice("Asked to stop (SIGUSR2): saving at the end of this epoch.")
                stop.set()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield stop
    finally:
        signal.set_wakeup_fd(pipe)
        os.close(writing)
        watcher.join()
        os.close(reading)
        signal.signal(_WARNING, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
