"""Every Keras layer that computes: its multiply-accumulates, worked out by hand."""

import inspect
import logging

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_kd.evaluation.profile import profile

SEQUENCE, IMAGE, VOLUME = (6, 4), (8, 8, 4), (5, 5, 5, 2)
TWO, THREE = [(7, 6), (5, 6)], [(7, 6), (5, 6), (5, 6)]
TOKENS = [(7, 8), (5, 8)]


def attention(heads, size, key_value_heads=None, dim=8, queries=7, keys=5):
    """Projections of queries, keys, values and answers, and two products between."""
    key_value_heads = key_value_heads or heads
    projections = 2 * queries * dim * heads * size + 2 * keys * dim * key_value_heads * size
    return projections + 2 * heads * queries * keys * size


# Layer, the shape of its input or of each of several, and its multiply-accumulates.
BY_HAND = [
    (layers.Dense(5), SEQUENCE, 6 * 4 * 5),
    (layers.EinsumDense("abc,cd->abd", (6, 5)), SEQUENCE, 6 * 4 * 5),
    (layers.EinsumDense("...x,xy->...y", 5), IMAGE, 8 * 8 * 4 * 5),
    (layers.EinsumDense("abc,bcde->ade", (3, 2)), SEQUENCE, 6 * 4 * 3 * 2),
    (layers.Conv1D(5, 3), SEQUENCE, 4 * 3 * 4 * 5),
    (layers.Conv1D(6, 3, groups=2, padding="same"), SEQUENCE, 6 * 3 * 2 * 6),
    (layers.Conv2D(5, 3, strides=2), IMAGE, 3 * 3 * 9 * 4 * 5),
    (layers.Conv2D(5, 3, dilation_rate=2), IMAGE, 4 * 4 * 9 * 4 * 5),
    (layers.Conv2D(6, 3, groups=2), IMAGE, 6 * 6 * 9 * 2 * 6),
    (layers.Conv3D(5, 3), VOLUME, 27 * 27 * 2 * 5),
    (layers.Conv3D(4, 2, groups=2), VOLUME, 64 * 8 * 1 * 4),
    (layers.Conv1DTranspose(5, 3, strides=2), SEQUENCE, 6 * 4 * 3 * 5),
    (layers.Conv2DTranspose(6, 3, strides=2), IMAGE, 8 * 8 * 4 * 9 * 6),
    (layers.Conv3DTranspose(3, 2, strides=2), VOLUME, 125 * 2 * 8 * 3),
    (layers.DepthwiseConv1D(3, depth_multiplier=2), SEQUENCE, 4 * 3 * 4 * 2),
    (layers.DepthwiseConv2D(3, depth_multiplier=2), IMAGE, 6 * 6 * 9 * 4 * 2),
    (layers.SeparableConv1D(5, 3), SEQUENCE, 4 * (3 * 4 + 4 * 5)),
    (layers.SeparableConv2D(5, 3), IMAGE, 6 * 6 * (9 * 4 + 4 * 5)),
    (layers.SimpleRNN(5), SEQUENCE, 6 * 5 * (4 + 5)),
    (layers.GRU(5), SEQUENCE, 6 * 3 * 5 * (4 + 5)),
    (layers.GRU(5, reset_after=False, unroll=True), SEQUENCE, 6 * 3 * 5 * (4 + 5)),
    (layers.LSTM(5), SEQUENCE, 6 * 4 * 5 * (4 + 5)),
    (layers.LSTM(5, unroll=True), SEQUENCE, 6 * 4 * 5 * (4 + 5)),
    (layers.LSTM(5, go_backwards=True, use_bias=False), SEQUENCE, 6 * 4 * 5 * (4 + 5)),
    (layers.RNN(layers.LSTMCell(5)), SEQUENCE, 6 * 4 * 5 * (4 + 5)),
    (layers.RNN([layers.GRUCell(5), layers.SimpleRNNCell(3)]), SEQUENCE, 6 * (135 + 24)),
    (layers.Bidirectional(layers.LSTM(5)), SEQUENCE, 2 * 6 * 4 * 5 * (4 + 5)),
    (layers.TimeDistributed(layers.Dense(5)), SEQUENCE, 6 * 4 * 5),
    (layers.TimeDistributed(layers.LSTM(2)), (3, 6, 4), 3 * 6 * 4 * 2 * (4 + 2)),
    # Four gates, each of the whole input (valid) and of the state (same).
    (layers.ConvLSTM1D(3, 3), (4, 8, 2), 4 * 6 * 3 * 4 * 3 * (2 + 3)),
    (layers.ConvLSTM2D(3, 3), (4, 8, 8, 2), 4 * 36 * 9 * 4 * 3 * (2 + 3)),
    (layers.ConvLSTM3D(2, 2), (2, 3, 3, 3, 1), 2 * 8 * 8 * 4 * 2 * (1 + 2)),
    (layers.Dot(axes=2), TWO, 7 * 5 * 6),
    (layers.Attention(), THREE, 2 * 7 * 5 * 6),
    # Its scores are a multiplication and a sum, which are in `macs` alone.
    (layers.AdditiveAttention(), THREE, 7 * 5 * 6),
    (layers.MultiHeadAttention(2, 3), TOKENS, attention(2, 3)),
    (layers.MultiHeadAttention(2, 3, flash_attention=False), TOKENS, attention(2, 3)),
    (layers.GroupQueryAttention(3, 4, 2), TOKENS, attention(4, 3, 2)),
    (layers.SpectralNormalization(layers.Dense(5)), SEQUENCE, 6 * 4 * 5),
    # Windows of 4, a cosine and a sine of each of 4 / 2 + 1 frequencies, every 2.
    (layers.STFTSpectrogram("magnitude", 4, 2, 4), (9, 1), 3 * 4 * 3 * 2),
]

