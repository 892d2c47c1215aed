"""The names of losses that a configuration may use; the formulas are the backends' own.

A backend that registers a loss under a new name says so here (`add_known_loss`), so that a
configuration can name it before a framework is loaded.
"""

from __future__ import annotations

from collections.abc import Iterable

from kdhooks.config.layer_taps import LayerPair
from kdhooks.names import Table, fold

STUDENT_LOSSES: Table[str] = Table("loss against the target")
"""What ``loss_types[0]`` may name: the student's own loss."""

TEACHER_LOSSES: Table[str] = Table("loss against the teacher")
"""What the further ``loss_types`` may name: the teacher's terms."""

for _name in ("CE", "MSE", "L1", "BCE"):
    STUDENT_LOSSES.add(_name, _name)
for _name in ("KL", "CE", "MSE", "JSD", "reverse_KL", "hard_label", "L1"):
    TEACHER_LOSSES.add(_name, _name, aliases=("kd",) if _name == "KL" else ())
for _name in ("dkd", "dist", "logit_standardization", "skewed_kl", "teacher_free", "mft"):
    TEACHER_LOSSES.add(_name, _name)


FEATURE_LOSSES: Table[str] = Table("loss between features")
"""What the ``loss_types`` of intermediate layers may name."""

FEATURE_MATCHERS: Table[str] = Table("feature matcher")
"""What ``feature_matchers`` may name."""

VALIDATORS: Table[str] = Table("validator")
"""What ``domain_adaptation.validator`` may name."""

LAYERS_A_SIDE: dict[str, tuple[int, int | None]] = {}
"""How many layers a loss compares on each side, at least and at most, by its folded name; a registered loss may take
any number."""

for _name in ("MSE", "L1", "L2", "KL", "CE", "cosine", "hint", "pkd"):
    FEATURE_LOSSES.add(_name, _name)
for _name in ("attention_transfer", "attention_kl", "value_relation"):
    FEATURE_LOSSES.add(_name, _name)
for _name in ("nst", "fsp", "ickd", "similarity_preserving", "rkd", "correlation_congruence", "pkt"):
    FEATURE_LOSSES.add(_name, _name)
for _name in ("vid", "crd", "review", "mgd"):
    FEATURE_LOSSES.add(_name, _name)
for _name, _aliases in (("entropy", ()), ("SND", ()), ("information_maximization", ("IM", "mutual_information"))):
    VALIDATORS.add(_name, _name, aliases=_aliases)
for _name in FEATURE_LOSSES:
    LAYERS_A_SIDE[fold(_name)] = (1, 1)
LAYERS_A_SIDE |= {"fsp": (2, 2), "review": (1, None)}
for _name in ("auto", "identity", "linear", "conv1x1", "mlp", "token_pool", "resize", "flatten"):
    FEATURE_MATCHERS.add(_name, _name)


def add_known_matcher(name: str, *, replace: bool = False) -> None:
    """Let configurations use the name of a registered feature matcher.

    Raises:
        UsageError: the name is taken and `replace` is False.
    """
    FEATURE_MATCHERS.add(name, name, replace=replace)


def add_known_loss(name: str, *, aliases: Iterable[str] = (), replace: bool = True) -> None:
    """Let configurations use the name of a registered loss, for a teacher or as the student's label.

    Raises:
        UsageError: a loss against the teacher has this name already and `replace` is False.
    """
    TEACHER_LOSSES.add(name, name, aliases=aliases, replace=replace)
    FEATURE_LOSSES.add(name, name, aliases=aliases, replace=replace)
    LAYERS_A_SIDE.pop(fold(name), None)
    if name not in STUDENT_LOSSES:
        STUDENT_LOSSES.add(name, name)


def layers_fault(loss: str, pair: LayerPair) -> tuple[str, str] | None:
    """What is wrong with the number of layers of a pair for its loss, and what to do about it; None where nothing is.

    >>> from kdhooks.config.layer_taps import LayerTap
    >>> layers_fault("fsp", LayerPair(LayerTap("a"), LayerTap("b")))[0]
    "the loss 'fsp' compares two layers a side, and the pair 'a' -> 'b' has 1 and 1"
    """
    least, most = LAYERS_A_SIDE.get(fold(loss), (1, None))
    mine, theirs = len(pair.students), len(pair.teachers)
    has = f"and the pair {pair} has {mine} and {theirs}"
    if most is not None and not (least <= mine <= most and least <= theirs <= most):
        if most > 1:
            advice = "Write both, as in {student_layers: [layer1, layer2], teacher_layers: [layer1, layer3]}"
            return f"the loss {loss!r} compares two layers a side, {has}", advice
        return (
            f"the loss {loss!r} compares one layer a side, {has}",
            "Write a pair for each layer, or use fsp or review.",
        )
    if mine != theirs and fold(loss) in LAYERS_A_SIDE:
        message = f"the loss {loss!r} compares as many layers of the student as of the teacher, {has}"
        return message, "Write one layer of the teacher for each of the student."
    return None
