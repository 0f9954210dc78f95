"""What two stages of a chain must not share: copied for each, or refused."""

import contextlib
import copy
import weakref

import keras
from keras import tree

from keras_kd.losses.base import DistillationLoss
from keras_kd.runs.descriptions import described, is_of_a_library

# Their weights that no gradient trains stand still in training, too.
_STILL = (
    keras.layers.Normalization,
    keras.layers.Discretization,
    keras.layers.Embedding,
    keras.layers.Hashing,
    keras.layers.IntegerLookup,
    keras.layers.StringLookup,
    keras.layers.TextVectorization,
)
# Which student a loss with layers was trained with.
_trained_with = weakref.WeakKeyDictionary()


def own_objects(stage, others):
    """The objects that a stage is compiled with, copied where another stage has them, too.

    An object that one stage alone has is trained itself: its user goes on with it.

    Args:
        stage: A `keras_kd.Stage`.
        others: The other stages of its chain.

    Returns:
        dict of `Stage`'s arguments.

    Raises:
        ValueError: An object that must be copied cannot be, or a loss with layers has been
            trained with another student.
    """
    elsewhere = {id(x) for other in others for x in _objects(other)}
    losses = stage.distillation_losses
    if losses is not None:
        is_list = isinstance(losses, (list, tuple))
        losses = [_own_loss(x, stage, elsewhere) for x in (losses if is_list else [losses])]
        losses = losses if is_list else losses[0]
    return {
        "distillation_losses": losses,
        "optimizer": _own_optimizer(stage.optimizer, elsewhere),
        "loss": tree.map_structure(lambda x: _own_state(x, elsewhere), stage.loss),
    }


def _objects(stage):
    """Losses and optimizers of a stage, those within an optimizer too."""
    losses = stage.distillation_losses
    losses = list(losses) if isinstance(losses, (list, tuple)) else [losses]
    found = [*losses, *tree.flatten(stage.loss), stage.optimizer]
    inner = getattr(stage.optimizer, "inner_optimizer", None)
    found.append(inner)
    # Keras's and ours are made of strings anew each time.
    return [x for x in found if x is not None and not isinstance(x, str)]


def _own_loss(loss, stage, elsewhere):
    is_ours = isinstance(loss, DistillationLoss)
    if is_ours and loss.layers:
        student = _trained_with.get(loss, lambda: stage.student)()
        if student is not stage.student or id(loss) in elsewhere:
            raise ValueError(
                f"`distillation_losses`: {loss!r} has layers that belong to another "
                "student. Give each stage a loss of its own."
            )
    return _copy("distillation_losses", loss) if id(loss) in elsewhere else loss


def remember_training(stage):
    """Notes with which student the losses of a stage are trained."""
    losses = stage.distillation_losses
    for loss in losses if isinstance(losses, (list, tuple)) else [losses]:
        if isinstance(loss, DistillationLoss) and loss.makes_layers:
            _trained_with[loss] = weakref.ref(stage.student)


def _own_optimizer(optimizer, elsewhere):
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        return optimizer
    parts = [optimizer, getattr(optimizer, "inner_optimizer", optimizer)]
    # One that has trained something holds its slots and steps.
    if not any(x.built or id(x) in elsewhere for x in parts):
        return optimizer
    for part in parts:
        pattern = getattr(part, "_exclude_from_weight_decay_pattern", None)
        if pattern or getattr(part, "_exclude_from_weight_decay", None):
            raise ValueError(
                "`optimizer`: one that leaves weights out of the weight decay cannot be "
                "copied. Give each stage, and each `fit`, an optimizer of its own. "
                f"Received: {optimizer!r}."
            )
    return _copy("optimizer", optimizer)


def _own_state(loss, elsewhere):
    """A loss on the labels: one with a state copied, others as they are."""
    if id(loss) not in elsewhere or loss is None or isinstance(loss, str):
        return loss
    has_state = any(map(_is_variable, tree.flatten(getattr(loss, "__dict__", {}))))
    return _copy("loss", loss) if has_state else loss


