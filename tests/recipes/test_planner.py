"""Plans: their records, tables and recipes, and what is refused."""

import math
import re
import tomllib

import keras
import pytest

import keras_kd as kd
from keras_kd import students
from keras_kd.evaluation.profile import Profile, profile
from keras_kd.recipes import planner, recipe, zoo
from keras_kd.recipes.planner import Plan, PlannedModel


@pytest.fixture(scope="module")
def published():
    """Two assistants in the published experiment."""
    return planner.plan("mnist/teacher", "mnist_student", 2)


def small(shape=(28, 28, 1), outputs=10, units=3):
    """A model of no family."""
    return keras.Sequential(
        [
            keras.layers.Input(shape),
            keras.layers.Flatten(),
            keras.layers.Dense(units, activation="tanh"),
            keras.layers.Dense(outputs),
        ],
        name="small",
    )


def test_models_of_the_published_experiment(published):
    teacher, first, second, student = published.models
    assert [x.role for x in published.models] == [
        "teacher", "assistant", "assistant", "student",
    ]  # fmt: skip
    assert (teacher.parameters, teacher.macs) == (1_011_466, 11_021_029)
    assert (student.parameters, student.macs) == (1_238_730, 1_237_941)
    assert (teacher.name, teacher.file) == ("mnist/teacher", "mnist/teacher")
    assert (teacher.architecture, student.file) == ("mnist_cnn_32_64", None)
    assert (student.name, student.architecture) == ("mnist_student", "mnist_student")
    for model in (first, second):
        built = zoo.build(model.name)
        assert model.architecture == built.name and model.file is None
        assert model.parameters == built.count_params()
    ratios = [
        small.macs / large.macs
        for large, small in zip(published.models, published.models[1:], strict=False)
    ]
    step = (1_237_941 / 11_021_029) ** (1 / 3)
    assert ratios == pytest.approx([step] * 3, rel=0.05)


def test_function_by_its_public_name():
    assert kd.planner.plan is planner.plan


def planned(role, name, parameters, macs, **fields):
    arguments = {"architecture": name, "file": None} | fields
    return PlannedModel(role, name, parameters=parameters, macs=macs, **arguments)


def test_table_and_spacing():
    models = [
        planned("teacher", "a", 2000, 40_000),
        planned("assistant", "b", 500, 20_000),
        planned("student", "c", 1000, 1000),
    ]
    cells = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in Plan(models).table().splitlines()
    ]
    assert cells[0] == [
        "role", "model", "parameters", "parameters / before", "MACs", "MACs / before",
    ]  # fmt: skip
    assert cells[2:] == [
        ["teacher", "a", "2,000", "", "40,000", ""],
        ["assistant", "b", "500", "0.25", "20,000", "0.5"],
        ["student", "c", "1,000", "2", "1,000", "0.05"],
    ]
    text = Plan(models).spacing()
    assert text.startswith("Steps as even in log MACs and log parameters as")
    assert text.endswith("order: parameters do not fall to c.")
    assert "not fall" not in Plan([models[0], models[2]]).spacing()
    more = planned("student", "d", 2000, 1000)
    assert Plan([*models[:2], more]).spacing() == (
        "Even steps of log MACs alone: the student has 2,000 parameters, no fewer than "
        "the teacher's 2,000."
    )


def test_recipe_is_the_shipped_one_with_other_models(published, tmp_path):
    published.write(tmp_path / "new" / "mine.toml")
    loaded = recipe.load(tmp_path / "new" / "mine.toml")
    assert loaded.teacher == "mnist/teacher"
    assert [x.name for x in loaded.stage] == ["ta1", "ta2", "student"]
    assert [x.model for x in loaded.stage] == [x.name for x in published.models[1:]]
    shipped = recipe.load("mnist")
    assert (loaded.dataset, loaded.batch_size) == (shipped.dataset, shipped.batch_size)
    theirs = shipped.stage[0].model_dump(exclude={"name", "model", "published_accuracy"})
    for stage in loaded.stage:
        ours = stage.model_dump(exclude={"name", "model", "published_accuracy"})
        assert ours == theirs
    parameters = stage.make(seed=0).student.count_params()
    assert parameters == published.models[-1].parameters


def load(plan, tmp_path):
    plan.write(tmp_path / "mine.toml")
    return recipe.load(tmp_path / "mine.toml")


def test_recipe_of_a_teacher_without_weights(tmp_path):
    plan = Plan(
        [planned("teacher", "mnist_ta", 9, 9), planned("student", "mnist_fc_3", 1, 1)]
    )
    assert "# Not there yet: train the teacher" in plan.recipe()
    assert load(plan, tmp_path).teacher == "mnist_ta.keras"


def test_recipe_of_a_student_that_no_stage_can_build(tmp_path):
    odd = 'odd "name"\n[[stage]]\x7f\\'
    plan = Plan(
        [
            planned("teacher", odd, 9, 9, file=f"{odd}.keras"),
            planned("assistant", "mnist_fc_3", 5, 5),
            planned("student", odd, 1, 1, architecture=None),
        ]
    )
    loaded = load(plan, tmp_path)
    assert loaded.teacher == f"{odd}.keras"
    assert [x.name for x in loaded.stage] == ["ta1"]
    assert "is of no family that recipes know" in plan.recipe()


def test_write_refuses_what_is_there(tmp_path):
    plan = Plan(
        [planned("teacher", "mnist_ta", 9, 9), planned("student", "mnist_fc_3", 1, 1)]
    )
    path = tmp_path / "mine.toml"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match="mine.toml exists. Nothing was changed"):
        plan.write(path)
    (tmp_path / "link.toml").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError, match="link.toml exists"):
        plan.write(tmp_path / "link.toml")
    with pytest.raises(ValueError, match="must end in .toml. Received: .*mine.txt"):
        plan.write(tmp_path / "mine.txt")
    assert path.read_text() == "mine"
    assert sorted(x.name for x in tmp_path.iterdir()) == ["link.toml", "mine.toml"]


