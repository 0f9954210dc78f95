"""The exported files of a run in one table: what each costs, and what it loses."""

from keras_kd.report.tables import Table
from keras_kd.tables import shown_count

# Of these the latencies are shown, where they were measured.
BATCH_SIZES = (1, 32)
_FORMATS = {"saved_model": "SavedModel", "litert": "LiteRT", "onnx": "ONNX"}


def device_table(run, files):
    """Size, time, memory and accuracy of exported files.

    Args:
        run: The `runs.reader.Run` that they are of.
        files: A list of `runs.schema.DeviceFile`. Speed-up and shrink factor are over the
            file, if it is among them, of the `baseline` in float32 and the same format.

    Returns:
        A `Table`.
    """
    are_values = any(x.export.proof.rmse is not None for x in files)
    header = [
        "Model",
        "Format",
        "File, kB (gzip)",
        "Parameters",
        "MACs",
        *(f"Batch {size}, ms (95 %)" for size in BATCH_SIZES),
        "Memory, MB (own)",
        "Accuracy, %",
        "Lost, points",
        "Agreement, %",
        *["RMSE", "RMSE to model"] * are_values,
        *(f"Speed-up, batch {size}" for size in BATCH_SIZES),
        "Shrink factor",
    ]
    beside = {
        x.export.format: x
        for x in files
        if x.model == baseline(run) and x.export.quantization is None
    }
    rows = [_row(run, x, beside.get(x.export.format), are_values) for x in files]
    return Table(header, rows, 2)


def baseline(run):
    """The name of the model that the others are compared with: the run's first."""
    return run.models[0].name


def conditions(run, exports, seed=None):
    """How the files of a run were measured, and what the columns of the table say.

    Args:
        run: As `device_table` takes it.
        exports: Its `runs.schema.Exports`.
        seed: Of the run, where there are runs with other seeds.

    Returns:
        A list of sentences.
    """
    proofs = [x.export for x in exports.files]
    examples = sorted({x.proof.examples for x in proofs})
    profiles = [x.profile for x in exports.files if x.profile]
    threads = sorted({x.threads for x in profiles})
    runs = sorted({time.runs for x in profiles for time in x.latencies})
    where = [exports.machine.get(x) for x in ("system", "processor")]
    where.append(f"{exports.machine.get('cores', '?')} cores")
    of_seed = "" if seed is None else f" of seed {seed}"
    return [
        f"The files{of_seed} were measured together on {exports.created:%Y-%m-%d} "
        f"({', '.join(str(x) for x in where if x)}), in turn, each in a process of its "
        f"own, by the runtime of its format with {_range(threads)} thread"
        f"{'s' * (threads != [1])}.",
        f"Latency is the median of {_range(runs)} runs, in brackets the 95th percentile.",
        "Memory is the most that the process held, in brackets what of it came with the "
        "file, beyond the runtime.",
        "Accuracy, and agreement with the Keras model, are of "
        f"{_range(examples)} examples; lost is what the Keras model's accuracy is above."
        + " RMSE is that to the labels." * any(x.proof.rmse is not None for x in proofs),
        f"Speed-up and shrink factor are over “{baseline(run)}” in float32 in the same "
        "format.",
    ]


def _range(numbers):
    """Sorted numbers in words: "300", or "100 to 300"."""
    ends = dict.fromkeys([*numbers[:1], *numbers[-1:]])
    return " to ".join(f"{x:,}" for x in ends) or "?"


def kind(export):
    """Format and number type of an exported file, in words: "LiteRT, int8"."""
    return f"{_FORMATS[export.format]}, {export.quantization or 'float32'}"


def _row(run, file, beside, are_values):
    export, proof = file.export, file.export.proof
    times, others = _times(file), _times(beside)
    return [
        file.model,
        kind(export),
        f"{export.file_bytes / 1000:,.0f} ({export.gzip_bytes / 1000:,.0f})",
        f"{export.parameters:,}",
        shown_count(run[file.model].metrics.macs),
        *(_latency(times.get(size)) for size in BATCH_SIZES),
        _memory(file.profile),
        _percent(proof.file_accuracy),
        _lost(proof),
        _percent(proof.agreement),
        *map(_number, [proof.file_rmse, proof.rmse] * are_values),
        *(_factor(others, times, size) for size in BATCH_SIZES),
        f"{beside.export.file_bytes / export.file_bytes:.1f}×" if beside else "–",
    ]


def _times(file):
    """dict of batch size to `LatencyEntry`; empty where nothing was measured."""
    measured = file.profile.latencies if file and file.profile else []
    return {x.batch_size: x for x in measured}


def _latency(time):
    return f"{_digits(time.median_ms)} ({_digits(time.p95_ms)})" if time else "–"


def _digits(x):
    return f"{x:.3g}" if x < 999.5 else f"{x:,.0f}"


def _factor(others, times, size):
    if size not in times or size not in others:
        return "–"
    return f"{others[size].median_ms / times[size].median_ms:.1f}×"


def _memory(profile):
    """What the process held at most, and how much of it came with the file."""
    if profile is None or profile.peak_memory_bytes is None:
        return "–"
    peak, before = profile.peak_memory_bytes, profile.runtime_memory_bytes
    own = "" if before is None else f" ({(peak - before) / 1e6:.0f})"
    return f"{peak / 1e6:.0f}{own}"


def _percent(fraction):
    return "–" if fraction is None else f"{100 * fraction:.2f}"


def _number(value):
    return "–" if value is None else f"{value:.4g}"


def _lost(proof):
    if proof.file_accuracy is None or proof.keras_accuracy is None:
        return "–"
    points = 100 * (proof.keras_accuracy - proof.file_accuracy)
    return f"{round(points, 2) + 0.0:.2f}"  # Never -0.00.
