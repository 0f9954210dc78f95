import json

import keras
import numpy as np
import pytest

from keras_kd import run_dir


def test_create_makes_parents_and_takes_an_empty_folder(tmp_path):
    path = run_dir.create(tmp_path / "a" / "b")
    assert path.is_dir()
    assert run_dir.create(path) == path


@pytest.mark.parametrize("kind", ["folder with a file", "file"])
def test_create_refuses_what_is_there(tmp_path, kind):
    path = tmp_path / "run"
    if kind == "file":
        path.write_text("mine")
    else:
        path.mkdir()
        (path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="exists and is not empty"):
        run_dir.create(path)


def test_an_error_leaves_what_was_there_and_nothing_else(tmp_path):
    path = tmp_path / "metrics.json"
    run_dir.write_json(path, {"accuracy": 0.5})
    with pytest.raises(OSError, match="disk full"):
        with run_dir.renamed_when_done(path) as temporary:
            temporary.write_text("half of")
            raise OSError("disk full")
    assert json.loads(path.read_text()) == {"accuracy": 0.5}
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_removes_a_half_written_folder(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        with run_dir.renamed_when_done(tmp_path / "saved_model") as temporary:
            temporary.mkdir()
            (temporary / "part").write_text("")
            raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_models_in_both_formats(tmp_path, make_model, vectors):
    model = make_model()
    run_dir.save_model(model, tmp_path / "model.keras")
    run_dir.export_saved_model(model, tmp_path / "saved_model")
    logits = model.predict(vectors[0], verbose=0)
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict(vectors[0], verbose=0), logits)
    served = keras.layers.TFSMLayer(tmp_path / "saved_model", call_endpoint="serve")
    np.testing.assert_allclose(served(vectors[0]), logits, rtol=1e-5, atol=1e-6)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["model.keras", "saved_model"]


def test_inside(tmp_path):
    assert run_dir.inside(tmp_path, "a/../b") == tmp_path / "a" / ".." / "b"
    for name in ("../b", "a/../../b", "/etc/passwd", tmp_path.parent):
        with pytest.raises(ValueError, match="leads out of the folder"):
            run_dir.inside(tmp_path, name)
