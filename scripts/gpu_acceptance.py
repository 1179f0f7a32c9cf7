"""Acceptance on a GPU: what differs there from a CPU, tried from end to end in one command.

    python scripts/gpu_acceptance.py --out acceptance
    python scripts/gpu_acceptance.py --out acceptance --no-card

Made-up scans are converted, trained on and predicted by gi2nnunet and by nnU-Net's own code on the
same card in turn. The checks come in the order of their value; ``acceptance.json`` and
``acceptance.md`` are written again after each, so that a run that is cut off keeps what it found. A
check that was skipped has not passed. ``--no-card`` runs small versions of what a CPU can run.

Needs no network and no commands on the PATH: everything runs as ``python -c`` with the same
interpreter and PYTHONPATH, so a folder of unpacked wheels is sufficient. Exit code 1 if a check
failed.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

DATASET = "Dataset501_UWGI"
PLANS = {True: "nnUNetPlans", False: "gi2nnunetTinyPlans"}
OURS = ("-c", "from gi2nnunet.cli import main; main()")
TRAIN_PLAINLY = """
import sys, torch
from nnunetv2.run.run_training import get_trainer_from_args
plans, configuration, device, epochs, batches = sys.argv[1:]
run = get_trainer_from_args("501", configuration, "all", plans_identifier=plans,
                            device=torch.device(device))
