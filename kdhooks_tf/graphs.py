"""Where tensors can be used: eagerly, or in the graph of a function that is being traced.

Rules: nothing here makes an operation that computes something.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from functools import partial
from typing import Any

import tensorflow as tf

Graph = Any
"""A graph that is being traced; None stands for eager execution."""


def current_graph() -> Graph:
    """The graph that operations go into now; None in eager execution."""
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()


def is_trial(graph: Graph) -> bool:
    """Whether Keras tries a layer's call here to build the layer, at its first call; the real call comes after it."""
    return str(getattr(graph, "name", "")).startswith("scratch_graph")


def usable_now(graph: Graph) -> bool:
    """Whether tensors that were made in a graph, or eagerly, can be used where the program is now.

    A function sees the tensors of the function around it. It would see eager ones too, but as constants that are
    the same at every later step, so these do not count.
    """
    now = current_graph()
    if graph is None:
        return now is None
    while now is not None and now is not graph:
        now = getattr(now, "outer_graph", None)
    return now is graph


def ask_at_each_call(key: Hashable, function: Callable[[], None]) -> None:
    """Have a function called whenever the `tf.function` is called that is being traced, so that it may raise.

    It is Python code beside the graph, as if it looked up a captured value: no step waits for it, and a compiled
    function calls it as well. Where this TensorFlow has no such captures nothing is called.

    Args:
        key: several with an equal key count as one.
        function: what is called.
    """
    with tf.init_scope():
        present = tf.constant(True)
    look_up = partial(_asked, function, present)
    functions: list[Any] = []
    graph = current_graph()
    while hasattr(graph, "outer_graph"):
        if type(graph).__name__ == "FuncGraph":
            functions.append(graph)
        else:  # a loop or a branch, and what is inside of it, has captures of another kind
            functions = []
        graph = graph.outer_graph
    for function_graph in functions:
        if hasattr(function_graph, "capture_call_time_value"):
            spec = tf.TensorSpec([], tf.bool)
            function_graph.capture_call_time_value(look_up, spec, key=key, default_value=present)


def _asked(function: Callable[[], None], value: Any) -> Any:
    """Not inside of the function that makes use of it: AutoGraph would rewrite it there, and every call be slower."""
    function()
    return value


def tape_records() -> bool:
    """Whether a gradient tape is open around this and not stopped; True where TensorFlow does not tell."""
    try:
        from tensorflow.python.eager.record import could_possibly_record
    except ImportError:  # its place is TensorFlow's own affair
        return True
    return bool(could_possibly_record())


def is_of_one_turn(tensors: Iterable[Any], checked: set[str]) -> bool:
    """Whether a tensor of a graph stands for one row or turn of `tf.vectorized_map`, whose body is no graph of its own.

    Args:
        tensors: of one layer; those of eager execution are never of one turn.
        checked: names of operations known to be of none, which grows, so that a whole model is walked once.
    """
    found: set[str] = set()
    waiting = [tensor.op for tensor in tensors if not isinstance(tensor, tf.__internal__.EagerTensor)]
    while waiting:
        operation = waiting.pop()
        if operation.name in checked or operation.name in found:
            continue
        if operation.type == "PlaceholderWithDefault":  # the number of the turn
            return True
        found.add(operation.name)
        waiting += [tensor.op for tensor in operation.inputs]
    checked |= found
    return False


def is_compiled() -> bool:
    """Whether the function that is being traced is one that XLA compiles; False where TensorFlow does not tell."""
    try:
        from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext
    except ImportError:  # its place is TensorFlow's own affair
        return False
    return tf.inside_function() and bool(GraphOrParentsInXlaContext(current_graph()))
