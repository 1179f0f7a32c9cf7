"""Models that cannot be used: missing parts, damaged checkpoints, code in place of weights.

A checkpoint is looked at from outside before nnU-Net is started; what only its content tells needs
nnU-Net's process, which takes seconds, so that there are few of these.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

from tests.bad_inputs.entry import BadInput
from tests.bad_inputs.making import MODEL, Make, edit, then, write
from tests.model_factory import make_plans

CHECKPOINT = f"{MODEL}/fold_all/checkpoint_final.pth"
PREDICT = "predict-and-score --device cpu"
RESTORE = "Restore it, or train it again: gi2nnunet train --config 2d"


class Planted:
    """What a checkpoint must not be able to do: it makes a file when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("owned"),)


def checkpoint(content: object) -> Make:
    """Save a checkpoint by PyTorch's own means."""

    def make(here: Path) -> None:
        import torch

        whole = content
        values = {"one": 0.0, "diverged": float("nan")}
        if isinstance(content, dict) and content.get("network_weights") in values:
            layer = torch.full((3,), values[content["network_weights"]])
            whole = {**content, "network_weights": {"layer.weight": layer}}
        torch.save(whole, here / CHECKPOINT)

    return make


def damage_a_weight(here: Path) -> None:
    """Change one byte of a weight in a checkpoint that is sound otherwise."""
    import torch

    path = here / CHECKPOINT
    torch.save({**ONE, "network_weights": {"layer.weight": torch.full((3,), 0.7)}}, path)
    content = path.read_bytes()
    weight = torch.full((3,), 0.7).numpy().tobytes()
    path.write_bytes(content.replace(weight, weight[:-1] + b"\x3e"))


ONE = {
    "network_weights": "one",
    "trainer_name": "nnUNetTrainer",
    "init_args": {"configuration": "2d", "fold": "all"},
    "inference_allowed_mirroring_axes": (0, 1),
}


def zip_of(name: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, b"hello")
    return out.getvalue()


def describe(here: Path) -> None:
    """Put the plans and the description beside the model, as nnU-Net does."""
    dataset = here / "gi2nnunet-workspace/raw/Dataset501_UWGI/dataset.json"
    write(f"{MODEL}/plans.json", json.dumps(make_plans()))(here)
    write(f"{MODEL}/dataset.json", dataset.read_bytes())(here)


def model(
    name: str, make: Make, *message: str, remedy: str = RESTORE, engine: bool = False
) -> BadInput:
    return BadInput(
        name=f"a model: {name}",
        start="model",
        make=then(describe, make),
        command=PREDICT,
        message=(*message, remedy),
        engine=engine,
    )


