"""What a call says in the end, and which limit it is over."""

from types import SimpleNamespace

import pytest

from keras_kd.distillation.outcome import Distilled, with_unit
from keras_kd.students import Limits


@pytest.mark.parametrize(
    "count, text", [(98_400, "98 kB"), (999_999, "1000 kB"), (57_500_000, "57.5 MB")]
)
def test_sizes(count, text):
    assert with_unit(count) == text


def file_of(size, ms, name="student-int8.tflite"):
    latencies = [SimpleNamespace(batch_size=1, median_ms=ms)]
    export = SimpleNamespace(file=name, file_bytes=size)
    return SimpleNamespace(export=export, profile=SimpleNamespace(latencies=latencies))


def distilled(size=50_000, ms=0.5, teacher=None, **more):
    def row(name, words, parameters=1000):
        return SimpleNamespace(
            model=name, in_words=lambda: words, parameters=parameters, macs=20_000
        )

    models = [row("teacher", "96.1 % right", 14_000_000), row("student", "95.4 % right")]
    models += [row("student_alone", "93.9 % right")]
    faster = None if teacher is None else 41.2
    shipped = SimpleNamespace(
        student=file_of(size, ms),
        teacher=teacher,
        times_faster=faster,
        path="runs/x/student.tflite",
        quantization="int8",
    )
    result = SimpleNamespace(models=models, students={"student": "the model"})
    return Distilled("runs/x", result, shipped, "report.html", **more)


def test_one_line_says_it():
    found = distilled(teacher=file_of(57_500_000, 20.6, "teacher.tflite"))
    assert str(found) == (
        "teacher 57.5 MB, 96.1 % right -> student 50 kB, 95.4 % right (alone 93.9 % "
        "right), 41 times faster: runs/x/student.tflite"
    )
    slow = distilled(teacher=file_of(57_500_000, 20.6, "teacher.tflite"))
    slow.shipped.times_faster = 0.4
    assert "right), 2.5 times slower: " in str(slow)
    # Without a file of the teacher's, its weights in float32, and no time.
    assert str(distilled()).startswith("teacher 56.0 MB, 96.1 % right -> student 50 kB")
    assert "faster" not in str(distilled())
    assert str(distilled(has_labels=False)).startswith(
        "teacher 56.0 MB -> student 50 kB, 95.4 % right as the teacher answers"
    )


def test_what_is_over_a_limit():
    found = distilled()
    assert found.over(Limits(max_bytes=50_000, max_macs=20_000, max_latency=0.5)) == ""
    over = found.over(Limits(max_bytes="40kB", max_latency=0.4, max_parameters="2k"))
    assert over == (
        "max_bytes is 50,000, and the limit 40,000 and max_latency is 0.5, and the limit "
        "0.4"
    )


def test_the_next_is_smaller_by_as_much():
    smaller = distilled().smaller(Limits(max_bytes=40_000, max_macs="1M"))
    # As much under the limit as this one was over it.
    assert smaller.max_bytes == pytest.approx(32_000)
    assert smaller.max_macs == 1e6 and smaller.quantization == "int8"
