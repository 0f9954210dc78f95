"""What the student is asked to match: one method, one file, one word.

Example:

>>> from keras_kd import losses
>>> losses.get("kd", temperature=2.0)
SoftTargets(temperature=2.0, form='kl')
>>> losses.get(losses.SoftTargets())
SoftTargets(temperature=4.0, form='kl')
>>> len(losses.names())
23
"""

import difflib
import inspect

from keras_kd.losses._ab import ActivationBoundaries as ActivationBoundaries
from keras_kd.losses._ab import activation_boundaries as activation_boundaries
from keras_kd.losses._at import AttentionTransfer as AttentionTransfer
from keras_kd.losses._at import attention_transfer as attention_transfer
from keras_kd.losses._cc import CorrelationCongruence as CorrelationCongruence
from keras_kd.losses._cc import correlation_congruence as correlation_congruence
from keras_kd.losses._crd import ContrastiveRepresentation as ContrastiveRepresentation
from keras_kd.losses._crd import (
    contrastive_representation as contrastive_representation,
)
from keras_kd.losses._dist import DIST as DIST
from keras_kd.losses._dist import dist as dist
from keras_kd.losses._dkd import DKD as DKD
from keras_kd.losses._dkd import dkd as dkd
from keras_kd.losses._fitnet import FitNet as FitNet
from keras_kd.losses._fitnet import fitnet as fitnet
from keras_kd.losses._fsp import FlowOfSolution as FlowOfSolution
from keras_kd.losses._fsp import flow_of_solution as flow_of_solution
from keras_kd.losses._ft import FactorTransfer as FactorTransfer
from keras_kd.losses._ft import factor_transfer as factor_transfer
from keras_kd.losses._kd import SoftTargets as SoftTargets
from keras_kd.losses._kd import soft_targets as soft_targets
from keras_kd.losses._logit_mse import LogitMSE as LogitMSE
from keras_kd.losses._logit_mse import logit_mse as logit_mse
from keras_kd.losses._logit_std import LogitStd as LogitStd
from keras_kd.losses._logit_std import logit_std as logit_std
from keras_kd.losses._nkd import NKD as NKD
from keras_kd.losses._nkd import nkd as nkd
from keras_kd.losses._nst import NeuronSelectivity as NeuronSelectivity
from keras_kd.losses._nst import neuron_selectivity as neuron_selectivity
from keras_kd.losses._ofd import FeatureOverhaul as FeatureOverhaul
from keras_kd.losses._ofd import batch_norm_margin as batch_norm_margin
from keras_kd.losses._ofd import ofd as ofd
from keras_kd.losses._pkt import (
    ProbabilisticKnowledgeTransfer as ProbabilisticKnowledgeTransfer,
)
from keras_kd.losses._pkt import (
    probabilistic_knowledge_transfer as probabilistic_knowledge_transfer,
)
from keras_kd.losses._reviewkd import AttentionFusion as AttentionFusion
from keras_kd.losses._reviewkd import ReviewKD as ReviewKD
from keras_kd.losses._reviewkd import hcl as hcl
from keras_kd.losses._rkd import RelationalKnowledge as RelationalKnowledge
from keras_kd.losses._rkd import relational_knowledge as relational_knowledge
from keras_kd.losses._simkd import SimKD as SimKD
from keras_kd.losses._simkd import simkd as simkd
from keras_kd.losses._sp import SimilarityPreserving as SimilarityPreserving
from keras_kd.losses._sp import similarity_preserving as similarity_preserving
from keras_kd.losses._ttm import TTM as TTM
from keras_kd.losses._ttm import ttm as ttm
from keras_kd.losses._vid import VariationalInformation as VariationalInformation
from keras_kd.losses._vid import variational_information as variational_information
from keras_kd.losses._wsl import WSL as WSL
from keras_kd.losses._wsl import wsl as wsl
from keras_kd.losses.base import DistillationLoss as DistillationLoss
from keras_kd.losses.base import PerExampleLoss as PerExampleLoss
from keras_kd.losses.base import as_distillation_loss as as_distillation_loss
from keras_kd.losses.features import FeatureLoss as FeatureLoss
from keras_kd.losses.layer_pairs import LayerPair as LayerPair
from keras_kd.losses.relations import RelationLoss as RelationLoss

LOSSES = {
    # On logits.
    "kd": SoftTargets,
    "logit_mse": LogitMSE,
    "dkd": DKD,
    "dist": DIST,
    "logit_std": LogitStd,
    "nkd": NKD,
    "wsl": WSL,
    "ttm": TTM,
    # On features.
    "fitnet": FitNet,
    "at": AttentionTransfer,
    "nst": NeuronSelectivity,
    "fsp": FlowOfSolution,
    "ft": FactorTransfer,
    "ab": ActivationBoundaries,
    "vid": VariationalInformation,
    "ofd": FeatureOverhaul,
    "reviewkd": ReviewKD,
    "simkd": SimKD,
    # Between examples.
    "pkt": ProbabilisticKnowledgeTransfer,
    "sp": SimilarityPreserving,
    "rkd": RelationalKnowledge,
    "cc": CorrelationCongruence,
    "crd": ContrastiveRepresentation,
}


def names():
    """The identifiers that `get` takes, as a list of strings."""
    return list(LOSSES)


def get(identifier, **arguments):
    """A distillation loss by identifier.

    Args:
        identifier: A string of `names()`, for instance "kd", or an object with
            `compute_loss`, which is returned as it is.
        **arguments: The loss's constructor arguments; only with a string.

    Returns:
        An object with `compute_loss(teacher_outputs, student_outputs, ...)`.

    Raises:
        ValueError: The identifier is unknown or no loss, or an argument is not one of the
            loss's.

    Example:

    >>> get("kd", temperature=2.0)
    SoftTargets(temperature=2.0, form='kl')
    """
    if not isinstance(identifier, str):
        if arguments:
            raise ValueError(
                "Arguments go with an identifier, not with a loss object. "
                f"Received: {identifier!r} and {', '.join(arguments)}."
            )
        as_distillation_loss(identifier)
        return identifier
    if identifier not in LOSSES:
        near = difflib.get_close_matches(identifier.lower(), LOSSES, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"There is no distillation loss {identifier!r}.{hint} "
            f"Known: {', '.join(map(repr, LOSSES))}."
        )
    try:
        return LOSSES[identifier](**arguments)
    except TypeError as error:
        takes = inspect.signature(LOSSES[identifier]).parameters
        raise ValueError(
            f"The loss {identifier!r} takes the arguments: {', '.join(takes)}. "
            f"Received: {', '.join(arguments) or 'none'}."
        ) from error
