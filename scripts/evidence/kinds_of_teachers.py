"""Kinds of teachers, and the data of scikit-learn that they teach.

A part of scripts/evidence/teachers.py.
"""

import dataclasses
import functools
from typing import Any

import keras
import numpy as np
from keras import layers
from sklearn import datasets, ensemble, linear_model, model_selection

import keras_kd as kd

SPLIT_SEED = 0
# Hidden units of the students.
STUDENTS = {"digits": [8], "digits of 4x4": [8], "breast_cancer": [4], "wine": [4]}


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """A data set in three parts, each (x, y); the columns of a table are standardised."""

    name: str
    train: tuple
    validation: tuple
    test: tuple

    @classmethod
    @functools.cache
    def load(cls, name, limit=None):
        found = getattr(datasets, f"load_{name}")()
        x, y = found.data.astype("float32"), found.target.astype("int64")
        x = x.reshape(-1, 8, 8, 1) / 16 if name == "digits" else x

        def split(x, y, share):
            x, others, y, labels = model_selection.train_test_split(
                x, y, test_size=share, random_state=SPLIT_SEED, stratify=y
            )
            return (x, y), (others, labels)

        if limit is not None:
            # Some data come class by class.
            rows = np.random.default_rng(SPLIT_SEED).permutation(len(x))[:limit]
            x, y = x[rows], y[rows]
        rest, test = split(x, y, 0.3)
        train, validation = split(*rest, 0.25)
        if name != "digits":
            mean, std = train[0].mean(axis=0), train[0].std(axis=0)
            parts = (train, validation, test)
            train, validation, test = (((x - mean) / std, y) for x, y in parts)
        return cls(name, train, validation, test)

    @property
    def flat(self):
        """The training part as scikit-learn takes it."""
        return flat(self.train[0]), self.train[1]


def flat(x):
    return np.reshape(x, (len(x), -1))


@dataclasses.dataclass(frozen=True)
class Lesson:
    """What a kind of teacher gives its student.

    Attributes:
        data: The `Data`, with the student's labels.
        teacher: What a Distiller takes: a model, or None.
        examples: Single training examples that carry what it said.
        answers: Takes x, gives the teacher's outputs; a student may have other teachers.
        units: Of the student's last layer.
        beside: Of a chain, batches of the validation part that carry what it says of them;
            else None.
    """

    data: Data
    teacher: Any
    examples: Any
    answers: Any
    units: int
    beside: Any = None


def network(data, hidden, units):
    """A dense network for the data's inputs."""
    shape = data.train[0].shape[1:]
    hidden = [layers.Dense(size, activation="relu") for size in hidden]
    return keras.Sequential(
        [keras.Input(shape), layers.Flatten(), *hidden, layers.Dense(units)]
    )


def student_of(data, units):
    return network(data, STUDENTS[data.name], units)


def loss_of(units):
    if units == 1:
        return keras.losses.BinaryCrossentropy(from_logits=True)
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def trained(model, data, epochs, rate=0.003):
    keras.utils.set_random_seed(SPLIT_SEED)
    model.compile(keras.optimizers.Adam(rate), loss_of(model.output_shape[-1]))
    model.fit(*data.train, batch_size=32, epochs=epochs, verbose=0)
    return model


@functools.cache
def large_network(data, epochs):
    keras.utils.set_random_seed(SPLIT_SEED)
    return trained(network(data, [128, 128], 10), data, epochs)


@functools.cache
def fitted_forest(data):
    trees = ensemble.RandomForestClassifier(300, random_state=SPLIT_SEED)
    return trees.fit(*data.flat)


def asked(data, teacher, answers, units):
    """The lesson of a teacher that is asked once about each example."""
    examples = kd.cache_teacher(teacher, data.train, verbose=0)
    return Lesson(data, teacher, examples, answers, units)


def function_of(predict, name, outputs="probabilities"):
    return kd.teachers.from_function(predict, name=name, version="1", outputs=outputs)


# One kind of teacher, one function: the table's words for it are its docstring's.


def forest(load, epochs, folder):
    """random forest of 300 trees, `from_function`"""
    data = load("digits")
    trees = fitted_forest(data)

    def predict(x):
        return trees.predict_proba(flat(x))

    return asked(data, function_of(predict, "forest"), predict, 10)


def boosting(load, epochs, folder):
    """gradient boosting, two columns for a student of one unit"""
    data = load("breast_cancer")
    boosted = ensemble.GradientBoostingClassifier(random_state=SPLIT_SEED)
    predict = boosted.fit(*data.flat).predict_proba
    return asked(data, function_of(predict, "boosting"), predict, 1)


def onnx(load, epochs, folder):
    """an ONNX file through onnxruntime"""
    import onnxruntime

    data = load("digits")
    path = folder / "teacher.onnx"
    # As many as the proof of a file needs.
    examples = np.resize(data.train[0], (1000, 8, 8, 1))
    kd.export(large_network(data, epochs), path, "onnx", examples=examples)
    session = onnxruntime.InferenceSession(path)
    (inputs,) = session.get_inputs()

    def predict(x):
        return session.run(None, {inputs.name: np.float32(x)})[0]

    return asked(data, function_of(predict, "onnx", "logits"), predict, 10)


