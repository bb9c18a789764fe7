"""The text encoders of the transformer bases: T5 classes, trained to tell what a caption says.

A language model knows what "twice" means before any base is trained on it. These small encoders learn that
from captions alone: from the hidden states, linear heads tell object, tool, colour, number, tempo and
loudness, each with an answer for "not said".
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kinetophone.data.domains import domain
from kinetophone.hits.scene import MATERIALS, TOOLS
from kinetophone.hits.sixteen.scene import TEMPI
from kinetophone.hits.stages.text import train_tokenizer
from kinetophone.training.recipe import Recipe

_OBJECTS = [noun for nouns, _ in MATERIALS.values() for noun in nouns]
_COLOURS = sorted({colour for _, colours in MATERIALS.values() for colour in colours})
ANSWERS: dict[str, list[Any]] = {
    "object": _OBJECTS,
    "tool": [None, *TOOLS],
    "colour": [None, *_COLOURS],
    "count": [None, *range(8)],
    "tempo": [None, *TEMPI],
    "loudness": [None, "soft", "even", "hard"],
}


class Reader(nn.Module):
    """Logits of every answer from the hidden states (B, S, D) of a caption; a learned query pools them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(len(ANSWERS), width) * width**-0.5)
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(known)) for name, known in ANSWERS.items()})

    def forward(self, states: Tensor, mask: Tensor) -> dict[str, Tensor]:
        scores = states @ self.query.T  # (B, S, questions)
        weights = scores.masked_fill(~mask.bool()[..., None], -torch.inf).softmax(1)
        pooled = weights.transpose(1, 2) @ states
        return {name: head(pooled[:, i]) for i, (name, head) in enumerate(self.heads.items())}


class CaptionText:
    """Trains an encoder on captions of scenes of the training split, each drawn anew."""

    def __init__(self, recipe: Recipe) -> None:
        from transformers import T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel

        self.recipe, options = recipe, recipe.options
        self.folder = Path(recipe.bundle) / options.modality
        self.world = domain(recipe.data.source)
        captions = [self.world.make_scene(recipe.data.split, i)[1] for i in range(recipe.data.count)]
        self.tokenizer = train_tokenizer(captions, options.vocabulary, options.length)
        config, model = (
            (UMT5Config, UMT5EncoderModel) if options.modality == "video" else (T5Config, T5EncoderModel)
        )
        self.encoder = model(
            config(
                vocab_size=len(self.tokenizer), pad_token_id=self.tokenizer.pad_token_id,
                eos_token_id=self.tokenizer.eos_token_id, **recipe.model,
            )
        )  # fmt: skip
        self.reader = Reader(self.encoder.config.d_model)
        self.trained: dict[str, nn.Module] = {"text": self.encoder, "reader": self.reader}

    def _batch(self, indices: np.ndarray) -> tuple[Any, dict[str, Tensor]]:
        scenes = [self.world.describe(self.recipe.data.split, int(i)) for i in indices]
        tokens = self.tokenizer(
            [said.text for _, said in scenes], padding="max_length", truncation=True, return_tensors="pt"
        )
        truth = {
            name: torch.tensor(
                [
                    known.index(scene.noun if name == "object" else getattr(said, name))
                    for scene, said in scenes
                ]
            )
            for name, known in ANSWERS.items()
        }
        return tokens, truth

    def loss(self, rng: np.random.Generator, generator: torch.Generator) -> dict[str, Tensor]:
        tokens, truth = self._batch(rng.integers(self.recipe.data.count, size=self.recipe.loop.batch_size))
        states = self.encoder(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        logits = self.reader(states, tokens.attention_mask)
        losses = [F.cross_entropy(logits[name], truth[name]) for name in ANSWERS]
        right = [(logits[name].argmax(1) == truth[name]).float().mean() for name in ANSWERS]
        return {
            "loss": torch.stack(losses).sum(),
            **{f"{name} right": share for name, share in zip(ANSWERS, right, strict=True)},
        }

    def sample(self, folder: Path, step: int) -> None:
        """No samples; the log shows how often each answer is right."""

    def export(self) -> None:
        self.encoder.save_pretrained(self.folder / "text_encoder")
        self.tokenizer.save_pretrained(self.folder / "tokenizer")
