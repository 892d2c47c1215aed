"""One way to ask for weight transfer, distillation and domain adaptation, by the names of e2eAIOK's Model Adaptor.

A model and its loss become a `TransferrableModel`, which is thin: the work is done by the hooks of
`kdhooks.Distillation`, and a loop that calls these itself gets the same.
"""

from kdhooks.torch.adaptation import CACDomainAdversarialLoss
from kdhooks.torch.transfer import BasicFinetunner
from kdhooks.transferrable.adapters import create_adapter
from kdhooks.transferrable.distillers import DKD, KD, BasicDistiller
from kdhooks.transferrable.making import (
    make_transferrable,
    make_transferrable_with_domain_adaption,
    make_transferrable_with_finetune,
    make_transferrable_with_knowledge_distillation,
    transferrable,
    transferrable_with_domain_adaption,
    transferrable_with_finetune,
    transferrable_with_knowledge_distillation,
)
from kdhooks.transferrable.model import TransferrableModel
from kdhooks.transferrable.strategy import ALL_STRATEGIES, TransferStrategy
from kdhooks.transferrable.tensors import TransferrableModelLoss, TransferrableModelOutput, TransferrableTensor

__all__ = [
    "ALL_STRATEGIES",
    "DKD",
    "KD",
    "BasicDistiller",
    "BasicFinetunner",
    "CACDomainAdversarialLoss",
    "TransferStrategy",
    "TransferrableModel",
    "TransferrableModelLoss",
    "TransferrableModelOutput",
    "TransferrableTensor",
    "create_adapter",
    "make_transferrable",
    "make_transferrable_with_domain_adaption",
    "make_transferrable_with_finetune",
    "make_transferrable_with_knowledge_distillation",
    "transferrable",
    "transferrable_with_domain_adaption",
    "transferrable_with_finetune",
    "transferrable_with_knowledge_distillation",
]
