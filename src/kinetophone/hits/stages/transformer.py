"""What the stages of the transformer bases share: the base around the network, and samples with guidance."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kinetophone.av import AV
from kinetophone.bases.base import Base
from kinetophone.bases.protocol import Denoiser
from kinetophone.data.domains import domain
from kinetophone.data.latents import load_latents
from kinetophone.diffusion.process import Process
from kinetophone.hits.stages.diffusion import PredictionStage
from kinetophone.hub.components import load_component
from kinetophone.training.clips import load_clips
from kinetophone.training.diffusion import save_memory
from kinetophone.training.recipe import Recipe

SHARD = "15MB"  # no file of a bundle is larger
_SAMPLES = 6  # prompts of the samples made while training
_GUIDANCE = 3.0  # of these samples


class TransformerStage(PredictionStage, ABC):
    """Trains a transformer on latents of whole clips, with levels drawn as its process draws them."""

    modality: ClassVar[str]
    family: ClassVar[type[Base]]
    network: ClassVar[type[Any]]  # the class of the transformer
    scheduler: ClassVar[Any]  # its published one, with the settings of the small base

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.folder = recipe, Path(recipe.bundle) / self.modality
        self.device = torch.device(recipe.loop.device)
        frozen = [name for name in self.family.COMPONENTS if name not in ("transformer", "scheduler")]
        components = {name: self._component(name) for name in frozen}
        network = self._component("transformer") if recipe.continued else self.network(**recipe.model)
        self.scheduler.save_pretrained(self.folder / "scheduler")
        family: Any = self.family
        self.base = family(transformer=network.to(self.device), scheduler=self.scheduler, **components)
        clips = load_clips(recipe)
        vaes = AV.both(None).replaced(self.modality, components["vae"])
        self.latents = load_latents(clips, recipe.data.split, Path(recipe.data.cache), vaes)
        self.clean = getattr(self.latents, self.modality)
        if recipe.loop.gradient_checkpointing:
            save_memory([network])
        self.denoiser: Denoiser = self.base.denoiser()
        self.trained: dict[str, nn.Module] = {"transformer": network}

    @property
    def _process(self) -> Process:
        return self.denoiser.process

    def _component(self, name: str) -> Any:
        component = load_component(self.folder, name, self.family.COMPONENTS[name])
        return component.to(self.device) if isinstance(component, nn.Module) else component

    def _text(self, texts: list[str]) -> Any:
        return self.base.encode_prompt(texts, domain(self.recipe.data.source).SECONDS)

    def _predict(self, x: Tensor, level: Tensor, text: Any) -> Tensor:
        return self.denoiser(x, level, text)

    @abstractmethod
    def show(self, latents: Tensor, path: Path) -> None:
        """Decode latents (B, C, …) and write them to ``path``, with the suffix of the format."""

    def sample(self, folder: Path, step: int) -> None:
        make_scene = domain(self.recipe.data.source).make_scene
        prompts = [make_scene("val", i)[1] for i in range(_SAMPLES)]
        (folder / "samples.txt").write_text("\n".join(prompts) + "\n")
        self.show(self._samples(prompts, self.clean.shape[1:], _GUIDANCE), folder / f"sample-{step}")

    def export(self) -> None:
        self.base.transformer.save_pretrained(self.folder / "transformer", max_shard_size=SHARD)
