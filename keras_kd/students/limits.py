"""How much a student may cost."""

import dataclasses
import math
import numbers
import re

# Both spellings of a thousand; a byte's own multiples, too.
_COUNTS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}
_BYTES = {"": 1, "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_BYTES |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30} | _COUNTS
_MILLISECONDS = {"": 1, "ms": 1, "us": 1e-3, "s": 1e3}
_UNITS = {
    "max_bytes": (_BYTES, '50000, "50kB" or "48KiB"'),
    "max_macs": (_COUNTS, '1000000, "1e6" or "1M"'),
    "max_parameters": (_COUNTS, '20000, "2e4" or "20k"'),
    "max_latency": (_MILLISECONDS, '2, "2ms" or "500us"'),
}
_NUMBER = re.compile(r"\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?|[0-9]+\.)\s*([a-z]*)\s*", re.I)


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a student may cost; None is no limit.

    Numbers may be texts with a unit: "100kB" is 100,000 bytes and "64KiB" 65,536; "1M" of
    MACs or parameters is 1,000,000; "2ms" is a time.

    Attributes:
        max_bytes: Of the exported file.
        max_macs: As `keras_kd.evaluation.profile.Profile.macs` counts them.
        max_parameters: Weights, trained or not.
        max_latency: Milliseconds that the file takes for one example, on one thread.
        format, quantization: Of the file, as `keras_kd.export` takes them. Without a limit
            of bytes or time they have no effect.

    Raises:
        ValueError: A limit is no such number, or not greater than 0.
    """

    max_bytes: int | float | str | None = None
    max_macs: int | float | str | None = None
    max_parameters: int | float | str | None = None
    max_latency: float | str | None = None
    format: str = "litert"
    quantization: str | None = "int8"

    def __post_init__(self):
        for name in _UNITS:
            given = getattr(self, name)
            if given is not None:
                object.__setattr__(self, name, number(name, given))

    @property
    def any(self):
        """Whether there is a limit at all."""
        return any(getattr(self, name) is not None for name in _UNITS)


def number(name, given):
    """A limit as a number: a whole one, but of a time.

    Args:
        name: One of the four limits of `Limits`, which says what units there are.
        given: A number, or a text of one.

    Raises:
        ValueError: It is neither, or not greater than 0, or has a unit that is none of
            this limit's.
    """
    units, examples = _UNITS[name]
    value = given
    if isinstance(given, str):
        parts = _NUMBER.fullmatch(given)
        unit = _unit(parts[2], units) if parts else None
        value = None if unit is None else float(parts[1]) * units[unit]
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value <= 0:
        known = ", ".join(repr(x) for x in units if x)
        raise ValueError(
            f"`{name}` must be a number greater than 0, for instance {examples}; its units "
            f"are {known}. Received: {name}={given!r}."
        )
    if name == "max_latency":
        return float(value)
    # 0.3 of a thousand is 300, not 299; half a byte is none.
    return max(1, math.floor(round(value, 6)))


def _unit(text, units):
    """A unit as it stands in `units`, in capitals or not; None if it is none of them."""
    if text in units:
        return text
    near = [x for x in units if x.casefold() == text.casefold()]
    return near[0] if near else None
