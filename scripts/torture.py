"""Kill every command at random moments, fill its disk, take its folders away; see what survives.

    python scripts/torture.py --kills 100 --folder /tmp/torture

Each round starts from the same state, starts one command, kills something at a random moment of
its usual time, waits until nothing of it runs any more, and starts the same command again. The
round is survived where no process is left, the second run ends well, its output is that of an
undisturbed run, and no temporary file is left. What is struck is the command only (SIGKILL,
SIGTERM, SIGHUP; its children must end by themselves), the command and its children (Ctrl-C), or one
of its children, workers of pools included (SIGKILL, SIGTERM, SIGHUP, as the system and its helpers
do for want of memory; the command must report it within seconds).

Then the places: a file system that fills, one that is read-only, and one that vanishes. These need
the right to mount and are left out without it. Ends with exit code 1 where anything did not
survive. Linux only.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

MARK = "GI2NNUNET_TORTURE"
SOON_SECONDS = 20.0  # for all of a killed command to be gone, and for a dead child to be told
LIMIT_SECONDS = 300.0
STARTED_SECONDS = 0.25  # before, Ctrl-C meets Python itself, which prints a traceback
SHORT = ("--preset", "tiny", "--no-checks", "--device", "cpu")
ENDS = ("SIGKILL", "SIGTERM", "SIGHUP")
KINDS = (*(f"command, {name}" for name in ENDS), "Ctrl-C", *(f"child, {name}" for name in ENDS))
SIGNS = ("Traceback", "this is a bug")


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command: what it starts from, what it makes, how often it is to be killed.

    Attributes
    ----------
    name
        For the table.
    words
        The command line.
    after
        The command whose outcome it starts from.
    exact
        Patterns of the outputs that must equal an undisturbed run's byte for byte.
    present
        Patterns of the outputs that must be there, whatever their bytes.
    share
        Part of all kills.
    """

    name: str
    words: tuple[str, ...]
    after: str | None
    exact: tuple[str, ...]
    present: tuple[str, ...] = ()
    share: float


COMMANDS = (
    Command(
        name="phantom",
        words=("phantom", "--out", "source.zip", "--patients", "5", "--days", "1",
               "--size", "40x40x12@6", "--easy", "--jobs", "2"),
        after=None, exact=("source.zip",), share=0.15,
    ),
    Command(
        name="convert", words=("convert", "source.zip", "--folds", "2", "--jobs", "2"),
        after="phantom",
        exact=("gi2nnunet-workspace/raw/**/*", "gi2nnunet-workspace/preprocessed/**/*"), share=0.3,
    ),
    Command(
        name="plan", words=("plan", *SHORT, "--jobs", "2"), after="convert",
        exact=("gi2nnunet-workspace/preprocessed/**/*.json",),
        present=("gi2nnunet-workspace/preprocessed/**/*.b2nd",), share=0.12,
    ),
    Command(
        name="train",
        words=("train", "--fold", "all", *SHORT, "--epochs", "3", "--iterations", "2"),
        after="plan", exact=(),
        present=("gi2nnunet-workspace/results/*/*/fold_all/checkpoint_final.pth",), share=0.16,
    ),
    Command(
        name="predict-and-score",
        words=("predict-and-score", "--device", "cpu", "--out", "out", "--nifti", "--threads", "1"),
        after="train",
        exact=("out/submission.csv", "out/score-per-class.csv", "out/truth.csv", "out/labels/*",
               "out/organs/*/*"),
        present=("out/score-per-class.json",), share=0.17,
    ),
    Command(
        name="train folds",
        words=("train", "--fold", "cv", *SHORT, "--epochs", "2", "--iterations", "2"),
        after="plan", exact=(),
        present=("gi2nnunet-workspace/results/*/*/fold_?/checkpoint_final.pth",), share=0.04,
    ),
    Command(
        name="tune", words=("tune", "--device", "cpu", "--threads", "1"), after="train folds",
        exact=("gi2nnunet-workspace/results/*/gi2nnunet_tuning_*.json",
               "gi2nnunet-workspace/predictions/**/*.gi2prob"), share=0.1,
    ),
    Command(
        name="score",
        words=("score", "out/submission.csv", "--truth", "out/truth.csv", "--json"),
        after="predict-and-score", exact=("score.txt",), share=0.1,
    ),
)  # fmt: skip


