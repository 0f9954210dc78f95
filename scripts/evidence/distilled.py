"""Students that `keras_kd.distill` made, over several seeds, as a line of a table.

    python scripts/evidence/distilled.py teacher.keras photos --max-bytes 50kB --epochs 12
    python scripts/evidence/distilled.py boosting diamonds.csv --label price \
        --max-bytes 20kB --epochs 30
    python scripts/evidence/distilled.py lingua sentences.csv --max-bytes 30kB \
        --epochs 30

"boosting" is scikit-learn's gradient boosting, trained on the table's training part.
"lingua" is the identifier of languages of that name (`pip install
lingua-language-detector`), for texts whose labels are ISO 639-1 codes.
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
        return function(lambda x: model.predict(x)[:, None], "boosting")
    model = ensemble.HistGradientBoostingClassifier(**given).fit(*parts.train)
    return function(lambda x: np.log(np.maximum(model.predict_proba(x), 1e-7)), "boosting")


def lingua(own):
    """A teacher of texts: how sure lingua is of each of the languages that are labels."""
    from lingua import IsoCode639_1, LanguageDetectorBuilder

    codes = [getattr(IsoCode639_1, x.upper()) for x in datasets.load(own).class_names]
    detector = LanguageDetectorBuilder.from_iso_codes_639_1(*codes).build()

    def answer(x):
        texts = [bytes((row[row > 0] - 1).astype("uint8")) for row in x]
        texts = [text.decode("utf-8", "ignore") for text in texts]
        found = detector.compute_language_confidence_values_in_parallel(texts)
        sure = [{y.language.iso_code_639_1: y.value for y in one} for one in found]
        rows = [[one.get(code, 0) for code in codes] for one in sure]
        return np.log(np.maximum(rows, 1e-7))

    return function(answer, "lingua")


TEACHERS = {"boosting": boosting, "lingua": lingua}


def function(answer, name):
    return kd.teachers.from_function(
        lambda x: answer(np.asarray(x)).astype("float32"), name=name, version="1"
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
@click.option("--task")
@click.option("--image-size", type=(int, int))
@click.option("--import", "imports")
@click.option("--max-bytes", required=True)
@click.option("--epochs", type=int, required=True)
@click.option("--seeds", type=int, default=3)
@click.option("--run-dir", type=click.Path(path_type=Path), default="runs/distilled")
def main(teacher, data, label, seeds, run_dir, **given):
    own = Own(data, label=label)
    teacher = TEACHERS[teacher](own) if teacher in TEACHERS else teacher
    distil = functools.partial(kd.distill, teacher, own, **given)
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
