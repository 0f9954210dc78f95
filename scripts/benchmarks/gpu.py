"""Images a second on an accelerator: plain Keras, ours, and a loop in PyTorch.

    python scripts/benchmarks/gpu.py                     # JAX, and PyTorch if it is there
    python scripts/benchmarks/gpu.py --examples 256 --batch-size 32 --seconds 0.2   # a try

Made-up examples. Students: the published FC student and a small CNN on 28x28x1, a ResNet on
32x32x3; a teacher of the student's own architecture. Each library has a process of its own,
each way of training is compiled first, then timed for `--seconds`, three times; medians.
Goals, on an H100: ours cached takes at most 1.05 times plain's time; the FC student does a
million images a second and no fewer than PyTorch's best way; the ResNet 0.9 of that.
"""

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time

import click
import numpy as np
from tabulate import tabulate

# What a layer is: ("dense", units), ("conv", filters, stride), ("block", filters, stride).
STUDENTS = {
    "FC": ((28, 28, 1), [("dense", 784), ("dense", 784)]),
    "CNN": ((28, 28, 1), [("conv", 32, 2), ("conv", 64, 2), ("dense", 128)]),
    "ResNet": (
        (32, 32, 3),
        [
            ("conv", 16, 1),
            *[("block", 16, 1)] * 3,
            ("block", 32, 2),
            *[("block", 32, 1)] * 2,
            ("block", 64, 2),
            *[("block", 64, 1)] * 2,
        ],
    ),
}
CLASSES, REPEATS, TEMPERATURE = 10, 3, 4.0
# Multiply-accumulates a second in bfloat16, dense, as the makers say.
PEAKS = {"H100": 989e12 / 2, "H200": 989e12 / 2, "A100": 312e12 / 2}


def examples_of(shape, count):
    rng = np.random.default_rng(0)
    x = rng.random((count, *shape), dtype="float32")
    return x, rng.integers(0, CLASSES, count)


def timed(train, images, seconds):
    """Images a second of a call that trains on so many, the median of three."""
    train()
    found = []
    for _ in range(REPEATS):
        start, done = time.perf_counter(), 0
        while time.perf_counter() < start + seconds or not done:
            train()
            done += images
        found.append(done / (time.perf_counter() - start))
    return statistics.median(found)


def keras_model(name, policy):
    import keras

    shape, layers = STUDENTS[name]
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        inputs = x = keras.Input(shape)
        for kind, *sizes in layers:
            x = {"dense": _dense, "conv": _conv, "block": _block}[kind](x, *sizes)
        if len(x.shape) == 4:
            x = keras.layers.GlobalAveragePooling2D()(x)
        return keras.Model(inputs, keras.layers.Dense(CLASSES, dtype="float32")(x))
    finally:
        keras.config.set_dtype_policy(before)


def _dense(x, units):
    import keras

    x = keras.layers.Flatten()(x) if len(x.shape) == 4 else x
    return keras.layers.Dense(units, "relu")(x)


def _conv(x, filters, stride, activation="relu"):
    import keras

    conv = keras.layers.Conv2D(filters, 3, stride, padding="same", use_bias=False)
    x = keras.layers.BatchNormalization()(conv(x))
    return keras.layers.ReLU()(x) if activation else x


def _block(x, filters, stride):
    import keras

    y = _conv(_conv(x, filters, stride), filters, 1, activation=None)
    if y.shape != x.shape:
        x = keras.layers.Conv2D(filters, 1, stride, use_bias=False)(x)
    return keras.layers.ReLU()(keras.layers.Add()([x, y]))


def of_keras(name, policy, batch_size, count, seconds):
    """dict of way to images a second; and the multiply-accumulates of an image."""
    import keras

    import keras_kd as kd
    from keras_kd.evaluation.profile import profile

    x, y = examples_of(STUDENTS[name][0], count)
    teacher = keras_model(name, policy)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    streamed = {"device_bytes": 0}
    on_device = {"device_bytes": 1e12}
    cached = kd.cache_teacher(teacher, (x, y), batch_size=min(1024, count), verbose=0)
    ways = {"plain": None, "live, streamed": streamed, "live": on_device}
    ways |= {"cached, streamed": streamed, "cached": on_device}
    found = {}
    for way, given in ways.items():
        student = keras_model(name, policy)
        options = {"batch_size": batch_size}
        if given is not None:
            data = cached if "cached" in way else kd.with_index((x, y))
            data = data.shuffle(count, seed=0).batch(batch_size, drop_remainder=True)
            student = kd.Distiller(teacher, student, kd.losses.SoftTargets(TEMPERATURE))
            options = {"shuffle": False}
        student.compile("adam", loss, **(given or {}))
        arguments = (data,) if given is not None else (x, y)
        found[way] = timed(
            lambda fit=student.fit, a=arguments, o=options: fit(*a, verbose=0, **o),
            count // batch_size * batch_size,
            seconds,
        )
    return found, profile(teacher).macs


def torch_model(name):
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, before, filters, stride):
            super().__init__()
            first, (*second, _) = conv(before, filters, stride), conv(filters, filters)
            self.body = nn.Sequential(*first, *second)
            self.side = nn.Identity()
            if before != filters or stride != 1:
                self.side = nn.Conv2d(before, filters, 1, stride, bias=False)

        def forward(self, x):
            return torch.relu(self.body(x) + self.side(x))

    def conv(before, filters, stride=1):
        layer = nn.Conv2d(before, filters, 3, stride, 1, bias=False)
        return layer, nn.BatchNorm2d(filters), nn.ReLU()

    (height, _, width), layers = STUDENTS[name]
    made, is_flat = [], False
    for kind, size, *stride in layers:
        if kind == "dense":
            made += [] if is_flat else [nn.Flatten()]
            width, is_flat = width if is_flat else width * height * height, True
            made += [nn.Linear(width, size), nn.ReLU()]
        else:
            sizes = (width, size, *stride)
            made += conv(*sizes) if kind == "conv" else [Block(*sizes)]
            height = -(-height // stride[0])
        width = size
    if not is_flat:
        made += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*made, nn.Linear(width, CLASSES))


