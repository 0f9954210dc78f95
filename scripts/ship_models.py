"""Copies models of a run folder into models/mnist, each with metrics.json and README.md.

    python scripts/ship_models.py RUN_DIR STAGE[=NAME] ...

NAME is the folder's name in models/mnist, the stage's by default.
"""

import json
import shutil
import sys
from pathlib import Path

import keras
import tensorflow as tf

import keras_kd
from keras_kd import run_dir as run_dirs

MODELS = Path(__file__).parents[1] / "models" / "mnist"
COMMANDS = {"mnist": "scripts/run", "mnist_teacher": "scripts/train_teacher"}

README = """\
# mnist/{name}

{layers}

Input (batch, 28, 28, 1), float32 in [0, 1]; output 10 logits.

| | |
|---|---|
| accuracy on the 10,000 test images | {accuracy:.2f} % ({errors} errors) |
| parameters | {parameters:,} |
| MACs (half of TensorFlow's count of float operations) | {macs:,} |
| taught by | {taught_by} |
| epochs, batch size, optimizer | {epochs}, {batch_size}, {optimizer} |

Made by `{command}`, stage `{stage}`, seed {seed}, TensorFlow {tensorflow}, Keras {keras}.
The test images were read after every epoch for the published curve; nothing was chosen
by them.

Trained on MNIST (Yann LeCun, Corinna Cortes, Christopher Burges), which is available
under CC BY-SA 3.0. The model is under the project's licence, Apache-2.0.
"""


def main(run_dir, stages):
    manifest = json.loads((run_dir / "manifest.json").read_text())
    recipe, recipe_name = manifest["recipe"], manifest["recipe_name"]
    for stage, name in stages.items():
        metrics = json.loads((run_dir / stage / "metrics.json").read_text())
        settings = next(x for x in recipe["stage"] if x["name"] == stage)
        command = COMMANDS.get(recipe_name, f"keras-kd run {recipe_name}")
        metrics |= {
            "model": name,
            "stage": settings,
            "seed": recipe["seed"],
            "batch_size": recipe["batch_size"],
            "command": command,
            "keras_kd": keras_kd.__version__,
            "keras": keras.__version__,
            "tensorflow": tf.__version__,
        }
        optimizer = settings["optimizer"]
        text = README.format(
            name=name,
            layers=describe(run_dir / stage / "model.keras"),
            accuracy=100 * metrics["evaluation"]["accuracy"],
            errors=metrics["evaluation"]["errors"],
            parameters=metrics["parameters"],
            macs=metrics["macs"],
            taught_by=metrics["taught_by"],
            epochs=settings["epochs"],
            batch_size=recipe["batch_size"],
            optimizer=f"{optimizer['name']} {optimizer.get('learning_rate', '')}",
            command=command,
            stage=stage,
            seed=recipe["seed"],
            tensorflow=tf.__version__,
            keras=keras.__version__,
        )
        with run_dirs.renamed_when_done(MODELS / name / "model.keras") as temporary:
            shutil.copyfile(run_dir / stage / "model.keras", temporary)
        run_dirs.write_json(MODELS / name / "metrics.json", metrics)
        run_dirs.write_text(MODELS / name / "README.md", text)
        print(f"{MODELS / name}: {100 * metrics['evaluation']['accuracy']:.2f} %")


def describe(path):
    """The layers of a saved model, in a line."""
    model = keras.saving.load_model(path, compile=False)
    return "; ".join(f"{x.__class__.__name__} {x.output.shape[1:]}" for x in model.layers)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    pairs = [argument.partition("=") for argument in sys.argv[2:]]
    main(Path(sys.argv[1]), {stage: name or stage for stage, _, name in pairs})
