"""The paper: pure functions on tensors. They know nothing of models, configs, files or ranks."""
