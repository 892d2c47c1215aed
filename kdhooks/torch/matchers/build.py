"""Matchers by name, made of the parts that `kdhooks.pairs.matching` finds for two shapes.

What a user registers is called with both shapes and returns a module of the student's feature.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from kdhooks.errors import MatcherError
from kdhooks.pairs import matching
from kdhooks.pairs.matching import CHANNELS_FIRST, MATCHERS, Shape, check_rows, plan_matcher
from kdhooks.registry import REGISTERED_MATCHERS
from kdhooks.torch.matchers import modules as parts
from kdhooks.torch.matchers.modules import Matcher, Part, Projection

__all__ = ["MATCHERS", "MatcherError", "UserMatcher", "build_matcher"]


def build_matcher(
    name: str,
    student: Shape,
    teacher: Shape,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Matcher:
    """A matcher for features of two shapes.

    Args:
        name: in `MATCHERS`, or registered.
        student: the shape of the student's feature, [N, ...].
        teacher: that of the teacher's.
        seed: of the parameters; the same seed gives the same ones on every device and rank.
        dtype: of the parameters.
        device: of the parameters; they are drawn on the CPU.

    Raises:
        MatcherError: it fits no such shapes.

    >>> matcher = build_matcher("auto", [2, 8, 4, 4], [2, 17, 6])
    >>> [list(side.shape) for side in matcher(torch.zeros(2, 8, 4, 4), torch.zeros(2, 17, 6))]
    [[2, 16, 6], [2, 16, 6]]
    """
    if name not in MATCHERS and name in REGISTERED_MATCHERS:
        check_rows(student, teacher)
        return _registered(name, student, teacher, seed).to(device)
    plan = plan_matcher(name, student, teacher, CHANNELS_FIRST)
    generator = torch.Generator().manual_seed(seed)

    def made(part: matching.Part) -> Part:
        if part.name == "project":
            return Projection(part.sizes, part.axis, generator, dtype)
        if part.name == "drop_tokens":
            return parts.without_first_tokens(part.count)
        return _PARTS[part.name]

    return Matcher(list(map(made, plan.student)), list(map(made, plan.teacher))).to(device)


_PARTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "resize": parts.resized,
    "pool_tokens": parts.pooled_tokens,
    "mean_of_space": parts.mean_of_space,
    "mean_of_tokens": parts.mean_of_tokens,
    "as_tokens": parts.as_tokens,
    "as_grid": parts.as_grid,
    "on_grid": parts.on_grid_of,
    "flatten": parts.flattened,
    "shape_as": parts.shaped_like,
}


class UserMatcher(Matcher):
    """A registered module of the student's feature."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """What the module makes of the student's feature, and the teacher's as it is."""
        return self.module(student), teacher

    @property
    def is_identity(self) -> bool:
        """Never; the module is called."""
        return False


def _registered(name: str, student: Shape, teacher: Shape, seed: int) -> Matcher:
    with torch.random.fork_rng(devices=[]):  # a module draws from torch's own generator, which is the user's
        torch.default_generator.manual_seed(seed)
        module = REGISTERED_MATCHERS[name](list(student), list(teacher))
    if not isinstance(module, nn.Module):
        raise MatcherError(f"the registered matcher {name!r} must return an nn.Module, not {type(module).__name__}")
    return UserMatcher(module)
