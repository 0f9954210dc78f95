"""Deep mutual learning: students that are each other's teachers, from the first step on.

Zhang, Xiang, Hospedales, Lu, "Deep Mutual Learning", 2018.
"""

import types

import keras
from keras import ops

from keras_kd import losses as losses_module
from keras_kd.losses import arguments
from keras_kd.losses.schedules import plain
from keras_kd.models.sharing import serialize_apart, share_weights, shared_layers
from keras_kd.models.symbolic import output_structure
from keras_kd.tasks.find import activation_before_loss, find_task
from keras_kd.tasks.heads import alone
from keras_kd.tasks.kinds import KINDS, OutputKinds
from keras_kd.training import checks
from keras_kd.training.batch import inputs_of
from keras_kd.training.loading import deserialize
from keras_kd.training.schedules import ScheduledModel
from keras_kd.training.several_steps import SeveralSteps
from keras_kd.training.teacher_and_student import check_order, check_students
from keras_kd.training.terms import Outputs, make_term, settled


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
        student_outputs: "logits" or "probabilities", of all students, or a dict of one for
            each student's name. By default logits, unless a student's answers are seen to
            be probabilities; that is then said in a warning.
        name: Defaults to "mutual_distiller".
        task: What the students' outputs mean, as `Distiller` takes it; one for all.
            Defaults to None: as they and the compiled loss show.

    None of them can be changed afterwards.

    Raises:
        ValueError: An argument is of the wrong kind or out of range, the students' inputs
            or outputs do not fit each other, two are one model or share variables that
            would be trained, a loss taps layers or makes some, or outputs are said to be
            probabilities and are not.

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

    fixed = ("students", "distillation_losses", "distillation_loss_weights")
    fixed += ("student_outputs", "task")
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
        task=None,
    ):
        students = check_students(students)
        # Inputs reach each student as they are, and it casts them as its own policy says.
        super().__init__(name=name, dtype=_policy_of_all(students), autocast=False)
        self.students = students
        self._order = tuple(students.values())
        if distillation_losses is None:
            distillation_losses = losses_module.SoftTargets(temperature=1.0)
        weighted = checks.weighted(distillation_losses, distillation_loss_weights)
        self.distillation_losses, self.distillation_loss_weights = weighted
        self.student_outputs, self.task = student_outputs, task
        shown = {activation_before_loss(x, said=task) for x in self._order}
        # Those that differ are known from the loss, or contradict it.
        self._activation = shown.pop() if len(shown) == 1 else "softmax"
        said = _check_said(student_outputs, students)
        first = next(iter(students.values()))
        self._kinds = {
            name: OutputKinds("student", model, said.get(name), other=first)
            for name, model in students.items()
        }
        for kinds in self._kinds.values():
            # Its loss on the labels takes one kind, too.
            kinds.need([None], compared=False)
        # For each student, the terms of each of its peers.
        self._terms = [
            [
                (k, self._term(loss, weight, peer, student))
                for k, peer in enumerate(students)
                if peer != student
                for loss, weight in zip(*weighted, strict=True)
                if weight != 0
            ]
            for student in students
        ]
        self.follow_schedules(
            self.distillation_loss_weights,
            [term.loss for terms in self._terms for _, term in terms],
        )
        self.student_loss_trackers = [
            keras.metrics.Mean(name=f"{name}_loss") for name in students
        ]
        self.distillation_loss_tracker = keras.metrics.Mean(name="distillation_loss")
        self.built = True
        for kinds in self._kinds.values():
            kinds.look(stacklevel=3)
        self._is_made = True

    def _term(self, loss, weight, peer, student):
        models = self.students[peer], self.students[student]
        kinds = self._kinds[peer], self._kinds[student]
        term = make_term(loss, weight, *models, *kinds, self._activation)
        if term.loss.taps or term.loss.makes_layers:
            raise ValueError(
                "`distillation_losses` of a MutualDistiller compare the students' own "
                "outputs, and neither tap layers nor make some. Received: "
                f"{term.loss!r}."
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

    def compile(
        self,
        optimizer="adam",
        loss=None,
        metrics=None,
        weighted_metrics=None,
        loss_weights=None,
        **kwargs,
    ):
        """As `keras.Model.compile`; losses and metrics are those of each student.

        Args:
            optimizer: Of all students' weights. Defaults to "adam".
            loss: On the labels: one loss, as for a model of one output.
            metrics, weighted_metrics: Lists, as for a model of one output; each student
                gets its own.
            loss_weights: One number, which the loss on the labels of each student is
                multiplied by; logs have it without. Defaults to 1.0.
            **kwargs: Passed to `keras.Model.compile`.

        Raises:
            ValueError: `loss` is None, or not one loss, or takes probabilities where a
                student gives logits; metrics are no list; `loss_weights` is no number >= 0.
        """
        if loss is None or isinstance(loss, (list, tuple, dict)):
            raise ValueError(
                "`loss` must be one loss, which is each student's. "
                f"Received: loss={loss!r}."
            )
        given = {"metrics": metrics, "weighted_metrics": weighted_metrics}
        of_each = {key: self._metrics_of_each(key, x) for key, x in given.items()}
        if loss_weights is not None:
            loss_weights = arguments.check_not_negative("loss_weights", loss_weights)
        # No dict, as Keras would take the metrics in it for the model's own.
        self._compiled_with = types.SimpleNamespace(
            loss=loss, loss_weights=loss_weights, **given
        )
        super().compile(optimizer=optimizer, loss=loss, **of_each, **kwargs)
        self._settle_task(loss)
        self._check_label_loss()

    def _settle_task(self, loss):
        """As the Distiller does; all students are for one task.

        Raises:
            ValueError: They are for several, or contradict the loss.
        """
        found = [find_task(model, loss, said=self.task) for model in self._order]
        if len({task for task, _ in found}) > 1:
            each = zip(self.students, found, strict=True)
            each = [f"{name!r} is for {task!r} ({why})" for name, (task, why) in each]
            raise ValueError(
                "`students` teach each other what their outputs mean, and these mean "
                f"several things: {', '.join(each)}. Give students of one task, or say it."
            )
        terms = tuple(term for terms in self._terms for _, term in terms)
        kinds, is_said = self._kinds.values(), self.task is not None
        self._activation, terms = settled(
            found[0], self._activation, terms, kinds, loss, is_said
        )
        terms = iter(terms)
        self._terms = [[(k, next(terms)) for k, _ in old] for old in self._terms]

    def _metrics_of_each(self, argument, metrics):
        if not isinstance(metrics, (list, tuple, type(None))):
            raise ValueError(
                f"`{argument}` must be a list, which is each student's. "
                f"Received: {argument}={metrics!r}."
            )
        return [list(map(_fresh, metrics)) for _ in self.students] if metrics else None

    def _check_label_loss(self):
        for name, kinds in self._kinds.items():
            loss = self._compiled_with.loss
            checks.check_label_loss(loss, self.students[name], kinds)

    def get_compile_config(self):
        # Of what our `compile` takes, not of what it made of it.
        config = super().get_compile_config()
        if config:
            serialize = keras.saving.serialize_keras_object
            given = vars(self._compiled_with)
            config |= {key: serialize(value) for key, value in given.items()}
        return config

    def call(self, inputs, training=None):
        if tuple(self.students.values()) != self._order:
            raise ValueError(
                "`students` of a MutualDistiller cannot be changed. Make a new one of the "
                f"models. Received: students={dict(self.students)!r}."
            )
        inputs = inputs_of(inputs)
        check_order(inputs, *self._order)
        # {"logits": ...} is one output.
        return [alone(x(inputs, training=training)) for x in self._order]

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The total loss of a batch, a scalar; without the peers where not in training.

        Raises:
            ValueError: There are no labels.
        """
        if y is None:
            raise ValueError("Mutual learning needs labels. Received: y=None.")
        if any(kinds.is_open() for kinds in self._kinds.values()):
            for kinds in self._kinds.values():
                kinds.look_in_step(x)
            self._check_label_loss()
        y, sample_weight = alone(y), alone(sample_weight)
        batch_size = ops.shape(y_pred[0])[0]
        total = ops.zeros((), "float32")
        for tracker, outputs in zip(self.student_loss_trackers, y_pred, strict=True):
            value = ops.cast(self._compile_loss(y, outputs, sample_weight), "float32")
            tracker.update_state(value, sample_weight=batch_size)
            total += value
        weight = self._compiled_with.loss_weights
        total = total if weight is None else weight * total
        self._distils = training
        if training:
            distillation_loss = self._distillation_loss(y, y_pred, sample_weight)
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
        return sum(values, start=ops.zeros((), "float32")) / (len(own) - 1)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        y, y_pred, sample_weight = self._of_each(y, sample_weight, y_pred)
        logs = super().compute_metrics(x, y, y_pred, sample_weight)
        if not self._distils:
            # The peers were not asked: nothing, rather than a zero that looks perfect.
            logs.pop("distillation_loss", None)
        return logs

    def metrics_see(self, y):
        outputs = [alone(output_structure(student)) for student in self._order]
        return self._of_each(y, None, outputs)[:2]

    def losses_see(self, y):
        # Each student's, one after the other.
        return alone(y), alone(output_structure(self._order[0]))

    def _of_each(self, y, sample_weight, y_pred):
        """Labels, outputs and weights, in lists of one for each student."""
        count = len(self.students)
        weights = None if sample_weight is None else [alone(sample_weight)] * count
        return [alone(y)] * count, y_pred, weights

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        weights = self.distillation_loss_weights
        return {
            "students": {k: serialize_apart(x) for k, x in self.students.items()},
            **shared_layers(self.students),
            "distillation_losses": list(map(serialize, self.distillation_losses)),
            "distillation_loss_weights": list(map(serialize, weights)),
            # With what was found, so that the loaded one need not look again.
            "student_outputs": {k: x.to_config() for k, x in self._kinds.items()},
            "name": self.name,
            "task": self.task,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        objects = {
            name: deserialize(name, config[name], custom_objects)
            for name in ("students", "distillation_losses", "distillation_loss_weights")
        }
        share_weights(objects["students"], config)
        kept = {k: x for k, x in config.items() if k != "shared_layers"}
        return cls(**(kept | objects))


def _check_said(student_outputs, students):
    """What is said of each student's outputs: dict of name to dict, for `OutputKinds`."""
    said = plain(student_outputs)
    if not isinstance(said, dict):
        said = dict.fromkeys(students, said)
    wrong = [
        x
        for x in said.values()
        if x is not None and not (isinstance(x, str) and x in KINDS)
    ]
    if wrong or not set(said) <= set(students):
        raise ValueError(
            "`student_outputs` must be None or one of 'logits', 'probabilities', or a dict "
            "of student's name to one of these. Received: "
            f"student_outputs={student_outputs!r}."
        )
    return {name: {None: kind} for name, kind in said.items() if kind is not None}


def _policy_of_all(students):
    """The policy by which `compile` decides on loss scaling: one that needs it, if any."""
    policies = [model.dtype_policy for model in students.values()]
    needs = [x for x in policies if x.name == "mixed_float16"]
    return (needs or policies)[0]


def _fresh(metric):
    """A metric of its own for each student; names and functions are no objects."""
    if not isinstance(metric, keras.metrics.Metric):
        return metric
    return type(metric).from_config(metric.get_config())
