"""Contrastive representation: the student knows an example by the teacher's memory of it.

Tian, Krishnan, Isola, "Contrastive Representation Distillation", 2020.
"""

import functools
import math

import keras
from keras import ops

from keras_kd.losses.arguments import check_fraction, check_integer, check_positive
from keras_kd.losses.base import PerExampleLoss
from keras_kd.losses.features import make_projection
from keras_kd.losses.ops import fits_shape, flat, of_one_shape, unit_vectors
from keras_kd.losses.relations import partner_weights
from keras_kd.losses.schedules import is_schedule
from keras_kd.losses.shapes import check_size
from keras_kd.losses.weights import weighted_mean, without_left_out

EPSILON = 1e-7  # The authors', in the denominators.


def contrastive_representation(teacher_scores, student_scores, *, num_examples):
    """Noise-contrastive loss of two sides, one value per example.

        c = negatives / num_examples
        loss_i = -log(p_i0 / (p_i0 + c + 1e-7)) - sum_k log(c / (p_ik + c + 1e-7))

    with k from 1 to negatives and p = exp(scores), summed over the two sides.

    Args:
        teacher_scores: (batch, 1 + negatives), how likely it is that what the teacher
            makes of the example goes with what is remembered of the student's: the
            example itself first, then its negatives. Logarithms.
        student_scores: The same with the roles exchanged.
        num_examples: How many examples the negatives are drawn from.

    Returns:
        (batch,), in the scores' dtype.

    Reference:
        [Tian et al., 2020](https://arxiv.org/abs/1910.10699), equation 18.
    """
    sides = (teacher_scores, student_scores)
    return sum(_noise_contrast(scores, num_examples) for scores in sides)


def _noise_contrast(scores, num_examples):
    noise = (scores.shape[-1] - 1) / num_examples
    log_odds = scores - math.log(noise + EPSILON)
    negatives = scores.shape[-1] - 1
    # Of the positive the other way round; not cut off, as a gradient would put it back.
    signs = ops.where(ops.equal(ops.arange(negatives + 1), 0), -1.0, 1.0)
    values = ops.softplus(ops.cast(signs, log_odds.dtype) * log_odds)
    # log1p is what EPSILON makes of each negative where p is zero.
    return ops.sum(values, axis=-1) + negatives * math.log1p(EPSILON / noise)


