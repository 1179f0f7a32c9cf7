from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gi2nnunet.core.errors import EngineError, InputError, OutputError, StoppedError
from gi2nnunet.core.locks import hold, hold_dataset
from gi2nnunet.core.workers import count_cores
from gi2nnunet.dataset.workspace import open_workspace
from gi2nnunet.nnunet import engine as engine_module
from gi2nnunet.nnunet.engine import Hardware
from gi2nnunet.nnunet.models import TRAINING_RECORD
from gi2nnunet.nnunet.presets import PRESETS, TrainingSettings
from gi2nnunet.training.plan import Plan
from gi2nnunet.training.prepared import PlannedConfiguration
from gi2nnunet.training.record import TrainingResult
from gi2nnunet.training.train import TrainingOrder, TrainingProgress, expand_folds, train_folds
from tests.converting import convert
from tests.engines import make_engine
from tests.prepared_factory import prepare
from tests.source_factory import write_source

CPU = Hardware(device="cpu", gpus=(), memory_gib=None, name="CPU")
TWO_CARDS = Hardware(device="cuda", gpus=(0, 1), memory_gib=24.0, name="two cards")


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (["all"], ("all",)),
        (["cv"], (0, 1, 2)),
        (["2", "0"], (2, 0)),
        (["1", "cv", "all"], (1, 0, 2, "all")),
    ],
)
def test_folds_are_expanded(asked: list[str], expected: tuple[int | str, ...]) -> None:
    assert expand_folds(asked, n_folds=3) == expected


@pytest.mark.parametrize("asked", ["3", "-1", "x", "", "²"])
def test_a_fold_outside_the_split_is_refused(asked: str) -> None:
    with pytest.raises(InputError, match="folds 0 to 2"):
        expand_folds([asked], n_folds=3)


@pytest.mark.parametrize("asked", ["0", "cv"])
def test_without_a_split_only_all_is_left(asked: str) -> None:
    assert expand_folds(["all"], n_folds=0) == ("all",)
    with pytest.raises(InputError, match="--fold all"):
        expand_folds([asked], n_folds=0)


