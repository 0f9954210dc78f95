"""Whatever can teach, seen as one `keras.Model`."""

from keras_kd.teachers.ensemble import Ensemble as Ensemble
from keras_kd.teachers.saved_model import from_saved_model as from_saved_model
from keras_kd.teachers.several import Several as Several