class ContrastMemory(keras.layers.Layer):
    """What is remembered of each example: its last embeddings, of teacher and student.

    All of it are weights that no gradient trains, so they are saved and resumed.

    Args:
        num_examples: Of the data set.
        feat_dim: Length of an embedding.
        negatives: How many negatives each example is contrasted with.
        temperature: What the cosines are divided by.
        momentum: Part of the old embedding in the new one.
        seed: Integer, of the first embeddings and of the negatives.
    """

    def __init__(self, num_examples, feat_dim, negatives, temperature, momentum, seed):
        super().__init__(dtype="float32")
        self.num_examples = num_examples
        self.temperature = temperature
        self.momentum = momentum
        bound = math.sqrt(3 / feat_dim)
        self.teacher_memory, self.student_memory = (
            self.add_weight(
                shape=(num_examples, feat_dim),
                initializer=keras.initializers.RandomUniform(-bound, bound, seed + side),
                trainable=False,
                name=name,
            )
            for side, name in enumerate(("teacher_memory", "student_memory"))
        )
        # Of the scores of teacher and student; set by the first batch.
        self.log_z = self.add_weight(shape=(2,), initializer="zeros", trainable=False)
        seeds = keras.random.SeedGenerator(seed)
        self._draw = functools.partial(
            keras.random.randint, (negatives,), 0, num_examples, seed=seeds
        )
        # The seed, and how many draws there were. As a weight, since Keras saves no
        # SeedGenerator.
        self.draws = seeds.state
        self.built = True

    def call(self, teacher_embedding, student_embedding, index, counts=None):
        """Scores of both, as `contrastive_representation` takes them; remembers both.

        Args:
            teacher_embedding, student_embedding: (batch, feat_dim), of length 1.
            index: (batch,), which of the examples these are.
            counts: (batch,), bool, which of them are remembered; None for all.
        """
        is_first = ops.equal(self.draws[1], 0)
        # Of examples too: the same step over an example gives it the same negatives,
        # whatever else is in the batch and in which order.
        # In order, as the processor's cache likes it; negatives have no order.
        steps = ops.expand_dims(ops.sort(self._draw()), axis=0)
        own = ops.expand_dims(ops.cast(index, "int32"), axis=1)
        others = own + steps
        # Both are below num_examples, and a remainder takes twice as long.
        others = ops.where(others < self.num_examples, others, others - self.num_examples)
        others = ops.concatenate([own, others], axis=1)
        logits = [
            self._logits(teacher_embedding, self.student_memory, others),
            self._logits(student_embedding, self.teacher_memory, others),
        ]
        constants = [ops.stop_gradient(x) for x in logits]
        log_z = ops.cond(
            is_first,
            lambda: ops.stack([self._log_z(x, counts) for x in constants]),
            lambda: ops.convert_to_tensor(self.log_z),
        )
        self.log_z.assign(log_z)
        self._remember(self.teacher_memory, own, teacher_embedding, counts)
        self._remember(self.student_memory, own, student_embedding, counts)
        return logits[0] - log_z[0], logits[1] - log_z[1]

    def _logits(self, embedding, memory, others):
        # All examples of the memory at once: negatives are as many as a good part of it,
        # and rows of them would take feat_dim times the room.
        # Of a copy: PyTorch takes the gradient after the memory has been written.
        cosines = ops.matmul(embedding, ops.transpose(ops.copy(memory)))
        return _take(cosines, others) / self.temperature

    def _log_z(self, logits, counts):
        count = ops.cast(ops.size(logits), "float32")
        if counts is not None:
            logits = ops.where(ops.expand_dims(counts, axis=1), logits, -1e30)
            # Of none at all it is as if all cosines were 0.
            logits = ops.where(ops.any(counts), logits, 0.0)
            share = ops.mean(ops.cast(counts, "float32"))
            count *= ops.where(share > 0, share, 1.0)
        return ops.logsumexp(logits) - ops.log(count) + math.log(self.num_examples)

    def _remember(self, memory, own, embedding, counts):
        old = ops.take(memory, own[:, 0], axis=0)
        new = self.momentum * old + (1 - self.momentum) * ops.stop_gradient(embedding)
        new = unit_vectors(new)
        if counts is not None:
            new = ops.where(ops.expand_dims(counts, axis=1), new, old)
        memory.assign(ops.scatter_update(memory, own, new))


