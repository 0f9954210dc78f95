"""`keras_kd.distill`: from a teacher and data to a file for a device, in one call."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np

from keras_kd import datasets, files
from keras_kd.data import DATASETS
from keras_kd.data.deform import Deform
from keras_kd.data.pipeline import for_models
from keras_kd.data.rows import Rows
from keras_kd.datasets.load import Own
from keras_kd.distillation import plan as plans
from keras_kd.distillation import written
from keras_kd.distillation.outcome import Distilled
from keras_kd.distillation.scale import check_answers, find_scale, temperature_for
from keras_kd.distillation.ship import ship
from keras_kd.distillation.student import choose, smallest
from keras_kd.distillation.teacher import check_takes, in_words, look_at, task_of
from keras_kd.evaluation.unlabelled import answer_shape
from keras_kd.exporters.checks import check_one_of, check_quantization
from keras_kd.exporters.runtimes import FORMATS, need_runtimes
from keras_kd.losses.arguments import check_integer, is_finite_number
from keras_kd.recipes import data as recipe_data
from keras_kd.recipes.recipe import AS_JSON, Recipe
from keras_kd.recipes.run import run
from keras_kd.recipes.sections import ModelRecipe
from keras_kd.report.card import write_card
from keras_kd.report.recipe import as_toml
from keras_kd.report.write import write_report
from keras_kd.runs import manifest
from keras_kd.students import Limits
from keras_kd.teachers.scales import scaled

_MINUTES = 10
# Of a learning rate at which the loss is lost, what is tried then.
_LOWER = 0.25
# Files whose labels may be classes or values, and which they are under a task.
_TOLD = (".csv", ".parquet", ".npz")
_LABELS = {"regression": "regression", "multiclass": "multiclass", "binary": "multiclass"}


def distill(
    teacher,
    data,
    *,
    student=None,
    task=None,
    scale=None,
    max_bytes=None,
    max_macs=None,
    max_parameters=None,
    max_latency=None,
    minutes=None,
    epochs=None,
    format="litert",
    quantization=None,
    labels=True,
    baseline=True,
    image_size=None,
    imports=None,
    seed=0,
    run_dir=None,
    data_dir=None,
    announce=print,
):
    """Distils a teacher into the best student that fits, as a proved file for a device.

    In order, each told in a line: it looks at the teacher; finds in which scale it wants
    its images; takes the largest student of a family that is within every limit; has the
    teacher answer all training examples once, of images several views; trains the student,
    and the same one on labels alone for half as long; writes the file, proves and times it
    on held-out examples; and writes report, card and a recipe that does it again. Which
    epoch is left in the end is said by validation data; the test data are measured on once.

    Called again with the same arguments after a stop it goes on where it was.

    Args:
        teacher: A built `keras.Model`, `keras_kd.teachers.from_function` too; a path that
            ends in `.keras`; or a shipped model's name, "mnist/teacher".
        data: A path or name, or a `keras_kd.datasets.load.Own`, see
            `keras_kd.datasets.load.load`.
        student: A family of `keras_kd.students`, "separable_cnn"; or the path of a `.keras`
            model. Defaults to the family for such data.
        task: What the outputs mean: "multiclass", "binary", "multilabel" or "regression".
            Defaults to what teacher and labels show.
        scale: How the teacher wants images, a key of `keras_kd.teachers.scales.SCALES`.
            Defaults to what its answers show.
        max_bytes, max_macs, max_parameters, max_latency: Limits of the file in bytes, of
            the student's multiply-accumulates and weights, and of the milliseconds of one
            example on this machine; numbers, or texts as "100kB" and "1M". Without any a
            tenth of the teacher's MACs and parameters.
        minutes: What all of it may take on this machine. Defaults to 10.
        epochs: Instead of `minutes`.
        format, quantization: As `keras_kd.export` takes them. Of "litert" the default is
            "int8", or the next that answers as the student does.
        labels: Whether the data's labels are read. Without, what is right is what the
            teacher answers.
        baseline: Whether the student is trained on the labels alone, too.
        image_size: (height, width) of what the student sees. Defaults to the teacher's.
        imports: A module of the user's own to import before the teacher is loaded.
        seed: Of weights and data order, an integer.
        run_dir: A folder, new or of this call. Defaults to one of the data's name in
            "runs".
        data_dir: TFDS's data folder, for data sets by name.
        announce: Called with each line that is told.

    Returns:
        A `Distilled`; printed, it is one line.

    Raises:
        DataError: The data are not what is described.
        FileNotFoundError: There is no such teacher.
        RunError: `run_dir` holds a run of other arguments, or something else.
        ValueError: An argument is not what is described here; the teacher answers no better
            than chance; nothing is small enough for the limits; or no file answers as the
            student does.

    Example:

    ```python
    found = kd.distill("teacher.keras", "photos", max_bytes="100kB", minutes=10)
    print(found)
    ```
    """
    limits = Limits(
        max_bytes=max_bytes,
        max_macs=max_macs,
        max_parameters=max_parameters,
        max_latency=max_latency,
        format=format,
        quantization=quantization or ("int8" if format == "litert" else None),
    )
    if minutes is not None and epochs is not None:
        raise ValueError("`minutes` and `epochs` say the same twice. Give one of them.")
    if minutes is None and epochs is None:
        minutes = _MINUTES
    _check_numbers(minutes, epochs)
    # Now, not when all is trained.
    check_one_of("format", format, list(FORMATS))
    check_quantization(format, quantization, quantization == "int8" or None)
    need_runtimes(format)
    own = _own(data, image_size, labels, task)
    run_dir = Path("runs") / _name(own) if run_dir is None else Path(run_dir)
    given = {
        "teacher": os.fspath(teacher) if isinstance(teacher, (str, os.PathLike)) else None,
        "data": own if isinstance(own, str) else dataclasses.asdict(own),
        "student": student,
        "task": task,
        "scale": scale,
        "limits": dataclasses.asdict(limits),
        "minutes": minutes,
        "epochs": epochs,
        "baseline": baseline,
        "seed": seed,
    }
    call = _Call(teacher, own, given, imports, data_dir, announce)
    # Then the file's is the one that suits the student.
    is_free = quantization is None and format == "litert"
    found = call.make(run_dir, limits, is_free)
    over = found.over(limits)
    if over:
        announce(f"File: {over}, so a smaller student is tried")
        # What stood in for int8 stays, as its file is larger.
        found = call.make(run_dir / "smaller", found.smaller(limits), is_free=False)
        over = found.over(limits)
        if over:
            raise ValueError(f"{over}, with a smaller student, too. Raise the limit.")
    return found


class _Call:
    """One call: what is decided, trained and written in one run folder."""

    def __init__(self, teacher, own, given, imports, data_dir, announce):
        self.own, self.given = own, given
        self.data_dir, self.announce = data_dir, announce
        self.parts = None
        self.teacher = look_at(teacher, imports)
        announce(in_words(self.teacher))

    def make(self, run_dir, limits, is_free):
        """Does all that is left to do in a folder, and gives the `Distilled`.

        Args:
            run_dir: A `pathlib.Path`.
            limits: `keras_kd.students.Limits`.
            is_free: Whether the file's quantization is the one that suits the student, not
                that of the limits.
        """
        # As the user gave it, also where the limits are lowered by what was measured; and
        # JSON knows no tuples.
        asked = json.loads(json.dumps(self.given))
        recipe = self._begun(run_dir, asked)
        if recipe is None:
            files.check_new(run_dir)
            recipe = self._decide(limits, is_free)
        else:
            self.announce(f"Run: goes on in {run_dir}")
        try:
            result = self._train(recipe, run_dir, asked)
        except FloatingPointError as error:
            self.announce(f"Training: {error} Once more, with a lower learning rate")
            shutil.rmtree(run_dir)
            recipe = written.at_lower_rate(recipe, _LOWER)
            result = self._train(recipe, run_dir, asked)
        return self._finish(recipe, result, run_dir, limits, is_free)

    def _begun(self, run_dir, asked):
        """The recipe of a run that is there already; None where there is none."""
        if not (run_dir / manifest.MANIFEST).is_file():
            return None
        content = manifest.read(run_dir)
        if content.get("distill") != asked:
            raise manifest.RunError(
                f"{run_dir} holds a run of other arguments. Nothing was changed: give the "
                "arguments that it was begun with, or choose another folder with `run_dir` "
                "(--run-dir)."
            )
        return Recipe.model_validate(content["recipe"])

    def _decide(self, limits, is_free):
        """Looks at teacher and data, and writes down what is to be done: a `Recipe`."""
        teacher, given = self.teacher, self.given
        parts = self._read()
        x, labels = parts.train
        shape = tuple(x.shape[1:])
        check_takes(teacher, parts)
        answers = answer_shape(teacher.model, for_models(x[:1]))
        task = task_of(teacher, parts, answers, given["task"])
        model, scale = teacher.model, None
        if parts.kind == "images":
            scale = given["scale"]
            if scale is None:
                seen = parts.validation or parts.train
                scale = find_scale(
                    model, *seen, task, self.announce, parts.class_names
                )
            model = scaled(model, scale, shape)
        elif given["scale"] is not None:
            raise ValueError(
                f"`scale` is of images, and the data are of kind {parts.kind!r}. Received: "
                f"scale={given['scale']!r}."
            )
        if labels is not None and (parts.kind != "images" or given["scale"]):
            check_answers(model, x, labels, task, parts.class_names)
        table, student = choose(
            given["student"], model, answers, parts, limits, self.announce, is_free
        )
        augment = None
        if parts.kind == "images":
            augment = Deform(**written.augmentation(shape[:2]))
        batch_size = plans.batch_size_for(len(x))
        costs = plans.measure(model, student, x, batch_size, augment)
        baseline = given["baseline"] and labels is not None
        plan = plans.make_plan(
            costs,
            len(x),
            x.nbytes // len(x),
            4 * int(np.prod(answers)),
            minutes=given["minutes"],
            epochs=given["epochs"],
            baseline=baseline,
        )
        self.announce(plan.in_words(baseline))
        more = {"teacher": teacher.path, "teacher_scale": scale}
        if isinstance(self.own, str):
            more["validation_examples"] = len(parts.validation[0])
        return written.recipe_of(
            _dataset(self.own, parts),
            task,
            table,
            plan,
            temperature=temperature_for(model, x, task, self.announce),
            labels=labels is not None,
            baseline=baseline,
            seed=given["seed"],
            steps=max(len(x) // plan.batch_size, 1),
            image_size=shape[:2],
            **{key: value for key, value in more.items() if value is not None},
        )

    def _read(self):
        """The data, of each part's kind, read once."""
        if self.parts is None:
            like = self.teacher.input_shape
            parts = datasets.load(self.own, self.data_dir, self.announce, like=like)
            if parts.validation is None:
                count = len(parts.train[0]) // 10
                train, held_out = recipe_data.hold_out(parts.train, count)
                parts = dataclasses.replace(parts, train=train, validation=held_out)
            self.parts = _held(parts)
        return self.parts

    def _train(self, recipe, run_dir, asked):
        result, _ = run(
            recipe,
            run_dir,
            self.data_dir,
            name="distill",
            teacher=self.teacher.model,
            settings={"distill": asked},
            parts=self._read(),
        )
        return result

    def _finish(self, recipe, result, run_dir, limits, is_free):
        files.write_text(run_dir / "recipe.toml", as_toml(recipe.model_dump(**AS_JSON)))
        parts = self._read()
        quantization, model = limits.quantization, recipe.stage[0].model
        if is_free and isinstance(model, ModelRecipe):
            quantization = smallest(model.family)
        shipped = ship(
            run_dir,
            parts,
            recipe.stage[0].task,
            result.students[written.STUDENT].output_shape[1:],
            format=limits.format,
            quantization=quantization,
            fixed=not is_free,
            announce=self.announce,
        )
        write_card(run_dir, written.STUDENT, overwrite=True)
        _, report = write_report(run_dir)
        self.announce(f"Report: {report}")
        has_labels = parts.task is not None
        return Distilled(run_dir, result, shipped, report, has_labels)


