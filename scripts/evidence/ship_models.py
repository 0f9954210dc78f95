"""Copies models of a run folder into models/mnist, each with metrics.json and a model card.

    python scripts/evidence/ship_models.py RUN_DIR STAGE[=NAME] ...

NAME is the folder's name in models/mnist, the stage's by default.
"""

import json
import shutil
import sys
import zipfile
from pathlib import Path

import keras
import tensorflow as tf

import keras_kd
from keras_kd import files
from keras_kd.report.card import card

MODELS = Path(__file__).parents[2] / "models" / "mnist"
COMMANDS = {"mnist": "scripts/run", "mnist_teacher": "scripts/train_teacher"}


def compress(source, target):
    """Copies a .keras file, a ZIP archive, whose parts Keras leaves as they are."""
    with (
        zipfile.ZipFile(source) as read,
        zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as written,
    ):
        for name in read.namelist():
            written.writestr(name, read.read(name))


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
            "batch_size": settings.get("batch_size") or recipe["batch_size"],
            "command": command,
            "keras_kd": keras_kd.__version__,
            "keras": keras.__version__,
            "tensorflow": tf.__version__,
        }
        text = card(run_dir, stage, title=f"mnist/{name}", license="apache-2.0")
        with files.renamed_when_done(MODELS / name / "model.keras") as temporary:
            compress(run_dir / stage / "model.keras", temporary)
            metrics["file_bytes"] = temporary.stat().st_size
        # The int8 file and its proof, if the run was exported; the card shows its use.
        for path in (run_dir / stage).glob("*-int8.tflite*"):
            with files.renamed_when_done(MODELS / name / path.name) as temporary:
                shutil.copyfile(path, temporary)
        files.write_json(MODELS / name / "metrics.json", metrics)
        files.write_text(MODELS / name / "README.md", text)
        print(f"{MODELS / name}: {100 * metrics['evaluation']['accuracy']:.2f} %")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    pairs = [argument.partition("=") for argument in sys.argv[2:]]
    main(Path(sys.argv[1]), {stage: name or stage for stage, _, name in pairs})
