"""The PRM that a folder holds, with its reference, to score with. Nothing here trains or scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from credo.data.prm_record import RECORD, PrmRecord, read_record
from credo.models.causal import CausalModel, fingerprint, load_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedPrm:
    """A PRM to score with."""

    start: CausalModel
    """pi_phi and the tokenizer."""
    reference: PreTrainedModel | None
    """pi_ref; None scores by log pi_phi alone."""
    record: PrmRecord | None


def load_prm(path: str, reference: str, *, device: str, warn: Any = print) -> LoadedPrm:
    """The PRM at ``path`` with its ``reference``: a model, ``none``, or ``auto`` for the one that ``prm.json`` names.

    Raises ValueError if that one is gone or has other weights now, and for a reference with another tokenizer.
    """
    record = read_record(path)
    start = load_model(path, key="--prm", device=device)
    start.model.requires_grad_(False)
    if reference == "none":
        return LoadedPrm(start=start, reference=None, record=record)
    if reference == "auto" and record is None:
        raise ValueError(
            f"{path} has no {RECORD}, which would name its reference; give --reference MODEL, or none to score without."
        )
    chosen = cast(PrmRecord, record).reference if reference == "auto" else reference
    frozen = load_model(chosen, key="--reference", device=device)
    frozen.model.requires_grad_(False)
    if frozen.tokenizer.get_vocab() != start.tokenizer.get_vocab():
        raise ValueError(
            f"--prm {path} and its reference {chosen} have different tokenizers; log-ratios compare tokens."
        )
    if record is not None and fingerprint(frozen) != record.reference_sha256:
        if reference == "auto":
            raise ValueError(
                f"The weights of {chosen} are not those that {path} was trained against; put them back, or name its "
                "reference by --reference."
            )
        warn(f"{chosen} is not the reference that {path} was trained against.")
    return LoadedPrm(start=start, reference=frozen.model, record=record)
