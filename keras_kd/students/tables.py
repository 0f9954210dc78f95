"""A family for tables."""

import math

import keras
import numpy as np
from keras import layers, ops

# Of a column's embedding; more say no more of a category in a small model.
_MOST_OF_A_CATEGORY = 16
# What float32 cannot hold is infinite, and is taken for missing as NaN is.
_LARGEST = float(np.finfo("float32").max)


def mlp(input_shape, output_shape, width, columns=None):
    """Two dense layers on numbers, normalised, and on categories, embedded.

    A number that is NaN or infinite is taken for missing: it stands as the mean, and a
    second number says so. A category that is none of the column's, NaN too, has an
    embedding of its own.
    """
    inputs = keras.Input(input_shape, name="columns")
    categories = {
        i: len(x.categories)
        for i, x in enumerate(columns or [])
        if x.categories is not None
    }
    numbers = [i for i in range(input_shape[0]) if i not in categories]
    parts = _numbers(inputs, numbers) if numbers else []
    if categories:
        parts.append(_embedded(inputs, categories))
    x = layers.Concatenate(name="known")(parts) if len(parts) > 1 else parts[0]
    x = layers.Dense(width, activation="relu", name="hidden1")(x)
    x = layers.Dense(width, activation="relu", name="hidden2")(x)
    return keras.Model(inputs, layers.Dense(*output_shape, name="outputs")(x))


def _numbers(inputs, which):
    known = ops.absolute(inputs) <= _LARGEST
    x = ops.where(known, inputs, 0.0)
    # Of all columns, so that its numbers are those of the inputs. In float32 also where
    # layers compute in less: columns may be of any size.
    x = layers.Normalization(name="normalization", dtype="float32")(x)
    # Of "not at most" LiteRT's converter makes "more", which NaN is not either.
    parts = [ops.where(known, x, 0.0), 1.0 - ops.cast(known, "float32")]
    every = len(which) == inputs.shape[1]
    return parts if every else [ops.take(x, which, axis=1) for x in parts]


def _embedded(inputs, categories):
    """The columns' embeddings, from one table: each column's rows follow another's."""
    counts = np.array(list(categories.values()), "float32")
    width = min(_MOST_OF_A_CATEGORY, math.isqrt(max(categories.values())) + 1)
    x = ops.take(inputs, list(categories), axis=1)
    x = ops.where(ops.logical_and(x >= 0, x < counts), x, counts)
    # Added before they are integers: of a sum of those Keras makes what LiteRT has not.
    rows = ops.cast(x + (np.cumsum(counts + 1) - (counts + 1)), "int32")
    x = layers.Embedding(int(np.sum(counts + 1)), width, name="categories")(rows)
    return layers.Reshape((len(counts) * width,), name="flat_categories")(x)
