"""keras-kd evaluate: a model on test data."""

import functools

import click

from keras_kd.cli.base import data_dir, dataset_options, examples_for, main, run_of


@main.command()
@click.argument("model")
@dataset_options
@click.option("--teacher", help="A model to compare MODEL with, as MODEL is given.")
@click.option(
    "--task",
    help="What the outputs mean: multiclass, binary, multilabel or regression. "
    "[default: as they show]",
)
@data_dir
def evaluate(model, dataset, label, teacher, task, data_dir):
    """Measure a MODEL on a data set's test examples.

    MODEL is a .keras file, or a shipped model's name, for instance mnist/student.
    """
    from keras_kd import data
    from keras_kd.evaluation.evaluate import Evaluation
    from keras_kd.evaluation.predictions import predict
    from keras_kd.recipes.model_files import load_model
    from keras_kd.teachers.of_texts import of_bytes, takes_texts

    loaded, loaded_teacher = (
        of_bytes(x) if x and takes_texts(x) else x
        for x in (load_model(model), teacher and load_model(teacher))
    )
    # Standard output holds the measurements alone.
    announce = functools.partial(click.echo, err=True)
    given = loaded, run_of(model, teacher), dataset, label, data_dir
    dataset, parts, task = examples_for(*given, ["test"], announce, task)
    images, labels = parts.test
    if labels is None:
        path = getattr(dataset, "path", dataset)
        raise data.DataError(f"{path} has no labels to measure by. Give data with some.")
    test = data.batches(images, labels, batch_size=1000)
    predictions, fidelity = predict(loaded, test, name=model, task=task), None
    if teacher:
        others = predict(loaded_teacher, test, name=teacher, task=task)
        fidelity = predictions.fidelity(others)
    measured = Evaluation.of(predictions.answers(), fidelity)
    click.echo(f"{measured.summary()}\n\n{measured.table(parts.names)}")
