"""The figures of `benchmarks.tensorflow_step` as tables; imports no TensorFlow."""

from __future__ import annotations

from typing import Any

TITLES = {
    "logits": "logits",
    "pair": "logits and a pair of features",
    "pair_with_matcher": "logits and a pair with a matcher",
    "small": "two-layer MLPs, logits",
}


def markdown(figures: dict[str, Any]) -> str:
    """The ratios as a table, a row for each."""
    lines = ["| case | side | ms | against | ms | ratio | quartiles | processors | extra µs |", "| --- " * 9 + "|"]
    for name, case in figures["cases"].items():
        for one in case["ratios"]:
            mine, theirs = (case["seconds"][one[side]]["wall"] * 1e3 for side in ("of", "to"))
            low, high = one["quartiles"]
            lines.append(
                f"| {TITLES[name]} | {one['of']} | {mine:.2f} | {one['to']} | {theirs:.2f} | {one['ratio']:.3f} "
                f"| {low:.3f} to {high:.3f} | {one['processor_ratio']:.3f} | {one['extra_us']:.0f} |"
            )
    return "\n".join(lines)