def of_torch(name, policy, batch_size, count, seconds):
    """dict of way to images a second: eager steps, and CUDA graphs."""
    import torch
    from torch.nn import functional

    device = "cuda" if torch.cuda.is_available() else "cpu"
    x, y = examples_of(STUDENTS[name][0], count)
    x = torch.from_numpy(np.moveaxis(x, -1, 1).copy()).to(device)
    x = x.to(memory_format=torch.channels_last)
    y = torch.from_numpy(y).to(device)
    outputs = torch.randn(count, CLASSES, device=device)
    is_half = policy == "mixed_bfloat16"

    def trainer(graphs):
        model = torch_model(name).to(device, memory_format=torch.channels_last)
        is_gpu = device == "cuda"
        optimizer = torch.optim.Adam(model.parameters(), capturable=is_gpu, fused=True)

        def step(x, y, taught):
            optimizer.zero_grad()
            with torch.autocast(device, torch.bfloat16, enabled=is_half):
                logits = model(x).float()
            soft = [functional.log_softmax(z / TEMPERATURE, -1) for z in (logits, taught)]
            distilled = functional.kl_div(*soft, reduction="batchmean", log_target=True)
            loss = (functional.cross_entropy(logits, y) + distilled * TEMPERATURE**2) / 2
            loss.backward()
            optimizer.step()

        if graphs:
            step = _captured(step, (x[:batch_size], y[:batch_size], outputs[:batch_size]))

        def train():
            order = torch.randperm(count, device=device)
            for start in range(0, count - batch_size + 1, batch_size):
                rows = order[start : start + batch_size]
                step(x[rows], y[rows], outputs[rows])
            if device == "cuda":
                torch.cuda.synchronize()

        return train

    ways = {"eager": False} | ({"CUDA graph": True} if device == "cuda" else {})
    images = count // batch_size * batch_size
    return {way: timed(trainer(x), images, seconds) for way, x in ways.items()}, None


def _captured(step, batch):
    """The step as one CUDA graph, which reads its batch where the first one lay."""
    import torch

    held = [part.clone() for part in batch]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(*held)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(*held)

    def replay(*batch):
        for part, new in zip(held, batch, strict=True):
            part.copy_(new)
        graph.replay()

    return replay


def child(library, cases, count, seconds):
    """Measures in this process, a line of JSON for each case."""
    measure = of_torch if library == "PyTorch" else of_keras
    for name, policy, batch_size in cases:
        found, macs = measure(name, policy, batch_size, count, seconds)
        row = {"library": library, "student": name, "dtype": policy, "batch": batch_size}
        print("ROW " + json.dumps(row | {"macs": macs, "found": found}), flush=True)


def measured(library, cases, count, seconds):
    """The rows of a library, from a process of its own; what it says goes through."""
    environment = os.environ | {"KERAS_BACKEND": "jax", "TF_CPP_MIN_LOG_LEVEL": "3"}
    told = json.dumps([library, cases, count, seconds])
    process = subprocess.Popen(
        [sys.executable, __file__, "--child", told],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    rows = []
    for line in process.stdout:
        is_row = line.startswith("ROW ")
        rows += [json.loads(line[4:])] if is_row else []
        print(line, end="", file=sys.stderr, flush=True)
    if process.wait():
        print(f"{library} ended with {process.returncode}", file=sys.stderr)
    return rows


def table(rows, peak):
    """Images a second, by library and way; and the part of the peak where it is known."""
    macs = {row["student"]: row["macs"] for row in rows if row["macs"]}
    lines = []
    for row in rows:
        for way, value in row["found"].items():
            # Backwards takes twice what forwards does.
            used = 3 * value * macs.get(row["student"], 0) / peak if peak else None
            lines.append(
                {
                    "student": row["student"],
                    "batch": row["batch"],
                    "dtype": row["dtype"],
                    "way": f"{row['library']}, {way}",
                    "images/s": f"{value:,.0f}",
                    "of bf16 peak": "-" if used is None else f"{100 * used:.1f} %",
                }
            )
    lines.sort(key=lambda x: (list(STUDENTS).index(x["student"]), x["batch"], x["dtype"]))
    return tabulate(lines, headers="keys", tablefmt="github", disable_numparse=True)


@click.command(context_settings={"show_default": True}, help=__doc__.split("\n")[0])
@click.option("--student", "students", multiple=True, default=tuple(STUDENTS))
@click.option("--batch-size", "batch_sizes", multiple=True, type=int, default=(256, 4096))
@click.option("--dtype", "policies", multiple=True, default=("mixed_bfloat16",))
@click.option("--examples", default=65536)
@click.option("--seconds", default=1.0, help="Of each of three repeats.")
@click.option("--device", default="", help="Its name, for the peak: H100, H200 or A100.")
@click.option("--child", "told", default=None, hidden=True)
def main(students, batch_sizes, policies, examples, seconds, device, told):
    if told is not None:
        return child(*json.loads(told))
    cases = [(x, p, b) for x in students for b in batch_sizes for p in policies]
    libraries = ["JAX"] + ["PyTorch"] * (importlib.util.find_spec("torch") is not None)
    rows = [row for x in libraries for row in measured(x, cases, examples, seconds)]
    click.echo(table(rows, PEAKS.get(device)))


if __name__ == "__main__":
    main()
