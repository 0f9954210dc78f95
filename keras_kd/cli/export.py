"""keras-kd export: a file for a device."""

from pathlib import Path

import click

from keras_kd.cli.base import (
    data_dir,
    dataset_options,
    examples_for,
    main,
    run_of,
    shown_log,
)


@main.command()
@click.argument("model", required=False)
@click.option("--format", help="saved_model, litert or onnx.")
@click.option("--quantization", help="Of litert: float16, dynamic or int8.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The new file or folder. [default: the model's name, here or in its run folder]",
)
@click.option(
    "--run-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="A run folder; MODEL is the name of a stage in it.",
)
@click.option(
    "--all",
    "every",
    is_flag=True,
    help="Every model of the run, in every format; then measure the files in turn.",
)
@click.option("--batch-size", type=int, help="Of the file. [default: free]")
@click.option(
    "--preprocessing",
    is_flag=True,
    help="Into the file: uint8 images in, scaled to [0, 1] for MODEL; probabilities out.",
)
@click.option(
    "--task",
    help="What the outputs mean: multiclass, binary, multilabel or regression. "
    "[default: as they show]",
)
@click.option("--tolerance", type=float, help="Allowed difference / outputs' range.")
@click.option("--min-agreement", type=float, help="Least fraction of equal answers.")
@click.option("--overwrite", is_flag=True, help="Replace what an export left before.")
@dataset_options
@data_dir
def export(
    model, out, run_dir, every, preprocessing, dataset, label, data_dir, **arguments
):
    """Write a MODEL as a file for a device, and prove it on a data set's test examples.

    MODEL is a .keras file, or a shipped model's name, for instance mnist/student. int8 is
    calibrated on 1,000 training examples. With --all and --run-dir alone the files
    of a run's models are written, but for those that are there, and measured together;
    keras-kd report then shows the table.
    """
    from keras_kd.exporters import converter

    if every or arguments["format"] == "litert":
        # It gets ready while the model and the data are loaded.
        converter.start()
    import keras
    import numpy as np

    from keras_kd import data
    from keras_kd.exporters import checks
    from keras_kd.exporters import export as exporters
    from keras_kd.files import inside
    from keras_kd.recipes.model_files import load_model

    if every:
        given = {"MODEL": model, "--out": out, "--preprocessing": preprocessing}
        given |= {f"--{k.replace('_', '-')}": v for k, v in arguments.items()}
        return _export_all(run_dir, given, dataset, label, data_dir)
    for name, value in {"MODEL": model, "--format": arguments["format"]}.items():
        if value is None:
            raise click.UsageError(f"{name} is missing; or give --all with --run-dir.")
    source = inside(run_dir, model) / "model.keras" if run_dir else model
    format, quantization = arguments["format"], arguments["quantization"]
    if out is None:
        name = exporters.file_name(model, format, quantization)
        out = inside(run_dir, model) / name if run_dir else Path(name)
    # Before the data are prepared, which may take a while.
    checks.check_target(out, format, arguments["overwrite"])
    loaded = load_model(source)
    is_calibrated = quantization == "int8"
    given = loaded, run_dir or run_of(model), dataset, label, data_dir
    told = arguments["task"]
    parts, calibration, task = _examples(*given, is_calibrated, told)
    as_taken = data.for_models
    if preprocessing:
        if parts.kind != "images":
            raise click.UsageError("--preprocessing scales images, which the data are not.")
        arguments["preprocessing"] = keras.layers.Rescaling(1 / 255)
        as_taken = np.asarray
    if is_calibrated:
        arguments["calibration"] = as_taken(calibration)
    examples = as_taken(parts.test[0][:]), parts.test[1]
    if not preprocessing:
        examples = _proved_on(parts, loaded)
    arguments["task"] = task
    arguments["class_names"] = checks.fitting(parts.names, loaded)
    exported = exporters.export(loaded, out, examples=examples, **arguments)
    click.echo(f"{exported}\nWritten to {out}, the proof to {exporters.proof_path(out)}")


def _examples(
    model, run_dir, dataset, label, data_dir, is_calibrated=True, task=None
):
    """The data's `Parts`; 1,000 of the examples to train on, or None; and the task."""
    from keras_kd import data
    from keras_kd.data.rows import spread

    wanted = ["train", "test"] if is_calibrated else ["test"]
    given = model, run_dir, dataset, label, data_dir
    dataset, parts, task = examples_for(*given, wanted, task=task)
    if not is_calibrated:
        return parts, None, task
    train = parts.train[0]
    # Named ones come in any order.
    is_named = dataset in data.DATASETS
    some = train[:1000] if is_named else train[spread(len(train), 1000)]
    return parts, some, task


def _proved_on(parts, model):
    """The test examples, and of few of them as many others as a proof takes."""
    from keras_kd import data
    from keras_kd.distillation.ship import proof_examples

    shape = getattr(model, "output_shape", None)
    if not isinstance(shape, tuple) or None in shape[1:]:
        return data.for_models(parts.test[0][:]), parts.test[1]
    return proof_examples(parts, shape[1:], click.echo)


def _export_all(run_dir, given, dataset, label, data_dir):
    from keras_kd import data
    from keras_kd.exporters.run_exports import export_run
    from keras_kd.recipes.model_files import load_model
    from keras_kd.report.devices import conditions, device_table
    from keras_kd.runs import reader

    overwrite, task = given.pop("--overwrite"), given.pop("--task")
    idle = [name for name, value in given.items() if value not in (None, False)]
    if run_dir is None or idle:
        raise click.UsageError(
            f"--all goes with --run-dir, not with {' and '.join(idle) or 'a model file'}."
        )
    run = next(iter(reader.read(run_dir).runs.values()))
    files = [x.file("model.keras") for x in run.models if x.done and x.has_model]
    model = load_model(files[-1]) if files else None
    parts, calibration, _ = _examples(model, run_dir, dataset, label, data_dir)
    with shown_log():
        exports = export_run(
            run_dir,
            _proved_on(parts, model),
            data.for_models(calibration),
            task=task,
            overwrite=overwrite,
        )
    run = next(iter(reader.read(run_dir).runs.values()))
    click.echo(f"\n{device_table(run, exports.files).as_markdown()}\n")
    click.echo("\n".join(conditions(run, exports)))
    click.echo(f"\nWritten to {run.path / reader.EXPORTS}")
    if exports.refused:
        raise click.ClickException(
            f"{len(exports.refused)} of {len(exports.refused) + len(exports.files)} files "
            "were not written, for the reasons above; the others were, and measured."
        )
