"""What KerasTuner draws of a recipe's space."""

import collections

import pytest

from keras_kd.recipes import recipe
from keras_kd.tuning import search
from keras_kd.tuning.recipe import TunedRecipe
from tests.tuning.test_recipe import TUNED


@pytest.fixture
def oracle(write_recipe):
    """The oracle of a strategy, and its recipe, with other values of `loss` if given."""

    def make(tune, loss='["kd", { name = "dkd", beta = 2.0 }, "logit_mse"]'):
        text = TUNED.replace("trials = 3", tune)
        text = text.replace('["kd", { name = "dkd", beta = 2.0 }, "logit_mse"]', loss)
        tuned = recipe.load(write_recipe(text=text), TunedRecipe)
        return search._oracle(tuned), tuned

    return make


def drawn(oracle, count):
    """So many draws, as dicts of the dimension's name to what was drawn."""
    found = []
    for i in range(count):
        answer = oracle.populate_space(str(i))
        assert answer["status"] == "RUNNING"
        found.append(answer["values"])
    return found


def test_draws(oracle):
    made, tuned = oracle("trials = 60")
    found = drawn(made, 60)
    assert drawn(oracle("trials = 60")[0], 60) == found
    counts = collections.Counter(x["loss"] for x in found)
    assert set(counts) == {"kd", "dkd, beta = 2.0", "logit_mse"}
    assert min(counts.values()) > 8
    # Only where there is one: `dkd` has, `logit_mse` has none.
    for values in found:
        assert ("temperature" in values) == (values["loss"] != "logit_mse")
    temperatures = sorted(x["temperature"] for x in found if "temperature" in x)
    assert 1 <= temperatures[0] and temperatures[-1] <= 8
    # Half of the draws are below the middle factor, 8 ** 0.5.
    middle = temperatures[len(temperatures) // 2]
    assert 2 < middle < 4
    assert {x["learning_rate"] for x in found} == {"0.001", "0.01"}


def test_a_temperature_that_all_losses_have_is_always_drawn(oracle):
    made, _ = oracle("trials = 9", loss='["kd", "dkd"]')
    assert all("temperature" in x for x in drawn(made, 9))


def test_strategies(oracle):
    bayesian, _ = oracle('strategy = "bayesian"\ntrials = 7')
    assert bayesian.max_trials == 7 and bayesian.objective.direction == "max"
    banded, tuned = oracle('strategy = "hyperband"\nobjective = "val_loss"')
    assert banded.max_epochs == 2 == tuned.stage[1].epochs
    assert banded.objective.direction == "min" and banded.max_trials is None
    # Seed 0 would be none, and so another one each time.
    assert banded.seed == 1


def test_a_bayesian_draw_hangs_on_the_trials_alone(oracle, tmp_path):
    """Not on how often was drawn before, which a search that goes on does not know."""
    made, _ = oracle('strategy = "bayesian"\ntrials = 99')
    made.num_initial_points = 12
    made._set_project_dir(str(tmp_path), "search")
    for i in range(12):
        trial = made.create_trial("tuner0")
        made.update_trial(trial.trial_id, {"val_accuracy": (7 * i % 12) / 12})
        trial.status = "COMPLETED"
        made.end_trial(trial)
    draws = [made.populate_space("12")["values"] for _ in range(3)]
    assert draws[0] == draws[1] == draws[2]


@pytest.mark.parametrize("fails", [False, True])
def test_a_search_that_has_ended_is_seen_to_have(oracle, tmp_path, fails):
    """As often as it is asked, and nothing is drawn by that."""
    for tune in "trials = 3", 'strategy = "hyperband"':
        made, other = (oracle(tune)[0] for _ in range(2))
        for name, one in ("made", made), ("other", other):
            one._set_project_dir(str(tmp_path / tune[:6] / name), "search")
            if one.max_trials is None:
                one.max_epochs = 9
                one._current_bracket = one._get_num_brackets()
        count = 0
        while not made.has_ended():
            assert not made.has_ended()
            trials = [x.create_trial("tuner0") for x in (made, other)]
            assert trials[0].get_state() == trials[1].get_state()
            assert trials[0].status == "RUNNING"
            for one, trial in zip((made, other), trials, strict=True):
                assert not made.has_ended() or one is other
                one.update_trial(trial.trial_id, {"val_accuracy": count / 9})
                trial.status = "INVALID" if fails and count == 1 else "COMPLETED"
                one.end_trial(trial)
            count += 1
        assert made.create_trial("tuner0").status == "STOPPED"
        assert count == 3 if made.max_trials else count > 9
