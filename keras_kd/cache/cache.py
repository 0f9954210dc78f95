"""Teacher outputs computed once, kept in memory or on disk, checked on reuse."""

import keras
import tensorflow as tf
from tqdm.auto import tqdm

from keras_kd.cache.answers import TeacherAnswers
from keras_kd.cache.examples import ArrayExamples, StreamedExamples
from keras_kd.cache.filling import CachedAnswers, all_answers
from keras_kd.cache.fixed_augment import fix_augment
from keras_kd.distribution.workers import Workers
from keras_kd.losses.arguments import check_integer
from keras_kd.losses.ops import fits_shape
from keras_kd.models.fingerprints import cache_settings, former_settings
from keras_kd.models.symbolic import symbolic_inputs
from keras_kd.teachers import Several


def cache_teacher(
    teacher,
    dataset,
    path=None,
    *,
    outputs=None,
    views=1,
    dtype="float16",
    top_k=None,
    rest="even",
    augment=None,
    seed=0,
    batch_size=256,
    verbose=1,
):
    """Runs a teacher once over a data set and puts its outputs beside the examples.

    The teacher runs in inference mode and in its own precision (load it under
    "mixed_bfloat16" for that). `keras_kd.Distiller` then reads the outputs from the batch
    and does not run it again. The data know whose answers they carry, and no Distiller of
    another teacher takes them.

    With a `path` the outputs are kept in that folder: NumPy files, a manifest, checksums.
    A later call reuses them if teacher, examples, their order and the arguments are the
    same and no file is damaged; else it refuses, with the reason. A call that was killed
    is continued by the next one. With a teacher made in the scope of a `tf.distribute`
    strategy, all its workers call this, with a folder that all of them see, and each runs
    the teacher over its part of the examples.

    Args:
        teacher: A built `keras.Model`.
        dataset: Single examples, before `shuffle` and `batch`, in a fixed order: x, (x, y)
            or (x, y, sample_weight), where y may be None. Either NumPy arrays
            (examples, ...) in a tuple, or a finite tf.data.Dataset, that of
            `keras_kd.with_teacher_inputs` for one. Arrays are held in memory, and so are
            their outputs; that is the fastest. A tf.data.Dataset is read into memory
            without a `path`; with one it is streamed, so that memory does not grow with
            its length.
        path: Folder to keep the outputs in. Defaults to None: in memory only.
        outputs: List of the names of the teacher's layers whose outputs are kept, as the
            distillation losses tap them ("backbone/block3" in nested models, "lstm:1" of a
            layer that gives several outputs); None in the list is the teacher's own
            outputs. Defaults to [None]; to all models of a `keras_kd.teachers.Several`.
        views: K, how many augmented views of each example the teacher sees. The e-th
            iteration over the returned dataset, which is the e-th epoch, gives view
            e mod K, from 0 (Shen & Xing 2022 replay a teacher's answers like this). What
            is made of it, by `take` and `skip` for one, counts its own iterations.
        dtype: "float16" or "float32", of the outputs kept. Probabilities (rows that sum
            to 1, or all in [0, 1]) are always kept in float32, as float16 has none below
            6e-8, nor so near to 1.
        top_k: Of each row of the teacher's own outputs, logits (..., classes), keep only
            the k largest log-probabilities, and the classes' numbers. Defaults to None:
            all. Batches carry dense logits again, the log-probabilities: the same to any
            loss that takes their softmax. The mass is that at temperature 1; above it the
            tail that was cut counts (at 4, with 20 of 1,000 classes, the gradient is off by
            half; see scripts/benchmarks/cache_loss.py), so keep all classes there.
        rest: What becomes of the mass of the other classes: "even" shares it evenly among
            them, "drop" gives them none (their logit is -1e4, so a divergence stays
            finite) and leaves the k to the softmax to sum to 1.
        augment: `augment(inputs, indices, view, seed)` makes a view of a batch, in
            TensorFlow: `inputs` x (batch, ...), `indices` int64 (batch,) the examples'
            numbers in `dataset`, `view` int64 (batch,). A pure function of these, each
            row's result of that row, so that the student sees the pixels that the teacher
            saw; it is looked at on the first examples. Needed for `views` > 1.
        seed: Integer, passed to `augment`.
        batch_size: How many examples the teacher sees at once, rounded down to a power of
            two.
        verbose: 0 shows no progress bar.

    Returns:
        A tf.data.Dataset of single examples whose x carries the teacher's outputs (see
        `keras_kd.training.batch`), to shuffle, batch and `fit`. Where the examples are
        in memory, it shuffles their numbers and gathers whole batches; put `map` after
        `batch`.

    Raises:
        CacheError: What is in `path` is damaged, or of another teacher, other examples or
            other arguments. A `ValueError`.
        ValueError: An argument cannot be used; `augment` or `teacher` makes something else
            of the same examples when called again; or an output is NaN, infinite or too
            large for float16; it names the example.
        OSError: The disk is full. Whole shards are kept, and the next call goes on.

    Example:

    ```python
    train_ds = cache_teacher(teacher, (images, labels), path="cache/teacher")
    distiller.fit(train_ds.shuffle(60_000).batch(256), epochs=12)
    ```

    Reference:
        [Beyer et al., 2022](https://arxiv.org/abs/2106.05237): teacher and student see the
        same view. [Shen & Xing, 2022](https://arxiv.org/abs/2112.01528): replayed views.
    """
    _check_teacher(teacher)
    if outputs is None and isinstance(teacher, Several):
        outputs = list(teacher.taps.values())
    names = _check_names(outputs)
    views = check_integer("views", views, 1)
    batch_size = check_integer("batch_size", batch_size, 1)
    seed = check_integer("seed", seed)
    top_k = _check_top_k(top_k, rest, names)
    _check_augment(augment, views, seed)
    if dtype not in ("float16", "float32"):
        raise ValueError(
            f"`dtype` must be 'float16' or 'float32'. Received: dtype={dtype!r}."
        )
    examples = _as_examples(dataset, in_memory=path is None)
    if augment is not None and examples.are_apart:
        raise ValueError(
            "`augment` makes the teacher's views of the student's x, and `dataset` carries "
            "inputs for the teacher alone (with_teacher_inputs). Received: "
            f"augment={augment!r}."
        )
    _check_single(teacher, examples.shapes)
    # Batches must not lie across two shards, so sizes are powers of two.
    batch_size = 2 ** (batch_size.bit_length() - 1)
    first_batch = _first_batch(examples, batch_size)
    fixed = augment and fix_augment(augment, first_batch, views, seed)
    answers = TeacherAnswers(
        teacher,
        names,
        dtype=dtype,
        top_k=top_k,
        rest=rest,
        augment=fixed,
        seed=seed,
        first_batch=first_batch,
        apart=examples.are_apart,
    )
    with tqdm(total=examples.count, unit=" examples", disable=not verbose) as progress:
        if path is None:
            arrays = all_answers(answers, examples, views, batch_size, progress)
            answers.check_teacher()
            return examples.join(answers.to_batch(arrays), views, fixed, seed)
        settings = cache_settings(
            teacher,
            first_batch,
            answers.outputs,
            augment,
            views,
            seed,
            dtype=dtype,
            top_k=top_k,
            rest=rest,
        )
        former = former_settings(settings, teacher)
        cached = CachedAnswers(
            path, answers, examples, settings, former, views, batch_size
        )
        _fill(cached, Workers.of(teacher), progress)
    cached.check_answers(first_batch)
    answers.check_teacher()
    if isinstance(examples, ArrayExamples):
        outputs = answers.to_batch(cached.read_all())
        return examples.join(outputs, views, fixed, seed)
    cached.verify()
    return examples.join(cached.read_view, views, fixed, seed, cached.count)