class Engine:
    """Stands in for the child process: writes the final checkpoint, records what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.cards: list[str | None] = []
        self.failing: set[tuple[str, int | str]] = set()
        self.broken: set[str] = set()
        self.poison: set[tuple[str, int | str]] = set()
        self.together = threading.Barrier(1)
        self.peaks: dict[str, int] = {}
        self.notice = ""

    def __call__(
        self,
        task: str,
        options: Mapping[str, Any],
        *,
        environment: Mapping[str, str],
        log: Any,
        on_event: Any,
        stop: threading.Event | None,
    ) -> dict[str, Any]:
        assert task == "train"
        json.dumps(options)  # all of it must go through JSON
        self.asked.append(dict(options))
        self.cards.append(environment.get("CUDA_VISIBLE_DEVICES"))
        self.together.wait(10)
        if options["trainer"] == "Typo":
            raise InputError("no such trainer")
        on_event({"event": "start", "epoch": 0, "epochs": 4})
        if self.notice:
            on_event({"event": "notice", "message": self.notice})
        if (options["configuration"], options["fold"]) in self.failing:
            raise EngineError("out of luck")
        card = environment.get("CUDA_VISIBLE_DEVICES")
        if card in self.broken or (options["configuration"], options["fold"]) in self.poison:
            raise EngineError("RuntimeError: CUDA error: unspecified launch failure")
        folder = (
            Path(environment["nnUNet_results"])
            / Path(options["dataset_folder"]).name
            / f"{options['trainer']}__{options['plans_name']}__{options['configuration']}"
            / f"fold_{options['fold']}"
        )
        on_event({"event": "epoch", "epoch": 1, "epochs": 4, "train_loss": 0.5, "val_loss": 0.25,
                  "dice": [0.1, 0.2, 0.3], "seconds": 2.0, **self.peaks})  # fmt: skip
        if stop is not None and stop.is_set():
            return {"stopped_after": 1}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "checkpoint_final.pth").touch()
        return {}


class Bench:
    """A converted tiny dataset with a made-up plan and a stand-in engine."""

    def __init__(self, folder: Path) -> None:
        self.workspace = open_workspace(folder / "w", environ={})
        self.dataset = convert(
            write_source(folder / "source"),
            workspace=self.workspace,
            folds=2,
            holdout=0,
            jobs=1,
        )
        self.engine = Engine()
        plans_file = self.workspace.preprocessed / self.dataset.name / "gi2nnunetTinyPlans.json"
        prepare(self.dataset, plans_file)
        self.plan = Plan(
            preset=PRESETS["tiny"],
            plans_name="gi2nnunetTinyPlans",
            plans_file=plans_file,
            configurations={
                name: PlannedConfiguration(
                    name=name,
                    data_folder=plans_file.with_name(name),
                    batch_size=2,
                    patch_size=(8, 8),
                    spacing_mm=(1, 1),
                )
                for name in ("2d", "3d_fullres")
            },
            log=None,
        )

    def train(self, **options: Any) -> tuple[TrainingResult, ...]:
        given = {key: options.pop(key) for key in ("hardware", "jobs", "threads") if key in options}
        values: dict[str, Any] = {
            "engine": make_engine(self.workspace, **given),
            "settings": TrainingSettings(),
        }
        folds = options.pop("folds", (0, 1))
        order = TrainingOrder(dataset=self.dataset, plan=self.plan, **{**values, **options})
        return train_folds(order, folds)

    def folder(self, configuration: str, fold: int | str) -> Path:
        model = f"nnUNetTrainer__gi2nnunetTinyPlans__{configuration}"
        return self.workspace.results / self.dataset.name / model / f"fold_{fold}"


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench(tmp_path)
    monkeypatch.setattr(engine_module, "run_engine", made.engine)
    return made


def test_every_configuration_and_fold_is_trained_and_recorded(bench: Bench) -> None:
    told: list[TrainingProgress] = []
    results = bench.train(on_epoch=told.append)
    assert [(r.configuration, r.fold, r.outcome) for r in results] == [
        ("2d", 0, "trained"), ("2d", 1, "trained"),
        ("3d_fullres", 0, "trained"), ("3d_fullres", 1, "trained"),
    ]  # fmt: skip
    record = json.loads((bench.folder("2d", 0) / TRAINING_RECORD).read_text())
    assert record["settings"]["epochs"] == PRESETS["tiny"].epochs
    assert record["settings"]["iterations"] == PRESETS["tiny"].iterations
    assert record["label_scheme"] == "regions"
    assert (record["batch_size"], record["patch_size"], record["folds"]) == (2, [8, 8], 2)
    assert record["versions"]["nnunetv2"] == "2.8.1"
    assert told[0].pseudo_dice == {"large_bowel": 0.1, "small_bowel": 0.2, "stomach": 0.3}
    assert told[0].seconds_left == 6.0


def test_finished_trainings_are_left_alone(bench: Bench) -> None:
    bench.train(folds=(0,))
    asked = len(bench.engine.asked)
    results = bench.train()
    assert [r.outcome for r in results] == ["kept", "trained", "kept", "trained"]
    assert len(bench.engine.asked) == asked + 2


def test_asked_to_stop_the_running_training_ends_and_no_other_begins(bench: Bench) -> None:
    stop = threading.Event()
    with pytest.raises(StoppedError, match=r"2d, fold 0: stopped as asked after epoch 1, which"):
        bench.train(stop=stop, on_epoch=lambda _: stop.set())
    assert len(bench.engine.asked) == 1
    with pytest.raises(StoppedError, match=r"stopped as asked before it began"):
        bench.train(stop=stop)
    assert len(bench.engine.asked) == 1


def test_asked_to_stop_trainings_on_several_cards_end(bench: Bench) -> None:
    stop = threading.Event()
    with pytest.raises(StoppedError, match="stopped as asked"):
        bench.train(stop=stop, on_epoch=lambda _: stop.set(), hardware=TWO_CARDS)
    assert len(bench.engine.asked) <= 2


def test_an_interrupted_training_goes_on_from_its_latest_checkpoint(bench: Bench) -> None:
    bench.train(folds=(0,))
    latest = bench.folder("2d", 0) / "checkpoint_latest.pth"
    (bench.folder("2d", 0) / "checkpoint_final.pth").rename(latest)
    results = bench.train(folds=(0,))
    assert [r.outcome for r in results] == ["resumed", "kept"]
    assert bench.engine.asked[-1]["resume_from"] == str(latest)


@pytest.mark.parametrize("newer", ["checkpoint_latest.pth", "checkpoint_best.pth"])
def test_it_goes_on_from_whichever_checkpoint_is_newer(bench: Bench, newer: str) -> None:
    bench.train(folds=(0,))
    folder = bench.folder("2d", 0)
    (folder / "checkpoint_final.pth").unlink()
    for name in ("checkpoint_latest.pth", "checkpoint_best.pth"):
        (folder / name).touch()
        os.utime(folder / name, (2000, 2000) if name == newer else (1000, 1000))
    bench.train(folds=(0,))
    assert bench.engine.asked[-1]["resume_from"] == str(folder / newer)


def test_a_start_that_the_engine_refuses_leaves_no_trace_of_a_training(bench: Bench) -> None:
    with pytest.raises(InputError, match="no such trainer"):
        bench.train(folds=(0,), settings=TrainingSettings(trainer="Typo"))
    assert not list(bench.workspace.results.rglob("*"))


@pytest.mark.parametrize("content", [None, "", '[{"train": ["case2_day1"], "val": []}]'])
def test_another_split_than_the_datasets_is_not_trained_on(
    bench: Bench, content: str | None
) -> None:
    path = bench.workspace.preprocessed / bench.dataset.name / "splits_final.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=r"splits_final\.json: found (nothing|no list|fold 0)"):
        bench.train(folds=(0,))
    assert not bench.engine.asked


@pytest.mark.parametrize("state", ["finished", "begun"])
def test_other_settings_are_refused_until_restarted(bench: Bench, state: str) -> None:
    bench.train(folds=(0,))
    if state == "begun":
        folder = bench.folder("2d", 0)
        (folder / "checkpoint_final.pth").rename(folder / "checkpoint_latest.pth")
    other = TrainingSettings(epochs=7)
    asked = len(bench.engine.asked)
    with pytest.raises(InputError, match=rf"{state} with other settings \(epochs: found 40, now 7"):
        bench.train(folds=(0,), settings=other)
    assert len(bench.engine.asked) == asked
    results = bench.train(folds=(0,), settings=other, restart=True)
    assert [r.outcome for r in results] == ["trained", "trained"]
    assert bench.engine.asked[-1]["resume_from"] is None
    assert bench.engine.asked[-1]["epochs"] == 7


def augment_of(bench: Bench) -> tuple[str, str]:
    """How the last training was to augment, and what is recorded of it."""
    record = json.loads((bench.folder("3d_fullres", 0) / TRAINING_RECORD).read_text())
    return bench.engine.asked[-1]["augment"], record["settings"]["augment"]


def interrupt(bench: Bench) -> None:
    for name in ("2d", "3d_fullres"):
        folder = bench.folder(name, 0)
        (folder / "checkpoint_final.pth").rename(folder / "checkpoint_latest.pth")


def test_a_new_training_augments_by_default_on_the_processor(bench: Bench) -> None:
    bench.train(folds=(0,))
    assert augment_of(bench) == ("processor", "processor")


@pytest.mark.parametrize("began", ["processor", "device", "nnunet"])
def test_a_training_continues_as_it_was_begun(bench: Bench, began: Any) -> None:
    bench.train(folds=(0,), settings=TrainingSettings(augment=began))
    interrupt(bench)
    bench.train(folds=(0,))
    assert augment_of(bench) == (began, began)


@pytest.mark.parametrize(("began", "other"), [("processor", "device"), ("device", "processor")])
def test_a_training_may_move_between_processor_and_device(
    bench: Bench, began: Any, other: Any
) -> None:
    bench.train(folds=(0,), settings=TrainingSettings(augment=began))
    interrupt(bench)
    bench.train(folds=(0,), settings=TrainingSettings(augment=other))
    assert augment_of(bench) == (other, other)
    assert {r.outcome for r in bench.train(folds=(0,))} == {"kept"}


@pytest.mark.parametrize(
    ("began", "other"),
    [("processor", "nnunet"), ("device", "nnunet"), ("nnunet", "processor"), ("nnunet", "device")],
)
def test_a_training_does_not_change_to_another_pipeline(
    bench: Bench, began: Any, other: Any
) -> None:
    bench.train(folds=(0,), settings=TrainingSettings(augment=began))
    interrupt(bench)
    with pytest.raises(InputError, match=f"augment: found '{began}', now '{other}'"):
        bench.train(folds=(0,), settings=TrainingSettings(augment=other))


def test_a_training_of_an_older_version_continues_with_nnunets_pipeline(bench: Bench) -> None:
    bench.train(folds=(0,))
    interrupt(bench)
    for name in ("2d", "3d_fullres"):
        path = bench.folder(name, 0) / TRAINING_RECORD
        record = json.loads(path.read_text())
        del record["settings"]["augment"]
        path.write_text(json.dumps(record))
    with pytest.raises(InputError, match="augment: found 'nnunet', now 'device'"):
        bench.train(folds=(0,), settings=TrainingSettings(augment="device"))
    bench.train(folds=(0,))
    assert augment_of(bench) == ("nnunet", "nnunet")


def test_a_notice_of_the_engine_reaches_the_caller(bench: Bench) -> None:
    bench.engine.notice = "nnU-Net's own data pipeline is used"
    said: list[str] = []
    bench.train(folds=(0,), on_notice=said.append)
    assert said == [
        f"{name}, fold 0: nnU-Net's own data pipeline is used" for name in ("2d", "3d_fullres")
    ]


def test_how_to_augment_is_one_of_three_words() -> None:
    with pytest.raises(InputError, match=r"--augment: found 'gpu'; expected processor, device"):
        TrainingSettings(augment="gpu")  # type: ignore[arg-type]


def test_a_changed_plan_is_not_trained_on_with_old_checkpoints(bench: Bench) -> None:
    bench.train(folds=(0,))
    bench.plan.plans_file.write_text('{"other": 1}')
    with pytest.raises(InputError, match="plans: found"):
        bench.train(folds=(0,))


def test_what_nnunet_itself_began_is_not_touched(bench: Bench) -> None:
    folder = bench.folder("2d", 0)
    folder.mkdir(parents=True)
    (folder / "checkpoint_latest.pth").touch()
    with pytest.raises(InputError, match="nnUNetv2_train --c"):
        bench.train(folds=(0,))
    (folder / "checkpoint_final.pth").touch()
    assert bench.train(folds=(0,))[0].outcome == "kept"


def test_a_trainer_named_by_its_epochs_keeps_its_own_length(bench: Bench) -> None:
    bench.train(folds=(0,), settings=TrainingSettings(trainer="nnUNetTrainer_5epochs"))
    assert bench.engine.asked[0]["epochs"] is None
    assert bench.engine.asked[0]["iterations"] is None


def test_any_other_variant_gets_the_presets_length(bench: Bench) -> None:
    bench.train(folds=(0,), settings=TrainingSettings(trainer="nnUNetTrainerDA5"))
    assert bench.engine.asked[0]["epochs"] == PRESETS["tiny"].epochs


def test_cards_take_one_training_each_at_the_same_time(bench: Bench) -> None:
    bench.engine.together = threading.Barrier(2)  # each waits for another one to run beside it
    bench.train(hardware=TWO_CARDS)
    assert sorted(str(card) for card in bench.engine.cards) == ["0", "0", "1", "1"]


def test_one_failing_training_does_not_stop_the_others(bench: Bench) -> None:
    bench.engine.failing = {("2d", 1)}
    with pytest.raises(EngineError, match=r"1 of 4 trainings failed.*\n2d fold 1: out of luck"):
        bench.train(hardware=TWO_CARDS)
    bench.engine.failing = set()
    outcomes = [r.outcome for r in bench.train(hardware=TWO_CARDS)]
    assert outcomes == ["kept", "trained", "kept", "kept"]


def test_a_training_whose_card_fails_goes_on_on_another(bench: Bench) -> None:
    bench.engine.broken = {"0"}
    results = bench.train(hardware=TWO_CARDS)
    assert len(results) == 4
    assert bench.engine.cards.count("0") <= 2  # a dead card is soon given no more
    assert bench.engine.cards.count("1") == 4


def test_a_training_that_fails_on_every_card_is_not_tried_for_ever(bench: Bench) -> None:
    bench.engine.poison = {("2d", 0)}
    with pytest.raises(EngineError, match="1 of 4 trainings failed") as failed:
        bench.train(hardware=TWO_CARDS)
    assert "2d fold 0" in str(failed.value)
    tried = [(o["configuration"], o["fold"]) for o in bench.engine.asked]
    assert tried.count(("2d", 0)) == 2
    assert len(tried) == 5
    assert len(set(tried)) == 4


def test_where_every_card_fails_the_run_ends(bench: Bench) -> None:
    bench.engine.broken = {"0", "1"}
    with pytest.raises(EngineError, match="4 of 4 trainings failed"):
        bench.train(hardware=TWO_CARDS)
    assert len(bench.engine.asked) <= 8


def runs_of(bench: Bench) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = json.loads((bench.folder("2d", 0) / TRAINING_RECORD).read_text())[
        "runs"
    ]
    return runs


def test_the_threads_of_each_run_are_given_and_recorded(bench: Bench) -> None:
    bench.train(folds=(0,), threads=3)
    assert runs_of(bench) == [{"device": "cpu", "threads": 3}]
    assert bench.engine.asked[0]["threads"] == 3
    folder = bench.folder("2d", 0)
    (folder / "checkpoint_final.pth").rename(folder / "checkpoint_latest.pth")
    bench.train(folds=(0,))  # another number is no other setting, but it is told
    expected = [{"device": "cpu", "threads": 3}, {"device": "cpu", "threads": count_cores()}]
    assert runs_of(bench) == expected
    bench.train(folds=(0,), hardware=TWO_CARDS, restart=True)
    assert runs_of(bench) == [{"device": "cuda", "threads": 1}]


def test_what_a_run_took_at_its_height_is_recorded_an_interrupted_one_too(bench: Bench) -> None:
    bench.engine.peaks = {"peak_memory_bytes": 7, "peak_gpu_bytes": 5}
    bench.train(folds=(0,), threads=1)
    folder = bench.folder("2d", 0)
    assert runs_of(bench) == [{"device": "cpu", "threads": 1, **bench.engine.peaks}]
    (folder / "checkpoint_final.pth").rename(folder / "checkpoint_latest.pth")
    bench.engine.peaks = {"peak_memory_bytes": 9}
    bench.train(folds=(0,), threads=1)
    assert runs_of(bench)[1] == {"device": "cpu", "threads": 1, "peak_memory_bytes": 9}


def test_no_thread_at_all_is_refused(bench: Bench) -> None:
    with pytest.raises(ValueError, match="threads: found 0"):
        bench.train(threads=0)
    assert bench.engine.asked == []


def test_a_training_in_work_is_left_to_the_run_that_does_it(bench: Bench) -> None:
    with (
        hold(bench.folder("2d", 1), purpose="training 2d, fold 1"),
        pytest.raises(OutputError, match=r"fold_1: is in use by another run: .*training 2d"),
    ):
        bench.train(folds=(1,))
    assert bench.engine.asked == []
    assert [result.outcome for result in bench.train(folds=(1,))] == ["trained", "trained"]


def test_nobody_converts_a_dataset_that_is_trained_on(bench: Bench) -> None:
    refused = []

    def convert_meanwhile(configuration: str, fold: int | str, log: Path) -> None:
        with (
            pytest.raises(OutputError, match=r"is in use by another run: .*training"),
            hold_dataset(bench.workspace.raw, 501, purpose="converting", shared=False),
        ):
            pass
        refused.append((configuration, fold))

    bench.train(folds=(0,), on_start=convert_meanwhile)
    assert refused == [("2d", 0), ("3d_fullres", 0)]
    assert [path.name for path in bench.workspace.raw.iterdir()] == ["Dataset501_UWGI"]
