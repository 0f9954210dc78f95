"""Finds how a teacher wants its images, by what it answers to some of them."""

import dataclasses

import numpy as np

from keras_kd.data.pipeline import for_models
from keras_kd.data.rows import spread
from keras_kd.evaluation.unlabelled import linked_answers
from keras_kd.tasks.find import ACTIVATIONS
from keras_kd.teachers.scales import SCALES, names_for, scaled

# So many are asked: some seconds of a large teacher.
_EXAMPLES = 300
# Nats that the answers tell of the images, at least: less is what noise would tell.
_LEAST_INFORMATION = 0.02
# In larger numbers than it was trained on a network without normalisation answers the same,
# with more confidence, which looks better where it makes no mistakes: by less than this
# share of a nat, or of the information, a larger scale is none that is better.
_MARGIN = 0.02
# Of a mean answer that is surer a softened one tells more.
_SURE = 0.9
# Of these tasks answers come as log-probabilities of classes, of no and yes too.
_CLASSES = ("multiclass", "binary")
# Of the numbers of each scale.
_SPREAD = {"unit": 1, "symmetric": 2, "imagenet": 4.4, "bgr": 255, "bytes": 255}
# So many equal decisions in two scales are the same answers.
_SAME = 0.9


@dataclasses.dataclass(frozen=True)
class Found:
    """What one scale gave.

    Attributes:
        scale: A key of `keras_kd.teachers.scales.SCALES`.
        score: With labels their mean log-likelihood, of values minus the squared error by
            the labels' variance; without labels the information, both in nats.
        right: Fraction of right answers; None without labels, and of values.
        is_better_than_chance: Whether the answers say more than a guess would.
        likely: Of each answer what the score is the mean of; None without labels.
        decided: The answers, in one row.
    """

    scale: str
    score: float
    right: float | None
    is_better_than_chance: bool
    likely: np.ndarray | None
    decided: np.ndarray


def check_answers(teacher, x, labels, task, class_names=None):
    """Refuses a teacher that answers labelled examples no better than chance.

    Args:
        teacher: A `keras.Model`.
        x, labels: Of the data, an array or `Rows`.
        task: A key of `keras_kd.tasks.find.ACTIVATIONS`.
        class_names: Of the labels, or None.

    Raises:
        ValueError: It does not; or better, were its classes in another order.
    """
    some, labels = _some(x, labels)
    found = _judged("", list(linked_answers(teacher, some, task)), labels, task)
    _check_order(found, found.right, labels, task, class_names)
    if not found.is_better_than_chance:
        raise ValueError(
            f"`teacher` answers no better than chance: {_shown(found, labels)}, of "
            f"{len(some):,} examples. Are these the data that it was made for, in the form "
            "that it takes?"
        )


def temperature_for(teacher, x, task, announce=print):
    """The temperature at which a teacher's answers are learned.

    A network is nearly certain of what it was trained on, so that its softened answers
    alone tell which classes are alike. One that is unsure says it without. (Of texts, and a
    teacher that gives its answers 84 %, validation texts after 10 epochs, two seeds: 84.2 %
    right at 4, 87.8 at 2, 91.2 at 1.)

    Args:
        teacher: A `keras.Model`.
        x: Training examples, an array or `Rows`.
        task: A key of `keras_kd.tasks.find.ACTIVATIONS`.
        announce: Called with a line that tells of an unsure one.
    """
    if ACTIVATIONS[task] != "softmax":
        # A yes or no tells of no likeness.
        return 1.0
    some, _ = _some(x, None)
    values = np.concatenate([y.values for y in linked_answers(teacher, some, task)])
    sure = float(np.exp(values.max(axis=-1)).mean())
    if sure >= _SURE:
        return 4.0
    announce(f"Temperature: 1, as the teacher gives its answers {100 * sure:.0f} % alone")
    return 1.0


def _some(x, labels):
    """Examples as models take them, and their labels or None, so many as are asked."""
    rows = spread(len(x), _EXAMPLES)
    return for_models(x[rows]), None if labels is None else labels[rows]


