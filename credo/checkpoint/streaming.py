"""DCP's writer of safetensors, without its copies: torch's puts a file together in memory, twice, before it writes it.

The files hold the same tensors under the same names, with the same metadata.
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageWriter, SavePlan, SavePlanner
from torch.distributed.checkpoint._hf_utils import (
    CUSTOM_METADATA_KEY,
    DCP_VERSION_KEY,
    FORMAT_KEY,
    FORMAT_VALUE,
    HF_DCP_VERSION,
    _gen_file_name,
)
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future


class StreamingWriter(HuggingFaceStorageWriter):
    """Writes each rank's part from where it lies; needs ``fqn_to_index_mapping`` and ``save_distributed``."""

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        places, shard = plan.storage_data["fqn_to_index_mapping"], plan.storage_data["shard_index"]
        results = []
        for place, items in self._split_by_storage_plan(places, plan.items).items():
            tensors, offsets = {}, {}
            for item in items:
                tensor = planner.resolve_data(item)
                assert isinstance(tensor, Tensor)
                assert item.tensor_data is not None
                tensors[item.index.fqn] = tensor.cpu()
                offsets[item.index.fqn] = {"saved_offsets": item.tensor_data.chunk.offsets}
            about = {
                CUSTOM_METADATA_KEY: json.dumps(offsets),
                DCP_VERSION_KEY: str(HF_DCP_VERSION),
                FORMAT_KEY: FORMAT_VALUE,
            }
            save_file(tensors, Path(self.path) / _gen_file_name(place, max(places.values()), shard), metadata=about)
            sizes = {item.index: tensors[item.index.fqn].nbytes for item in items}
            results += [
                WriteResult(index=index, size_in_bytes=size, storage_data=None) for index, size in sizes.items()
            ]
        done: Future[list[WriteResult]] = Future()
        done.set_result(results)
        return done
