"""What a configuration of a search is refused for."""

from __future__ import annotations

import pytest

from kdhooks.config import DistillationConf
from kdhooks.errors import ConfigError


def refused(source):
    with pytest.raises(ConfigError) as caught:
        DistillationConf(source)
    return [str(problem) for problem in caught.value.problems]


def told(text, tmp_path):
    """The first and the last line of each problem of a file: what is wrong where, and what to do."""
    path = tmp_path / "auto.yaml"
    path.write_text(text)
    problems = [problem.replace(str(path), "auto.yaml").splitlines() for problem in refused(path)]
    for lines in problems:
        assert len(lines) <= 4, lines  # place and message, the line, a caret, one suggestion at most
    return [(lines[0], lines[-1].strip()) for lines in problems]
