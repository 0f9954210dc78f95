"""TensorFlow without its remarks about the machine, which help nobody here."""

import contextlib
import os
import sys
import tempfile

# What TensorFlow writes to standard error when it starts, whatever the level of its log is.
_REMARKS = (
    b"All log messages before absl::InitializeLog()",
    b"oneDNN custom operations are on",
    b"Could not find cuda drivers",
    b"Unable to register cu",
    b"failed call to cuInit",
    b"TF-TRT Warning",
    b"optimized to use available CPU instructions",
    b"To enable the following instructions",
    b"retrieving CUDA diagnostic information",
    b"Cannot dlopen some GPU libraries",
)


@contextlib.contextmanager
def without_remarks():
    """Holds back standard error while the block runs, and then writes all but the remarks.

    With TF_CPP_MIN_LOG_LEVEL=0 in the environment, which asks for them, it does nothing.
    """
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "0":
        yield
        return
    # Of what comes later; errors are shown.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            held.seek(0)
            for line in held:
                if not any(remark in line for remark in _REMARKS):
                    os.write(2, line)
