"""Teachers without weights: a function, or none at all, whose outputs data carry."""

import keras

# What a function of NumPy arrays cannot do in a compiled step.
LIVE = (
    "The teacher {!r} is a function of NumPy arrays, which runs live on TensorFlow alone. "
    "Give what keras_kd.cache_teacher keeps of it, or keras_kd.with_teacher_outputs."
)
MISSING = (
    "`x` carries no teacher outputs, and there is no teacher model (teacher=None). Give "
    "data that keras_kd.with_teacher_outputs or keras_kd.cache_teacher made."
)


class WithoutWeights(keras.Model):
    """A teacher that has no weights and teaches all the same; its outputs are logits."""

    def __init__(self, name, **kwargs):
        super().__init__(name=name, **kwargs)
        self.built = True
        # A function of NumPy arrays is none of a compiler's.
        self.supports_jit = False


@keras.saving.register_keras_serializable(package="keras_kd")
class GivenOutputs(WithoutWeights):
    """What a Distiller without a teacher model has in its place.

    It has no weights and no layers, and does not run: data carry what a teacher said, under
    the names of its layers.
    """

    def __init__(self, name="given_outputs", **kwargs):
        super().__init__(name=name, **kwargs)
        # It is never in a step, so that nothing keeps that from being compiled.
        self.supports_jit = True

    def call(self, inputs, training=None):
        raise ValueError(MISSING)

    def get_config(self):
        return {"name": self.name}


def check_live(teacher):
    """Refuses a teacher that cannot be asked in a step; a ValueError."""
    if isinstance(teacher, GivenOutputs):
        raise ValueError(MISSING)
    if isinstance(teacher, WithoutWeights) and keras.backend.backend() != "tensorflow":
        raise ValueError(LIVE.format(teacher.name))


def asks_a_function(model):
    """Whether there is a teacher without weights in a model, or it is one."""
    return any(isinstance(x, WithoutWeights) for x in model._flatten_layers())
