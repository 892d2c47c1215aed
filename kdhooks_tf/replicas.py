"""Replicas of a distribution strategy: where a step runs, and variables of ours with one copy on each.

Rules: under a strategy a loss is the replica's share of it, so that the shares add up to the loss of the global batch.
That is what Keras' losses are there, which divide a mean by the number of replicas, and what
`tf.nn.compute_average_loss` gives. Only the monitor of several workers waits for other replicas here.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import tensorflow as tf


def strategy_of(model: Any) -> Any:
    """The distribution strategy in whose scope a model was made, or the one that holds here."""
    return getattr(model, "distribute_strategy", None) or tf.distribute.get_strategy()


def counting_variable(value: Any, dtype: Any, strategy: Any = None) -> Any:
    """A variable outside of any graph, of which every replica writes its own copy.

    A `tf.function` makes no variables but in its first call, so this is for before a loop.
    """
    with tf.init_scope(), nullcontext() if strategy is None else strategy.scope():
        return tf.Variable(
            value,
            dtype=dtype,
            trainable=False,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )


def replicas() -> int:
    """How many replicas a step is shared among, those of other workers included; 1 without a strategy."""
    return int(tf.distribute.get_strategy().num_replicas_in_sync)


def on_a_replica() -> bool:
    """Whether this is one of several replicas that run the same function."""
    return replicas() > 1 and not tf.distribute.in_cross_replica_context()


def is_distributed(model: Any) -> bool:
    """Whether a model's variables have a copy on each replica of a strategy."""
    return any(isinstance(one.value, tf.distribute.DistributedValues) for one in model.weights)


def local(variable: Any) -> Any:
    """The copy of a variable that is this replica's own; the variable itself outside of replicas."""
    if not on_a_replica():
        return variable
    found = _values(variable)
    return found[place_of_replica(len(found))]


def place_of_replica(among: int) -> int:
    """The number of this replica among those of this process; 0 outside of a replica."""
    if not on_a_replica():
        return 0
    return int(tf.get_static_value(tf.distribute.get_replica_context().replica_id_in_sync_group)) % among


def mean_over_workers(value: Any, variable: Any) -> Any:
    """The mean over all replicas, where this process has only some of those that have a copy of this variable.

    Within a process, the copies are averaged when they are read.
    """
    if not on_a_replica() or len(_values(variable)) == replicas():
        return value
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, value)


def copies(variable: Any) -> list[np.ndarray[Any, Any]]:
    """The value on each replica of this process; waits for the device."""
    return [one.numpy() for one in _values(variable)]


def write(variable: Any, value: Any, replica: int | None = None) -> None:
    """Give every replica's copy in this process this value, or only that of one replica, from outside of a graph."""
    found = _values(variable)
    for one in found if replica is None else [found[replica]]:
        one.assign(value)


def _values(variable: Any) -> Any:
    return variable.values if isinstance(variable, tf.distribute.DistributedValues) else (variable,)
