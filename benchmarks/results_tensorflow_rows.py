"""The students of docs/results_tensorflow.md: the settings that are tried for each row, and what rows are called."""

from __future__ import annotations

from dataclasses import dataclass, replace

PICTURES, LABELLED, TAUGHT, BATCH, EPOCHS, TEACHER_EPOCHS = 20_000, 2_000, 50_000, 128, 5, 4
TRIAL_SEED = 100


@dataclass(frozen=True)
class Recipe:
    """What decides a student's training.

    Attributes:
        rate, decay: of AdamW, whose rate falls to 0 by a cosine.
        kind: the teacher's term, or an empty string for a student alone, which sees its labelled images only.
        temperature: of ``KL``.
        features: the weight of the pair of features, in addition.
    """

    rate: float
    decay: float
    kind: str = ""
    temperature: float = 1.0
    features: float = 0.0

    def text(self) -> str:
        """For the page."""
        parts = [f"rate {self.rate:g}, weight decay {self.decay:g}"]
        parts += [f"T = {self.temperature:g}"] if self.kind == "KL" else []
        parts += [f"features {self.features:g}"] if self.features else []
        return ", ".join(parts)


RATES = (1e-3, 3e-3, 1e-2)
TRIALS = {
    "alone": [Recipe(rate, decay) for rate in RATES for decay in (1e-3, 1e-1)],
    "logits": [Recipe(rate, 1e-3, "KL", temperature) for rate in RATES for temperature in (2.0, 4.0)],
    "hard": [Recipe(rate, 1e-3, "hard_label") for rate in RATES],
}
TITLES = {
    "alone": "alone",
    "logits": "distilled, logits",
    "features": "distilled, logits and one pair of features",
    "hard": "the teacher's hard labels instead",
}


def feature_trials(logits: Recipe) -> list[Recipe]:
    """The weights tried for the pair of features, with what was chosen for logits."""
    return [replace(logits, features=weight) for weight in (0.1, 1.0)]