@dataclass(kw_only=True)
class Tally:
    """What became of the rounds of one command and one kind of harm."""

    rounds: int = 0
    survived: int = 0
    hit: int = 0
    slowest_told: float = 0.0
    codes: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


def run_command(words: Sequence[str], folder: Path, *, mark: str) -> subprocess.Popen[str]:
    """Start the command line in a session of its own, marked so that its children are found."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("nnUNet")}
    return subprocess.Popen(
        [sys.executable, "-m", "gi2nnunet", *words],
        cwd=folder,
        env={**environ, MARK: mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )


def find_marked(mark: str) -> list[int]:
    """Return the processes that were started with a mark, zombies left out."""
    sign = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if sign in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def is_worker(pid: int) -> bool:
    """Return whether a process does work; Python's own resource tracker does none."""
    try:
        return b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def wait_until_gone(mark: str, seconds: float) -> list[int]:
    """Wait for the end of all marked processes; return those that are left."""
    end = time.monotonic() + seconds
    while (left := find_marked(mark)) and time.monotonic() < end:
        time.sleep(0.05)
    return left


def list_files(folder: Path, patterns: Sequence[str]) -> set[str]:
    """Return the files below a folder that patterns name."""
    return {
        str(path.relative_to(folder))
        for pattern in patterns
        for path in folder.glob(pattern)
        if path.is_file()
    }


def compare(command: Command, found: Path, wanted: Path) -> list[str]:
    """Say in what an outcome differs from that of an undisturbed run."""
    faults = []
    names, expected = (list_files(folder, command.exact) for folder in (found, wanted))
    faults += [f"{name}: missing" for name in sorted(expected - names)]
    faults += [f"{name}: left over" for name in sorted(names - expected)]
    for name in sorted(names & expected):
        if not filecmp.cmp(found / name, wanted / name, shallow=False) and not _same_but_for_run(
            found / name, wanted / name
        ):
            faults.append(f"{name}: differs")
    names, expected = (list_files(folder, command.present) for folder in (found, wanted))
    faults += [f"{name}: missing or left over" for name in sorted(names ^ expected)]
    for suffix in (".part", ".lock", ".old"):
        for path in found.rglob(f"*{suffix}"):
            faults.append(f"{path.relative_to(found)}: a temporary file is left")
    return faults


def _same_but_for_run(found: Path, wanted: Path) -> bool:
    """Return whether files differ only in the run's folder, and in what no two runs have alike.

    These are time stamps, and the bytes of what was preprocessed: blosc2 packs equal arrays
    differently.
    """
    if found.suffix != ".json":
        return False
    of_run = r'"modified_ns": \d+'
    if found.name.endswith(".complete.json"):
        of_run += r'|"sha256": "[0-9a-f]+"|"bytes": \d+'
    texts = [path.read_text(encoding="utf-8") for path in (found, wanted)]
    roots = [str(path).split("/gi2nnunet-workspace/")[0] for path in (found, wanted)]
    first, second = (
        re.sub(of_run, "", text.replace(root, "")) for text, root in zip(texts, roots, strict=True)
    )
    return first == second


