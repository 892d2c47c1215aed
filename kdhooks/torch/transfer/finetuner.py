"""`BasicFinetunner`: weight transfer in one call, for programs without a configuration."""

from __future__ import annotations

from typing import Any

from torch import nn

from kdhooks.torch.transfer.freezing import Freezer
from kdhooks.torch.transfer.transfer import transfer_weights
from kdhooks.transfer import Finetuner, TransferReport


class BasicFinetunner(Finetuner):
    """Puts the weights of a pretrained model into others, and freezes them if wanted.

    Args:
        pretrained_model: a model, a state_dict, or the path of a file of weights.
        is_frozen: whether tensors that are transferred as they are stay as they are: parameters get no gradient, and
            BatchNorm keeps its statistics, until `release`.
        options: of ``finetune``, as the YAML has them; ``freeze`` names further tensors.

    Attributes:
        report: of the last transfer, or None.

    Raises:
        ConfigError: a wrong option.

    Example:
        >>> pretrained = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 100))
        >>> student = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> finetunner = BasicFinetunner(pretrained, is_frozen=True)
        >>> student = finetunner.finetune_network(student)
        >>> [name for name, one in student.named_parameters() if one.requires_grad]
        ['2.weight', '2.bias']
    """

    def _transfer(self, model: nn.Module) -> TransferReport:
        return transfer_weights(model, self.pretrained_model, self.settings)

    def _freezer(self, model: nn.Module) -> Freezer:
        return Freezer(model, self.settings.freeze_batch_norm)

    def __deepcopy__(self, memo: Any) -> BasicFinetunner:
        """A copy has the same pretrained model, which nothing changes, and has frozen nothing yet."""
        twin = type(self).__new__(type(self))
        vars(twin).update(self.__getstate__())
        return twin

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_freezers": []}
