"""Time what prediction does beside its networks, against another checkout, side by side in one run.

    python scripts/bench_inference.py --against ../before --folder /tmp/bench-predict

The folder is that of ``bench_predict.py``, which is made if it is missing. One of its scans
(266x266x144) is predicted by 2d (320x320) and 3d_fullres (80x160x160), two folds each, mirrored, on
one thread, by the other checkout and this one in turn, each time in a fresh process. The networks
are replaced by a few multiplications, as only the time outside them counts. Seconds are processor
time; the smallest figure of each checkout counts, as other work on the machine slows the caches.
Rows:

start     the command ``predict`` until the engine opens the first scan, both processes together
outside   a scan from its file to its rows, without the networks' own calls
decide    from the float32 sigmoids of two configurations to bit-coded labels
masks     from the logits of two configurations to bit-coded labels
memory    the most memory of the process
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MODELS = {"2d": ([320, 320], [1.5, 1.5]), "3d_fullres": ([80, 160, 160], [3.0, 1.5, 1.5])}

# Runs in every process: the engine's ends when it opens the scan, and notes the seconds so far.
HOOK = """
import os, sys, time
if "gi2nnunet.nnunet.child.main" in sys.orig_argv:
    def look(event, arguments):
        if event == "open" and str(arguments[0]) == os.environ["BENCH_SCAN"]:
            parent = open(f"/proc/{os.getppid()}/stat").read().rpartition(")")[2].split()
            seconds = sum(map(int, parent[11:13])) / os.sysconf("SC_CLK_TCK")
            with open(os.environ["BENCH_OUT"], "w") as file:
                file.write(str(seconds + time.process_time()))
            os._exit(9)
    sys.addaudithook(look)
"""


def time_start(checkout: Path, folder: Path, scan: Path) -> dict[str, float]:
    """Start the command until its engine opens the scan; return the seconds of both processes."""
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "sitecustomize.py").write_text(HOOK)
        environment = {
            **os.environ,
            "PYTHONPATH": f"{name}:{checkout}",
            "BENCH_SCAN": str(scan),
            "BENCH_OUT": f"{name}/seconds",
        }
        words = [sys.executable, "-m", "gi2nnunet", "predict", str(scan), "--fold", "cv",
                 "--device", "cpu", "--out", f"{name}/out"]  # fmt: skip
        subprocess.run(words, cwd=folder, env=environment, capture_output=True)
        return {"start": float(Path(environment["BENCH_OUT"]).read_text())}


def write_models(results: Path) -> list[Path]:
    """Write models with random weights and patches of the default plan's sizes."""
    import torch
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    from tests.model_factory import DATASET_JSON, make_checkpoint, make_plans

    folders = []
    for name, (patch, spacing) in MODELS.items():
        plans = make_plans(name)
        configured = plans["configurations"][name]
        configured |= {"patch_size": patch, "spacing": spacing}
        architecture, axes = configured["architecture"], len(patch)
        kinds = {"conv_op": f"conv.Conv{axes}d", "norm_op": f"instancenorm.InstanceNorm{axes}d"}
        architecture["arch_kwargs"] |= {
            "features_per_stage": [2, 2],
            "kernel_sizes": [[1] * axes] * 2,
            "strides": [[1] * axes, [2] * axes],
            **{key: f"torch.nn.modules.{kind}" for key, kind in kinds.items()},
        }
        network = get_network_from_plans(
            architecture["network_class_name"], architecture["arch_kwargs"],
            architecture["_kw_requires_import"], 1, 3, deep_supervision=False,
        )  # fmt: skip
        folder = results / f"nnUNetTrainer__gi2nnunetTinyPlans__{name}"
        for fold in (0, 1):
            path = folder / f"fold_{fold}" / "checkpoint_final.pth"
            path.parent.mkdir(parents=True)
            made = make_checkpoint(configuration=name, fold=fold)
            made["network_weights"] = network.state_dict()
            made["inference_allowed_mirroring_axes"] = tuple(range(axes))
            torch.save(made, path)
        (folder / "plans.json").write_text(json.dumps(plans))
        (folder / "dataset.json").write_text(json.dumps(DATASET_JSON))
        folders.append(folder)
    return folders


