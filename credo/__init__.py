"""PRIME: language models trained by reinforcement learning with implicit process rewards.

These are the names for people who bring their own trainer. They are loaded when first used, so that ``import credo``
costs nothing and needs no torch; everything else is imported from the module it lives in.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from credo.algo.advantages import Evidence, prime_advantages, prime_returns
    from credo.algo.logprobs import token_logprobs
    from credo.algo.masked import masked_mean, masked_whiten
    from credo.algo.policy_losses import clipped_surrogate, loss_weights
    from credo.algo.prm_losses import prm_cross_entropy
    from credo.algo.rewards import log_ratios_to_rewards, pair_accuracy, sequence_logits
    from credo.config import SftConfig, TrainConfig
    from credo.types import Batch, Group, Message, Problem, Rollout, Unknown, Verdict

__version__ = "0.1.0"

_HOMES = {
    "credo.algo.advantages": ("Evidence", "prime_advantages", "prime_returns"),
    "credo.algo.logprobs": ("token_logprobs",),
    "credo.algo.masked": ("masked_mean", "masked_whiten"),
    "credo.algo.policy_losses": ("clipped_surrogate", "loss_weights"),
    "credo.algo.prm_losses": ("prm_cross_entropy",),
    "credo.algo.rewards": ("log_ratios_to_rewards", "pair_accuracy", "sequence_logits"),
    "credo.config": ("SftConfig", "TrainConfig"),
    "credo.types": ("Batch", "Group", "Message", "Problem", "Rollout", "Unknown", "Verdict"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [  # noqa: RUF022
    "prime_advantages",
    "prime_returns",
    "Evidence",
    "log_ratios_to_rewards",
    "sequence_logits",
    "pair_accuracy",
    "prm_cross_entropy",
    "token_logprobs",
    "clipped_surrogate",
    "loss_weights",
    "masked_mean",
    "masked_whiten",
    "Problem",
    "Message",
    "Rollout",
    "Verdict",
    "Unknown",
    "Group",
    "Batch",
    "TrainConfig",
    "SftConfig",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'credo' has no attribute '{name}'; its public names are {', '.join(__all__)}.")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
