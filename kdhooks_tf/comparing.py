"""What a backend does for the record of a run; see `kdhooks.backend.Backend`."""

from __future__ import annotations

from typing import Any


class Comparing:
    """The part of the backend that looks at models for people."""

    def device_of(self, model: Any) -> str:
        """The devices of the weights."""
        found = dict.fromkeys(_short(variable) for variable in model.variables)
        return ", ".join(filter(None, found)) or "cpu"

    def looks(self, distiller: Any) -> Any:
        """The distiller's models and evaluation data, for the page of its run."""
        from kdhooks_tf.looks import TensorFlowLooks

        return TensorFlowLooks(distiller)


def _short(variable: Any) -> str:
    """``cpu:0`` of ``/job:localhost/replica:0/task:0/device:CPU:0``."""
    name = str(getattr(variable.value, "device", "") or "")
    return name.rpartition("device:")[2].lower()
