"""A run folder as `keras-kd run` leaves it, made without training."""

import hashlib
import json
import shutil

import keras
import numpy as np

from keras_kd.evaluation.evaluate import Evaluation
from keras_kd.evaluation.predictions import predict

CLASSES, EPOCHS = 10, 4

# Name: who taught it, its architecture, how well it knows the labels, parameters, MACs.
MODELS = {
    "teacher": (["given"], "big", 8.0, 1_199_882, 11_640_000),
    "ta": (["teacher"], "middle", 7.5, 593_306, 3_012_000),
    "student": (["ta"], "small", 6.9, 50_890, 50_500),
    "alone": ([], "small", 6.3, 50_890, 50_500),
}

RECIPE = {
    "dataset": "mnist",
    "seed": 0,
    "batch_size": 256,
    "dtype_policy": "float32",
    "teacher": "mnist/teacher",
    "dense": False,
    "drop_rate": 0.0,
    "stage": [
        {
            "name": name,
            "model": "mnist_student",
            "epochs": EPOCHS,
            "optimizer": {"name": "adam", "learning_rate": 0.001},
            "losses": [{"name": "kd", "temperature": 4.0}] if name != "alone" else [],
            "distillation_loss_weights": None,
            "student_loss_weight": 0.5 if name != "alone" else None,
            "published_accuracy": [80.0, 88.5, 92.0, 93.5] if name == "student" else [],
        }
        for name in ("ta", "student", "alone")
    ],
}


def logits(examples, seed=0):
    """(labels, dict of model to logits); the models find the same examples hard."""
    common = np.random.default_rng(1)
    labels = common.integers(CLASSES, size=examples)
    hard = common.gumbel(size=(examples, CLASSES))
    ours = {}
    for number, (name, (_, _, skill, *_)) in enumerate(MODELS.items()):
        # The teacher is the same one whatever the seed.
        rng = np.random.default_rng([number, seed if name != "teacher" else 0])
        noise = hard + 0.7 * rng.gumbel(size=hard.shape)
        ours[name] = skill * np.eye(CLASSES)[labels] + noise
    return labels, ours


