"""Students that `keras_kd.distill` made, over several seeds: a line for models/README.md.

    python scripts/evidence/distilled.py teacher.keras photos --max-bytes 50kB --epochs 12
    python scripts/evidence/distilled.py boosting diamonds.csv --label price \
        --max-bytes 20kB --epochs 30

"boosting" is scikit-learn's gradient boosting, trained on the table's training part.
"""

import functools
from pathlib import Path

import click
import numpy as np

import keras_kd as kd
from keras_kd import datasets
from keras_kd.datasets.load import Own
from keras_kd.distillation.ship import latency_of
from keras_kd.evaluation.uncertainty import over_seeds
from keras_kd.tables import markdown_table
from keras_kd.tasks.scores import SCORES


def boosting(own):
    """A teacher of a table: gradient boosting, of classes or of values."""
    from sklearn import ensemble

    parts = datasets.load(own)
    kinds = [i for i, x in enumerate(parts.columns) if x.categories is not None]
    given = {"categorical_features": kinds, "random_state": 0, "max_iter": 300}
    if parts.task == "regression":
        model = ensemble.HistGradientBoostingRegressor(**given).fit(*parts.train)
        return function(lambda x: model.predict(x)[:, None])
    model = ensemble.HistGradientBoostingClassifier(**given).fit(*parts.train)
    return function(lambda x: np.log(np.maximum(model.predict_proba(x), 1e-7)))


def function(answer):
    return kd.teachers.from_function(
        lambda x: answer(np.asarray(x)).astype("float32"), name="boosting", version="1"
    )


def score(model):
    """(what it is, the number) of a `ModelResult`: the score that counts."""
    name = model.evaluation.counts
    scale = 100 if SCORES[name].percent else 1
    return SCORES[name].label, scale * model.evaluation.scores[name].value


@click.command()
@click.argument("teacher")
@click.argument("data")
@click.option("--label")
@click.option("--max-bytes", required=True)
@click.option("--epochs", type=int, required=True)
@click.option("--seeds", type=int, default=3)
@click.option("--run-dir", type=click.Path(path_type=Path), default="runs/distilled")
def main(teacher, data, label, max_bytes, epochs, seeds, run_dir):
    own = Own(data, label=label)
    teacher = boosting(own) if teacher == "boosting" else teacher
    distil = functools.partial(
        kd.distill, teacher, own, max_bytes=max_bytes, epochs=epochs
    )
    scores, files = {}, []
    for seed in range(seeds):
        found = distil(seed=seed, run_dir=run_dir / f"seed-{seed}")
        print(found, flush=True)
        files.append(found.shipped)
        for model in found.result.models:
            what, value = score(model)
            scores.setdefault(model.model, []).append(value)
    row = {"score": what}
    for name, values in scores.items():
        mean = over_seeds(values)
        row[name] = f"{mean.mean:.2f}"
        if len(values) > 1:
            row[name] += f" ± {mean.deviation:.2f}"
        if name == "teacher":
            row[name] = f"{values[0]:.2f}"
    row["file, kB"] = f"{np.mean([x.student.export.file_bytes for x in files]) / 1000:.1f}"
    row["ms"] = f"{np.median([latency_of(x.student) for x in files]):.3g}"
    proofs = [x.student.export.proof for x in files]
    own_scores = [x.file_accuracy for x in proofs if x.file_accuracy is not None]
    if own_scores:
        row["the file's"] = f"{100 * np.mean(own_scores):.2f}"
    faster = [x.times_faster for x in files if x.times_faster]
    row["times faster"] = f"{np.median(faster):.0f}" if faster else "-"
    print(f"\n{markdown_table([row], numbers_from=1)}")


if __name__ == "__main__":
    main()
