"""Which jobs a run is made of, and which waits for which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


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
    """

    name: str
    words: tuple[str, ...]
    after: tuple[str, ...] = ()


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
