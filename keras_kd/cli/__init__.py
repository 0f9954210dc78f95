"""The command line: parse, call, print. One file a command."""

# Each puts its command into the group.
from keras_kd.cli import (  # noqa: F401
    card,
    compare,
    data,
    distill,
    evaluate,
    export,
    methods,
    plan,
    profile,
    report,
    run,
    tune,
)
from keras_kd.cli.base import main as main
