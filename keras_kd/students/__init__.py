"""Families of small architectures, for any inputs and outputs.

Example:

>>> from keras_kd import students
>>> limits = students.Limits(max_parameters="10k")
>>> width = students.largest("separable_cnn", (28, 28, 1), (10,), limits)
>>> model = students.build("separable_cnn", (28, 28, 1), (10,), width)
>>> model.name, model.count_params()
('separable_cnn_14', 8942)
"""

from keras_kd.students.families import build as build
from keras_kd.students.families import for_kind as for_kind
from keras_kd.students.families import names as names
from keras_kd.students.family_of import family_of as family_of
from keras_kd.students.largest import largest as largest
from keras_kd.students.limits import Limits as Limits
from keras_kd.students.prepare import prepare as prepare
