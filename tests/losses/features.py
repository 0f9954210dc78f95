"""What tests of losses on features share: random features, and lengths in NumPy."""

import numpy as np

# Of teacher and student: vectors of one and of two widths, 100 classes, feature maps.
SHAPES = [
    ((8, 6), (8, 6)),
    ((5, 7), (5, 3)),
    ((6, 100), (6, 100)),
    ((4, 3, 3, 5), (4, 2, 2, 4)),
]


def random_features(teacher_shape, student_shape, seed=0):
    """Features of teacher and student, float64, not centred, as behind a ReLU."""
    rng = np.random.default_rng(seed)
    teacher = rng.normal(0.5, scale=2, size=teacher_shape)
    return teacher, rng.normal(0.5, scale=2, size=student_shape)


def rows(features):
    return features.reshape(len(features), -1)


def length(x):
    return np.sqrt(np.dot(x, x))
