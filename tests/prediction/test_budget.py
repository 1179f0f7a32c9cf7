"""Prediction within a budget of time, with a stand-in predictor and a made-up clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gi2nnunet.core.errors import EngineError, InputError
from gi2nnunet.prediction.predict import PredictedScan
from gi2nnunet.sharing.hidden import Step, choose_step, list_steps, predict_within, run_until
from gi2nnunet.source.nifti import NiftiScan


def make_scan(number: int) -> NiftiScan:
    return NiftiScan(
        scan_id=f"case{number}_day0", part="test", first_number=1, shape=(1, 2, 2),
        spacing_mm=(3.0, 1.5, 1.5), image=Path(),
    )  # fmt: skip


@dataclass
class Machine:
    """Predicts at a made-up pace; a clock of its own."""

    per_pass: float
    fixed: float = 0.0
    start: float = 0.0
    broken: frozenset[str] = frozenset()
    now: float = 0.0
    parts: list[tuple[int, Step]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def predict(self, scans, step, tell):
        self.parts.append((len(scans), step))
        self.now += self.start
        for scan in scans:
            if scan.scan_id in self.broken:
                raise InputError(f"{scan.scan_id} is damaged")
            self.now += self.fixed + self.per_pass * step.passes
            tell(PredictedScan(scan_id=scan.scan_id, rows=(), seconds=1.0))

    def go(self, n, *, seconds, folds=(0, 1, 2), mirroring=True):
        came: list[str] = []
        said: list[str] = []
        outcome = predict_within(
            [make_scan(i) for i in range(n)],
            list_steps(folds, mirroring=mirroring),
            deadline=seconds,
            predict=self.predict,
            on_scan=lambda scan: came.append(scan.scan_id),
            on_change=said.append,
            clock=lambda: self.now,
            run=lambda work, _: work() is None,
        )
        assert set(came) == set(outcome.used)
        assert len(came) == len(set(came))
        self.said = said
        assert len(outcome.used) + len(outcome.late) + len(outcome.failed) == n
        return outcome


def test_mirroring_is_given_up_before_folds() -> None:
    assert [(s.mirroring, s.folds) for s in list_steps((0, 1, 2))] == [
        (True, (0, 1, 2)), (False, (0, 1, 2)), (False, (0, 1)), (False, (0,)),
    ]  # fmt: skip
    assert [s.folds for s in list_steps(("all",), mirroring=False)] == [("all",)]


def test_with_time_enough_nothing_is_given_up() -> None:
    machine = Machine(per_pass=1)
    outcome = machine.go(20, seconds=1000)
    assert set(outcome.used.values()) == {Step(mirroring=True, folds=(0, 1, 2))}
    assert outcome.late == ()
    assert machine.said == []


@pytest.mark.parametrize(
    ("seconds", "last"),
    [
        (300, Step(mirroring=True, folds=(0, 1, 2))),
        (150, Step(mirroring=False, folds=(0, 1, 2))),
        (93, Step(mirroring=False, folds=(0,))),
    ],
)
def test_what_is_given_up_is_as_little_as_the_time_asks_for(seconds: float, last: Step) -> None:
    machine = Machine(per_pass=1)  # 12 s a scan in full: 240 s in all
    outcome = machine.go(20, seconds=seconds)
    assert outcome.late == ()
    assert outcome.used["case19_day0"] == last
    assert machine.now <= seconds


def test_a_budget_too_short_leaves_scans_and_never_runs_over_for_what_it_takes() -> None:
    machine = Machine(per_pass=1)
    outcome = machine.go(20, seconds=40)
    assert 3 < len(outcome.used) < 20
    assert outcome.late[-1] == "case19_day0"
    nothing = Machine(per_pass=1).go(5, seconds=2)
    assert nothing.used == {}
    assert len(nothing.late) == 5


def test_no_time_at_all_starts_nothing() -> None:
    machine = Machine(per_pass=1)
    assert len(machine.go(3, seconds=0).late) == 3
    assert machine.parts == []


def test_a_bad_scan_costs_only_itself() -> None:
    machine = Machine(per_pass=0.1, broken=frozenset({"case1_day0", "case2_day0", "case9_day0"}))
    outcome = machine.go(12, seconds=1000)
    assert set(outcome.failed) == machine.broken
    assert "case9_day0 is damaged" in outcome.failed["case9_day0"]
    assert len(outcome.used) == 9


def test_all_bad_ends() -> None:
    machine = Machine(per_pass=0.1, broken=frozenset(f"case{i}_day0" for i in range(7)))
    assert len(machine.go(7, seconds=1000).failed) == 7


def test_the_start_of_a_part_is_not_taken_for_the_pace_of_its_scans() -> None:
    machine = Machine(per_pass=0.1, start=60)  # 12 scans of 1.2 s and a few starts
    assert machine.go(12, seconds=400).late == ()
    assert machine.said == []


def test_choose_step_takes_the_last_where_none_fits() -> None:
    steps = list_steps((0, 1))
    assert choose_step(steps, 0, scan_seconds=10, scans=10, seconds_left=1) == len(steps) - 1
    assert choose_step(steps, 1, scan_seconds=1, scans=1, seconds_left=100) == 1


def test_work_is_ended_at_its_time_and_its_failure_is_told() -> None:
    import threading

    gate = threading.Event()
    assert not run_until(lambda: gate.wait(5) and None, 0.05)
    gate.set()
    assert run_until(lambda: None, 5)

    def fail() -> None:
        raise EngineError("broken")

    with pytest.raises(EngineError, match="broken"):
        run_until(fail, 5)
