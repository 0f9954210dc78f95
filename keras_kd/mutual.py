"""Deep mutual learning: students that are each other's teachers, from the first step on.

Zhang, Xiang, Hospedales, Lu, "Deep Mutual Learning", 2018.
"""

import types

import keras
from keras import ops

from keras_kd import checks
from keras_kd import losses as losses_module
from keras_kd.batch import inputs_of
from keras_kd.scheduled import ScheduledModel
from keras_kd.several_steps import SeveralSteps
from keras_kd.terms import Outputs, make_term


@keras.saving.register_keras_serializable(package="keras_kd")
class MutualDistiller(ScheduledModel, SeveralSteps):
    """Trains students together, each on the labels and on what its peers answer.

        total = sum over the students k of
                student_loss_k + sum_i w_i * mean over its peers l of loss_i(l teaches k)
              + the students' own regularisation losses (added once, unscaled)

    A peer's answers are constants to the student that it teaches, so each student has the
    gradient of its own terms alone. All students are updated at once, from the answers of
    the same step, by one optimizer (with clipping by the global norm, over all of them).
    The authors alternate: they update the students in turn, each from its peers' new
    answers. Their repository, YingZhangDUT/Deep-Mutual-Learning, also sums over the peers
    where the paper has the mean, which `distillation_loss_weights` of their number gives.

    `call` and `predict` give a list of outputs, one for each student. `compile` takes one
    loss and the metrics of one student; logs have them under the student's name,
    "small_loss" and "small_accuracy". In validation the peers are not asked: `loss` is then
    the sum of the students' losses on the labels and of the regularisation losses.

    Args:
        students: Two or more built `keras.Model`s that take the same inputs, each of one
            output (batch, num_classes): a list, or a dict of name to model. Of a list the
            names are the models' own.
        distillation_losses: A distillation loss, an identifier, or a list of them, that
            compare the models' own outputs; see `keras_kd.losses`. Defaults to soft targets
            at temperature 1.0, the paper's divergence.
        distillation_loss_weights: One number >= 0, or a schedule, per distillation loss.
            Defaults to 1.0 for each, the paper's.
        student_outputs: "logits" or "probabilities", of all students. By default logits,
            unless a student ends in a softmax; that is then said in a warning.
        name: Defaults to "mutual_distiller".

    Raises:
        ValueError: An argument is of the wrong kind or out of range, the students' inputs
            or outputs do not fit each other, two are one model or share variables that
            would be trained, or a loss taps layers or makes some.

    Example:

    ```python
    mutual = MutualDistiller({"small": small, "large": large})
    mutual.compile("adam", SparseCategoricalCrossentropy(from_logits=True), ["accuracy"])
    mutual.fit(train_ds, validation_data=val_ds, epochs=12)
    mutual.students["small"].save("small.keras")
    ```

    Reference:
        [Zhang et al., 2018](https://arxiv.org/abs/1706.00384), equations 4 to 8.
    """

    # Whether the last loss had the peers in it; JAX builds metrics before any loss.
    _distils = True

    def __init__(
        self,
        students,
        distillation_losses=None,
        distillation_loss_weights=None,
        *,
        student_outputs=None,
        name="mutual_distiller",
    ):
        students = _check_students(students)
        super().__init__(name=name, dtype=next(iter(students.values())).dtype_policy)
        self.students = students
        if distillation_losses is None:
            distillation_losses = losses_module.SoftTargets(temperature=1.0)
        if not isinstance(distillation_losses, (list, tuple)):
            distillation_losses = [distillation_losses]
        self.distillation_losses = [losses_module.get(x) for x in distillation_losses]
        self.distillation_loss_weights = checks.check_weights(
            distillation_loss_weights, count=len(self.distillation_losses)
        )
        self.student_outputs = checks.check_one_of(
            "student_outputs", student_outputs, ("logits", "probabilities")
        )
        # For each student, the terms of each of its peers.
        self._terms = [
            [
                (k, self._term(loss, weight, peer, student))
                for k, peer in enumerate(students.values())
                if peer is not student
                for loss, weight in zip(
                    self.distillation_losses, self.distillation_loss_weights, strict=True
                )
                if weight != 0
            ]
            for student in students.values()
        ]
        self.follow_schedules(
            self.distillation_loss_weights,
            [term.loss for terms in self._terms for _, term in terms],
        )
        self.distillation_loss_tracker = keras.metrics.Mean(name="distillation_loss")
        self.built = True

    def _term(self, loss, weight, peer, student):
        kind = self.student_outputs
        term = make_term(loss, weight, peer, student, kind, kind)
        if term.loss.taps or term.loss.makes_layers:
            raise ValueError(
                "A MutualDistiller compares the students' own outputs, with losses that "
                f"neither tap layers nor make some. Received: {term.loss!r}."
            )
        return term

    @property
    def output_names(self):
        """The students' names, under which logs have their losses and metrics."""
        return list(self.students)

    def check_replicas(self, count):
        """Refuses more than one replica.

        Raises:
            ValueError: There are more.
        """
        if count > 1:
            raise ValueError(
                "A MutualDistiller is trained on one device. Received: a strategy with "
                f"{count} replicas. Make it outside of the strategy's scope."
            )

    def compile(self, optimizer="adam", loss=None, metrics=None, **kwargs):
        """As `keras.Model.compile`; `loss` and `metrics` are those of each student.

        Args:
            optimizer: Of all students' weights. Defaults to "adam".
            loss: On the labels: one loss, as for a model of one output.
            metrics: A list, as for a model of one output; each student gets its own.
            **kwargs: Passed to `keras.Model.compile`.

        Raises:
            ValueError: `loss` is None, or not one loss; `metrics` is no list.
        """
        if loss is None or isinstance(loss, (list, tuple, dict)):
            raise ValueError(
                "`loss` must be one loss, which is each student's. "
                f"Received: loss={loss!r}."
            )
        if not isinstance(metrics, (list, tuple, type(None))):
            raise ValueError(
                "`metrics` must be a list, which is each student's. "
                f"Received: metrics={metrics!r}."
            )
        # No dict, as Keras would take the metrics in it for the model's own.
        self._compiled_with = types.SimpleNamespace(loss=loss, metrics=metrics)
        of_each = [[_fresh(x) for x in metrics or ()] for _ in self.students]
        super().compile(optimizer=optimizer, loss=loss, metrics=of_each, **kwargs)

    def get_compile_config(self):
        # Of what our `compile` takes, not of what it made of it.
        config = super().get_compile_config()
        if config:
            serialize = keras.saving.serialize_keras_object
            given = vars(self._compiled_with)
            config |= {key: serialize(value) for key, value in given.items()}
        return config

    def compile_from_config(self, config):
        # Keras skips this for a class with its own `compile`; ours takes the same.
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def call(self, inputs, training=None):
        inputs = inputs_of(inputs)
        return [x(inputs, training=training) for x in self.students.values()]

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The total loss of a batch, a scalar; without the peers where not in training.

        Raises:
            ValueError: There are no labels.
        """
        if y is None:
            raise ValueError("Mutual learning needs labels. Received: y=None.")
        total = self._compile_loss(*self._of_each(y, sample_weight, y_pred))
        total = ops.cast(total, "float32")
        self._distils = training
        if training:
            distillation_loss = self._distillation_loss(y, y_pred, sample_weight)
            batch_size = ops.shape(y_pred[0])[0]
            self.distillation_loss_tracker.update_state(
                distillation_loss, sample_weight=batch_size
            )
            total += distillation_loss
        for loss in self.losses:
            total += ops.sum(ops.cast(loss, "float32"))
        return total

    def _distillation_loss(self, y, y_pred, sample_weight):
        step = self.current_step(training=True)
        own = [Outputs(x, {}) for x in y_pred]
        peers = [Outputs(ops.stop_gradient(x), {}) for x in y_pred]
        values = [
            term.compute(peers[k], outputs, y, sample_weight, step)
            for outputs, terms in zip(own, self._terms, strict=True)
            for k, term in terms
        ]
        # The mean over the peers, of whom every student has as many.
        return sum(values, start=ops.zeros(())) / (len(own) - 1)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        y, y_pred, sample_weight = self._of_each(y, sample_weight, y_pred)
        logs = super().compute_metrics(x, y, y_pred, sample_weight)
        if not self._distils:
            # The peers were not asked: nothing, rather than a zero that looks perfect.
            logs.pop("distillation_loss", None)
        return logs

    def _of_each(self, y, sample_weight, y_pred):
        """Labels, outputs and weights, in lists of one for each student."""
        count = len(self.students)
        weights = None if sample_weight is None else [sample_weight] * count
        return [y] * count, y_pred, weights

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        weights = self.distillation_loss_weights
        return {
            "students": {name: serialize(x) for name, x in self.students.items()},
            "distillation_losses": list(map(serialize, self.distillation_losses)),
            "distillation_loss_weights": list(map(serialize, weights)),
            "student_outputs": self.student_outputs,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        def deserialize(value):
            return keras.saving.deserialize_keras_object(value, custom_objects)

        objects = {"students": {k: deserialize(x) for k, x in config["students"].items()}}
        for name in ("distillation_losses", "distillation_loss_weights"):
            objects[name] = list(map(deserialize, config[name]))
        return cls(**(config | objects))


def _check_students(students):
    """`students` as a dict of name to model, if they can learn together."""
    if isinstance(students, (list, tuple)):
        names = [getattr(model, "name", None) for model in students]
        if len(set(names)) < len(names):
            raise ValueError(
                "`students` need names that differ; give a dict of name to model. "
                f"Received: {', '.join(map(repr, names))}."
            )
        students = dict(zip(names, students, strict=True))
    if not isinstance(students, dict) or len(students) < 2:
        raise ValueError(
            "`students` must be a list of two or more keras.Models, or a dict of name to "
            f"model. Received: {students!r}."
        )
    models = list(students.values())
    for i, (name, model) in enumerate(students.items()):
        if not isinstance(model, keras.Model) or not model.built:
            raise ValueError(
                f"`students` must be built keras.Models. Received: {model!r} as {name!r}."
            )
        for other in models[:i]:
            checks.check_peers(other, model)
    return dict(students)


def _fresh(metric):
    """A metric of its own for each student; names and functions are no objects."""
    if not isinstance(metric, keras.metrics.Metric):
        return metric
    return type(metric).from_config(metric.get_config())
