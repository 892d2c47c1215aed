"""Blocks of a student: trained alone, and handed on from one student to another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kdhooks.backend import BlockState
from kdhooks.config import DistillationConf
from kdhooks.stored.functions import model_digest
from kdhooks.torch.fingerprints import attributes_of, classes_of, float_array, options_of, weights_of
from kdhooks.torch.wrappers import find_layer, inside, named_layers


class Blocks:
    """What a backend does for the stages of a distillation; see `kdhooks.backend.Backend`."""

    def found_layer(self, model: nn.Module, name: str, role: str, other: tuple[str, Any] | None = None) -> str:
        """The own name of a layer; LayerError where there is none."""
        return find_layer(model, name, role, other)[0]

    def only_trained(self, model: nn.Module, names: Sequence[str]) -> AbstractContextManager[int]:
        """Within the block nothing is trained but what is under these layers; gives the number of trained weights.

        Raises:
            LayerError: the model has no such layer.
            UsageError: the model is inside of DistributedDataParallel already.
        """
        return _only_trained(model, names)

    def block(self, model: nn.Module, name: str) -> BlockState:
        """A block of a model by its name; LayerError where there is none."""
        return _Block(*find_layer(model, name, "student"))

    def fingerprint(self, model: nn.Module) -> str:
        """32 hexadecimal digits of a model's weights, classes and options."""
        return model_digest((*classes_of(model), *options_of(model)), weights_of(model))

    def training_loader(self, conf: DistillationConf) -> Any:
        """The loader of ``distillation.train.dataloader``, for several runs of one process."""
        from kdhooks.torch.train_setup import training_loader

        return training_loader(conf)

    @contextmanager
    def seeded_data(self, loader: Any, seed: int) -> Iterator[None]:
        """Within the block the generators that a loader has of its own begin with a seed."""
        from kdhooks.torch.training_data import own_generators

        before = [(generator, generator.get_state()) for _, generator in own_generators(loader)]
        for generator, _ in before:
            generator.manual_seed(seed)
        try:
            yield
        finally:
            for generator, state in before:
                generator.set_state(state)


@contextmanager
def _only_trained(model: nn.Module, names: Sequence[str]) -> Iterator[int]:
    from kdhooks.torch.transfer.freezing import Freezer  # loaded by those who train a block alone

    modes = [(module, module.training) for module in model.modules()]
    freezer = Freezer(model)
    try:
        if names and "" not in names:
            blocks = [find_layer(model, name, "student")[1] for name in names]
            trained = {id(one) for block in blocks for one in (*block.parameters(), *block.buffers())}
            freezer.freeze([name for name, one in freezer.tensors() if id(one) not in trained])
        yield sum(one.numel() for one in model.parameters() if one.requires_grad)
    finally:
        for one in model.parameters():
            one.grad = None  # of the last step, which nobody asks for any more
        freezer.release()
        for module, mode in modes:
            module.training = mode


class _Block(BlockState):
    def __init__(self, name: str, module: nn.Module) -> None:
        self.name, self._module = name, inside(module)

    @property
    def structure(self) -> str:
        """Classes, plain attributes, and the names, shapes and dtypes of all weights, as text."""
        parts = [repr(self._module), *classes_of(self._module)]
        for name, layer in named_layers(self._module).items():
            parts.append(f"{name}: {'; '.join(attributes_of(inside(layer)))}")
        parts += [f"{name} {list(one.shape)} {one.dtype}" for name, one in self._tensors().items()]
        return "\n".join(parts)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Copies of all weights on the host; those of dtypes that NumPy has not as float32."""
        return {name: np.array(float_array(one.detach())) for name, one in self._tensors().items()}

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write weights into the block."""
        with torch.no_grad():
            for name, one in self._tensors().items():
                one.copy_(torch.from_numpy(np.array(arrays[name])))

    def _tensors(self) -> dict[str, Tensor]:
        return {name: one for name, one in self._module.state_dict().items() if isinstance(one, Tensor)}
