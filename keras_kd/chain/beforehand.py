"""What would fail in a later stage, or at a chain's end, tried before the first step."""

import itertools
import logging

import keras
import numpy as np
from keras import tree

from keras_kd.chain.carried import check_carried, check_takes, is_given, refused
from keras_kd.chain.stage import named
from keras_kd.data.order import as_arrays, is_dataset
from keras_kd.distribution.workers import strategy_of
from keras_kd.evaluation import labelled
from keras_kd.models.fingerprints import teacher_id
from keras_kd.models.symbolic import symbolic_inputs
from keras_kd.training.loading import check_saves
from keras_kd.training.whose_answers import whose_answers

logger = logging.getLogger(__name__)

# They keep one file, or one best value, whatever is trained.
_OF_ONE_FIT = (keras.callbacks.ModelCheckpoint, keras.callbacks.CSVLogger)


def callbacks_of(stages, given):
    """dict of a trained stage's name to the user's callbacks for it, a list.

    Args:
        stages: The chain's.
        given: As `DistillationChain.fit` takes them.
    """
    stages, found = [x for x in stages if x.epochs], {}
    for stage in stages:
        callbacks = given(stage) if callable(given) else given
        callbacks = [] if callbacks is None else tree.flatten(callbacks)
        wrong = [x for x in callbacks if not isinstance(x, keras.callbacks.Callback)]
        if wrong:
            raise ValueError(
                "`callbacks` must be a list of keras.callbacks.Callback, or a function "
                f"that takes a `Stage` and gives one. Received: {wrong[0]!r}."
            )
        found[stage.name] = callbacks
    writers = [x for x in callbacks if isinstance(x, _OF_ONE_FIT)] if stages else []
    if writers and len(stages) > 1 and not callable(given):
        logger.warning(
            "`callbacks`: one %s serves all stages, of which each writes over what the one "
            "before wrote, or is compared with it. Give a function of the stage that makes "
            "new ones.",
            type(writers[0]).__name__,
        )
    return found


def check_teachers(chain, to_fit, data_of, is_done):
    """Refuses data with answers of others than a stage's teachers, or without inputs.

    A teacher that an earlier run trained is looked at when its stage begins.

    Args:
        chain: A `keras_kd.DistillationChain`.
        to_fit: dict of a stage's name to (model to fit, its teacher), of those with epochs.
        data_of: Takes a stage, gives its training data, or a function that makes them.
        is_done: Takes a stage's name, says whether an earlier run finished it.

    Raises:
        ValueError: They carry the answers of others, or none of a teacher that is no
            model; or a teacher takes other inputs than they hold for it.
    """
    epochs = {stage.name: stage.epochs for stage in chain.stages}
    known = {}
    for stage in chain.stages:
        data, teachers = data_of(stage), chain.teachers_of(stage)
        of = None if callable(data) else whose_answers(data)
        is_taught = teachers and stage.student_loss_weight != 1
        if is_given(teachers):
            with named(stage):
                check_carried(None if callable(data) else data)
            continue
        if not is_taught or stage.name not in to_fit or is_done(stage.name):
            continue
        teacher = to_fit[stage.name][1]
        if of is None:
            with named(stage):
                check_takes(stage, teachers, teacher, data)
            continue
        trained = [name for name in teachers if epochs.get(name)]
        if all(map(is_done, trained)) and trained:
            continue
        if id(teacher) not in known and not trained:
            known[id(teacher)] = teacher_id(teacher)
        if trained or of != known[id(teacher)]:
            with named(stage):
                raise refused(of, teachers, known.get(id(teacher)))


def try_to_save(stage, folder):
    """Looks whether a stage's student can be saved; and, if not loaded, says so.

    Args:
        stage: A `keras_kd.Stage` whose student is built.
        folder: The run folder, or None: nothing will be saved.

    Raises:
        ValueError: It cannot be saved.
    """
    reason = folder and check_saves(stage.student)
    if reason:
        logger.warning(
            "Stage %r: its model.keras will need `custom_objects`, or safe_mode=False, to "
            "be loaded: %s",
            stage.name,
            reason,
        )


