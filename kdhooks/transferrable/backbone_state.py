"""A module whose state is that of the backbone inside of it, under the backbone's own names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

_PREFIX = "backbone."


class BackboneState(nn.Module):
    """Saves and loads what the backbone would, alone or as a part of another module.

    Attributes:
        backbone: the model inside.
    """

    backbone: nn.Module

    def state_dict(self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """The backbone's own, under its own names: it loads into the backbone where nobody has kdhooks.

        What the hooks hold (discriminators, counters) is in ``hooks.state_dict()``.
        """
        if args:  # as torch's own, which takes them by position too
            given: list[Any] = [*args, *[destination, prefix, keep_vars][len(args) :]]
            destination, prefix, keep_vars = given
        return self.backbone.state_dict(destination=destination, prefix=prefix, keep_vars=keep_vars)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load a state of the backbone, or one whose names begin with ``backbone.``."""
        bare = self._bare_names(state_dict, "")
        same = list(bare) == list(state_dict)  # then with torch's own notes beside it
        return self.backbone.load_state_dict(state_dict if same else bare, strict=strict, assign=assign)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """As a part of another module: the names in a state are the backbone's, those of modules are ours."""
        bare = self._bare_names(state_dict, prefix)
        for name in [name for name in state_dict if name.startswith(prefix)]:
            del state_dict[name]
        state_dict.update({f"{prefix}{_PREFIX}{name[len(prefix) :]}": value for name, value in bare.items()})
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _bare_names(self, state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        ours = {name: value for name, value in state.items() if name.startswith(prefix)}
        longer = prefix + _PREFIX
        if ours and all(name.startswith(longer) for name in ours) and not hasattr(self.backbone, "backbone"):
            return {prefix + name[len(longer) :]: value for name, value in ours.items()}
        return ours
