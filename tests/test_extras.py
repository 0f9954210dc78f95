"""Missing packages."""

import pytest

from keras_kd.extras import needed_by


def test_a_missing_package_is_told_with_its_extra():
    words = r"A picture needs paint, which is not installed: pip install 'keras_kd\[art\]'"
    with pytest.raises(ModuleNotFoundError, match=words):
        with needed_by("A picture", "art"):
            raise ModuleNotFoundError("No module named 'paint'", name="paint")


@pytest.mark.parametrize("error", [ModuleNotFoundError("x", name="keras_kd.x"), OSError()])
def test_other_errors_pass(error):
    with pytest.raises(type(error)) as told:
        with needed_by("A picture", "art"):
            raise error
    assert told.value is error
