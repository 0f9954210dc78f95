"""One report of a sample run, its numbers compared with those of the run's answers."""

import builtins
import errno
import hashlib
import html.parser
import json
import os
import re
import sys
import tomllib
from math import comb
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import keras_kd.report
from keras_kd.report.drawing import Picture
from keras_kd.report.write import write_report
from tests.runs.sample_run import (
    RECIPE,
    change,
    logits,
    make_run,
    make_seeds,
    unfinish,
    write_json,
)

# As long and as hostile as a name of a folder can be.
HOSTILE = "<b>a & 'b' | $\\frac$ \"__c__` {{ 1 }}"
VOID = {"meta", "img", "br", "link", "hr", "input"}


class Page(html.parser.HTMLParser):
    """A page's elements; tags that do not match are an error."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text = [], [], ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "title"):
            self.text += data

    def count(self, tag):
        return sum(name == tag for name, _ in self.elements)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The folder of a finished run's report."""
    path = make_run(tmp_path_factory.mktemp("report") / "run")
    headline, page = write_report(path)
    assert page == path / "report" / "report.html"
    assert headline == "Distillation came out ahead, but by no more than chance may give."
    return page.parent


def _no_latencies(models, repeats):
    return [SimpleNamespace(median=1.5) for _ in models]


@pytest.fixture
def undrawn(monkeypatch):
    """Leaves out what takes long and is seen elsewhere: pictures and latencies."""

    def no_drawing(name, alt, caption, *_, **__):
        return Picture(name, alt, caption, b"", b"")

    for module in ("plots", "answer_plots", "images"):
        monkeypatch.setattr(f"keras_kd.report.{module}.drawn", no_drawing)
    monkeypatch.setattr("keras_kd.report.write.latencies", _no_latencies)


@pytest.fixture(scope="module")
def page(report):
    return Page((report / "report.html").read_text(encoding="utf-8"))


def test_the_page_needs_nothing_else(report, page):
    names = {name for name, _ in page.elements}
    assert not names & {"script", "link", "iframe", "object", "form", "base"}
    for _, attributes in page.elements:
        for key, value in attributes.items():
            assert not key.startswith("on")
            if key in ("src", "href", "srcset", "data"):
                assert re.match(r"data:image/(svg\+xml|png);base64,", value)
    text = (report / "report.html").read_text(encoding="utf-8")
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style and "@import" not in style
    assert text.startswith("<!DOCTYPE html>") and 'name="viewport"' in text


def test_every_picture_has_words(page):
    pictures = [attributes for name, attributes in page.elements if name == "img"]
    assert all(x["alt"] for x in pictures)
    assert page.count("figcaption") == page.count("figure") == len(pictures) >= 6


def test_mcnemar_in_the_verdict(page):
    labels, outputs = logits(200)
    right = {name: x.argmax(1) == labels for name, x in outputs.items()}
    only = int(np.sum(right["student"] & ~right["alone"]))
    other = int(np.sum(right["alone"] & ~right["student"]))
    n = only + other
    uneven = [k for k in range(n + 1) if abs(2 * k - n) >= abs(only - other)]
    p = sum(comb(n, k) for k in uneven) / 2**n
    text = page.text.replace("\N{NO-BREAK SPACE}", " ")
    assert f"Only “student” is right on {only} example" in text
    assert f"“alone” on {other}: McNemar's exact test gives p = {p:.3f}." in text
    errors = {name: int(np.sum(~x)) for name, x in right.items()}
    assert f"“student” makes {errors['student']} errors in 200 examples" in text
    assert f"makes {errors['alone']} ({100 - errors['alone'] / 2:.2f} %)" in text
    assert "23.6 times fewer than “teacher”" in text


def test_the_images_are_counted(page):
    _, outputs = logits(200)
    for name, teacher in (("student", "ta"), ("ta", "teacher")):
        count = int(np.sum(outputs[name].argmax(1) != outputs[teacher].argmax(1)))
        assert f"{name}: the first {count} of {count} images" in page.text


def test_the_order(page):
    heads = ["Distillation report", "mnist", "Models", "In pictures", "Class by class"]
    heads += ["Where student and teacher disagree", "To repeat it", "Versions and machine"]
    places = [page.text.index(head) for head in heads]
    assert places == sorted(places)


def test_markdown_has_every_model_and_its_pictures(report):
    text = (report / "report.md").read_text(encoding="utf-8")
    for name in ("teacher", "ta", "student", "alone"):
        assert len(re.findall(rf"^\| {name} +\|", text, re.MULTILINE)) == 2
    pictures = re.findall(r"!\[.+\]\((.+)\)", text)
    assert len(pictures) == 8
    for picture in pictures:
        assert (report / picture).read_bytes().startswith(b"\x89PNG")
    assert "    [[stage]]\n" in text and "\n    keras-kd run recipe.toml\n" in text


