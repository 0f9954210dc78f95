"""Counts the float operations of a TensorFlow graph, loops and functions included."""

import contextlib
import dataclasses
import math

import numpy as np

# Loops of more steps are not followed.
_MOST_STEPS = 100_000

# Operations that move, compare, choose or sum values, or compute on each by itself.
# What stands neither here nor among the products may be anything.
_WITHOUT_PRODUCTS = frozenset(
    """
    Abs Acos Acosh Add AddN AddV2 All AnonymousIterator Any ApproximateEqual ArgMax ArgMin
    Asin Asinh Assert Assign AssignAddVariableOp AssignSubVariableOp AssignVariableOp
    AsString Atan Atan2 Atanh AvgPool AvgPool3D BatchToSpaceND BiasAdd BiasAddV1 Bincount
    Bitcast BitwiseAnd BitwiseOr BitwiseXor BroadcastArgs BroadcastTo Bucketize Cast Ceil
    CheckNumerics ClipByValue CombinedNonMaxSuppression Complex ComplexAbs Concat ConcatV2
    Conj Const Cos Cosh Cumprod Cumsum CumulativeLogsumexp DataFormatDimMap
    DataFormatVecPermute DebugNumericSummary DeepCopy DenseBincount DepthToSpace Dequantize
    Diag DiagPart Digamma Div DivNoNan DynamicPartition DynamicStitch Elu EmptyTensorList
    EnsureShape Equal Erf Erfc Erfinv Exp ExpandDims Expm1 ExtractImagePatches
    ExtractVolumePatches FakeQuantWithMinMaxArgs FakeQuantWithMinMaxVars
    FakeQuantWithMinMaxVarsPerChannel Fill Floor FloorDiv FloorMod FractionalAvgPool
    FractionalMaxPool FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 Gather GatherNd
    GatherV2 Greater GreaterEqual HashTableV2 HSVToRGB Identity IdentityN Igamma Igammac
    Imag InTopKV2 Inv Invert InvertPermutation IsFinite IsInf IsNan IsVariableInitialized
    L2Loss LeakyRelu LeftShift Less LessEqual Lgamma LinSpace Log Log1p LogicalAnd
    LogicalNot LogicalOr LogSoftmax LookupTableFindV2 LookupTableSizeV2 LoopCond LowerBound
    LRN MatrixBandPart MatrixDiag MatrixDiagPart MatrixDiagPartV2 MatrixDiagPartV3
    MatrixDiagV2 MatrixDiagV3 MatrixSetDiag MatrixSetDiagV2 MatrixSetDiagV3 Max Maximum
    MaxPool MaxPool3D MaxPoolV2 MaxPoolWithArgmax Mean Min Minimum MirrorPad Mod Mul
    MulNoNan Multinomial MutableHashTableV2 Neg NextAfter NonMaxSuppressionV3
    NonMaxSuppressionV4 NonMaxSuppressionV5 NoOp NotEqual OneHot OnesLike Pack Pad PadV2
    ParallelDynamicStitch Placeholder PlaceholderWithDefault Polygamma PopulationCount Pow
    PreventGradient Prod QuantizeAndDequantizeV2 QuantizeAndDequantizeV3
    QuantizeAndDequantizeV4 RaggedRange RaggedTensorToTensor RaggedTensorToVariant
    RandomShuffle RandomStandardNormal RandomUniform RandomUniformInt Range Rank
    ReadVariableOp Real RealDiv Reciprocal ReduceJoin RegexFullMatch RegexReplace Relu Relu6
    Reshape ResizeArea ResizeBicubic ResizeBilinear ResizeNearestNeighbor ResourceGather
    ResourceGatherNd Reverse ReverseSequence ReverseV2 RGBToHSV RightShift Rint Roll Round
    Rsqrt ScatterNd ScatterNdNonAliasingAdd SearchSorted SegmentMax SegmentMean SegmentMin
    SegmentProd SegmentSum Select SelectV2 Selu Shape ShapeN Sigmoid Sign Sin Sinh Size
    Slice Snapshot Softmax Softplus Softsign SpaceToBatchND SpaceToDepth SparseBincount
    SparseCross SparseFillEmptyRows SparseReshape SparseSegmentMean SparseSegmentSum
    SparseSlice SparseToDense Split SplitV Sqrt Square SquaredDifference Squeeze
    StatefulUniform StatelessMultinomial StatelessRandomBinomial StatelessRandomGammaV2
    StatelessRandomGammaV3 StatelessRandomGetAlg StatelessRandomGetKeyCounter
    StatelessRandomGetKeyCounterAlg StatelessRandomNormal StatelessRandomNormalV2
    StatelessRandomUniform StatelessRandomUniformFullInt StatelessRandomUniformFullIntV2
    StatelessRandomUniformInt StatelessRandomUniformIntV2 StatelessRandomUniformV2
    StatelessTruncatedNormal StatelessTruncatedNormalV2 StaticRegexFullMatch
    StaticRegexReplace StopGradient StridedSlice StringFormat StringJoin StringLength
    StringLower StringNGrams StringSplit StringSplitV2 StringStrip StringToHashBucket
    StringToHashBucketFast StringToHashBucketStrong StringToNumber StringUpper Sub Substr
    Sum Tan Tanh TensorListConcat TensorListConcatV2 TensorListElementShape
    TensorListFromTensor TensorListGather TensorListGetItem TensorListLength
    TensorListPopBack TensorListPushBack TensorListReserve TensorListResize
    TensorListScatter TensorListScatterIntoExistingList TensorListScatterV2
    TensorListSetItem TensorListSplit TensorListStack TensorScatterAdd TensorScatterMax
    TensorScatterMin TensorScatterSub TensorScatterUpdate TensorStridedSliceUpdate Tile TopK
    TopKV2 Transpose TruncateDiv TruncatedNormal TruncateMod UnicodeDecode
    UnicodeDecodeWithOffsets Unique UniqueV2 UniqueWithCounts Unpack UnravelIndex
    UnsortedSegmentMax UnsortedSegmentMin UnsortedSegmentProd UnsortedSegmentSum UpperBound
    VarHandleOp VariableShape VariableV2 VarIsInitializedOp Where Xdivy Xlog1py Xlogy
    ZerosLike Zeta
    """.split()
)


