"""The models that a recipe or a command names: files, and those that ship."""

from pathlib import Path

from keras_kd import files
from keras_kd.recipes import zoo
from keras_kd.training.loading import load_keras_file

SHIPPED_MODELS = Path(__file__).parents[2] / "models"


def zoo_or_file(value):
    return value if is_trained(value) else zoo.check(value)


def is_trained(model):
    """Whether a stage's model is a file, or a shipped one; else it is one of the zoo."""
    return isinstance(model, str) and (model.endswith(".keras") or "/" in model)


def load_to_train(name):
    return load_model(name) if is_trained(name) else zoo.build(name)


def load_model(name_or_path):
    """Loads a `.keras` model with Keras's safe mode on: no code in the file runs.

    Args:
        name_or_path: A path that ends in `.keras`, or a shipped model's name, for
            instance "mnist/teacher".

    Raises:
        FileNotFoundError: No such file, or no shipped model of that name.
        ValueError: The file is not a model that Keras can load safely, or the name leads
            out of the folder of shipped models.
    """
    path = _path(name_or_path)
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no model {str(name_or_path)!r} (looked for {path}). A model is a "
            "path that ends in .keras, or the name of a folder in models/ of a clone."
        )
    return load_keras_file(path)


def is_there(name_or_path):
    """Whether `load_model` finds a file under a name."""
    return _path(name_or_path).is_file()


def _path(name_or_path):
    path = Path(name_or_path)
    if path.suffix != ".keras":
        path = files.inside(SHIPPED_MODELS, name_or_path) / "model.keras"
    return path
