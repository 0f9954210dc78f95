"""The widest student of a family that keeps within limits."""

import functools

from keras_kd.evaluation.profile import profile
from keras_kd.losses.arguments import check_integer
from keras_kd.students import files
from keras_kd.students.families import FAMILIES, WIDEST, build, check_family

# Widths whose costs give those of all; even, as half an operation is left out of a count.
_SAMPLES = (2, 4, 6)
# A file that fills this share of its limit is as large as it may be.
_FULL = 0.97


def largest(family, input_shape, output_shape, limits, columns=None, at_most=None):
    """The greatest width of which a family's model keeps within every limit.

    Parameters and MACs are counted. Bytes and time are those of the file of the untrained
    model, which is made for a few widths: they do not hang on the weights. A width is the
    greatest, or its file fills 97 % of a limit.

    Args:
        family, input_shape, output_shape, columns: As `build` takes them.
        limits: `Limits`.
        at_most: No width above this one. Defaults to `families.WIDEST`.

    Returns:
        An integer.

    Raises:
        ValueError: Not even the smallest model keeps within the limits; or as `build`, or a
            converter refuses the model.
    """
    check_family(family)
    most = WIDEST if at_most is None else min(WIDEST, check_integer("at_most", at_most, 1))

    @functools.cache
    def model(width):
        return build(family, input_shape, output_shape, width, columns)

    model(1)
    counts = {"max_parameters": lambda x: x.count_params(), "max_macs": _macs}
    for name, count in counts.items():
        limit = getattr(limits, name)
        if limit is not None:
            most = _within(costs(family, model, count), name, limit, most)
    for name in ("max_bytes", "max_latency"):
        limit = getattr(limits, name)
        if limit is not None:
            most = _within_of_file(name, limit, most, model, limits, family)
    return most


def _macs(model):
    cost = profile(model)
    if cost.macs is None:
        raise ValueError(
            f"`max_macs` needs a model whose MACs are known. {cost.unknown} Give all sizes "
            "in `input_shape`."
        )
    return cost.macs


def costs(family, model, count):
    """A function of the width to a cost, without a model of each.

    Args:
        family: One of `families.names()`.
        model: A function of a width to its model.
        count: A function of a model to what it costs, an integer.
    """
    exact = functools.cache(lambda width: count(model(width)))
    if not FAMILIES[family].proportional:
        return exact
    low, middle, high = map(exact, _SAMPLES)
    first, second = middle - low, high - 2 * middle + low

    def cost(width):
        """Newton's polynomial of degree 2: sums of products of two multiples of a width."""
        steps = (width - _SAMPLES[0]) / 2
        return round(low + steps * first + steps * (steps - 1) / 2 * second)

    return cost


def _within(cost, name, limit, most):
    """The greatest width whose cost, which does not fall, is at most the limit."""
    if cost(1) > limit:
        raise ValueError(_too_small(name, limit, cost(1)))
    fits, beyond = 1, None
    # By doubling, so that no model is built that is far too large.
    while beyond is None and fits < most:
        width = min(2 * fits, most)
        fits, beyond = (width, None) if cost(width) <= limit else (fits, width)
    while beyond is not None and beyond - fits > 1:
        width = (fits + beyond) // 2
        fits, beyond = (width, beyond) if cost(width) <= limit else (fits, width)
    return fits


def _within_of_file(name, limit, most, model, limits, family):
    """As `_within`, of a cost that takes a file to be known: few are made.

    Between two files the cost goes, nearly, as the parameters do.
    """
    parameters = costs(family, model, lambda x: x.count_params())
    known = {}

    def fits_at(width):
        known[width] = files.measure(name, model(width), limits, FAMILIES[family])
        return known[width] <= limit

    least = min(most, FAMILIES[family].least)
    if not fits_at(least):
        raise ValueError(_too_small(name, limit, known[least], least))
    fits, beyond = least, most + 1
    while beyond - fits > 1 and known[fits] < _FULL * limit:
        wanted = _at_the_limit(known, fits, beyond, limit, parameters)
        width = _width_of(wanted, parameters, fits, beyond)
        fits, beyond = (width, beyond) if fits_at(width) else (fits, width)
    return fits


def _at_the_limit(known, fits, beyond, limit, parameters):
    """The parameters with which the line through two files meets the limit."""
    narrower = [x for x in known if x < fits]
    other = beyond if beyond in known else max(narrower, default=None)
    if other is None:
        # Of the smallest most is overhead. So this is a guess: weights of a byte, and half
        # as much for what stands beside them.
        return parameters(fits) + max(1, limit - known[fits]) * 2 // 3
    rise = (known[other] - known[fits]) / (parameters(other) - parameters(fits))
    return parameters(fits) + (limit - known[fits]) / max(rise, 1e-9)


def _width_of(wanted, parameters, fits, beyond):
    """The greatest width with so many parameters, between two others and not far off."""
    low, high = fits, min(beyond, 32 * fits)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if parameters(middle) <= wanted else (low, middle)
    return max(fits + 1, low)


_WORDS = {
    "max_bytes": ("bytes", ",.0f"),
    "max_macs": ("MACs", ",.0f"),
    "max_parameters": ("parameters", ",.0f"),
    "max_latency": ("ms", ".3g"),
}


def _too_small(name, limit, needed, width=1):
    word, form = _WORDS[name]
    return (
        f"`{name}` is less than the smallest model of the family needs, "
        f"{needed:{form}} {word} at width {width}. Received: {name}={limit:{form}}. "
        "Allow more, take smaller inputs, or another family."
    )
