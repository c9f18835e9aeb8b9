"""What trains the implicit PRM: outcome labels only. Optimisers, batches and the forward pass are not known here.

Every loss is a sum over the rows given, divided by ``count``, the rows of the global mini-batch (by default those
given), so the losses of micro-batches and ranks add up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from credo.algo.masked import AllReduce, full_precision, local, zero_off
from credo.algo.rewards import sequence_logits

PrmLoss = Literal["ce", "dpo", "bon_acc", "bon_rm"]

TIE = 1e-5
"""Logits this close differ by rounding alone, which must not decide who is better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupScores:
    """What the losses between responses know of rows before the update: how each stands in its group.

    Made once for a batch (:func:`group_scores`), so that neither the order of its rows nor their division into
    mini-batches matters; ``scores[rows]`` is about some of its rows.
    """

    opponents: Float[Tensor, " R"]
    """See :func:`opponent_logits`."""
    outcome_weights: Float[Tensor, " R"]
    """See :func:`best_of_n_weights`."""
    peers: Bool[Tensor, "R B"]
    """Which rows of the batch are the other responses of the row's group."""
    logits: Float[Tensor, " B"]
    """The old logits of the whole batch."""

    def __getitem__(self, rows: Int[Tensor, " N"]) -> GroupScores:
        return GroupScores(
            opponents=self.opponents[rows],
            outcome_weights=self.outcome_weights[rows],
            peers=self.peers[rows],
            logits=self.logits,
        )


@torch.no_grad()
def group_scores(
    old_log_ratios: Float[Tensor, "B S"],
    outcomes: Float[Tensor, " B"],
    mask: Bool[Tensor, "B S"],
    group_ids: Int[Tensor, " B"],
    beta: float,
) -> GroupScores:
    """The scores of a whole batch, from its log-ratios before the update."""
    logits, peers = sequence_logits(old_log_ratios, mask, beta), _peers(group_ids)
    return GroupScores(
        opponents=opponent_logits(logits, outcomes, group_ids),
        outcome_weights=best_of_n_weights(outcomes, outcomes, peers),
        peers=peers,
        logits=logits,
    )


