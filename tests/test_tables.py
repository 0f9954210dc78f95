"""Tables and texts as Markdown."""

import re

import pytest

from keras_kd.tables import code, markdown_table, plain, shown_count


def test_columns_align_and_text_stays_as_it_is():
    rows = [{"model": "ta", "accuracy": "99.10"}, {"model": "student", "accuracy": "98.7"}]
    assert markdown_table(rows, numbers_from=1).splitlines() == [
        "| model   |   accuracy |",
        "|:--------|-----------:|",
        "| ta      |      99.10 |",
        "| student |       98.7 |",
    ]


def test_plain_text_marks_up_nothing():
    assert plain("a|b\n*c* [d](e) `f` <g> & \\") == (
        "a\\|b \\*c\\* \\[d\\](e) \\`f\\` &lt;g> &amp; \\\\"
    )


@pytest.mark.parametrize(
    "text, escaped",
    [
        ("mnist_student", "mnist_student"),
        ("_a_ __b__", "\\_a\\_ \\_\\_b\\_\\_"),
        ("~~a~~ $x$", "\\~\\~a\\~\\~ \\$x\\$"),
        ("# a", "\\# a"),
        ("- a - b", "\\- a - b"),
        ("1. a", "1\\. a"),
        ("2024", "2024"),
        ("-0.5", "-0.5"),
        ("1.5", "1.5"),
        ("-", "-"),
        ("> a", "\\> a"),
    ],
)
def test_plain_text_whatever_it_begins_with(text, escaped):
    assert plain(text) == escaped


def test_code_cannot_be_ended():
    assert code("a ` b\n| c") == "`a ' b | c`"


def test_shown_count():
    assert shown_count(1234) == "1,234" and shown_count(0) == "0"
    assert shown_count(None) == "unknown"


def test_a_notebook_shows_a_table_as_one():
    table = markdown_table([{"a": "<b>", "n": "1"}, {"a": "x", "n": "22"}], numbers_from=1)
    html = table._repr_html_()
    assert html.count("<tr>") == 3 and "&lt;b&gt;" in html and "<b>" not in html
    assert re.search(r"text-align: right;\">\s*22\s*</td>", html)
    assert str(table).startswith("| a ")
