"""Tables as Markdown."""

import functools
import re

from tabulate import tabulate


class Table(str):
    """A table as Markdown; a notebook shows it as one."""

    def __new__(cls, rows, numbers_from):
        left, right = ["left"] * numbers_from, ["right"] * (len(rows[0]) - numbers_from)
        how = {"headers": "keys", "disable_numparse": True, "colalign": left + right}
        made = super().__new__(cls, tabulate(rows, tablefmt="pipe", **how))
        made._html = functools.partial(tabulate, rows, tablefmt="html", **how)
        return made

    def _repr_html_(self):
        return self._html()


def markdown_table(rows, numbers_from):
    """Rows as a Markdown table.

    Args:
        rows: dicts of column to text, one or more, all with the same columns.
        numbers_from: Number of the first column that is aligned to the right; those
            behind it are, too.

    Returns:
        The table, a `Table`, without a newline at its end.
    """
    return Table(rows, numbers_from)


def plain(text):
    """Text in which Markdown finds nothing to mark up, on one line."""
    text = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;")
    for mark in "\\`*[]|~$":
        text = text.replace(mark, f"\\{mark}")
    # Within a word an underscore is one; at a line's begin there are headings and lists.
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)
    return re.sub(r"^(\d*)(>|#{1,6}\s|[+-]\s|(?<=\d)[.)]\s)", r"\1\\\2", text)


def code(text):
    """Text as Markdown's code, on one line; a backtick, which would end it, is a quote."""
    return "`{}`".format(" ".join(str(text).split()).replace("`", "'"))


def shown_count(value):
    """A count as tables show it: "1,234", or "unknown" for None."""
    return "unknown" if value is None else f"{value:,}"