run.num_epochs, run.num_iterations_per_epoch = int(epochs), int(batches)
run.num_val_iterations_per_epoch = max(1, int(batches) // 5)
run.run_training()
"""
PROBE = """
import json, platform, shutil, sysconfig, torch
from pathlib import Path
found = {"python": platform.python_version(), "torch": torch.__version__,
         "cuda": torch.version.cuda, "compiler": shutil.which("cc") or shutil.which("gcc"),
         "headers": Path(sysconfig.get_paths()["include"], "Python.h").exists(),
         "shared_memory_bytes": shutil.disk_usage("/dev/shm").total, "cards": []}
for index in range(torch.cuda.device_count()):
    torch.cuda.set_device(index)
    about = torch.cuda.get_device_properties(index)
    network = torch.nn.Conv3d(1, 4, 3).cuda()
    with torch.autocast("cuda"):
        value = network(torch.ones(1, 1, 8, 8, 8, device="cuda"))
    found["cards"].append(
        {"name": about.name, "capability": [about.major, about.minor],
         "bytes": about.total_memory, "convolution": bool(value.isfinite().all())})
if found["cards"]:
    found["architectures"] = torch.cuda.get_arch_list()
    try:
        value = torch.compile(lambda a: a + 1)(torch.zeros(8, device="cuda"))
        found["compiles"] = bool((value == 1).all())
    except Exception as error:
        found["compiles"] = f"{type(error).__name__}: {error}"[:300]
print(json.dumps(found))
"""
LOOK_AT_CHECKPOINT = """
import json, sys, torch
found = torch.load(sys.argv[1], map_location="cpu", weights_only=False)
print(json.dumps({"epoch": found["current_epoch"],
                  "scaler": bool(found["grad_scaler_state"]),
                  "compiled": [key for key in found["network_weights"] if "_orig_mod" in key],
                  "on_cpu": all(not w.is_cuda for w in found["network_weights"].values())}))
"""
_LARGEST_DIFFERENCE = 0.03  # of probabilities: half precision, and eight bits when stored
# Takes all of a card's memory but so many bytes, until its input ends.
TAKE_MEMORY = """
import sys, torch
left = int(sys.argv[1])
torch.zeros(1, device="cuda")
free, _ = torch.cuda.mem_get_info()
taken = torch.empty(max(0, free - left), dtype=torch.uint8, device="cuda")
print("taken", flush=True)
sys.stdin.read()
"""


class FailedError(Exception):
    """A check did not pass: why."""


class SkippedError(Exception):
    """A check could not be done: why."""


@dataclass
class Outcome:
    """What became of a check; ``state`` is passed, failed or skipped."""

    number: int
    name: str
    state: str
    why: str = ""
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Done:
    """A finished command: its output, seconds, and what the card did meanwhile."""

    out: str
    err: str
    code: int
    seconds: float
    card: Mapping[str, float]


class Bench:
    """The folder, the card and the commands that all checks share.

    Parameters
    ----------
    out
        Where everything is written.
    card
        Whether there is one to try.
    deadline
        When all is to be over, as ``time.monotonic()``.
    """

    def __init__(self, out: Path, *, card: bool, deadline: float) -> None:
        self.folder, self.card, self.deadline = out / "work", card, deadline
        self.logs = out / "logs"
        self.device = "cuda" if card else "cpu"
        self.plans = PLANS[card]
        self.preset = "default" if card else "tiny"
        self.workspace = self.folder / "gi2nnunet-workspace"
        self.until = deadline
        self.known: dict[str, Any] = {}

    def ours(self, *words: str, **options: Any) -> Done:
        """Run one of our commands."""
        return self.run(words[0], [*OURS, *words], **options)

    def nnunet(self, module: str, function: str, *words: str, **options: Any) -> Done:
        """Run one of nnU-Net's commands by its entry point."""
        code = f"from nnunetv2.{module} import {function}; {function}()"
        return self.run(function, ["-c", code, *words], plain=True, **options)

    def run(
        self,
        name: str,
        words: Sequence[str],
        *,
        plain: bool = False,
        check: bool = True,
        **variables: str,
    ) -> Done:
        """Run Python with words; ``plain`` with nnU-Net's variables, as its commands need."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("nnUNet")}
        environment |= {"TORCHINDUCTOR_CACHE_DIR": str(self.folder / "inductor")}
        if plain:
            environment |= {
                "nnUNet_raw": str(self.workspace / "raw"),
                "nnUNet_preprocessed": str(self.workspace / "preprocessed"),
                "nnUNet_results": str(self.folder / "plain-results"),
            }
        began = time.monotonic()
        with watch_card(self.card) as seen:
            process = subprocess.Popen(
                [sys.executable, *words], cwd=self.folder, env=environment | variables,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
                text=True, start_new_session=True,
            )  # fmt: skip
            try:
                out, err = process.communicate(timeout=max(1.0, self.until - began))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                raise FailedError(f"{name} took more than {self.until - began:.0f} s") from None
        seconds = time.monotonic() - began
        number = len(list(self.logs.iterdir()))
        (self.logs / f"{number:03}_{name}.txt").write_text(f"{words[-8:]}\n{out}\n---\n{err}")
        if check and process.returncode:
            raise FailedError(f"{name}: exit code {process.returncode}: {(err or out)[-600:]}")
        return Done(out=out, err=err, code=process.returncode, seconds=seconds, card=dict(seen))

    def need(self, key: str) -> Any:
        """Return what an earlier check has found."""
        if key not in self.known:
            raise SkippedError(f"the check that gives the {key} did not pass")
        return self.known[key]

    def training_words(self, configuration: str, *, epochs: int, batches: int) -> list[str]:
        """Return the words of a short training."""
        return ["train", "--fold", "all", "--preset", self.preset, "-c", configuration,
                "--epochs", str(epochs), "--iterations", str(batches), "--device", self.device,
                "--no-checks"]  # fmt: skip

    def training_folder(self, configuration: str, results: Path | None = None) -> Path:
        """Return the folder of a training."""
        model = f"nnUNetTrainer__{self.plans}__{configuration}"
        return (results or self.workspace / "results") / DATASET / model / "fold_all"


@contextmanager
def watch_card(card: bool) -> Iterator[dict[str, float]]:
    """Ask the first card ten times a second how busy it is and how much memory is used."""
    seen: dict[str, float] = {}
    if not card or not shutil.which("nvidia-smi"):
        yield seen
        return
    asked = "--query-gpu=utilization.gpu,memory.used"
    process = subprocess.Popen(
        ["nvidia-smi", asked, "--format=csv,noheader,nounits", "-i", "0", "-lms", "100"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    rows: list[tuple[float, float]] = []

    def read() -> None:
        for line in process.stdout or ():
            values = re.findall(r"\d+", line)
            if len(values) == 2:
                rows.append((float(values[0]), float(values[1])))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield seen
    finally:
        process.terminate()
        reader.join(5)
        if rows:
            seen["busy_percent"] = statistics.fmean(busy for busy, _ in rows)
            seen["most_bytes"] = max(used for _, used in rows) * 2**20


# -- the checks, in the order of their value


def check_machine(bench: Bench) -> dict[str, Any]:
    """Torch and the card, and whether ``doctor`` says the same."""
    found: dict[str, Any] = json.loads(bench.run("probe", ["-c", PROBE]).out.splitlines()[-1])
    said = bench.ours("doctor", "--device", bench.device, "--preset", bench.preset, "--json",
                      check=False)  # fmt: skip
    found["doctor"] = said.code
    if bench.card:
        found["driver"] = ask_driver()
        wrong = [card["name"] for card in found["cards"] if not card["convolution"]]
        if wrong or not found["cards"] or found["compiles"] is not True:
            raise FailedError(f"torch cannot compute on the card: {found}")
        if found["cards"][0]["name"] not in said.out:
            raise FailedError(f"doctor does not name {found['cards'][0]['name']}")
    if said.code:
        raise FailedError(f"doctor: exit code {said.code}: {said.out[-500:]}")
    return found


def ask_driver() -> str:
    """Return the driver's version."""
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()[0]


def prepare(bench: Bench) -> dict[str, Any]:
    """Made-up scans, converted, planned and preprocessed."""
    size, other = ("266x266x144@1.5", "266x266x80@1.5") if bench.card else ("48x48x16@3",) * 2
    bench.ours("phantom", "--out", "source.zip", "--patients", "6", "--days", "1", "--size", size,
               "--easy", "--seed", "5")  # fmt: skip
    bench.ours("phantom", "--out", "other.zip", "--patients", "1", "--days", "1", "--size", other,
               "--easy", "--seed", "6")  # fmt: skip
    bench.ours("convert", "source.zip", "--folds", "2", "--holdout", "0.5")
    planned = bench.ours("plan", "--preset", bench.preset, "--device", bench.device, "--no-checks")
    raw = bench.workspace / "raw" / DATASET
    plans = json.loads(
        (bench.workspace / "preprocessed" / DATASET / f"{bench.plans}.json").read_text()
    )
    patches = {name: plans["configurations"][name]["patch_size"] for name in ("2d", "3d_fullres")}
    bench.known["scans"] = sorted((raw / "imagesTs").glob("*_0000.nii.gz"))
    if bench.card and patches != {"2d": [320, 320], "3d_fullres": [80, 160, 160]}:
        raise FailedError(f"planned patches {patches}")
    return {"scans": len(bench.known["scans"]), "patches": patches, "plan_seconds": planned.seconds}


def read_epochs(folder: Path) -> list[float]:
    """Return the seconds of each epoch, as nnU-Net's own log says."""
    logs = sorted(folder.glob("training_log_*.txt"), key=lambda path: path.stat().st_mtime)
    return [
        float(found)
        for log in logs
        for found in re.findall(r"Epoch time: ([\d.]+) s", log.read_text())
    ]


def check_training(bench: Bench) -> dict[str, Any]:
    """Epochs of stock 3d_fullres, ours beside nnU-Net's trainer, in turn; then the 2d model."""
    epochs, batches = (3, 30) if bench.card else (3, 4)
    workers: Any = {"nnUNet_n_proc_DA": "8"} if bench.card else {}
    words = bench.training_words("3d_fullres", epochs=epochs, batches=batches)
    seconds: dict[str, list[float]] = {"processor": [], "device": [], "nnunet": []}
    busy: dict[str, float] = {}
    for way in ("processor", "nnunet", "device", "processor"):
        if way == "nnunet":
            done = bench.run(
                "nnUNetTrainer",
                ["-c", TRAIN_PLAINLY, bench.plans, "3d_fullres", bench.device, str(epochs),
                 str(batches)],
                plain=True, **workers,
            )  # fmt: skip
            folder = bench.training_folder("3d_fullres", bench.folder / "plain-results")
        else:
            done = bench.ours(*words, "--restart", "--augment", way, **workers)
            folder = bench.training_folder("3d_fullres")
        # The first epoch compiles and chooses algorithms.
        seconds[way].append(statistics.median(read_epochs(folder)[-epochs + 1 :]))
        busy[way] = done.card.get("busy_percent", 0.0)
    bench.known["models"] = ["3d_fullres"]
    bench.ours(*bench.training_words("2d", epochs=1, batches=batches), **workers)
    bench.known["models"] = ["2d", "3d_fullres"]
    best = {way: min(values) for way, values in seconds.items()}
    bench.known["batch"] = best["processor"] / batches
    figures = {
        "epoch_seconds": seconds, "busy_percent": busy,
        "nnunet_over_processor": best["nnunet"] / best["processor"],
        "nnunet_over_device": best["nnunet"] / best["device"],
    }  # fmt: skip
    if bench.card and best["processor"] > 1.03 * best["nnunet"]:
        raise FailedError(f"an epoch takes longer than nnU-Net's: {figures}")
    return figures


def check_prediction(bench: Bench) -> dict[str, Any]:
    """Predict by all models, 2d and 3d alone: ours beside nnU-Net's commands, by voxels."""
    scans = bench.need("scans")
    bench.need("models")
    inside = bench.folder / "images"
    inside.mkdir()
    for scan in scans:
        shutil.copy(scan, inside)
    shutil.copytree(bench.workspace / "results", bench.folder / "plain-results", dirs_exist_ok=True)
    theirs: dict[str, float] = {}
    for configuration in ("2d", "3d_fullres"):
        done = bench.nnunet(
            "inference.predict_from_raw_data", "predict_entry_point", "-i", str(inside), "-o",
            f"plain_{configuration}", "-d", "501", "-c", configuration, "-p", bench.plans,
            "-f", "all", "--save_probabilities", "-device", bench.device,
        )  # fmt: skip
        theirs[configuration] = done.seconds
    done = bench.nnunet(
        "ensembling.ensemble", "entry_point_ensemble_folders", "-i", "plain_2d",
        "plain_3d_fullres", "-o", "plain",
    )  # fmt: skip
    theirs["ensemble"] = sum(theirs.values()) + done.seconds
    ours: dict[str, float] = {}
    busy: dict[str, float] = {}
    for name, chosen in (
        ("ensemble", ["2d", "3d_fullres"]), ("2d", ["2d"]), ("3d_fullres", ["3d_fullres"]),
    ):  # fmt: skip
        done = bench.ours("predict", "images", "--fold", "all", "--preset", bench.preset, "--nifti",
                          "--device", bench.device, "--out", f"out_{name}",
                          *(word for one in chosen for word in ("-c", one)))  # fmt: skip
        ours[name], busy[name] = done.seconds, done.card.get("busy_percent", 0.0)
    bench.known["predicted"] = bench.folder / "out_ensemble"
    same = {
        name: compare_labels(bench.folder / f"out_{name}" / "labels", bench.folder / plain)
        for name, plain in (
            ("ensemble", "plain"), ("2d", "plain_2d"), ("3d_fullres", "plain_3d_fullres"),
        )
    }  # fmt: skip
    ratio = {name: theirs[name] / ours[name] for name in ours}
    figures = {"nnunet_seconds": theirs, "our_seconds": ours, "ratio": ratio,
               "equal_voxels": same, "busy_percent": busy, "scans": len(scans)}  # fmt: skip
    if min(same.values()) < (0.999 if bench.card else 1.0):
        raise FailedError(f"voxels differ: {figures}")
    if bench.card and (ratio["ensemble"] < 3 or ratio["2d"] < 3 or ratio["3d_fullres"] < 0.95):
        raise FailedError(f"too slow: {figures}")
    return figures


def compare_labels(ours: Path, plain: Path) -> float:
    """Return the share of equal voxels, apart from those where our organs overlap.

    nnU-Net paints regions over each other; ours are bits.
    """
    import numpy as np

    from gi2nnunet.formats.labels import ORGAN_BITS
    from gi2nnunet.formats.volumes import read_volume

    equal = total = 0
    for path in sorted(ours.glob("*.nii.gz")):
        bits, theirs = read_volume(path).array, read_volume(plain / path.name).array
        painted, alone = np.zeros_like(bits), np.ones(bits.shape, np.bool_)
        for bit in ORGAN_BITS:
            painted[(bits & bit) != 0] = bit
            alone &= ((bits & bit) == 0) | (bits == bit)
        equal += int(np.count_nonzero((painted == theirs) & alone))
        total += int(np.count_nonzero(alone))
    if not total:
        raise FailedError(f"no label volumes in {ours}")
    return equal / total


def check_interruptions(bench: Bench) -> dict[str, Any]:
    """SIGUSR2 after an epoch, kill -9 after another; each time the same command goes on."""
    bench.need("scans")
    epochs, batches = (8, 10) if bench.card else (8, 2)
    words = ["train", "--fold", "0", "--preset", "tiny", "-c", "2d", "--epochs", str(epochs),
             "--iterations", str(batches), "--device", bench.device, "--no-checks"]  # fmt: skip
    folder = bench.workspace / "results" / DATASET / "nnUNetTrainer__gi2nnunetTinyPlans__2d/fold_0"
    begun = []
    for ending in (signal.SIGUSR2, signal.SIGKILL):
        before = len(read_epochs(folder))
        process = subprocess.Popen(
            [sys.executable, *OURS, *words], cwd=bench.folder, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while len(read_epochs(folder)) <= before and process.poll() is None:
            if time.monotonic() > bench.until:
                os.killpg(process.pid, signal.SIGKILL)
                raise FailedError("no epoch ended in time")
            time.sleep(0.05)
        if ending == signal.SIGKILL:
            os.killpg(process.pid, ending)
        else:
            process.send_signal(ending)
        process.wait(60)
        begun.append(len(read_epochs(folder)))
    bench.ours(*words)
    made = folder / "checkpoint_final.pth"
    looked = bench.run("checkpoint", ["-c", LOOK_AT_CHECKPOINT, str(made)])
    found: dict[str, Any] = json.loads(looked.out)
    checked = bench.ours("verify", check=False)
    found |= {"epochs_after_each_end": begun, "verify": checked.code}
    if found["epoch"] != epochs or found["compiled"] or not found["on_cpu"] or checked.code:
        raise FailedError(f"the checkpoint: {found}: {checked.out[-300:]}")
    if bench.card and not found["scaler"]:
        raise FailedError("the state of the gradient scaler was lost")
    return found


def check_batches(bench: Bench) -> dict[str, Any]:
    """2d alone: probabilities of whole batches beside nnU-Net's, and a scan of another depth."""
    import numpy as np

    from gi2nnunet.formats.probabilities import read_probabilities

    bench.need("predicted")
    common = ("--fold", "all", "--preset", bench.preset, "-c", "2d", "--device", bench.device)
    bench.ours("predict", "images", *common, "--save-probabilities", "--out", "stored")
    worst: list[float] = []
    for path in sorted((bench.folder / "stored").rglob("probabilities/**/*")):
        if path.is_file():
            stored = read_probabilities(path)
            with np.load(bench.folder / "plain_2d" / f"{stored.scan_id}.npz") as plain:
                theirs = plain["probabilities"][:, ::-1]  # its first slice is the lowest
            planes = [number - 1 for number in stored.numbers]
            worst.append(float(np.abs(stored.array / 255 - theirs[:, planes]).max()))
    if not worst or max(worst) > _LARGEST_DIFFERENCE:
        raise FailedError(f"probabilities differ from nnU-Net's by {worst}")
    paces = {}
    for name, source in (("same_depth", "source.zip"), ("other_depth", "other.zip")):
        done = bench.ours("predict", source, *common, "--out", f"pace_{name}", "--json")
        paces[name] = json.loads(done.out)["seconds_per_scan"]
    return {"largest_difference": max(worst), "seconds_per_scan": paces}


def check_memory(bench: Bench) -> dict[str, Any]:
    """Little memory on the card: the run ends with the same masks, or says what it did."""
    predicted = bench.need("predicted")
    if not bench.card:
        raise SkippedError("needs a card")
    found = {}
    for gib in (3.0, 1.5, 0.8):
        hog = subprocess.Popen(
            [sys.executable, "-c", TAKE_MEMORY, str(int(gib * 2**30))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            hog.stdout.readline()  # type: ignore[union-attr]
            done = bench.ours("predict", "images", "--fold", "all", "--preset", bench.preset,
                              "--device", "cuda", "--nifti", "--out", f"tight_{gib}",
                              check=False)  # fmt: skip
        finally:
            hog.communicate()
        found[str(gib)] = {"code": done.code, "seconds": done.seconds, "said": done.err[-300:]}
        if done.code == 0:
            share = count_equal(bench.folder / f"tight_{gib}", predicted)
            found[str(gib)]["equal_voxels"] = share
            if share < 0.999:
                raise FailedError(f"with {gib} GiB voxels differ: {found}")
        elif "memory" not in done.err:
            raise FailedError(f"with {gib} GiB: {found}")
    return found


def count_equal(one: Path, other: Path) -> float:
    """Return the share of equal voxels of two predictions of ours."""
    import numpy as np

    from gi2nnunet.formats.volumes import read_volume

    paths = sorted((one / "labels").glob("*.nii.gz"))
    if not paths:
        raise FailedError(f"no label volumes in {one}")
    shares = [
        np.mean(read_volume(path).array == read_volume(other / "labels" / path.name).array)
        for path in paths
    ]
    return float(min(shares))


def check_devices_agree(bench: Bench) -> dict[str, Any]:
    """Compare the card with the CPU: one small scan, a small network."""
    bench.need("scans")
    if not bench.card:
        raise SkippedError("needs a card")
    words = ("--fold", "0", "--preset", "tiny", "-c", "2d", "--nifti")
    for device in ("cuda", "cpu"):
        bench.ours("predict", "other.zip", *words, "--device", device, "--out", f"on_{device}")
    share = count_equal(bench.folder / "on_cuda", bench.folder / "on_cpu")
    if share < 0.999:
        raise FailedError(f"only {share:.5f} of the voxels are equal")
    return {"equal_voxels": share}


def check_figures(bench: Bench) -> dict[str, Any]:
    """``estimate --measure`` beside an epoch that was trained; the memory that is reported."""
    batch = bench.need("batch")
    done = bench.ours("estimate", "--measure", "--preset", bench.preset, "-c", "3d_fullres",
                      "--device", bench.device, "--json")  # fmt: skip
    (pace,) = json.loads(done.out)["paces"].values()
    batches = 250 if bench.card else 50
    ratio = pace["epoch_seconds"] / (batch * batches)
    cost = json.loads((bench.need("predicted") / "cost.json").read_text())
    figures = {"estimate_over_trained": ratio, "cost": cost, "measured_on_card": done.card}
    if bench.card and not 0.85 <= ratio <= 1.15:
        raise FailedError(f"the estimate is off: {figures}")
    return figures


def check_visible_devices(bench: Bench) -> dict[str, Any]:
    """CUDA_VISIBLE_DEVICES: empty and -1 mean the CPU, a UUID the card."""
    found = {}
    for visible in ("", "-1"):
        done = bench.ours("doctor", "--json", "--preset", "tiny", check=False,
                          CUDA_VISIBLE_DEVICES=visible)  # fmt: skip
        found[visible or "empty"] = done.code
        if done.code not in (0, 3) or "Traceback" in done.err:
            raise FailedError(f"CUDA_VISIBLE_DEVICES={visible!r}: {done.err[-300:]}")
        if done.code == 0 and '"cuda"' in done.out:
            raise FailedError(f"CUDA_VISIBLE_DEVICES={visible!r}: a card is used")
    if bench.card:
        words = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
        uuid = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()[0]
        done = bench.ours("doctor", "--json", "--device", "cuda", CUDA_VISIBLE_DEVICES=uuid)
        found["by UUID"] = done.code
    return found


def check_hidden(bench: Bench) -> dict[str, Any]:
    """Compare the rows of an exported model under a time budget with those of ``predict``."""
    bench.need("predicted")
    chosen = ("--preset", bench.preset, "--fold", "all")
    size = "266x266x144@1.5" if bench.card else "48x48x16@3"
    bench.ours("phantom", "--out", "hidden.zip", "--patients", "1", "--test-patients", "2",
               "--days", "1", "--size", size, "--easy", "--seed", "7")  # fmt: skip
    bench.ours("predict", "hidden.zip", *chosen, "--device", bench.device, "--out", "shown")
    bench.ours("export-model", *chosen)
    bench.ours("predict-hidden", "hidden.zip", "--model", "model.gi2nnunet", "--hours", "1",
               "--device", bench.device, "--workspace", "hidden",
               "--out", "hidden.csv")  # fmt: skip
    rows = []
    for path in (bench.folder / "hidden.csv", bench.folder / "shown" / "submission.csv"):
        with path.open(newline="") as file:
            rows.append(sorted(tuple(sorted(row.items())) for row in csv.DictReader(file)))
    if rows[0] != rows[1]:
        differing = len(set(rows[0]) ^ set(rows[1]))
        raise FailedError(f"{differing} rows differ")
    if not rows[0]:
        raise FailedError("no rows were written")
    return {"rows": len(rows[0])}


def check_two_cards(bench: Bench) -> dict[str, Any]:
    """Two cards share the scans and write the same rows."""
    predicted = bench.need("predicted")
    cards = len(bench.known.get("machine", {}).get("cards", ()))
    if cards < 2:
        raise SkippedError(f"needs two cards, found {cards}")
    bench.ours("predict", "images", "--fold", "all", "--preset", bench.preset, "--gpus", "2",
               "--device", "cuda", "--nifti", "--out", "two")  # fmt: skip
    return {"equal_voxels": count_equal(bench.folder / "two", predicted)}


CHECKS: tuple[tuple[str, float, Callable[[Bench], dict[str, Any]]], ...] = (
    ("machine", 60, check_machine),
    ("data", 90, prepare),
    ("training", 200, check_training),
    ("prediction", 150, check_prediction),
    ("interruptions", 60, check_interruptions),
    ("batches", 40, check_batches),
    ("memory", 60, check_memory),
    ("devices agree", 30, check_devices_agree),
    ("figures", 45, check_figures),
    ("visible devices", 30, check_visible_devices),
    ("predict-hidden", 45, check_hidden),
    ("two cards", 30, check_two_cards),
)


def main() -> int:
    """Run all checks; write what was found after each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="a new folder for everything")
    parser.add_argument("--no-card", action="store_true", help="what a CPU can run, small")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument(
        "--only",
        action="append",
        choices=[name for name, _, _ in CHECKS],
        help="and what they need is not run by itself; may be repeated",
    )
    options = parser.parse_args()
    out = options.out.absolute()
    if out.exists() and any(out.iterdir()):
        parser.error(f"{out} holds files already; give a new folder")
    deadline = time.monotonic() + 60 * options.minutes
    bench = Bench(out, card=not options.no_card, deadline=deadline)
    bench.folder.mkdir(parents=True)
    bench.logs.mkdir()
    outcomes: list[Outcome] = []
    for number, (name, seconds, check) in enumerate(CHECKS):
        if options.only and name not in options.only:
            continue
        outcomes.append(try_one(bench, number, name, seconds, check))
        write_record(out, outcomes, card=bench.card)
        last = outcomes[-1]
        print(f"{last.name}: {last.state} ({last.seconds:.0f} s) {last.why}", flush=True)
    return int(any(outcome.state == "failed" for outcome in outcomes))


def try_one(
    bench: Bench, number: int, name: str, seconds: float, check: Callable[[Bench], dict[str, Any]]
) -> Outcome:
    """Run a check within its time; whatever it raises becomes its outcome."""
    began = time.monotonic()
    outcome = Outcome(number=number, name=name, state="skipped")
    if bench.deadline - began < seconds / 4:
        outcome.why = f"only {max(0.0, bench.deadline - began):.0f} s are left"
        return outcome
    bench.until = bench.deadline if not bench.card else min(bench.deadline, began + 2 * seconds)
    try:
        outcome.figures = bench.known[name] = check(bench)
        outcome.state = "passed"
    except SkippedError as why:
        outcome.why = str(why)
    except Exception as error:  # whatever goes wrong is this check's failure, and the next ones run
        outcome.state, outcome.why = "failed", f"{type(error).__name__}: {error}"
    outcome.seconds = time.monotonic() - began
    return outcome


def write_record(out: Path, outcomes: Sequence[Outcome], *, card: bool) -> None:
    """Write JSON and a table, each whole."""
    record = {"format": 1, "card": card, "checks": [asdict(outcome) for outcome in outcomes]}
    lines = ["| check | state | seconds | found |", "|---|---|---|---|"]
    for outcome in outcomes:
        found = outcome.why or json.dumps(outcome.figures, default=str)
        lines.append(
            f"| {outcome.name} | {outcome.state} | {outcome.seconds:.0f} | "
            f"{found.replace('|', '/').replace(chr(10), ' ')} |"
        )
    for name, text in (
        ("acceptance.json", json.dumps(record, indent=1, default=str)),
        ("acceptance.md", "\n".join(lines) + "\n"),
    ):
        with tempfile.NamedTemporaryFile("w", dir=out, delete=False) as file:
            file.write(text)
        Path(file.name).replace(out / name)


if __name__ == "__main__":
    sys.exit(main())
