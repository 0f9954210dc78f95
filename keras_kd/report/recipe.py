"""The recipe of a run as TOML, and the command that repeats it."""

import re

import tomli_w


def recipe_file(manifest):
    """The recipe as the text of a TOML file; None where the run was of no recipe."""
    return manifest.recipe and as_toml(manifest.recipe)


def repeat(manifest):
    """What a reader needs to make the run again.

    Args:
        manifest: A `RunManifest` or a `SeedsManifest`.

    Returns:
        `(text, command)`: the recipe, or without one the stages, as TOML; and the command,
        None without a recipe.
    """
    if manifest.recipe is None:
        keys = ("name", "taught_by", "epochs", "losses", "loss_weights", "optimizer")
        stages = manifest.stages if manifest.kind == "run" else []
        tables = [
            stage.model_dump(include={*keys, "student_loss_weight"}) for stage in stages
        ]
        return as_toml({"stage": tables}), None
    command = "keras-kd run recipe.toml"
    if manifest.kind == "seeds":
        command += f" --seeds {len(manifest.seeds)}"
    return as_toml(manifest.recipe), command


def as_toml(table):
    """A dict as TOML; what is None is left out, as TOML has no word for it."""
    text = tomli_w.dumps(_without_none(table))
    # A list of numbers takes one line; no string of tomli_w goes over a line's end.
    return re.sub(r"\[\n(?:\s+[-+.\deE]+,\n)+\s*\]", _on_one_line, text)


def _on_one_line(match):
    numbers = re.findall(r"[-+.\deE]+", match[0])
    return f"[{', '.join(numbers)}]"


def _without_none(value):
    if isinstance(value, dict):
        return {key: _without_none(x) for key, x in value.items() if x is not None}
    if isinstance(value, list):
        return [_without_none(x) for x in value if x is not None]
    return value
