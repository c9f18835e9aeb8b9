"""``credo prm train``: an implicit PRM from responses that are judged already. Writes ``runs/NAME/prm``."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from credo.algo.measures import auc
from credo.algo.offline_prm_losses import dpo_loss, kto_baseline, kto_loss, nca_loss
from credo.algo.prm_losses import prm_cross_entropy
from credo.config import OfflineConfig, PrmTrainingConfig
from credo.config.prm_training import PAIR_LOSSES
from credo.console import Console, duration
from credo.data.batching import collate_demonstrations
from credo.data.epochs import Unit, balanced, batches, paired
from credo.dist.device import choose_device, set_threads
from credo.interruption import Interruption
from credo.loggers import JsonlLogger
from credo.models.causal import CausalModel, fingerprint, load_model, recompute_layers, response_logprobs
from credo.models.division import divided
from credo.models.optim import GradientStep, Optimizer, Schedule, cosine
from credo.models.precision import with_compute_chosen
from credo.models.row_logprobs import Tokens, row_logprobs, row_totals
from credo.offline.card import Figures, card, held_out_figures, in_words, summary
from credo.offline.folder import CARD, PrmRecord, Prompting, write_prm
from credo.offline.material import Material, load_split, mismatched, reference_totals
from credo.recipe import flat, to_toml
from credo.run_folder import CONFIG, LOG, METRICS, RunFolder

LINE_EVERY = 5.0
"""Seconds between progress lines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Referenced:
    """Responses with the log-prob of each under the frozen reference."""

    material: Material
    reference: Float[Tensor, " N"]
    mismatched: tuple[Tokens, ...] = ()
    """For KTO: each prompt with a response to another problem."""
    mismatched_reference: Float[Tensor, " M"] | None = None


def train_prm(config: PrmTrainingConfig) -> Path:
    """Trains the PRM of ``config`` and validates it on held-out problems; returns its folder.

    A finished run of the same configuration is left alone. Raises ValueError for what the user can mend.
    """
    with RunFolder(Path(config.run.folder) / config.run.name) as folder:
        console = Console(folder.folder / LOG)
        config = with_compute_chosen(config, folder.recorded, console.say)
        target = folder.folder / "prm"
        if target.exists():
            recorded = folder.folder / CONFIG
            if not recorded.exists() or recorded.read_text(encoding="utf-8") != to_toml(config):
                raise ValueError(f"{target} holds a PRM of another recipe; choose another --run.name.")
            console.say(f"{target} is there already, trained from this very recipe.")
            return target
        folder.begin("auto", flat(config), to_toml(config), console.warn)
        with Interruption().listening() as interruption, closing(JsonlLogger(folder.folder / METRICS)) as logger:
            _Training(config, folder.folder, console, logger).run(interruption)
        return target


