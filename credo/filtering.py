"""Which judged groups are worth training on, and which of their responses. It samples, judges and counts nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from credo.config import FilterConfig
from credo.types import Group

DROP_REASONS = ("too_easy", "too_hard", "unanimous", "truncated", "unjudged", "unmatched")

Sifted = tuple[Group, str | None]
"""What is left of a group and None, or the group and the reason why it is dropped."""


def sift(group: Group, config: FilterConfig, *, least_judged: int) -> Sifted:
    """The group as it is trained on, or the reason why it is not."""
    if config.truncated == "drop_response":
        group = without_truncated(group)
    reason = why_dropped(group, config, least_judged=least_judged)
    if reason is not None or not config.length_matched:
        return group, reason
    matched = length_matched(group)
    return (group, "unmatched") if matched is None else (matched, None)


def why_dropped(group: Group, config: FilterConfig, *, least_judged: int = 2) -> str | None:
    """The reason this group is not trained on, or None if it is.

    The accuracy band is inclusive at both ends, as in the released code (with 4 binary rewards 0.2-0.8 keeps 1 to 3).
    """
    if len(group.rollouts) < least_judged:
        return "unjudged"
    if config.truncated == "drop_group" and group.truncated:
        return "truncated"
    if group.accuracy < config.accuracy_low - 1e-6:
        return "too_hard"
    if group.accuracy > config.accuracy_high + 1e-6:
        return "too_easy"
    if config.drop_unanimous and len({verdict.score for verdict in group.verdicts}) == 1:
        return "unanimous"
    return None


def without_truncated(group: Group) -> Group:
    """The group without the responses that ran into the length limit."""
    return _only(group, [index for index, rollout in enumerate(group.rollouts) if rollout.finish != "length"])


def length_matched(group: Group) -> Group | None:
    """The most pairs of a correct response (score over 0.5) and another one whose lengths differ by at most a tenth of
    the longer, each response in one pair at most; None if there is no pair.

    From the shortest up: two that fit are a pair, and of two that do not the shorter fits nothing that follows. That
    leaves as many pairs as can be, because whatever lies between the lengths of a fitting pair fits both.
    """
    lengths = [len(rollout.response_ids) for rollout in group.rollouts]
    by_length = sorted(range(len(lengths)), key=lengths.__getitem__)
    correct = [index for index in by_length if group.verdicts[index].score > 0.5]
    wrong = [index for index in by_length if group.verdicts[index].score <= 0.5]
    paired: list[int] = []
    while correct and wrong:
        shorter, longer = sorted((lengths[correct[0]], lengths[wrong[0]]))
        if 10 * (longer - shorter) <= longer:
            paired += [correct.pop(0), wrong.pop(0)]
        else:
            (correct if lengths[correct[0]] == shorter else wrong).pop(0)
    return _only(group, sorted(paired)) if paired else None


def _only(group: Group, indices: Sequence[int]) -> Group:
    return replace(
        group,
        rollouts=tuple(group.rollouts[index] for index in indices),
        responses=tuple(group.responses[index] for index in indices),
        verdicts=tuple(group.verdicts[index] for index in indices),
    )