class Clock:
    """Processor seconds of calls, by name; each thread counts its own."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def watch(self, owner: Any, name: str, label: str) -> None:
        """Count the calls of an attribute, if there is one of that name."""
        call: Callable[..., Any] | None = getattr(owner, name, None)
        if call is None:
            return

        def counted(*arguments: Any, **options: Any) -> Any:
            began = time.thread_time()
            try:
                return call(*arguments, **options)
            finally:
                spent = time.thread_time() - began
                self.seconds[label] = self.seconds.get(label, 0.0) + spent

        setattr(owner, name, counted)


def predict(scan: Path, models: list[str]) -> dict[str, Any]:
    """Predict in this process; return its figures."""
    import numpy as np
    import torch
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    from gi2nnunet.nnunet.child import inference
    from gi2nnunet.nnunet.child.network import Network
    from gi2nnunet.source.open import open_source

    def forward(self: Any, batch: torch.Tensor) -> torch.Tensor:
        return torch.cat([batch * 2 - 1, batch - 1, 1 - batch], 1)

    PlainConvUNet.forward = forward
    clock = Clock()
    events: list[dict[str, Any]] = []
    clock.watch(PlainConvUNet, "forward", "networks")
    for owner, name in ((Network, "finish"), (inference, "decide"),
                        (inference, "code_bits"), (Network, "restore")):  # fmt: skip
        clock.watch(owner, name, "masks")
    (found,) = open_source(scan).scans.values()
    began = time.process_time()
    inference.run_prediction(
        emit=events.append, models=models, device="cpu", mirroring=True, step_size=0.5, threads=1,
        scans=[{"scan": found.to_json(), "folds": [0, 1], "about": {}}],
        nifti_folder=None, trust=False,
    )  # fmt: skip
    outside = time.process_time() - began - clock.seconds["networks"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rows = json.dumps([event["rows"] for event in events]).encode()
    random = np.random.default_rng(0)
    sigmoids = [random.random((3, 144, 266, 266), np.float32)[:, ::-1] for _ in range(2)]
    began = time.thread_time()
    inference.decide(sigmoids, regions=True)
    return {
        "outside": outside,
        "decide": time.thread_time() - began,
        "masks": clock.seconds["masks"],
        "memory": peak,
        "rows": hashlib.sha256(rows).hexdigest(),
    }


def run_part(checkout: Path, scan: Path, models: list[Path]) -> dict[str, Any]:
    """Predict by a checkout's code in a fresh process, with the engine's own variables."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(checkout),
        "OMP_NUM_THREADS": "1",
        "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
        "MALLOC_TRIM_THRESHOLD_": str(512 << 20),
    }
    words = [sys.executable, __file__, "--part", str(scan), *map(str, models)]
    done = subprocess.run(words, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Run both in turn, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--against", type=Path, help="checkout of another version")
    parser.add_argument("--folder", type=Path, default=Path("bench-predict"))
    parser.add_argument("--runs", type=int, default=3, help="of each checkout")
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        scan, *models = given.part
        print(json.dumps(predict(Path(scan), models)))
        return
    if given.against is None:
        parser.error("--against is needed")
    sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]
    from bench_predict import prepare

    folder = given.folder.absolute()
    raw = folder / "gi2nnunet-workspace" / "raw"
    if not raw.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        prepare(folder, scans=1)
    scan = sorted(raw.glob("*/imagesTs/*.nii.gz"))[0]
    codes = {"before": given.against.resolve(), "now": ROOT}
    measured: dict[str, list[dict[str, Any]]] = {"before": [], "now": []}
    with tempfile.TemporaryDirectory() as name:
        models = write_models(Path(name) / "Dataset501_UWGI")
        for which in ("before", "now") * given.runs:
            found = run_part(codes[which], scan, models)
            measured[which].append(found | time_start(codes[which], folder, scan))
            print(which, measured[which][-1], flush=True)
    print("\n| | before | now | ratio |\n|---|---|---|---|")
    for key, unit in (("start", "s"), ("outside", "s"), ("decide", "s"), ("masks", "s"),
                      ("memory", "MB")):  # fmt: skip
        before, now = (min(one[key] for one in measured[which]) for which in ("before", "now"))
        print(f"| {key} ({unit}) | {before:.2f} | {now:.2f} | {before / now:.2f} |")
    print("same rows:", len({one["rows"] for part in measured.values() for one in part}) == 1)


if __name__ == "__main__":
    main()
