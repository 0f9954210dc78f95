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
        arguments: dict of argument to default.
    """

    name: str
    paper: str
    compares: str
    arguments: dict

    def __str__(self):
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.arguments.items())
        lines = [f"{self.name:12}{self.paper}", self.compares, arguments]
        return f"\n{'':12}".join(lines)


def methods():
    """A `Method` for each of `keras_kd.losses.names()`, in a list."""
    return [_method(name) for name in losses.names()]


def _method(name):
    loss = losses.get(name)
    paper = re.sub(r"\s+", " ", sys.modules[type(loss).__module__].__doc__.split("\n\n")[1])
    parameters = inspect.signature(type(loss)).parameters
    return Method(
        name,
        paper.strip().removesuffix("."),
        _compares(loss),
        {key: parameter.default for key, parameter in parameters.items()},
    )


def _compares(loss):
    if isinstance(loss, losses.FeatureLoss):
        least, most = loss.least_pairs, loss.most_pairs
        count = f"{least}" if least == most else f"{least} or more"
        several = "s" if most != 1 else ""
        what = f"{count} pair{several} of {'maps' if loss.on_maps else 'features'}"
    elif isinstance(loss, losses.RelationLoss):
        what = "features, each example with the others of the batch"
    else:
        what = "own outputs, as logits" if loss.on_logits else "own outputs"
    words = [what]
    words += ["needs labels"] if loss.needs_labels else []
    words += ["may train layers of its own"] if loss.makes_layers else []
    return "; ".join(words)
