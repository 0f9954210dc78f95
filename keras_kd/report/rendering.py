"""The templates: HTML and Markdown in which what is filled in marks up nothing."""

import base64
import json

import jinja2
from markupsafe import Markup

from keras_kd.tables import plain


def rendered(name, variables):
    """A file of templates/, filled in.

    Args:
        name: Ends in ".html" or ".md".
        variables: dict of name to value; text is escaped as the format needs.

    Returns:
        A string.
    """
    environment = _html() if name.endswith(".html") else _markdown()
    return environment.get_template(name).render(variables)


def _environment(**options):
    loader = jinja2.PackageLoader("keras_kd.report")
    return jinja2.Environment(
        loader=loader,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )


def _html():
    environment = _environment(autoescape=True)
    environment.filters["data_uri"] = _data_uri
    return environment


def _markdown():
    environment = _environment(finalize=_escaped)
    environment.filters["table"] = lambda table: Markup(table.as_markdown())
    environment.filters["block"] = _as_block
    environment.filters["quoted"] = lambda text: Markup(repr(str(text)))
    environment.filters["yaml"] = _as_yaml
    return environment


def _data_uri(svg):
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode()


def _escaped(value):
    """What an expression of the Markdown template becomes; `Markup` stays as it is."""
    return str(value) if isinstance(value, Markup) else plain(value)


def _as_block(text):
    """Indented code: no line in it can end it, as one can a fence."""
    return Markup("\n".join(f"    {line}" for line in text.splitlines()))


def _as_yaml(value):
    """A number, or text in quotes: what JSON writes on one line, YAML reads."""
    if isinstance(value, str):  # YAML takes no control characters, not even quoted.
        value = "".join(x if x.isprintable() else " " for x in value)
    return Markup(json.dumps(value, ensure_ascii=False))
