"""The student learns the teacher's last features, and answers through its classifier.

Chen, Mei, Zhang, Wang, Feng, Chen, "Knowledge Distillation with the Reused Teacher
Classifier", 2022.
"""

import keras
from keras import ops

from keras_kd.losses import graphs
from keras_kd.losses.arguments import check_integer
from keras_kd.losses.features import (
    FeatureLoss,
    batch_to_normalise,
    left,
    make_batch_norm,
    make_projection,
    mean_of_left,
    mean_per_example,
    of_one_size,
    same_size,
)
from keras_kd.models.copies import copy_model
from keras_kd.models.symbolic import input_structure, symbolic_outputs


def simkd(teacher_features, student_features):
    """Mean squared difference of features, one value per example.

        loss_i = mean_k (teacher_ik - student_ik)**2

    Args:
        teacher_features: (batch, height, width, channels) or (batch, size).
        student_features: Those that the projector makes of the student's; the same but for
            height and width: the larger map of the two is averaged down to the other's.

    Returns:
        (batch,), float32 (float64 for float64 features).

    Reference:
        [Chen et al., 2022](https://arxiv.org/abs/2203.14001), equation 2.
    """
    teacher_features, student_features = of_one_size(teacher_features, student_features)
    return mean_per_example(ops.square(teacher_features - student_features))


@keras.saving.register_keras_serializable(package="keras_kd")
class SimKD(FeatureLoss):
    """Reused teacher classifier of Chen et al. 2022; identifier `"simkd"`.

        loss_i = mean_k (teacher_ik - p(student_i)_k)**2

    The projector p always exists and trains with the student. On maps it is convolutions of
    1 x 1, 3 x 3 and 1 x 1 without bias, each followed by a batch normalisation and a ReLU,
    with teacher channels / factor between them; on vectors, a linear map. A larger map of
    the two is averaged down to the other's height and width, the student's before p.

    Values and default are those of the authors' repository, DefangChen/SimKD, which takes
    the last maps, behind a ReLU and before the global pooling.

    The paper's student has no classifier of its own and sees no labels. So give a student
    that ends in its last maps, train with student_loss_weight=0, and take from
    `reuse_classifier` the model that answers:

        loss = kd.losses.SimKD(taps=("last_maps", None))
        distiller = kd.Distiller(teacher, student, loss, student_loss_weight=0.0)
        distiller.compile("adam")
        distiller.fit(train_ds, epochs=12)
        loss.reuse_classifier(teacher, student).save("student.keras")

    A student with a classifier, tapped before it, does too: that classifier is not trained,
    as Keras warns, and is left out.

    Args:
        factor: What the teacher's channels are divided by inside the projector, >= 1.
            Defaults to 2.
        taps: A pair of layer names, the teacher's first, of the last layers before the
            classifiers. Defaults to the models' own outputs.

    Raises:
        ValueError: `factor` is no integer of 1 or more, or `taps` is not one pair. In
            use: features of one rank are needed.

    Example:

    >>> loss = SimKD()
    >>> float(loss.compute_loss([[3.0, 1.0]], [[0.0, 0.0]]))
    5.0

    Reference:
        [Chen et al., 2022](https://arxiv.org/abs/2203.14001)
    """

    most_pairs = 1
    makes_layers = True
    leaves_out = True
    takes_training = True
    zero_at_agreement = False
    smallest_at_agreement = False
    uses_batch_statistics = True

    def __init__(self, factor=2, taps=None):
        super().__init__(taps)
        self.factor = check_integer("factor", factor, least=1)

    def make_layers(self, teacher_shapes, student_shapes):
        (teacher_shape,), (shape,) = teacher_shapes, student_shapes
        width = teacher_shape[-1]
        if len(shape) == 2:
            self.uses_batch_statistics = False
            return [make_projection(shape, width)]
        self.least_batch = batch_to_normalise([shape])
        between, layers = max(width // self.factor, 1), []
        for channels, kernel_size in ((between, 1), (between, 3), (width, 1)):
            layer = keras.layers.Conv2D(
                channels, kernel_size, padding="same", use_bias=False, dtype="float32"
            )
            layer.build((None, *shape[1:]))
            shape = (*shape[:-1], channels)
            layers += [layer, make_batch_norm(shape), keras.layers.ReLU(dtype="float32")]
        return layers

    def call(self, teacher_features, student_features, training=True, kept=None):
        teacher, student = same_size(teacher_features[0], student_features[0])
        (kept,) = kept or [None]
        for layer in self.layers:
            is_norm = isinstance(layer, keras.layers.BatchNormalization)
            more = {"training": training, "mask": kept} if is_norm else {}
            # Beside what is left there is nothing, as beside the map.
            student = left(layer(student, **more), kept)
        return mean_of_left(simkd(teacher, student), kept)

    def reuse_classifier(self, teacher, student, name="student"):
        """The student that answers through the teacher's classifier.

            inputs -> student up to its tap -> projector -> teacher after its tap

        A plain Functional model of copies, with the weights of now: it trains, saves and
        exports by itself, and changes nothing in the models it was made of.

        Args:
            teacher: The Functional or Sequential model that was distilled.
            student: The Functional or Sequential model that was trained by this loss.
            name: Name of the new model.

        Returns:
            A `keras.Model` with the student's inputs and the teacher's output.

        Raises:
            ValueError: The loss has no tap or is of no Distiller yet, a model is neither
                Functional nor Sequential, the teacher's classifier needs more than the
                tapped features, or maps of another size than the student's.
        """
        if not self.layers or not self.taps or self.taps[0].teacher is None:
            raise ValueError(
                "SimKD reuses what the teacher has after the tapped layer, so it needs "
                "taps, and to be trained in a Distiller before. Received: "
                f"taps={self.taps}, {len(self.layers)} layers."
            )
        for role, model in (("teacher", teacher), ("student", student)):
            if len(symbolic_outputs(model)) != 1:
                raise ValueError(
                    f"`{role}` must be a Functional or Sequential model with one output. "
                    f"Received: {role}={model!r}."
                )
        (pair,) = self.taps
        first, *others = graphs.up_to(copy_model(student), pair.student)
        x = first.outputs[0]
        for part in others:
            x = part(x)
        for layer in self._averaging() + self.layers:
            # Under a name that the student's own layers will not have.
            config = layer.get_config() | {"name": f"projector_{layer.name}"}
            copy = type(layer).from_config(config)
            x = copy(x)
            copy.set_weights(layer.get_weights())
        for part in graphs.after(copy_model(teacher), pair.teacher):
            x = graphs.for_inputs(part, x.shape)(x)
        return keras.Model(input_structure(first), x, name=name)

    def _averaging(self):
        """The layer that makes the student's maps as small as the teacher's, or none."""
        (teacher_shape,), (shape,) = self._built_for
        sizes = teacher_shape[:-1], shape[:-1]
        if sizes[0] != sizes[1] and None in (*sizes[0], *sizes[1]):
            raise ValueError(
                "The height and width of maps that differ must be known to make a model of "
                f"them. Received: sizes {sizes[0]} (teacher) and {sizes[1]} (student)."
            )
        size = tuple(map(min, zip(*sizes, strict=True))) if sizes[0] != sizes[1] else ()
        if size in ((), sizes[1]):
            return ()
        if any(old % new for old, new in zip(sizes[1], size, strict=True)):
            return (keras.layers.AdaptiveAveragePooling2D(size, dtype="float32"),)
        window = tuple(old // new for old, new in zip(sizes[1], size, strict=True))
        return (keras.layers.AveragePooling2D(window, dtype="float32"),)
