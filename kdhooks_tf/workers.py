"""The workers of a `MultiWorkerMirroredStrategy`, outside of any step: who they are, and what the first one says.

Rules: the strategy is the one in whose scope the program runs; without such a scope a process is alone. Bytes are
exchanged, never pickled objects.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf


@contextmanager
def together() -> Iterator[tuple[int, int]]:
    """The place of this worker and how many there are; see `kdhooks.backend.Backend.together`."""
    resolver = _resolver()
    if resolver is None:
        yield 0, 1
        return
    cluster = resolver.cluster_spec()
    chiefs = cluster.num_tasks("chief") if "chief" in cluster.jobs else 0
    size = chiefs + (cluster.num_tasks("worker") if "worker" in cluster.jobs else 0)
    yield int(resolver.task_id or 0) + (chiefs if resolver.task_type == "worker" else 0), size


def broadcast(value: Any) -> Any:
    """The first worker's plain data on all workers; see `kdhooks.backend.Backend.broadcast`."""
    with together() as (rank, size):
        if size == 1:
            return value
        text = np.frombuffer(json.dumps(value).encode() if rank == 0 else b"", np.uint8).astype(np.int32)
        length = int(_of_first(np.array([len(text)], np.int32))[0])
        content = _of_first(text if rank == 0 else np.zeros(length, np.int32))
        return json.loads(content.astype(np.uint8).tobytes())


def _of_first(numbers: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The numbers that the first worker has; others give an array of the same shape."""
    strategy = tf.distribute.get_strategy()

    def exchanged() -> Any:
        def mine() -> Any:
            place = tf.distribute.get_replica_context().replica_id_in_sync_group
            given = tf.constant(numbers)
            return tf.where(tf.equal(place, 0), given, tf.zeros_like(given))

        return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(mine), axis=None)

    found: np.ndarray[Any, Any] = tf.function(exchanged, autograph=False)().numpy()
    return found


def _resolver() -> Any:
    """What knows the cluster of several workers, or None."""
    strategy = tf.distribute.get_strategy()
    is_one = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    resolver = strategy.cluster_resolver if is_one else None
    return resolver if resolver is not None and resolver.cluster_spec().jobs else None
