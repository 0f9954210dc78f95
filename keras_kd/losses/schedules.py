"""Numbers that change with the training step: Keras's own learning-rate schedules."""

import keras
from keras import ops


def plain(value):
    """NumPy's numbers, texts and arrays as Python's; anything else as it is."""
    is_numpy = type(value).__module__.partition(".")[0] == "numpy"
    return value.tolist() if is_numpy else value


def is_schedule(value):
    """Whether a number is given as a `keras.optimizers.schedules.LearningRateSchedule`."""
    return isinstance(value, keras.optimizers.schedules.LearningRateSchedule)


def value_at(value, step, dtype="float32"):
    """A schedule's value at a step, a scalar tensor; any other `value` as it is.

    Args:
        value: A number or a schedule.
        step: Scalar integer, a tensor where the step runs in a graph.
        dtype: Of the tensor.
    """
    return ops.cast(value(step), dtype) if is_schedule(value) else value


def check_schedule(name, schedule, is_allowed, allowed):
    """`schedule`, if what it gives can be used at both of its ends; in plain numbers.

    Args:
        name: Of the argument, for the message.
        schedule: A schedule.
        is_allowed: Takes a float, says whether the argument may have it.
        allowed: The same in words: "greater than 0".

    Raises:
        ValueError: It gives another value at step 0 or where it stops to change, or counts
            in whole numbers.
    """
    schedule = _with_plain_numbers(schedule)
    config = _config(schedule)
    firsts = [config.get("initial_learning_rate"), *config.get("values", ())]
    if any(isinstance(x, int) for x in firsts):
        # Keras then rounds at every step, down to 0 in ExponentialDecay.
        raise ValueError(
            f"`{name}` is a schedule of whole numbers; write them with a point, 8.0 for 8. "
            f"Received: {name}={shown(schedule)}."
        )
    for step in sorted({0, last_step(schedule)}):
        value = float(schedule(step))
        if not is_allowed(value):
            raise ValueError(
                f"`{name}` must be {allowed} at every step, and is {value} at step {step}. "
                f"Received: {name}={shown(schedule)}."
            )
    return schedule


def last_step(schedule):
    """Where a schedule stops to change, as far as its configuration tells; else 0."""
    config = _config(schedule)
    last = sum(config.get(key) or 0 for key in ("decay_steps", "warmup_steps"))
    return max([last, *(x + 1 for x in config.get("boundaries", ()))])


def _with_plain_numbers(schedule):
    """The schedule, which Keras can save, of Python's numbers where it has NumPy's."""
    config = _config(schedule)
    plain_config = {key: _plain_inside(x) for key, x in config.items()}
    same = repr(plain_config) == repr(config)
    return schedule if same else type(schedule).from_config(plain_config)


def _plain_inside(value):
    value = plain(value)
    is_list = isinstance(value, (list, tuple))
    return type(value)(map(plain, value)) if is_list else value


def shown(value):
    """`repr` of a value, and of a schedule with its arguments."""
    if not is_schedule(value):
        return repr(value)
    arguments = ", ".join(
        f"{key}={x!r}" for key, x in _config(value).items() if key != "name"
    )
    return f"{type(value).__name__}({arguments})"


def _config(schedule):
    try:
        return schedule.get_config()
    except NotImplementedError:  # Of Keras's base class: it cannot be saved, only used.
        return {}