class UnknownCount(Exception):
    """What a graph computes cannot be counted; the message says why."""


@dataclasses.dataclass
class Count:
    """Operations of a graph.

    Attributes:
        products: Multiply-accumulates of matrix products and convolutions.
        others: The other float operations that TensorFlow's profiler counts, or None
            where the size of one is not known.
    """

    products: int = 0
    others: int | None = 0

    def add(self, count, times=1):
        """Adds another graph's, run so many times."""
        self.products += times * count.products
        known = self.others is not None and count.others is not None
        self.others = self.others + times * count.others if known else None


def count_operations(graph, outputs, values=None):
    """Counts what a graph computes to make its outputs.

    A loop's body counts as often as it runs, where the number does not depend on the
    inputs; a function as often as it is called; what nothing needs does not count.

    Args:
        graph: A `tf.Graph`.
        outputs: Tensors of it.
        values: dict of names of its placeholders to NumPy values, those that are known.

    Returns:
        A `Count`.

    Raises:
        UnknownCount: The graph has an operation that is not known here, or whose shapes
            are not known, a loop of an unknown number of steps, or a branch that computes
            more than the other.
    """
    count, values = Count(), values or {}
    for operation in _needed(outputs):
        kind = operation.type
        if kind in _PRODUCTS:
            count.products += _products(operation)
        elif kind in ("PartitionedCall", "StatefulPartitionedCall"):
            count.add(_of_function(graph, operation, "f", values))
        elif kind in ("While", "StatelessWhile"):
            _add_loop(count, graph, operation, values)
        elif kind in ("If", "StatelessIf", "Case", "StatelessCase"):
            count.add(_of_branches(graph, operation, values))
        elif kind in _WITHOUT_PRODUCTS:
            count.add(Count(0, _registered(graph, operation)))
        else:
            raise UnknownCount(f"the operation {kind}, {operation.name!r}, is not known")
    return count


def _needed(outputs):
    """The operations that make these tensors."""
    todo, seen = [x.op for x in outputs], {}
    while todo:
        operation = todo.pop()
        if operation not in seen:
            seen[operation] = True
            todo += [x.op for x in operation.inputs]
    return list(seen)


