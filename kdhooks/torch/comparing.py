"""What a backend does for the record of a run; see `kdhooks.backend.Backend`."""

from __future__ import annotations

from typing import Any

from torch import nn


class Comparing:
    """The part of the backend that looks at models for people."""

    def device_of(self, model: nn.Module) -> str:
        """The devices of the weights; with the name of a GPU."""
        import torch

        found = dict.fromkeys(tensor.device for tensor in (*model.parameters(), *model.buffers()))
        names = [
            f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
            for device in found
        ]
        return ", ".join(names) or "cpu"

    def looks(self, distiller: Any) -> Any:
        """The distiller's models and evaluation data, for the page of its run."""
        from kdhooks.torch.looks import TorchLooks

        return TorchLooks(distiller, self)
