"""How teacher outputs or inputs, and the examples' numbers, travel in a batch.

They are put inside x and taken out of it here alone. Keras's `fit` takes
(x, y, sample_weight) and no fourth element, and `y` belongs to the labels (class weights
and metrics read it), so x becomes a dict:

    ({"keras_kd.inputs": x, "keras_kd.teacher_outputs": ..., "keras_kd.index": ...,
      "keras_kd.teacher_inputs": ...}, y, sample_weight)

with one or more of the last three keys. They carry the package's name, so a model whose own
inputs are a dict is safe. Teacher outputs stand under a key that says whose they are
(`keras_kd.training.whose_answers`): a part of the structure, not of the tensors, it
goes wherever they go, and costs nothing. Teacher outputs kept in part (`TopK`) become
dense logits again when they are taken out.
"""

from typing import Any, NamedTuple

from keras import backend, ops

_INPUTS = "keras_kd.inputs"
_OUTPUTS = "keras_kd.teacher_outputs"
_INDEX = "keras_kd.index"
_TEACHER_INPUTS = "keras_kd.teacher_inputs"
_CARRIED = {_OUTPUTS, _INDEX, _TEACHER_INPUTS}
_TOP_K = "keras_kd.top_k_of_"
_LIST = "keras_kd.list"
_OF = "of "
# Behind whose outputs these are: the teacher saw something else than the student.
_APART = ", of inputs of its own"
# Whose outputs are that were computed elsewhere: logits, of no model that is at hand.
GIVEN = "given"


class TopK(NamedTuple):
    """The largest log-probabilities of each row, and what all other classes get.

    Attributes:
        log_probs: (batch, ..., k + 1): the k largest, then the one value of each of the
            other num_classes - k classes.
        classes: (batch, ..., k), integers: which classes the k are.
        num_classes: Length of the last axis when dense.
    """

    log_probs: Any
    classes: Any
    num_classes: int

    def dense(self):
        """Logits (batch, ..., num_classes), float32; their softmax is the teacher's."""
        log_probs = ops.cast(self.log_probs, "float32")
        k = int(self.classes.shape[-1])
        shape = (-1, *self.classes.shape[1:-1], self.num_classes)
        classes = ops.reshape(ops.cast(self.classes, "int32"), (-1, k))
        kept = ops.reshape(log_probs[..., :k], (-1, k))
        others = ops.reshape(log_probs[..., k:], (-1, 1))
        rows = ops.expand_dims(ops.arange(ops.shape(classes)[0], dtype="int32"), -1)
        places = ops.stack([ops.broadcast_to(rows, ops.shape(classes)), classes], axis=-1)
        logits = ops.scatter_update(
            ops.repeat(others, self.num_classes, axis=-1),
            ops.reshape(places, (-1, 2)),
            ops.reshape(kept, (-1,)),
        )
        return ops.reshape(logits, shape)


def encode(own, taps, of=None, apart=False):
    """Teacher outputs in the form that travels: nested dicts and tuples of tensors.

    Args:
        own: The teacher's own outputs: a tensor, a `TopK`, or lists, tuples or dicts of
            them. None if they were not kept.
        taps: dict of layer name to that layer's outputs.
        of: Whose they are, as `keras_kd.models.fingerprints.teacher_id` says it. None says
            nothing, and a `Distiller` does not take them.
        apart: Whether they are its answers to inputs of its own, not to the student's.

    Returns:
        What `pack` takes. Tensors are left as they are, so whole columns of a cache can be
        encoded once and their rows gathered afterwards.
    """
    encoded = {} if own is None else {"own": _encode(own)}
    encoded |= {"taps": _encode(taps)} if taps else {}
    return encoded if of is None else {f"{_OF}{of}{_APART * apart}": encoded}


def pack(x, teacher_outputs=None, index=None, teacher_inputs=None):
    """x with what else a batch carries of its examples inside.

    Args:
        x: The student's inputs, a tensor or a nested structure.
        teacher_outputs: The teacher's outputs, as `encode` returns them.
        index: Which of the data set's examples these are, integers (batch,).
        teacher_inputs: What the teacher takes instead of x, a tensor or a nested structure.
    """
    carried = {_OUTPUTS: teacher_outputs, _INDEX: index, _TEACHER_INPUTS: teacher_inputs}
    return {_INPUTS: x} | {k: part for k, part in carried.items() if part is not None}


