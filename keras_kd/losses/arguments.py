"""Checks of a loss's arguments; each error names the argument and what it got."""

import math
import numbers

from keras_kd.losses.schedules import check_schedule, is_schedule, plain

# Losses square numbers, and multiply by a temperature's square, and float32 ends at 3e38.
_LARGEST, _SMALLEST = 1e12, 1e-37
_TEMPERATURES = 1e-9, 1e9

# What may change with the training step; see `DistillationLoss.at_step`.
SCHEDULED = ("temperature",)


def check_positive(name, value):
    """`value` as a float, if it is a finite number > 0; a temperature's schedule as it is.

    Raises:
        ValueError: It is anything else; the message names the argument.
    """
    least, most = _TEMPERATURES if name in SCHEDULED else (_SMALLEST, _LARGEST)

    def is_allowed(x):
        return least <= x <= most

    if name in SCHEDULED and is_schedule(value):
        return check_schedule(name, value, is_allowed, "greater than 0")
    allowed = "a finite number greater than 0"
    if is_finite_number(value) and plain(value) > 0:
        allowed += f", from {least:g} to {most:g}"
    return _number(name, value, is_allowed, allowed)


def check_at_least_one(name, value):
    """`value` as a float, if it is a finite number >= 1; else a ValueError."""
    return _number(name, value, lambda x: x >= 1, "a finite number, 1 or greater")


def check_not_negative(name, value):
    """`value` as a float, if it is a finite number >= 0; else a ValueError."""
    return _number(name, value, lambda x: x >= 0, "a finite number, 0 or greater")


def check_not_positive(name, value):
    """`value` as a float, if it is a finite number <= 0; else a ValueError."""
    return _number(name, value, lambda x: x <= 0, "a finite number, 0 or less")


def check_fraction(name, value):
    """`value` as a float, if it is a number between 0 and 1; else a ValueError."""
    return _number(name, value, lambda x: 0 <= x <= 1, "a number between 0 and 1")


def _number(name, given, is_allowed, allowed):
    value = plain(given)
    if not is_finite_number(value) or not is_allowed(value):
        if _is_real(value) and _LARGEST < abs(value) < math.inf:
            allowed += f", of size {_LARGEST:g} or less"
        raise ValueError(f"`{name}` must be {allowed}. Received: {name}={given!r}.")
    return float(value)


def check_not_all_zero(**weights):
    """Refuses weights that are all 0, of which a loss would be 0; a ValueError."""
    if not any(weights.values()):
        received = ", ".join(f"{name}={value!r}" for name, value in weights.items())
        raise ValueError(
            f"One of {', '.join(f'`{name}`' for name in weights)} must be greater than 0: "
            f"else the loss is 0 whatever the student answers. Received: {received}."
        )


def is_finite_number(value):
    """Whether it is a number other than NaN and infinity; True and False are none.

    Numbers that float32 would make infinite, once they are squared, are none, too.
    """
    value = plain(value)
    return _is_real(value) and abs(value) <= _LARGEST


def _is_real(value):
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def check_integer(name, value, least=-math.inf):
    """`value` as an int, if it is an integer >= `least`.

    Raises:
        ValueError: It is anything else; the message names the argument.
    """
    given, value = value, plain(value)
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_integer or value < least:
        limit = "" if least == -math.inf else f", {least} or greater"
        raise ValueError(
            f"`{name}` must be an integer{limit}. Received: {name}={given!r}."
        )
    return int(value)


def check_choice(name, value, choices):
    """`value`, if it is one of `choices`.

    Raises:
        ValueError: It is anything else; the message names the argument.
    """
    given, value = value, plain(value)
    # By type, too: 1 is no True.
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        raise ValueError(
            f"`{name}` must be one of {', '.join(map(repr, choices))}. "
            f"Received: {name}={given!r}."
        )
    return value
