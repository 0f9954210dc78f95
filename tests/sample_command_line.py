"""A script: `keras-kd` on the sample of MNIST.

    python tests/sample_command_line.py [keras-kd's arguments]
"""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from keras_kd.cli import main  # noqa: E402
from tests import conftest  # noqa: E402

conftest.sample_data.__wrapped__(
    pytest.MonkeyPatch(), conftest.mnist_sample.__wrapped__()
)
main(sys.argv[1:])