# At inference they move, choose, sum or scale values one by one, or do nothing.
FREE = {
    "sequence": """Activation ActivityRegularization AdaptiveAveragePooling1D
        AdaptiveMaxPooling1D AlphaDropout AveragePooling1D BatchNormalization Cropping1D
        Dropout ELU Flatten GaussianDropout GaussianNoise GlobalAveragePooling1D
        GlobalMaxPooling1D Identity LayerNormalization LeakyReLU Masking MaxPooling1D
        Normalization PReLU Permute RMSNormalization ReLU RepeatVector Rescaling Reshape
        Softmax SpatialDropout1D UnitNormalization UpSampling1D ZeroPadding1D""",
    "image": """AdaptiveAveragePooling2D AdaptiveMaxPooling2D AugMix AutoContrast
        AveragePooling2D CenterCrop ContrastLimitedAdaptiveHistogramEqualization Cropping2D
        CutMix GlobalAveragePooling2D GlobalMaxPooling2D GroupNormalization
        MaxPooling2D MixUp Pipeline RandAugment RandomBrightness RandomColorDegeneration
        RandomColorJitter RandomContrast RandomCrop RandomElasticTransform RandomErasing
        RandomFlip RandomGaussianBlur RandomGrayscale RandomHue RandomInvert
        RandomPerspective RandomPosterization RandomRotation RandomSaturation
        RandomSharpness RandomShear RandomTranslation RandomZoom Resizing Solarization
        SpatialDropout2D UpSampling2D ZeroPadding2D""",
    "volume": """AdaptiveAveragePooling3D AdaptiveMaxPooling3D AveragePooling3D Cropping3D
        GlobalAveragePooling3D GlobalMaxPooling3D MaxPooling3D SpatialDropout3D
        UpSampling3D ZeroPadding3D""",
    "pair": "Add Average Concatenate Maximum Minimum Multiply Subtract",
    "integers": """CategoryEncoding Discretization Embedding HashedCrossing Hashing
        IntegerLookup ReversibleEmbedding StringLookup TextVectorization""",
}

