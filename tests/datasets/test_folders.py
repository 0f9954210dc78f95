"""Folders of images: classes and parts as they lie there, and each fault by its name."""

import shutil

import keras
import numpy as np
import pytest

from keras_kd.data.idx import DataError
from keras_kd.datasets.folders import read_folder
from keras_kd.datasets.parts import part_of
from tests.datasets.conftest import CLASSES, pixels_of, write_image


def quiet(folder, **arguments):
    return read_folder(folder, announce=lambda line: None, **arguments)


def test_classes_are_folders_and_parts_by_the_names(photos):
    lines = []
    found = read_folder(photos, validation=0.2, test=0.2, announce=lines.append)
    assert found.class_names == CLASSES
    everything = {"train": found.train, "validation": found.validation, "test": found.test}
    seen = 0
    for part, (images, labels) in everything.items():
        for path, label, pixels in zip(images.paths, labels, images[:], strict=True):
            *_, cls, name = path.split("/")
            assert part_of(f"{cls}/{name}", 0.2, 0.2) == part
            assert CLASSES[label] == cls
            np.testing.assert_array_equal(pixels, pixels_of(int(name[:2])))
            seen += 1
    assert seen == 60 and labels.dtype == np.int64
    assert "60 images of 3 classes" in lines[-1]


def test_what_comes_later_moves_no_example(photos):
    before = quiet(photos, test=0.3).test[0].paths
    for number in range(60, 90):
        write_image(photos / CLASSES[number % 3] / f"{number}.png", pixels_of(number))
    after = quiet(photos, test=0.3).test[0].paths
    assert set(before) < set(after)


def test_parts_that_are_given_stay(photos, tmp_path):
    folder = tmp_path / "given"
    for cls in CLASSES:
        paths = sorted((photos / cls).iterdir())
        for part, some in (("train", paths[:14]), ("test", paths[14:])):
            (folder / part / cls).mkdir(parents=True)
            for path in some:
                shutil.copy(path, folder / part / cls)
    found = quiet(folder, validation=0.2, test=0.5)
    assert all("/test/" in x for x in found.test[0].paths) and len(found.test[0]) == 18
    assert all("/train/" in x for x in found.validation[0].paths)
    assert len(found.train[0]) + len(found.validation[0]) == 42
    assert quiet(folder, validation=0).validation is None


def test_files_that_are_no_images(photos):
    (photos / "dog" / "bad.png").write_bytes(b"\x89PNG nothing")
    (photos / "dog" / "notes.txt").write_text("no image")
    (photos / "dog" / ".hidden.png").write_text("no image")
    with pytest.raises(DataError, match=r"1 of 61 files cannot be read.*dog/bad.png: .+"):
        quiet(photos)
    lines = []
    found = read_folder(photos, skip_unreadable=True, announce=lines.append)
    assert "1 files are no .png" in lines[0] and "notes.txt" in lines[0]
    assert "1 of 61 files" in lines[1] and "bad.png" in lines[1]
    assert "60 images" in lines[2] and len(lines) == 3
    assert not any("bad" in x for x in found.train[0].paths + found.test[0].paths)


def other_size(photos):
    write_image(photos / "dog" / "big.png", pixels_of(99, (9, 9)))


def grey(photos):
    write_image(photos / "dog" / "grey.png", pixels_of(99, channels=1))


def empty(photos):
    (photos / "fox").mkdir()


def bmp(photos):
    # Of one TensorFlow leaves the palette out, whatever it is called.
    keras.utils.save_img(photos / "dog" / "0.bmp", pixels_of(99), scale=False)
    (photos / "dog" / "0.bmp").rename(photos / "dog" / "b.png")


def dangling(photos):
    (photos / "dog" / "link.png").symlink_to("nowhere.png")


def nested(photos):
    write_image(photos / "dog" / "puppies" / "0.png", pixels_of(99))


def single(photos):
    write_image(photos / "fox" / "0.png", pixels_of(99))


def loose(photos):
    write_image(photos / "0.png", pixels_of(99))


def one_class(photos):
    for cls in CLASSES[1:]:
        shutil.rmtree(photos / cls)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (other_size, "The images differ in size: .* is 6x8, .*big.png 9x9. Say image_size"),
        (grey, r"grey and some have colours: .*grey\.png and .*Say channels"),
        (empty, "fox holds no images"),
        (bmp, "1 of 61 files .*b.png: it is a BMP"),
        (dangling, "1 of 61 files .*link.png: .*No such file"),
        (nested, "puppies is a folder within a class"),
        (single, "class 'fox' has 1 example:"),
        (loose, "0.png is in no class"),
        (one_class, "holds one class alone"),
        (shutil.rmtree, "There is no folder"),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_each_fault_is_told_by_its_name(photos, damage, message):
    damage(photos)
    with pytest.raises(DataError, match=message):
        quiet(photos)


def test_sizes_and_channels_that_differ_can_be_said(photos):
    other_size(photos)
    grey(photos)
    found = quiet(photos, image_size=(4, 4), channels=1)
    assert found.train[0].shape[1:] == (4, 4, 1)
    assert found.train[0][:].shape == found.train[0].shape


def test_one_picture_in_two_parts_is_told(photos, caplog):
    for number in range(60):
        name = f"{number:02d}.png"
        other = "train" if part_of(f"cat/{name}", 0.1, 0.1) == "test" else "test"
        copies = [f"copy{k}.png" for k in range(99)]
        copy = next(x for x in copies if part_of(f"cat/{x}", 0.1, 0.1) == other)
        if (photos / "cat" / name).is_file():
            shutil.copy(photos / "cat" / name, photos / "cat" / copy)
            break
    quiet(photos)
    assert "1 examples are in two parts" in caplog.text and copy in caplog.text


def test_without_classes(photos):
    lines = []
    found = read_folder(photos / "cat", test=0.3, announce=lines.append)
    assert (found.class_names, found.task, found.kind) == (None, None, "images")
    parts = (found.train, found.validation, found.test)
    assert [labels for _, labels in parts] == [None] * 3
    assert sum(len(images) for images, _ in parts) == 20
    assert "20 images without labels" in lines[-1]
    everything = quiet(photos, labels=False)
    labelled = quiet(photos)
    assert everything.test[0].paths == labelled.test[0].paths
    assert everything.digest() != labelled.digest()


def test_no_share_is_needed_of_a_part_that_is_given(photos):
    (photos / "cat").rename(photos / "train")
    (photos / "dog").rename(photos / "test")
    shutil.rmtree(photos / "eel")
    found = quiet(photos, test=0, validation=0)
    assert len(found.train[0]) == 20 and len(found.test[0]) == 20
    shutil.rmtree(photos / "test")
    with pytest.raises(DataError, match="`test` must be greater than 0 where the data"):
        quiet(photos, test=0)
