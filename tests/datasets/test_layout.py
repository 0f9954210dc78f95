"""Which files are examples: classes, parts, loose files, and what belongs to none."""

import pytest

from keras_kd.data.idx import DataError
from keras_kd.datasets.layout import files_in, has_any


def found(folder, *names, labels=True):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    files, class_names = files_in(folder, (".png",), "images", labels)
    return {x.name: (x.part, x.of_class) for x in files}, class_names


def test_without_classes(tmp_path):
    files, class_names = found(tmp_path, "b.png", "a.PNG", "notes.txt")
    assert files == {"a.PNG": (None, None), "b.png": (None, None)} and class_names is None


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("train/a.png", "test/b.png"), {"a.png": "train", "b.png": "test"}),
        # Beside the parts what lies in the folder itself is to train on.
        (("a.png", "test/b.png"), {"a.png": "train", "b.png": "test"}),
    ],
)
def test_parts_without_classes(tmp_path, names, expected):
    files, class_names = found(tmp_path, *names)
    assert {name: part for name, (part, _) in files.items()} == expected
    assert class_names is None


def test_classes_that_are_no_labels(tmp_path):
    names = ("cat/a.png", "dog/old/b.png", "c.png", ".hidden/d.png")
    files, class_names = found(tmp_path, *names, labels=False)
    assert sorted(files) == ["c.png", "cat/a.png", "dog/old/b.png"] and class_names is None
    # Where they are labels an image has the same name, and so the same part.
    other, _ = found(tmp_path / "other", "cat/a.png", "dog/b.png")
    assert "cat/a.png" in other


def test_a_link_to_its_own_folder(tmp_path):
    (tmp_path / "again").symlink_to(tmp_path)
    files, _ = found(tmp_path, "a.png", labels=False)
    assert list(files) == ["a.png"] and not has_any(tmp_path, (".txt",))


def test_parts_of_classes_that_are_no_labels(tmp_path):
    names = ("train/cat/a.png", "test/cat/b.png")
    files, _ = found(tmp_path, *names, labels=False)
    assert files == {"cat/a.png": ("train", None), "cat/b.png": ("test", None)}
    files, _ = found(tmp_path / "x", "a.png", "test/cat/b.png", labels=False)
    assert files == {"a.png": ("train", None), "cat/b.png": ("test", None)}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("cat/a.png", "dog/b.png", "c.png"), "c.png is in no class"),
        (("train/cat/a.png", "train/dog/a.png", "test/b.png"), "test/b.png is in no class"),
        (("train/a.png", "test/b.png", "c.png"), "c.png is in no part: .* Move it there"),
        (("cat/a.png",), "holds one class alone.*labels = false"),
        (("cat/kittens/a.png",), "kittens is a folder within a class.*labels = false"),
        (("cat/a.png", "dog/b.txt"), "dog holds no images"),
        (("a.txt",), "holds no images .*, and no folders of images"),
    ],
)
def test_what_belongs_to_none(tmp_path, names, message):
    with pytest.raises(DataError, match=message):
        found(tmp_path, *names)