def _registered(graph, operation):
    """Float operations as TensorFlow's profiler counts them; None without shapes."""
    from tensorflow.python.framework import ops
    from tensorflow.python.profiler.internal import flops_registry  # noqa: F401

    try:
        found = ops.get_stats_for_node_def(graph, operation.node_def, "flops")
        return int(found.value or 0)
    except ValueError:
        return None


def _products(operation):
    try:
        return int(_PRODUCTS[operation.type](operation))
    except (TypeError, ValueError) as error:  # What shapes that are not known raise.
        raise UnknownCount(
            f"the shapes of {operation.type}, {operation.name!r}, are not known"
        ) from error


def _sizes(tensor):
    return tuple(map(int, tensor.shape.as_list()))


def _elements(tensor):
    return math.prod(_sizes(tensor))


def _matrix_product(transposed):
    def count(operation):
        shape = _sizes(operation.inputs[0])
        inner = shape[-2] if operation.get_attr(transposed) else shape[-1]
        return _elements(operation.outputs[0]) * inner

    return count


def _convolution(operation):
    *window, channels, _ = _sizes(operation.inputs[1])
    return _elements(operation.outputs[0]) * math.prod(window) * channels


def _transposed_convolution(operation):
    # Each number of the input meets the whole window and all channels that come out.
    *window, channels, _ = _sizes(operation.inputs[1])
    return _elements(operation.inputs[2]) * math.prod(window) * channels


def _depthwise(operation):
    *window, _, _ = _sizes(operation.inputs[1])
    return _elements(operation.outputs[0]) * math.prod(window)


def _transposed_depthwise(operation):
    *window, _, _ = _sizes(operation.inputs[1])
    return _elements(operation.inputs[2]) * math.prod(window)


def _einsum(operation):
    terms = operation.get_attr("equation").decode().replace(" ", "").split("->")[0]
    terms = terms.split(",")
    if len(terms) == 1:
        return 0
    sizes, broadcast = {}, ()
    for term, tensor in zip(terms, operation.inputs, strict=True):
        shape = _sizes(tensor)
        first, dots, last = term.partition("...")
        tail = shape[len(shape) - len(last) :] if last else ()
        sizes |= dict(zip(first + last, shape[: len(first)] + tail, strict=True))
        if dots:
            inside = shape[len(first) : len(shape) - len(last)]
            broadcast = np.broadcast_shapes(broadcast, inside)
    return math.prod(sizes.values()) * math.prod(broadcast)


_PRODUCTS = {
    "MatMul": _matrix_product("transpose_a"),
    "BatchMatMul": _matrix_product("adj_x"),
    "BatchMatMulV2": _matrix_product("adj_x"),
    "BatchMatMulV3": _matrix_product("adj_x"),
    "Einsum": _einsum,
    "Conv2D": _convolution,
    "Conv3D": _convolution,
    "DepthwiseConv2dNative": _depthwise,
    "Conv2DBackpropInput": _transposed_convolution,
    "Conv3DBackpropInputV2": _transposed_convolution,
    "DepthwiseConv2dNativeBackpropInput": _transposed_depthwise,
}


def _of_function(graph, operation, attribute, values):
    return _of_named(graph, operation.get_attr(attribute).name, operation.inputs, values)


def _of_named(graph, name, inputs, values):
    function = _function(graph, name, [x.shape for x in inputs])
    starts = [_value(x, values) for x in inputs]
    return count_operations(function, function.outputs, _named(function, starts))


def _named(function, values):
    """Those of a function's inputs whose value is known, by name."""
    pairs = zip(function.inputs, values, strict=False)
    return {x.name: value for x, value in pairs if value is not None}


def _function(graph, name, shapes=None):
    """The graph of a function, as it was traced or, for shapes it was not, made anew."""
    function = graph._get_function(name)
    if function is None:
        raise UnknownCount(f"the function {name!r} cannot be looked into")
    traced = function.graph
    if shapes is None or all(
        x.shape.is_fully_defined() or not shape.is_fully_defined()
        for x, shape in zip(traced.inputs, shapes, strict=False)
    ):
        return traced
    from tensorflow.python.framework.function_def_to_graph import function_def_to_graph

    return function_def_to_graph(function.definition, input_shapes=shapes)