def make_states(home: Path) -> tuple[dict[str, Path], dict[str, float]]:
    """Run every command undisturbed; return the folder after each, and its seconds."""
    states: dict[str, Path] = {}
    seconds: dict[str, float] = {}
    for command in COMMANDS:
        folder = home / "whole" / command.name
        copy_state(states[command.after] if command.after else None, folder)
        began = time.monotonic()
        process = run_command(command.words, folder, mark="whole")
        said, _ = process.communicate(timeout=LIMIT_SECONDS)
        if process.returncode:
            sys.exit(f"{command.name}: fails undisturbed:\n{said}")
        keep_words(command, folder, said)
        states[command.name], seconds[command.name] = folder, time.monotonic() - began
        print(f"undisturbed {command.name}: {seconds[command.name]:.1f} s", flush=True)
    return states, seconds


def copy_state(state: Path | None, folder: Path) -> None:
    """Make a folder that stands as after a command."""
    shutil.rmtree(folder, ignore_errors=True)
    if state is None:
        folder.mkdir(parents=True)
    else:
        shutil.copytree(state, folder, symlinks=True)


def complete(command: Command, folder: Path, whole: Path) -> list[str]:
    """Run the command again; say what is wrong with how it ends."""
    mark = uuid.uuid4().hex
    process = run_command(command.words, folder, mark=mark)
    try:
        said, _ = process.communicate(timeout=LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        for pid in find_marked(mark):
            os.kill(pid, signal.SIGKILL)
        process.communicate()
        return [f"the second run took more than {LIMIT_SECONDS:.0f} s"]
    if process.returncode:
        return [f"the second run ended with {process.returncode}: {said[-1500:]}"]
    keep_words(command, folder, said)
    return compare(command, folder, whole)


def keep_words(command: Command, folder: Path, said: str) -> None:
    """Keep what a command printed beside what it wrote."""
    (folder / f"{command.name}.txt").write_text(said)


def harm_once(
    command: Command, kind: str, *, folder: Path, delay: float, chance: random.Random, tally: Tally
) -> list[str]:
    """Start a command, kill what the kind says after a delay; return what is wrong so far."""
    mark = uuid.uuid4().hex
    process = run_command(command.words, folder, mark=mark)
    time.sleep(delay)
    if process.poll() is None:
        tally.hit += 1
    struck = time.monotonic()
    child_died = False
    target, _, name = kind.partition(", ")
    if target == "command":
        process.send_signal(signal.Signals[name])
    elif kind == "Ctrl-C":
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
    else:
        children = [pid for pid in find_marked(mark) if pid != process.pid and is_worker(pid)]
        if children:
            child_died = True
            try:
                os.kill(chance.choice(children), signal.Signals[name])
            except ProcessLookupError:
                child_died = False
    try:
        # Whoever outlives it holds its output open.
        said, _ = process.communicate(timeout=LIMIT_SECONDS if target == "child" else 60)
    except subprocess.TimeoutExpired:
        left = [pid for pid in find_marked(mark) if pid != process.pid]
        for pid in find_marked(mark):
            os.kill(pid, signal.SIGKILL)
        process.communicate()
        return [f"it hung, or {len(left)} processes outlive it"]
    took = time.monotonic() - struck
    tally.codes[process.returncode] += 1
    faults = [f"it said {sign!r}: {said[-1500:]}" for sign in SIGNS if sign in said]
    if child_died and process.returncode:
        tally.slowest_told = max(tally.slowest_told, took)
        if took > SOON_SECONDS:
            faults.append(f"a dead child was told after {took:.0f} s")
    left = wait_until_gone(mark, SOON_SECONDS)
    if left:
        faults.append(f"{len(left)} processes outlive it")
        for pid in left:
            os.kill(pid, signal.SIGKILL)
    return faults


def kill_all(
    home: Path,
    states: dict[str, Path],
    seconds: dict[str, float],
    *,
    commands: Sequence[Command],
    kills: int,
    seed: int,
) -> dict[tuple[str, str], Tally]:
    """Run all rounds of killing."""
    chance = random.Random(seed)
    tallies: dict[tuple[str, str], Tally] = {}
    for command in commands:
        has_children = command.name not in ("convert", "score")
        kinds = [kind for kind in KINDS if has_children or not kind.startswith("child")]
        chance.shuffle(kinds)
        for number in range(round(command.share * kills)):
            kind = kinds[number % len(kinds)]
            tally = tallies.setdefault((command.name, kind), Tally())
            folder = home / "round"
            copy_state(states[command.after] if command.after else None, folder)
            tally.rounds += 1
            earliest = STARTED_SECONDS if kind == "Ctrl-C" else 0
            delay = chance.uniform(earliest, seconds[command.name])
            faults = harm_once(
                command, kind, folder=folder, delay=delay, chance=chance, tally=tally
            )
            if command.after is None and list_files(folder, command.exact):
                # Struck after its last step: it refuses to write over what it made.
                faults += compare(command, folder, states[command.name])
            else:
                faults += complete(command, folder, states[command.name])
            keep(tally, faults, f"{command.name}, {kind}, round {number}")
    return tallies


def keep(tally: Tally, faults: Sequence[str], name: str) -> None:
    """Count a round, and tell it where something went wrong."""
    tally.survived += not faults
    for fault in faults:
        tally.faults.append(f"{name}: {fault}")
        print(f"NOT SURVIVED: {name}: {fault}", flush=True)
    if not faults:
        print(f"{name}: survived", flush=True)


@contextmanager
def mounted(folder: Path, *, megabytes: float) -> Iterator[None]:
    """Mount a file system in memory, of a few MB, at a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    size = f"size={int(megabytes * 1024)}k"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False, capture_output=True)


def may_mount(home: Path) -> bool:
    """Return whether this user may mount here."""
    place = home / "mount"
    place.mkdir(parents=True, exist_ok=True)
    words = ["mount", "-t", "tmpfs", "tmpfs", str(place)]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        return False
    subprocess.run(["umount", str(place)], check=True)
    return True


def measure(folder: Path) -> float:
    """Return the megabytes of all files below a folder."""
    pages = sum(1 + -(-path.stat().st_size // 4096) for path in folder.rglob("*"))
    return pages * 4096 / 2**20


def run_to_fail(
    command: Command, folder: Path, tally: Tally, *, meanwhile: Callable[[], None] | None = None
) -> list[str]:
    """Run a command that cannot succeed; say what is wrong with how it fails."""
    mark = uuid.uuid4().hex
    process = run_command(command.words, folder, mark=mark)
    if meanwhile:
        meanwhile()
    said, _ = process.communicate(timeout=LIMIT_SECONDS)
    tally.codes[process.returncode] += 1
    tally.hit += process.returncode != 0
    faults = [f"it said {sign!r}: {said[-1500:]}" for sign in SIGNS if sign in said]
    if process.returncode not in (0, 3, 4, 5):
        faults.append(f"it ended with {process.returncode}: {said[-1500:]}")
    if left := wait_until_gone(mark, SOON_SECONDS):
        faults.append(f"{len(left)} processes outlive it")
    return faults


def spoil_places(
    home: Path,
    states: dict[str, Path],
    seconds: dict[str, float],
    *,
    commands: Sequence[Command],
    seed: int,
    places: int,
) -> dict[tuple[str, str], Tally]:
    """Run every command on a disk that fills, on a read-only one, and on one that vanishes."""
    chance = random.Random(seed)
    tallies: dict[tuple[str, str], Tally] = {}
    for command in commands:
        before = states[command.after] if command.after else None
        had = measure(before) if before else 0.0
        more = max(0.02, measure(states[command.name]) - had)
        for number in range(places):
            tally = tallies.setdefault((command.name, "disk fills"), Tally())
            tally.rounds += 1
            folder = home / "small"
            with mounted(folder, megabytes=2048):
                shutil.copytree(before, folder, dirs_exist_ok=True) if before else None
                have = shutil.disk_usage(folder).used / 2**20
                size = f"remount,size={int((have + chance.uniform(0.1, 0.8) * more) * 1024)}k"
                subprocess.run(["mount", "-o", size, str(folder)], check=True)
                struck = tally.hit
                faults = run_to_fail(command, folder, tally)
                subprocess.run(["mount", "-o", "remount,size=2g", str(folder)], check=True)
                if tally.hit > struck or command.after:
                    faults += complete(command, folder, states[command.name])
            keep(tally, faults, f"{command.name}, disk fills, round {number}")

        tally = tallies.setdefault((command.name, "read-only"), Tally(rounds=1))
        folder = home / "locked"
        with mounted(folder, megabytes=2048):
            shutil.copytree(before, folder, dirs_exist_ok=True) if before else None
            subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
            faults = run_to_fail(command, folder, tally)
            subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
            faults += complete(command, folder, states[command.name])
        keep(tally, faults, f"{command.name}, read-only")

        tally = tallies.setdefault((command.name, "place vanishes"), Tally(rounds=1))
        folder = home / "vanishing"
        moment = chance.uniform(0.3, 0.8) * seconds[command.name]

        def vanish(folder: Path = folder, moment: float = moment) -> None:
            time.sleep(moment)
            subprocess.run(["umount", "-l", str(folder)], check=True)

        with mounted(folder, megabytes=2048):
            shutil.copytree(before, folder, dirs_exist_ok=True) if before else None
            faults = run_to_fail(command, folder, tally, meanwhile=vanish)
        shutil.rmtree(folder, ignore_errors=True)
        with mounted(folder, megabytes=2048):
            shutil.copytree(before, folder, dirs_exist_ok=True) if before else None
            faults += complete(command, folder, states[command.name])
        keep(tally, faults, f"{command.name}, place vanishes")
    return tallies


def print_table(tallies: dict[tuple[str, str], Tally]) -> None:
    """Print what survived, as Markdown."""
    print("\n| command | harm | rounds | struck while it ran | exit codes | survived |")
    print("|---|---|---|---|---|---|")
    for (name, kind), tally in tallies.items():
        codes = ", ".join(f"{code}: {n}" for code, n in sorted(tally.codes.items()))
        print(
            f"| {name} | {kind} | {tally.rounds} | {tally.hit} | {codes} | "
            f"{tally.survived} of {tally.rounds} |"
        )
    told = max((tally.slowest_told for tally in tallies.values()), default=0.0)
    print(f"\nA dead child was told after {told:.1f} s at the latest.")


def main() -> int:
    """Parse the options, run it all, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--places", type=int, default=2, help="disks that fill, a command")
    parser.add_argument("--folder", type=Path, help="where to work; by default a temporary one")
    parser.add_argument("--only", action="append", help="a command of the table; may be repeated")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the table as JSON, too")
    options = parser.parse_args()
    # A shell starts what runs in the background deaf to Ctrl-C, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    home = options.folder or Path(tempfile.mkdtemp(prefix="gi2nnunet-torture-"))
    home = home.absolute()
    began = time.monotonic()
    states, seconds = make_states(home)
    commands = [c for c in COMMANDS if not options.only or c.name in options.only]
    tallies = kill_all(
        home, states, seconds, commands=commands, kills=options.kills, seed=options.seed
    )
    if may_mount(home):
        tallies |= spoil_places(
            home, states, seconds, commands=commands, seed=options.seed, places=options.places
        )
    else:
        print("Disks that fill, are read-only or vanish: left out, mounting is not allowed here.")
    print_table(tallies)
    faults = [fault for tally in tallies.values() for fault in tally.faults]
    rounds = sum(tally.rounds for tally in tallies.values())
    print(f"{rounds} rounds in {(time.monotonic() - began) / 60:.0f} min, {len(faults)} faults.")
    if options.json:
        content = {f"{name}, {kind}": vars(tally) for (name, kind), tally in tallies.items()}
        options.json.write_text(json.dumps(content, indent=2, default=dict))
    if options.folder is None:
        shutil.rmtree(home, ignore_errors=True)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