def find_scale(teacher, images, labels, task, announce=print, class_names=None):
    """The scale in which a teacher answers best; of equally good ones the smallest numbers.

    With labels that is the one under which they are likeliest. Without, the one under which
    its answers tell most of which image was shown: the entropy of its mean answer minus the
    mean entropy of its answers (Bridle, Heading, MacKay 1991, "Unsupervised classifiers,
    mutual information and 'phantom targets'"). The entropy alone would take a scale that
    drives a teacher to one answer for all.

    Args:
        teacher: A `keras.Model` of images.
        images: uint8 (n, height, width, channels), an array or `Rows`.
        labels: Of the task, or None.
        task: A key of `keras_kd.tasks.find.ACTIVATIONS`.
        announce: Called with a line that tells what was taken, and the next best.
        class_names: Of the labels, or None.

    Returns:
        A key of `keras_kd.teachers.scales.SCALES`.

    Raises:
        ValueError: In no scale the teacher answers better than chance; or nothing tells:
            without labels its answers are values, or are the same in two scales but for
            their confidence.
    """
    if labels is None and ACTIVATIONS[task] is None:
        raise ValueError(
            "`scale` must be said: the teacher's answers are values, and without labels "
            f"nothing tells which are right. One of {', '.join(map(repr, SCALES))}."
        )
    some, labels = _some(images, labels)
    tried = []
    for scale in names_for(images.shape[-1]):
        model = scaled(teacher, scale, images.shape[1:])
        answers = list(linked_answers(model, some, task))
        tried.append(_judged(scale, answers, labels, task))
    best = max(tried, key=lambda x: x.score)
    # In a wrong one colours may change places, and classes with them.
    most = max((x.right or 0 for x in tried), default=0)
    for found in tried:
        _check_order(found, most, labels, task, class_names)
    if not best.is_better_than_chance:
        raise ValueError(_refusal(best, tried, labels))
    # Only smaller numbers are taken instead: others are no reason to doubt the best.
    taken = next(
        x
        for x in tried
        if x is best or (_SPREAD[x.scale] < _SPREAD[best.scale] and _is_as_good(x, best))
    )
    if labels is None:
        _check_certain(taken, best, tried)
    others = sorted((x for x in tried if x is not taken), key=lambda x: -x.score)
    announce(
        f"Scale: {taken.scale}, {SCALES[taken.scale]}: {_shown(taken, labels)} on "
        f"{len(some)} images; next is {others[0].scale}: {_shown(others[0], labels)}"
    )
    return taken.scale


def _check_certain(taken, best, tried):
    """Refuses a scale that its confidence alone tells from another, or nothing does.

    Of labels there are none: the same answers with more confidence, or others with as much,
    are no reason to take it.
    """
    for other in tried:
        if other is taken or not other.is_better_than_chance:
            continue
        same = np.mean(other.decided == taken.decided)
        smaller = _SPREAD[other.scale] < _SPREAD[taken.scale]
        is_surer = same > _SAME and smaller
        is_other = same <= _SAME and _is_as_good(other, best)
        if is_surer or is_other:
            raise ValueError(
                "`scale` must be said (--scale): without labels nothing tells whether the "
                f"teacher wants {taken.scale!r} or {other.scale!r}. {100 * same:.0f} % of "
                "its answers are the same in both, and it is about as sure, or of the same "
                "ones less."
            )


