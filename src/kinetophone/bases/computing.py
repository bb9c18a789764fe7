"""What every base does with an autoencoder or a text, and where it computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

MOST_TOKENS = 512


def encode_latents(vae: Any, x: Tensor) -> Tensor:
    """Scaled latents of ``x``: the posterior's mode where the autoencoder is variational."""
    out = vae.encode(x)
    z = out.latent_dist.mode() if hasattr(out, "latent_dist") else out.latent
    return z * vae.config.scaling_factor


def decode_latents(vae: Any, z: Tensor, batch: int = 64) -> Tensor:
    """Undo :func:`encode_latents`, ``batch`` items at a time, in float32."""
    return torch.cat([vae.decode(part.float() / vae.config.scaling_factor).sample for part in z.split(batch)])


def in_chunks(
    compute: Callable[[Tensor], Tensor], x: Tensor, at_once: int, beside: int, step: int = 1
) -> Tensor:
    """``compute(x)``, stretch by stretch along axis 1, time: what it needs does not grow with the length.

    A stretch is computed with what lies ``beside`` it; where two meet they fade into each other, and the
    outer half of what lay beside is not used. So a network that sees no further than that half gives what it
    gives of the whole, and one that sees more (norms over its whole input, attention) leaves no edge.

    Args:
        compute: makes (B, n // step · r, …) of (B, n, …), with a whole number r.
        x: (B, N, …).
        at_once: the longest stretch, at least 2 · ``beside``. If N is no more, ``x`` is computed as a whole.
        beside: on either side; like ``at_once`` a multiple of ``step``.
        step: positions of ``x`` that become r of the result.
    """
    total, count = x.shape[1] // step, -(-x.shape[1] // at_once)
    if count == 1:
        return compute(x)
    parts: Tensor | None = None
    borders = [total * k // count * step for k in range(count)] + [x.shape[1]]
    for start, end in pairwise(borders):
        first, last = max(0, start - beside), min(x.shape[1], end + beside)
        made = compute(x[:, first:last])
        rate = made.shape[1] // ((last - first) // step)
        if parts is None:
            parts = made.new_zeros(len(made), total * rate, *made.shape[2:])
        at = first + (torch.arange(made.shape[1], device=made.device) + 0.5) * (step / rate)
        weight = torch.ones_like(at)
        if first > 0:
            weight = weight.minimum((at - start) / beside + 0.5)
        if last < x.shape[1]:
            weight = weight.minimum((end - at) / beside + 0.5)
        weight = weight.clamp(min=0).view(-1, *[1] * (made.dim() - 2))
        parts[:, first // step * rate :][:, : made.shape[1]] += weight * made
    assert parts is not None
    return parts


def execution_device(network: nn.Module) -> torch.device:
    """Where ``network`` computes: not where its weights are while they are offloaded."""
    for module in network.modules():
        device = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
        if device is not None:
            return torch.device(device)
    return next(network.parameters()).device


def tokenize(tokenizer: Any, texts: list[str], device: torch.device) -> dict[str, Tensor]:
    """Token ids and mask, padded to the tokenizer's full length."""
    tokens = tokenizer(
        texts,
        padding="max_length",
        truncation=True,
        # Some tokenizers name no limit, which reads as 1e30.
        max_length=min(tokenizer.model_max_length, MOST_TOKENS),
        return_tensors="pt",
    )
    return {key: tokens[key].to(device) for key in ("input_ids", "attention_mask")}


def spatial_factor(vae: Any) -> int:
    """By how much an autoencoder of images shrinks a side."""
    widths = getattr(vae.config, "block_out_channels", None) or vae.config.encoder_block_out_channels
    return int(2 ** (len(widths) - 1))


def words_of(tokenizer: Any, texts: Sequence[str]) -> Iterator[tuple[str, list[int]]]:
    """Every word of ``texts`` as it is written there, with its tokens.

    Args:
        tokenizer: a fast one: others do not say which tokens make a word.
        texts: of any length; nothing is cut.
    """
    # Not verbose: the texts are not for the encoder, which would refuse longer ones.
    encodings = tokenizer(list(texts), add_special_tokens=False, verbose=False).encodings
    for text, encoding in zip(texts, encodings, strict=True):
        tokens: dict[int, list[int]] = {}
        for token, number in zip(encoding.ids, encoding.word_ids, strict=True):
            if number is not None:
                tokens.setdefault(number, []).append(token)
        for number, ids in tokens.items():
            start, end = encoding.word_to_chars(number)
            word = text[start:end].strip()
            if any(map(str.isalnum, word)):
                yield word, ids


def seen_words(tokenizer: Any, captions: Sequence[str]) -> list[str]:
    """The words of ``captions``, normalised and sorted: ``words`` of the configuration of their tokenizer."""
    return sorted({_normalised(tokenizer, word) for word, _ in words_of(tokenizer, captions)})


def unknown_words(tokenizer: Any, texts: Sequence[str]) -> list[str]:
    """Words of ``texts`` that a text encoder has never seen, once each, in the order in which they come.

    A tokenizer says so if its configuration lists the ``words`` it was trained with, or if it has a token for
    what it does not know. Of those that make any word of smaller pieces nothing can be said.
    """
    if not getattr(tokenizer, "is_fast", False):
        return []
    seen, unknown = tokenizer.init_kwargs.get("words"), tokenizer.unk_token_id
    return list(
        dict.fromkeys(
            word
            for word, ids in words_of(tokenizer, texts)
            if unknown in ids or (seen is not None and _normalised(tokenizer, word) not in seen)
        )
    )


def _normalised(tokenizer: Any, word: str) -> str:
    normalizer = tokenizer.backend_tokenizer.normalizer
    return word if normalizer is None else normalizer.normalize_str(word)
