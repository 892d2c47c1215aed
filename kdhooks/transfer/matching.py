"""The plan of a transfer: which tensor goes where, how it is made to fit, and what is reported of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from kdhooks.config.finetune_settings import FinetuneSettings, Mismatch
from kdhooks.errors import TransferError
from kdhooks.names import did_you_mean, pattern_of
from kdhooks.transfer.partners import Found, Shapes, partners
from kdhooks.transfer.report import Entry, TransferReport
from kdhooks.transfer.resizing import Layout, Resize, Unfit, by_classes, decide


@dataclass(frozen=True)
class Move:
    """One tensor on its way.

    Attributes:
        target: the student's name.
        source: the name in the source.
        resize: None where the shapes agree and the values are copied.
    """

    target: str
    source: str
    resize: Resize | None = None


@dataclass(frozen=True)
class Plan:
    """What is to be done, and the report that will be true once it is."""

    moves: tuple[Move, ...]
    report: TransferReport


def plan(
    target: Shapes,
    source: Shapes,
    settings: FinetuneSettings,
    layout: Layout,
    *,
    tied: Mapping[str, str] | None = None,
    fixed: Collection[str] = (),
    names: tuple[str, str] = ("the source", "the student"),
) -> Plan:
    """What a transfer will do; nothing is touched.

    Args:
        target: the shapes of the student's tensors, by name.
        source: those of the source.
        settings: of ``finetune``.
        layout: of the framework's weights.
        tied: the student's names -> another name of the same tensor, where it has two.
        fixed: the student's tensors of whole numbers, which can't be resized.
        names: what the source is, and the student's class, for the report and for errors.

    Raises:
        TransferError: nothing fits; a pattern means nothing; two tensors are renamed to one; a shape differs where
            that is an error.
    """
    check_patterns(settings.exclude, target, "exclude", names[1])
    check_patterns(settings.class_map, target, "class_map", names[1])
    found = partners(target, source, settings)
    entries, moves, faults = [], [], []
    for name, shape in target.items():
        try:
            move, entry = _planned(name, found, target, source, settings, None if name in fixed else layout)
        except _Refused as fault:
            faults.append(f"{name!r} is of shape {fault} there and {list(shape)} here")
            continue
        entries.append(entry)
        moves += [move] if move is not None else []
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        advice = "Write on_mismatch: skip, or slice, repeat or interpolate by pattern."
        raise TransferError(
            f"{names[0]} does not fit {names[1]}: {'; '.join(faults[:3])}{more}", advice, key="on_mismatch"
        )
    entries = _with_tied(entries, tied or {})
    entries += _unused(source, moves, entries, found)
    report = TransferReport(*names, tuple(entries), tuple(found.notes))
    if not moves:
        raise _nothing(target, source, report)
    return Plan(tuple(moves), report)


class _Refused(Exception):
    """A tensor of this shape, where another shape is an error."""


def _planned(
    name: str, found: Found, target: Shapes, source: Shapes, settings: FinetuneSettings, layout: Layout | None
) -> tuple[Move | None, Entry]:
    shape, partner = target[name], found.partners.get(name)
    if partner is None:
        return None, Entry("initial", name, shape=shape)
    theirs = source[partner.source]
    told = (name, partner.source, shape, theirs)
    if any(pattern_of(pattern).fullmatch(name) for pattern in settings.exclude):
        return None, Entry("skipped", *told, "excluded")
    how = partner.how or ("renamed" if partner.source != name else "")
    try:
        resize = _resize(name, theirs, shape, settings, layout)
    except Unfit as reason:
        return None, Entry("skipped", *told, str(reason))
    words = ", ".join(part for part in (how, "" if resize is None else resize.words) if part)
    return Move(name, partner.source, resize), Entry("transferred" if resize is None else "resized", *told, words)


def _resize(
    name: str, theirs: tuple[int, ...], shape: tuple[int, ...], settings: FinetuneSettings, layout: Layout | None
) -> Resize | None:
    if layout is None:
        if theirs != shape:
            raise Unfit("another shape, and whole numbers are not resized")
        return None
    for pattern, classes in settings.class_map.items():
        if pattern_of(pattern).fullmatch(name):
            return by_classes(classes, theirs, shape, layout)
    if theirs == shape:
        return None
    action, named = action_for(name, settings.on_mismatch)
    if action == "error":
        raise _Refused(list(theirs))
    if action == "skip":
        raise Unfit("another shape")
    return decide(action, name, theirs, shape, layout, named=named)


def action_for(name: str, on_mismatch: Mismatch | Mapping[str, Mismatch]) -> tuple[Mismatch, bool]:
    """What happens to a tensor of another shape, and whether a pattern names it."""
    if isinstance(on_mismatch, str):
        return on_mismatch, False
    for pattern, action in on_mismatch.items():
        if pattern_of(pattern).fullmatch(name):
            return action, pattern != "*"
    return "skip", False


def _with_tied(entries: list[Entry], tied: Mapping[str, str]) -> list[Entry]:
    """A second name of a tensor that the source has under the first only."""
    by_name = {entry.name: entry for entry in entries}
    result = []
    for entry in entries:
        other = by_name.get(tied.get(entry.name, ""))
        if entry.status == "initial" and other is not None and other.status in ("transferred", "resized"):
            why = f"it is the same tensor as {other.name!r}"
            entry = Entry("transferred", entry.name, other.source, entry.shape, other.source_shape, why)
        result.append(entry)
    return result


def _unused(source: Shapes, moves: Iterable[Move], entries: Iterable[Entry], found: Found) -> list[Entry]:
    used = {move.source for move in moves} | {entry.source for entry in entries}
    return [
        Entry("unused", name, source_shape=shape, why="left out by rename" if name in found.dropped else "")
        for name, shape in source.items()
        if name not in used
    ]


def _nothing(target: Shapes, source: Shapes, report: TransferReport) -> TransferError:
    skipped = report.of("skipped")
    if skipped:
        first = skipped[0]
        why = f"{len(skipped)} names agree, and each tensor is left out, as {first.name!r}: {first.why}"
        why += f", {list(first.source_shape or ())} there and {list(first.shape or ())} here"
        advice = "Write on_mismatch: slice, repeat or interpolate, or name other weights."
    else:
        why = f"the source has {_some(source)}, and the student {_some(target)}"
        advice = "Write rename rules, or by_order: true."
    notes = "".join(f"; {note}" for note in report.notes)
    return TransferError(f"nothing of {report.source} fits {report.model}: {why}{notes}", advice)


def _some(shapes: Shapes) -> str:
    names = [repr(name) for name in list(shapes)[:3]]
    return ", ".join(names) + (f" and {len(shapes) - 3} more" if len(shapes) > 3 else "") if names else "no tensors"


def check_patterns(patterns: Iterable[str], names: Iterable[str], key: str, model: str) -> None:
    """TransferError for a pattern that means none of the names."""
    known = list(names)
    for pattern in patterns:
        fits = pattern_of(pattern).fullmatch
        if not any(map(fits, known)):
            layers = {name[:at] for name in known for at, sign in enumerate(name) if sign in "./"} | set(known)
            advice = did_you_mean(pattern, layers) if len(layers) <= 4000 else ""
            if not advice.startswith("Did"):
                advice = "All layers: kdhooks layers MODEL"
            raise TransferError(f"{key}: {model} has nothing that {pattern!r} fits", advice, key=key)