def _check_order(found, most, labels, task, class_names):
    """Refuses a teacher whose classes are those of the data in another order."""
    if labels is None or task != "multiclass" or np.ndim(labels) > 1:
        return
    count = int(max(labels.max(), found.decided.max())) + 1
    counts = np.zeros((count, count), int)
    np.add.at(counts, (labels, found.decided), 1)
    seen = np.flatnonzero(counts.sum(axis=1))
    theirs = counts[seen].argmax(axis=1)
    right = counts[seen, theirs].sum() / len(labels)
    is_another = len(set(theirs.tolist())) == len(seen) and right > most + 0.2
    if not is_another:
        return
    names = class_names or list(map(str, range(count)))
    moved = [(theirs[i], names[k]) for i, k in enumerate(seen) if theirs[i] != k]
    shown = ", ".join(f"its class {a} is {b!r}" for a, b in sorted(moved)[:12])
    raise ValueError(
        f"`teacher` has the classes of the data in another order, in which "
        f"{100 * right:.0f} % of its answers are right, not {100 * most:.0f} %: "
        f"{shown}. Give the classes names that sort as its own do (0_..., 1_...), "
        "or give keras_kd.teachers.GroupClasses(teacher, groups)."
    )


def _is_as_good(found, best):
    """Whether nothing but the noise of so few examples says that the best is better."""
    if found is best:
        return True
    if found.likely is None:
        return best.score - found.score < _MARGIN * best.score
    difference = best.likely - found.likely
    noise = 2 * np.std(difference) / np.sqrt(len(difference))
    return bool(found.is_better_than_chance and difference.mean() < _MARGIN + noise)


def _judged(scale, answers, labels, task):
    values = np.concatenate([x.values for x in answers]).astype("float64")
    decided = np.concatenate([x.decided for x in answers])
    # Positions of an image are as many answers.
    values = values.reshape(-1, values.shape[-1])
    if labels is None:
        information = _information(values, task)
        is_better = information > _LEAST_INFORMATION
        return Found(scale, information, None, is_better, None, decided.reshape(-1))
    labels = np.asarray(labels).reshape(len(values), -1)
    if ACTIVATIONS[task] is None:
        errors = np.mean((values - labels) ** 2, axis=-1) / max(np.var(labels), 1e-12)
        error = float(errors.mean())
        return Found(scale, -error, None, error < 1, -errors, decided.reshape(-1))
    if task in _CLASSES:
        if labels.max() >= values.shape[-1]:
            raise ValueError(
                f"`teacher` has {values.shape[-1]} outputs, one for each class, and the "
                f"labels of the data go up to {labels.max()}."
            )
        likely = np.take_along_axis(values, labels.astype("int64"), axis=-1)
    else:
        likely = -np.logaddexp(0, np.where(labels > 0, -values, values))
    likely, decided = likely.reshape(-1), decided.reshape(-1)
    right = (decided == labels.reshape(-1)).mean()
    _, counts = np.unique(labels, return_counts=True)
    chance = counts.max() / counts.sum()
    # Three standard deviations of guesses.
    noise = 3 * np.sqrt(chance * (1 - chance) / len(labels))
    is_better = bool(right > chance + noise)
    return Found(scale, float(likely.mean()), float(right), is_better, likely, decided)


def _information(values, task):
    """H(mean p) - mean H(p), in nats, of log-probabilities or of logits of yes."""
    if task in _CLASSES:
        p = np.exp(values)
    else:
        yes = 1 / (1 + np.exp(-np.clip(values, -50, 50)))
        p = np.stack([1 - yes, yes], axis=-1)
    return float(np.mean(_entropy(p.mean(axis=0)) - _entropy(p).mean(axis=0)))


def _entropy(p):
    return -np.sum(p * np.log(np.maximum(p, 1e-12)), axis=-1)


def _shown(found, labels):
    if found.right is not None:
        return f"{100 * found.right:.1f} % right"
    if labels is not None:
        return f"R2 {1 + found.score:.3f}"
    return f"{found.score:.3f} nats of information"


def _refusal(best, tried, labels):
    every = ", ".join(f"{x.scale} {_shown(x, labels)}" for x in tried)
    why = "The classes may be in another order than the teacher's, which is that of "
    why += "the folders' names; or it wants its images in a way of its own"
    if labels is None:
        why = "It may want its images in a way of its own"
    return (
        f"`teacher` answers no better than chance in any scale: {every}. {why}: give "
        "a keras_kd.teachers.Preprocessed, or say `scale` (--scale) if the best is right."
    )
