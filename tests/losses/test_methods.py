"""What `keras-kd methods` knows of every loss."""

import inspect
import re

import pytest

from keras_kd import losses
from keras_kd.losses.methods import methods

METHODS = {method.name: method for method in methods()}


def test_every_loss_is_there_in_order():
    assert list(METHODS) == losses.names()


@pytest.mark.parametrize("name", losses.names())
def test_paper_and_arguments_are_said(name):
    method = METHODS[name]
    assert re.fullmatch(r'[A-Z][^"]+, "[^"]+", (19|20)\d\d', method.paper)
    parameters = inspect.signature(losses.LOSSES[name]).parameters
    assert list(method.arguments) == list(parameters)
    defaults = [parameter.default for parameter in parameters.values()]
    assert list(method.arguments.values()) == defaults
    # An argument without default is shown by its name alone.
    shown = str(method).splitlines()[-1]
    assert ("=" in shown.split(",")[0]) == (defaults[0] is not inspect.Parameter.empty)


@pytest.mark.parametrize(
    "name, compares",
    [
        ("kd", "own outputs, as logits"),
        ("logit_mse", "own outputs, as logits"),
        ("dkd", "own outputs, as logits; needs labels"),
        ("fitnet", "1 or more pairs of features; may train layers of its own"),
        ("at", "1 or more pairs of maps"),
        ("crd", "own outputs; needs the examples' numbers; may train layers of its own"),
        ("rkd", "features, each example with the others of the batch"),
    ],
)
def test_what_it_compares(name, compares):
    assert METHODS[name].compares == compares


def test_as_text():
    assert str(METHODS["dkd"]) == (
        "dkd         Zhao, Cui, Song, Qiu, Liang, "
        '"Decoupled Knowledge Distillation", 2022\n'
        "            own outputs, as logits; needs labels\n"
        "            alpha=1.0, beta=8.0, temperature=4.0, taps=None"
    )
