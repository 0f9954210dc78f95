"""What every distillation loss has to hold, as checks that any loss can be put through.

For a test of each check, in pytest, `distillation_loss_checks` lists them:

    @pytest.mark.parametrize("check", distillation_loss_checks(MyLoss()), ids=str)

Example:

```python
kd.testing.check_distillation_loss(kd.losses.SoftTargets(temperature=2.0))
```
"""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
from keras import tree

from keras_kd.losses import contract as checks
from keras_kd.losses import edge_checks, loss_calls
from keras_kd.losses.base import AdoptedLoss, PerExampleLoss, as_distillation_loss
from keras_kd.losses.features import FeatureLoss

_ANY_LOSS = [
    checks.check_float32_scalar,
    checks.check_batch_order,
    checks.check_batch_sizes,
    checks.check_batch_of_one,
    checks.check_labels,
    checks.check_config,
    checks.check_repeated_call,
    edge_checks.check_evaluation,
]


def check_distillation_loss(loss, *, expected_failures=None, make_inputs=None):
    """Runs every check that applies to a distillation loss, and reports all that fail.

    What a loss promises, it declares as attributes of `keras_kd.losses.DistillationLoss`:
    `needs_labels`, `zero_at_agreement`, `smallest_at_agreement`, `shift_invariant`,
    `stops_gradients`, `widths_may_differ`, `has_state`, `takes_training`. Of a foreign
    object nothing is known, so it is held to that class's defaults.

    Args:
        loss: An object with `compute_loss(teacher_outputs, student_outputs, y_true=None,
            sample_weight=None)`: one of `keras_kd.losses`, of your own, or of Keras.
        expected_failures: dict of a check's name and the reason why this loss fails it,
            for instance `{"check_batch_order": "compares neighbours"}`.
        make_inputs: What to call the loss with: a function (batch_size, seed) ->
            (teacher_outputs, student_outputs, y_true), of NumPy arrays with the batch
            first, or lists of them for a loss with several taps; y_true may be None.
            Defaults to `make_logits`, and to maps for a `FeatureLoss`. A loss that
            `needs_index` receives 0, 1, 2, ... as `index`.

    Raises:
        AssertionError: Checks fail that are not expected to, or pass although they are;
            the message says which, what was seen and what is expected.
        ValueError: `loss` has no `compute_loss`, or `expected_failures` names a check
            that this loss is not put through.
    """
    expected = expected_failures or {}
    to_run = distillation_loss_checks(loss, make_inputs)
    names = [check.name for check in to_run]
    if not set(expected) <= set(names):
        raise ValueError(
            "`expected_failures` takes names of this loss's checks: "
            f"{', '.join(names)}. Received: {', '.join(map(repr, expected))}."
        )
    problems = []
    for check in to_run:
        try:
            check()
        except AssertionError as error:
            if check.name not in expected:
                problems.append(str(error))
        else:
            if check.name in expected:
                problems.append(f"{check}: passes. Expected: {expected[check.name]!r}.")
    if problems:
        raise AssertionError("\n".join(problems))


def distillation_loss_checks(loss, make_inputs=None):
    """The checks that apply to a loss, as a list of `Check`.

    Takes what `check_distillation_loss` takes. Gradients and compiled functions are
    checked where Keras's backend is TensorFlow or JAX.
    """
    loss = as_distillation_loss(loss)
    if make_inputs is None:
        make_inputs = _make_maps(loss) if isinstance(loss, FeatureLoss) else make_logits
    inputs = zip((*loss_calls.OUTPUTS, "y_true"), make_inputs(9, 0), strict=True)
    batch = {name: value for name, value in inputs if value is not None}
    if loss.needs_index:
        batch["index"] = np.arange(9)
    if loss.makes_layers:
        # What it promises may hang on the layers that these shapes ask for.
        sides = [batch[name] for name in loss_calls.OUTPUTS]
        loss.build(*(tree.map_structure(np.shape, side) for side in sides))
    if loss.has_state:
        # Its state after one batch; what the first has to set is its own affair.
        loss.compute_loss(**loss_calls.tensors(batch))
    functions = [*_ANY_LOSS]
    functions += [checks.check_agreement] if loss.smallest_at_agreement else []
    if not loss.uses_batch_statistics:
        functions += [checks.check_zero_weight]
        is_per_example = isinstance(loss, (PerExampleLoss, FeatureLoss))
        functions += [checks.check_sample_weight] if is_per_example else []
    functions += [checks.check_shift_invariance] if loss.shift_invariant else []
    bridges = loss.widths_may_differ and not loss.layers
    functions += [checks.check_other_width if bridges else checks.check_widths]
    if keras.backend.backend() in ("tensorflow", "jax"):
        functions += [checks.check_student_gradient, checks.check_graph]
        functions += [edge_checks.check_flat_outputs, edge_checks.check_not_constant]
        functions += [] if loss.stops_gradients else [checks.check_gradient]
    if keras.backend.backend() == "tensorflow":
        # Elsewhere all sizes are known.
        functions += [edge_checks.check_unknown_sizes]
    return [Check(function, loss, batch) for function in functions]


def make_logits(batch_size, seed):
    """Random logits of teacher and student, (batch_size, 10), and integer labels."""
    rng = np.random.default_rng(seed)
    teacher, student = rng.normal(scale=3.0, size=(2, batch_size, 10))
    return teacher, student, rng.integers(10, size=batch_size)


def _make_maps(loss):
    """A function like `make_logits`, of maps (batch_size, 4, 4, 6) or lists of them."""

    def make(batch_size, seed):
        rng = np.random.default_rng(seed)
        count = max(loss.least_pairs, len(loss.taps))
        sides = rng.normal(scale=2.0, size=(2, count, batch_size, 4, 4, 6))
        teacher, student = map(list, sides) if count > 1 else sides[:, 0]
        return teacher, student, None

    return make


@dataclasses.dataclass(frozen=True)
class Check:
    """One check of one loss; called, it returns None or raises AssertionError.

    Attributes:
        function: One of `keras_kd.losses.contract` or `edge_checks`, of (loss, batch).
        loss: A `DistillationLoss`, adopted where it was a foreign object.
        batch: The arguments of `compute_loss` by name, NumPy arrays of 9 examples.
    """

    function: Callable
    loss: object
    batch: dict

    @property
    def name(self):
        return self.function.__name__

    def __str__(self):
        is_foreign = isinstance(self.loss, AdoptedLoss)
        return f"{self.name}[{self.loss.name if is_foreign else self.loss}]"

    def __call__(self):
        try:
            self.function(self.loss, self.batch)
        except Exception as error:  # Whatever the loss, or its serialisation, raises.
            seen = error if isinstance(error, AssertionError) else loss_calls.raised(error)
            raise AssertionError(f"{self}: {self.function.__doc__} Seen: {seen}") from error
