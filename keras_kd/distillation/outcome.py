"""What `keras_kd.distill` leaves."""

import dataclasses
import html
from pathlib import Path

from keras_kd.chain.result import ChainResult
from keras_kd.distillation.ship import Shipped, latency_of
from keras_kd.distillation.written import ALONE, STUDENT


@dataclasses.dataclass(frozen=True)
class Distilled:
    """A student, trained, written and measured; printed, it is one line.

    Attributes:
        run_dir: The run folder, with `recipe.toml`.
        result: Its `keras_kd.chain.result.ChainResult`.
        shipped: The file, a `keras_kd.distillation.ship.Shipped`.
        report: Path of the report's page.
        has_labels: Whether scores are by labels of the data, not by the teacher's answers.
    """

    run_dir: Path
    result: ChainResult
    shipped: Shipped
    report: Path
    has_labels: bool = True

    @property
    def student(self):
        """The trained student, a `keras.Model`."""
        return self.result.students[STUDENT]

    @property
    def path(self):
        """Of the student's file."""
        return self.shipped.path

    def __str__(self):
        models = {x.model: x for x in self.result.models}
        file = self.shipped.student.export
        text = f"student {with_unit(file.file_bytes)}, {models[STUDENT].in_words()}"
        if not self.has_labels:
            text += " as the teacher answers"
        if ALONE in models:
            text += f" (alone {models[ALONE].in_words()})"
        teacher = models.get("teacher")
        if teacher is not None:
            text = f"{self._of_teacher(teacher)} -> {text}"
        times = self.shipped.times_faster
        if times:
            word = "faster" if times >= 1 else "slower"
            times = max(times, 1 / times)
            text += f", {times:.0f} times {word}" if times >= 10 else (
                f", {times:.2g} times {word}"
            )
        return f"{text}: {self.path}"

    def _of_teacher(self, teacher):
        file = self.shipped.teacher
        size = None if file is None else file.export.file_bytes
        if size is None and teacher.parameters is not None:
            size = 4 * teacher.parameters
        words = [] if size is None else [with_unit(size)]
        if self.has_labels or not words:
            words.append(teacher.in_words())
        return f"teacher {', '.join(words)}"

    def _repr_html_(self):
        return f"<p>{html.escape(str(self))}</p>" + self.result._repr_html_()

    def over(self, limits):
        """Which limit the measured student is over, in words; "" where none."""
        (measured,) = (x for x in self.result.models if x.model == STUDENT)
        found = {
            "max_bytes": self.shipped.student.export.file_bytes,
            "max_macs": measured.macs,
            "max_parameters": measured.parameters,
            "max_latency": latency_of(self.shipped.student),
        }
        over = [
            f"{name} is {value:,.6g}, and the limit {getattr(limits, name):,.6g}"
            for name, value in found.items()
            if getattr(limits, name) is not None and value > getattr(limits, name)
        ]
        return " and ".join(over)

    def smaller(self, limits):
        """`Limits` under which the next student's file keeps to these."""
        file, changed = self.shipped.student, {"quantization": self.shipped.quantization}
        costs = {"max_bytes": file.export.file_bytes, "max_latency": latency_of(file)}
        for name, value in costs.items():
            limit = getattr(limits, name)
            if limit is not None and value > limit:
                changed[name] = limit * limit / value
        return dataclasses.replace(limits, **changed)


def with_unit(count):
    """Bytes as kB or MB, of 1,000."""
    if count < 1e6:
        return f"{count / 1e3:.0f} kB"
    return f"{count / 1e6:.1f} MB"