def make_run(path, examples=200, seed=0, images=None, recipe_name="mnist"):
    """Writes a run folder with a teacher, an assistant, a student and the student alone.

    Args:
        path: The folder to make.
        examples: Of the test data.
        seed: Of the recipe, and of the models' answers.
        images: (examples, height, width, channels) in [0, 1]; noise by default.
        recipe_name: As the manifest gives it.

    Returns:
        `path`.
    """
    labels, outputs = logits(examples, seed)
    if images is None:
        images = np.random.default_rng(0).random((examples, 8, 8, 1), dtype="float32")
    stages = []
    for name, (taught_by, architecture, _, parameters, macs) in MODELS.items():
        folder = path / name
        folder.mkdir(parents=True)
        teacher = taught_by[0] if taught_by and taught_by != ["given"] else None
        _save_model(folder / "model.keras", units=parameters // 50_000)
        _write_answers(folder / "answers.csv", labels, outputs[name])
        if name != "teacher":
            _write_history(folder / "history.csv", labels, outputs[name])
        if teacher:
            _write_disagreements(
                folder / "disagreements.npz", outputs[name], outputs[teacher], images
            )
        metrics = {
            "model": name,
            "taught_by": (taught_by or ["labels"])[0],
            "seconds": None if name == "teacher" else 60.0 + seed,
            "epochs": None if name == "teacher" else EPOCHS,
            "best_epoch": None,
            "parameters": parameters,
            "macs": macs,
            "pure_macs": macs - 500,
            "file_bytes": (folder / "model.keras").stat().st_size,
            "evaluation": _evaluation(labels, outputs[name], teacher, outputs),
        }
        write_json(folder / "metrics.json", metrics)
        if name != "teacher":
            stages.append(_stage(name, taught_by, architecture, folder))
    manifest = _head("run", recipe_name, RECIPE | {"seed": seed})
    teacher = {
        "name": "teacher",
        "architecture": "big",
        "weights": "1",
        "state": "done",
        "files": checksums(path / "teacher"),
    }
    write_json(path / "manifest.json", manifest | {"teacher": teacher, "stages": stages})
    return path


def make_task_run(path, task, places=0, seed=0, examples=40, noise=None):
    """Writes a run of another task: a teacher, a student that follows it, and one alone.

    What is right is drawn, and so is what the models add to it: the teacher the least.

    Args:
        path, seed, examples: As `make_run` takes them.
        task: "multilabel", "regression", or "multiclass" or "binary" of positions.
        places: 0, or 2 for pictures of 6 by 6 pixels.
        noise: dict of a model to how much is added to what is right.

    Returns:
        `path`.
    """
    rng = np.random.default_rng(0)
    positions, size = (6, 6)[:places], {"binary": 1, "regression": 2}.get(task, 3)
    if task == "multiclass":
        labels = rng.integers(0, size, (examples, *positions))
        truth = np.eye(size)[labels]
    else:
        truth = rng.normal(size=(examples, *positions, size))
        labels = truth if task == "regression" else (truth > 0).astype("int64")
    images = rng.uniform(size=(examples, 6, 6, 1)).astype("float32")
    data, models = [(images, labels)], {}
    spread = {"teacher": 0.4, "student": 0.7, "alone": 1.0} | (noise or {})
    for number, (name, size_of) in enumerate(spread.items()):
        added = size_of * np.random.default_rng([number, seed]).normal(size=truth.shape)
        times = 1 if task == "regression" else 2
        models[name] = _Given(name, (times * truth + added).astype("float32"))
    asked = {x: predict(models[x], data, task=task) for x in models}
    stages = []
    for name, found in asked.items():
        folder = path / name
        folder.mkdir(parents=True)
        _save_model(folder / "model.keras", units=3)
        found.answers().write(folder / "answers.npz")
        fidelity = None
        if name == "student":
            fidelity, differences = found.beside(asked["teacher"])
            index = np.flatnonzero(differences)[:4]
            pictures = found.pictures(asked["teacher"], index) if places == 2 else {}
            arrays = {"index": index, "images": images[index], **pictures}
            np.savez(folder / "disagreements.npz", **arrays)
        evaluation = Evaluation.of(found.answers(), fidelity).to_dict()
        metrics = {"taught_by": "labels", "parameters": 100, "macs": 200 + len(name)}
        metrics |= {"pure_macs": 200, "file_bytes": 10, "evaluation": evaluation}
        write_json(folder / "metrics.json", metrics)
        if name != "teacher":
            losses = "".join(f"{x},{1 / (x + 1)},{2 / (x + 1)}\n" for x in range(EPOCHS))
            (folder / "history.csv").write_text(f"epoch,loss,val_loss\n{losses}")
            taught_by = ["teacher"] if name == "student" else []
            stages.append(_stage(name, taught_by, "small", folder))
    manifest = _head("run", None, None)
    teacher = {"name": "teacher", "architecture": "big", "weights": "1", "state": "done"}
    teacher["files"] = checksums(path / "teacher")
    write_json(path / "manifest.json", manifest | {"teacher": teacher, "stages": stages})
    return path


class _Given:
    """A model that gives the same answers whatever it is asked."""

    def __init__(self, name, answers):
        self.name, self.answers = name, answers

    def predict_on_batch(self, inputs):
        return self.answers


def make_seeds(path, seeds=(0, 1, 2), examples=200, images=None):
    """Writes a run over several seeds: a folder of run folders."""
    for seed in seeds:
        make_run(path / f"seed-{seed}", examples, seed, images)
    manifest = _head("seeds", "mnist", RECIPE) | {"seeds": list(seeds)}
    write_json(path / "manifest.json", manifest)
    return path


def unfinish(path, name, state, error=None):
    """Makes a model of a run folder one that still waits or trains, or that failed."""
    manifest = json.loads((path / "manifest.json").read_text())
    models = [manifest["teacher"], *manifest["stages"]]
    stage = next(x for x in models if x["name"] == name)
    stage |= {"state": state, "files": {}}
    if error:
        stage["error"] = error
    write_json(path / "manifest.json", manifest)
    if state == "waiting":
        shutil.rmtree(path / name)
    else:
        history = (path / name / "history.csv").read_text().splitlines()[:3]
        shutil.rmtree(path / name)
        (path / name).mkdir()
        (path / name / "history.csv").write_text("\n".join(history) + "\n")


def change(path, **fields):
    """Changes fields of a JSON file."""
    write_json(path, json.loads(path.read_text()) | fields)


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2))


def _head(kind, recipe_name, recipe):
    return {
        "format": 1,
        "kind": kind,
        "keras_kd": "0.1.0",
        "versions": {
            "python": "3.11.4",
            "keras": "3.15.1",
            "tensorflow": "2.21.0",
            "numpy": "2.4.6",
        },
        "machine": {"system": "Linux", "processor": "x86_64", "cores": 2},
        "created": "2026-05-04T12:30:00+00:00",
        "recipe_name": recipe_name,
        "recipe": recipe,
    }


