"""The templates' escaping."""

import jinja2
import pytest
import yaml

from keras_kd.report import rendering

HOSTILE = "<script>alert(1)</script> | `x` [a](b) \n# head"


def filled(kind, text, **variables):
    environment = {"html": rendering._html, "md": rendering._markdown}[kind]()
    return environment.from_string(text).render(variables)


def test_html_marks_up_nothing():
    assert "<script>" not in filled("html", "{{ x }}", x=HOSTILE)


def test_markdown_marks_up_nothing_and_stays_on_its_line():
    found = filled("md", "{{ x }}", x=HOSTILE)
    assert "\n" not in found and "<script>" not in found
    assert "[a](b)" not in found and " | " not in found.replace("\\|", "")


@pytest.mark.parametrize("value", [HOSTILE, 'a: "b" # c', "- x", "\x00\u2028yes", 0.25, 3])
def test_yaml_reads_the_value_back_as_one(value):
    text = filled("md", "key: {{ x | yaml }}", x=value)
    found = yaml.safe_load(text)
    assert list(found) == ["key"]
    if isinstance(value, str):
        value = "".join(x if x.isprintable() else " " for x in value)
    assert found["key"] == value


def test_a_block_cannot_be_ended():
    assert filled("md", "{{ x | block }}", x="a\n```\nb") == "    a\n    ```\n    b"


def test_a_variable_that_is_missing_is_an_error():
    with pytest.raises(jinja2.UndefinedError):
        filled("html", "{{ nothing }}")
