"""A teacher's first forward: what is said and proven about its way before the first step goes on.

Forwards that are made only to look draw no numbers from the user's generators.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from kdhooks.messages import is_rank_zero, logger
from kdhooks.speed import Choice
from kdhooks.torch.taps import Key
from kdhooks.torch.teacher_difference import Seen, agree, difference, seen
from kdhooks.torch.teacher_speed import Way
from kdhooks.torch.teacher_taps import TeacherTaps


def first_forward(
    way: Way, taps: TeacherTaps | None, layers: frozenset[Key] | None, args: Any, kwargs: Any, keys: Sequence[str] = ()
) -> Any:
    """The first forward of a way, whose output is the step's.

    In low precision the copies of the weights are proven against plain autocast, and dropped where a model computes
    something else with them; so is an extension's way, and so are folded normalisations. The difference to full
    precision is reported, on rank 0.

    Args:
        way: how the teacher runs from now on.
        taps: what captures its layers.
        layers: those that are looked at where the output is not wanted.
        args: of the model.
        kwargs: of the model.
        keys: what the model calls its logits.
    """
    if not way.lowers and not way.proves and not way.folds:
        return way.run(taps, layers, args, kwargs)

    def look(choice: Choice) -> Seen:
        with generators_kept():
            return seen(Way(way.subject, choice, copies=False).run(taps, layers, args, kwargs), taps)

    looks = is_rank_zero() or way.subject.sharded  # all parts of a sharded model have to run
    reports = looks and (way.lowers or way.proves)
    full = look(Choice("fp32")) if reports else None
    plainly = replace(way.choice, channels_last=False, compile=False, ipex=False, folded=False)
    plain = look(plainly) if way.copies is not None or way.proves else None
    output = _proven(way, plain, taps, layers, args, kwargs)
    if full is not None and (said := difference(seen(output, taps), full, keys)):
        kind = type(way.subject.model).__name__
        logger.info("the teacher %s in %s, on the first batch against fp32: %s", kind, way.choice, said)
    return output


def _proven(
    way: Way, plain: Seen | None, taps: TeacherTaps | None, layers: frozenset[Key] | None, args: Any, kwargs: Any
) -> Any:
    """The output with copies of the weights, where it is that of plain autocast; otherwise that, without them."""
    if plain is None:
        return way.run(taps, layers, args, kwargs)
    exact = not (way.choice.channels_last or way.choice.compile or way.proves or way.folds) and all(
        one.device.type == "cpu" for one in plain.tensors()
    )
    try:
        output = way.run(taps, layers, args, kwargs)
        if agree(seen(output, taps), plain, bitwise=exact, dtypes=not way.proves):
            return output
        reason = "it gives other values with it" if way.proves else "it gives other values with them"
    except Exception as error:  # such as a model that asks a weight for its dtype
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    kind = type(way.subject.model).__name__
    if way.folds and way.copies is not None:
        logger.info("the teacher %s runs without folded normalisation: %s", kind, reason)
        way.unfold()
        return _proven(way, plain, taps, layers, args, kwargs)
    if way.proves:
        way.give_up(reason)
    else:
        way.copies = None
        logger.info("the teacher %s runs without copies of its weights in %s: %s", kind, way.choice.precision, reason)
    return way.run(taps, layers, args, kwargs)


@contextmanager
def generators_kept() -> Iterator[None]:
    """Within the block the generators of Python, NumPy and torch may be drawn from; afterwards they are as before."""
    from kdhooks.torch.backend import BACKEND  # which imports the teacher

    state = BACKEND.rng_state()
    try:
        yield
    finally:
        BACKEND.set_rng_state(state)
