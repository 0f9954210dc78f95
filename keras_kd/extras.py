"""What a part of the library needs that is not installed with it."""

import contextlib


@contextlib.contextmanager
def needed_by(part, extra):
    """A context in which a missing package is told with the extra that installs it.

    Args:
        part: What needs it, the beginning of a sentence: "A report".
        extra: The extra's name in setup.cfg.

    Raises:
        ModuleNotFoundError: A package is missing that is not ours.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("keras_kd"):
            raise
        raise ModuleNotFoundError(
            f"{part} needs {error.name}, which is not installed: "
            f"pip install 'keras_kd[{extra}]'."
        ) from error
