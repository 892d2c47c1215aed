"""What distillation takes on many devices: memory and traffic by formula, before anything is rented.

Rules: plain numbers of Python, no framework. The page on scaling is made of these estimates.

Example:
    >>> from kdhooks.scaling import LLAMA_1B, LLAMA_8B, estimate
    >>> found = estimate(LLAMA_1B, LLAMA_8B, ranks=8, strategy="fsdp", teaching="sharded", checkpointing=True)
    >>> found.fits(80e9), round(found.kept_bytes / 1e9, 1)
    (True, 4.5)
"""

from kdhooks.scaling.estimates import OPTIMIZERS, PRECISIONS, Estimate, estimate
from kdhooks.scaling.models import LLAMA_1B, LLAMA_8B, Model

__all__ = ["LLAMA_1B", "LLAMA_8B", "OPTIMIZERS", "PRECISIONS", "Estimate", "Model", "estimate"]
