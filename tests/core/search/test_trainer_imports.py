"""The trainer wakes no framework before it is asked for something."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
from kdhooks.search import Trainer, TrainerMixin
trainer = Trainer("somewhere", train_dataset=[{"labels": 0}])
trainer.autodistillation_config = {"search": {"search_space": {"hidden_size": [8, 16]}}}
assert trainer.search_result is None and trainer.best_model_arch is None
print([name for name in ("torch", "tensorflow", "transformers", "optuna") if name in sys.modules])
"""


def test_making_a_trainer_imports_no_framework() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")
