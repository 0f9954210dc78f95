"""Losses by name."""

import pytest

from keras_kd import losses
from tests.losses import instances


@pytest.mark.parametrize("name", losses.names())
def test_every_identifier_makes_its_class(name):
    loss = instances.get(name)
    assert type(loss) is losses.LOSSES[name]
    assert losses.get(loss) is loss


def test_arguments_go_to_the_constructor():
    assert losses.get("kd", temperature=2.0).temperature == 2.0


def test_unknown_name_suggests_a_near_one():
    with pytest.raises(ValueError, match=r"no .* loss 'KDD'\. Did you mean 'kd'\? Known"):
        losses.get("KDD")


def test_unknown_argument_lists_the_known():
    with pytest.raises(ValueError, match="'kd' takes the arguments: temperature, form"):
        losses.get("kd", temprature=2.0)


def test_a_missing_argument_lists_the_known():
    with pytest.raises(ValueError, match="takes the arguments: num_examples, .*: none"):
        losses.get("crd")


@pytest.mark.parametrize("identifier", [None, 3, object()])
def test_not_a_loss(identifier):
    with pytest.raises(ValueError, match="A distillation loss is an object with"):
        losses.get(identifier)
