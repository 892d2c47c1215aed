"""One forward as it is served, a graph with its weights as constants, run while TensorFlow writes down what it does.

Rules: what counts is what runs: the branch that is taken, every turn of a loop, the sizes that tensors really have.
The graph is a copy that shares nothing with the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import Any

import tensorflow as tf

Shape = tuple[int, ...]


class TracedRun:
    """The graph of a forward, and the tensors that it is run on.

    Args:
        forward: takes the tensors; traced once.
        tensors: eager ones, of the shapes that the graph is for.
    """

    def __init__(self, forward: Callable[..., Any], tensors: Sequence[Any]) -> None:
        from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

        specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in tensors]
        function = tf.function(forward, autograph=False).get_concrete_function(*specs)
        frozen = convert_variables_to_constants_v2(function, lower_control_flow=True)
        definition = frozen.graph.as_graph_def()
        self._functions = {one.signature.name: one for one in definition.library.function}
        self._graph = tf.Graph()
        with self._graph.as_default():
            tf.import_graph_def(definition, name="")
        # a tensor that the forward does not look at is no input of the graph
        given = zip(function.inputs, tensors, strict=False)
        names = {operation.name for operation in self._graph.get_operations()}
        self._feed = {one.name: tensor.numpy() for one, tensor in given if one.op.name in names}
        self._fetch = [output.name for output in frozen.outputs]

    def macs(self) -> int:
        """Multiply-accumulates of products of matrices, of einsums and of convolutions; see `_FORMULAS`."""
        steps = [step for step in self._traced(optimized=False) if step.output]  # the others were in no branch taken
        shapes = {f"{step.node_name}:{one.slot}": _shape_of(one) for step in steps for one in step.output}
        ran = {step.node_name for step in steps}
        total = 0
        for step in steps:
            operation = self._operation(step.node_name)
            if operation is not None and operation.type == "BiasAdd" and operation.inputs[0].op.name not in ran:
                operation = operation.inputs[0].op  # oneDNN's kernel of a convolution adds the bias by itself
            if operation is not None:
                inputs = [_known(one, shapes) for one in operation.inputs]
                total += self._macs_of(operation, inputs, _shape_of(step.output[0]))
        return total

    def _macs_of(self, operation: Any, inputs: Sequence[Shape], output: Shape) -> int:
        if operation.type in _CALLS:
            return self._macs_inside(operation.get_attr("f").name, inputs)
        formula = _FORMULAS.get(operation.type)
        return 0 if formula is None else formula(operation, inputs, output)

    def _macs_inside(self, function: str, inputs: Sequence[Shape]) -> int:
        """Of a function that XLA compiles: nothing of it is written down, so its shapes must tell.

        Raises:
            ValueError: a product of matrices is in a loop or a branch, or the size of one is not known.
        """
        from tensorflow.python.framework.function_def_to_graph import function_def_to_graph

        definition = type(self._functions[function])()
        definition.CopyFrom(self._functions[function])
        definition.ClearField("arg_attr")  # shapes of the variables' handles, where constants are by now
        body = function_def_to_graph(definition, input_shapes=[tf.TensorShape(shape) for shape in inputs])
        total = 0
        for operation in body.get_operations():
            counts = operation.type in _FORMULAS or operation.type in _CALLS
            if counts and not all(one.shape.is_fully_defined() for one in (*operation.inputs, *operation.outputs)):
                raise ValueError(f"the sizes of {operation.name}, which XLA compiles, are not known before it runs")
            if counts:
                shapes = [tuple(one.shape.as_list()) for one in operation.inputs]
                total += self._macs_of(operation, shapes, tuple(operation.outputs[0].shape.as_list()))
            elif operation.type in _TURNS:
                raise ValueError(f"XLA compiles {operation.name}, whose turns can't be counted")
        return total

    def peak_bytes(self) -> int:
        """The most that the operations hold at once, their outputs included, weights and inputs left out."""
        steps = self._traced(optimized=True)
        changes = [
            (record.alloc_micros, -record.alloc_bytes)
            for step in steps
            for memory in step.memory
            for record in memory.allocation_records
        ]
        held = peak = 0
        for _, size in sorted(changes):  # of one microsecond what is taken comes first, since its input is still there
            held -= size
            peak = max(peak, held)
        return peak

    def _operation(self, name: str) -> Any:
        try:
            return self._graph.get_operation_by_name(name)
        except (KeyError, ValueError):  # what TensorFlow puts in for its own work
            return None

    def _traced(self, *, optimized: bool) -> list[Any]:
        """What each operation did in one run, the second, on the CPU and one after the other."""
        v1 = tf.compat.v1
        config = v1.ConfigProto(
            device_count={"GPU": 0},
            inter_op_parallelism_threads=1,
            intra_op_parallelism_threads=1,
            use_per_session_threads=True,
        )
        config.graph_options.rewrite_options.disable_meta_optimizer = not optimized
        if not optimized:
            config.graph_options.optimizer_options.opt_level = v1.OptimizerOptions.L0
        metadata = v1.RunMetadata()
        with v1.Session(graph=self._graph, config=config) as session:
            session.run(self._fetch, self._feed)
            options = v1.RunOptions(trace_level=v1.RunOptions.FULL_TRACE)
            session.run(self._fetch, self._feed, options=options, run_metadata=metadata)
        return [step for device in metadata.step_stats.dev_stats for step in device.node_stats]


def _shape_of(output: Any) -> Shape:
    return tuple(int(axis.size) for axis in output.tensor_description.shape.dim)


def _known(tensor: Any, shapes: Mapping[str, Shape]) -> Shape:
    """A tensor's shape, of the run where the graph alone does not tell it."""
    if tensor.shape.is_fully_defined():
        return tuple(tensor.shape.as_list())
    return shapes.get(tensor.name, ())


