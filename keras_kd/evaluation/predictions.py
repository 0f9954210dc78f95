"""A model's answers over a labelled data set, from one pass."""

import dataclasses

import numpy as np

from keras_kd.evaluation.answers import Answers
from keras_kd.evaluation.asking import Asking
from keras_kd.evaluation.sums import Sums
from keras_kd.tasks.known import TASKS
from keras_kd.tasks.task import Linked


@dataclasses.dataclass(frozen=True)
class Fidelity:
    """How closely a student follows its teacher, right or wrong.

    Attributes:
        teacher: The teacher's name.
        agreement: Fraction of the answers that both give alike: the same largest output, of
            one unit or several labels the same side; None of values.
        kl: Mean Kullback-Leibler divergence KL(teacher || student) of their probabilities
            at temperature 1, in nats; None of values.
        rmse: Root of the mean squared difference of their values; None of others.

    Reference:
        [Stanton et al., 2021](https://arxiv.org/abs/2106.05945), equations 3 and 4.
    """

    teacher: str
    agreement: float | None = None
    kl: float | None = None
    rmse: float | None = None

    def to_dict(self):
        """What of it there is."""
        every = dataclasses.asdict(self)
        return {key: x for key, x in every.items() if x is not None}


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """One model on one labelled data set, one class an example.

    Attributes:
        name: The model's name, in messages and as a teacher.
        labels: (n,), int64.
        predicted: (n,), int64, the class of the model's largest output; of several equally
            large, the first.
        log_probs: (n, num_classes), float32; of one unit two classes, no and yes.
        task: "multiclass", or "binary" of one unit.
    """

    name: str
    labels: np.ndarray
    predicted: np.ndarray
    log_probs: np.ndarray
    task: str = "multiclass"

    def answers(self):
        """What is kept of each example, as `Answers`."""
        rows = np.arange(len(self.labels))
        logits = None
        if self.task == "binary":
            logits = self.log_probs[:, 1] - self.log_probs[:, 0]
        return Answers(
            self.labels,
            self.predicted,
            np.exp(self.log_probs[rows, self.predicted]),
            self.log_probs[rows, self.labels],
            logits,
        )

    def fidelity(self, teacher):
        """A `Fidelity` to the teacher's `Predictions` on the same examples.

        Raises:
            ValueError: The teacher's are of other examples or of other classes.
        """
        count = len(self.labels)
        agree = count - len(self.disagreements(teacher))
        check_same_outputs(self.name, teacher.name, self.log_probs, teacher.log_probs)
        linked = (Linked(x.log_probs, x.predicted) for x in (teacher, self))
        kl = TASKS[self.task].divergence(*linked)
        return Fidelity(teacher.name, agree / count, float(np.sum(kl)) / count)

    def disagreements(self, teacher):
        """Which examples the two answer differently: their indices (k,), int64, ascending.

        Args:
            teacher: The teacher's `Predictions` on the same examples.

        Raises:
            ValueError: The teacher's are of other examples.
        """
        if not np.array_equal(self.labels, teacher.labels):
            _refuse_other_examples(self, teacher)
        return np.flatnonzero(self.predicted != teacher.predicted).astype("int64")


@dataclasses.dataclass(frozen=True, eq=False)
class SummedPredictions:
    """One model on one labelled data set, whose answers are more than a class an example.

    Of several labels, of values, of pixels and tokens what each example adds up to is kept
    alone; to compare two models both are asked again.

    Attributes:
        name: As `Predictions` has it.
        sums: A `keras_kd.evaluation.sums.Sums`.
        dataset: What the model was asked.
        asking: The `Asking` that asks it.
    """

    name: str
    sums: Sums
    dataset: object
    asking: Asking

    def answers(self):
        """What is kept of each example, as `Sums`."""
        return self.sums

    def fidelity(self, teacher):
        """A `Fidelity` to the teacher's `SummedPredictions` on the same examples.

        Raises:
            ValueError: The teacher's are of other examples, of other outputs or of another
                task.
        """
        return self.beside(teacher)[0]

    def beside(self, teacher):
        """Both models on the same batches.

        Args:
            teacher: As `fidelity` takes it.

        Returns:
            `(fidelity, differences)`: a `Fidelity`; and by how much the answers to each
            example differ, (n,), the mean over its positions.

        Raises:
            ValueError: As `fidelity`.
        """
        task, parts = self.asking.task, []
        batches = (x.answers(self.dataset) for x in (self.asking, teacher.asking))
        for (labels, ours, keep), (others, theirs, keep_too) in zip(*batches, strict=True):
            if not np.array_equal(labels, others, equal_nan=labels.dtype.kind == "f"):
                _refuse_other_examples(self, teacher)
            check_same_outputs(self.name, teacher.name, ours.values, theirs.values)
            keep = keep & keep_too
            differ = np.where(keep, task.differ(ours, theirs), 0).sum(axis=1)
            kl = np.zeros(len(keep))
            if task.activation is not None:
                kl = np.where(keep, task.divergence(theirs, ours), 0).sum(axis=1)
            parts.append((keep.sum(axis=1), differ, kl))
        count, differ, kl = map(np.concatenate, zip(*parts, strict=True))
        differences = differ / np.maximum(count, 1)
        total = max(int(count.sum()), 1)
        if task.activation is None:
            fidelity = Fidelity(teacher.name, rmse=float(np.sqrt(differ.sum() / total)))
        else:
            means = 1 - float(differ.sum()) / total, float(kl.sum()) / total
            fidelity = Fidelity(teacher.name, *means)
        return fidelity, differences

    def pictures(self, teacher, indices):
        """Labels and answers of some examples, where they are pictures.

        Args:
            teacher: As `fidelity` takes it.
            indices: Of the examples, ascending, one or more.

        Returns:
            dict of "label", "teacher" and "student" to (k, height, width), float32, as
            `Task.shown` has them, NaN where there is no label; None where answers are no
            pictures of one size.
        """
        parts, first, sizes = [], 0, set()
        batches = (x.answers(self.dataset) for x in (self.asking, teacher.asking))
        for (labels, ours, keep), (_, theirs, _) in zip(*batches, strict=True):
            here = indices[(indices >= first) & (indices < first + len(labels))] - first
            first += len(labels)
            sizes |= {self.asking.positions}
            shown = self.asking.task.shown
            labels = np.where(keep, shown(None, labels), np.nan)
            parts.append([x[here] for x in (labels, shown(theirs), shown(ours))])
        if len(sizes) > 1 or self.sums.places != 2 or parts[0][0].ndim != 2:
            return None
        columns = (np.concatenate(x) for x in zip(*parts, strict=True))
        columns = (x.reshape(len(indices), *self.asking.positions) for x in columns)
        return dict(zip(("label", "teacher", "student"), columns, strict=True))