MODELS = (
    BadInput(
        name="a model: none",
        start="converted",
        command=PREDICT,
        message=("results/Dataset501_UWGI: holds no finished model", "gi2nnunet train --fold all"),
    ),
    BadInput(
        name="a model: none to predict a source with",
        start="converted",
        command="predict source",
        message=("holds no finished model", "gi2nnunet train"),
    ),
    *(
        BadInput(
            name=f"a model: not the one asked for by {asked}",
            start="model",
            command=f"{PREDICT} {asked}",
            message=(
                said,
                "Finished: 2d fold all (nnUNetTrainer, gi2nnunetTinyPlans)",
                # A fold that the split does not have cannot be trained.
                "Choose among these with --config" if "99" in asked else "gi2nnunet train",
            ),
        )
        for asked, said in (
            ("--fold 0", "--fold 0"),
            ("--config 3d_fullres", "--config 3d_fullres"),
            ("--preset resenc-l", "--preset resenc-l"),
            ("--trainer Mine", "no finished model with these options"),
            ("--fold " + "9" * 5000, "no finished model with these options"),
        )
    ),
    model(
        "no plans",
        lambda here: (here / MODEL / "plans.json").unlink(),
        f"{MODEL}/plans.json: no such file",
    ),
    model(
        "plans cut off",
        edit(f"{MODEL}/plans.json", lambda data: data[:300]),
        "plans.json: found no JSON",
    ),
    model(
        "plans whose configuration is no table",
        write(f"{MODEL}/plans.json", '{"configurations": {"2d": true}}'),
        'plans.json: configurations["2d"]: found true; expected an object',
    ),
    model(
        "plans with a patch size as text",
        write(f"{MODEL}/plans.json", '{"configurations": {"2d": {"patch_size": "12 x 16"}}}'),
        'plans.json: configurations["2d"].patch_size: found "12 x 16"; expected a valid array',
    ),
    model(
        "plans with a spacing that is no number",
        write(f"{MODEL}/plans.json", '{"configurations": {"2d": {"spacing": [1.5, NaN]}}}'),
        'plans.json: configurations["2d"].spacing[1]: found NaN; expected a finite number',
    ),
    model(
        "an import record with infinitely many folds",
        write(f"{MODEL}/fold_all/gi2nnunet_imported.json", '{"n_folds": Infinity}'),
        "gi2nnunet_imported.json: n_folds: found Infinity; expected a valid integer",
        remedy="Import the model again: gi2nnunet import-model MODEL --replace",
    ),
    model(
        "plans that are text", write(f"{MODEL}/plans.json", "hello"), "plans.json: found no JSON"
    ),
    model(
        "plans of nothing",
        write(f"{MODEL}/plans.json", "{}"),
        "plans.json: configurations: found nothing; expected this key",
    ),
    model(
        "no dataset.json",
        lambda here: (here / MODEL / "dataset.json").unlink(),
        f"{MODEL}/dataset.json: no such file",
    ),
    model(
        "a dataset.json of nothing",
        write(f"{MODEL}/dataset.json", "{}"),
        "dataset.json: labels: found nothing; expected this key",
    ),
    model("an empty checkpoint", lambda here: None, f"{CHECKPOINT}: found an empty file"),
    model(
        "a checkpoint of text",
        write(CHECKPOINT, "hello"),
        "found a file that PyTorch did not write",
    ),
    model(
        "a checkpoint of NUL bytes",
        write(CHECKPOINT, bytes(5000)),
        "found a file that PyTorch did not write",
        "expected a whole checkpoint",
    ),
    model(
        "a zip as checkpoint",
        write(CHECKPOINT, zip_of("x.txt")),
        "found a zip that is not a checkpoint of PyTorch",
    ),
    model(
        "a checkpoint cut off",
        write(CHECKPOINT, zip_of("archive/data.pkl")[:-10]),
        "found a truncated or damaged file",
    ),
    BadInput(
        name="weights to start from: cut off",
        start="converted",
        make=write("w.pth", zip_of("archive/data.pkl")[:-10]),
        command="train --device cpu --preset tiny --pretrained-weights w.pth",
        message=("w.pth: found a truncated or damaged file", "expected a whole checkpoint"),
    ),
    model(
        "a checkpoint that runs code",
        checkpoint({**ONE, "planted": Planted()}),
        "checkpoint_final.pth: refused: it is not a plain checkpoint of weights",
        remedy="add --trust if you trust its source",
        engine=True,
    ),
    model(
        "a checkpoint of another configuration",
        checkpoint({**ONE, "init_args": {"configuration": "3d_fullres", "fold": "all"}}),
        "checkpoint_final.pth: found a checkpoint of 3d_fullres, fold all, nnUNetTrainer",
        "expected one of 2d, fold all, nnUNetTrainer, as its folder says",
        engine=True,
    ),
    model(
        "a checkpoint of another fold",
        checkpoint({**ONE, "init_args": {"configuration": "2d", "fold": 0}}),
        "checkpoint_final.pth: found a checkpoint of 2d, fold 0, nnUNetTrainer",
        "expected one of 2d, fold all, nnUNetTrainer, as its folder says",
        engine=True,
    ),
    model(
        "a checkpoint with a changed byte",
        damage_a_weight,
        "checkpoint_final.pth: is damaged or truncated",
        "does not match its checksum",
        engine=True,
    ),
    model(
        "a checkpoint of a training that diverged",
        checkpoint({**ONE, "network_weights": "diverged"}),
        "checkpoint_final.pth: found NaN or infinity in 1 of 1 tensor of weights",
        remedy="Train again with --restart and a smaller --lr",
        engine=True,
    ),
    model(
        "a checkpoint of another network",
        checkpoint(ONE),
        "checkpoint_final.pth: its weights are not of the network that the plan beside it",
        remedy="Restore both from their source",
        engine=True,
    ),
)
