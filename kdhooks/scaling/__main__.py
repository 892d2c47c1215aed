"""The table of estimates at the command line: python -m kdhooks.scaling."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from kdhooks.errors import KDHooksError
from kdhooks.scaling.estimates import OPTIMIZERS, PRECISIONS
from kdhooks.scaling.models import LLAMA_1B, LLAMA_8B, Model
from kdhooks.scaling.table import GB, table, ways

MODEL = "PARAMETERS,LAYERS,WIDTH,VOCABULARY[,FEED_FORWARD]"


def model(text: str) -> Model:
    """A model from its sizes, as the command line has them; with a fifth number its feed-forward part is gated."""
    try:
        numbers = [int(float(part)) for part in text.split(",")]
        parameters, layers, width, vocabulary, *rest = numbers
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not {MODEL}, as in 1.2e9,16,2048,128256,8192") from None
    if len(rest) > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not {MODEL}, as in 1.2e9,16,2048,128256,8192")
    tied = 2 * vocabulary * width > parameters // 3  # a small model with two tables of that size has one
    try:
        return Model(
            parameters,
            layers,
            width,
            vocabulary,
            feed_forward=rest[0] if rest else None,
            gated=bool(rest),
            outside=vocabulary * width if tied else None,
        )
    except KDHooksError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m kdhooks.scaling",
        description="Memory and traffic of distillation on many devices, by formula. A model is " + MODEL + ".",
    )
    parser.add_argument("--student", type=model, default=LLAMA_1B, metavar="SIZES", help="Llama 3.2 1B unless given")
    parser.add_argument("--teacher", type=model, default=LLAMA_8B, metavar="SIZES", help="Llama 3.1 8B unless given")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 8, 64, 1024], metavar="N")
    parser.add_argument("--device-gb", type=float, default=80.0, metavar="GB", help="memory of one device (80)")
    parser.add_argument("--precision", choices=list(PRECISIONS), default="mixed")
    parser.add_argument("--optimizer", choices=list(OPTIMIZERS), default="adamw")
    parser.add_argument("--tokens", type=int, default=8192, metavar="N", help="of one forward of a rank (8192)")
    parser.add_argument("--top-k", type=int, default=64, metavar="K", help="stored logits a token (64)")
    parser.add_argument("--shard-ranks", type=int, metavar="N", help="ranks that share a model out (all)")
    parser.add_argument("--no-checkpointing", action="store_true", help="keep all activations")
    parser.add_argument("--chunked", action="store_true", help="the loss in chunks, without whole logits")
    given = parser.parse_args(argv)
    options = {"precision": given.precision, "optimizer": given.optimizer, "tokens": given.tokens}
    options |= {"top_k": given.top_k, "checkpointing": not given.no_checkpointing, "chunked": given.chunked}
    try:
        sharing = {} if given.shard_ranks is None else {"shard_ranks": given.shard_ranks}
        found = list(ways(given.student, given.teacher, given.ranks, **options, **sharing))
    except KDHooksError as error:
        print(f"python -m kdhooks.scaling: {error}", file=sys.stderr)
        return 2
    print(table(found, given.device_gb * GB))
    return 0


if __name__ == "__main__":
    sys.exit(main())
