"""A teacher that sees the student's inputs through Keras layers of its own."""

import keras
from keras import tree

from keras_kd.losses.ops import fits_shape
from keras_kd.models.symbolic import input_shapes, input_structure


@keras.saving.register_keras_serializable(package="keras_kd")
class Preprocessed(keras.Model):
    """A teacher for another size, scale or colour order than the student's inputs.

        output = teacher(preprocessing(inputs))

    Both run in inference mode. Its layers are tapped by the path through the teacher,
    "resnet/block3"; the student's file and export know nothing of it.

    Args:
        teacher: A built `keras.Model`.
        preprocessing: What makes the teacher's inputs of the student's: a `keras.Model`; or
            a Keras layer, a list of them, or a function of `keras.ops` of one tensor.
        input_shape: Of one of the student's examples, where `preprocessing` is no
            `keras.Model`, which knows its own. Defaults to that of the teacher's inputs.
        name: Defaults to "preprocessed".

    Raises:
        ValueError: An argument is of the wrong kind, `input_shape` is given for a
            `keras.Model`, or what `preprocessing` makes is not what the teacher takes.

    Example:

    ```python
    # A teacher of 224x224 RGB in [-1, 1] for a student of 96x96 grey in [0, 1].
    seen = keras_kd.teachers.Preprocessed(teacher, [
        keras.layers.Resizing(224, 224),
        keras.layers.Rescaling(2.0, offset=-1.0),
        lambda images: keras.ops.repeat(images, 3, axis=-1),
    ], input_shape=(96, 96, 1))
    ```
    """

    def __init__(self, teacher, preprocessing, input_shape=None, name="preprocessed"):
        if not isinstance(teacher, keras.Model) or not teacher.built:
            raise ValueError(
                f"`teacher` must be a keras.Model that is built. Received: {teacher!r}."
            )
        steps = _as_model(preprocessing, input_shape, teacher)
        inputs = input_structure(steps)
        seen = steps(inputs, training=False)
        _check(seen, teacher)
        super().__init__(inputs, teacher(seen, training=False), name=name)
        self._steps, self._teacher = steps, teacher

    def call(self, inputs, training=None, mask=None):
        # In inference mode whatever it is part of.
        return super().call(inputs, training=False, mask=mask)

    @property
    def teacher(self):
        """The teacher, as it was given."""
        return self._teacher

    @property
    def preprocessing(self):
        """What makes its inputs, a `keras.Model`."""
        return self._steps

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        models = {"teacher": self._teacher, "preprocessing": self._steps}
        return {key: serialize(x) for key, x in models.items()} | {"name": self.name}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        models = {
            key: keras.saving.deserialize_keras_object(config[key], custom_objects)
            for key in ("teacher", "preprocessing")
        }
        return cls(**models, name=config["name"])


def _as_model(preprocessing, input_shape, teacher):
    """The preprocessing as a `keras.Model` that knows its inputs.

    Its name is none that the teacher may have.
    """
    name = "preprocessing" if teacher.name != "preprocessing" else "preprocessing_before"
    shapes = input_shapes(preprocessing)
    if shapes:
        if input_shape is not None:
            raise ValueError(
                "`input_shape` is for layers and functions; the keras.Model "
                f"`preprocessing` takes {shapes}. Received: input_shape={input_shape!r}."
            )
        if preprocessing.name == name:
            # As it comes back from a file, in which it would be one layer deeper each time.
            return preprocessing
        inputs = input_structure(preprocessing)
        return keras.Model(inputs, preprocessing(inputs), name=name)
    several = isinstance(preprocessing, (list, tuple))
    steps = list(preprocessing) if several else [preprocessing]
    wrong = [x for x in steps if not callable(x) or isinstance(x, type)]
    if wrong or not steps:
        raise ValueError(
            "`preprocessing` must be a keras.Model, a Keras layer, a list of layers, or a "
            f"function. Received: {(wrong or [preprocessing])[0]!r}."
        )
    inputs = keras.Input(_shape(input_shape, teacher))
    tensor = inputs
    for step in steps:
        try:
            tensor = step(tensor)
        except (TypeError, ValueError, AttributeError, NotImplementedError) as error:
            if isinstance(step, keras.layers.Layer):
                raise
            raise ValueError(
                "`preprocessing` must be of Keras layers and functions of `keras.ops`, so "
                "that it can be saved and runs on any backend. Received: "
                f"{step!r}, which stops with {type(error).__name__}: {error}"
            ) from error
    return keras.Model(inputs, tensor, name=name)


def _shape(input_shape, teacher):
    """The shape of one example of the student's."""
    known = input_shapes(teacher)
    if input_shape is None and len(known) == 1:
        return known[0][1:]
    is_shape = isinstance(input_shape, (list, tuple)) and all(
        size is None or (isinstance(size, int) and size > 0) for size in input_shape
    )
    if not is_shape:
        raise ValueError(
            "`input_shape` must be the shape of one example, as (96, 96, 1), None where a "
            f"size is free. Received: input_shape={input_shape!r}."
        )
    return tuple(input_shape)


def _check(seen, teacher):
    """Refuses what the teacher does not take, by shape."""
    found = [tuple(x.shape) for x in tree.flatten(seen)]
    takes = input_shapes(teacher)
    fit = len(found) == len(takes) and all(map(fits_shape, found, takes))
    if takes and not fit:
        raise ValueError(
            f"`preprocessing` must give what `teacher` {teacher.name!r} takes, "
            f"{', '.join(map(str, takes))}. Received: {', '.join(map(str, found))}."
        )
