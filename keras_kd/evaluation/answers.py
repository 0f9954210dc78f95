"""What a model answered to each example of a data set, in memory and as CSV."""

import dataclasses
from pathlib import Path

import numpy as np

from keras_kd.files import write_text
from keras_kd.tasks.known import TASKS
from keras_kd.tasks.task import sums_of_classes

# The columns of the CSV file. Nine digits give every float32 back as it was.
_COLUMNS = {
    "label": ("int64", "%d"),
    "predicted": ("int64", "%d"),
    "confidence": ("float32", "%.9g"),
    "log_likelihood": ("float32", "%.9g"),
}
# Of one unit alone, whose ranks are scored.
_LOGITS = {"logit": ("float32", "%.9g")}
_HEADER = ",".join(_COLUMNS)


@dataclasses.dataclass(frozen=True, eq=False)
class Answers:
    """A classifier's answers, row i that to the i-th example.

    Attributes:
        labels: (n,), int64, the right classes.
        predicted: (n,), int64, the classes of the largest output.
        confidence: (n,), float32, the probability given to the predicted class.
        log_likelihood: (n,), float32, the logarithm of the probability given to the label,
            in nats.
        logits: (n,), float32, of a single unit; else None.

    Raises:
        ValueError: The arrays are not one-dimensional, equally long, and not empty.
    """

    labels: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    log_likelihood: np.ndarray
    logits: np.ndarray | None = None

    def __post_init__(self):
        names = [x.name for x in dataclasses.fields(self)]
        names = names[: None if self.logits is not None else -1]
        shapes = {name: np.shape(getattr(self, name)) for name in names}
        if (
            len(set(shapes.values())) > 1
            or len(self.labels.shape) != 1
            or not self.labels.size
        ):
            received = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise ValueError(
                "Answers must hold one number of each kind for every example. "
                f"Received: shapes {received}."
            )

    @property
    def examples(self):
        """How many examples there are."""
        return len(self.labels)

    @property
    def task(self):
        """The `keras_kd.tasks.task.Task` that they are answers of."""
        return TASKS["multiclass" if self.logits is None else "binary"]

    # Of plain examples there are no positions.
    places = 0

    @property
    def arrays(self):
        """What is added up in each example for the scores, see `keras_kd.tasks.scores`."""
        keep = np.ones((len(self.labels), 1), bool)
        columns = (self.right, self.confidence, self.log_likelihood)
        sums = sums_of_classes(*(x[:, None] for x in columns), keep)
        if self.logits is not None:
            yes = {"labels": self.labels, "predictions": self.predicted}
            yes["hits"] = self.labels & self.predicted
            sums |= {key: x[:, None].astype("float64") for key, x in yes.items()}
        return sums

    @property
    def rows(self):
        """What scores of ranks need of each example."""
        if self.logits is None:
            return {}
        return {"label": self.labels[:, None], "logit": self.logits[:, None]}

    @property
    def right(self):
        """(n,), bool: which examples were answered right."""
        return self.predicted == self.labels

    def write_csv(self, path):
        """Writes the answers to `path`, whole or not at all."""
        arrays = [self.labels, self.predicted, self.confidence, self.log_likelihood]
        columns = _COLUMNS
        if self.logits is not None:
            arrays, columns = [*arrays, self.logits], _COLUMNS | _LOGITS
        line = ",".join(form for _, form in columns.values())
        rows = zip(*(x.tolist() for x in arrays), strict=True)
        write_text(path, "\n".join([",".join(columns), *(line % row for row in rows), ""]))

    @classmethod
    def read_csv(cls, path):
        """The answers that `write_csv` wrote to `path`, the same to the last bit.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It holds something else.
        """
        header, *lines = Path(path).read_text(encoding="utf-8").splitlines() or [""]
        columns = _COLUMNS if header == _HEADER else _COLUMNS | _LOGITS
        if header != ",".join(columns) or not lines:
            raise ValueError(
                f"{path} must have the first line {_HEADER} and a line for each example. "
                f"Received: {header[:100]!r} and {len(lines)} more lines."
            )
        dtype = [(name, dtype) for name, (dtype, _) in columns.items()]
        try:
            table = np.loadtxt(lines, dtype, delimiter=",", comments=None, ndmin=1)
        except ValueError as error:
            raise ValueError(f"{path} does not hold a model's answers: {error}") from error
        answers = cls(*(np.ascontiguousarray(table[name]) for name in columns))
        problem = _problem(answers)
        if problem:
            raise ValueError(f"{path} does not hold a model's answers: {problem}.")
        return answers


def _problem(answers):
    """What cannot be an answer, in words; None if all can."""
    ranges = {
        "a label is negative": answers.labels >= 0,
        "a predicted class is negative": answers.predicted >= 0,
        "a confidence is not in [0, 1]": (answers.confidence >= 0)
        & (answers.confidence <= 1),
        "a log-likelihood is not finite and <= 0": np.isfinite(answers.log_likelihood)
        & (answers.log_likelihood <= 0),
    }
    if answers.logits is not None:
        ranges |= {
            "a label is not 0 or 1": answers.labels <= 1,
            "a predicted class is not 0 or 1": answers.predicted <= 1,
            "a logit is not finite": np.isfinite(answers.logits),
        }
    return next((problem for problem, good in ranges.items() if not good.all()), None)
