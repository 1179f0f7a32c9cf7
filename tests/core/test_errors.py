import pytest

from gi2nnunet.core.errors import (
    EngineError,
    GiError,
    InputError,
    OutputError,
    Problem,
    StoppedError,
    raise_problems,
)


def make_problems(count):
    return [
        Problem(where=f"train.csv, line {line}", found=f"{line} runs", expected="two")
        for line in range(count)
    ]


def test_each_kind_of_failure_has_its_own_exit_code():
    codes = {kind: kind.exit_code for kind in GiError.__subclasses__()}
    assert codes == {InputError: 3, EngineError: 4, OutputError: 5, StoppedError: 6}  # 2 is usage
    assert all(issubclass(kind, GiError) for kind in codes)
    assert not issubclass(GiError, ValueError)


def test_no_problem_raises_nothing():
    raise_problems([], remedy="Do something.")


def test_all_problems_are_told_together_and_the_remedy_last():
    with pytest.raises(InputError) as error:
        raise_problems(iter(make_problems(3)), remedy="Do something.")
    assert str(error.value).splitlines() == [
        "train.csv, line 0: found 0 runs; expected two",
        "train.csv, line 1: found 1 runs; expected two",
        "train.csv, line 2: found 2 runs; expected two",
        "Do something.",
    ]


@pytest.mark.parametrize(("count", "counted"), [(20, None), (21, "... and 1 more"),
                                                (5000, "... and 4980 more")])  # fmt: skip
def test_the_first_twenty_are_listed_and_the_rest_counted(count, counted):
    with pytest.raises(InputError) as error:
        raise_problems(make_problems(count), remedy="Do something.")
    lines = str(error.value).splitlines()
    assert lines[:20] == [str(problem) for problem in make_problems(20)]
    assert lines[20:] == [*([counted] if counted else []), "Do something."]