# No layers by themselves, not for a Functional model, or what they compute is the user's.
OTHERS = """
    Equalization InputLayer InputSpec Layer Wrapper Lambda TFSMLayer JaxLayer FlaxLayer
    TorchModuleWrapper GRUCell LSTMCell SimpleRNNCell StackedRNNCells
    MaxNumBoundingBoxes MelSpectrogram
""".split()
ARGUMENTS = {
    "Activation": {"activation": "gelu"},
    "ActivityRegularization": {"l2": 0.1},
    "CategoryEncoding": {"num_tokens": 5},
    "Discretization": {"bin_boundaries": [1, 2]},
    "Embedding": {"input_dim": 5, "output_dim": 3},
    "HashedCrossing": {"num_bins": 3},
    "Hashing": {"num_bins": 3},
    "IntegerLookup": {"vocabulary": [1, 2]},
    "StringLookup": {"vocabulary": ["a", "b"]},
    "TextVectorization": {"vocabulary": ["a", "b"]},
    "ReversibleEmbedding": {"input_dim": 5, "output_dim": 3},
    "GaussianDropout": {"rate": 0.5},
    "GaussianNoise": {"stddev": 0.5},
    "AlphaDropout": {"rate": 0.5},
    "Dropout": {"rate": 0.5},
    "SpatialDropout1D": {"rate": 0.5},
    "SpatialDropout2D": {"rate": 0.5},
    "SpatialDropout3D": {"rate": 0.5},
    "Permute": {"dims": (2, 1)},
    "RepeatVector": {"n": 2},
    "Reshape": {"target_shape": (24,)},
    "Rescaling": {"scale": 2.0},
    "Normalization": {"mean": 1.0, "variance": 2.0},
    "AdaptiveAveragePooling1D": {"output_size": 2},
    "AdaptiveMaxPooling1D": {"output_size": 2},
    "AdaptiveAveragePooling2D": {"output_size": 2},
    "AdaptiveMaxPooling2D": {"output_size": 2},
    "AdaptiveAveragePooling3D": {"output_size": 2},
    "AdaptiveMaxPooling3D": {"output_size": 2},
    "GroupNormalization": {"groups": 3},
    "CenterCrop": {"height": 4, "width": 4},
    "Resizing": {"height": 5, "width": 5, "interpolation": "bilinear"},
    "UpSampling2D": {"interpolation": "bilinear"},
    "Pipeline": {"layers": [layers.Rescaling(2.0)]},
}
ARGUMENTS |= {f"AveragePooling{n}D": {"pool_size": 2} for n in (1, 2, 3)}
ARGUMENTS |= {
    "RandomCrop": {"height": 4, "width": 4},
    "RandomFlip": {},
    "RandomPosterization": {"factor": 4},
    "RandomShear": {"x_factor": 0.5},
    "RandomTranslation": {"height_factor": 0.5, "width_factor": 0.5},
    "RandomZoom": {"height_factor": 0.5},
}
for _name in FREE["image"].split():
    if _name.startswith("Random"):
        ARGUMENTS.setdefault(_name, {"factor": 0.5})
SHAPES = {
    "sequence": SEQUENCE,
    "image": (8, 8, 3),
    "volume": VOLUME,
    "pair": [SEQUENCE, SEQUENCE],
}


def cost_of(layer, shape, dtype=None):
    shapes = shape if isinstance(shape, list) else [shape]
    inputs = [keras.Input(x, dtype=dtype) for x in shapes]
    if isinstance(layer, (layers.MultiHeadAttention, layers.GroupQueryAttention)):
        outputs = layer(*inputs)
    else:
        outputs = layer(inputs if isinstance(shape, list) else inputs[0])
    return profile(keras.Model(inputs, outputs))


@pytest.mark.parametrize("case", BY_HAND, ids=lambda x: x[0].name)
def test_products_are_those_by_hand(case):
    layer, shape, by_hand = case
    cost = cost_of(layer, shape)
    assert cost.pure_macs == by_hand
    assert cost.macs >= by_hand and cost.unknown is None


def test_every_layer_of_keras_is_in_one_of_the_lists():
    known = [*OTHERS, *" ".join(FREE.values()).split()]
    known = {getattr(layers, x) for x in known if hasattr(layers, x)}
    known |= {type(layer) for layer, _, _ in BY_HAND}
    every = [x for _, x in inspect.getmembers(layers, inspect.isclass)]
    assert not {x.__name__ for x in every if x not in known}


FREE_LAYERS = [(kind, name) for kind in FREE for name in FREE[kind].split()]


@pytest.mark.parametrize("kind, name", FREE_LAYERS, ids=lambda x: x)
def test_layers_without_products_have_none(kind, name):
    layer = getattr(layers, name)(**ARGUMENTS.get(name, {}))
    if kind == "integers":
        dtype = "string" if name in ("StringLookup", "TextVectorization") else "int64"
        shape = [(1,), (1,)] if name == "HashedCrossing" else (1,)
        cost = cost_of(layer, shape, dtype)
    elif name == "RepeatVector":
        cost = cost_of(layer, (4,))
    else:
        cost = cost_of(layer, SHAPES[kind])
    assert cost.pure_macs == 0


