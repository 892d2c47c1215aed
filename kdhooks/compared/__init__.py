"""What the page of a run compares: teacher and student, side by side, on the evaluation data.

Rules: no framework; a backend's `Looks` runs the models. All of it is bounded in rows, layers and seconds, is made
once, and leaves everything as it was. Whatever fails becomes a reason under ``missing``, and the run goes on.
"""

from kdhooks.compared.limits import LIMITS, Limits, evenly
from kdhooks.compared.looks import Looks, NoLook
from kdhooks.compared.rows import SeenRows
from kdhooks.compared.sections import look_after, look_before

__all__ = ["LIMITS", "Limits", "Looks", "NoLook", "SeenRows", "evenly", "look_after", "look_before"]
