"""The configuration: `loader` reads files, `schema` has the rules, `model` is what they become.

From the bottom: `scalars` (what a word of YAML means), `source` (data and where it stands), `reader`,
`loader`;
`refused`, `known`, `rules`, `sections`, `leaves`, `laws` (what the rules are made of); `finetune`, `adaptation`,
`search` (sections of their own, the last with `search_space`, `search_limits`, `search_stages`); `schema` (the tree);
`conf` (what a user holds).
"""

from __future__ import annotations

from kdhooks.config.conf import DistillationConf, load
from kdhooks.config.known import add_known_loss
from kdhooks.config.schema import Described, describe

__all__ = ["Described", "DistillationConf", "add_known_loss", "describe", "load"]