def try_a_batch(run, validation_data, train_data):
    """Runs what a stage has compiled, once, and keeps nothing of it.

    Args:
        run: A `stage_run.StageRun` that has not begun.
        validation_data, train_data: As `DistillationChain.fit` takes them.

    Raises:
        ValueError: Labels are missing, shapes do not fit, or the stage's `monitor` is no
            metric.
    """
    stage, model = run.stage, run.model
    is_alone = strategy_of(model) is None
    if keras.backend.backend() != "tensorflow" or not is_alone or not stage.student.built:
        return
    like = _batch_like(train_data)
    if like is not None and like[1] is None:
        _check_unlabelled(stage)
    elif like is not None and not _has_fixed_batch(stage.student):
        _names_of(model, *like[:2])
    if validation_data is None:
        return
    names = ()
    for x, y in itertools.islice(labelled.batches(validation_data, "validation_data"), 1):
        names = [f"val_{name}" for name in _names_of(model, x, y)]
    if stage.chooses_epoch and names:
        run.check_monitor(names)


def _check_unlabelled(stage):
    weight = stage.student_loss_weight
    is_taught = stage.distillation_losses is not None
    if not is_taught or weight is None or not np.all(np.equal(weight, 0)):
        raise ValueError(
            "labels (y) are missing from `train_data`. They are needed unless "
            "student_loss_weight=0 and metrics=None."
        )
    if any(x is not None for x in tree.flatten(stage.metrics)):
        raise ValueError(
            "`metrics` need labels, which `train_data` do not have. Give metrics=None (a "
            "Stage has accuracy by default), or labels."
        )


def _has_fixed_batch(student):
    return any(x.shape[0] is not None for x in symbolic_inputs(student))


def _names_of(model, x, y):
    """The names of what is measured on a batch."""
    batch = tree.map_structure(keras.ops.convert_to_tensor, (x, y))
    try:
        return list(model.test_step(batch))
    except ValueError as error:
        if _are_one_hot(model.loss, batch[1]):
            raise ValueError(
                f"`loss` {type(model.loss).__name__} takes class numbers, and the labels "
                f"are of shape {tuple(batch[1].shape)}. Of one-hot labels give "
                "loss=keras.losses.CategoricalCrossentropy(from_logits=True)."
            ) from error
        raise
    except Exception as error:  # A backend's own kinds.
        kind = type(error).__name__
        raise ValueError(
            "`loss` or a metric does not fit the labels, or the student its inputs: "
            f"{kind}: {error}"
        ) from error
    finally:
        model.reset_metrics()


def _are_one_hot(loss, labels):
    is_sparse = isinstance(loss, keras.losses.SparseCategoricalCrossentropy)
    shape = getattr(labels, "shape", ())
    return is_sparse and len(shape) > 1 and shape[-1] != 1


def _batch_like(data):
    """A batch (x, y, sample_weight) in the form of training data; None if it is not known.

    Nothing is read of the data, which would change what comes next: of arrays it is the
    first example, of a `tf.data.Dataset` zeros.
    """
    arrays = None if callable(data) else as_arrays(data)
    if arrays is not None:
        return tree.map_structure(lambda x: None if x is None else x[:1], arrays)
    if not is_dataset(data):
        return None
    specs = tree.flatten(data.element_spec)
    if not all(type(x).__name__ == "TensorSpec" and _is_known(x) for x in specs):
        return None
    batch = tree.map_structure(_zeros, data.element_spec)
    return keras.utils.unpack_x_y_sample_weight(batch)


def _is_known(spec):
    return spec.shape.rank is not None and None not in spec.shape[1:]


def _zeros(spec):
    shape = [1 if size is None else size for size in spec.shape]
    kind = "str" if spec.dtype.name == "string" else spec.dtype.as_numpy_dtype
    return np.zeros(shape, kind)
