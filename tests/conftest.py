"""Settings for every test: one thread, so that tests run side by side and sums come out the same."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
