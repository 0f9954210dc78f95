"""Models by path and by name, loaded without running code of the file."""

import zipfile

import keras
import pytest

from keras_kd.recipes.model_files import load_model


def test_load_model(tmp_path, make_model):
    make_model().save(tmp_path / "mine.keras")
    assert load_model(tmp_path / "mine.keras").count_params() > 0
    with pytest.raises(FileNotFoundError, match="no model 'mnist/tacher'"):
        load_model("mnist/tacher")
    with pytest.raises(ValueError, match="'mnist/../../tests' leads out of the folder"):
        load_model("mnist/../../tests")


@pytest.mark.parametrize("content", [b"", b"not a model", "truncated"])
def test_not_a_model_file(tmp_path, make_model, content):
    path = tmp_path / "wrong.keras"
    if content == "truncated":
        make_model().save(path)
        content = path.read_bytes()[:-100]
    path.write_bytes(content)
    with pytest.raises(ValueError, match="wrong.keras could not be .*empty, cut short or"):
        load_model(path)


def test_an_archive_of_something_else(tmp_path):
    with zipfile.ZipFile(tmp_path / "wrong.keras", "w") as file:
        file.writestr("a.txt", "a")
    with pytest.raises(ValueError, match="could not be loaded as a Keras model"):
        load_model(tmp_path / "wrong.keras")


def test_code_in_a_model_file_does_not_run(tmp_path):
    layers = [keras.layers.Input((2,)), keras.layers.Lambda(lambda x: x + 1)]
    keras.Sequential(layers).save(tmp_path / "lambda.keras")
    with pytest.raises(ValueError, match="could not be loaded.*Lambda.*safe") as refused:
        load_model(tmp_path / "lambda.keras")
    # Keras's own advice.
    assert "safe_mode=False" not in str(refused.value)