def _is_variable(value):
    # Keras's, and TensorFlow's own.
    return isinstance(value, keras.Variable) or hasattr(value, "assign")


def _copy(argument, thing):
    """A new object like the given one, as it was before it was used.

    Raises:
        ValueError: There is no way to make one that is known to be the same.
    """
    reason = "it has another description"
    try:
        if isinstance(thing, (keras.optimizers.Optimizer, keras.losses.Loss)):
            made = type(thing).from_config(thing.get_config())
        else:
            made = copy.deepcopy(thing)
        if _told(made) == _told(thing):
            return made
    # Whatever a class of the user's raises.
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
    raise ValueError(
        f"`{argument}`: one object stands in two stages, or was used before, and no copy "
        f"of it can be made ({reason}). Give each stage, and each `fit`, one of its own, "
        f"or its class a `get_config` with all its arguments. Received: {thing!r}."
    )


def _told(thing):
    told = described(thing)
    return told if is_of_a_library(type(thing)) else [told, sorted(vars(thing))]


def check_apart(teacher, stages):
    """Refuses a chain in which training one model would change another.

    Args:
        teacher: The chain's, or None.
        stages: Its `Stage`s.

    Raises:
        ValueError: A student shares with another model a weight that its training changes,
            or layers that have no weights yet.
    """
    for stage in stages:
        if not stage.epochs:
            continue
        changed = changed_by_training(stage.student)
        unbuilt = {id(x): x for x in _unbuilt(stage.student)}
        for name, model in _beside(stage, teacher, stages).items():
            shared = [changed[id(v)] for v in model.variables if id(v) in changed]
            shared += [unbuilt[id(x)].name for x in _unbuilt(model) if id(x) in unbuilt]
            if shared:
                raise ValueError(
                    f"Stage {stage.name!r} would change weights that its student shares "
                    f"with {name!r}: {', '.join(dict.fromkeys(shared))}. Set `trainable` "
                    "of the shared layers to False, or give each model its own "
                    "(keras.models.clone_model, and set_weights)."
                )


def _beside(stage, teacher, stages):
    """dict of name to model of those that must stay as they are while a stage is trained.

    A model that is given after it may be made of its student, as an ensemble is.
    """
    models = {} if teacher is None else {"teacher": teacher}
    is_before = True
    for other in stages:
        if other is stage:
            is_before = False
        elif is_before or other.epochs:
            models[other.name] = other.student
    return models


@contextlib.contextmanager
def unmoved(stage, teacher, stages):
    """A context in which the student of a stage must not change what another model has.

    `check_apart` knows what gradients and Keras's layers change. A layer of the user's may
    change its weights although they are not trainable.

    Raises:
        ValueError: It has changed.
    """
    own = {id(x) for x in stage.student.weights}
    others = _beside(stage, teacher, stages).values()
    found = [v for x in others for v in x.weights if id(v) in own]
    before = [keras.ops.convert_to_numpy(v).tobytes() for v in found]
    yield
    after = [keras.ops.convert_to_numpy(v).tobytes() for v in found]
    moved = [v.path for v, x, y in zip(found, before, after, strict=True) if x != y]
    if moved:
        raise ValueError(
            "training changed weights that are not trainable and that another model of the "
            f"chain has, too: {', '.join(dict.fromkeys(moved))}. Give each model its own."
        )


def changed_by_training(model):
    """dict of id to path of the weights that training changes, moving averages too."""
    found = {id(v): v.path for v in model.trainable_variables}
    for layer in model._flatten_layers():
        if layer.trainable and not isinstance(layer, (*_STILL, keras.Model)):
            found |= {id(v): v.path for v in layer._non_trainable_variables}
    return found


def _unbuilt(model):
    """Layers that will make weights when they first see a batch, as far as is known."""
    layers = model._flatten_layers()
    return [x for x in layers if not x.built and not isinstance(x, keras.Model)]
