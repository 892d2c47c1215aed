"""Every contract test runs once for each backend."""

from __future__ import annotations

import pytest

from tests.contract.adaptation_backends import ADAPTATION_BACKENDS, AdaptationBackend
from tests.contract.backends import BACKENDS, ContractBackend
from tests.contract.frameworks import FRAMEWORKS, Framework


@pytest.fixture(params=sorted(BACKENDS))
def backend(request: pytest.FixtureRequest) -> ContractBackend:
    return BACKENDS[request.param]


@pytest.fixture(params=sorted(FRAMEWORKS))
def framework(request: pytest.FixtureRequest) -> Framework:
    return FRAMEWORKS[request.param]


@pytest.fixture(params=sorted(ADAPTATION_BACKENDS))
def adaptation(request: pytest.FixtureRequest) -> AdaptationBackend:
    return ADAPTATION_BACKENDS[request.param]
