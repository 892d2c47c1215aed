"""Domain adaptation in TensorFlow: adapters by name in `ADAPTERS`, and the plain formulas as functions.

Everything works eagerly, in a `tf.function`, with ``jit_compile=True`` and with batches whose size is not known when a
graph is traced. Features have their channels, and logits their classes, last.
"""

from __future__ import annotations

from kdhooks_tf.adaptation.adapter import ADAPTERS, Adapter, DomainBatch
from kdhooks_tf.adaptation.adversarial import CDAN, DANN
from kdhooks_tf.adaptation.alignment import JAN, MKMMD, DeepCORAL, coral, mk_mmd
from kdhooks_tf.adaptation.norms import AFN, BSP, afn, bsp
from kdhooks_tf.adaptation.predictions import MCC, EntropyMinimisation, entropy, mcc
from kdhooks_tf.adaptation.reversal import reverse_gradient

__all__ = [
    "ADAPTERS",
    "AFN",
    "BSP",
    "CDAN",
    "DANN",
    "JAN",
    "MCC",
    "MKMMD",
    "Adapter",
    "DeepCORAL",
    "DomainBatch",
    "EntropyMinimisation",
    "afn",
    "bsp",
    "coral",
    "entropy",
    "mcc",
    "mk_mmd",
    "reverse_gradient",
]