def test_the_recipe_lies_beside(report):
    recipe = tomllib.loads((report / "recipe.toml").read_text())
    assert recipe["stage"][1]["losses"] == RECIPE["stage"][1]["losses"]
    assert not list(report.glob(".*"))


def test_latencies_are_measured(report):
    cells = re.findall(r"50,890</td>.*?</tr>", (report / "report.html").read_text(), re.S)
    assert len(cells) == 2
    for row in cells:
        latency = re.findall(r"<td.*?>(.*?)</td>", row)[2]
        assert 0 < float(latency) < 1000


def test_a_hostile_run(tmp_path):
    """Names, messages and recipes are text, in both files."""
    make_run(tmp_path / "run", examples=20, recipe_name=HOSTILE)
    path = tmp_path / "run" / "manifest.json"
    text = path.read_text()
    text = text.replace('"alone"', '"<i>alone | $x_$"')
    # Names of classes, too.
    path.write_text(json.dumps(json.loads(text) | {"class_names": [HOSTILE] * 10}))
    (tmp_path / "run" / "alone").rename(tmp_path / "run" / "<i>alone | $x_$")
    unfinish(tmp_path / "run", "ta", "failed", "<script>alert(1)</script>\n# | `x`")
    write_report(tmp_path / "run")
    text = (tmp_path / "run" / "report" / "report.html").read_text()
    page = Page(text)
    assert not {"script", "i"} & {x for x, _ in page.elements}
    assert "<b>a" not in text
    assert HOSTILE in page.text and "<i>alone | $x_$" in page.text
    assert "ta failed: <script>alert(1)</script>" in page.text
    text = (tmp_path / "run" / "report" / "report.md").read_text()
    # What is indented is code.
    text = re.sub(r"^ {4}.*$", "", text, flags=re.MULTILINE)
    assert not re.search(r"<(script|b|i)\b", text)
    assert "\n- ta failed: &lt;script>alert(1)&lt;/script> # \\| \\`x\\`\n" in text
    rows = [x for x in text.splitlines() if x.startswith(r"| &lt;i>alone \| \$x\_\$ ")]
    assert len(rows) == 2


def test_an_unfinished_run(tmp_path, undrawn):
    make_run(tmp_path, examples=40)
    unfinish(tmp_path, "student", "training")
    unfinish(tmp_path, "alone", "waiting")
    headline, path = write_report(tmp_path)
    assert headline == "Whether distillation was worth it, this run cannot say."
    page = Page(path.read_text())
    assert "This run is not complete." in page.text
    assert "student is not finished: 2 of 4 epochs." in page.text
    assert "alone has not begun." in page.text


def test_a_run_that_has_just_begun(tmp_path, undrawn):
    make_run(tmp_path, examples=20)
    for name in ("teacher", "ta", "student", "alone"):
        unfinish(tmp_path, name, "waiting")
    headline, path = write_report(tmp_path)
    assert headline.startswith("No distilled student is finished")
    assert "teacher is not measured yet." in Page(path.read_text()).text


def test_several_seeds(tmp_path, undrawn):
    make_seeds(tmp_path, seeds=(0, 1), examples=100)
    change(tmp_path / "manifest.json", seeds=[0, 1, 2])
    unfinish(tmp_path / "seed-1", "alone", "failed", "no memory")
    page = Page(write_report(tmp_path)[1].read_text())
    assert "Seed 2 has not begun." in page.text
    assert "alone with seed 1 failed: no memory" in page.text
    assert "Class by class: student, seed 0" in page.text
    assert " ± " in page.text


def test_models_that_cannot_be_loaded_or_run(tmp_path, undrawn, monkeypatch):
    make_run(tmp_path, examples=20)
    (tmp_path / "teacher" / "model.keras").write_text("nothing")
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    del manifest["teacher"]["files"]
    change(tmp_path / "manifest.json", **manifest)
    page = Page(write_report(tmp_path)[1].read_text())
    assert "The latency of teacher was not measured: " in page.text
    assert page.text.count("1.5") == 3

    def fails(models, repeats):
        raise ValueError("`model` must have fixed input shapes but for the batch. Or so.")

    monkeypatch.setattr("keras_kd.report.write.latencies", fails)
    page = Page(write_report(tmp_path)[1].read_text())
    assert "The latency of the models was not measured: `model` must have fi" in page.text
    assert "latency (ms)" not in str(page.elements)


def test_an_error_leaves_the_old_report(tmp_path, undrawn):
    make_run(tmp_path, examples=20)
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.html").write_text("old")
    (tmp_path / "student" / "answers.csv").unlink()
    with pytest.raises(FileNotFoundError, match="student/answers.csv is missing"):
        write_report(tmp_path)
    assert [x.name for x in (tmp_path / "report").iterdir()] == ["report.html"]
    assert (tmp_path / "report" / "report.html").read_text() == "old"


