"""What holds for these tests alone."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    # the extension's own layer_norm, which torch says of whenever it is differentiated; its gradients are tested here
    config.addinivalue_line("filterwarnings", "ignore:aten..layer_norm. an autograd kernel:UserWarning")
    # torch 2.8 with a numpy and a Python that are newer, and the extension's own imports
    config.addinivalue_line("filterwarnings", "ignore::DeprecationWarning:torch.*")
    config.addinivalue_line("filterwarnings", "ignore::DeprecationWarning:intel_extension_for_pytorch.*")
