"""AutoDistillation: search for the student, distil it quickly, pick the best.

Rules: nothing here imports a framework, and Optuna is imported only where a study is opened. A candidate is
trained through `Distillation`, never by a loop of its own.
"""
