"""The Distiller: a keras.Model whose `fit` teaches a student under a frozen teacher."""

import keras
from keras import ops, tree

from keras_kd.distribution.replicas import scaled, unscaled, zero_if_empty
from keras_kd.models.taps import Taps
from keras_kd.tasks.find import activation_before_loss, find_task
from keras_kd.tasks.kinds import OutputKinds, check_said
from keras_kd.training import batch, checks
from keras_kd.training.loading import distiller_arguments, distiller_config
from keras_kd.training.schedules import ScheduledModel
from keras_kd.training.several_steps import SeveralSteps
from keras_kd.training.teacher_and_student import check_models, with_weights_or_not
from keras_kd.training.terms import Outputs, make_term, settled
from keras_kd.training.train_step import (
    OneStep,
    TrainsStudent,
    check_trains,
    loss_terms,
    tensorflow_train_step,
)
from keras_kd.training.whose_answers import KnowsItsTeacher


@keras.saving.register_keras_serializable(package="keras_kd")
class Distiller(ScheduledModel, KnowsItsTeacher, TrainsStudent, SeveralSteps):
    """Trains a student under a frozen teacher with Keras's own `compile` and `fit`.

        total = student_loss_weight * student_loss
              + (1 - student_loss_weight) * sum(w_i * distillation_loss_i)
              + the student's own regularisation losses (added once, unscaled)

    The constructor takes the arguments of `keras.distillation.Distiller`, in the same
    order. The teacher runs in inference mode and is never updated; its `trainable` is
    left as it is. `call`, `predict`, `evaluate` and `export` see the student alone.
    Validation does not run the teacher unless asked to: `val_loss` is then the student's
    loss on the labels plus its regularisation losses.

    Args:
        teacher: A built `keras.Model`; or None, where the data carry what a teacher said
            (`keras_kd.with_teacher_outputs`).
        student: A `keras.Model` that takes the same inputs, unless the data carry others
            for the teacher (`keras_kd.with_teacher_inputs`) or its answers.
        distillation_losses: A distillation loss, an identifier ("kd"), or a list of
            them. See `keras_kd.losses`; Keras's own loss objects, and any object with
            their `compute_loss`, are taken as they are.
        distillation_loss_weights: One number >= 0 per distillation loss. Defaults to
            1.0 for each. A `keras.optimizers.schedules.LearningRateSchedule` in its place,
            and in that of `student_loss_weight` and of a loss's `temperature`, is read at
            the optimizer's iterations.
        student_loss_weight: Weight of the loss on the labels, between 0 and 1. Defaults
            to 0.5, which is also the published MNIST experiment's. At 1 the teacher
            does not run; at 0 no labels are needed.
        name: Defaults to "distiller".
        teacher_outputs: "logits" or "probabilities", of the teacher's own outputs. By
            default logits, unless its answers are seen to be probabilities; that is then
            said in a warning. Losses on logits receive log(p) of probabilities. Tapped
            layers are looked at one by one; a dict of layer name to kind says it of these.
        student_outputs: The same of the student. Its loss on the labels is what
            `compile` is given.
        validation_distillation: Whether `evaluate` and validation run the teacher too;
            `val_loss` is then the weighted total, as in training. Defaults to False.
            Losses that remember training examples (`needs_index`) do not take it.
        task: What the student's outputs mean: "multiclass", one class is right; "binary",
            one unit, a yes or no; "multilabel", each unit a yes or no of its own;
            "regression", numbers. Defaults to None: as its last activation, its number of
            units and the compiled loss show, which is said in a warning where it is not
            "multiclass". Of a student with several outputs it is not looked up.
        **kwargs: Passed to `keras.Model`.

    None of them can be changed afterwards.

    Raises:
        ValueError: An argument is of the wrong kind or out of range, the models'
            outputs or tapped layers do not fit each other, student and teacher share
            variables that would be trained, or outputs are said to be probabilities
            and are not.

    Example:

    ```python
    distiller = Distiller(teacher, student, SoftTargets(temperature=4.0))
    distiller.compile("adam", SparseCategoricalCrossentropy(from_logits=True))
    distiller.fit(train_ds, validation_data=val_ds, epochs=12)
    ```
    """

    fixed = ("teacher", "student", "distillation_losses", "distillation_loss_weights")
    fixed += ("student_loss_weight", "teacher_outputs", "student_outputs")
    fixed += ("validation_distillation", "task")

    def __init__(
        self,
        teacher,
        student,
        distillation_losses,
        distillation_loss_weights=None,
        student_loss_weight=0.5,
        name="distiller",
        *,
        teacher_outputs=None,
        student_outputs=None,
        validation_distillation=False,
        task=None,
        **kwargs,
    ):
        teacher, said = with_weights_or_not(teacher, teacher_outputs)
        check_models(teacher, student)
        # The student's policy decides whether `compile` adds loss scaling; inputs reach
        # each model as they are, and it casts them as its own policy says.
        kwargs.setdefault("dtype", student.dtype_policy)
        super().__init__(name=name, **{"autocast": False} | kwargs)
        self.teacher = teacher
        self.student = student
        weighted = checks.weighted(distillation_losses, distillation_loss_weights)
        self.distillation_losses, self.distillation_loss_weights = weighted
        self.student_loss_weight = checks.label_weight(student_loss_weight, weighted[1])
        self.teacher_outputs, self.student_outputs = teacher_outputs, student_outputs
        self.teacher_kinds = OutputKinds("teacher", teacher, said, other=student)
        said = check_said("student_outputs", student_outputs)
        self.student_kinds = OutputKinds("student", student, said, other=teacher)
        # Its loss on the labels takes one kind, too.
        self.student_kinds.need([None], compared=False)
        self.validation_distillation = checks.check_validates(validation_distillation)
        kinds = self.teacher_kinds, self.student_kinds
        self.task = task
        self._activation = activation_before_loss(student, teacher, task)
        terms = tuple(
            make_term(loss, weight, teacher, student, *kinds, self._activation)
            for loss, weight in zip(*weighted, strict=True)
        )
        self._terms, losses = terms, [term.loss for term in terms]
        checks.check_losses(teacher, losses, self.validation_distillation)
        # An attribute, so that Keras tracks their weights and saves them.
        self.loss_layers = [layer for loss in losses for layer in loss.layers]
        self._teacher_taps = Taps(teacher, {x for t in terms for x in t.teacher.names})
        self._student_taps = Taps(student, {x for t in terms for x in t.student.names})
        self.follow_schedules([self.student_loss_weight, *weighted[1]], losses)
        self._step = OneStep()
        self.student_loss_tracker = keras.metrics.Mean(name="student_loss")
        self.distillation_loss_tracker = keras.metrics.Mean(name="distillation_loss")
        self.total_loss_tracker = keras.metrics.Mean(name="total_loss")
        self.built = student.built
        for each in kinds:
            each.look(stacklevel=3)
        self._is_made = True

    def build(self, input_shape):
        if not self.student.built:
            self.student.build(batch.inputs_of(input_shape))
        self.built = True

    @property
    def layers(self):
        """Teacher, student, and the layers of losses: whose weights a file holds."""
        models = [x for x in (self.teacher, self.student) if x is not None]
        return models + self.loss_layers

    @property
    def losses(self):
        """The student's own: regularisation, and what its layers add."""
        # Keras's JAX trainer hands over what it collected during the forward pass.
        return self._losses_override or self.student.losses

    @property
    def output_names(self):
        """The student's, so that `compile` takes losses and metrics by output name."""
        return self.student.output_names

    def compile(self, optimizer="adam", loss=None, metrics=None, **kwargs):
        """As `keras.Model.compile`; `loss` is the student's loss on the labels.

        Args:
            optimizer: Of the student's weights.
            loss: What `keras.Model.compile` takes. May be None only if
                `student_loss_weight` is 0. What it leaves out, by Keras's mask or an
                `ignore_class`, the distillation losses leave out, too.
            metrics: What `keras.Model.compile` takes; they see labels and the
                student's outputs.
            **kwargs: Passed to `keras.Model.compile`. Without `steps_per_execution`, on
                TensorFlow up to 8 batches are trained on in a compiled call unless a
                callback looks at each; else it is as with 1. `device_bytes`: most of
                examples and teacher outputs in memory that `fit` puts on the device.

        Raises:
            ValueError: `loss` is None although it has a weight, or takes probabilities of
                a student of logits; or `device_bytes` is no number of bytes.
        """
        if loss is None and self.student_loss_weight != 0:
            raise ValueError(
                "`loss`, the student's loss on the labels, is needed because "
                f"student_loss_weight={self.student_loss_weight}. Received: loss=None."
            )
        # Of no metrics Keras makes an object, too, that wants labels.
        super().compile(optimizer=optimizer, loss=loss, metrics=metrics or None, **kwargs)
        self._settle_task(loss)
        checks.check_label_loss(loss, self.student, self.student_kinds)

    def _settle_task(self, loss):
        """Has losses compare what the outputs mean, now that the labels' loss is known."""
        found = find_task(self.student, loss, self.teacher, self.task)
        kinds = self.teacher_kinds, self.student_kinds
        self._activation, self._terms = settled(
            found, self._activation, self._terms, kinds, loss, self.task is not None
        )

    def fit(self, x=None, y=None, *args, **kwargs):
        """As `keras.Model.fit`, after a look at the teacher and at data in memory.

        Raises:
            ValueError: As `checks.check_fit`; or `compile` was not called, the teacher
                takes other inputs, `x` carries another teacher's answers, labels are
                missing beside weights, or there was no batch.
        """
        self._assert_compile_called("fit")
        if self.student.built:
            # On JAX an error within the step would leave no weights behind.
            check_trains(self)
        checks.check_batch_size([term.loss for term in self._terms], x, *args, **kwargs)
        checks.check_fit(self, x, y, args, kwargs)
        history = super().fit(x, y, *args, **kwargs)
        if history.epoch and "loss" not in history.history:
            raise ValueError("`x` holds no batches, so nothing was trained.")
        return history

    def call(self, inputs, training=None, **kwargs):
        inputs = batch.inputs_of(inputs)
        outputs, taps = self._student_taps.call(inputs, training=training, **kwargs)
        if training or self.validation_distillation:
            self._step.student = Outputs(outputs, taps)
        return outputs

    def check_replicas(self, count):
        """Refuses losses with a memory, which each replica would fill for itself."""
        checks.check_replicas(self.distillation_losses, count)

    def run_teacher(self, x):
        """The teacher's `Outputs` of a batch, in inference mode, as constants.

        It does not run where `x` carries what `cache_teacher` kept of it, and where no
        distillation loss has a weight.

        Raises:
            ValueError: What was kept is another's, or lacks what a loss compares.
        """
        if self.student_loss_weight == 1:
            return Outputs(None, {})
        checks.check_top_k(batch.holds_top_k(x), self._terms)
        _, kept = self.unpack_own(x)
        if kept is not None:
            needed = {name for term in self._terms for name in term.teacher.names}
            return checks.check_kept(Outputs(*kept), needed)
        inputs = batch.teacher_inputs_of(x)
        outputs = Outputs(*self._teacher_taps.call(inputs, training=False))
        return tree.map_structure(ops.stop_gradient, outputs)

    def compute_student_loss(self, y, y_pred, sample_weight):
        """The compiled loss on the labels, a float32 scalar.

        Raises:
            ValueError: There are no labels, or no loss was given to `compile`.
        """
        if y is None or self._compile_loss is None:
            missing = "labels (y) are" if y is None else "`loss`, given to compile, is"
            raise ValueError(
                f"{missing} missing. They are needed where student_loss_weight > 0, "
                "and in validation unless validation_distillation=True."
            )
        return ops.cast(unscaled(self._compile_loss(y, y_pred, sample_weight)), "float32")

    def compute_distillation_loss(
        self, y, sample_weight, teacher, student, step=0, index=None, training=True
    ):
        """The weighted sum of the distillation losses, a float32 scalar.

        Losses whose weight is zero are not computed. `teacher` and `student` are
        `Outputs`; schedules are read at `step`; `index` holds the examples' numbers.
        """
        values = [
            term.compute(teacher, student, y, sample_weight, step, index, training)
            for term in self._terms
            if term.weight != 0
        ]
        return sum(values, start=ops.zeros((), "float32"))

    def compute_loss(
        self,
        x=None,
        y=None,
        y_pred=None,
        sample_weight=None,
        training=True,
        teacher=None,
    ):
        """The total loss of a batch, a scalar; also updates the three loss metrics.

        Under a `tf.distribute` strategy divided by the number of replicas, as Keras's are.

        Args:
            x: Inputs, for the teacher.
            y: Labels.
            y_pred: The student's outputs; computed from `x` where None.
            sample_weight: (batch,) or None.
            training: False leaves the teacher out, unless `validation_distillation`.
            teacher: The teacher's `Outputs` of `x`, where they are known already.
        """
        if y_pred is None:
            y_pred = self(x, training=training)
        self._look_once(x)
        student = self._step.take_student(y_pred)
        self._step.distils = training or self.validation_distillation
        if student is None and self._step.distils and self._student_taps.names:
            # `y_pred` is not from the last pass; its taps need one of their own.
            again = self._step.take_student(self(x, training=training))
            student = Outputs(y_pred, again.taps)
        student = student or Outputs(y_pred, {})
        if self._step.distils and teacher is None:
            teacher = self.run_teacher(x)
        step, index = self.current_step(training), batch.index_of(x)
        terms = loss_terms(
            self, y, y_pred, sample_weight, teacher, student, step, index, training
        )
        batch_size = ops.shape(tree.flatten(y_pred)[0])[0]
        for name, value in terms.items():
            value = terms[name] = zero_if_empty(value, batch_size)
            tracker = getattr(self, f"{name}_tracker")
            tracker.update_state(value, sample_weight=batch_size)
        return scaled(terms["total_loss"])

    def _look_once(self, x):
        """Finds in the first step what the models give, where it could not before."""
        kinds = self.teacher_kinds, self.student_kinds
        if any(each.is_open() for each in kinds):
            self.teacher_kinds.look_in_step(batch.teacher_inputs_of(x))
            self.student_kinds.look_in_step(batch.inputs_of(x))
            checks.check_label_loss(self.loss, self.student, self.student_kinds)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        if y is None and self._compile_metrics is not None:
            raise ValueError(
                "`metrics`, given to compile, need labels. Received: y=None. Give "
                "metrics=None (a Stage has accuracy by default), or labels."
            )
        logs = super().compute_metrics(x, y, y_pred, sample_weight)
        if not self._step.distils:
            # The teacher did not run: nothing, rather than a zero that looks perfect.
            logs.pop("distillation_loss", None)
        return logs

    def train_step(self, *args, **kwargs):
        if keras.backend.backend() != "tensorflow":
            return super().train_step(*args, **kwargs)
        return tensorflow_train_step(self, *args, **kwargs)

    def predict_step(self, *args, **kwargs):
        try:
            return super().predict_step(*args, **kwargs)
        finally:
            # No loss will take them, and a traced step must leave no tensors behind.
            self._step.student = None

    def save(self, filepath, overwrite=True, include_teacher=True, **kwargs):
        """As `keras.Model.save`: teacher, student, losses and compile state.

        Args:
            filepath: Ends in `.keras`.
            overwrite: As `keras.Model.save` takes it.
            include_teacher: False leaves the teacher out of the file;
                `keras_kd.load_distiller` then takes it back.
            **kwargs: Passed to `keras.Model.save`.
        """
        teacher = self.teacher
        try:
            if not include_teacher:
                self.put_teacher(None)
            super().save(filepath, overwrite=overwrite, **kwargs)
        finally:
            self.put_teacher(teacher)

    def export(self, filepath, *args, **kwargs):
        """As `keras.Model.export`, of the student alone."""
        return self.student.export(filepath, *args, **kwargs)

    def get_config(self):
        return distiller_config(self)

    @classmethod
    def from_config(cls, config, custom_objects=None):
        distiller = cls(**distiller_arguments(config, custom_objects))
        if config["teacher"] is None:
            # The file has no weights for it; `load_distiller` puts it back.
            distiller.put_teacher(None)
        return distiller

    def put_teacher(self, teacher):
        """Takes the teacher out (None), and puts the same one back."""
        self._is_made = False
        self.teacher = teacher
        self._is_made = True
