"""Whose answers a batch carries: a teacher takes no other's for its own."""

import inspect

import keras
from keras import tree

from keras_kd.models.fingerprints import teacher_id
from keras_kd.models.given_outputs import MISSING, GivenOutputs, check_live
from keras_kd.training import batch
from keras_kd.training.teacher_and_student import check_inputs, check_order


def whose_answers(data):
    """Whose cached answers data carry, as far as that is seen without a batch of them.

    Args:
        data: What `fit` takes as x.

    Returns:
        As `keras_kd.training.batch.teacher_of`; None, too, for generators and the like.
    """
    return batch.teacher_of(structure_of(data))


def structure_of(data):
    """What `fit` takes as x, or what a tf.data.Dataset shows of its x."""
    spec = getattr(data, "element_spec", data)
    return spec[0] if isinstance(spec, tuple) and spec else spec


def student_of(model):
    """The student of a `Distiller`; any other model itself, whatever attributes it has."""
    return model.student if isinstance(model, KnowsItsTeacher) else model


def refusal(of, teacher_name, known, argument="x"):
    """A ValueError for the answers of somebody else.

    Args:
        of: Whose they are; "" where that is not known.
        teacher_name: Name of the teacher that they are not of.
        known: Its own id; None while it is not trained yet.
        argument: The one that carries them.
    """
    if not of:
        return ValueError(
            f"`{argument}` carries teacher outputs that do not say whose they are: they "
            "were stored by an earlier version of keras_kd, or packed by hand. Make the "
            "data anew with keras_kd.cache_teacher, which takes what it kept in a `path`; "
            "or give keras_kd.training.batch.encode `of`, "
            "keras_kd.models.fingerprints.teacher_id(teacher)."
        )
    now = "not trained yet" if known is None else known[:8]
    return ValueError(
        f"`{argument}` carries cached answers of another model than the teacher "
        f"{teacher_name!r}, or its own from before its weights changed. Give data that "
        "cache_teacher(teacher, ...) made with this teacher as it is now. In a chain that "
        "is `train_data` as a function of the stage's teacher, "
        "`lambda teacher: cache_teacher(teacher, ...).batch(...)`, or such data as "
        f"Stage(train_data=...). Received: answers of {of[:8]}; the teacher is {now}."
    )


class _Known:
    """What a model knows of its teacher; no layer, so that Keras does not track it."""

    teacher, id, is_fitting = None, None, False
    # Whether it was trained by answers to inputs of the teacher's own.
    is_taught_apart = False


