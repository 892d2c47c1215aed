"""Bytes in a process' memory and on the wire, by formula: plain numbers, no framework.

Rules: memory is of one rank at the peak of a step, traffic is what one rank sends in one optimizer step with ring
algorithms (an all-reduce of b bytes among n sends 2 b (n-1)/n, an all-gather or reduce-scatter b (n-1)/n). What can't
be known from sizes (fragments, workspaces, the framework itself) is not in it. A test compares the same formulas with
what two processes allocate and exchange.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from kdhooks.errors import UsageError
from kdhooks.names import did_you_mean
from kdhooks.scaling.models import Model

Strategy = Literal["ddp", "fsdp"]
Teaching = Literal["replicated", "sharded", "stored"]


class Bytes(NamedTuple):
    """Bytes of one parameter: kept, of its gradient, computed with, exchanged as a gradient, and of a gathered copy."""

    weight: int
    gradient: int
    compute: int
    exchanged: int


PRECISIONS: Mapping[str, Bytes] = {
    "fp32": Bytes(4, 4, 4, 4),
    "mixed": Bytes(4, 4, 2, 4),  # weights in fp32, computed in bf16: autocast, or FSDP's mixed precision
    "bf16": Bytes(2, 2, 2, 2),
}
"""By name, what ``precision`` of `estimate` means."""

OPTIMIZERS: Mapping[str, float] = {"sgd": 0, "momentum": 1, "lion": 1, "adam": 2, "adamw": 2, "adamw-8bit": 0.5}
"""Numbers that an optimizer keeps of each parameter, in the parameter's own precision; of 8 bits two, with fp32."""


@dataclass(frozen=True)
class Estimate:
    """What one rank holds and sends.

    Attributes:
        memory: bytes at the peak of a step, by what they are.
        traffic: bytes that are sent in an optimizer step, by what they are.
        read: bytes of stored teacher outputs that are read in a step.
        flops: floating-point operations in a step; a multiply-add counts as two.
    """

    memory: Mapping[str, int]
    traffic: Mapping[str, int]
    read: int
    flops: int

    @property
    def memory_bytes(self) -> int:
        """The sum of `memory`."""
        return sum(self.memory.values())

    @property
    def kept_bytes(self) -> int:
        """What stays between two steps: weights, gradients, their buckets, the optimizer's state, the teacher."""
        return sum(self.memory.get(name, 0) for name in KEPT)

    @property
    def traffic_bytes(self) -> int:
        """The sum of `traffic`."""
        return sum(self.traffic.values())

    def fits(self, device_bytes: float, *, share: float = 0.9) -> bool:
        """Whether it fits into a device of which a share may be filled; the rest is for what no formula knows."""
        return self.memory_bytes <= share * device_bytes


KEPT = ("weights", "gradients", "gradient buckets", "optimizer", "teacher weights")


def estimate(
    student: Model,
    teacher: Model | None = None,
    *,
    ranks: int = 1,
    strategy: Strategy = "ddp",
    shard_ranks: int | None = None,
    teaching: Teaching = "replicated",
    precision: str = "mixed",
    teacher_precision: Literal["fp32", "bf16"] = "bf16",
    optimizer: str = "adamw",
    tokens: int = 4096,
    accumulation: int = 1,
    checkpointing: bool = False,
    chunked: bool = False,
    top_k: int | None = None,
    bucket_views: bool = False,
) -> Estimate:
    """Memory and traffic of one rank that distils.

    Args:
        student: what is trained.
        teacher: what it learns from, or None for a student alone.
        ranks: processes, each with a device of its own.
        strategy: ``ddp``, each rank with all of the student, or ``fsdp``, each with a part of it.
        shard_ranks: among how many ranks FSDP shares a model out, for hybrid sharding; None is all of them.
        teaching: ``replicated``, each rank with all of the teacher; ``sharded``, each with a part, gathered block by
            block; ``stored``, its outputs on disk and no teacher there.
        precision: of the student, a key of `PRECISIONS`.
        teacher_precision: of the teacher's weights and forward.
        optimizer: a key of `OPTIMIZERS`.
        tokens: of one forward of one rank (rows, where a row has one output).
        accumulation: forwards and backwards of an optimizer step. Under FSDP each gathers and exchanges anew.
        checkpointing: whether each block's forward is computed again in the backward.
        chunked: whether the loss is computed in chunks of the vocabulary's logits, so that none stand whole.
        top_k: how many logits of a token are stored; None is all of them.
        bucket_views: whether DDP's gradients lie in its buckets (``gradient_as_bucket_view=True``).

    Raises:
        UsageError: an option out of its range.
    """
    shards = ranks if shard_ranks is None else shard_ranks
    _check_names(
        precision=(precision, PRECISIONS),
        optimizer=(optimizer, OPTIMIZERS),
        strategy=(strategy, ("ddp", "fsdp")),
        teaching=(teaching, ("replicated", "sharded", "stored")),
        teacher_precision=(teacher_precision, ("fp32", "bf16")),
    )
    _check_counts(
        ranks=ranks, shard_ranks=shards, tokens=tokens, accumulation=accumulation, top_k=1 if top_k is None else top_k
    )
    if ranks % shards:
        raise UsageError(f"{ranks} ranks can't be groups of {shards} that share a model out")
    size = PRECISIONS[precision]
    parts = shards if strategy == "fsdp" else 1
    taught = None if teaching == "stored" else teacher
    memory = _kept(student, size, parts, ranks if strategy == "ddp" and not bucket_views else 1, optimizer)
    traffic = _exchanged(student, size, strategy, shards, ranks, accumulation)
    spread = shards if teaching == "sharded" else 1
    teacher_size = PRECISIONS[teacher_precision].compute
    if taught is not None:
        memory["teacher weights"] = taught.parameters * teacher_size // spread
        if spread > 1:
            sent = _gather(taught.parameters * teacher_size, spread)
            traffic["teacher's all-gather"] = accumulation * sent
    step = _Step(student, size, parts, tokens, checkpointing, chunked)
    memory |= step.throughout()
    stages = {"loss": step.loss(teacher is not None), "backward": step.backward()}
    if taught is not None:
        stages["teacher's forward"] = step.teaching(taught, teacher_size, spread)
    most = max(stages, key=lambda name: stages[name])
    memory[most] = stages[most]
    read = 0
    if teacher is not None and taught is None:
        per_token = student.vocabulary * 2 if top_k is None else top_k * (2 + 4)  # float16, and the logits' numbers
        read = tokens * accumulation * per_token
    flops = 2 * student.parameters * (4 if checkpointing else 3) + (0 if taught is None else 2 * taught.parameters)
    return Estimate(_there(memory), _there(traffic), read, flops * tokens * accumulation)


