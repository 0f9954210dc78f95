"""The parts of a step: all there, those that there are not, and no more than the step."""


import numpy as np

from keras_kd.recipes import recipe
from keras_kd.recipes.step_cost import as_table, step_costs
from tests.cli.test_commands import invoke

TAUGHT = """
dataset = "mnist"
batch_size = 8
teacher = "mnist/small_student"
[[stage]]
name = "student"
model = "mnist_fc_8_8"
epochs = 1
losses = [{ name = "kd" }]
[[stage]]
name = "tapping"
model = "mnist_fc_4_4"
epochs = 1
taught_by = "student"
losses = [{ name = "pkt", taps = ["hidden1", "hidden1"] }]
[[stage]]
name = "alone"
model = "mnist_fc_8_8"
epochs = 1
"""


def test_each_stage_has_its_parts(write_recipe, sample_data):
    loaded = recipe.load(write_recipe(text=TAUGHT))
    costs = step_costs(loaded)
    assert [x.stage for x in costs] == ["student", "tapping", "alone"]
    assert [x.teacher is None for x in costs] == [False, False, True]
    for cost in costs:
        parts = [cost.teacher or 0, cost.forward, cost.losses, cost.backward, cost.rest]
        assert min(cost.data, cost.forward, cost.step) > 0 <= min(parts)
        assert cost.batch_size == 8 and 0 < cost.rate < 1
        # Each is a median of its own.
        assert cost.forward < 3 * cost.step
    lines = as_table(costs).splitlines()
    assert len(lines) == 5 and lines[4].split("|")[4].strip() == "-"


def test_nothing_of_the_models_is_kept(write_recipe, sample_data, tmp_path):
    before = sorted(tmp_path.iterdir())
    done = invoke("profile", "--step", write_recipe())
    assert done.exit_code == 0, done.output
    assert "student forward" in done.output
    assert [x for x in tmp_path.iterdir() if x.name != "mine.toml"] == before


def test_what_has_no_labels_is_timed_too(write_recipe, tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (60, 28, 28, 1)).astype("uint8")
    np.savez(tmp_path / "x.npz", x=x)
    own = f'{{ path = "{tmp_path / "x.npz"}", labels = false }}'
    text = TAUGHT.split("[[stage]]\nname = \"tapping\"")[0].replace('"mnist"', own, 1)
    loaded = recipe.load(write_recipe(text=text + "student_loss_weight = 0.0\n"))
    (cost,) = step_costs(loaded)
    assert cost.teacher is not None and cost.step > 0