def _held(parts):
    """Images in memory where there is room: they are read each epoch."""

    def held(part):
        if part is None or not isinstance(part[0], Rows):
            return part
        fits = part[0].nbytes <= plans.MOST_BYTES
        return (part[0][:], part[1]) if fits else part

    names = ("train", "validation", "test")
    return dataclasses.replace(parts, **{x: held(getattr(parts, x)) for x in names})


def _check_numbers(minutes, epochs):
    if epochs is not None:
        check_integer("epochs", epochs, 1)
    elif not is_finite_number(minutes) or minutes <= 0:
        raise ValueError(
            f"`minutes` must be a number greater than 0. Received: minutes={minutes!r}."
        )


def _own(data, image_size, labels, task):
    """The data as `datasets.load` takes them: a name, or an `Own` with what is said."""
    if isinstance(data, (str, os.PathLike)):
        data = os.fspath(data)
        if data in DATASETS and image_size is None and labels:
            return data
        data = Own(data)
    if not isinstance(data, Own):
        raise ValueError(
            "`data` must be a path, the name of a data set, or a "
            f"keras_kd.datasets.load.Own. Received: {data!r}."
        )
    changed = {"labels": data.labels and labels}
    if image_size is not None:
        changed["image_size"] = tuple(image_size)
    is_told = changed["labels"] and Path(data.path).suffix.lower() in _TOLD
    if is_told and data.task is None:
        # Of whole numbers nothing else tells whether they are classes or values.
        changed["task"] = _LABELS.get(task)
    return dataclasses.replace(data, **changed)


def _name(own):
    """The folder in "runs" of a data set."""
    path = own if isinstance(own, str) else own.path
    name = path.removeprefix("tfds:").replace("/", "-") if ":" in path else Path(path).stem
    return f"distill-{name or 'data'}"


def _dataset(own, parts):
    """The data as a recipe names them: images in the size that they were read in."""
    if isinstance(own, str):
        return own
    table = {
        field.name: getattr(own, field.name)
        for field in dataclasses.fields(own)
        if getattr(own, field.name) != field.default
    }
    shape = parts.train[0].shape[1:]
    is_file = Path(own.path).suffix == ".npz"
    if parts.kind == "images" and not is_file:
        table |= {"image_size": list(shape[:2]), "channels": shape[2]}
    if parts.kind == "text":
        table["length"] = shape[0]
    return table