class Computes(layers.Layer):
    """A layer of one's own around a function of (6, 4) inputs and a (4, 4) weight."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def build(self, shape):
        self.kernel = self.add_weight(shape=(4, 4))

    def call(self, x):
        return self.function(x, self.kernel)

    def compute_output_shape(self, shape):
        return shape


def loop(x, kernel):
    """Two steps at a time up to 9, with a loop of 3 inside: 5 * 3 products."""

    def step(i, x):
        _, x = ops.while_loop(
            lambda j, x: j < 3, lambda j, x: (j + 1, ops.matmul(x, kernel)), (0, x)
        )
        return i + 2, x

    return ops.while_loop(lambda i, x: i < 9, step, (0, x))[1]


def scan(x, kernel):
    def step(carry, row):
        row = ops.matmul(row, kernel)
        return carry, row

    _, rows = ops.scan(step, ops.zeros((1, 4)), ops.transpose(x, (1, 0, 2)))
    return ops.transpose(rows, (1, 0, 2))


def compiled(x, kernel):
    import tensorflow as tf

    @tf.function(jit_compile=True)
    def outer(x):
        return tf.function(lambda x: tf.linalg.matmul(x, kernel))(x)

    return outer(x)


def unused(x, kernel):
    ops.matmul(x, kernel)
    return x + 1


def both(x, kernel):
    product = ops.matmul
    is_large = ops.max(x) > 1
    return ops.cond(is_large, lambda: product(x, kernel), lambda: product(-x, kernel))


@pytest.mark.parametrize(
    "function, products",
    [
        (ops.matmul, 1),
        (lambda x, kernel: ops.einsum("bij,jk->bik", x, kernel), 1),
        (lambda x, kernel: ops.einsum("...j,kj", x, kernel), 1),
        (lambda x, kernel: ops.tensordot(x, kernel, 1), 1),
        (lambda x, kernel: ops.map(lambda y: ops.matmul(y, kernel), x), 1),
        (
            lambda x, kernel: ops.fori_loop(
                0, 7, lambda i, y: ops.matmul(y, kernel), x
            ),
            7,
        ),
        (loop, 15),
        (scan, 1),
        (compiled, 1),
        (both, 1),
        (unused, 0),
    ],
)
def test_layers_of_ones_own(function, products):
    cost = cost_of(Computes(function), SEQUENCE)
    assert cost.pure_macs == products * 6 * 4 * 4


def until_large(x, kernel):
    return ops.while_loop(
        lambda x: ops.max(x) < 100, lambda x: (ops.matmul(x, kernel),), (x,)
    )[0]


def in_python(x, kernel):
    import tensorflow as tf

    return tf.reshape(tf.py_function(lambda x: x, [x], "float32"), (-1, 6, 4))


def if_large(x, kernel):
    return ops.cond(ops.max(x) > 1, lambda: ops.matmul(x, kernel), lambda: x)


@pytest.mark.parametrize(
    "function, reason",
    [
        (until_large, "number of steps of .*while' is not known"),
        (in_python, "operation EagerPyFunc, .* is not known"),
        (if_large, "branches of .* compute different .*products"),
        (lambda x, kernel: ops.fft((x, x))[0], "operation FFT, .* is not known"),
    ],
)
def test_what_cannot_be_counted_is_unknown(function, reason, caplog):
    with caplog.at_level(logging.WARNING, "keras_kd"):
        cost = cost_of(Computes(function), SEQUENCE)
    assert cost.macs is None and cost.pure_macs is None and cost.parameters == 16
    assert cost.unknown in caplog.text
    import re

    assert re.search(reason, cost.unknown)


def test_a_mask_changes_no_count():
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(10, 4, mask_zero=True)(inputs)
    cost = profile(keras.Model(inputs, layers.Bidirectional(layers.GRU(5))(x)))
    assert cost.pure_macs == 2 * 6 * 3 * 5 * (4 + 5)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_saved_model_is_counted_or_unknown(groups, tmp_path):
    from keras_kd import teachers

    parts = [layers.Conv2D(6, 3, groups=groups), layers.Flatten(), layers.Dense(3)]
    model = keras.Sequential([keras.Input(IMAGE), *parts])
    model.export(tmp_path / "saved", verbose=False)
    cost = profile(teachers.from_saved_model(tmp_path / "saved"))
    by_hand = 6 * 6 * 9 * 4 * 6 + 6 * 6 * 6 * 3
    assert cost.pure_macs == {1: by_hand, 2: None}[groups]


def test_mixed_precision_costs_the_same():
    keras.config.set_dtype_policy("mixed_bfloat16")
    mixed = cost_of(layers.LSTM(5), SEQUENCE)
    keras.config.set_dtype_policy("float32")
    assert mixed == cost_of(layers.LSTM(5), SEQUENCE)
    assert np.isfinite(mixed.macs)