def _stage(name, taught_by, architecture, folder):
    return {
        "name": name,
        "taught_by": taught_by,
        "epochs": EPOCHS,
        "losses": [{"class_name": "SoftTargets"}] if taught_by else [],
        "loss_weights": [1.0] if taught_by else [],
        "student_loss_weight": 0.5 if taught_by else None,
        "optimizer": {"class_name": "Adam"},
        "architecture": architecture,
        "initial_weights": "0",
        "state": "done",
        "files": checksums(folder),
    }


def checksums(folder):
    return {x.name: hashlib.sha256(x.read_bytes()).hexdigest() for x in folder.iterdir()}


def _save_model(path, units):
    keras.Sequential(
        [
            keras.layers.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(units, activation="relu"),
            keras.layers.Dense(CLASSES),
        ]
    ).save(path)


def log_softmax(x):
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def _write_answers(path, labels, outputs):
    log_probs = log_softmax(outputs)
    confidence = np.exp(log_probs.max(axis=1))
    lines = ["label,predicted,confidence,log_likelihood"]
    for label, row, top in zip(labels, log_probs, confidence, strict=True):
        lines.append(f"{label},{row.argmax()},{min(top, 1):.9g},{row[label]:.9g}")
    path.write_text("\n".join(lines) + "\n")


def _write_history(path, labels, outputs):
    accuracy = np.mean(outputs.argmax(axis=1) == labels)
    lines = ["epoch,accuracy,loss,val_accuracy,val_loss"]
    for epoch in range(EPOCHS):
        value = accuracy - 0.2 * 0.4**epoch + 0.2 * 0.4 ** (EPOCHS - 1)
        lines.append(f"{epoch},{value - 0.01},{1 - value},{value},{1.1 - value}")
    path.write_text("\n".join(lines) + "\n")


def _write_disagreements(path, outputs, teacher_outputs, images):
    differ = outputs.argmax(axis=1) != teacher_outputs.argmax(axis=1)
    index = np.flatnonzero(differ)[:40]
    np.savez(path, index=index, images=images[index].astype("float32"))


def _evaluation(labels, outputs, teacher, all_outputs):
    log_probs = log_softmax(outputs)
    predicted = log_probs.argmax(axis=1)
    right = predicted == labels
    confidence = np.exp(log_probs.max(axis=1))
    bins = np.minimum((confidence * 15).astype(int), 14)
    gaps = [
        abs(np.sum(right[bins == k]) - np.sum(confidence[bins == k])) for k in range(15)
    ]
    return {
        "examples": len(labels),
        "errors": int(np.sum(~right)),
        "accuracy": float(np.mean(right)),
        "accuracy_interval": wilson(int(np.sum(right)), len(labels)),
        "negative_log_likelihood": float(
            -np.mean(log_probs[np.arange(len(labels)), labels])
        ),
        "calibration_error": float(np.sum(gaps) / len(labels)),
        "per_class": [_of_class(k, labels, predicted) for k in range(CLASSES)],
        "fidelity": teacher and _fidelity(teacher, log_probs, all_outputs[teacher]),
    }


def _of_class(label, labels, predicted):
    examples = int(np.sum(labels == label))
    right = int(np.sum((labels == label) & (predicted == label)))
    return {
        "label": label,
        "examples": examples,
        "errors": examples - right,
        "accuracy": right / examples,
        "precision": right / int(np.sum(predicted == label)),
        "accuracy_interval": wilson(right, examples),
    }


def _fidelity(teacher, log_probs, teacher_outputs):
    teacher_log_probs = log_softmax(teacher_outputs)
    agree = log_probs.argmax(axis=1) == teacher_log_probs.argmax(axis=1)
    kl = np.exp(teacher_log_probs) * (teacher_log_probs - log_probs)
    return {
        "teacher": teacher,
        "agreement": float(np.mean(agree)),
        "kl": float(np.mean(kl.sum(axis=1))),
    }


def wilson(right, examples):
    """The 95 % interval as the roots of |p - x| = z * sqrt(x * (1 - x) / n)."""
    square = 1.959963984540054**2 / examples
    p = right / examples
    low, high = sorted(np.roots([1 + square, -2 * p - square, p * p]).real)
    return [max(0.0, float(low)), min(1.0, float(high))]
