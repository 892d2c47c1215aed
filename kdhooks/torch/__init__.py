"""The PyTorch backend: criteria and losses for loops that use them directly."""

from kdhooks.torch.criteria import KnowledgeDistillationLoss
from kdhooks.torch.domains import DomainAdaptationLoss
from kdhooks.torch.intermediate import IntermediateLayersKnowledgeDistillationLoss
from kdhooks.torch.large_vocabulary import LargeVocabularyDistillationLoss
from kdhooks.torch.self_distillation import SelfKnowledgeDistillationLoss
from kdhooks.torch.store_outputs import store_outputs
from kdhooks.torch.stored_outputs import StoredOutputs

__all__ = [
    "DomainAdaptationLoss",
    "IntermediateLayersKnowledgeDistillationLoss",
    "KnowledgeDistillationLoss",
    "LargeVocabularyDistillationLoss",
    "SelfKnowledgeDistillationLoss",
    "StoredOutputs",
    "store_outputs",
]