def inputs_of(x):
    """The student's inputs alone, of what a batch carries as x, or of its shapes."""
    return x[_INPUTS] if _is_packed(x) else x


def has_teacher_inputs(x):
    """Whether x, or a dataset's structure of it, carries what the teacher alone takes."""
    return _is_packed(x) and _TEACHER_INPUTS in x


def teacher_inputs_of(x):
    """What the teacher takes, of what a batch carries as x: the student's, or its own."""
    return x[_TEACHER_INPUTS] if has_teacher_inputs(x) else inputs_of(x)


def without_teacher(x):
    """What a batch carries as x without the teacher's outputs and inputs."""
    if not _is_packed(x):
        return x
    kept = {key: x[key] for key in (_INPUTS, _INDEX) if key in x}
    return kept if len(kept) > 1 else x[_INPUTS]


def index_of(x):
    """The examples' numbers in the data set, (batch,); None where x carries none."""
    return x.get(_INDEX) if _is_packed(x) else None


def teacher_of(x):
    """Whose outputs x carries, or a dataset's structure of it.

    Returns:
        What `encode` was given as `of`, "" where it was not told, and None where x carries
        no teacher outputs.
    """
    if not _is_packed(x) or _OUTPUTS not in x:
        return None
    key, *more = x[_OUTPUTS]
    is_said = not more and key.startswith(_OF)
    return key.removeprefix(_OF).removesuffix(_APART) if is_said else ""


def is_taught_apart(x):
    """Whether the teacher takes, or has answered, something else than the student takes.

    Args:
        x: As a batch carries it, or a dataset's structure of it.
    """
    if teacher_of(x):
        return next(iter(x[_OUTPUTS])).endswith(_APART)
    return has_teacher_inputs(x)


def holds_top_k(x):
    """Whether x carries the teacher's own outputs kept in part, as `TopK`."""
    if teacher_of(x) is None:
        return False
    outputs = x[_OUTPUTS]
    (outputs,) = outputs.values() if teacher_of(x) else (outputs,)
    parts = outputs.get("own")
    return isinstance(parts, dict) and any(key.startswith(_TOP_K) for key in parts)


def unpack(x):
    """Takes the teacher's outputs out of x again.

    Args:
        x: As a batch carries it, packed or not.

    Returns:
        `(x, teacher_outputs)`: the student's inputs, and `(own, taps)` as given to
        `encode`, or None where x carries no teacher outputs. Floating-point tensors are
        at least float32, `TopK` has become dense logits; `own` is None and `taps` is {}
        where they were not kept.
    """
    if not _is_packed(x) or _OUTPUTS not in x:
        return inputs_of(x), None
    outputs = x[_OUTPUTS]
    if teacher_of(x):
        (outputs,) = outputs.values()
    parts = {name: _decode(part) for name, part in outputs.items()}
    return x[_INPUTS], (parts.get("own"), parts.get("taps", {}))


def _is_packed(x):
    return isinstance(x, dict) and {_INPUTS} < set(x) <= {_INPUTS} | _CARRIED


def _encode(part):
    if isinstance(part, TopK):
        return {f"{_TOP_K}{part.num_classes}": (part.log_probs, part.classes)}
    if isinstance(part, dict):
        return {key: _encode(value) for key, value in part.items()}
    if isinstance(part, list):
        # tf.data would stack a list's tensors into one.
        return {_LIST: tuple(map(_encode, part))}
    return tuple(map(_encode, part)) if isinstance(part, tuple) else part


def _decode(part):
    if isinstance(part, dict):
        return _decode_dict(part)
    if isinstance(part, tuple):
        return tuple(map(_decode, part))
    return _at_least_float32(part)


def _decode_dict(part):
    key, *more = part
    if not more and key == _LIST:
        return list(map(_decode, part[key]))
    if not more and key.startswith(_TOP_K):
        return TopK(*part[key], num_classes=int(key.removeprefix(_TOP_K))).dense()
    return {key: _decode(value) for key, value in part.items()}


def _at_least_float32(tensor):
    dtype = backend.standardize_dtype(tensor.dtype)
    return ops.cast(tensor, "float32") if dtype in ("float16", "bfloat16") else tensor