def _fill(cached, workers, progress):
    if workers.count > 1:
        cached.fill_part(workers.index, workers.count, progress)
        workers.wait()
    cached.fill(progress)


def _as_examples(dataset, in_memory):
    if not isinstance(dataset, tf.data.Dataset):
        return ArrayExamples(dataset)
    examples = StreamedExamples(dataset, for_teacher=True)
    return examples.in_memory() if in_memory else examples


def _first_batch(examples, batch_size):
    for inputs in examples.inputs(batch_size):
        return inputs
    raise ValueError("`dataset` is empty.")


def _check_teacher(teacher):
    if not isinstance(teacher, keras.Model):
        raise ValueError(
            f"`teacher` must be a keras.Model. Received: {teacher!r} of type "
            f"{type(teacher).__name__}."
        )
    if not teacher.built:
        raise ValueError(
            "`teacher` has no weights yet: call it on a batch or load its weights first. "
            f"Received: the unbuilt model {teacher.name!r}."
        )


def _check_names(outputs):
    """`outputs` as a set of names."""
    names = [None] if outputs is None else outputs
    if (
        not isinstance(names, (list, tuple))
        or not names
        or not all(name is None or isinstance(name, str) for name in names)
    ):
        raise ValueError(
            "`outputs` must be a list of layer names, with None for the teacher's own "
            f"outputs. Received: outputs={outputs!r}."
        )
    return set(names)


def _check_top_k(top_k, rest, names):
    """`top_k` as an int, or None."""
    if rest not in ("even", "drop"):
        raise ValueError(f"`rest` must be 'even' or 'drop'. Received: rest={rest!r}.")
    if top_k is None:
        if rest != "even":
            raise ValueError(f"rest={rest!r} has no effect without `top_k`.")
        return None
    if None not in names:
        raise ValueError(
            "`top_k` is of the teacher's own outputs, and `outputs` leaves them out. "
            f"Received: top_k={top_k}, outputs={sorted(names)}."
        )
    return check_integer("top_k", top_k, 1)


def _check_augment(augment, views, seed):
    if augment is None and (views > 1 or seed != 0):
        raise ValueError(
            "`views` and `seed` have no effect without `augment`, which makes the views. "
            f"Received: views={views}, seed={seed}."
        )
    if augment is not None and not callable(augment):
        raise ValueError(
            "`augment` must be a function augment(inputs, indices, view, seed). "
            f"Received: augment={augment!r}."
        )


def _check_single(teacher, shapes):
    """Refuses batches: examples with as many axes as the teacher's inputs."""
    inputs = symbolic_inputs(teacher)
    for shape, symbolic in zip(shapes, inputs, strict=False):
        if shape is not None and len(shape) == len(symbolic.shape):
            raise ValueError(
                "`dataset` must give single examples; cache it before `batch`. Received: "
                f"x of shape {shape} for a teacher that takes {tuple(symbolic.shape)}."
            )
    if len(shapes) == len(inputs) == 1 and shapes[0] is not None:
        (shape,), (symbolic,) = shapes, inputs
        # Keras makes an axis of 1 where one is missing, or one less.
        if len(shape) + 1 == len(symbolic.shape) and not fits_shape(
            (None, *shape), tuple(symbolic.shape)
        ):
            raise ValueError(
                f"`teacher` {teacher.name!r} takes {tuple(symbolic.shape)}, and `dataset` "
                f"gives it examples of shape {shape}."
            )
