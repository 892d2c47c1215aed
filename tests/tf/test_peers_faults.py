"""The faults of other tools' TensorFlow halves, one by one: none of them is here.

These have their tests elsewhere. In `test_callback_peers`: the loss divides probabilities by T, clipped raw logits
without a softmax, a second student forward, BatchNorm that moves in evaluation, ``sample_weight`` that is lost,
subclassed models that are refused, teacher weights inside of the student's file. In `tests/contract/test_rules_loop`:
hooks that do nothing outside of ``fit()``. In `tests/contract/test_rules_models`: a teacher with ``training=True``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdhooks import Distillation
from kdhooks_tf.losses import kd
from tests.tf.callback_models import features, log_softmax, student, teacher
from tests.tf.loop_models import Loop, classifier, kd_conf, same_weights
from tests.tf.tapped_models import shims

YAML = """\
# kept as it is
distillation:
    train:
        frequency: 2
        criterion: {KnowledgeDistillationLoss: {temperature: 4, loss_weights: [1, 1]}}
"""


def test_kl_is_a_mean_over_rows_and_not_over_elements() -> None:
    """An element-wise mean would be 100 times too weak at 100 classes."""
    rng = np.random.default_rng(0)
    s, t = (log_softmax(rng.normal(size=[8, 100])) for _ in range(2))
    assert float(kd(s, t, temperature=1.0)) == pytest.approx((np.exp(t) * (t - s)).sum() / 8, rel=1e-9)


def test_a_whole_number_as_temperature_frequency_and_a_file_that_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "kd.yaml"
    path.write_text(YAML)
    model = classifier(1)
    distiller = Distillation(path, student_model=model, teacher_model=classifier(2))
    evaluated: list[Any] = []
    distiller.eval_func = lambda one: evaluated.append(one) or 1.0
    with distiller:
        loop = Loop(model, distiller=distiller)
        for _ in range(4):
            loop.run(1)
            distiller.on_epoch_end()
        losses = distiller.losses
    assert losses["total"] == pytest.approx(losses["CE"] + losses["KL"], rel=1e-5)
    assert [bool(record["metrics"]) for record in distiller.history] == [False, True, False, True]
    assert len(evaluated) == 2
    assert path.read_text() == YAML


@pytest.mark.parametrize("higher", [True, False])
def test_lower_may_be_better(higher: bool) -> None:
    metric = {"multi_metrics": {"topk": 1, "higher_is_better": [higher]}}
    scores = iter([0.5, 0.9, 0.2])
    model = classifier(1)
    conf = {**kd_conf(), "evaluation": {"accuracy": metric}}
    distiller = Distillation(conf, student_model=model, teacher_model=classifier(2))
    distiller.eval_func = lambda one: next(scores)
    with distiller:
        for _ in range(3):
            distiller.on_epoch_end()
    assert distiller.best_score == (0.9 if higher else 0.2)


def test_evaluation_piles_up_no_features_and_the_best_model_has_no_hooks() -> None:
    model, judge = student(), teacher()
    distiller = Distillation(features(), student_model=model, teacher_model=judge)
    held: list[int] = []

    def evaluate(one: Any) -> float:
        for _ in range(5):
            one(np.ones([4, 6], "float32"), training=False)
        pairs = next(one for one in distiller._run.objective.criteria if hasattr(one, "_pairs"))  # type: ignore[union-attr]
        taps = pairs._pairs.bound.student
        held.append(sum(len(slot.calls) for slot in taps.slots.values()))
        return 1.0

    distiller.eval_func = evaluate
    with distiller:
        Loop(model, distiller=distiller).run(2)
        distiller.on_epoch_end()
        best = distiller.best_model
        assert shims(model) and shims(best) == []
        assert best is not model and same_weights(best.get_layer("head"), model.get_layer("head"))
    assert held == [0]
    assert shims(model) == [] and shims(judge) == []
