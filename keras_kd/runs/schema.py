"""What the JSON files of a run folder hold, for those who read them.

Folders are handed from one person to another, so a name must be one of a folder inside the
run: a manifest cannot point elsewhere.
"""

import datetime
from typing import Annotated, Any, Literal

import pydantic

from keras_kd.files import check_folder_name
from keras_kd.tasks.scores import SCORES

Name = Annotated[str, pydantic.AfterValidator(check_folder_name)]
Fraction = Annotated[float, pydantic.Field(ge=0, le=1)]
Count = Annotated[int, pydantic.Field(ge=0)]
Size = Annotated[int, pydantic.Field(ge=1)]
Positive = Annotated[float, pydantic.Field(gt=0)]
NotNegative = Annotated[float, pydantic.Field(ge=0)]


class _Section(pydantic.BaseModel):
    """Keys that a later version adds are none of this one's business."""

    model_config = pydantic.ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class StageEntry(_Section):
    """What the manifest says of a stage; `taught_by` is empty for labels alone."""

    name: Name
    taught_by: list[Name]
    epochs: Count
    losses: list[Any] = []
    loss_weights: list[Any] | None = None
    student_loss_weight: Any = None
    optimizer: Any = None
    patience: Any = None
    restore_best: bool = False
    monitor: str | None = None
    architecture: str
    initial_weights: str | None = None
    state: Literal["waiting", "training", "done", "failed"]
    error: str | None = None
    files: dict[str, str] = {}


class TeacherEntry(_Section):
    """What the manifest says of the given teacher, which is measured first of all."""

    state: Literal["waiting", "done"] = "done"
    architecture: str | None = None
    weights: str | None = None
    files: dict[str, str] = {}


class _Head(_Section):
    """What the manifests of all kinds have."""

    format: Literal[1]
    keras_kd: str
    versions: dict[str, str]
    machine: dict[str, Any]
    created: datetime.datetime
    recipe_name: str | None = None
    recipe: dict[str, Any] | None = None


class RunManifest(_Head):
    kind: Literal["run"]
    teacher: TeacherEntry | None = None
    # Of the labels, in their order, where they have names.
    class_names: list[str] | None = None
    # Of whom the labels are that are measured on, where the data have none.
    labels_of: Literal["teacher"] | None = None
    stages: Annotated[list[StageEntry], pydantic.Field(min_length=1)]

    @pydantic.model_validator(mode="after")
    def _teachers_come_first(self):
        known = ["teacher"] if self.teacher else []
        for stage in self.stages:
            unknown = set(stage.taught_by) - set(known)
            if unknown or stage.name in ("teacher", *known):
                raise ValueError(
                    f"stage {stage.name!r}: repeated, or taught by none before"
                )
            known.append(stage.name)
        return self


class SeedsManifest(_Head):
    kind: Literal["seeds"]
    seeds: Annotated[list[Count], pydantic.Field(min_length=1)]


class SearchManifest(_Head):
    """Of a search, which has written its own table and picture."""

    kind: Literal["tune"]


class AnyManifest(pydantic.RootModel):
    """A manifest of any kind, told by `kind`."""

    root: Annotated[
        RunManifest | SeedsManifest | SearchManifest,
        pydantic.Field(discriminator="kind"),
    ]


class ClassRow(_Section):
    label: int
    examples: Count
    errors: Count
    accuracy: float | None
    precision: float | None
    accuracy_interval: tuple[float, float] | None
    iou: Fraction | None = None


class Fidelity(_Section):
    """None is what the task does not have."""

    teacher: str
    agreement: Fraction | None = None
    kl: float | None = None
    rmse: NotNegative | None = None


class ScoreEntry(_Section):
    value: float | None
    interval: tuple[float, float] | None = None


