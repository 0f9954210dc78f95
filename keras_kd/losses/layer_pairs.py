"""Which layers of the two models a loss compares."""

from typing import NamedTuple

from keras_kd.losses.schedules import plain


class LayerPair(NamedTuple):
    """One teacher layer and one student layer whose outputs are compared.

    "backbone/block3" is a layer inside a nested model, "lstm:1" the second output of a
    layer that gives several; None is the model's own output.
    """

    teacher: str | None
    student: str | None


def as_layer_pairs(taps):
    """Taps as a tuple of `LayerPair`.

    Args:
        taps: None or (), a pair of names (teacher's first), or a list of pairs; a NumPy
            array of them, too.

    Raises:
        ValueError: It is none of these.
    """
    given, taps = taps, plain(taps)
    taps = () if taps is None else taps
    is_pair = isinstance(taps, (list, tuple)) and all(
        name is None or isinstance(name, str) for name in taps
    )
    pairs = (taps,) if is_pair and taps else taps
    if isinstance(pairs, (list, tuple)):
        pairs = list(map(plain, pairs))
    if not isinstance(pairs, (list, tuple)) or not all(
        isinstance(pair, (list, tuple))
        and len(pair) == 2
        and all(name is None or (isinstance(name, str) and name) for name in pair)
        for pair in pairs
    ):
        raise ValueError(
            "`taps` must be a pair of layer names, the teacher's first, or a list of such "
            f"pairs. Received: taps={given!r}."
        )
    return tuple(LayerPair(*map(plain, pair)) for pair in pairs)


def as_one_pair(loss_name, taps):
    """Taps of a loss that compares one output of each model: () or one `LayerPair`.

    Raises:
        ValueError: It is not one pair of names.
    """
    pairs = as_layer_pairs(taps)
    if len(pairs) > 1:
        raise ValueError(
            f"{loss_name} compares one pair of outputs. Give one {loss_name} for each. "
            f"Received: taps={taps!r}."
        )
    return pairs


def taps_config(taps):
    """The entry of `LayerPair`s in a loss's config; none where it has none."""
    return {"taps": list(map(list, taps))} if taps else {}