def _of_branches(graph, operation, values):
    if "Case" in operation.type:
        names = [x.name for x in operation.get_attr("branches")]
    else:
        names = [operation.get_attr(x).name for x in ("then_branch", "else_branch")]
    inputs = list(operation.inputs)[1:]
    counts = [_of_named(graph, x, inputs, values) for x in names]
    if any(x.products != counts[0].products for x in counts):
        raise UnknownCount(
            f"the branches of {operation.type}, {operation.name!r}, compute different "
            "numbers of products"
        )
    others = {x.others for x in counts}
    return counts[0] if len(others) == 1 else Count(counts[0].products, None)


def _add_loop(count, graph, operation, values):
    condition, body = (
        _function(graph, operation.get_attr(x).name) for x in ("cond", "body")
    )
    starts = [_value(x, values) for x in operation.inputs]
    steps, constant = _steps(operation, condition, body, starts)
    same = [x if i in constant else None for i, x in enumerate(starts)]
    count.add(count_operations(body, body.outputs, _named(body, same)), steps)
    count.add(count_operations(condition, condition.outputs), steps + 1)


def _steps(operation, condition, body, starts):
    """How often a loop's body runs, and which of its variables stay as they are."""
    used = _numbers_of(condition.inputs, condition.outputs)
    # What the condition is made of must be made of such itself, in each step.
    while True:
        wider = used | _numbers_of(body.inputs, [body.outputs[i] for i in used])
        if wider == used:
            break
        used = wider
    used = sorted(used)
    unknown = UnknownCount(f"the number of steps of {operation.name!r} is not known")
    if any(starts[i] is None for i in used):
        raise unknown
    now, steps = [starts[i] for i in used], 0
    try:
        goes_on = _callable(condition.outputs, [condition.inputs[i] for i in used])
        step = _callable([body.outputs[i] for i in used], [body.inputs[i] for i in used])
        while goes_on(*now)[0]:
            now, steps = step(*now), steps + 1
            if steps > _MOST_STEPS:
                raise unknown
    except Exception as error:  # TensorFlow's of many kinds, where a step needs more.
        raise unknown from error
    inputs = {id(x): i for i, x in enumerate(body.inputs)}
    constant = [
        i
        for i, output in enumerate(body.outputs)
        if starts[i] is not None and inputs.get(id(_behind(output))) == i
    ]
    return steps, constant


def _behind(tensor):
    while tensor.op.type == "Identity":
        tensor = tensor.op.inputs[0]
    return tensor


def _numbers_of(inputs, outputs):
    """The places of the inputs that these outputs are made of."""
    needed = set(_needed(outputs))
    return {i for i, x in enumerate(inputs) if x.op in needed}


def _callable(fetches, feeds):
    """A function of the feeds' values that gives those of the fetches."""
    import tensorflow as tf

    part = tf.compat.v1.GraphDef()
    for operation in _needed(fetches):
        node = part.node.add()
        node.CopyFrom(operation.node_def)
        # What must run before, such as an assignment, is not needed for the number.
        node.ClearField("input")
        node.input.extend(x for x in operation.node_def.input if not x.startswith("^"))
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(part, name="")
    session = tf.compat.v1.Session(graph=graph)
    return session.make_callable([x.name for x in fetches], [x.name for x in feeds])


def _value(tensor, values):
    """The value of a small tensor that does not depend on the model's inputs, or None."""
    import tensorflow as tf

    if tensor.dtype not in (tf.int32, tf.int64, tf.bool, tf.float32):
        return None
    if not tensor.shape.is_fully_defined() or _elements(tensor) > 64:
        return None
    if (value := tf.get_static_value(tensor)) is not None:
        return value
    free = {"Placeholder", "ReadVariableOp", "VarHandleOp"}
    free = [x.outputs[0] for x in _needed([tensor]) if x.type in free]
    if any(x.name not in values for x in free):
        return None
    with contextlib.suppress(Exception):  # TensorFlow's of many kinds.
        return _callable([tensor], free)(*(values[x.name] for x in free))[0]
    return None
