"""The options of losses that have a range or a choice, and the messages for what is outside of it."""

from __future__ import annotations

from kdhooks.errors import UsageError


def check_convention(loss: str, convention: str) -> bool:
    """Whether the paper's convention is asked for; UsageError for what is neither."""
    if convention not in ("paper", "common"):
        raise UsageError(f"the convention of {loss!r} is 'paper' or 'common', and not {convention!r}")
    return convention == "paper"


def check_label_share(a: float) -> None:
    """The probability that ``teacher_free`` gives to the label."""
    if not 0 < a < 1:
        raise UsageError(f"the probability a of 'teacher_free' lies between 0 and 1, and is {a}")


def check_margin(tau: float) -> None:
    """The margin of ``mft``."""
    if not 0 <= tau <= 1:
        raise UsageError(f"the margin tau of 'mft' lies from 0 to 1, and is {tau}")


def check_skew(alpha: float) -> None:
    """The skew of ``skewed_kl``."""
    if not 0 <= alpha <= 1:
        raise UsageError(f"the skew alpha of 'skewed_kl' lies from 0 to 1, and is {alpha}")


def check_kernel(kernel: str) -> None:
    """The kernel of ``nst``."""
    if kernel not in ("linear", "polynomial", "gaussian"):
        raise UsageError(f"the kernel of 'nst' is 'linear', 'polynomial' or 'gaussian', and not {kernel!r}")


def check_order(order: int | None) -> None:
    """The last power of the series of ``correlation_congruence``."""
    if order is not None and order < 1:
        raise UsageError(f"the order of 'correlation_congruence' is 1 or more, or None, and not {order}")


def check_masking(ratio: float, masked: str) -> None:
    """How much ``mgd`` masks, and what."""
    if not 0 <= ratio < 1:
        raise UsageError(f"the masked ratio of 'mgd' is at least 0 and below 1, and not {ratio}")
    if masked not in ("space", "channels"):
        raise UsageError(f"what 'mgd' masks is 'space' or 'channels', and not {masked!r}")


def check_memory(samples: int, negatives: int, temperature: float, momentum: float) -> None:
    """The memory of ``crd``."""
    if samples < 2 or negatives < 1 or temperature <= 0 or not 0 <= momentum < 1:
        raise UsageError(
            "'crd' needs samples of 2 or more, negatives of 1 or more, a temperature above 0 and a momentum from 0 "
            f"to below 1, and has samples={samples}, negatives={negatives}, temperature={temperature}, "
            f"momentum={momentum}"
        )
