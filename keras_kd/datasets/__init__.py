"""A user's own data, in folders and files, as examples in three parts."""

from keras_kd.datasets.load import load as load
