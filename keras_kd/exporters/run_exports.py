"""Every model of a run as a file in every format, proved, and measured side by side."""

import dataclasses
import logging

from keras_kd import files as run_dirs
from keras_kd.exporters import checks, export, file_profile, runtimes
from keras_kd.runs import manifest, reader
from keras_kd.runs.schema import DeviceFile, Exports, RefusedFile
from keras_kd.training.loading import load_keras_file

logger = logging.getLogger(__name__)

# (format, quantization), as `export` takes them.
KINDS = (
    ("saved_model", None),
    ("litert", None),
    ("litert", "float16"),
    ("litert", "dynamic"),
    ("litert", "int8"),
    ("onnx", None),
)


def export_run(
    run_dir,
    examples,
    calibration,
    *,
    kinds=None,
    task=None,
    min_agreement=None,
    overwrite=False,
    **measuring,
):
    """Exports the finished models of a run in every format, and measures the files.

    Each lies in its model's folder, its proof beside it; see `export`. One that is there
    already is kept, so that a call that was stopped goes on with the same one. The files
    are then timed in turn, and the run folder's exports.json says what was found, which
    `keras-kd report` shows. A model may fail in a format, in whatever way: the others are
    written all the same, and exports.json gives the reason.

    Args:
        run_dir: The folder of a run; of one over several seeds, the first seed is taken.
        examples, calibration: As `export` takes them, inputs of the models; not an
            iterator, as each file needs them again.
        kinds: dict of a model's name to its files, a list of (format, quantization); of
            others there are none. Defaults to all of all.
        task: As `export` takes it, of all models; by default what each was measured as.
        min_agreement: As `export` takes it, of quantised files.
        overwrite: Whether all files are made anew.
        **measuring: `threads` and others of
        `keras_kd.exporters.file_profile.profile_files`.

    Returns:
        A `keras_kd.runs.schema.Exports`.

    Raises:
        BlockingIOError: The run is going on.
        FileExistsError: A file that is in the way has no proof, or another file's.
        ImportError: A runtime is not installed.
        ValueError: No model is finished; none could be exported, with the reason for each
            file; a file is damaged.
    """
    run = next(iter(reader.read(run_dir).runs.values()))
    models = [model for model in run.models if model.done and model.has_model]
    if kinds is None:
        kinds = {model.name: KINDS for model in models}
    models = [model for model in models if model.name in kinds]
    for format in {format for model in models for format, _ in kinds[model.name]}:
        runtimes.need_runtimes(format)
    if not models:
        raise ValueError(f"No model of {run.path} is finished; there is nothing to export.")
    files, refused = [], []
    with run_dirs.locked(run.path):
        for model in models:
            given = {"examples": examples, "overwrite": overwrite}
            given["task"] = task or model.metrics.evaluation.task
            _export_model(
                model, kinds[model.name], given, calibration, min_agreement, files, refused
            )
        if not files:
            reasons = "\n".join(f"{x.model}/{x.file}: {x.reason}" for x in refused)
            raise ValueError(f"No file was written.\n{reasons}")
        paths = [run.path / x.model / x.export.file for x in files]
        profiles = file_profile.profile_files(paths, **measuring)
        exports = _described(files, profiles, refused)
        run_dirs.write_text(
            run.path / reader.EXPORTS, exports.model_dump_json(indent=2) + "\n"
        )
    return exports


def _export_model(model, kinds, given, calibration, min_agreement, files, refused):
    """Adds a model's `DeviceFile`s and `RefusedFile`s, and writes what is not there."""
    loaded = None
    for format, quantization in kinds:
        path = model.folder / export.file_name(model.name, format, quantization)
        arguments = given | {"format": format, "quantization": quantization}
        if quantization == "int8":
            arguments["calibration"] = calibration
        if quantization is not None:
            arguments["min_agreement"] = min_agreement
        if path.exists() and not given["overwrite"]:
            logger.info("%s: there already", path.name)
        else:
            try:
                loaded = loaded or load_keras_file(model.file("model.keras"))
                arguments["class_names"] = checks.fitting(model.class_names, loaded)
                export.export(loaded, path, **arguments)
            except Exception as error:  # Whatever it is, the other formats may work.
                reason = str(error)
                if not isinstance(error, ValueError):
                    reason = f"{type(error).__name__}: {reason}".removesuffix(": ")
                logger.warning("%s: %s", path.name, reason)
                refused.append(RefusedFile(model=model.name, file=path.name, reason=reason))
                continue
            logger.info("%s: written", path.name)
        entry = _entry(path, format, quantization)
        files.append(DeviceFile(model=model.name, export=entry))


def _entry(path, format, quantization):
    """What the proof beside a file says, if it is this file's."""
    proof = export.proof_path(path)
    entry = reader.read_export(proof) if proof.is_file() else None
    wanted = (format, quantization, file_profile.file_sizes(path)[0])
    if entry and (entry.format, entry.quantization, entry.file_bytes) == wanted:
        return entry
    raise FileExistsError(
        f"{path} exists, but {proof.name} beside it is "
        f"{'not of this file' if entry else 'missing'}. Nothing was changed: move the file "
        "away, or have all files made anew with overwrite=True (--overwrite)."
    )


def _described(files, profiles, refused):
    now = manifest.environment()
    measured = [
        x.model_dump() | {"profile": dataclasses.asdict(profile)}
        for x, profile in zip(files, profiles, strict=True)
    ]
    return Exports(
        format=1,
        created=now["created"],
        machine=now["machine"],
        files=measured,
        refused=refused,
    )