def _check_names(**given: tuple[str, Iterable[str]]) -> None:
    for name, (value, known) in given.items():
        choices = list(known)
        if value not in choices:
            raise UsageError(f"{name}: unknown value {value!r}. {did_you_mean(str(value), choices, what='Values')}")


def _check_counts(**given: int) -> None:
    for name, number in given.items():
        if not isinstance(number, int) or number < 1:
            raise UsageError(f"{name} is a whole number from 1 on, and not {number!r}")


def _there(sizes: Mapping[str, int]) -> dict[str, int]:
    return {name: value for name, value in sizes.items() if value}


def _kept(model: Model, size: Bytes, parts: int, buckets: int, optimizer: str) -> dict[str, int]:
    """What stays between two steps of a student's own."""
    state = OPTIMIZERS[optimizer] * size.weight
    return {
        "weights": model.parameters * size.weight // parts,
        "gradients": model.parameters * size.gradient // parts,
        "gradient buckets": model.parameters * size.gradient if buckets > 1 else 0,
        "optimizer": int(model.parameters * state) // parts,
    }


@dataclass(frozen=True)
class _Step:
    """What comes and goes in a step of one rank: what lies there throughout, and three moments, one the peak."""

    student: Model
    size: Bytes
    parts: int
    tokens: int
    checkpointing: bool
    chunked: bool

    def throughout(self) -> dict[str, int]:
        """From the student's forward to its backward."""
        model, size = self.student, self.size
        between = self.tokens * model.width * size.compute
        return {
            "activations": (between if self.checkpointing else self._block()) * model.layers,
            "gathered root": model.root * size.compute if self.parts > 1 else 0,
            # autocast keeps the weights that it has cast
            "cast weights": model.parameters * size.compute if self.parts == 1 and size.compute < size.weight else 0,
        }

    def loss(self, distils: bool) -> int:
        """As the loss goes back: logits, log-probabilities in fp32, their gradient and that of the logits.

        With a teacher also its logits and probabilities, and both of the student's at a temperature.
        """
        if self.chunked:
            return 0
        alone = self._own_logits() + 2 * 4 * self.tokens * self.student.vocabulary
        return alone + (self._own_logits() + 2 * 4 * self.tokens * self.student.vocabulary if distils else 0)

    def backward(self) -> int:
        """In the last block: what is computed again, and under FSDP two blocks with their whole gradients."""
        again = self._block() if self.checkpointing else 0
        if self.parts == 1:
            return again
        return again + 2 * self.student.block * (self.size.compute + self.size.exchanged)

    def teaching(self, teacher: Model, size: int, parts: int) -> int:
        """While a teacher runs: the student's logits, a block's numbers, and what is gathered of the teacher."""
        own = 0 if self.chunked else self._own_logits() + self.tokens * teacher.vocabulary * size
        gathered = (teacher.root + 2 * teacher.block) * size if parts > 1 else 0
        return own + self.tokens * teacher.saved * size // 2 + gathered

    def _block(self) -> int:
        return self.tokens * self.student.saved * self.size.compute

    def _own_logits(self) -> int:
        """The student's logits, and their log-probabilities in fp32."""
        return self.tokens * self.student.vocabulary * (self.size.compute + 4)


def _exchanged(
    model: Model, size: Bytes, strategy: Strategy, shards: int, ranks: int, accumulation: int
) -> dict[str, int]:
    """What a student's strategy sends in an optimizer step."""
    if strategy == "ddp":
        return {"gradients' all-reduce": _all_reduce(model.parameters * size.gradient, ranks)}
    blocks = model.block * model.layers
    twice = (2 * blocks + model.root) * size.compute  # the root stays whole from the forward to the backward
    groups = ranks // shards
    return {
        "weights' all-gather": accumulation * _gather(twice, shards),
        "gradients' reduce-scatter": accumulation * _gather(model.parameters * size.exchanged, shards),
        "gradients' all-reduce": accumulation * _all_reduce(model.parameters * size.exchanged // shards, groups),
    }


def _all_reduce(size: int, ranks: int) -> int:
    return 2 * size * (ranks - 1) // ranks


def _gather(size: int, ranks: int) -> int:
    return size * (ranks - 1) // ranks