def predict(
    model,
    dataset,
    outputs=None,
    name=None,
    argument="dataset",
    task=None,
    ignore_class=None,
    of_teacher=False,
):
    """A model's answers over a data set, in one pass.

    Of one class an example all log-probabilities are kept: 50,000 examples of 1,000 classes
    take 200 MB, and for a moment at the end of the pass twice that. Of several labels,
    values, pixels and tokens what each example adds up to is kept alone.

    What is left out: positions that Keras's mask of the outputs leaves out, those of
    weight 0, and those labelled `ignore_class`. All others count once, and so does each
    example, whatever its weight, as in Keras's `metrics`.

    Args:
        model: A Keras model, or another object with its `name` and `predict_on_batch`
            (NumPy arrays), with one output: (batch, num_classes); (batch, 1) or (batch,);
            or with positions in between, as (batch, height, width, num_classes).
        dataset: Batches of (inputs, labels) or (inputs, labels, sample_weight), or arrays,
            as `Model.evaluate` takes them. Labels are class numbers, with or without a last
            axis of 1, or one-hot; 0 or 1 of "binary" and "multilabel"; numbers of
            "regression".
        outputs: "logits" or "probabilities", which is what the model gives. By default
            logits, unless it is seen to end in a softmax, or a sigmoid.
        name: Defaults to the model's.
        argument: What the user calls the data, for messages.
        task: "multiclass", "binary", "multilabel" or "regression". By default what the
            model's last activation and number of units show; several units without
            activation are "multiclass".
        ignore_class: The label of positions that are left out, as Keras's
            `SparseCategoricalCrossentropy(ignore_class=...)` has it; or None.
        of_teacher: Whether the model gets what the data set carries for the teacher alone
            (`keras_kd.with_teacher_inputs`), where it does.

    Returns:
        A `Predictions` of one class an example, else a `SummedPredictions`.

    Raises:
        ValueError: The data set is empty, its labels are none of the task's, or the outputs
            are of another shape, not finite, or not the probabilities they are said to be;
            or nothing shows the task.
    """
    asking = Asking(model, outputs, name, argument, task, ignore_class, of_teacher)
    parts, name = [], asking.name
    for labels, answers, keep in asking.answers(dataset):
        is_class = asking.task.name in ("multiclass", "binary") and not asking.places
        if is_class:
            parts.append((labels[:, 0], answers.decided[:, 0], answers.values[:, 0]))
        else:
            parts.append(_summed(asking, labels, answers, keep))
    if is_class:
        columns = map(np.concatenate, zip(*parts, strict=True))
        return Predictions(name, *columns, task=asking.task.name)
    arrays, rows = (
        {key: np.concatenate([part[i][key] for part in parts]) for key in parts[0][i]}
        for i in (0, 1)
    )
    sums = Sums(asking.task, asking.places, arrays, rows)
    return SummedPredictions(name, sums, dataset, asking)


def _summed(asking, labels, answers, keep):
    """What a batch adds up to in each example, and what scores of ranks need of it."""
    task, rows = asking.task, {}
    sums = task.sums(labels, answers, keep, asking.places)
    if task.activation is None:
        rows["error"] = sums["absolute"] / np.maximum(sums["count"], 1)
    elif not asking.places:
        rows = {"label": labels[:, 0].astype("int8"), "logit": answers.values[:, 0]}
    return sums, rows


def check_same_outputs(name, teacher, ours, theirs):
    """Refuses to compare outputs of two sizes."""
    if ours.shape[-1] != theirs.shape[-1] or ours.shape != theirs.shape:
        taught, classes = theirs.shape[-1], ours.shape[-1]
        if taught == classes:
            taught, classes = theirs.shape, ours.shape
        raise ValueError(
            f"`teacher` {teacher!r} has {taught} classes and {name!r} has {classes}; "
            "their probabilities cannot be compared."
        )


def _refuse_other_examples(ours, teacher):
    counts = [
        len(x.labels) if isinstance(x, Predictions) else x.sums.examples
        for x in (teacher, ours)
    ]
    raise ValueError(
        f"`teacher` {teacher.name!r} and {ours.name!r} were not run on the same examples "
        "in the same order: their labels differ. Is the data set shuffled anew each time? "
        f"Received: {counts[0]} and {counts[1]} examples."
    )
