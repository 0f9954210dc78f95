"""Every distillation loss in a few words: its paper, what it compares, its arguments."""

import dataclasses
import inspect
import re
import sys

from keras_kd import losses


@dataclasses.dataclass(frozen=True)
class Method:
    """What there is to know of a loss before it is chosen.

    Attributes:
        name: The identifier that `keras_kd.losses.get` takes.
        paper: 'Authors, "Title", year', as the head of the loss's file says it.
        compares: What of the two models, in words.
        arguments: dict of argument to default; `inspect.Parameter.empty` where there is
            none.
    """

    name: str
    paper: str
    compares: str
    arguments: dict

    def __str__(self):
        arguments = ", ".join(
            key if value is inspect.Parameter.empty else f"{key}={value!r}"
            for key, value in self.arguments.items()
        )
        lines = [f"{self.name:12}{self.paper}", self.compares, arguments]
        return f"\n{'':12}".join(lines)


def methods():
    """A `Method` for each of `keras_kd.losses.names()`, in a list."""
    return [_method(name) for name in losses.names()]


def _method(name):
    cls = losses.LOSSES[name]
    paper = re.sub(r"\s+", " ", sys.modules[cls.__module__].__doc__.split("\n\n")[1])
    parameters = inspect.signature(cls).parameters
    return Method(
        name,
        paper.strip().removesuffix("."),
        _compares(cls),
        {key: parameter.default for key, parameter in parameters.items()},
    )


def _compares(cls):
    if issubclass(cls, losses.FeatureLoss):
        least, most = cls.least_pairs, cls.most_pairs
        count = f"{least}" if least == most else f"{least} or more"
        several = "s" if most != 1 else ""
        what = f"{count} pair{several} of {'maps' if cls.on_maps else 'features'}"
    elif issubclass(cls, losses.RelationLoss):
        what = "features, each example with the others of the batch"
    else:
        what = "own outputs, as logits" if cls.on_logits else "own outputs"
    words = [what]
    words += ["needs labels"] if cls.needs_labels else []
    words += ["needs the examples' numbers"] if cls.needs_index else []
    words += ["may train layers of its own"] if cls.makes_layers else []
    return "; ".join(words)