def test_files_and_models(tmp_path):
    zoo.build("mnist_fc_40_20").save(tmp_path / "teacher.keras")
    plan = planner.plan(tmp_path / "teacher.keras", zoo.fully_connected((6, 3), "mine"))
    teacher, assistant, student = plan.models
    assert teacher.name == teacher.file == str(tmp_path / "teacher.keras")
    assert teacher.architecture == "mnist_fc_40_20"
    assert (student.name, student.file) == ("mine", None)
    assert student.architecture == "mnist_fc_6_3"
    assert re.fullmatch("mnist_fc_[0-9]+_[0-9]+", assistant.name)
    middle = math.sqrt(teacher.macs * student.macs)
    assert assistant.macs == pytest.approx(middle, rel=0.05)


def test_teacher_of_no_family():
    """Of one hidden layer, so that MACs go with its width: 9 is to 3 as 27 to 9."""
    plan = planner.plan(small(units=27), "mnist_fc_3")
    assert plan.models[0].architecture is None
    assert plan.models[1].name == "mnist_fc_9"


@pytest.mark.parametrize(
    "family, shapes",
    [
        ("separable_cnn", ((20, 24, 3), (4,))),
        ("unet", ((15, 20, 3), (15, 20, 2))),
        ("mlp", ((4,), (3,))),
    ],
)
def test_families_of_students(family, shapes):
    """Of any shapes; MACs go by one ratio, as near as whole widths come."""
    teacher, student = (students.build(family, *shapes, x) for x in (40, 5))
    plan = planner.plan(teacher, student)
    assistant = plan.models[1]
    width = int(assistant.name.removeprefix(f"{family}_"))
    assert assistant.architecture == assistant.name
    measured = profile(students.build(family, *shapes, width))
    assert (assistant.macs, assistant.parameters) == (measured.macs, measured.parameters)
    middle = math.sqrt(plan.models[0].macs * plan.models[-1].macs)
    assert assistant.macs == pytest.approx(middle, rel=0.2)
    table = tomllib.loads(plan.recipe())
    assert table["dataset"] == {"path": "data"}
    assert [x["model"] for x in table["stage"]] == [
        {"family": family, "width": x} for x in (width, 5)
    ]


def test_a_teacher_of_no_family_and_a_student_of_one():
    student = students.build("separable_cnn", (12, 12, 2), (3,), 3)
    plan = planner.plan(small((12, 12, 2), outputs=3, units=2000), student)
    assert plan.models[0].architecture is None
    assert re.fullmatch("separable_cnn_[0-9]+", plan.models[1].name)


def test_same_plan_again():
    plans = [planner.plan("mnist_fc_40", "mnist_fc_3", 2) for _ in range(2)]
    assert plans[0] == plans[1]


@pytest.mark.parametrize("assistants", [0, -1, 1.5, "2", True, None])
def test_number_of_assistants(assistants):
    with pytest.raises(ValueError, match="`assistants` must be an integer, 1 or greater"):
        planner.plan("mnist_teacher", "mnist_student", assistants)


def test_student_that_is_not_smaller():
    with pytest.raises(ValueError, match="`student` must have fewer MACs .*1,238,730 par"):
        planner.plan("mnist_student", "mnist_teacher")
    with pytest.raises(ValueError, match="are equal in size.*'mnist_ta' with 3,073,557 M"):
        planner.plan("mnist_ta", "mnist_cnn_16_32")
    model = zoo.build("mnist_fc_3")
    with pytest.raises(ValueError, match="are the same model"):
        planner.plan(model, model)


def test_macs_that_are_unknown(monkeypatch):
    unknown = Profile(5, None, None, "The reason.")
    monkeypatch.setattr(planner, "profile", lambda model: unknown)
    with pytest.raises(ValueError, match="`teacher` must have MACs .* known. The reason."):
        planner.plan("mnist_teacher", "mnist_student")


def test_unknown_names(tmp_path):
    with pytest.raises(
        ValueError, match="`teacher`: no such .*did you mean 'mnist_teacher'"
    ):
        planner.plan("mnist_techer", "mnist_student")
    with pytest.raises(ValueError, match="`student`: mnist_fc takes 1 to 4 widths"):
        planner.plan("mnist_fc_9", "mnist_fc_0")
    message = "`teacher`: no such model in keras_kd.recipes.zoo: None"
    with pytest.raises(ValueError, match=message):
        planner.plan(None, "mnist_student")
    for name in ("mnist/techer", tmp_path / "gone.keras"):
        with pytest.raises(FileNotFoundError, match="There is no model '.*(techer|gone)"):
            planner.plan(name, "mnist_student")
    (tmp_path / "wrong.keras").write_text("no model")
    with pytest.raises(ValueError, match="wrong.keras could not be loaded"):
        planner.plan("mnist_teacher", tmp_path / "wrong.keras")


def test_models_that_do_not_fit():
    with pytest.raises(ValueError, match=r"inputs that `teacher` takes.*28, 27, 1"):
        planner.plan("mnist_fc_9", small(shape=(28, 27, 1)))
    with pytest.raises(ValueError, match=r"outputs that .*\[\(10,\)\], .*\[\(9,\)\]"):
        planner.plan("mnist_fc_9", small(outputs=9))
    with pytest.raises(ValueError, match="`model` must be built"):
        planner.plan("mnist_fc_9", keras.Sequential([keras.layers.Dense(10)]))
    with pytest.raises(ValueError, match="of a family .*: mnist_cnn, .*'small', which are"):
        planner.plan(small(units=9), small())