def test_of_a_run_that_may_only_be_read(tmp_path, undrawn, monkeypatch):
    """It is said where to write to, and written there."""
    make_run(tmp_path / "run", examples=20)
    replace = os.replace

    def read_only(old, new):
        if Path(new).is_relative_to(tmp_path / "run"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(new))
        replace(old, new)

    monkeypatch.setattr(os, "replace", read_only)
    with pytest.raises(OSError, match="Read-only .*`output` .--output. names it"):
        write_report(tmp_path / "run")
    _, path = write_report(tmp_path / "run", tmp_path / "elsewhere")
    assert path == tmp_path / "elsewhere" / "report.html" and path.is_file()


@pytest.mark.parametrize("missing", ["matplotlib", "jinja2", "tomli_w", "PIL"])
def test_what_is_not_installed(tmp_path, monkeypatch, missing):
    for name in list(sys.modules):
        street, _, module = name.rpartition(".")
        if street == "keras_kd.report" and module != "write":
            monkeypatch.delitem(sys.modules, name)
            monkeypatch.delattr(keras_kd.report, module, raising=False)
    real = builtins.__import__

    def without(name, *arguments, **keywords):
        if name.partition(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'keras_kd\[report\]'"):
        write_report(tmp_path)


def of_stages(path, *stages, recipe=None):
    """A sample run whose stages say these fields; those with epochs = 0 have no history."""
    make_run(path, examples=60)
    manifest = json.loads((path / "manifest.json").read_text())
    for fields in stages:
        stage = next(x for x in manifest["stages"] if x["name"] == fields["name"])
        stage |= fields
        if stage["epochs"] == 0:
            (path / stage["name"] / "history.csv").unlink()
            del stage["files"]["history.csv"]
            metrics = path / stage["name"] / "metrics.json"
            change(metrics, taught_by="given", epochs=None, seconds=None)
            digest = hashlib.sha256(metrics.read_bytes()).hexdigest()
            stage["files"]["metrics.json"] = digest
    change(path / "manifest.json", stages=manifest["stages"])
    if recipe:
        change(path / "manifest.json", recipe=manifest["recipe"] | recipe)
    return path


GIVEN = {"epochs": 0, "losses": [], "taught_by": []}


def test_a_given_stage(tmp_path, undrawn):
    path = of_stages(tmp_path, {"name": "ta", **GIVEN})
    headline, page = write_report(path)
    assert headline.startswith("Distillation ")
    text = Page(page.read_text()).text
    assert "every stage that was trained, after each epoch" in text


def test_a_given_stage_of_the_students_architecture_is_no_baseline(tmp_path, undrawn):
    path = of_stages(tmp_path, {"name": "alone", **GIVEN})
    headline, page = write_report(path)
    assert headline == "Whether distillation was worth it, this run cannot say."
    text = Page(page.read_text()).text
    assert "Warning." not in text and "“alone”, the same" not in text


def test_all_are_given(tmp_path, undrawn):
    path = of_stages(tmp_path, *({"name": x, **GIVEN} for x in ("ta", "student", "alone")))
    headline, page = write_report(path)
    assert headline == "No distilled student is finished, so there is no verdict yet."
    assert "after each epoch" not in Page(page.read_text()).text


def test_an_ensemble_of_each_seed_and_one_file_for_all(tmp_path, undrawn):
    """What is one model for all seeds has no deviation over them."""
    for seed in range(3):
        folder = tmp_path / f"seed-{seed}"
        of_stages(
            folder,
            {"name": "ta", **GIVEN, "initial_weights": f"{seed}"},
            {"name": "alone", **GIVEN, "initial_weights": "same"},
        )
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["stages"], manifest["teacher"]
    write_json(
        tmp_path / "manifest.json", manifest | {"kind": "seeds", "seeds": [0, 1, 2]}
    )
    text = write_report(tmp_path)[1].with_name("report.md").read_text()
    first = {
        name: next(x for x in text.splitlines() if x.startswith(f"| {name} "))
        for name in ("teacher", "ta", "alone")
    }
    assert "±" in first["ta"]
    assert "±" not in first["teacher"] and "±" not in first["alone"]
    assert "or 95 % intervals of a model that is of one seed" in text


def test_macs_that_nobody_knows(tmp_path, undrawn):
    path = of_stages(tmp_path)
    manifest = json.loads((path / "manifest.json").read_text())
    for stage in manifest["stages"]:
        if stage["name"] == "student":
            metrics = path / "student" / "metrics.json"
            change(metrics, macs=None, pure_macs=None)
            digest = hashlib.sha256(metrics.read_bytes()).hexdigest()
            stage["files"]["metrics.json"] = digest
    change(path / "manifest.json", stages=manifest["stages"])
    text = write_report(path)[1].with_name("report.md").read_text()
    assert re.search(r"\| student +\| +50,890 \| +unknown \| +unknown \|", text)
    assert "MACs, as many" not in text and "parameters, 23.6 times fewer than" in text
