"""The student as a file for a device: proved, measured, within its limits."""

import dataclasses
import logging
from pathlib import Path

import numpy as np

from keras_kd.data.deform import Deform
from keras_kd.data.pipeline import for_models
from keras_kd.data.rows import spread
from keras_kd.distillation.written import STUDENT, augmentation
from keras_kd.exporters.proof import LEAST_EXAMPLES
from keras_kd.exporters.run_exports import export_run
from keras_kd.runs.schema import DeviceFile
from keras_kd.tasks.find import ACTIVATIONS

logger = logging.getLogger(__name__)

TEACHER = "teacher"
# Where nobody said which, the next is tried where one's answers are too far off.
_LESS = {"int8": "dynamic", "dynamic": "float16", "float16": None}
_CALIBRATION = 500
# On so many answers file and student agree at least. Of a narrow student in 8 bits one in a
# hundred tips over, as often to the right answer as away from it.
_AGREEMENT = 0.97


@dataclasses.dataclass(frozen=True)
class Shipped:
    """A student's file, and the teacher's beside it.

    Attributes:
        path: Of the student's file.
        student, teacher: `keras_kd.runs.schema.DeviceFile`s, as measured together; the
            teacher None where it can be no such file.
        quantization: The student's.
    """

    path: Path
    student: DeviceFile
    teacher: DeviceFile | None
    quantization: str | None

    @property
    def times_faster(self):
        """The teacher's median time of one example by the student's; None without it."""
        if self.teacher is None:
            return None
        return latency_of(self.teacher) / latency_of(self.student)


def latency_of(file):
    """Milliseconds of one example, of a `DeviceFile`."""
    return next(x.median_ms for x in file.profile.latencies if x.batch_size == 1)


def ship(run_dir, parts, task, answers, *, format, quantization, fixed, announce=print):
    """Writes the file of a run's student, and the teacher's as it is, and times both.

    Args:
        run_dir: The folder of a finished run with a stage "student".
        parts: Its `keras_kd.datasets.parts.Parts`.
        task: Of the outputs.
        answers: The shape of the answer to one example.
        format, quantization: As `keras_kd.export` takes them.
        fixed: Whether no other quantization may stand in where the file's answers would be
            too far from the student's.
        announce: Called with each line that is told.

    Returns:
        `Shipped`.

    Raises:
        ValueError: The student cannot be such a file; the message says why.
    """
    examples = proof_examples(parts, answers, announce)
    x = parts.train[0]
    calibration = for_models(x[spread(len(x), _CALIBRATION)])
    while True:
        kinds = {TEACHER: [(format, None)], STUDENT: [(format, quantization)]}
        exports = export_run(
            run_dir,
            examples,
            calibration,
            kinds=kinds,
            task=task,
            # Of values there is no agreement.
            min_agreement=None if ACTIVATIONS[task] is None else _AGREEMENT,
            batch_sizes=(1,),
        )
        files = {file.model: file for file in exports.files}
        refused = {file.model: file.reason for file in exports.refused}
        if STUDENT in files:
            break
        if fixed or quantization is None:
            raise ValueError(f"The student cannot be written: {refused[STUDENT]}")
        less = _LESS[quantization]
        announce(f"File: not {quantization}, but {less or 'float32'}: {refused[STUDENT]}")
        quantization = less
    if TEACHER in refused:
        announce("File: the teacher can be none in this format, so it is not timed beside")
    path = Path(run_dir) / STUDENT / files[STUDENT].export.file
    return Shipped(path, files[STUDENT], files.get(TEACHER), quantization)


def proof_examples(parts, answers, announce=print):
    """What a file is proved on: held-out examples, and as many others as it takes.

    Args:
        parts: The `keras_kd.datasets.parts.Parts`.
        answers: The shape of the answer to one example: each position is an answer.
        announce: Called with a line, where it takes others.

    Returns:
        `(inputs, labels)`, or inputs alone where some are not held out, so that no score is
        taken of what a model was trained on.
    """
    x, labels = parts.test
    wanted = -(-LEAST_EXAMPLES // int(np.prod(answers[:-1])))
    if len(x) >= wanted:
        x = for_models(x[:])
        return x if labels is None else (x, labels)
    others = [part[0] for part in (parts.validation, parts.train) if part is not None]
    found = [for_models(x[:])]
    for other in others:
        missing = wanted - sum(map(len, found))
        found.append(for_models(other[: max(missing, 0)]))
    own = sum(map(len, found))
    view = 0
    while sum(map(len, found)) < wanted:
        found.append(_changed(np.concatenate(found[: len(others) + 1]), view))
        view += 1
    announce(
        f"Proof: {len(x):,} test examples are too few to tell how like the student its "
        f"file is, so {wanted:,} are asked, {own - len(x):,} of them from training"
        + f", {wanted - own:,} changed a little" * (wanted > own)
    )
    return np.concatenate(found)[:wanted]


def _changed(x, view):
    if x.ndim == 4:
        augment = Deform(**augmentation(x.shape[1:3]))
        return np.asarray(augment(x, np.arange(len(x)), view, 0))
    if x.dtype.kind == "f":
        noise = np.random.default_rng(view).normal(0, 0.01, x.shape)
        return (x * (1 + noise)).astype("float32")
    # Of texts every tenth byte is that of another text, at the same place.
    rng = np.random.default_rng(view)
    others = x[rng.permutation(len(x))]
    swapped = (rng.random(x.shape) < 0.1) & (x > 0) & (others > 0)
    return np.where(swapped, others, x)