@keras.saving.register_keras_serializable(package="keras_kd")
class ContrastiveRepresentation(PerExampleLoss):
    """Contrastive representation distillation of Tian et al. 2020; identifier `"crd"`.

        c = negatives / num_examples
        loss_i = -log(p_i0 / (p_i0 + c + 1e-7)) - sum_k log(c / (p_ik + c + 1e-7))
        p_ij = exp(embedding_i . memory_j / temperature) / z

    summed over two sides, of the teacher's embeddings and the student's memory and the
    other way round. An embedding is a linear map of the outputs to `feat_dim`, divided by
    its length; both maps train with the student. The memory holds the last embeddings of
    every example, z is set by the first batch, and j is i itself and its negatives.

    Values and defaults are those of the authors' RepDistiller (CRDLoss, ContrastMemory):
    `num_examples` is its n_data, `negatives` nce_k, `temperature` nce_t, `momentum` nce_m.
    It weighs the loss by 0.8. Its command line draws negatives among the examples of other
    classes, in the data loader; here they are drawn among all, itself included, as
    ContrastMemory does by default, and no labels are needed. Each example's negatives are
    independent of each other; those of two examples of a batch are as far apart as the
    two are in the data set, where ContrastMemory draws them anew.

    The data must carry each example's number: `keras_kd.with_index(dataset)`, or what
    `keras_kd.cache_teacher` returns. A number outside 0 ... num_examples - 1 gives NaN.
    Memory, z, seed and the count of draws are weights of a layer in `layers`: saved with
    the Distiller, whose training goes on as if not interrupted. `sample_weight` weighs
    values alone; what has no weight is not remembered, and is no part of z.

    Args:
        num_examples: Of the data set that the Distiller is fitted to, an integer >= 1.
        feat_dim: Length of the embeddings, an integer >= 2, as of one number a direction is
            but a sign. Defaults to 128.
        negatives: How many each example is contrasted with, an integer >= 1. Defaults to
            16384. A batch takes room for batch * (num_examples + negatives) numbers.
        temperature: What the cosines are divided by, > 0, no schedule. Defaults to 0.07.
        momentum: Part of the old embedding in the memory's new one, 0 <= momentum <= 1.
            Defaults to 0.5.
        seed: Integer >= 0, of the first memory and of the negatives. Defaults to 0.
        taps: A pair of layer names, the teacher's first, whose outputs to compare; in the
            paper what the classifier sees. Defaults to the models' own outputs.

    Raises:
        ValueError: An argument is out of range, or `taps` is not one pair. In use: there
            is no `index`, outputs are of another batch or of unknown size, or the student
            has one number for each example.

    Example:

    >>> loss = ContrastiveRepresentation(num_examples=100, feat_dim=4, negatives=16)
    >>> teacher, student = [[1.0, 2.0], [3.0, 0.0]], [[1.0, 0.0], [2.0, 1.0]]
    >>> bool(loss.compute_loss(teacher, student, index=[7, 99]) > 0)
    True

    Reference:
        [Tian et al., 2020](https://arxiv.org/abs/1910.10699)
    """

    makes_layers = True
    needs_index = True
    has_state = True
    widths_may_differ = True
    zero_at_agreement = False
    smallest_at_agreement = False

    def __init__(
        self,
        num_examples,
        feat_dim=128,
        negatives=16384,
        temperature=0.07,
        momentum=0.5,
        seed=0,
        taps=None,
    ):
        super().__init__(taps)
        self.num_examples = check_integer("num_examples", num_examples, 1)
        self.feat_dim = check_integer("feat_dim", feat_dim, 2)
        self.negatives = check_integer("negatives", negatives, 1)
        if is_schedule(temperature):
            raise ValueError(
                "`temperature` must be a number: z is set once, by the first batch, and "
                f"holds for its temperature. Received: a {type(temperature).__name__}."
            )
        self.temperature = check_positive("temperature", temperature)
        self.momentum = check_fraction("momentum", momentum)
        self.seed = check_integer("seed", seed, 0)
        self._built_for = None

    def check_shapes(self, teacher_shape, student_shape):
        shapes = tuple(teacher_shape), tuple(student_shape)
        received = (
            f"Received: teacher_outputs of shape {shapes[0]}, "
            f"student_outputs of shape {shapes[1]}."
        )
        name = type(self).__name__
        if min(map(len, shapes)) < 2 or None in (*shapes[0][1:], *shapes[1][1:]):
            raise ValueError(
                f"{name} takes outputs of shape (batch, ..., size) whose sizes are known. "
                f"{received}"
            )
        if not fits_shape(shapes[0][:1], shapes[1][:1]):
            raise ValueError(
                f"{name} compares each example with itself, so both models must have "
                f"outputs of the same batch. {received}"
            )
        sizes = _sizes(*shapes)
        if self._built_for not in (None, sizes):
            raise ValueError(
                f"{name} made its layers for {self._built_for[0]} (teacher) and "
                f"{self._built_for[1]} (student) outputs of an example. {received}"
            )
        # A line through zero has two directions.
        check_size(name, shapes[1], 2)

    def build(self, teacher_shape, student_shape):
        super().build(teacher_shape, student_shape)
        if self.layers:
            return
        self._built_for = _sizes(teacher_shape, student_shape)
        memory = ContrastMemory(
            self.num_examples,
            self.feat_dim,
            self.negatives,
            self.temperature,
            self.momentum,
            self.seed,
        )
        maps = [make_projection((None, size), self.feat_dim) for size in self._built_for]
        self.layers = (*maps, memory)

    def compute_loss(
        self,
        teacher_outputs,
        student_outputs,
        y_true=None,
        sample_weight=None,
        index=None,
    ):
        """As `DistillationLoss.compute_loss`.

        Args:
            index: Integers (batch,), each example's number in the data set.
        """
        teacher_outputs, student_outputs = self.checked(teacher_outputs, student_outputs)
        index = _checked_index(type(self).__name__, index, teacher_outputs.shape[0])
        self.build(tuple(teacher_outputs.shape), tuple(student_outputs.shape))
        outputs = without_left_out(sample_weight, teacher_outputs, student_outputs)
        counts = None
        if sample_weight is not None:
            counts = partner_weights(sample_weight, outputs[0]) > 0
        values = self.call(*outputs, index, counts)
        return weighted_mean(values, sample_weight)

    def call(self, teacher_outputs, student_outputs, index, counts=None):
        """One value per example, (batch,); also remembers the examples."""
        *maps, memory = self.layers
        # In float32, as the layers' weights are.
        embeddings = [
            unit_vectors(layer(ops.cast(flat(x), "float32")))
            for layer, x in zip(maps, (teacher_outputs, student_outputs), strict=True)
        ]
        is_known = ops.logical_and(index >= 0, index < self.num_examples)
        embeddings = of_one_shape(*embeddings)
        scores = memory(*embeddings, ops.where(is_known, index, 0), counts)
        values = contrastive_representation(*scores, num_examples=self.num_examples)
        return ops.where(is_known, values, float("nan"))


