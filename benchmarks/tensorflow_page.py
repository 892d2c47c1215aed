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


def section(figures: dict[str, Any]) -> str:
    """The page's section."""
    size = figures["size"]
    return f"""## TensorFlow

A whole training step, {figures["student"]} under {figures["teacher"]}, {size} × {size}, batch {figures["batch"]}, SGD
with momentum, fp32: cross-entropy and KL at T = 4 times T², alone, with the MSE of a pair of features (the end of stage
2), and with a pair whose 1x1 convolution is trained beside the student. All sides begin with the same weights, get the
same batches, and the loss of their first steps is compared before anything is measured. The loop by hand is one
`tf.function`; fits are Keras' own, whose rounds are taken in turn with those of the others. *Processors* is the ratio
of the time of all processors.

{markdown(figures)}

What is aimed for, against the loop by hand: at most 1.03 with logits and 1.05 with a pair; against
`keras.distillation.Distiller`, which runs the student twice, at most 0.75. The small models show what is constant a
step: Keras' own share of it is the difference of the fit with a `compute_loss` written by hand to the loop, ours that
of the fit with the callback to the former. The fit of the student alone has no teacher, so it computes less."""
