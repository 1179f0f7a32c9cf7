"""Workspaces in which something is missing, damaged, or was changed by hand."""

from __future__ import annotations

import json
import math
import shutil

from tests.bad_inputs.entry import BadInput
from tests.bad_inputs.making import (
    NAME,
    PREPROCESSED,
    RAW,
    Make,
    cut,
    edit,
    edit_json,
    remove,
    then,
    write,
)

PLAN = "plan --device cpu --preset tiny"
MANIFEST = f"{RAW}/manifest.json"
CONVERT_AGAIN = "gi2nnunet convert SOURCE"
RESTORE_SPLIT = "Restore it by running the same gi2nnunet convert again"


def damaged(
    name: str, make: Make, *message: str, command: str = PLAN, remedy: str = CONVERT_AGAIN
) -> BadInput:
    return BadInput(
        name=f"a workspace: {name}",
        start="converted",
        make=make,
        command=command,
        message=(*message, remedy),
    )


def manifest(name: str, content: bytes | str, *message: str) -> BadInput:
    return damaged(f"a manifest {name}", write(MANIFEST, content), "manifest.json", *message)


def copy_dataset(here) -> None:
    shutil.copytree(here / RAW, here / RAW.replace(NAME, "Dataset502_Other"))


def hide_truth(content: dict) -> None:
    for scan in content["scans"]:
        scan["part"] = "test"


def edit_splits(change) -> Make:
    return edit(f"{PREPROCESSED}/splits_final.json",
                lambda data: json.dumps(change(json.loads(data))).encode())  # fmt: skip


