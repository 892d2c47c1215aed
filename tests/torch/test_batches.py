"""Which part of a batch is the model's input, the target, and ours."""

from __future__ import annotations

from collections import UserDict

import pytest
import torch

from kdhooks.errors import DataError
from kdhooks.loop.batches import Batch, split_batch

X, Y, Z, M = (torch.full((2,), float(n)) for n in range(4))


@pytest.mark.parametrize(
    ("batch", "how", "expected"),
    [
        ((X, Y), {}, Batch(X, Y)),
        ([X, Y], {}, Batch(X, Y)),
        (((X, Z), Y), {}, Batch((X, Z), Y)),
        (([X, Z], Y), {}, Batch((X, Z), Y)),
        (({"a": X, "b": Z}, Y), {}, Batch({"a": X, "b": Z}, Y)),
        (({"a": X, "b": Z}, Y), {"inputs": ("b",)}, Batch({"b": Z}, Y)),
        ({"x": X, "labels": Y}, {}, Batch({"x": X}, Y)),
        ({"x": X, "target": Y}, {}, Batch({"x": X}, Y)),
        (UserDict({"x": X, "labels": Y}), {}, Batch({"x": X}, Y)),
        ({"x": X, "attention_mask": M, "labels": Y}, {}, Batch({"x": X, "attention_mask": M}, Y)),
        ({"x": X, "mask": M, "labels": Y}, {}, Batch({"x": X}, Y, mask=M)),
        ({"x": X, "mask": M, "labels": Y}, {"inputs": ("x", "mask")}, Batch({"x": X, "mask": M}, Y)),
        ({"x": X, "idx": Z, "labels": Y}, {"inputs": ("x",)}, Batch({"x": X}, Y)),
        ({"x": X, "labels": Y, "target": Z}, {"inputs": ("x", "labels")}, Batch({"x": X, "labels": Y}, Z)),
        ({"x": X, "target": Y, "sample_ids": Z, "teacher_output": M}, {},
         Batch({"x": X}, Y, sample_ids=Z, teacher_output=M)),
        ((X, Z, Y), {"input_columns": (0, 1)}, Batch((X, Z), Y)),
        ((X, Z, Y), {"input_columns": (1, 0)}, Batch((Z, X), Y)),
        ((X, Z, Y), {"input_columns": (0,)}, Batch(X, Y)),
        ((Y, X), {"input_columns": (-1,)}, Batch(X, Y)),
        ((X, Y, Z, M), {"input_columns": ("x", "target", "sample_ids", "mask")},
         Batch({"x": X}, Y, mask=M, sample_ids=Z)),
        ((X, Z, Y), {"input_columns": ("input_ids", "attention_mask", "labels")},
         Batch({"input_ids": X, "attention_mask": Z}, Y)),
    ],
)  # fmt: skip
def test_the_forms_of_a_batch(batch, how, expected):
    found = split_batch(batch, **how)
    assert type(found.input) is type(expected.input)
    if isinstance(found.input, dict):
        assert list(found.input) == list(expected.input)
    for name in ("target", "mask", "sample_ids", "teacher_output"):
        assert getattr(found, name) is getattr(expected, name)
    values = [x if isinstance(x, torch.Tensor) else [*(x.values() if isinstance(x, dict) else x)]
              for x in (found.input, expected.input)]  # fmt: skip
    assert all(a is b for a, b in zip(*[v if isinstance(v, list) else [v] for v in values], strict=True))


@pytest.mark.parametrize(
    ("batch", "how", "text"),
    [
        (X, {}, "a batch must be (inputs, target) or a mapping, and this one is a tensor of shape [2]"),
        ((X,), {}, "a batch must be (inputs, target), and this one has 1 column: it has no target"),
        ((X, Y, Z), {},
         "a batch must be (inputs, target), and this one has 3 columns: say with input_columns which of them are what"),
        ({"x": X, "label": Y}, {},
         "the batch has no target: it must have the field 'labels' or 'target', and it is a mapping with the keys "
         "'x', 'label'"),
        ({"x": X, "labels": Y, "target": Z}, {},
         "the batch has both 'labels' and 'target', and one target is meant: it is a mapping with the keys 'x', "
         "'labels', 'target'"),
        ({"labels": Y}, {}, "the batch has no input for the model: it is a mapping with the keys 'labels'"),
        ({"x": X, "labels": Y}, {"inputs": ("X1",)},
         "model.inputs names the field 'X1', which the batch has not. Did you mean 'x'?"),
        ({"x": X, "labels": Y}, {"input_columns": (0,)},
         "input_columns describes the columns of a tuple, and the batch is a mapping with the keys 'x', 'labels'. "
         "Choose fields with model.inputs"),
        ((X, Y), {"input_columns": ("x", "z", "target")},
         "input_columns names 3 columns (x, z, target), and the batch has 2"),
        ((X, Y), {"input_columns": ("x", "y")},
         "the batch has no target: it must have the field 'labels' or 'target', and it is a mapping with the keys "
         "'x', 'y'"),
        ((X, Y), {"input_columns": ("target", "target")}, "input_columns names a column twice: target, target"),
        (
            (X, Y),
            {"input_columns": (0, 2)},
            "input_columns has the column 2, and the batch has 2 columns, counted from 0",
        ),
        ((X, Y, Z), {"input_columns": (0, -3)}, "input_columns has a column twice: 0, -3"),
        ((X, Y), {"input_columns": (0, 1)},
         "input_columns gives all 2 columns of the batch to the model, so none is the target"),
    ],
)  # fmt: skip
def test_batches_of_another_form_are_refused(batch, how, text):
    with pytest.raises(DataError) as caught:
        split_batch(batch, **how)
    assert str(caught.value) == text
