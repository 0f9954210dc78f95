import pytest

from keras_kd.students import Limits


@pytest.mark.parametrize(
    "name, given, value",
    [
        ("max_bytes", "100kB", 100_000),
        ("max_bytes", "64KiB", 65_536),
        ("max_bytes", "64 kib", 65_536),
        ("max_bytes", "1.5MB", 1_500_000),
        ("max_bytes", "0.3kB", 300),
        ("max_bytes", "50k", 50_000),
        ("max_bytes", 50_000, 50_000),
        ("max_macs", "1M", 1_000_000),
        ("max_macs", "2e6", 2_000_000),
        ("max_macs", 1e6, 1_000_000),
        ("max_parameters", "20k", 20_000),
        ("max_latency", "2ms", 2.0),
        ("max_latency", "500us", 0.5),
        ("max_latency", 0.25, 0.25),
    ],
)
def test_limits_are_numbers_or_texts(name, given, value):
    assert getattr(Limits(**{name: given}), name) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("given", ["", "kB", "1 2", "10 apples", -1, 0, True, "nan", [1]])
@pytest.mark.parametrize("name", ["max_bytes", "max_macs", "max_latency"])
def test_others_are_refused(name, given):
    with pytest.raises(ValueError, match=f"`{name}` must be a number greater than 0"):
        Limits(**{name: given})


def test_a_unit_of_another_limit_is_refused():
    with pytest.raises(ValueError, match="`max_macs`.*units are 'k', 'M', 'G'"):
        Limits(max_macs="3kB")