def opponent_logits(
    old_logits: Float[Tensor, " B"], outcomes: Float[Tensor, " B"], group_ids: Int[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """The mean logit of each response's opponents; 0 where it has none.

    They are the responses of its group with a lower outcome if its own is above 0, else those with a higher one.
    """
    lower, higher = outcomes < outcomes[:, None], outcomes > outcomes[:, None]
    opponents = _peers(group_ids) & torch.where((outcomes > 0)[:, None], lower, higher)
    total = zero_off(old_logits.expand(opponents.shape), opponents).sum(dim=1)
    return total / opponents.sum(dim=1).clamp(min=1)


def best_of_n_weights(
    values: Float[Tensor, " R"], old_values: Float[Tensor, " B"], peers: Bool[Tensor, "R B"]
) -> Float[Tensor, " R"]:
    """``n * (share of the group with at most this value) ** (n - 1)``, n the size of the group.

    The density of the best of n draws from the group. Each value is compared with the old ones of its ``peers``. A
    response always counts itself; in verl it does so only while its value has not dropped since the old one, which
    before the first step is a matter of rounding.
    """
    values, old_values = full_precision(values), full_precision(old_values)
    size = (peers.sum(dim=1) + 1).to(values.dtype)
    beaten = (peers & (old_values <= values[:, None] + TIE)).sum(dim=1)
    return size * ((beaten + 1) / size) ** (size - 1)


def prm_loss(
    log_ratios: Float[Tensor, "R S"],
    outcomes: Float[Tensor, " R"],
    mask: Bool[Tensor, "R S"],
    scores: GroupScores | None = None,
    *,
    loss: PrmLoss = "ce",
    beta: float = 0.05,
    label_smoothing: float = 0.0,
    count: int | None = None,
) -> Float[Tensor, ""]:
    """The loss of that name: :func:`prm_cross_entropy` (``ce``) or :func:`prm_preference_loss` (``dpo``).

    ``bon_acc`` and ``bon_rm`` weigh the latter by :func:`best_of_n_weights` of the outcome or of the current logit,
    without gradient. Raises ValueError if one of these three lacks the ``scores`` of its rows.
    """
    weights = None
    match loss, scores:
        case "ce", _:
            return prm_cross_entropy(
                log_ratios, outcomes, mask, beta=beta, label_smoothing=label_smoothing, count=count
            )
        case "dpo", GroupScores():
            pass
        case "bon_acc", GroupScores():
            weights = scores.outcome_weights
        case "bon_rm", GroupScores():
            weights = best_of_n_weights(sequence_logits(log_ratios.detach(), mask, beta), scores.logits, scores.peers)
        case _:
            raise ValueError(
                f"The PRM loss {loss!r} is unknown or was given no scores to compare responses with. "
                "Choose ce, or dpo, bon_acc or bon_rm with the group_scores of these rows."
            )
    return prm_preference_loss(
        log_ratios, outcomes, mask, scores.opponents, weights, beta=beta, label_smoothing=label_smoothing, count=count
    )


def prm_cross_entropy(
    log_ratios: Float[Tensor, "B S"],
    outcomes: Float[Tensor, " B"],
    mask: Bool[Tensor, "B S"],
    *,
    beta: float = 0.05,
    label_smoothing: float = 0.0,
    count: int | None = None,
) -> Float[Tensor, ""]:
    """The cross-entropy of ``sigmoid(z)``, ``z = beta * sum of q``, against the outcomes (PRIME, Algorithm 1, line 8).

    Divided by ``count`` rows. Partial credit makes soft labels; ``label_smoothing`` of 0.1 trains 1 as 0.95 and 0 as
    0.05. Taken on logits: both released codes take logarithms of a sigmoid, whose gradient is gone when a wrong
    response has come to look certain.
    """
    total = _cross_entropy(sequence_logits(log_ratios, mask, beta), outcomes, label_smoothing)
    return total.sum() / (len(outcomes) if count is None else count)


def prm_preference_loss(
    log_ratios: Float[Tensor, "B S"],
    outcomes: Float[Tensor, " B"],
    mask: Bool[Tensor, "B S"],
    opponents: Float[Tensor, " B"],
    weights: Float[Tensor, " B"] | None = None,
    *,
    beta: float = 0.05,
    label_smoothing: float = 0.0,
    count: int | None = None,
) -> Float[Tensor, ""]:
    """Detached DPO: ``-log sigmoid(+-(z - o))``, + for an outcome above 0, o the old logit of its ``opponents``.

    In other words the cross-entropy of ``z - o`` with hard labels, which makes ``label_smoothing`` that of
    conservative DPO. verl (``compute_detach_dpo_loss_rm``) sums the weighted losses where this takes their mean: its
    best-of-n losses grow with the micro-batch. In PRIME's Table 8 DPO and cross-entropy end up alike.
    """
    margins = sequence_logits(log_ratios, mask, beta) - opponents
    losses = _cross_entropy(margins, outcomes > 0, label_smoothing)
    total = losses.sum() if weights is None else (weights * losses).sum()
    return total / (len(outcomes) if count is None else count)


@torch.no_grad()
def dead_gradient_share(
    log_ratios: Float[Tensor, "B S"],
    outcomes: Float[Tensor, " B"],
    mask: Bool[Tensor, "B S"],
    beta: float,
    threshold: float = 1e-6,
) -> Float[Tensor, ""]:
    """The share of responses that teach the PRM nothing more: ``|sigmoid(z) - outcome|`` is at most ``threshold``.

    That difference times beta is the gradient of the cross-entropy for each token; an empty response has none.
    """
    logits = sequence_logits(log_ratios, mask, beta)
    residual = (torch.sigmoid(logits) - outcomes).abs() * mask.any(dim=1)
    return (residual <= threshold).to(logits.dtype).mean()


@torch.no_grad()
def ceiling_distance(
    log_ratios: Float[Tensor, "B S"],
    outcomes: Float[Tensor, " B"],
    mask: Bool[Tensor, "B S"],
    group_ids: Int[Tensor, " B"],
    beta: float,
    all_reduce: AllReduce = local,
) -> Float[Tensor, ""]:
    """Collective. How far correct responses (outcome above 0.5) are from the highest logit they can have on average.

    Because ``E[exp(z / beta)] = 1`` over the reference's responses, the mean logit of the correct ones is at most
    ``beta * ln(1 / p)``, p their share. The mean over groups with p strictly between 0 and 1 of this ceiling minus
    that logit; 0 where there is no such group. p is the group's own accuracy: an estimate from a few responses of the
    policy, so the distance may be negative.
    """
    logits, correct = sequence_logits(log_ratios, mask, beta), outcomes > 0.5
    groups, index = group_ids.unique(return_inverse=True)
    zeros = logits.new_zeros(len(groups))
    size = zeros.index_add(0, index, torch.ones_like(logits))
    right = zeros.index_add(0, index, correct.to(logits.dtype))
    mean_logit = zeros.index_add(0, index, zero_off(logits, correct)) / right.clamp(min=1)
    distances = beta * (size / right).log() - mean_logit
    mixed = (right > 0) & (right < size)
    count = all_reduce(mixed.sum(), "sum").clamp(min=1)
    return all_reduce(zero_off(distances, mixed).sum(), "sum") / count


def _peers(group_ids: Int[Tensor, " B"]) -> Bool[Tensor, "B B"]:
    """Which other rows are of the same group."""
    same = group_ids[:, None] == group_ids
    return same & ~torch.eye(len(group_ids), dtype=torch.bool, device=group_ids.device)


def _cross_entropy(
    logits: Float[Tensor, " B"], labels: Float[Tensor, " B"] | Bool[Tensor, " B"], label_smoothing: float
) -> Float[Tensor, " B"]:
    labels = labels.to(logits.dtype)
    smooth = labels + label_smoothing * (0.5 - labels)
    return F.binary_cross_entropy_with_logits(logits, smooth, reduction="none")
