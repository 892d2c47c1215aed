"""What tools for Optuna see of a study: they know nothing of kdhooks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kdhooks.config import DistillationConf
from kdhooks.config.search_settings import Choices, Range, SearchSettings, When
from kdhooks.search.candidates import Candidate
from kdhooks.search.proposals.space import Space
from kdhooks.search.studies.study import Study

SPACE = (
    Choices("width", (8, 16, 32)),
    Choices("block", ("conv", "mlp")),
    Choices("kernel", (3, 5), when=(When("block", ("conv",)),)),
    Range("rate", 1e-4, 1e-1, log=True, integer=False),
)
LOOK = """
import sys, warnings
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

url = sys.argv[1]
storage = JournalStorage(JournalFileBackend(url[8:])) if url.startswith("journal:") else url
study = optuna.load_study(study_name="seen", storage=storage)
assert [one.name for one in study.directions] == ["MAXIMIZE", "MINIMIZE"]
complete = study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
failed = study.get_trials(states=[optuna.trial.TrialState.FAIL])
assert (len(complete), len(failed)) == (14, 2)
for trial in complete:
    width, block = trial.params["width"], trial.params["block"]
    assert width in (8, 16, 32) and block in ("conv", "mlp")
    assert ("kernel" in trial.params) == (block == "conv")
    assert trial.values[1] == width / 1000
    assert trial.user_attrs["candidate"]["state"] == "complete"
assert all(trial.user_attrs["candidate"]["reason"] for trial in failed)
assert len(study.best_trials) >= 1
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    shares = optuna.importance.get_param_importances(study, target=lambda trial: trial.values[1])
    assert next(iter(shares)) == "width"
    from optuna.visualization import matplotlib as plots

    plots.plot_pareto_front(study)
    plots.plot_optimization_history(study, target=lambda trial: trial.values[0])
    plots.plot_param_importances(study, target=lambda trial: trial.values[1])
    plots.plot_parallel_coordinate(study, target=lambda trial: trial.values[0])
    plots.plot_slice(study, target=lambda trial: trial.values[0])
assert not [name for name in sys.modules if name.startswith("kdhooks")]
"""


@pytest.mark.parametrize("kind", ["journal:", "sqlite:///"])
def test_optuna_alone_opens_the_study_and_draws_it(kind: str, tmp_path: Path) -> None:
    url = f"{kind}{tmp_path / 'study'}"
    settings = SearchSettings(
        search_space=SPACE,
        search_algorithm="Random",
        metrics=("accuracy", "latency"),
        higher_is_better=(True, False),
        max_trials=16,
        storage=url,
        study_name="seen",
    )
    with Study(DistillationConf(), space=Space(SPACE), settings=settings) as study:
        while (proposal := study.propose()) is not None:
            number, arch = proposal.number, proposal.arch
            if number % 8 == 5:
                study.finish(proposal, Candidate(number, arch, "failed", reason="ValueError: no"))
                continue
            metrics = {"accuracy": 0.8 + 0.001 * number, "latency": arch["width"] / 1000}
            study.finish(proposal, Candidate(number, arch, "complete", metrics))
    done = subprocess.run(
        [sys.executable, "-c", LOOK, url],
        cwd=tmp_path,
        env={"MPLBACKEND": "Agg", "MPLCONFIGDIR": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
