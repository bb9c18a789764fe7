"""The two text encoders, trained with contrastive losses: CLIP-type with frames, CLAP-type with audio.

The image and audio towers are small. They are only saved in the run's checkpoints, not in the bundle.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kinetophone.bases.computing import seen_words
from kinetophone.data.latents import CAPTIONS_PER_CLIP, load_captions
from kinetophone.training.clips import load_clips
from kinetophone.training.recipe import Recipe

BOS, EOS, PAD, UNK = "<s>", "</s>", "<pad>", "<unk>"


def train_tokenizer(captions: list[str], vocabulary: int, length: int) -> Any:
    """Train a byte-level BPE tokenizer of lower-case text.

    Args:
        captions: Training texts.
        vocabulary: Number of tokens.
        length: Maximum number of tokens per caption.

    Returns:
        The tokenizer. It accepts any input; known words have a single token.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token=UNK))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[BOS, PAD, EOS, UNK], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(captions, trainer)
    ends = [(t, tokenizer.token_to_id(t)) for t in (BOS, EOS)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A {EOS}", special_tokens=ends)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD, unk_token=UNK,
        model_max_length=length, model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    # With these it can say which words of a prompt are new to it: by its tokens any word could be known.
    fast.init_kwargs["words"] = seen_words(fast, captions)
    return fast


def _tower(in_channels: int, width: int, out: int, kernel: tuple[int, int]) -> nn.Sequential:
    """Three strided convolutions and a linear layer on flattened features, which keeps positions distinct."""
    layers: list[nn.Module] = []
    for i in range(3):
        channels = in_channels if i == 0 else width
        layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.GroupNorm(8, width), nn.SiLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * kernel[0] * kernel[1], out))


class TextContrast(ABC):
    """Trains with symmetric InfoNCE between captions and ``_views`` of their clips; learned temperature."""

    folder: str

    def __init__(self, recipe: Recipe, tower: nn.Module) -> None:
        self.recipe = recipe
        self.clips = load_clips(recipe)
        captions = load_captions(self.clips, recipe.data.split, Path(recipe.data.cache))
        options = recipe.options
        self.tokenizer = train_tokenizer(
            [c for four in captions for c in four], options.vocabulary, options.length
        )
        self.encoder = self._build(len(self.tokenizer))
        tokens = self.tokenizer(
            [c for four in captions for c in four], padding="max_length", return_tensors="pt"
        )
        self.ids = tokens["input_ids"].view(len(captions), CAPTIONS_PER_CLIP, -1)
        self.mask = tokens["attention_mask"].view(len(captions), CAPTIONS_PER_CLIP, -1)
        self.tower = tower
        self.temperature = nn.ParameterList([nn.Parameter(torch.tensor(2.0))])
        self.trained = {"text": self.encoder, "tower": tower, "temperature": self.temperature}

    @abstractmethod
    def _build(self, vocabulary: int) -> Any: ...

    @abstractmethod
    def _text(self, ids: Tensor, mask: Tensor) -> Tensor: ...

    @abstractmethod
    def _views(self, index: np.ndarray, rng: np.random.Generator) -> Tensor: ...

    def loss(self, rng: np.random.Generator, generator: torch.Generator) -> dict[str, Tensor]:
        batch = self.recipe.loop.batch_size
        index = rng.choice(len(self.clips), size=batch, replace=False)
        pick = rng.integers(CAPTIONS_PER_CLIP, size=batch)
        text = F.normalize(self._text(self.ids[index, pick], self.mask[index, pick]), dim=-1)
        view = F.normalize(self.tower(self._views(index, rng)), dim=-1)
        logits = text @ view.T * self.temperature[0].exp().clamp(max=50)
        target = torch.arange(batch)
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        return {"loss": loss, "recall@1": (logits.argmax(1) == target).float().mean()}

    def sample(self, folder: Path, step: int) -> None:  # noqa: B027
        """No samples; the logged recall shows how well captions retrieve their clips."""

    def export(self) -> None:
        root = Path(self.recipe.bundle) / self.folder
        self.encoder.save_pretrained(root / "text_encoder")
        self.tokenizer.save_pretrained(root / "tokenizer")


class ClipText(TextContrast):
    """CLIP-type text model, trained with single frames at 32 x 32."""

    folder = "video"

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe, _tower(3, 64, recipe.model["projection_dim"], (4, 4)))

    def _build(self, vocabulary: int) -> Any:
        from transformers import CLIPTextConfig, CLIPTextModelWithProjection

        ids = {f"{k}_token_id": getattr(self.tokenizer, f"{k}_token_id") for k in ("bos", "eos", "pad")}
        length = self.tokenizer.model_max_length
        config = CLIPTextConfig(
            vocab_size=vocabulary, max_position_embeddings=length, **ids, **self.recipe.model
        )
        return CLIPTextModelWithProjection(config)

    def _text(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.encoder(input_ids=ids).text_embeds

    def _views(self, index: np.ndarray, rng: np.random.Generator) -> Tensor:
        frames = [self.clips.video[i, int(rng.integers(self.clips.video.shape[1]))] for i in index]
        small = [cv2.resize(f, (32, 32), interpolation=cv2.INTER_AREA) for f in frames]
        return torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float().div(127.5).sub(1)


class ClapText(TextContrast):
    """CLAP-type text model, trained with the log-mel of entire clips, averaged to (100, 16)."""

    folder = "audio"

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe, _tower(1, 64, recipe.model["projection_dim"], (13, 2)))

    def _build(self, vocabulary: int) -> Any:
        from transformers import ClapTextConfig, ClapTextModelWithProjection

        ids = {f"{k}_token_id": getattr(self.tokenizer, f"{k}_token_id") for k in ("bos", "eos", "pad")}
        # RoBERTa's position ids start at pad_token_id + 1.
        length = self.tokenizer.model_max_length + self.tokenizer.pad_token_id + 1
        config = ClapTextConfig(
            vocab_size=vocabulary, max_position_embeddings=length, **ids, **self.recipe.model
        )
        return ClapTextModelWithProjection(config)

    def _text(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.encoder(input_ids=ids, attention_mask=mask).text_embeds

    def _views(self, index: np.ndarray, rng: np.random.Generator) -> Tensor:
        mel = torch.from_numpy(np.stack([self.clips.mel[i] for i in index])).float()[:, None]
        # Random shifts, because captions do not depend on the start of a clip.
        mel = F.avg_pool2d(mel, 4).roll(int(rng.integers(-5, 6)), dims=2)
        return mel.add(9.5).div(3)
