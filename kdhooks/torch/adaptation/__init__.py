"""Domain adaptation: adapters by name in the table `ADAPTERS`, and the plain formulas as functions.

An adapter is called ``adapter(source, target, coefficient=…)`` with what two batches gave (`DomainBatch`) and
returns a scalar; what it owns it makes at the first call. Formulas are called with features or logits alone:
``mk_mmd(source, target)``, ``coral(source, target)``, ``bsp(source, target)``, ``afn(features)``,
``mcc(target_logits, temperature=…)``, ``entropy(target_logits)``.
"""

from __future__ import annotations

from kdhooks.adaptation import WarmStart, a_distance
from kdhooks.torch.adaptation.adapter import ADAPTERS, Adapter, DomainBatch, adapter
from kdhooks.torch.adaptation.adversarial import ADDA, CDAN, DANN
from kdhooks.torch.adaptation.batch_norm import AdaBN, adapt_batch_norm
from kdhooks.torch.adaptation.cac import CACDomainAdversarialLoss
from kdhooks.torch.adaptation.discrepancies import JAN, MKMMD, DeepCORAL, coral, mk_mmd
from kdhooks.torch.adaptation.discriminator import Discriminator, domain_accuracy, domain_loss
from kdhooks.torch.adaptation.heads import MCD, MDD
from kdhooks.torch.adaptation.norms import AFN, BSP, afn, bsp
from kdhooks.torch.adaptation.predictions import MCC, EntropyMinimisation, entropy, mcc
from kdhooks.torch.adaptation.reversal import reverse_gradient

__all__ = [
    "ADAPTERS",
    "ADDA",
    "AFN",
    "BSP",
    "CDAN",
    "DANN",
    "JAN",
    "MCC",
    "MCD",
    "MDD",
    "MKMMD",
    "AdaBN",
    "Adapter",
    "CACDomainAdversarialLoss",
    "DeepCORAL",
    "Discriminator",
    "DomainBatch",
    "EntropyMinimisation",
    "WarmStart",
    "a_distance",
    "adapt_batch_norm",
    "adapter",
    "afn",
    "bsp",
    "coral",
    "domain_accuracy",
    "domain_loss",
    "entropy",
    "mcc",
    "mk_mmd",
    "reverse_gradient",
]
