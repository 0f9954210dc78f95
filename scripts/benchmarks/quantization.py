"""A small student in int8: quantised after training, and trained with the rounding.

    keras-kd run mnist_small --seeds 3 --run-dir RUN_DIR
    python scripts/benchmarks/quantization.py RUN_DIR OUT

Of each seed's student three int8 files are made: of the student as it is (post-training
quantisation, PTQ); of the student after some more epochs under the same teacher, which
tells what these alone bring; and of the student after the same epochs with the rounding in
its forward pass (quantisation-aware training, QAT). The files take images as bytes and
give probabilities; their accuracies are of the files themselves, run by LiteRT on the test
images. What is in OUT already is not made again.
"""

import json
from pathlib import Path

import click
import keras

import keras_kd as kd
from keras_kd import data
from keras_kd.evaluation.uncertainty import over_seeds
from keras_kd.exporters.export import proof_path
from keras_kd.recipes.model_files import load_model
from keras_kd.tables import markdown_table

BATCH_SIZE, CALIBRATION = 256, 1000
TEMPERATURE, STUDENT_LOSS_WEIGHT = 4.0, 0.1
WAYS = {
    "ptq": "as it is",
    "longer": "trained on, in float",
    "qat": "trained on, with the rounding",
}


def train(student, train_data, epochs, learning_rate, seed, steps):
    """Some more epochs under the teacher, at a rate that falls to zero."""
    keras.utils.set_random_seed(seed)
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, epochs * steps)
    distiller = kd.Distiller(
        load_model("mnist/teacher"),
        student,
        kd.losses.SoftTargets(TEMPERATURE),
        student_loss_weight=STUDENT_LOSS_WEIGHT,
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.Adam(schedule), loss)
    distiller.fit(train_data, epochs=epochs, verbose=0)


def make(way, student, path, train_data, calibration, test, settings):
    """One int8 file and its proof."""
    if way == "qat":
        student = kd.quantization_aware(student, data.scale(calibration))
    if way != "ptq":
        train(student, train_data, **settings)
    kd.export(
        student,
        path,
        "litert",
        quantization="int8",
        calibration=calibration,
        examples=test,
        preprocessing=keras.layers.Rescaling(1 / 255),
        # How far a doubtful image's probability moves is shown, not judged.
        tolerance=1.0,
        overwrite=True,
    )


def table(proofs):
    """The files of all seeds, `proofs[way]` a list of `.export.json`s, as Markdown."""
    rows = []
    for way, found in proofs.items():
        proved = [x["proof"] for x in found]
        in_float = [x["keras_accuracy"] for x in proved]
        in_int8 = [x["file_accuracy"] for x in proved]
        lost = [a - b for a, b in zip(in_float, in_int8, strict=True)]
        rows.append(
            {
                "student": WAYS[way],
                "seeds": len(found),
                "float32 (%)": over_seeds(in_float).percent(),
                "int8 (%)": over_seeds(in_int8).percent(),
                "lost (points)": over_seeds(lost).percent(3),
                "largest difference": f"{max(x['largest_difference'] for x in proved):.3f}",
                "agree (%)": over_seeds([x["agreement"] for x in proved]).percent(),
                "bytes": f"{max(x['file_bytes'] for x in found):,}",
            }
        )
    return markdown_table(rows, numbers_from=1)


@click.command(help=__doc__.splitlines()[0])
@click.argument("run_dir", type=click.Path(exists=True, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--stage", default="small_student", show_default=True)
@click.option("--epochs", default=5, show_default=True)
@click.option("--learning-rate", default=3e-4, show_default=True)
def main(run_dir, out, stage, epochs, learning_rate):
    images, labels = data.load_arrays("mnist", "train")
    test = data.load_arrays("mnist", "test")
    teacher = load_model("mnist/teacher")
    given = (data.scale(images), labels)
    cached = kd.cache_teacher(teacher, given, dtype="float32", verbose=0)
    steps = len(images) // BATCH_SIZE
    proofs = {way: [] for way in WAYS}
    for folder in sorted(run_dir.glob("seed-*")):
        seed = int(folder.name.removeprefix("seed-"))
        shuffled = cached.shuffle(len(images), seed=seed)
        train_data = shuffled.batch(BATCH_SIZE, drop_remainder=True)
        settings = {
            "epochs": epochs,
            "learning_rate": learning_rate,
            "seed": seed,
            "steps": steps,
        }
        for way in WAYS:
            path = out / folder.name / f"{way}.tflite"
            if not proof_path(path).exists():
                student = load_model(folder / stage / "model.keras")
                calibration = images[:CALIBRATION]
                make(way, student, path, train_data, calibration, test, settings)
            proofs[way].append(json.loads(proof_path(path).read_text()))
    print(table(proofs))


if __name__ == "__main__":
    main()
