"""Run by test_data_parallel: a distillation on one and on all of JAX's devices, as JSON.

KERAS_BACKEND=jax XLA_FLAGS=--xla_force_host_platform_device_count=4 \
    python tests/distribution/train_on_devices.py
"""

import json
import sys
from pathlib import Path

import keras

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.training import train_on_backend as script  # noqa: E402

# Ten steps each.
EPOCHS = 5


def train(devices):
    distribution = keras.distribution.DataParallel(devices=devices)
    keras.distribution.set_distribution(distribution)
    x, y, _ = script.make_data()
    teacher = script.make_model(seed=1, units=16)
    student = script.make_model(seed=2, units=5, regularizer=keras.regularizers.L2(0.01))
    distiller = script.make_distiller(teacher, student)
    before = script.as_bytes(teacher)
    losses = [loss for _ in range(EPOCHS) for loss in script.train(distiller)]
    weight = student.layers[0].kernel.value
    return {
        "weight_on": len(weight.sharding.device_set),
        "copies_are_equal": len({x.data.tobytes() for x in weight.addressable_shards}) == 1,
        "losses": losses,
        "student": [w.tolist() for w in student.get_weights()],
        "evaluate": distiller.evaluate(x, y, verbose=0, return_dict=True),
        "teacher_unchanged": script.as_bytes(teacher) == before,
    }


if __name__ == "__main__":
    devices = keras.distribution.list_devices()
    print(json.dumps([train(devices[:1]), train(devices)]))
