"""Options that no command can follow, and requests that do not fit what is there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.bad_inputs.entry import BadInput
from tests.bad_inputs.making import RAW, ROW, Make, write, write_tables

DIGITS = "9" * 5000
JOBS = "gi2nnunet-workspace/jobs"


def usage(command: str, *message: str, name: str = "") -> BadInput:
    """A mistake of the command line itself, on a workspace where all else is right."""
    return BadInput(
        name=f"usage: {name or command}",
        start="converted",
        make=write_tables,
        command=command,
        message=message,
        exit_code=2,
    )


def refused(
    command: str,
    *message: str,
    name: str = "",
    exit_code: int = 3,
    make: Make = write_tables,
    patch: Callable[[Any], None] | None = None,
) -> BadInput:
    """A request that does not fit what is there."""
    return BadInput(
        name=f"refused: {name or command}",
        start="converted",
        make=make,
        command=command,
        message=message,
        exit_code=exit_code,
        patch=patch,
    )


def replaces(command: str, found: str = "of another kind") -> BadInput:
    """An output in the place of a file that is something else; the last word names it."""
    return BadInput(
        name=f"replaces: {command}",
        start="model",
        make=write_tables,
        command=command,
        message=(
            f"{command.split()[-1].removeprefix('./')}: found a file {found}; expected another one,"
            " so that it stays as it is. Give another place.",
        ),
        exit_code=5,
    )


def without_programs(monkeypatch: Any) -> None:
    monkeypatch.setenv("PATH", "/nowhere")


ARGUMENTS = (
    usage("train --dry-run", "--dry-run: needs --on slurm"),
    usage("predict --parts 2 --profile truth.csv", "--profile, --parts: needs --on slurm"),
    usage("predict --part 9/8", "--part", "found '9/8'", "such as 1/8 to 8/8"),
    usage("predict --part 0/2", "--part", "found '0/2'", "such as 1/8 to 8/8"),
    usage("predict --part half", "--part", "found 'half'"),
    usage(f"predict --part 1/{DIGITS}", "--part", name="a part of 5000 digits"),
    usage("predict --on slurm --part 1/2", "--part and --json cannot be combined with --on slurm"),
    usage("predict --on slurm --parts 1001", "--parts", "1000"),
    usage("train --on slurm --gpus 2", "--gpus", "each job uses one GPU"),
    refused("predict --on slurm", "holds no finished model"),
    refused(
        "train --on slurm",
        "--on slurm: found no sbatch and no squeue and no srun here",
        "a machine of the cluster",
        patch=without_programs,
    ),
    refused(
        "jobs",
        f"{JOBS}/records/plan.json: words: found nothing; expected this key",
        "Remove the file",
        name="a damaged record of a job",
        make=write(f"{JOBS}/records/plan.json", '{"name": "plan", "job_id": "many"}'),
    ),
    refused(
        "jobs",
        "squeue: cannot be asked",
        "Is Slurm there?",
        name="jobs where Slurm is gone",
        exit_code=4,
        make=write(
            f"{JOBS}/records/plan.json", '{"name": "plan", "job_id": "1", "words": ["plan"]}'
        ),
        patch=without_programs,
    ),
    BadInput(
        name="refused: a prediction's profile with an unknown key",
        start="model",
        command="predict --on slurm --dry-run --slurm queue=gpu",
        message=("--slurm: found the key 'queue'", "expected account, cpus", "Correct it"),
    ),
    usage("train --on slurm --restart", "--restart", "delete a job's own work"),
    refused(
        "train --on slurm --dry-run --slurm queue=gpu",
        "--slurm: found the key 'queue'; expected account, cpus",
        "Correct it",
    ),
    refused(
        "train --on slurm --dry-run --slurm time=0:05:00",
        "--slurm: found the limit 0:05:00 and warning_seconds = 300",
        "Give more time, or fewer warning_seconds",
    ),
    refused("train --on slurm --dry-run --slurm gpu", "--slurm gpu: expected KEY=VALUE"),
    refused(
        "train --on slurm --dry-run --profile truth.csv",
        "truth.csv: is not TOML",
        'Expected lines such as partition = "gpu"',
    ),
    usage("estimate --gpus 0", "--gpus", "1"),
    usage("estimate --epochs 0", "--epochs", "1"),
    usage("estimate --card T4 --measure", "cannot be combined with --card", "--measure"),
    usage("estimate --card T4 --device cpu", "cannot be combined with --card", "--device"),
    usage("estimate --preset tiny --device cpu --gpus 2", "--gpus", "name a GPU with --card"),
    refused("estimate --card Voodoo", "--card: found 'Voodoo'; expected one of P100, T4, V100"),
    refused(
        "estimate --card A100",
        "nothing is planned for the preset resenc-l",
        "Run gi2nnunet plan --preset resenc-l first",
    ),
    refused("estimate --card T4 --fold 7", "--fold 7: the split has the folds 0 to"),
    refused("estimate --card T4 --config 4d", "--config: found '4d'"),
    refused("estimate --device cpu", "--preset auto: found no GPU", "Use --preset tiny"),
    usage("trian", "No such command", "trian"),
    usage("train --epoch-count 3", "No such option", "--epoch-count"),
    usage("convert", "Missing argument", "SOURCE"),
    usage("check", "Missing argument", "SOURCE"),
    refused("check nowhere", "nowhere", "no such"),
    refused("check truth.csv", "truth.csv"),
    usage("convert source --holdout most", "--holdout", "'most'", "mle-bench"),
    usage("convert source --holdout nan", "--holdout", "'nan'", "a fraction from 0 to below 1"),
    usage("convert source --labels both", "--labels", "'both'", "exclusive"),
    usage("convert source --id 1000", "--id", "999"),
    usage("convert source --folds 1", "--folds", "2"),
    usage("convert source --seed -1", "--seed", "0"),
    usage(f"convert source --seed {DIGITS}", "--seed", name="a seed of 5000 digits"),
    usage(f"convert source --seed {2**64}", "--seed", "4294967295"),
    usage("convert source --jobs 0", "--jobs", "1"),
    usage(f"convert source --jobs {10**9}", "--jobs", "1024"),
    usage("convert source -w truth.csv", "truth.csv", "is a file"),
    usage("phantom --out p --size 30x30", "--size", "'30x30'", "266x266x144"),
    usage(
        f"phantom --out p --size {DIGITS}x1x1",
        "--size",
        "266x266x144",
        name="a size of 5000 digits",
    ),
    usage("phantom --out p --masks truth.csv", "--masks", "needs --sizes"),
    usage(
        "phantom --out p --sizes truth.csv --patients 6 --easy",
        "--patients, --easy",
        "cannot be combined with --sizes",
    ),
    usage(
        "phantom --out p --masks truth.csv --sizes truth.csv --days 2 --test-patients 0 "
        "--size 32x32x4 --solution t.csv",
        "--days, --test-patients, --size, --solution",
        "cannot be combined with --masks",
    ),
    usage("phantom --out p --patients 0", "--patients", "1"),
    usage("train --preset huge", "--preset", "'huge'", "resenc-xl"),
    usage("train --patch-size 12", "--patch-size", "'12'", "192x192"),
    usage("plan --patch-size 0x12", "--patch-size", "'0x12'", "192x192"),
    usage("plan --patch-size 32x-4", "--patch-size", "'32x-4'"),
    usage(
        f"plan --patch-size 32x{DIGITS}",
        "--patch-size",
        "192x192",
        name="a patch size of 5000 digits",
    ),
    usage("status --workspace=", "found '--workspace='; expected a value"),
    usage("train --epochs 0", "--epochs", "1"),
    usage("train --lr 0", "--lr"),
    usage("train --lr nan", "--lr"),
    usage("train --lr inf", "--lr", "found inf; expected a finite number"),
    usage("train --batch-size many", "--batch-size", "valid integer"),
    usage("train --device tpu", "--device", "'tpu'", "cuda"),
    usage("train --gpus 0", "--gpus", "1"),
    usage("train --pretrained-weights no.pth", "no.pth", "not exist"),
    usage("predict-and-score --metric dice", "--metric", "'dice'", "per-class"),
    usage("predict-and-score --step-size nan", "--step-size"),
    usage("predict-and-score --step-size 2", "--step-size", "1"),
    usage("predict-and-score --out truth.csv", "truth.csv", "is a file"),
    usage("encode source", "Missing option", "--out"),
    usage("encode source --out o.csv --labels x", "--labels", "'x'", "exclusive"),
    usage("encode source --out source", "source", "is a directory"),
    usage("encode source --out o.csv --sample none.csv", "none.csv", "not exist"),
    refused(
        "score truth.csv --workspace none",
        "truth.csv: its truth is not known: found no truth.csv, and no dataset in",
        "Give the truth with --truth TRUTH.",
    ),
    refused("score right.csv --truth none.csv", "none.csv"),
    usage("score truth.csv --truth truth.csv --metric x", "--metric", "'x'"),
    usage("score truth.csv --truth truth.csv --tolerance-mm nan", "--tolerance-mm"),
    refused(
        "score right.csv --truth truth.csv --medical",
        "truth.csv: the voxel spacing of case1_day0 is not known; millimetres need it.",
        "Give the source that holds the images (--images SOURCE).",
    ),
    refused("score right.csv --truth truth.csv --per-slice truth.csv/x", "truth.csv", exit_code=5),
    *(
        replaces(command)
        for command in (
            "score right.csv --truth truth.csv --per-slice truth.csv",
            f"score right.csv --scans common --per-slice {RAW}/truth.csv",
            "score right.csv --images source --per-slice source/train.csv",
            f"score {RAW}/labelsTr --per-slice {RAW}/dataset.json",
            "compare right.csv right.csv --truth truth.csv --html ./right.csv",
            "check source --html right.csv",
            f"encode {RAW}/labelsTr --out {RAW}/labelsTr/case10_day0.nii.gz",
            f"report --out {RAW}/truth.csv",
            "phantom --out p --solution right.csv",
            "predict-hidden source --model none --out source/train.csv",
            "export-model --out right.csv",
        )
    ),
    replaces(f"encode {RAW}/labelsTr --out right.csv --sample right.csv", "that is also read"),
    replaces(
        "predict-hidden source --model none --out source/sample_submission.csv", "that is also read"
    ),
    refused(
        "score right.csv --truth source",
        "source: found the competition's files; expected a table or label volumes",
        "--truth source/train.csv --images source",
    ),
    usage("compare right.csv", "Missing argument", "B"),
    refused(
        "compare right.csv held-out",
        "held-out: found no such file, and no prediction or model of that name in",
        "expected",
        "gi2nnunet status shows the names",
    ),
    refused(
        "convert source --folds 4 -w w",
        "folds: found 4 for 3 training patients",
        "expected at most one fold for each patient",
        "Ask for fewer folds",
    ),
    refused("convert source --holdout 0.9 -w w", "found 0.9 of 3 patients", "Hold out fewer"),
    refused("convert source --name ../up", "'../up'", "letters, digits"),
    refused(
        f"convert source --name {'x' * 300}",
        "expected a number from 1 to 999 and a name",
        name="a name of 300 letters",
    ),
    refused(
        "convert source --name Other", "found another dataset of number 501", "Take another number"
    ),
    refused("convert truth.csv", "truth.csv: is not a source", "a table", "Score a submission"),
    refused("phantom --out source", "source: is not empty", "give another folder"),
    refused("phantom --out truth.csv", "truth.csv: exists already", "give another path"),
    refused("phantom --out p --size 1x1x1", "geometry: found", "expected 16 to 4096 pixels"),
    refused("phantom --out p --size 4096x4096x4096", "geometry: found", "1073741824 voxels in all"),
    refused("phantom --out p --days 99", "days: found 99; expected at most 40", "Ask for fewer"),
    refused(
        f"phantom --out p --patients {10**18}",
        "patients: found 1000000000000000000",
        "expected at most 100000",
        "Ask for fewer",
    ),
    refused(
        "phantom --out p --sizes truth.csv",
        "truth.csv: found the columns",
        "expected id, width, height, px_w, px_h",
        "Add what is missing",
    ),
    refused(
        "phantom --out p --masks truth.csv --sizes source",
        "truth.csv, case1_day0_slice_0001",
        "found rows of a slice of unknown size",
        "Complete truth.csv or source",
    ),
    refused(
        "train --fold 2 --fold 7",
        "--fold 2: the split has the folds 0 to 1",
        "all for one model on every scan",
    ),
    refused("train --fold first", "--fold first: the split has the folds 0 to"),
    refused(f"train --fold {DIGITS}", "the split has the folds 0 to", name="a fold of 5000 digits"),
    refused(
        "train --trainer ../../up", "--trainer: found '../../up'", "the name of a trainer class"
    ),
    refused(
        "train --device cpu --preset tiny --trainer nnUNetTrainerr",
        "--trainer: found 'nnUNetTrainerr'",
        "nnUNetTrainer or ",
        "Give one of these",
    ),
    refused(
        "estimate --device cpu --preset tiny --trainer nnUNetTrainerDA55",
        "--trainer: found 'nnUNetTrainerDA55'",
        "nnUNetTrainerDA5",
    ),
    refused("train --on slurm --dry-run --trainer Mine", "--trainer: found 'Mine'"),
    refused(
        "train --device cpu --preset tiny --trainer nnUNetTrainerCELoss",
        "--trainer nnUNetTrainerCELoss: found a dataset with labels that overlap",
        "gi2nnunet convert SOURCE --labels exclusive --id 502",
    ),
    refused(
        "plan --device cpu --preset tiny --config 4d",
        "--config: found '4d'",
        "expected 2d, 3d_fullres",
        "Give one of these",
    ),
    refused("predict", "holds no finished model", "gi2nnunet train --fold all"),
    refused("train --device cpu", "--preset auto: found no GPU", "Use --preset tiny"),
    refused("train --device cpu --gpus 2", "--gpus 2", "--device cpu"),
    refused("encode source --out o.csv", "source: holds no NIfTI image", "Expected .nii"),
    refused("encode nowhere --out o.csv", "nowhere: no such file or folder", "Give a folder"),
    refused(
        f"encode {'x' * 5000} --out o.csv",
        "cannot be read (File name too long)",
        name="a folder's name of 5000 letters",
    ),
    refused(
        "score right.csv --truth source/train.csv",
        "right.csv: found no row of 4 of the 4 scans in source/train.csv (60 rows)",
        "(3 rows): case1_day0; expected the same scans",
        "of the 60 rows of source/train.csv",
    ),
    refused(
        "score source/train.csv --truth source/train.csv",
        "source/train.csv: the image size of",
        "expected the columns image_height and",
        "--images SOURCE",
    ),
    refused(
        "score right.csv --truth truth.csv --images nowhere", "nowhere: no such file or folder"
    ),
    refused(
        "score right.csv --truth right.csv --images source",
        "right.csv: the image size of case1_day0",
        "--images SOURCE",
    ),
    refused(
        "score missing.csv --truth truth.csv",
        f"missing.csv: found no row for {ROW}, stomach",
        "expected one",
        "Give one row for each of the 3 rows of truth.csv and no other",
    ),
    refused(
        "score extra.csv --truth truth.csv",
        "extra.csv, line 5 (case1_day0_slice_0002, stomach)",
        "found a row that the truth does",
        "expected the rows of truth.csv",
        "Give one row for each",
    ),
    refused(
        "score doubled.csv --truth truth.csv",
        f"doubled.csv, line 5: found a second row for {ROW}, large_bowel",
        "expected one row per slice and organ",
        "Correct these rows of doubled.csv",
    ),
    refused(
        "score rle.csv --truth truth.csv",
        f"rle.csv, line 2 ({ROW}, large_bowel): found RLE",
        "expected",
        "Correct these rows",
    ),
    refused(
        "score order.csv --truth truth.csv --metric mle-bench",
        "order.csv, line 2",
        "another order",
        "Sort the submission like the truth",
    ),
    refused(
        "compare right.csv missing.csv --truth truth.csv",
        "missing.csv: found no row for",
        "Give one row for each",
    ),
    refused("convert source -w truth.csv/inner", "truth.csv/inner", "cannot be", exit_code=5),
    refused(
        "phantom --out truth.csv/inner --size 32x32x4 --patients 1 --jobs 1",
        "truth.csv/inner",
        "cannot be written",
        exit_code=5,
    ),
    refused(
        f"encode {RAW}/labelsTr --out truth.csv/o.csv",
        "truth.csv/o.csv",
        "cannot be written",
        "is a file",
        "Give another place",
        exit_code=5,
    ),
    refused(
        f"encode {RAW}/labelsTr --out {'x' * 300}.csv",
        "cannot be written (File name too long)",
        name="an output's name of 300 letters",
        exit_code=5,
    ),
    BadInput(
        name="refused: results in place of other tables",
        start="model",
        make=write_tables,
        exit_code=5,
        command="predict-and-score --device cpu --out .",
        message=(
            ".: found truth.csv, which no prediction seems to have written; expected a new folder",
            "Give another place",
        ),
    ),
    BadInput(
        name="refused: results in the source",
        start="model",
        make=write_tables,
        exit_code=5,
        command="predict source --device cpu --out source",
        message=("source: found the source; expected another folder", "Give another place"),
    ),
    BadInput(
        name="refused: results below a file",
        start="model",
        make=write_tables,
        exit_code=5,
        command="predict-and-score --device cpu --out truth.csv/inner",
        message=("truth.csv/inner/submission.csv: cannot be written", "truth.csv is a file"),
    ),
)
