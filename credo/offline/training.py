"""``credo prm train``: an implicit PRM from responses that are judged already. Writes ``runs/NAME/prm``."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from credo.algo.measures import auc
from credo.algo.offline_prm_losses import dpo_loss, kto_baseline, kto_loss, nca_loss
from credo.algo.prm_losses import prm_cross_entropy
from credo.config import OfflineConfig, PrmTrainingConfig
from credo.config.prm_training import PAIR_LOSSES
from credo.data.batching import collate_demonstrations
from credo.data.epochs import Unit, balanced, batches, paired
from credo.data.prm_record import PrmRecord, Prompting, found_anywhere, write_record
from credo.data.responses import fingerprint as fingerprint_of
from credo.dist.device import choose_device, set_threads
from credo.dist.world import World
from credo.models.causal import CausalModel, fingerprint, load_model, recompute_layers, response_logprobs, shard_model
from credo.models.division import divided
from credo.models.optim import GradientStep, Optimizer, Schedule, cosine
from credo.models.row_logprobs import Tokens, row_logprobs, row_totals
from credo.offline.card import Figures, card, held_out_figures, in_words, summary
from credo.offline.material import Material, load_split, mismatched, remember, remembered
from credo.tuning import Journal, Learner, Progress, tune

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CARD = "REPORT.md"
"""The report card, in the folder of a PRM."""
REFERENCE = "reference.safetensors"
"""In the folder of a run: what the frozen reference says of all its responses."""
MISMATCHED = "reference, mismatched"


@dataclass(frozen=True, slots=True, kw_only=True)
class Referenced:
    """Responses with the log-prob of each under the frozen reference."""

    material: Material
    reference: Float[Tensor, " N"]


def train_prm(config: PrmTrainingConfig, *, world: World | None = None) -> Path:
    """Collective. Trains the PRM of ``config`` and validates it on held-out problems; returns its folder.

    It goes on, and raises, as :func:`credo.tuning.tune` says.
    """
    world = world or World(device=choose_device(config.run.device))
    return tune(config, "prm", lambda config, journal: _PrmTraining(config, journal, world), world=world)


class _PrmTraining:
    """Models, responses and optimiser of a run."""

    def __init__(self, config: PrmTrainingConfig, journal: Journal, world: World) -> None:
        """Collective. Raises ValueError for a model or responses that cannot be used."""
        set_threads(config.run.threads)
        self.config, self.console, self.world = config, journal.console, world
        device = "cpu" if world.sharded else world.device
        self.start = world.everywhere(lambda: load_model(config.model.path, device=device))
        self.split = world.everywhere(lambda: load_split(config.offline, self.start.tokenizer))
        self.console.say(self.split.described)
        self.tokenizer, self.steps = self.start.tokenizer, config.run.steps
        self.evaluate_every = config.offline.evaluate_every
        training = self.split.training
        self.learnt_from = fingerprint_of(training.responses)
        self.longer_is_right = auc(training.lengths, training.judged.outcomes > 0.5).item() > 0.5
        self.reference_sha256 = fingerprint(self.start)
        if config.training.gradient_checkpointing:
            recompute_layers(self.start.model)
        model = shard_model(self.start.model, world, config.model.precision)
        self._prepare_reference(journal.folder.folder)
        steps, offline = config.run.steps, config.offline
        optimizer = Optimizer(
            model.parameters(),
            lr=offline.lr,
            schedule=floored(round(offline.lr_warmup * steps), steps, offline.lr_floor),
            weight_decay=offline.weight_decay,
            max_grad_norm=offline.max_grad_norm,
        )
        self.learner = Learner(model=model, optimizer=optimizer)
        self.progress = Progress(self.console, steps)
        self.figures: Figures = {}

    def batches(self) -> Iterator[list[Unit]]:
        """The responses of each step, or the pairs of them."""
        return batches(self._epoch, self.config.offline.batch, self.steps)

    def step(self, done: int, units: Sequence[Unit]) -> dict[str, float]:
        """Collective. One optimiser step on ``units``; its metrics."""
        started, optimizer = time.perf_counter(), self.learner.optimizer
        result = self._descend(units)
        if result.skipped:
            raise RuntimeError(f"Step {done + 1} gave a non-finite loss or gradient; lower offline.lr.")
        tokens = sum(map(len, (piece for unit in units for row in unit for piece in self.split.training.rows[row])))
        seconds = time.perf_counter() - started
        self.progress.see(done + 1, result, tokens, seconds)
        return {
            "offline/loss": result.loss,
            "offline/grad_norm": result.grad_norm,
            "offline/lr": optimizer.lr * optimizer.schedule(done),
            "time/step": seconds,
        }

    def validate(self, step: int) -> dict[str, float]:
        """Collective. The figures on held-out problems, also said."""
        material = self.held_out.material
        if step == 0 and self.reference_is_start:
            ratios = torch.zeros_like(self.held_out.reference)
        else:
            ratios = self._totals(material.rows, what="validating") - self.held_out.reference
        self.figures = held_out_figures(
            material.judged,
            ratios,
            beta=self.config.offline.beta,
            reference=self.held_out.reference,
            lengths=material.lengths,
            longer_is_right=self.longer_is_right,
        )
        self.console.say(f"after step {step}: {in_words(self.figures)}")
        return summary(self.figures)

    def complete(self, folder: Path) -> None:
        """Writes what belongs to the weights, and the report card."""
        offline = self.config.offline
        record = PrmRecord(
            beta=offline.beta,
            loss=offline.loss,
            reference=found_anywhere(offline.reference_path or self.config.model.path),
            reference_sha256=self.reference_sha256,
            prompting=Prompting(template=offline.template, system=offline.system, suffix=offline.suffix),
            steps=self.steps,
            training=self.split.facts(offline.sources),
            held_out=self.figures,
        )
        write_record(folder, record)
        (folder / CARD).write_text(card(record, self.config), encoding="utf-8")

    def _prepare_reference(self, folder: Path) -> None:
        """Collective. All that the frozen reference is asked for, kept in ``folder`` for a run that goes on."""
        config, path = self.config, self.config.offline.reference_path
        self.reference_is_start = path in ("", config.model.path)
        model = self.start.model
        if not self.reference_is_start:
            reference = self.world.everywhere(lambda: _reference(path, self.start))
            self.reference_sha256 = fingerprint(reference)
            model = shard_model(reference.model, self.world, config.model.precision)
        training, held_out = self.split.training, self.split.held_out
        asked: dict[str, Sequence[Tokens]] = {"reference": training.rows, "reference, held out": held_out.rows}
        if config.offline.loss == "kto":
            asked[MISMATCHED] = mismatched(training, config.run.seed)
        tokens = hashlib.sha256(repr(asked).encode()).hexdigest()
        about = f"{self.reference_sha256} {config.model.precision} {tokens}"
        found = self.world.first(lambda: remembered(folder / REFERENCE, about))
        if found is None:
            found = {what: self._totals(rows, what=what, model=model) for what, rows in asked.items()}
            self.world.first(lambda: remember(folder / REFERENCE, about, found))
        self.mismatched, self.mismatched_reference = asked.get(MISMATCHED), found.get(MISMATCHED)
        self.training = Referenced(material=training, reference=found["reference"])
        self.held_out = Referenced(material=held_out, reference=found["reference, held out"])

    def _epoch(self, number: int) -> list[Unit]:
        """The units of an epoch: responses, or pairs of them, balanced and shuffled by the seed of the run."""
        draw, offline = random.Random(f"{self.config.run.seed}:{number}"), self.config.offline
        outcomes, strata = self.training.material.judged.outcomes, self.training.material.strata(offline)
        if offline.loss in PAIR_LOSSES:
            units = paired(outcomes, strata, offline.pairs, draw)
        elif offline.balance == "none":
            units = [(row,) for row in range(len(strata))]
        else:
            units = [(row,) for row in balanced(outcomes, strata, draw)]
        draw.shuffle(units)
        return units

    def _descend(self, units: Sequence[Unit]) -> GradientStep:
        material, offline = self.training.material, self.config.offline
        baseline = self._kto_baseline(units) if offline.loss == "kto" else torch.zeros(())
        lengths = torch.tensor([_width(material, unit) for unit in units])

        def loss_of(chosen: Tensor) -> Tensor:
            rows = [row for unit in chosen.tolist() for row in units[unit]]
            tokens, attention, mask = collate_demonstrations([material.rows[row] for row in rows], self.start.pad_id)
            compute = self.config.model.precision
            logprobs = response_logprobs(self.start.model, tokens, attention, mask, compute=compute)
            ratios = logprobs.cpu().double().sum(dim=1) - self.training.reference[rows]
            return unit_loss(ratios, material.judged.outcomes[rows], baseline, offline, count=len(units))

        division = divided(lengths, self.config.training.tokens_per_microbatch, self.world)
        return self.learner.optimizer.descend(division, loss_of)

    def _kto_baseline(self, units: Sequence[Unit]) -> Float[Tensor, ""]:
        """From the mismatched rows of this batch under the weights of now."""
        assert self.mismatched is not None
        assert self.mismatched_reference is not None
        rows = [row for unit in units for row in unit]
        totals = self._totals([self.mismatched[row] for row in rows])
        return kto_baseline(self.config.offline.beta * (totals - self.mismatched_reference[rows]))

    def _totals(
        self, rows: Sequence[Tokens], *, what: str = "", model: PreTrainedModel | None = None
    ) -> Float[Tensor, " N"]:
        """Collective. The log-prob of each response under ``model``, or the weights of now; shown as stage ``what``."""
        with self.console.stage(what, "responses", len(rows)) if what else nullcontext(lambda count: None) as progress:
            found = row_logprobs(
                model or self.start.model,
                rows,
                self.start.pad_id,
                token_budget=self.config.training.tokens_per_microbatch,
                compute=self.config.model.precision,
                progress=progress,
                world=self.world,
            )
        return row_totals(found)


def unit_loss(
    log_ratios: Float[Tensor, " R"],
    outcomes: Float[Tensor, " R"],
    baseline: Float[Tensor, ""],
    config: OfflineConfig,
    *,
    count: int,
) -> Float[Tensor, ""]:
    """The configured loss of responses, or of pairs whose better and worse rows alternate, over ``count`` of them."""
    logits = config.beta * log_ratios
    match config.loss:
        case "ce":
            column = log_ratios.unsqueeze(1)
            mask = torch.ones_like(column, dtype=torch.bool)
            return prm_cross_entropy(column, outcomes, mask, beta=config.beta, count=count)
        case "dpo":
            return dpo_loss(logits[0::2], logits[1::2], count=count)
        case "nca":
            return nca_loss(logits[0::2], logits[1::2], count=count)
        case "kto":
            return kto_loss(
                logits,
                outcomes,
                baseline,
                correct_weight=config.correct_weight,
                wrong_weight=config.wrong_weight,
                count=count,
            )


def floored(warmup: int, total: int, floor: float) -> Schedule:
    """Linear over ``warmup`` steps, then half a cosine down to ``floor`` at step ``total``."""
    factor = cosine(warmup, total)
    return lambda step: factor(step) if step < warmup else floor + (1 - floor) * factor(step)


def _width(material: Material, unit: Unit) -> int:
    """Padded tokens of a unit."""
    return len(unit) * max(len(prompt) + len(response) for prompt, response in (material.rows[row] for row in unit))


def _reference(path: str, start: CausalModel) -> CausalModel:
    reference = load_model(path, key="offline.reference_path", device=str(start.model.device))
    if reference.tokenizer.get_vocab() != start.tokenizer.get_vocab():
        raise ValueError(
            f"offline.reference_path = '{path}' has another tokenizer than model.path; log-ratios compare tokens one "
            "by one, so both need the same."
        )
    return reference