def _matrix_product(operation: Any, inputs: Sequence[Shape], output: Shape) -> int:
    """[..., M, K] times [..., K, N] is K for each number of the output."""
    flag = "transpose_a" if operation.type == "MatMul" else "adj_x"
    return prod(output) * inputs[0][-2 if operation.get_attr(flag) else -1]


def _convolution(operation: Any, inputs: Sequence[Shape], output: Shape) -> int:
    """A filter [..., C / groups, F] is used whole, but for its last axis, for each number of the output."""
    return prod(output) * prod(inputs[1][:-1])


def _depthwise(operation: Any, inputs: Sequence[Shape], output: Shape) -> int:
    """A filter [H, W, C, multiplier]: height times width for each number of the output."""
    return prod(output) * prod(inputs[1][:-2])


def _transposed(operation: Any, inputs: Sequence[Shape], output: Shape) -> int:
    """A filter [..., F, C] is used whole, but for its last axis, for each number of what goes in."""
    return prod(inputs[2]) * prod(inputs[1][:-1])


def _einsum(operation: Any, inputs: Sequence[Shape], output: Shape) -> int:
    """Two operands: the lengths of all axes that the equation names, multiplied."""
    if len(inputs) != 2:
        return 0
    equation = operation.get_attr("equation").decode()
    terms = equation.split("->")[0].split(",")
    lengths: dict[str, int] = {}
    for term, shape in zip(terms, inputs, strict=True):
        for label, length in _labelled(term.replace(" ", ""), shape):
            lengths[label] = max(lengths.get(label, 1), length)
    return prod(lengths.values())


def _labelled(term: str, shape: Shape) -> Iterator[tuple[str, int]]:
    """The axes of an operand with their letters; those of ``...`` are numbered from the last one."""
    before, dots, after = term.partition("...")
    yield from zip(before, shape, strict=False)
    if dots:
        middle = shape[len(before) : len(shape) - len(after)]
        yield from ((f"...{place}", length) for place, length in enumerate(reversed(middle)))
        yield from zip(after, shape[len(shape) - len(after) :], strict=True)


_FORMULAS: Mapping[str, Callable[[Any, Sequence[Shape], Shape], int]] = {
    "MatMul": _matrix_product,
    "BatchMatMul": _matrix_product,
    "BatchMatMulV2": _matrix_product,
    "BatchMatMulV3": _matrix_product,
    "Einsum": _einsum,
    "Conv2D": _convolution,
    "Conv3D": _convolution,
    "DepthwiseConv2dNative": _depthwise,
    "Conv2DBackpropInput": _transposed,
    "Conv3DBackpropInputV2": _transposed,
}
"""Multiply-accumulates by the type of an operation, from the shapes of its inputs and of its first output."""

_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
"""Functions that are left are those that XLA compiles, as Keras has it do with convolutions in groups."""

_TURNS = ("While", "StatelessWhile", "If", "StatelessIf", "Case", "StatelessCase")
