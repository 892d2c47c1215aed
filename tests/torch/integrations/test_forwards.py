"""A forward of the student, seen from outside, as the input that the hooks take."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdhooks.errors import UsageError
from kdhooks.integrations.forwards import Ends, Forward, input_of


class Several(nn.Module):
    """Takes its inputs in every way that Python has."""

    def forward(self, x: Tensor, *more: Tensor, scale: float = 1.0, **rest: Any) -> Tensor:
        return sum([x, *more]) * scale  # type: ignore[return-value]


X, Y = torch.ones(2, 3), torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("args", "kwargs", "expected"),
    [
        ((X,), {}, X),
        ((X, Y), {}, (X, Y)),
        (([X, Y],), {}, ([X, Y],)),  # one argument that is a collection, not two arguments
        (({"x": X},), {}, ({"x": X},)),
        ((), {"x": X}, {"x": X}),
        ((X,), {"scale": 2.0}, {"x": X, "scale": 2.0}),
        ((X,), {"scale": 2.0, "other": 1}, {"x": X, "scale": 2.0, "other": 1}),
    ],
)
def test_arguments_of_a_call_as_one_input(args: tuple[Any, ...], kwargs: dict[str, Any], expected: Any) -> None:
    found = input_of(Several(), args, kwargs)
    assert type(found) is type(expected)
    assert found is expected if isinstance(expected, Tensor) else found == expected


def test_arguments_without_a_name_beside_named_ones() -> None:
    with pytest.raises(UsageError) as caught:
        input_of(Several(), (X, Y), {"scale": 2.0})
    assert str(caught.value) == (
        "the student Several is called with *more and with named arguments, which can't be handed on to the teacher "
        "together: name them all"
    )


def test_only_forwards_that_a_backward_follows_are_seen() -> None:
    class Repeated(torch.autograd.Function):
        """Runs a module again in its backward, as checkpointing does."""

        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            with torch.enable_grad():
                model(X)
            return gradients[0]

    model, found = nn.Linear(3, 1), list[Forward]()
    model.register_forward_hook(Ends(found.append), with_kwargs=True)
    with torch.no_grad():
        model(X)
    assert not found
    output = model(X)
    Repeated.apply(output).sum().backward()
    assert [one.input for one in found] == [X] and found[0].output is output
