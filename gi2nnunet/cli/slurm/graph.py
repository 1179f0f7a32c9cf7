"""Which jobs a run is made of, and which waits for which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Job:
    """One job.

    Attributes
    ----------
    name
        Its name, unique in the run.
    words
        The words after ``gi2nnunet`` that it runs.
    after
        Names of the jobs that must have succeeded before.
    array
        Name of the array that it belongs to, whose jobs stand beside each other and wait for the
        same; empty for a job of its own.
    leaves
        Where none of these is there any more, a finished job is no longer done; without any, it is
        done for good.
    """

    name: str
    words: tuple[str, ...]
    after: tuple[str, ...] = ()
    array: str = ""
    leaves: tuple[Path, ...] = ()


def make_training_graph(
    *,
    configurations: Sequence[str],
    folds: Sequence[int | str],
    n_folds: int,
    plan_words: Sequence[str],
    train_words: Sequence[str],
    score_words: Sequence[str],
) -> tuple[Job, ...]:
    """Return the jobs of a whole training: a plan, every training, then the score.

    Parameters
    ----------
    configurations, folds
        One training for each pair.
    n_folds
        Folds of the split; only where all are trained is there a job that scores.
    plan_words, train_words, score_words
        Command lines without ``--config`` and ``--fold``.
    """
    chosen = [word for name in configurations for word in ("--config", name)]
    plan = Job(name="plan", words=(*plan_words, *chosen))
    trainings = [
        Job(
            name=f"train_{configuration}_fold_{fold}",
            words=(*train_words, "--config", configuration, "--fold", str(fold)),
            after=("plan",),
        )
        for configuration in configurations
        for fold in folds
    ]
    jobs = [plan, *trainings]
    if n_folds and set(range(n_folds)) <= set(folds):
        numbered = tuple(job.name for job in trainings if not job.name.endswith("_all"))
        words = (*score_words, *chosen, "--fold", "cv")
        jobs.append(Job(name="score", words=words, after=numbered))
    return tuple(jobs)


def make_prediction_graph(
    *,
    name: str,
    parts: int,
    part_words: Sequence[str],
    join_words: Sequence[str],
    kept: Path,
    result: Path,
) -> tuple[Job, ...]:
    """Return the jobs of a prediction: an array of parts, and one that joins what they keep.

    Parameters
    ----------
    name
        What is predicted and where to; no other prediction's.
    parts
        How many, each of every so-manieth scan.
    part_words, join_words
        Command lines, the former without ``--part``.
    kept
        Folder of what the parts leave for the last job, which takes it away.
    result
        The file that the last job writes.
    """
    shards = [
        Job(
            name=f"{name}_part_{part}",
            words=(*part_words, "--part", f"{part}/{parts}"),
            array=name,
            leaves=(kept, result),
        )
        for part in range(1, parts + 1)
    ]
    join = Job(
        name=f"{name}_join",
        words=tuple(join_words),
        after=tuple(job.name for job in shards),
        leaves=(result,),
    )
    return (*shards, join)
