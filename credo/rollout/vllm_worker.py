"""Inside a vLLM server: weights from a folder of safetensors files, as an engine of vLLM's own weight transfer.

``vllm serve --worker-extension-cls credo.rollout.vllm_worker.Extension`` imports this module, which makes the engine
known by the name ``folder`` (see :mod:`credo.rollout.vllm_server` for the whole command). Knows vLLM's interface of
0.32, tested on the CPU. Nothing in it asks for a device, but it has not been run on a GPU, nor with a model spread over
several workers, each of which would read the whole folder and keep its part.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from credo.rollout.server_weights import BACKEND, read_weights
from credo.rollout.vllm_shared import repack_output_layer


class Extension:
    """What vLLM mixes into its worker; that it imports this module is all it is for."""


class FolderWeights:
    """Reads new weights when vLLM says so; the methods are those that a worker of vLLM calls."""

    supports_draft_weight_update = False

    def __init__(self, config: Any, vllm_config: Any, device: Any, model: Any) -> None:
        self.vllm_config, self.model = vllm_config, model
        self.parent: Path | None = None

    def parse_init_info(self, init_info: Mapping[str, str]) -> Path:
        """The folder that will hold a folder for each version of the weights."""
        return Path(init_info["parent"])

    def init_transfer_engine(self, parent: Path) -> None:
        """Raises ValueError if the trainer's folder is not to be seen from here."""
        if not parent.is_dir():
            raise ValueError(
                f"{parent} is not a folder on this server's machine: trainer and servers need a file system in common."
            )
        self.parent = parent

    def start_weight_update(self) -> None:
        """Nothing is taken apart before the files are there."""

    def update_weights(self, update_info: Mapping[str, str]) -> None:
        """Loads all files of ``update_info["folder"]`` below the folder named at first. Raises ValueError for none."""
        assert self.parent is not None, "init_transfer_engine comes first"
        from vllm.model_executor.model_loader.reload.inplace import (  # pyright: ignore[reportMissingImports]
            reload_weights,
        )

        weights = read_weights(self.parent / update_info["folder"])
        reload_weights(self.vllm_config, self.model, weights, None, True)
        repack_output_layer(self.model)

    def finish_weight_update(self) -> None:
        """All is done when the files are read."""

    def reset_weight_update_target(self) -> None:
        """There is one target, the model."""

    def shutdown(self) -> None:
        """Nothing is held."""


def _register() -> None:
    from vllm.distributed.weight_transfer.factory import (  # pyright: ignore[reportMissingImports]
        WeightTransferEngineFactory,
    )

    WeightTransferEngineFactory.register_engine(BACKEND, __name__, FolderWeights.__name__)


_register()
