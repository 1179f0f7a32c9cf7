"""Arguments of the calls: wrong ones are refused by name, right ones of every kind are taken."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gi2nnunet
from gi2nnunet.api.arguments import check_arguments


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: gi2nnunet.train(epoch=5), "train.*'epoch'; did you mean 'epochs'"),
        (lambda: gi2nnunet.check("a", orientaton="affine"), "check.*did you mean 'orientation'"),
        (lambda: gi2nnunet.compare("2d"), r"compare\(\): missing a required argument: 'b'"),
        (lambda: gi2nnunet.train(epochs="5"), "epochs: found '5'; expected a whole number"),
        (lambda: gi2nnunet.train(epochs=1.5), "epochs: found 1.5; expected a whole number"),
        (lambda: gi2nnunet.train(epochs=True), "epochs: found True"),
        (lambda: gi2nnunet.train(lr="1e-3"), "lr: found '1e-3'; expected a number"),
        (lambda: gi2nnunet.train(patch_size=40), "patch_size: found 40; expected a list"),
        (lambda: gi2nnunet.train(patch_size="40x40"), "patch_size"),
        (lambda: gi2nnunet.phantom("a", days=1.5), "days: found 1.5"),
        (lambda: gi2nnunet.convert(None), "source: found None; expected a path"),
        (lambda: gi2nnunet.check("a", roi="stomach=Magen"), "roi: .*expected a dict or a list"),
        (lambda: gi2nnunet.score("a", medical="no"), "medical: found 'no'; expected True or False"),
        (lambda: gi2nnunet.train(on_epoch="print"), "on_epoch: .*expected a function"),
        (lambda: gi2nnunet.verify(progress="bar"), "progress: .*expected True or a function"),
    ],
)
def test_a_wrong_type_is_refused_before_anything_is_done(here: Path, call: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        call()
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: gi2nnunet.convert("a", labels="bits"), "labels: found 'bits'.*regions or excl"),
        (lambda: gi2nnunet.convert("a", leave_out_suspects="all"), "leave_out_suspects: .*likely"),
        (lambda: gi2nnunet.check("a", orientation="as_stored"), "orientation: .*as-stored"),
        (lambda: gi2nnunet.encode("a", out="b", orientation=None), "orientation: found None"),
        (lambda: gi2nnunet.score("a", scans="both"), "scans: found 'both'; expected all or common"),
        (lambda: gi2nnunet.tune(metric="joined"), "metric: found 'joined'; expected per-class or"),
        (lambda: gi2nnunet.phantom("a", size=(48, 40, 16)), "size: found 48"),
        (lambda: gi2nnunet.remove([]), "names: found none"),
        (lambda: gi2nnunet.score(""), "submission: found ''; expected a path"),
        (lambda: gi2nnunet.status(workspace=""), "workspace: found ''; expected a path"),
    ],
)
def test_an_unknown_word_is_refused_with_those_that_are_known(
    here: Path, call: Any, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        call()
    assert not list(here.iterdir())


def test_values_of_every_kind_are_taken() -> None:
    taken = []
    for name in gi2nnunet._HOMES["api"]:
        call = getattr(gi2nnunet.api, name)
        signature = inspect.signature(call)

        def stand_in(*args: Any, call: Any = None, **keywords: Any) -> None:
            taken.append(keywords)

        stand_in.__signature__ = signature  # type: ignore[attr-defined]
        required = {
            one.name: "a"
            for one in signature.parameters.values()
            if one.default is inspect.Parameter.empty
        }
        given = required | {
            "seed": np.int64(3), "step_size": np.float32(0.5), "lr": 1, "jobs": None,
            "workspace": Path("w"), "medical": np.True_, "config": ("2d", "3d_fullres"), "fold": 0,
            "patch_size": np.array([40, 48]), "roi": {"stomach": "Magen"}, "holdout": "mle-bench",
            "labels": "regions", "metric": "per-class", "progress": print, "on_notice": print,
            "size": gi2nnunet.Geometry(width=9, height=9, slices=2, spacing_mm=(1.0, 1.0)),
        }  # fmt: skip
        check_arguments(stand_in)(
            **{key: given[key] for key in signature.parameters if key in given}
        )
        defaults = {one.name: one.default for one in signature.parameters.values()} | required
        check_arguments(stand_in)(**defaults)  # the defaults too
    assert len(taken) == 2 * len(gi2nnunet._HOMES["api"])
