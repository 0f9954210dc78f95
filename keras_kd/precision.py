"""A model trained in mixed precision, as it ships: in float32."""

import keras

from keras_kd.distribute import without_strategy


def in_float32(model):
    """The same model, its weights copied, computing in float32.

    Mixed precision saves time in training; on a device without that precision, and in
    exported files, float32 is faster or alone possible. Weights are float32 in both.

    Args:
        model: A built `keras.Model`.

    Returns:
        A model of no `tf.distribute` strategy. `model` itself where it is one already, and
        no layer has a dtype policy of mixed precision, or where it
        cannot be made anew: it has no `get_config`, or its class is not registered.
    """
    model = without_strategy(model)
    layers = model._flatten_layers()
    if not any(layer.dtype_policy.name.startswith("mixed_") for layer in layers):
        return model
    try:
        config = _in_float32(keras.saving.serialize_keras_object(model))
        copy = keras.saving.deserialize_keras_object(config)
    except (NotImplementedError, TypeError):  # Keras's words for these.
        return model
    if not copy.built:
        copy.build_from_config(config["build_config"])
    copy.set_weights(model.get_weights())
    return copy


def _in_float32(config):
    if isinstance(config, dict):
        if str(config.get("name")).startswith("mixed_") and len(config) == 1:
            return {"name": "float32"}
        return {
            key: _in_float32(value)
            for key, value in config.items()
            if key != "compile_config"
        }
    if isinstance(config, (list, tuple)):
        return type(config)(map(_in_float32, config))
    return config
