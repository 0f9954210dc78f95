"""A TensorFlow function as an ONNX file, after what tf2onnx does not know is rewritten."""

import logging
import warnings

import keras

from keras_kd import files


def write(function, signature, path):
    """Writes an ONNX file.

    Args:
        function: A traced `tf.function` of one tensor, which gives one, or a dict of them.
        signature: The `keras.InputSpec` of that.
        path: Of the file.
    """
    graph = _Graph(*_plain(function.get_concrete_function()))
    inputs = keras.Input(batch_shape=signature.shape, dtype=signature.dtype)
    # Its optimiser prints tracebacks of what it could not simplify.
    quiet = files.quieter("tf2onnx.optimizer", logging.CRITICAL)
    with warnings.catch_warnings(), quiet:
        # Keras looks for `np.object`, of which NumPy warns.
        warnings.simplefilter("ignore", FutureWarning)
        # Through Keras, which makes tf2onnx work with today's NumPy.
        keras.Model(inputs, graph(inputs)).export(
            path, format="onnx", verbose=False, input_signature=[signature]
        )


class _Graph(keras.layers.Layer):
    """A graph, from one of its tensors to another, or to a dict of others."""

    def __init__(self, graph, given, gives):
        super().__init__(autocast=False)
        self.graph, self.given, self.gives = graph, given, gives

    def call(self, inputs):
        import tensorflow as tf

        names = list(self.gives.values())
        # Not as a function, whose name would stand before that of each operation.
        found = tf.import_graph_def(self.graph, {self.given: inputs}, names, name="")
        outputs = dict(zip(self.gives, found, strict=True))
        return outputs.get(None, outputs)


def _plain(function):
    """(graph, input, dict of outputs) of a function, without state, calls or Erfc."""
    outputs = function.structured_outputs
    outputs = outputs if isinstance(outputs, dict) else {None: function.outputs[0]}
    given, gives = function.inputs[0].name, {k: x.name for k, x in outputs.items()}
    graph = _frozen(function)
    _without_xla(graph)
    graph = _frozen(_function(graph, given, list(gives.values())))
    _without_erfc(graph)
    nodes = {node.name: node for node in graph.node}
    for key, tensor in gives.items():
        last = nodes[tensor.split(":")[0]]
        if last.op == "Identity":
            # The function that this goes into has some of these names, for the file's.
            name = last.input[0]
            gives[key] = name if ":" in name else f"{name}:0"
            graph.node.remove(last)
    return graph, given, gives


def _frozen(function):
    """The graph of a function, variables and constants that it took from outside in it."""
    from tensorflow.python.framework import convert_to_constants

    return convert_to_constants.convert_variables_to_constants_v2(
        function, lower_control_flow=False, aggressive_inlining=True
    ).graph.as_graph_def()


def _function(graph, given, gives):
    import tensorflow as tf

    wrapped = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(graph, name=""), [])
    tensor = wrapped.graph.as_graph_element
    return wrapped.prune(tensor(given), list(map(tensor, gives)))


def _without_xla(graph):
    """Lets calls be put in place that are kept for XLA; a convolution in groups is one."""
    functions = graph.library.function
    # TensorFlow knows functions of their names already, as they were.
    names = {x.signature.name: f"{x.signature.name}_for_onnx" for x in functions}
    for function in functions:
        function.signature.name = names[function.signature.name]
        function.attr.pop("_XlaMustCompile", None)
    for node in [*graph.node, *(x for function in functions for x in function.node_def)]:
        node.attr.pop("_XlaMustCompile", None)
        for value in node.attr.values():
            for called in [value.func, *value.list.func]:
                if called.name in names:
                    called.name = names[called.name]


def _without_erfc(graph):
    """Puts 1 - erf(x) where there is erfc(x), as in gelu."""
    import tensorflow as tf

    for node in [x for x in graph.node if x.op == "Erfc"]:
        erf, one = graph.node.add(), graph.node.add()
        erf.CopyFrom(node)
        erf.op, erf.name = "Erf", f"{node.name}/erf"
        one.op, one.name = "Const", f"{node.name}/one"
        kind = node.attr["T"].type
        one.attr["dtype"].type = kind
        one.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(1, dtype=kind))
        node.op = "Sub"
        node.input[:] = [one.name, erf.name]
