"""`Distillation.check` and layer similarity on Keras models: what is seen, and that nothing is changed."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import torch

from kdhooks import Distillation
from kdhooks.errors import UsageError
from kdhooks.torch.similarity import linear_cka as torch_cka
from kdhooks_tf.observation import observe
from kdhooks_tf.similarity import layer_similarity, linear_cka
from tests.tf.fit_runs import FEATURES, batches, distillation, settings, student_model, teacher_model, weights


def seen(tmp_path: Any, **train: Any) -> Any:
    distiller = distillation(settings(tmp_path, **train), batches())
    return distiller, observe(distiller, None, 3)


def test_what_is_seen_of_models_data_and_terms(tmp_path: Any) -> None:
    distiller, found = seen(tmp_path)
    student, (teacher,) = found.student, found.teachers
    assert (student.kind, student.parameters, student.trainable, student.norms) == ("Sequential", 212, 212, 1)
    assert (student.shape, student.classes, student.training, student.mode_matters) == ((8, 4), 4, True, True)
    assert (teacher.training, teacher.mode_matters, teacher.untrained_norms) == (False, False, ())
    assert student.untrained_norms == (distiller.student_model.layers[1].name,)
    data = found.data
    assert (data.batches, data.rows, data.steps, data.repeats, len(data.labels)) == (3, 24, 6, True, 24)
    assert (data.inputs[0].shape, data.inputs[0].dtype) == ((8, FEATURES), "float32")
    x, _ = batches()[0]
    assert student.predictions[:8].tolist() == distiller.student_model(x).numpy().argmax(1).tolist()
    assert [term.name for term in found.terms] == ["CE", "KL"]
    assert all(term.value > 0 and term.gradient > 0 and not term.error for term in found.terms)


def test_terms_are_those_of_the_first_step(tmp_path: Any) -> None:
    student = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(4)])
    distiller = Distillation(settings(tmp_path, end_epoch=1), student_model=student, teacher_model=teacher_model())
    distiller.train_dataloader = batches()[:1]
    found = observe(distiller, None, 1)
    distiller.fit()
    record = distiller.history[0]["losses"]
    assert {term.name: term.value for term in found.terms} == pytest.approx({key: record[key] for key in ("CE", "KL")})


def test_looking_changes_nothing(tmp_path: Any) -> None:
    distiller = distillation(settings(tmp_path), batches())
    before = [*weights(distiller.student_model), *weights(distiller.teacher_model)]
    drawn = np.random.get_state()[1].tolist()
    report = distiller.check(batches=2)
    after = [*weights(distiller.student_model), *weights(distiller.teacher_model)]
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
    assert np.random.get_state()[1].tolist() == drawn
    assert {"student", "teacher"} <= {row["model"] for row in report.facts["models"]}
    assert all("call" not in vars(layer) for layer in distiller.student_model.layers)


def test_a_shared_layer_and_a_broken_model_are_told(tmp_path: Any) -> None:
    shared = keras.layers.Dense(4, name="shared")
    student = keras.Sequential([keras.Input((FEATURES,)), shared])
    teacher = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(FEATURES), shared])
    distiller = Distillation(settings(tmp_path), student_model=student, teacher_model=teacher)
    distiller.train_dataloader = batches()
    assert observe(distiller, None, 1).teachers[0].shared == ("shared",)
    distiller.teacher_model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    error = observe(distiller, None, 1).teachers[0].error
    assert error.startswith("ValueError: ")


def test_hidden_layers_are_looked_at(tmp_path: Any) -> None:
    student = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(5, name="inner"), keras.layers.Dense(4)])
    teacher = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(7, name="outer"), keras.layers.Dense(4)])
    pairs = {"layer_mappings": [["inner", "outer"]], "loss_types": ["MSE"], "loss_weights": [1.0]}
    conf = settings(tmp_path)
    conf["distillation"]["train"]["criterion"] = {"IntermediateLayersKnowledgeDistillationLoss": pairs}
    distiller = Distillation(conf, student_model=student, teacher_model=teacher)
    distiller.train_dataloader = batches()
    (_, term) = observe(distiller, None, 2).terms
    assert (term.name, term.error, term.gradient) == ("MSE[inner]", "", None)
    assert term.value > 0


def test_batches_are_needed_and_iterators_refused(tmp_path: Any) -> None:
    distiller = distillation(settings(tmp_path))
    with pytest.raises(UsageError) as caught:
        distiller.check()
    assert str(caught.value) == (
        "check() needs batches: pass a dataloader, set train_dataloader, or describe one in the YAML"
    )
    with pytest.raises(UsageError) as caught:
        distiller.check(iter(batches()))
    assert str(caught.value) == (
        "check() would use up this iterator's batches: pass a dataloader that can be iterated again"
    )


def test_cka_is_that_of_torch() -> None:
    draws = np.random.default_rng(0)
    one, other = draws.normal(size=(12, 3, 4)), draws.normal(size=(12, 7))
    other[:, :3] += one[:, :, 0]
    assert linear_cka(one, other) == pytest.approx(torch_cka(torch.tensor(one), torch.tensor(other)), abs=1e-12)
    assert linear_cka(one, np.ones((12, 2))) == 0
    with pytest.raises(UsageError) as caught:
        linear_cka(one[:3], other[:3])
    assert str(caught.value) == "a feature [N, ...] of at least 4 samples is needed, not [3, 3, 4]"


def test_every_layer_is_compared_with_every_layer() -> None:
    student = student_model()
    found = layer_similarity(student, student, [x for x, _ in batches()[:2]])
    assert [layer.name for layer in found.student] == [
        layer.name for layer in student.layers if "drop" not in layer.name
    ]
    np.testing.assert_allclose(np.diag(found.values), 1, atol=1e-9)
    assert (found.batches, found.rows, found.fits.all()) == (2, 16, True)
    assert all("call" not in vars(layer) for layer in student.layers)
