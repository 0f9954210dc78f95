"""Data sets: made ready for `tfds.load`, and turned into batches."""

from keras_kd.data.pipeline import batches as batches
from keras_kd.data.pipeline import for_models as for_models
from keras_kd.data.pipeline import load_arrays as load_arrays
from keras_kd.data.pipeline import scale as scale
from keras_kd.data.idx import DATASETS as DATASETS
from keras_kd.data.idx import DataError as DataError
from keras_kd.data.sources import prepare as prepare
