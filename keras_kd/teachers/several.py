"""Several models as one teacher, each to be compared by losses of its own."""

import re

import keras

from keras_kd.models.sharing import serialize_apart, share_weights, shared_layers
from keras_kd.models.symbolic import input_structure
from keras_kd.tasks.heads import alone
from keras_kd.teachers.members import check_each, inputs_for


@keras.saving.register_keras_serializable(package="keras_kd")
class Several(keras.Model):
    """Several trained models as one teacher, each to be compared by losses of its own.

    Its outputs are a list of theirs, of one model its own. A loss taps one of the models by
    the path in `taps`, and a layer inside that model by what follows:
    "first/resnet/block3". The models run in inference mode.

    Args:
        models: dict of name to `keras.Model`, with symbolic inputs and one output each;
            they take the same inputs, and may give outputs of another shape.
        name: Defaults to "several".

    Attributes:
        taps: dict of the same names to the path of each model.

    Raises:
        ValueError: An argument is of the wrong kind, or the models' inputs differ.

    Example:

    ```python
    teacher = keras_kd.teachers.Several({"a": first, "b": second})
    losses = [SoftTargets(4.0, taps=(path, None)) for path in teacher.taps.values()]
    distiller = keras_kd.Distiller(teacher, student, losses)
    ```
    """

    def __init__(self, models, name="several"):
        if not isinstance(models, dict):
            raise ValueError(f"`models` must be a dict of models. Received: {models!r}.")
        wrong = [key for key in models if not re.fullmatch("[A-Za-z0-9_.-]+", str(key))]
        if wrong:
            raise ValueError(
                "The names of `models` are names of layers, of letters, digits and _.- "
                f"alone. Received: {wrong[0]!r}."
            )
        check_each(list(models.values()))
        first = next(iter(models.values()))
        inputs = input_structure(first)
        outputs = [
            Member(model, name=key)(inputs_for(model, first, inputs))
            for key, model in models.items()
        ]
        super().__init__(inputs, outputs, name=name)
        self.taps = {key: f"{key}/{model.name}" for key, model in models.items()}

    def get_config(self):
        models = {key: self.get_layer(key).model for key in self.taps}
        return {
            "models": {key: serialize_apart(x) for key, x in models.items()},
            **shared_layers(models),
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        models = {
            key: keras.saving.deserialize_keras_object(x, custom_objects)
            for key, x in config["models"].items()
        }
        share_weights(models, config)
        return cls(models, name=config["name"])


@keras.saving.register_keras_serializable(package="keras_kd")
class Member(keras.layers.Layer):
    """One model of a `Several`, under a name that the others do not have."""

    def __init__(self, model, name):
        # The model casts its inputs as its own policy says.
        super().__init__(name=name, autocast=False)
        self.model = model

    def call(self, inputs):
        return alone(self.model(inputs, training=False))