def torch(load, epochs, folder):
    """a PyTorch module"""
    import torch

    data = load("digits")
    torch.manual_seed(SPLIT_SEED)
    wide = torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10)
    module = torch.nn.Sequential(torch.nn.Flatten(), *wide)
    optimizer = torch.optim.Adam(module.parameters(), 0.003)
    x, y = (torch.from_numpy(np.array(part)) for part in data.train)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(32):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(module(x[rows]), y[rows]).backward()
            optimizer.step()

    def predict(x):
        with torch.no_grad():
            return module(torch.from_numpy(np.array(x))).numpy()

    return asked(data, function_of(predict, "torch", "logits"), predict, 10)


def parquet(load, epochs, folder):
    """log-probabilities in a Parquet file, of logistic regression"""
    import pyarrow
    from pyarrow import parquet

    data = load("wine")
    regression = linear_model.LogisticRegression().fit(*data.flat)
    log_probs = regression.predict_log_proba(data.train[0])
    order = np.random.default_rng(SPLIT_SEED).permutation(len(log_probs))
    columns = {f"class {c}": log_probs[order, c] for c in range(log_probs.shape[1])}
    table = pyarrow.table(columns | {"index": order})
    parquet.write_table(table, folder / "answers.parquet")
    examples = kd.with_teacher_outputs(
        data.train, folder / "answers.parquet", kind="log_probs"
    )
    return Lesson(data, None, examples, regression.predict_proba, 3)


def top_k(load, epochs, folder):
    """the forest's three likeliest classes, in an .npz file"""
    data = load("digits")
    trees = fitted_forest(data)
    p = trees.predict_proba(data.flat[0])
    classes = np.argsort(-p, axis=1)[:, :3]
    values = np.take_along_axis(p, classes, axis=1)
    np.savez(folder / "answers.npz", values=values, classes=classes)
    with np.load(folder / "answers.npz") as kept:
        largest = kept["values"], kept["classes"]
    examples = kd.with_teacher_outputs(
        data.train, largest, kind="probabilities", num_classes=10
    )
    return Lesson(data, None, examples, lambda x: trees.predict_proba(flat(x)), 10)


def preprocessed(load, epochs, folder):
    """a convolutional network of 32x32 RGB, `Preprocessed`"""
    data = load("digits")
    bigger = [
        layers.Resizing(32, 32),
        layers.Rescaling(2.0, offset=-1.0),
        lambda images: keras.ops.repeat(images, 3, axis=-1),
    ]

    def seen(images):
        for step in bigger:
            images = step(images)
        return keras.ops.convert_to_numpy(images)

    keras.utils.set_random_seed(SPLIT_SEED)
    network = keras.Sequential([keras.Input((32, 32, 3))])
    for filters in (16, 32):
        network.add(layers.Conv2D(filters, 3, 2, activation="relu"))
    network.add(layers.Flatten())
    network.add(layers.Dense(10))
    images, labels = data.train
    as_seen = dataclasses.replace(data, train=(seen(images), labels))
    trained(network, as_seen, max(1, epochs // 4))
    teacher = kd.teachers.Preprocessed(network, bigger, input_shape=(8, 8, 1))
    return asked(data, teacher, functools.partial(teacher.predict, verbose=0), 10)


def groups(load, epochs, folder):
    """a network of ten digits for even or odd, `GroupClasses`"""
    data = load("digits")
    parity = [(x, y % 2) for x, y in (data.train, data.validation, data.test)]
    grouped = Data(data.name, *parity)
    teacher = kd.teachers.GroupClasses(
        large_network(data, epochs), [range(0, 10, 2), range(1, 10, 2)]
    )
    return asked(grouped, teacher, functools.partial(teacher.predict, verbose=0), 2)


def together(load, epochs, folder):
    """the forest and a Keras model, `Ensemble`"""
    data = load("digits")
    trees = fitted_forest(data)
    inputs = keras.Input((8, 8, 1))
    function = function_of(lambda x: trees.predict_proba(flat(x)), "forest")
    member = keras.Model(inputs, function(inputs))
    # At the temperature at which it is measured; the student may be taught at another.
    teacher = kd.teachers.Ensemble(
        [member, large_network(data, epochs)], temperature=1.0, task="multiclass"
    )
    return asked(data, teacher, lambda x: np.asarray(teacher(x)), 10)


def chain(load, epochs, folder):
    """a chain of given outputs, an assistant and the student"""
    data = load("digits")
    trees = fitted_forest(data)

    def predict(x):
        return trees.predict_proba(flat(x))

    examples, beside = (
        kd.with_teacher_outputs(part, predict(part[0]), kind="probabilities")
        for part in (data.train, data.validation)
    )
    return Lesson(data, None, examples, predict, 10, beside.batch(32))


def other_inputs(load, epochs, folder):
    """whole pictures for a student of 4x4 thumbnails, `with_teacher_inputs`"""
    whole = load("digits")
    parts = whole.train, whole.validation, whole.test
    small = [(x.reshape(-1, 4, 2, 4, 2, 1).mean(axis=(2, 4)), y) for x, y in parts]
    data = Data("digits of 4x4", *small)
    teacher = large_network(whole, epochs)
    beside = kd.with_teacher_inputs(data.train, whole.train[0])
    examples = kd.cache_teacher(teacher, beside, verbose=0)
    # It is measured on the pictures that the thumbnails are of.
    return Lesson(data, teacher, examples, lambda _: np.asarray(teacher(whole.test[0])), 10)


KINDS = {
    x.__name__: x
    for x in (
        forest,
        boosting,
        onnx,
        torch,
        parquet,
        top_k,
        preprocessed,
        other_inputs,
        groups,
        together,
        chain,
    )
}