class EvaluationEntry(_Section):
    """What was measured; of earlier versions, which knew one task, without scores."""

    task: Literal["multiclass", "binary", "multilabel", "regression"] = "multiclass"
    places: Count = 0
    examples: Size
    answers: Count | None = None
    errors: Count | None = None
    accuracy: Fraction | None = None
    accuracy_interval: tuple[Fraction, Fraction] | None = None
    negative_log_likelihood: float | None = None
    calibration_error: Fraction | None = None
    scores: dict[str, ScoreEntry] = {}
    per_class: list[ClassRow]
    fidelity: Fidelity | None = None

    @pydantic.model_validator(mode="before")
    @classmethod
    def _of_earlier_versions(cls, found):
        if not isinstance(found, dict) or found.get("scores"):
            return found
        names = ("accuracy", "negative_log_likelihood", "calibration_error")
        if any(name not in found for name in ("errors", *names)):
            raise ValueError("it has no scores")
        scores = {name: {"value": found[name]} for name in names}
        scores["accuracy"]["interval"] = found.get("accuracy_interval")
        return found | {"scores": scores}

    @pydantic.field_validator("scores")
    @classmethod
    def _are_known(cls, scores):
        # Those of a later version are none of this one's business.
        known = {name: x for name, x in scores.items() if name in SCORES}
        if not known or next(iter(known.values())).value is None:
            raise ValueError("there is no score that counts")
        return known

    @property
    def counts(self):
        """The name of the score that counts."""
        return next(iter(self.scores))

    @property
    def is_right_or_wrong(self):
        """Whether an example is one answer that is right or wrong."""
        return self.errors is not None


class Metrics(_Section):
    """What metrics.json says of a finished model."""

    taught_by: str
    seconds: float | None = None
    epochs: int | None = None
    best_epoch: int | None = None
    # None where nobody knows, as of a function, or of a layer of one's own.
    parameters: Count | None
    macs: Count | None
    pure_macs: Count | None
    file_bytes: Count | None = None
    evaluation: EvaluationEntry


class ProofEntry(_Section):
    examples: Size
    largest_difference: NotNegative
    output_range: NotNegative
    # None of values, of which none is right.
    agreement: Fraction | None
    keras_accuracy: Fraction | None
    file_accuracy: Fraction | None
    task: str | None = None
    answers: Count | None = None
    rmse: NotNegative | None = None
    keras_rmse: NotNegative | None = None
    file_rmse: NotNegative | None = None
    # By name, where there are several; the others are then of all together.
    outputs: dict[str, "ProofEntry"] | None = None


class ExportEntry(_Section):
    """What an `.export.json` says of the file beside it."""

    file: Name
    format: Literal["saved_model", "litert", "onnx"]
    quantization: Literal["float16", "dynamic", "int8"] | None
    batch_size: Size | None
    input_dtype: str
    gives: str
    parameters: Count
    file_bytes: Size
    gzip_bytes: Size
    calibration_examples: Count
    proof: ProofEntry
    versions: dict[str, str] = {}
    class_names: list[str] | None = None


class LatencyEntry(_Section):
    batch_size: Size
    median_ms: Positive
    p95_ms: Positive
    runs: Size


class ProfileEntry(_Section):
    """What was measured of a file, as `file_profile.FileProfile` has it."""

    latencies: list[LatencyEntry]
    threads: Size
    peak_memory_bytes: Count | None
    runtime_memory_bytes: Count | None


class DeviceFile(_Section):
    """An exported file of a model; one that was not measured has no profile."""

    model: Name
    export: ExportEntry
    profile: ProfileEntry | None = None


class RefusedFile(_Section):
    """A file that was not written, and why."""

    model: Name
    file: Name
    reason: str


class Exports(_Section):
    """What exports.json says of a run's exported files, all measured together."""

    format: Literal[1]
    created: datetime.datetime
    machine: dict[str, Any]
    files: Annotated[list[DeviceFile], pydantic.Field(min_length=1)]
    refused: list[RefusedFile] = []

    @pydantic.model_validator(mode="after")
    def _are_different(self):
        seen = [
            (x.model, x.export.format, x.export.quantization) for x in self.files
        ]
        if len(set(seen)) < len(seen):
            raise ValueError("files: a model has two files of one format")
        return self