def _take(rows, places):
    """`take_along_axis` of the last axis of two, whose own gradient is slow on TensorFlow.

    Args:
        rows: (batch, size).
        places: (batch, count), integers; the same place of a row may be there twice.
    """

    @ops.custom_gradient
    def take(rows):
        def gradient(*args, upstream=None):
            # PyTorch alone passes it by keyword.
            upstream = args[0] if upstream is None else upstream
            numbers = ops.arange(ops.shape(places)[0], dtype=places.dtype)
            numbers = ops.broadcast_to(ops.expand_dims(numbers, 1), ops.shape(places))
            at = ops.reshape(ops.stack([numbers, places], axis=-1), (-1, 2))
            return ops.scatter(at, ops.reshape(upstream, (-1,)), ops.shape(rows))

        return ops.take_along_axis(rows, places, axis=1), gradient

    return take(rows)


def _sizes(*shapes):
    """How many outputs an example has, of each shape (batch, ...)."""
    return tuple(math.prod(shape[1:]) for shape in shapes)


def _checked_index(loss_name, index, batch):
    """`index` as an int32 tensor (batch,), if it holds one number per example."""
    if index is None:
        raise ValueError(
            f"{loss_name} needs each example's number in the data set. Received: "
            "index=None. Give `fit` a data set that carries it: "
            "keras_kd.with_index((x, y)).shuffle(...).batch(...), or what "
            "keras_kd.cache_teacher returns."
        )
    index = ops.convert_to_tensor(index)
    if not fits_shape(index.shape, (batch,)):
        raise ValueError(
            f"`index` must hold one integer per example, a shape of ({batch},); "
            "keras_kd.with_index takes single examples, before `batch`. Received: a shape "
            f"of {tuple(index.shape)}."
        )
    return ops.cast(index, "int32")