class KnowsItsTeacher(keras.Model):
    """A model that takes cached answers of its own `teacher` alone.

    The traced step compares names that are part of the data's structure, so it does no more
    work than without. The teacher's weights are read once for each `fit` and `evaluate`
    whose data carry answers, and once for all calls of `train_on_batch`.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._known = _Known()

    def fit(self, x=None, y=None, *args, **kwargs):
        method = inspect.signature(keras.Model.fit)
        given = method.bind(self, x, y, *args, **kwargs).arguments
        validation = given.get("validation_data")
        _check_labels_of_weights(x, y, given.get("sample_weight"))
        if validation is x and getattr(x, "has_views", False):
            raise ValueError(
                "`validation_data` is the data set `x`, whose views would be shared out "
                "between the two. Give a part of its own: x.take(n) and x.skip(n) each "
                "count their views."
            )
        if isinstance(validation, tuple) and validation:
            name = "validation_data"
            _check_labels_of_weights(*(*validation, None, None)[:3], name=name)
            validation = validation[0]
        measured = validation if self.validation_distillation else None
        self._check_data(x=x, validation_data=measured)
        self._known.is_fitting = True
        try:
            return super().fit(x, y, *args, **kwargs)
        finally:
            self._known.is_fitting = False

    def evaluate(self, x=None, y=None, *args, **kwargs):
        given = inspect.signature(keras.Model.evaluate).bind(self, x, y, *args, **kwargs)
        # `fit` has looked at its validation data, and trains no teacher.
        if not self._known.is_fitting:
            _check_labels_of_weights(x, y, given.arguments.get("sample_weight"))
            self._check_data(x=x if self.validation_distillation else None)
        return super().evaluate(x, y, *args, **kwargs)

    def train_on_batch(self, x, *args, **kwargs):
        self._check_data(anew=False, x=x)
        return super().train_on_batch(x, *args, **kwargs)

    def test_on_batch(self, x, *args, **kwargs):
        if self.validation_distillation:
            self._check_data(anew=False, x=x)
        return super().test_on_batch(x, *args, **kwargs)

    def unpack_own(self, x):
        """As `keras_kd.training.batch.unpack`, of the answers of the model's own teacher.

        Raises:
            ValueError: They are another's, or it is not known whose; there are none, and
                no teacher model, or one that cannot take the inputs; or these are in a
                list, and the two models' orders differ.
        """
        of, is_apart = batch.teacher_of(x), batch.is_taught_apart(x)
        if of is None and isinstance(self.teacher, GivenOutputs):
            raise ValueError(MISSING)
        if of != batch.GIVEN and self._known.is_taught_apart and not is_apart:
            raise ValueError(
                f"The teacher {self.teacher.name!r} was asked on inputs of its own in "
                "training, and these data carry none, or its answers to the student's. "
                "Give keras_kd.with_teacher_inputs(...).batch(...) for validation, too, or "
                "what cache_teacher makes of it."
            )
        if of is None:
            check_inputs(x, self.teacher, self.student)
        self._known.is_taught_apart |= is_apart
        self._check_whose(of)
        if not is_apart:
            check_order(batch.inputs_of(x), self.teacher, self.student)
        return batch.unpack(x)

    def _check_whose(self, of, argument="x"):
        """Refuses answers of another teacher, in a traced step, too; None is no answers."""
        if of is not None and isinstance(self.teacher, GivenOutputs):
            # Whoever's they are, they are what is taught; of a model's nobody else knows.
            if of != batch.GIVEN and self.teacher_outputs is None:
                raise ValueError(
                    f"`{argument}` carries what was kept of a teacher model, which may be "
                    "logits or probabilities, and there is no teacher to ask (teacher="
                    "None). Say teacher_outputs='logits' or 'probabilities'."
                )
            return
        if of is None:
            return
        if of == self._id_of_teacher():
            return
        if not self._known.is_fitting:
            # It may have been changed since somebody looked.
            self._look_anew()
        if of != self._known.id:
            raise refusal(of, self.teacher.name, self._known.id, argument)

    def _check_data(self, anew=True, **data):
        if self.student_loss_weight == 1:
            return
        found = {name: whose_answers(x) for name, x in data.items()}
        without = [x for name, x in data.items() if x is not None and found[name] is None]
        for x in without:
            if not _hides_structure(x):
                # On JAX an error within the step would leave no weights behind.
                check_live(self.teacher)
                check_inputs(structure_of(x), self.teacher, self.student)
        found = {name: of for name, of in found.items() if of is not None}
        # Whose answers come of a generator shows when its step is traced, which is once,
        # and TensorFlow alone can look at the teacher then.
        is_hidden = any(map(_hides_structure, data.values()))
        is_traced = keras.backend.backend() != "tensorflow" or self._known.id is not None
        if anew and (found or (is_hidden and is_traced)):
            self._look_anew()
        for name, of in found.items():
            self._check_whose(of, name)

    def _look_anew(self):
        before, self._known.teacher = self._known.id, None
        if before not in (None, self._id_of_teacher()):
            # They compared with what the teacher was.
            self.train_function = self.test_function = None

    def _id_of_teacher(self):
        known = self._known
        if known.teacher is not self.teacher:
            known.id, known.teacher = _read_id(self.teacher), self.teacher
        return known.id


def _read_id(teacher):
    if keras.backend.backend() != "tensorflow":
        return teacher_id(teacher)
    import tensorflow as tf

    # While a step is traced variables have no values in it.
    with tf.init_scope():
        return teacher_id(teacher)


def _hides_structure(data):
    """Whether only a batch shows what data are of: a generator, a PyDataset."""
    if data is None or getattr(data, "element_spec", None) is not None:
        return False
    return any(getattr(x, "shape", None) is None for x in tree.flatten(data))


def _check_labels_of_weights(x, y, sample_weight, name=None):
    """Refuses weights that Keras would drop with the labels that are not there."""
    if y is None and sample_weight is not None:
        where = f"In `{name}`, `sample_weight`" if name else "`sample_weight`"
        raise ValueError(
            f"{where} is given without labels (`y`), and Keras then passes neither "
            "on. Give labels, too; or a tf.data.Dataset of (x, None, sample_weight), which "
            "weighs the distillation losses. Received: y=None."
        )
