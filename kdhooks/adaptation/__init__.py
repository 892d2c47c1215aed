"""Domain adaptation, as far as no framework matters: adapters by name, their options, shapes and schedules.

`kdhooks.torch.adaptation` and `kdhooks_tf.adaptation` hold the formulas; the configuration checks what a user writes
against `ADAPTER_RULES` before any framework is loaded.
"""

from __future__ import annotations

from kdhooks.adaptation.options import Option
from kdhooks.adaptation.reversal import WarmStart
from kdhooks.adaptation.rules import ADAPTER_RULES, FIVE_KERNELS, AdapterRules
from kdhooks.adaptation.shapes import a_distance

__all__ = ["ADAPTER_RULES", "FIVE_KERNELS", "AdapterRules", "Option", "WarmStart", "a_distance"]
