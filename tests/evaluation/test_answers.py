import numpy as np
import pytest

from keras_kd.evaluation.answers import Answers

HEADER = "label,predicted,confidence,log_likelihood"


def answers(count=3):
    return Answers(
        labels=np.arange(count),
        predicted=np.arange(count)[::-1],
        confidence=np.full(count, 0.5, "float32"),
        log_likelihood=np.full(count, -0.75, "float32"),
    )


def test_rows_are_the_examples_in_order(tmp_path):
    answers().write_csv(tmp_path / "answers.csv")
    assert (tmp_path / "answers.csv").read_text() == (
        f"{HEADER}\n0,2,0.5,-0.75\n1,1,0.5,-0.75\n2,0,0.5,-0.75\n"
    )


def test_which_are_right():
    assert answers().right.tolist() == [False, True, False]


def test_every_float32_comes_back_as_it_was(tmp_path):
    """Random bit patterns: all exponents, subnormal numbers too."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 0x3F800001, 20_000, dtype="uint32")
    confidence = bits.view("float32")
    negative = rng.integers(0x80000000, 0xFF800000, 20_000, dtype="uint32")
    labels = rng.integers(0, 2**62, 20_000)
    kept = Answers(labels, labels[::-1], confidence, negative.view("float32"))
    kept.write_csv(tmp_path / "answers.csv")
    again = Answers.read_csv(tmp_path / "answers.csv")
    np.testing.assert_array_equal(again.labels, kept.labels)
    np.testing.assert_array_equal(again.predicted, kept.predicted)
    np.testing.assert_array_equal(again.confidence.view("uint32"), bits)
    np.testing.assert_array_equal(again.log_likelihood.view("uint32"), negative)


def test_an_error_leaves_the_file_that_was_there(tmp_path, monkeypatch):
    path = tmp_path / "answers.csv"
    answers(1).write_csv(path)
    before = path.read_text()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        answers(2).write_csv(path)
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "must have the first line label,predicted"),
        (f"{HEADER}\n", "and 0 more lines"),
        ("epoch,loss\n0,1\n", "Received: 'epoch,loss'"),
        (
            f"{HEADER}\n1,1,0.5,-0.5\n1,one,0.5,-0.5\n",
            "not hold a model's answers: .*row 1",
        ),
        (f"{HEADER}\n1,1,0.5\n", "not hold a model's answers"),
        (f"{HEADER}\n1.5,1,0.5,-0.5\n", "not hold a model's answers"),
        (f"{HEADER}\n-1,1,0.5,-0.5\n", "a label is negative"),
        (f"{HEADER}\n1,-1,0.5,-0.5\n", "a predicted class is negative"),
        (f"{HEADER}\n1,1,1.5,-0.5\n", r"a confidence is not in \[0, 1\]"),
        (f"{HEADER}\n1,1,nan,-0.5\n", r"a confidence is not in \[0, 1\]"),
        (f"{HEADER}\n1,1,0.5,0.5\n", "a log-likelihood is not finite and <= 0"),
        (f"{HEADER}\n1,1,0.5,-inf\n", "a log-likelihood is not finite and <= 0"),
    ],
)
def test_what_is_no_file_of_answers(tmp_path, text, message):
    path = tmp_path / "answers.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"{path} .*{message}"):
        Answers.read_csv(path)


def test_arrays_of_different_lengths():
    one = np.zeros(1)
    with pytest.raises(ValueError, match=r"labels \(1,\), predicted \(2,\)"):
        Answers(one, np.zeros(2), one, one)
    with pytest.raises(ValueError, match="one number of each kind for every example"):
        Answers(*[np.zeros(0)] * 4)
