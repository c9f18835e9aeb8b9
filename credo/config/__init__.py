"""The frozen configuration trees of ``credo sft`` and ``credo train``.

A value out of range and an option that some other option makes inert are errors. Nothing is ever written back into a
configuration. How recipes are read is not known here; this package imports neither torch nor the rest of credo.
"""

from credo.config.learning import AdvantageConfig, CriticConfig, Estimator, PolicyConfig, PrmConfig, Semantics
from credo.config.running import (
    ArchitectureConfig,
    CheckpointConfig,
    EvaluationConfig,
    InstrumentsConfig,
    LoraConfig,
    ModelConfig,
    RunConfig,
    Tracker,
    TrainingConfig,
)
from credo.config.sampling import (
    DataConfig,
    Extract,
    FilterConfig,
    RolloutConfig,
    SandboxConfig,
    Template,
    VerifyConfig,
)
from credo.config.sft import DemonstrationConfig, SftConfig
from credo.config.train import TrainConfig

__all__ = [
    "AdvantageConfig",
    "ArchitectureConfig",
    "CheckpointConfig",
    "CriticConfig",
    "DataConfig",
    "DemonstrationConfig",
    "Estimator",
    "EvaluationConfig",
    "Extract",
    "FilterConfig",
    "InstrumentsConfig",
    "LoraConfig",
    "ModelConfig",
    "PolicyConfig",
    "PrmConfig",
    "RolloutConfig",
    "RunConfig",
    "SandboxConfig",
    "Semantics",
    "SftConfig",
    "Template",
    "Tracker",
    "TrainConfig",
    "TrainingConfig",
    "VerifyConfig",
]
