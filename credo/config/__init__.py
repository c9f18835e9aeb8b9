"""The frozen configuration trees of ``credo sft``, ``credo train`` and ``credo prm train``.

A value out of range and an option that some other option makes inert are errors. Nothing is ever written back into a
configuration. How recipes are read is not known here; this package imports neither torch nor the rest of credo.
"""

from credo.config.launch import LaunchConfig, TrainRecipe
from credo.config.learning import AdvantageConfig, CriticConfig, Estimator, PolicyConfig, PrmConfig, Semantics
from credo.config.prm_training import OfflineConfig, PrmTrainingConfig, PrmTrainingRecipe
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
    TuningCheckpointConfig,
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
from credo.config.sft import DemonstrationConfig, SftConfig, SftRecipe, SftRunConfig
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
    "LaunchConfig",
    "LoraConfig",
    "ModelConfig",
    "OfflineConfig",
    "PolicyConfig",
    "PrmConfig",
    "PrmTrainingConfig",
    "PrmTrainingRecipe",
    "RolloutConfig",
    "RunConfig",
    "SandboxConfig",
    "Semantics",
    "SftConfig",
    "SftRecipe",
    "SftRunConfig",
    "Template",
    "Tracker",
    "TrainConfig",
    "TrainRecipe",
    "TrainingConfig",
    "TuningCheckpointConfig",
    "VerifyConfig",
]
