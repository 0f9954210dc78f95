"""scripts/evidence/teachers.py on few examples: its lines, and its words."""

import importlib
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

SCRIPTS = Path(__file__).parents[2] / "scripts" / "evidence"
TINY = "--seeds 2 --epochs 1 --steps 2 --repeats 1 --examples 120".split()


@pytest.fixture(scope="module")
def teachers():
    pytest.importorskip("sklearn")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        yield importlib.import_module("teachers")


@pytest.fixture
def run(teachers):
    def run(*arguments):
        result = CliRunner().invoke(teachers.main, [*TINY, *arguments])
        return result.exit_code, result.output

    return run


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_line_for_each_kind(run, teachers):
    kinds = ["boosting", "chain"]
    code, text = run("--kinds", ",".join(kinds))
    assert code == 0, text
    lines = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ")]
    assert [x[0].strip() for x in lines[1:]] == [teachers.KINDS[x].__doc__ for x in kinds]
    for line in lines[1:]:
        assert 0 <= float(line[2]) <= 100 and "±" in line[3] and "±" in line[4]
        assert float(line[6]) > 0


def test_what_is_not_installed_is_left_out(run, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    code, text = run("--kinds", "torch")
    assert code == 1 and "torch is left out: import of torch halted" in text
    code, text = run("--kinds", "forst")
    assert code == 2 and "forst: one of forest, boosting" in text


def test_the_test_set_is_none_of_what_is_chosen_by(teachers):
    """The parts are of different examples, stratified."""
    data = teachers.Data.load("digits")
    parts = data.train, data.validation, data.test
    assert [len(x[1]) for x in parts] == [942, 315, 540]
    rows = [x.tobytes() for part in parts for x in part[0]]
    assert len(set(rows)) > 0.99 * len(rows)
    for _, labels in parts:
        shares = np.bincount(labels) / len(labels)
        np.testing.assert_allclose(shares, 0.1, atol=0.01)


def test_what_is_right(teachers):
    assert teachers.right([[0.2, 0.8], [0.6, 0.4]], np.array([1, 1])) == 0.5
    assert teachers.right([[0.2], [-0.1]], np.array([1, 0])) == 1.0
