"""Widths of teacher assistants, for steps of one ratio from the teacher to the student."""

import functools

import numpy as np

from keras_kd.evaluation.profile import profile
from keras_kd.recipes import zoo
from keras_kd.students.family_of import Known
from keras_kd.students.largest import costs


def choose(families, teacher, student, count):
    """The widths of `count` assistants, nearest to even steps of log MACs and parameters.

    Where the student has no fewer parameters than the teacher, of log MACs alone.

    Args:
        families: What `zoo.family_of` says of teacher and student, or `family_of` of
            `keras_kd.students` with its width in a tuple; one may be None.
        teacher, student: Their `keras_kd.evaluation.profile.Profile`s, or what has its
        attributes;
            the student's MACs are fewer.
        count: An integer >= 1.

    Returns:
        `(family, widths)`: the family, as it was given, and a list of tuples of integers,
        of which each model has fewer MACs than the one before.

    Raises:
        ValueError: The family has not that many models between them.
    """
    family, _ = families[0] or families[1]
    widths = _between(*families)
    found = _costs(family, widths)
    # What a profile rounds may move a model's MACs by one.
    inside = (found[:, 0] < teacher.macs - 1) & (found[:, 0] > student.macs + 1)
    widths, found = np.array(widths)[inside], found[inside]
    _, falling = np.unique(-found[:, 0], return_index=True)
    widths, found = widths[falling], found[falling]
    measures = 2 if student.parameters < teacher.parameters else 1
    ends = [(x.macs, x.parameters)[:measures] for x in (teacher, student)]
    targets = np.geomspace(*np.array(ends, "float64"), count + 2)[1:-1]
    _check_reach(widths, found[:, 0], targets[:, 0])
    chosen = _nearest(np.log(found[:, :measures]), np.log(targets))
    return family, [tuple(x) for x in widths[chosen].tolist()]


def _nearest(points, targets):
    """Of each target the nearest point's index, each index greater than the one before."""
    chosen, first = [], 0
    for number, target in enumerate(targets, 1):
        # As many are left over as there are targets to come.
        allowed = points[first : len(points) - len(targets) + number]
        chosen.append(first + int(np.argmin(np.sum((allowed - target) ** 2, axis=1))))
        first = chosen[-1] + 1
    return chosen


def _between(teacher, student):
    """The widths on the way from the wide end to the narrow one, a list of tuples.

    Between two models of one family and depth, from the one's to the other's; else from
    the teacher's down, or from the student's up, in the same proportions.
    """
    if teacher and student and _alike(teacher, student):
        wide, narrow = teacher[1], student[1]
    elif teacher:
        wide = teacher[1]
        narrow = np.divide(wide, max(wide))
    else:
        narrow = student[1]
        wide = np.multiply(narrow, zoo.WIDEST / max(narrow))
    # Twice as many points as the widest has widths: few are passed over.
    points = np.geomspace(wide, narrow, 2 * zoo.WIDEST)
    whole = np.rint(np.maximum(points, 1)).astype(int)
    return list(dict.fromkeys(map(tuple, whole.tolist())))


def _alike(teacher, student):
    return teacher[0] == student[0] and len(teacher[1]) == len(student[1])


def _costs(family, widths):
    """MACs and parameters of a family's models, (models, 2), from few measured ones.

    Both are a sum of a constant, of multiples of each width, and of multiples of each
    product of two neighbours: as many models as there are terms give them all.
    """
    if isinstance(family, Known):
        model = functools.cache(lambda width: family.build(width))
        counts = (lambda x: profile(x).macs), (lambda x: x.count_params())
        found = [costs(family.family, model, count) for count in counts]
        return np.array([[cost(x) for cost in found] for (x,) in widths])
    one = np.eye(len(widths[0]), dtype=int)
    doubled = np.vstack([0 * one[:1], one, one[1:] + one[:-1]])
    # Even widths, so that the half operation that a profile drops is the same in each.
    samples = 8 + 8 * doubled
    models = [zoo.build(zoo.family_name(family, x)) for x in samples.tolist()]
    known = [(x.macs, x.parameters) for x in map(profile, models)]
    return np.rint(_terms(widths) @ np.linalg.solve(_terms(samples), known))


def _terms(widths):
    widths = np.asarray(widths, "float64")
    ones = np.ones((len(widths), 1))
    return np.hstack([ones, widths, widths[:, 1:] * widths[:, :-1]])


def _check_reach(widths, macs, targets):
    """Refuses a plan for which the family is too coarse, or does not go far enough."""
    if len(macs) < len(targets):
        raise ValueError(
            "`assistants` must be no more than the family has models of these proportions "
            f"between teacher and student, {len(macs)}. Received: "
            f"assistants={len(targets)}."
        )
    if targets[0] > 2 * macs[0] or targets[-1] < macs[-1] / 2:
        raise ValueError(
            f"The family does not go far enough: steps of one ratio are at "
            f"{targets[0]:,.0f} to {targets[-1]:,.0f} MACs, and its models at "
            f"{macs[0]:,.0f} to {macs[-1]:,.0f}, widths {widths[0].tolist()} to "
            f"{widths[-1].tolist()}. Take fewer assistants, or two models of one family."
        )
