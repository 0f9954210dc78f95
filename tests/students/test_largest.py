import keras
import numpy as np
import pytest

import keras_kd as kd
from keras_kd import students
from keras_kd.evaluation.profile import profile
from keras_kd.students import files
from keras_kd.students.limits import Limits

IMAGES = "separable_cnn", (16, 16, 1), (3,)


@pytest.mark.parametrize("limit", [1_000, 5_000, 123_456])
def test_parameters(limit):
    width = students.largest(*IMAGES, Limits(max_parameters=limit))
    fits, beyond = (students.build(*IMAGES, x).count_params() for x in (width, width + 1))
    assert fits <= limit < beyond


@pytest.mark.parametrize("family, shape", [("mlp", (7,)), ("unet", (15, 20, 3))])
def test_macs(family, shape):
    outputs = (*shape[:-1], 2)
    limits = Limits(max_macs="300k")
    width = students.largest(family, shape, outputs, limits)
    models = [students.build(family, shape, outputs, x) for x in (width, width + 1)]
    assert profile(models[0]).macs <= 300_000 < profile(models[1]).macs


def test_every_limit_is_kept():
    few, many = Limits(max_parameters=3_000), Limits(max_parameters=9_000)
    widths = [students.largest(*IMAGES, x) for x in (few, many)]
    assert widths[0] < widths[1]
    both = Limits(max_parameters=9_000, max_macs=profile(students.build(*IMAGES, 2)).macs)
    assert students.largest(*IMAGES, both) == 2
    assert students.largest(*IMAGES, many, at_most=3) == 3
    assert students.largest("mlp", (3,), (2,), Limits()) == 2048


@pytest.mark.parametrize("slope", [1, 4])
@pytest.mark.parametrize("limit", [9_000, 12_345, 60_000, 10**6])
def test_bytes_by_few_files(limit, slope, monkeypatch):
    """The widest whose file fits, of files that are larger than their weights."""
    made = {}

    def measure(name, model, limits, family):
        width = int(model.name.split("_")[-1])
        made[width] = 7_000 + slope * model.count_params() + 60 * width
        return made[width]

    monkeypatch.setattr(files, "measure", measure)
    width = students.largest(*IMAGES, Limits(max_bytes=limit))
    assert made[width] <= limit
    assert made[width] >= 0.97 * limit or made[width + 1] > limit
    assert len(made) <= 7


@pytest.mark.parametrize(
    "limits, message",
    [
        (Limits(max_parameters=10), "`max_parameters` is less than.*width 1.*=10. Allow"),
        (Limits(max_macs=10), "`max_macs` is less than the smallest model"),
    ],
)
def test_what_nothing_fits(limits, message):
    with pytest.raises(ValueError, match=message):
        students.largest(*IMAGES, limits)


def test_macs_of_any_size_are_unknown():
    with pytest.raises(ValueError, match="`max_macs` needs a model whose MACs are known"):
        students.largest("sequence_cnn", (None, 2), (2,), Limits(max_macs=1000))


@pytest.mark.slow
def test_a_file_is_as_large_as_it_may_be(tmp_path):
    """The one that is exported is the one that was measured; missing numbers are kept."""
    limits = Limits(max_bytes="12kB", quantization="dynamic")
    width = students.largest("mlp", (3,), (2,), limits)
    keras.utils.set_random_seed(0)
    model = students.build("mlp", (3,), (2,), width)
    x = np.random.default_rng(0).normal([0, 5000, 0], [1, 100, 1e-3], (1000, 3))
    x[::3, 1] = np.nan
    x = x.astype("float32")
    students.prepare(model, x)
    path = tmp_path / "student.tflite"
    exported = kd.export(model, path, "litert", quantization="dynamic", examples=x)
    assert exported.file_bytes <= 12_000
    assert exported.proof["agreement"] > 0.99
    with pytest.raises(ValueError, match="`max_bytes` is less than.*bytes at width 2"):
        students.largest("mlp", (3,), (2,), Limits(max_bytes=500, quantization="dynamic"))
