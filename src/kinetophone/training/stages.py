"""Which class trains which stage."""

from __future__ import annotations

import importlib

import torch

from kinetophone.training.loop import Stage
from kinetophone.training.recipe import Recipe

_STAGES = {
    "video-autoencoder": ("autoencoders", "VideoAutoencoder"),
    "audio-autoencoder": ("autoencoders", "AudioAutoencoder"),
    "clip-text": ("text", "ClipText"),
    "clap-text": ("text", "ClapText"),
    "image": ("video", "ImageStage"),
    "motion": ("video", "MotionStage"),
    "audio": ("audio", "AudioStage"),
    "vocoder": ("vocoder", "VocoderStage"),
    "coupling": ("coupling", "CouplingStage"),
    "picture-classifier": ("classifiers", "PictureClassifier"),
    "sound-classifier": ("classifiers", "SoundClassifier"),
}


def build_stage(recipe: Recipe) -> Stage:
    """Build the recipe's stage; its initial weights follow from the recipe's seed."""
    module, name = _STAGES[recipe.stage]
    torch.manual_seed(recipe.loop.seed)
    stage: Stage = getattr(importlib.import_module(f"kinetophone.training.{module}"), name)(recipe)
    return stage
