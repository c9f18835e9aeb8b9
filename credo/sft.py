"""Supervised warm-up: cross-entropy on the responses of demonstrations. Writes ``runs/NAME/model``."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from torch import Tensor

from credo.algo.policy_losses import loss_weights
from credo.config import SftConfig
from credo.console import Console, duration
from credo.data.batching import collate_demonstrations
from credo.data.demonstrations import Demonstration, load_demonstrations
from credo.data.prompts import encode_response, render
from credo.dist.device import choose_device, set_threads
from credo.interruption import Interruption
from credo.loggers import JsonlLogger
from credo.models.causal import CausalModel, build_model, load_model, recompute_layers, response_logprobs, save_model
from credo.models.optim import GradientStep, Optimizer, cosine
from credo.models.precision import with_compute_chosen
from credo.recipe import flat, to_toml
from credo.run_folder import CONFIG, LOG, METRICS, RunFolder

LINE_EVERY = 5.0
"""Seconds between progress lines."""

Tokens = tuple[tuple[int, ...], tuple[int, ...]]
"""Prompt and response of one demonstration."""


def sft(config: SftConfig) -> Path:
    """Tunes (or builds) the model of ``config`` on its demonstrations; returns the trained model's folder.

    A finished run of the same configuration is left alone. Raises ValueError for what the user can mend.
    """
    with RunFolder(Path(config.run.folder) / config.run.name) as folder:
        console = Console(folder.folder / LOG)
        config = with_compute_chosen(config, folder.recorded, console.say)
        target = folder.folder / "model"
        if target.exists():
            if not _is_of(folder.folder / CONFIG, config):
                raise ValueError(f"{target} holds a model of another recipe; choose another --run.name.")
            console.say(f"{target} is there already, trained from this very recipe.")
            return target
        folder.begin("auto", flat(config), to_toml(config), console.warn)
        with Interruption().listening() as interruption, closing(JsonlLogger(folder.folder / METRICS)) as logger:
            _train(config, folder, console, logger, interruption)
        return target


def _train(
    config: SftConfig, folder: RunFolder, console: Console, logger: JsonlLogger, interruption: Interruption
) -> None:
    set_threads(config.run.threads)
    device = choose_device(config.run.device)
    demonstrations = load_demonstrations(config.sft.sources, max_bad_share=config.sft.max_bad_share)
    if config.model is not None:
        start = load_model(config.model.path, device=device)
    else:
        assert config.architecture is not None
        start = build_model(config.architecture, seed=config.run.seed, device=device)
    if config.training.gradient_checkpointing:
        recompute_layers(start.model)
    rows = [_tokens(demonstration, start, config) for demonstration in demonstrations]
    console.say(f"{len(rows):,} demonstrations, {start.model.num_parameters():,} parameters.")
    optimizer = Optimizer(
        start.model.parameters(),
        lr=config.sft.lr,
        schedule=cosine(round(config.sft.lr_warmup * config.run.steps), config.run.steps),
        weight_decay=config.sft.weight_decay,
        max_grad_norm=config.sft.max_grad_norm,
    )
    started = said = time.perf_counter()
    for step, chosen in enumerate(_batches(rows, config.sft.batch, config.run.steps, config.run.seed), start=1):
        result = _step(start, chosen, optimizer, config)
        if result.skipped:
            raise RuntimeError(f"Step {step} gave a non-finite loss or gradient; lower sft.lr.")
        now = time.perf_counter()
        logger.log(step, {"sft/loss": result.loss, "sft/grad_norm": result.grad_norm})
        if now - said > LINE_EVERY or step in (1, config.run.steps):
            said, rate = now, (now - started) / step
            console.say(
                f"step {step}/{config.run.steps}  loss {result.loss:.4f}  {1 / rate:.1f} steps/s  "
                f"{duration((config.run.steps - step) * rate)} left"
            )
        if interruption.requested:
            partial = folder.folder / f"model-step-{step:06d}"
            save_model(start.model, start.tokenizer, partial)
            console.say(f"Stopped after step {step}; the model so far is in {partial}.")
            return
    aside = folder.folder / "model.tmp"
    save_model(start.model, start.tokenizer, aside)
    aside.rename(folder.folder / "model")
    console.say(f"The model is in {folder.folder / 'model'}.")


def _step(start: CausalModel, chosen: Sequence[Tokens], optimizer: Optimizer, config: SftConfig) -> GradientStep:
    tokens, attention, mask = collate_demonstrations(chosen, start.pad_id)
    weights = loss_weights(mask, "token_mean")
    compute = config.model.precision if config.model else "fp32"

    def loss_of(rows: Tensor) -> Tensor:
        width = int(attention[rows].sum(dim=1).max())
        logprobs = response_logprobs(
            start.model, tokens[rows, :width], attention[rows, :width], mask[rows, :width], compute=compute
        )
        return -(logprobs * weights[rows, :width].to(logprobs.device)).sum()

    return optimizer.descend(attention.sum(dim=1), config.training.tokens_per_microbatch, loss_of)


def _tokens(demonstration: Demonstration, start: CausalModel, config: SftConfig) -> Tokens:
    settings = config.sft
    prompt = render(
        demonstration.prompt,
        start.tokenizer,
        template=settings.template,
        system=settings.system,
        suffix=settings.suffix,
    )
    response = encode_response(demonstration.response, start.tokenizer)
    if len(prompt) + len(response) > settings.max_tokens:
        raise ValueError(
            f"A demonstration of {demonstration.source} has {len(prompt) + len(response):,} tokens, over "
            f"sft.max_tokens = {settings.max_tokens:,}; raise the limit or shorten it."
        )
    unknown = start.tokenizer.unk_token_id
    has_other_use = unknown in (None, start.tokenizer.eos_token_id, start.tokenizer.bos_token_id)
    if not has_other_use and unknown in (*prompt, *response):
        raise ValueError(
            f"A demonstration of {demonstration.source} has characters that the tokenizer does not know: "
            f"{demonstration.prompt!r}; add them to architecture.alphabet."
        )
    return prompt, response


def _batches(rows: Sequence[Tokens], size: int, steps: int, seed: int) -> Iterator[list[Tokens]]:
    """``steps`` batches, shuffled anew each epoch; a batch may span two epochs."""
    order: list[int] = []
    epoch = 0
    for _ in range(steps):
        while len(order) < size:
            fresh = list(range(len(rows)))
            random.Random(f"{seed}:{epoch}").shuffle(fresh)
            order, epoch = order + fresh, epoch + 1
        yield [rows[index] for index in order[:size]]
        order = order[size:]


def _is_of(path: Path, config: SftConfig) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == to_toml(config)