WORKSPACES = (
    *(
        BadInput(
            name=f"{command.split()[0]} in no workspace",
            command=f"{command} -w empty",
            message=("empty/raw: holds no dataset", "gi2nnunet convert --workspace empty SOURCE"),
        )
        for command in (
            "train",
            "plan",
            "predict-and-score",
            "predict source",
            "estimate --card T4",
        )
    ),
    BadInput(
        name="a workspace's name that is too long",
        command=f"train -w {'x' * 5000}",
        message=("cannot be read (File name too long)", "Check its name"),
    ),
    damaged(
        "another dataset's number",
        lambda here: None,
        "holds no dataset Dataset009_*",
        command="train --id 9",
        remedy="gi2nnunet convert --id 9 SOURCE",
    ),
    BadInput(
        name="a workspace: two datasets",
        start="converted",
        make=copy_dataset,
        command=PLAN,
        message=(
            "raw: holds several datasets (Dataset501_UWGI, Dataset502_Other)",
            "Say which with --id, such as --id 5",
        ),
    ),
    damaged(
        "a folder of someone else's",
        then(remove(MANIFEST), remove(f"{RAW}/dataset.json")),
        f"{RAW}: found no manifest.json",
        "expected a whole dataset",
    ),
    BadInput(
        name="a workspace: convert onto someone else's files",
        start="converted",
        make=then(remove(MANIFEST), remove(f"{RAW}/dataset.json")),
        command="convert source",
        message=(f"{RAW}: found files that gi2nnunet did not write", "Take another number"),
    ),
    manifest("of nothing", b"", "manifest.json: found no JSON"),
    manifest("cut off", '{"format": 1, "scans": [', "manifest.json: found no JSON"),
    manifest("of NUL bytes", bytes(4096), "manifest.json: found no JSON"),
    manifest("in UTF-16", '{"format": 1}'.encode("utf-16"), "manifest.json: found no JSON"),
    manifest("of a list", "[1, 2]", "manifest.json: found [1, 2]; expected an object"),
    manifest("nested too deep", "[" * 100_000, "manifest.json: found no JSON"),
    manifest("with a number of 5000 digits", '{"format": ' + "9" * 5000 + "}", "found no JSON"),
    manifest(
        "of a later format",
        '{"format": 2}',
        "found format 2; expected at most 1",
        "A newer version wrote it",
    ),
    manifest("without a format", "{}", "format: found nothing; expected this key"),
    manifest("without contents", '{"format": 1}', "recipe: found nothing; expected this key"),
    damaged(
        "a manifest with a text for its scans",
        edit_json(MANIFEST, lambda m: m.update(scans="all")),
        'manifest.json: scans: found "all"; expected a valid array',
    ),
    damaged(
        "a manifest whose sizes are texts",
        edit_json(MANIFEST, lambda m: m["scans"][0].update(shape=["a", "b", "c"])),
        'manifest.json: scans[0].shape[0]: found "a"; expected a valid integer',
    ),
    damaged(
        "a manifest whose sizes are beyond 64 bits",
        edit_json(MANIFEST, lambda m: m["scans"][0].update(shape=[2**64, 1, 1])),
        f"manifest.json: scans[0].shape[0]: found {2**64}; expected less than",
    ),
    damaged(
        "a manifest with a list for its files",
        edit_json(MANIFEST, lambda m: m["scans"][0].update(files=["x"])),
        'manifest.json: scans[0].files: found ["x"]; expected an object',
    ),
    damaged(
        "a manifest without a kind of source",
        edit_json(MANIFEST, lambda m: m["source"].pop("kind")),
        "manifest.json: source.kind: found nothing; expected this key",
    ),
    damaged(
        "a manifest with a spacing that is not a number",
        edit_json(MANIFEST, lambda m: m["scans"][1]["spacing_mm"].__setitem__(2, math.nan)),
        "manifest.json: scans[1].spacing_mm[2]: found NaN; expected a finite number",
    ),
    damaged(
        "a manifest with a fold that is a number",
        edit_json(MANIFEST, lambda m: m["recipe"]["splits"][0].update(val=7)),
        "manifest.json: recipe.splits[0].val: found 7; expected a valid array",
    ),
    BadInput(
        name="a workspace: convert onto a later version's dataset",
        start="converted",
        make=write(MANIFEST, '{"format": 2}'),
        command="convert source",
        message=(
            "manifest.json: found format 2; expected at most 1",
            "A newer version wrote it: update gi2nnunet",
        ),
    ),
    BadInput(
        name="a workspace: convert onto a damaged manifest: made anew",
        start="converted",
        make=write(MANIFEST, '{"format": 1}'),
        command="convert source",
        exit_code=0,
        message=("Next: gi2nnunet train",),
    ),
    BadInput(
        name="a workspace: convert otherwise after training",
        start="model",
        command="convert source --labels exclusive",
        message=(
            "a model was trained on Dataset501_UWGI as it is",
            "labels regions, now",
            "Convert into another workspace",
        ),
    ),
    damaged(
        "no dataset.json",
        remove(f"{RAW}/dataset.json"),
        f"{RAW}: found dataset.json missing or of another size",
    ),
    damaged(
        "an image missing",
        remove(f"{RAW}/imagesTr/case2_day1_0000.nii.gz"),
        "found imagesTr/case2_day1_0000.nii.gz missing or of another size",
    ),
    damaged(
        "an image cut off",
        edit(f"{RAW}/imagesTr/case2_day1_0000.nii.gz", cut),
        "found imagesTr/case2_day1_0000.nii.gz missing or of another size",
        "expected the files listed in manifest.json",
    ),
    damaged(
        "a split with an unknown scan",
        edit_splits(lambda splits: [{**splits[0], "train": ["case99_day9"]}, *splits[1:]]),
        "splits_final.json: found another split",
        "with the scan 'case99_day9', which the dataset does not train on",
        remedy=RESTORE_SPLIT,
    ),
    damaged(
        "a split of one fold",
        edit_splits(lambda splits: splits[:1]),
        "splits_final.json: found another split",
        "expected that of",
        remedy=RESTORE_SPLIT,
    ),
    BadInput(
        name="a workspace: no training scan",
        start="converted",
        command=PLAN,
        make=edit_json(MANIFEST, hide_truth),
        message=("the same scans in scans, files", "Make the dataset again with: gi2nnunet"),
    ),
    BadInput(
        name="a workspace: nothing to score",
        start="model",
        command="predict-and-score",
        make=edit_json(MANIFEST, hide_truth),
        message=("the same scans in scans, files", "Make the dataset again with: gi2nnunet"),
    ),
    BadInput(
        name="a workspace: no truth.csv",
        start="model",
        command="predict-and-score",
        make=remove(f"{RAW}/truth.csv"),
        message=(
            f"{RAW}/truth.csv: found a file that is missing or was changed after the conversion",
            "Restore them with: gi2nnunet convert SOURCE",
        ),
    ),
    BadInput(
        name="a workspace: a truth.csv cut off",
        start="model",
        command="predict-and-score",
        make=edit(f"{RAW}/truth.csv", lambda data: data[:-15]),
        message=(
            f"{RAW}/truth.csv: found a file that is missing or was changed after the conversion",
            "Restore them with: gi2nnunet convert SOURCE",
        ),
    ),
    BadInput(
        name="a workspace: two sets of results",
        start="empty",
        make=lambda here: [
            (here / "gi2nnunet-workspace/results" / name).mkdir(parents=True)
            for name in ("Dataset501_UWGI", "Dataset502_Other")
        ],
        command="predict source",
        message=(
            "results: found Dataset501_UWGI, Dataset502_Other; expected one",
            "Choose one with --id",
        ),
    ),
    damaged(
        "a plan's mark cut off, to estimate by",
        then(
            write(f"{PREPROCESSED}/gi2nnunetTinyPlans.json", "{}"),
            write(f"{PREPROCESSED}/gi2nnunet_gi2nnunetTinyPlans.json", '{"recipe": {"data'),
        ),
        f"{PREPROCESSED}: nothing is planned for the preset tiny",
        command="estimate --preset tiny --device cpu --measure",
        remedy="Run gi2nnunet plan --preset tiny first",
    ),
    BadInput(
        name="a workspace: no training scan to estimate for",
        start="converted",
        command="estimate --card T4",
        make=edit_json(MANIFEST, hide_truth),
        message=("the same scans in scans, files", "Make the dataset again with: gi2nnunet"),
    ),
    BadInput(
        name="a workspace: a manifest beside volumes, damaged",
        start="converted",
        make=write(MANIFEST, "{"),
        command=f"encode {RAW}/labelsTr --out out.csv",
        message=("manifest.json: found no JSON", CONVERT_AGAIN),
    ),
)
