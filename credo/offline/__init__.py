"""Implicit PRMs without reinforcement learning: trained on labelled responses, scored with, measured."""
