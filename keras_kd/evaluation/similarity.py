"""How alike two layers see the same examples: linear CKA."""

import keras
import numpy as np
from keras import ops

from keras_kd.models.taps import Taps, logits_layer
from keras_kd.training.batch import inputs_of, teacher_inputs_of


def linear_cka(teacher_features, student_features):
    """Linear centred kernel alignment of two layers' outputs for the same examples.

        CKA = ||Y^T X||_F^2 / (||X^T X||_F * ||Y^T Y||_F)

    with X and Y the features in rows, less their means over the examples. It is 1 for
    features that differ by a rotation or reflection and one factor, and does not ask for
    equal widths. Few examples of many features look more alike than they are: take more
    examples than features.

    Args:
        teacher_features: (n, ...), flattened to (n, features).
        student_features: (n, ...), of the same examples in the same order.

    Returns:
        A float in [0, 1].

    Raises:
        ValueError: They are of fewer than 2 or of different numbers of examples, not
            finite, or the same for every example.

    Reference:
        [Kornblith et al., 2019](https://arxiv.org/abs/1905.00414), section 3 and table 1.
    """
    x = _centred("teacher_features", teacher_features)
    y = _centred("student_features", student_features)
    if len(x) != len(y):
        raise ValueError(
            "`teacher_features` and `student_features` must be of the same examples. "
            f"Received: {len(x)} and {len(y)} examples."
        )
    # Both forms are the same number; the smaller matrices are multiplied.
    if max(x.shape[1], y.shape[1]) <= len(x):
        alike, *own = (np.sum((b.T @ a) ** 2) for a, b in ((x, y), (x, x), (y, y)))
    else:
        k, m = x @ x.T, y @ y.T
        alike, *own = (np.sum(a * b) for a, b in ((k, m), (k, k), (m, m)))
    return float(min(alike / np.sqrt(own[0] * own[1]), 1.0))


def _centred(name, features):
    """Features as float64 (n, features), of mean zero and mean square one."""
    features = np.asarray(features, dtype="float64")
    if features.ndim < 2 or len(features) < 2:
        raise ValueError(
            f"`{name}` must be of shape (n, ...), for 2 examples or more. Received: shape "
            f"{features.shape}."
        )
    features = features.reshape(len(features), -1)
    if not np.isfinite(features).all():
        raise ValueError(f"`{name}` holds NaN or infinite values.")
    if (features == features[0]).all():
        raise ValueError(
            f"`{name}` are the same for each of the {len(features)} examples; there is "
            "nothing to compare."
        )
    # Scaled twice, so that no size of the features overflows.
    features = features / np.max(np.abs(features))
    features -= features.mean(axis=0)
    return features / np.sqrt(np.mean(features**2))


def layer_similarity(teacher, student, dataset, taps=None):
    """Linear CKA of a teacher's and a student's layer over a data set.

    All outputs of both layers are kept, in float32: of 10,000 examples of 784 features
    31 MB.

    Args:
        teacher, student: Built `keras.Model`s that take the same inputs, unless the data
            carry others for the teacher (`keras_kd.with_teacher_inputs`).
        dataset: Batches of (inputs, labels) or of inputs.
        taps: (teacher layer, student layer), names as losses take them. By default the last
            hidden layers, what the logits are made of.

    Returns:
        A float in [0, 1]; see `linear_cka`.

    Raises:
        ValueError: A name is no layer of its model, or without `taps` a model has no single
            last hidden layer; the data set has fewer than 2 examples; or as `linear_cka`.
    """
    if taps is None:
        taps = tuple(logits_layer(model)[1] for model in (teacher, student))
    if not isinstance(taps, (tuple, list)) or len(taps) != 2:
        raise ValueError(
            "`taps` must be a pair of layer names, (teacher layer, student layer). "
            f"Received: taps={taps!r}."
        )
    sides = [
        (Taps(model, {name}), name, takes, [])
        for model, name, takes in zip(
            (teacher, student), taps, (teacher_inputs_of, inputs_of), strict=True
        )
    ]
    for batch in dataset:
        inputs, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
        for tap, name, takes, parts in sides:
            _, found = tap.call(takes(inputs), training=False)
            parts.append(ops.convert_to_numpy(ops.cast(found[name], "float32")))
    if not sides[0][-1]:
        raise ValueError("`dataset` is empty; there is nothing to compare.")
    return linear_cka(*(np.concatenate(parts) for *_, parts in sides))
