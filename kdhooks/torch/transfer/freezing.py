"""Frozen layers: no gradient, and statistics that stand still even if the loop calls ``model.train()``.

Rules: what is found is put back. A parameter is frozen by `requires_grad`; a module with statistics of its own
(BatchNorm, spectral norm: floating-point buffers) is in evaluation mode for as long as its forward runs, so the mode
that the loop sees is the loop's own. Copies of the model carry no working hook.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from kdhooks.errors import UsageError
from kdhooks.torch.taps import ForwardHook
from kdhooks.torch.wrappers import inside, living


class Freezer:
    """What is frozen in a model.

    Args:
        model: seen through its wrappers.
        batch_norm: True adds every BatchNorm of the model, False leaves statistics alone; None holds still those in
            frozen layers.
    """

    def __init__(self, model: nn.Module, batch_norm: bool | None = None) -> None:
        self._root, self._batch_norm = inside(model), batch_norm
        self._frozen: dict[int, nn.Parameter] = {}
        self._still: dict[int, list[Any]] = {}

    def names(self) -> list[str]:
        """The names of all parameters and buffers."""
        return [name for name, _ in self.tensors()]

    def freeze(self, names: Collection[str]) -> list[nn.Parameter]:
        """Freeze the parameters and buffers of these names, and nothing else any more.

        Returns:
            The parameters that were set free.

        Raises:
            UsageError: the model is inside of DistributedDataParallel already, which waits for their gradients.
        """
        wanted = {*names, *(self._of_batch_norm() if self._batch_norm else ())}
        chosen = {id(one): one for name, one in self.tensors() if name in wanted and isinstance(one, nn.Parameter)}
        new = [one for one in chosen.values() if one.requires_grad]
        if new and _distributed() and any(inside(one) is self._root for one in living(DistributedDataParallel)):
            raise UsageError(
                "the student is inside of DistributedDataParallel already, which would wait for the gradients of "
                "frozen layers: call on_train_begin() before DistributedDataParallel(student)"
            )
        for parameter in new:
            parameter.requires_grad_(False)
            parameter.grad = None  # weight decay and momentum would go on with it
            self._frozen[id(parameter)] = parameter
        free = [one for key, one in self._frozen.items() if key not in chosen]
        self._let_go(free)
        self._hold_still(wanted if self._batch_norm is not False else set())
        return free

    def release(self) -> None:
        """Put everything back; a second call does nothing."""
        self._let_go(list(self._frozen.values()))
        self._hold_still(set())

    def _let_go(self, parameters: list[nn.Parameter]) -> None:
        for parameter in parameters:
            parameter.requires_grad_(True)
            del self._frozen[id(parameter)]

    def _hold_still(self, names: set[str]) -> None:
        """Hooks on the modules all of whose statistics are among the names, and on no other."""
        chosen = {id(module): module for module, statistics in self._with_statistics() if statistics <= names}
        for key in [key for key in self._still if key not in chosen]:
            for handle in self._still.pop(key):
                handle.remove()
        for key, module in chosen.items():
            if key not in self._still:
                still = _Still()
                before = module.register_forward_pre_hook(still, prepend=True)
                after = module.register_forward_hook(_Restore(still), always_call=True)
                self._still[key] = [before, after]

    def _with_statistics(self) -> Iterator[tuple[nn.Module, set[str]]]:
        for prefix, module in self._root.named_modules():
            floats = {name for name, one in module._buffers.items() if one is not None and one.is_floating_point()}
            if floats:
                yield module, {_clean(f"{prefix}.{name}" if prefix else name) for name in floats}

    def _of_batch_norm(self) -> Iterator[str]:
        for prefix, module in self._root.named_modules():
            if "running_mean" in module._buffers:
                for name in (*module._parameters, *module._buffers):
                    yield _clean(f"{prefix}.{name}" if prefix else name)

    def tensors(self) -> Iterator[tuple[str, Any]]:
        """All parameters and buffers by name; shared ones under each of their names."""
        for name, parameter in self._root.named_parameters(remove_duplicate=False):
            yield _clean(name), parameter
        for name, buffer in self._root.named_buffers(remove_duplicate=False):
            yield _clean(name), buffer


def _distributed() -> bool:
    """Whether there can be a model inside of DistributedDataParallel; looking for one takes a while."""
    return distributed.is_available() and distributed.is_initialized()


def stands_still(module: nn.Module) -> bool:
    """Whether a freezer holds the module's statistics still."""
    return any(isinstance(hook, _Still) for hook in module._forward_pre_hooks.values())


def _clean(name: str) -> str:
    return name.replace("_orig_mod.", "").replace("_checkpoint_wrapped_module.", "")


class _Still(ForwardHook):
    """Before the forward: evaluation mode."""

    def __init__(self) -> None:
        self.trained = False

    def __call__(self, module: nn.Module, args: Any) -> None:
        self.trained = module.training
        module.training = False


class _Restore(ForwardHook):
    """After it: the mode that was."""

    def __init__(self, still: _Still) -> None:
        self.still = still

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        module.training = self.still.trained