class _Training:
    """One run: models, data and optimiser, and the loop over steps."""

    def __init__(self, config: PrmTrainingConfig, folder: Path, console: Console, logger: JsonlLogger) -> None:
        set_threads(config.run.threads)
        self.config, self.folder, self.console, self.logger = config, folder, console, logger
        device = choose_device(config.run.device)
        self.start = load_model(config.model.path, device=device)
        self.split = load_split(config.offline, self.start.tokenizer)
        console.say(self.split.described)
        training = self.split.training
        self.longer_is_right = auc(training.lengths, training.judged.outcomes > 0.5).item() > 0.5
        self.reference_sha256 = self._prepare_reference(device)
        if config.training.gradient_checkpointing:
            recompute_layers(self.start.model)
        steps, offline = config.run.steps, config.offline
        self.optimizer = Optimizer(
            self.start.model.parameters(),
            lr=offline.lr,
            schedule=floored(round(offline.lr_warmup * steps), steps, offline.lr_floor),
            weight_decay=offline.weight_decay,
            max_grad_norm=offline.max_grad_norm,
        )

    def run(self, interruption: Interruption) -> None:
        """Validates, trains, validates, and writes the PRM; a request to stop leaves what there is so far."""
        steps, every = self.config.run.steps, self.config.offline.evaluate_every or self.config.run.steps
        figures = self._validate(0)
        self.logger.log(0, summary(figures))
        started = said = time.perf_counter()
        validating = 0.0
        for step, units in enumerate(batches(self._epoch, self.config.offline.batch, steps), start=1):
            result = self._step(units)
            if result.skipped:
                raise RuntimeError(f"Step {step} gave a non-finite loss or gradient; lower offline.lr.")
            metrics = {"offline/loss": result.loss, "offline/grad_norm": result.grad_norm}
            now = time.perf_counter()
            if now - said > LINE_EVERY or step in (1, steps):
                said = now
                self._say_progress(step, result.loss, len(units), (now - started - validating) / step)
            if interruption.requested:
                partial_folder = self.folder / f"prm-step-{step:06d}"
                self._write(partial_folder, step, {})
                self.logger.log(step, metrics)
                self.console.say(f"Stopped after step {step}; the PRM so far is in {partial_folder}.")
                return
            if step % every == 0 or step == steps:
                figures = self._validate(step)
                metrics |= summary(figures)
                validating += time.perf_counter() - now
            self.logger.log(step, metrics)
        self._write(self.folder / "prm", steps, figures)
        self.console.say(f"The PRM is in {self.folder / 'prm'}, its figures in {self.folder / 'prm' / CARD}.")

    def _say_progress(self, step: int, loss: float, units: int, seconds: float) -> None:
        what = "pairs" if self.config.offline.loss in PAIR_LOSSES else "responses"
        left = duration((self.config.run.steps - step) * seconds)
        self.console.say(
            f"step {step}/{self.config.run.steps}  loss {loss:.4f}  {units / seconds:.1f} {what}/s  {left} left"
        )

    def _prepare_reference(self, device: str) -> str:
        """Computes all that the frozen reference is asked for; returns the fingerprint of its weights."""
        config, path = self.config, self.config.offline.reference_path
        self.reference_is_start = path in ("", config.model.path)
        model = self.start if self.reference_is_start else _reference(path, self.start, device)
        totals = partial(
            reference_totals,
            model.model,
            pad_id=self.start.pad_id,
            token_budget=config.training.tokens_per_microbatch,
            compute=config.model.precision,
            console=self.console,
        )
        training, held_out = self.split.training, self.split.held_out
        self.training = Referenced(material=training, reference=totals(training.rows, what="reference"))
        if config.offline.loss == "kto":
            rows = mismatched(training, config.run.seed)
            others = totals(rows, what="reference, mismatched")
            self.training = replace(self.training, mismatched=tuple(rows), mismatched_reference=others)
        self.held_out = Referenced(material=held_out, reference=totals(held_out.rows, what="reference, held out"))
        return fingerprint(model)

    def _epoch(self, number: int) -> list[Unit]:
        """The units of an epoch: responses, or pairs of them, balanced and shuffled by the seed of the run."""
        draw, offline = random.Random(f"{self.config.run.seed}:{number}"), self.config.offline
        judged = self.training.material.judged
        problems = judged.problems.tolist()
        if offline.loss in PAIR_LOSSES:
            units = paired(judged.outcomes, problems, offline.pairs, draw)
        elif offline.balance == "none":
            units = [(row,) for row in range(len(problems))]
        else:
            sources = [response.source for response in self.training.material.responses]
            strata = {"class": [0] * len(problems), "dataset": sources, "instruction": problems}[offline.balance]
            units = [(row,) for row in balanced(judged.outcomes, strata, draw)]
        draw.shuffle(units)
        return units

    def _step(self, units: Sequence[Unit]) -> GradientStep:
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

        return self.optimizer.descend(divided(lengths, self.config.training.tokens_per_microbatch), loss_of)

    def _kto_baseline(self, units: Sequence[Unit]) -> Float[Tensor, ""]:
        """From the mismatched rows of this batch under the weights of now."""
        rows, others = [row for unit in units for row in unit], self.training.mismatched_reference
        assert others is not None
        ratios = self._totals([self.training.mismatched[row] for row in rows]) - others[rows]
        return kto_baseline(self.config.offline.beta * ratios)

    def _totals(self, rows: Sequence[Tokens], progress: Callable[[int], None] | None = None) -> Float[Tensor, " N"]:
        """The log-prob of each response under the weights of now."""
        found = row_logprobs(
            self.start.model,
            rows,
            self.start.pad_id,
            token_budget=self.config.training.tokens_per_microbatch,
            compute=self.config.model.precision,
            progress=progress or (lambda rows: None),
        )
        return row_totals(found)

    def _validate(self, step: int) -> Figures:
        """The figures on held-out problems, also said."""
        material = self.held_out.material
        if step == 0 and self.reference_is_start:
            ratios = torch.zeros_like(self.held_out.reference)
        else:
            with self.console.stage("validating", "responses", len(material.rows)) as progress:
                ratios = self._totals(material.rows, progress) - self.held_out.reference
        figures = held_out_figures(
            material.judged,
            ratios,
            beta=self.config.offline.beta,
            reference=self.held_out.reference,
            lengths=material.lengths,
            longer_is_right=self.longer_is_right,
        )
        self.console.say(f"after step {step}: {in_words(figures)}")
        return figures

    def _write(self, folder: Path, step: int, figures: Figures) -> None:
        offline = self.config.offline
        record = PrmRecord(
            beta=offline.beta,
            loss=offline.loss,
            reference=offline.reference_path or self.config.model.path,
            reference_sha256=self.reference_sha256,
            prompting=Prompting(template=offline.template, system=offline.system, suffix=offline.suffix),
            steps=step,
            training=self.split.facts(offline.sources),
            held_out=figures,
        )
        write_prm(folder, self.start, record, card(record, self.config))


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


def _reference(path: str, start: CausalModel, device: str) -> CausalModel:
    reference = load_model(path, key="offline.reference_path", device=device)
    if reference.tokenizer.get_vocab() != start.tokenizer.get_vocab():
        raise ValueError(
            f"offline.reference_path = '{path}' has another tokenizer than model.path; log-ratios compare tokens one "
            "by one, so both need the same."
        )
    return reference
