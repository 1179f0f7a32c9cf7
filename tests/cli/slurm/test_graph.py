from __future__ import annotations

from pathlib import Path

from gi2nnunet.cli.slurm.submit import Job, make_prediction_graph, make_training_graph


def graph(folds: list[int | str]) -> tuple[Job, ...]:
    return make_training_graph(
        configurations=("2d", "3d_fullres"),
        folds=folds,
        n_folds=2,
        plan_words=("plan",),
        train_words=("train", "--epochs", "3"),
        score_words=("predict-and-score",),
    )


def test_trainings_wait_for_the_plan_and_the_score_for_them() -> None:
    plan, *trainings, score = graph([0, 1, "all"])
    assert plan.words == ("plan", "--config", "2d", "--config", "3d_fullres")
    assert len(trainings) == 6
    assert {job.after for job in trainings} == {("plan",)}
    assert trainings[1].words == ("train", "--epochs", "3", "--config", "2d", "--fold", "1")
    assert score.after == tuple(j.name for j in trainings if not j.name.endswith("all"))


def test_only_what_computes_asks_for_a_gpu() -> None:
    plan, *others = graph([0, 1])
    assert not plan.on_gpu
    assert all(job.on_gpu for job in others)  # the score predicts out of fold


def test_part_of_the_folds_is_not_scored() -> None:
    assert [job.name for job in graph([1])] == [
        "plan",
        "train_2d_fold_1",
        "train_3d_fullres_fold_1",
    ]


def test_the_parts_of_a_prediction_stand_beside_each_other_and_are_joined() -> None:
    kept, result = Path("out/.kept"), Path("out/submission.csv")
    *parts, join = make_prediction_graph(
        name="p",
        parts=2,
        part_words=("predict", "source"),
        join_words=("predict-and-score", "source"),
        kept=kept,
        result=result,
    )
    assert [part.words for part in parts] == [
        ("predict", "source", "--part", "1/2"),
        ("predict", "source", "--part", "2/2"),
    ]
    assert {(part.array, part.after, part.leaves) for part in parts} == {("p", (), (kept, result))}
    assert (join.words, join.after) == (("predict-and-score", "source"), ("p_part_1", "p_part_2"))
    assert join.leaves == (result,)
    assert [job.on_gpu for job in (*parts, join)] == [True, True, False]
