"""Which inputs a model is measured on in PyTorch, other models than plain ones, and mistakes."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from kdhooks.config import DistillationConf
from kdhooks.config.model import DataloaderSettings, Named
from kdhooks.errors import DataError, ModelError, UsageError
from kdhooks.search import measure
from kdhooks.search.measured import inputs_for
from kdhooks.torch.backend import BACKEND
from tests.torch.small_models import TokenClassifier


def value(model: nn.Module, inputs: Any, metric: str, **options: Any) -> float:
    return measure(model, inputs, [metric], **options)[metric].value


class Takes(nn.Module):
    """Notes what it is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        self.seen.append((args, kwargs))
        return torch.zeros(1)


@pytest.mark.parametrize(
    ("inputs", "args", "kwargs"),
    [
        (torch.zeros(4, 2), [(3, 2)], {}),
        (np.zeros((4, 2), np.float32), [(3, 2)], {}),
        ([torch.zeros(1, 2), torch.zeros(1, 5)], [(3, 2), (3, 5)], {}),
        ((torch.tensor(0.5), torch.zeros(7, 2)), [(), (3, 2)], {}),
        ({"x": torch.zeros(2, 2), "table": torch.zeros(1, 9)}, [], {"x": (3, 2), "table": (1, 9)}),
    ],
)
def test_a_batch_reaches_the_model_in_the_form_that_it_takes(inputs: Any, args: Any, kwargs: Any) -> None:
    model = Takes()
    measure(model, inputs, ["latency"], batch_size=3, repeats=1)
    given, named = model.seen[0]
    assert [tuple(one.shape) for one in given] == args
    assert {name: tuple(one.shape) for name, one in named.items()} == kwargs
    assert all(isinstance(one, Tensor) for one in (*given, *named.values()))


def test_macs_are_those_of_one_row() -> None:
    model = Takes()
    measure(model, torch.zeros(4, 2), ["macs"], batch_size=3)
    assert [len(args[0]) for args, _ in model.seen] == [3, 1]


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        ((torch.ones(4, 2), torch.zeros(4)), "tensor"),
        (torch.ones(4, 2), "tensor"),
        ([torch.ones(4, 2)], "tensor"),
        ({"x": torch.ones(4, 2), "labels": torch.zeros(4)}, "mapping"),
        ({"x": torch.ones(4, 2)}, "mapping"),
        (((torch.ones(4, 2), torch.ones(4, 2)), torch.zeros(4)), "pair"),
    ],
)
def test_the_first_batch_of_a_loader_is_taken_as_fit_takes_it(batch: Any, expected: str) -> None:
    found = inputs_for(BACKEND, DistillationConf(), None, None, [batch])
    first = {"tensor": lambda: found, "mapping": lambda: found["x"], "pair": lambda: found[1]}[expected]()
    assert first.shape == (4, 2)


def test_columns_and_fields_are_those_of_the_configuration() -> None:
    conf = DistillationConf({"model": {"inputs": ["ids"]}})
    batch = {"ids": torch.ones(2, 3), "other": torch.ones(2), "labels": torch.zeros(2)}
    assert list(inputs_for(BACKEND, conf, None, [batch])) == ["ids"]
    described = DataloaderSettings(batch_size=4, dataset=Named("dummy", {"size": 10}), input_columns=(0,))
    assert len(inputs_for(BACKEND, DistillationConf(), None, described)) == 4


def test_what_the_user_sets_goes_first_and_nothing_is_nothing() -> None:
    mine = torch.ones(1)
    assert inputs_for(BACKEND, DistillationConf(), mine, [torch.zeros(1)]) is mine
    assert inputs_for(BACKEND, DistillationConf()) is None
    assert inputs_for(BACKEND, DistillationConf(), None, []) is None


def test_a_loader_stands_afterwards_where_it_stood() -> None:
    loader = DataLoader(TensorDataset(torch.arange(8.0)[:, None]), batch_size=2, shuffle=True)
    before = torch.get_rng_state()
    inputs_for(BACKEND, DistillationConf(), None, loader)
    assert torch.equal(torch.get_rng_state(), before)


def test_batches_that_fit_would_not_take_either() -> None:
    with pytest.raises(DataError, match="this one has 3 columns"):
        inputs_for(BACKEND, DistillationConf(), None, [tuple(torch.ones(3, 2))])
    with pytest.raises(UsageError) as caught:
        inputs_for(BACKEND, DistillationConf(), None, iter([torch.ones(2)]))
    assert str(caught.value) == ("a batch of this iterator would be lost: pass a dataloader that can be iterated again")


# ---- other models, and mistakes ------------------------------------------------------------------------


def test_of_a_wrapped_model_the_one_inside_is_measured() -> None:
    model = TokenClassifier()
    ids = torch.zeros(1, 4, dtype=torch.long)
    plain = measure(model, ids, ["parameters", "macs", "file_size"])
    for wrapped in (nn.DataParallel(model), torch.compile(model, backend="eager")):
        assert measure(wrapped, ids, ["parameters", "macs", "file_size"]) == plain


def test_parameters_without_a_shape_need_a_forward() -> None:
    with pytest.raises(ModelError) as caught:
        value(nn.LazyLinear(3), None, "parameters")
    assert str(caught.value) == (
        "LazyLinear has parameters without a shape yet: call it on a batch first, or set example_inputs"
    )
    assert value(nn.LazyLinear(3), torch.zeros(1, 4), "parameters") == 15


def test_macs_of_a_model_that_needs_more_than_one_row() -> None:
    class Pairs(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[0] + x[1]

    assert value(Pairs(), torch.zeros(2, 3), "latency", batch_size=2) > 0
    with pytest.raises(ModelError, match=r"^Pairs can't be measured: it failed on inputs \[1, 3\]: IndexError: "):
        value(Pairs(), torch.zeros(2, 3), "macs", batch_size=2)


def test_a_named_tuple_stays_one() -> None:
    pair = namedtuple("pair", ["a", "b"])
    model = Takes()
    measure(model, {"pair": pair(torch.zeros(1, 2), None)}, ["latency"], batch_size=2, repeats=1)
    seen = model.seen[0][1]["pair"]
    assert type(seen) is pair and seen.a.shape == (2, 2)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"metrics": ["latency"]}, "latency can't be measured without inputs. Set example_inputs: "),
        ({"metrics": ["speed"]}, "'speed' is no metric that can be measured on a model. "),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, not 0"),
        ({"repeats": True}, "repeats must be a whole number of at least 1, not True"),
        ({"warm_up": -1}, "warm_up must be a whole number of at least 0, not -1"),
        ({"threads": 1.5}, "threads must be a whole number of at least 1, not 1.5"),
    ],
)
def test_mistakes_are_named(options: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError) as caught:
        measure(nn.Linear(1, 1), **options)
    assert str(caught.value).startswith(text)


def test_no_model() -> None:
    with pytest.raises(ModelError, match="is neither a torch\\.nn\\.Module nor"):
        measure(lambda x: x, torch.zeros(1))
