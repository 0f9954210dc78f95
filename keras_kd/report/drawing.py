"""How the pictures of a report look, drawn by matplotlib.

Models are told apart by marker and line style as well as by colour, and the colours are
those of Okabe and Ito, which colour-blind readers can tell apart. A picture is 5 inches
wide with 11 point text, so that it can still be read on a phone 390 pixels wide.
"""

import dataclasses
import io
import math

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

# Okabe, Ito, "Color Universal Design", 2008; without yellow, too pale for a line on white.
_COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = "osD^vPXp"
_LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))

_LARGE = EngFormatter(sep="")

_STYLE = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 7,
    "legend.frameon": False,
    # The same run gives the same bytes.
    "svg.hashsalt": "keras_kd",
    # A name is a name, whatever dollar signs there are in it.
    "text.parse_math": False,
}


@dataclasses.dataclass(frozen=True)
class Picture:
    """A drawn picture.

    Attributes:
        name: Stem of its file.
        alt: What it shows, for those who cannot see it.
        caption: How to read it.
        svg, png: bytes.
    """

    name: str
    alt: str
    caption: str
    svg: bytes
    png: bytes


def drawn(name, alt, caption, draw, *arguments, size=(5, 4)):
    """The `Picture` that `draw(figure, *arguments)` makes, of a size in inches."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure, *arguments)
        files = []
        for form in ("svg", "png"):
            file = io.BytesIO()
            metadata = {"Date": None} if form == "svg" else None
            figure.savefig(file, format=form, dpi=160, metadata=metadata)
            files.append(file.getvalue())
    return Picture(name, alt, caption, *files)


def styles(runs):
    """dict of model name to its line in every picture: color, marker, linestyle."""
    return {
        model.name: {
            "color": _COLOURS[i % len(_COLOURS)],
            "marker": _MARKERS[i % len(_MARKERS)],
            "linestyle": _LINES[i % len(_LINES)],
        }
        for i, model in enumerate(runs[0].models)
    }


def short(number, position):
    """A number at an axis: 0.25, 50, 12k, 3M."""
    return _LARGE(number) if number >= 1000 else f"{number:g}"


def legend(figure, handles, names):
    """Under the picture, where it hides nothing, in columns of about equal length."""
    names = [name if len(name) <= 40 else f"{name[:39]}…" for name in names]
    # Points of the picture's 360: the line's and a letter's.
    columns = max(1, 350 // (45 + 7 * max(map(len, names))))
    rows = math.ceil(len(names) / columns)
    columns = math.ceil(len(names) / rows)
    # The picture grows with them, not the axes smaller.
    figure.set_figheight(figure.get_figheight() + 0.23 * (rows - 1))
    figure.legend(handles, names, loc="outside lower center", ncols=columns)
