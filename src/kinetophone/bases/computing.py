"""Helpers shared by the bases: autoencoders, chunks, tokenizers and devices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

MOST_TOKENS = 512


def encode_latents(vae: Any, x: Tensor) -> Tensor:
    """Encode ``x`` to scaled latents; for a variational autoencoder, the mode of the posterior."""
    out = vae.encode(x)
    z = out.latent_dist.mode() if hasattr(out, "latent_dist") else out.latent
    return z * vae.config.scaling_factor


def decode_latents(vae: Any, z: Tensor, batch: int = 64) -> Tensor:
    """Decode scaled latents, ``batch`` items at a time, in float32; the inverse of :func:`encode_latents`."""
    return torch.cat([vae.decode(part.float() / vae.config.scaling_factor).sample for part in z.split(batch)])


def in_chunks(
    compute: Callable[[Tensor], Tensor], x: Tensor, at_once: int, overlap: int, step: int = 1
) -> Tensor:
    """Compute ``compute(x)`` in chunks along axis 1 (time), so that the working memory is bounded.

    Each chunk is computed with an overlap on either side. Neighbouring chunks are cross-faded around their
    border, over the inner half of the overlap. The outer half is discarded. If the receptive field of the
    network reaches no further than that outer half, the result equals ``compute(x)``. A network that sees
    more (attention, or norms over its whole input) gives a slightly different result, but no step at a
    border.

    Args:
        compute: function from (B, n, …) to (B, n // step · r, …), where r is a whole number.
        x: input (B, N, …).
        at_once: maximal length of a chunk without its overlaps; at least 2 · ``overlap`` and a multiple of
            ``step``. If N is not larger, ``x`` is computed as a whole.
        overlap: length of the overlap on either side; a multiple of ``step``.
        step: number of positions of ``x`` that give r positions of the result.

    Returns:
        The result (B, N // step · r, …).
    """
    total, count = x.shape[1] // step, -(-x.shape[1] // at_once)
    if count == 1:
        return compute(x)
    parts: Tensor | None = None
    borders = [total * k // count * step for k in range(count)] + [x.shape[1]]
    for start, end in pairwise(borders):
        first, last = max(0, start - overlap), min(x.shape[1], end + overlap)
        made = compute(x[:, first:last])
        rate = made.shape[1] // ((last - first) // step)
        if parts is None:
            parts = made.new_zeros(len(made), total * rate, *made.shape[2:])
        at = first + (torch.arange(made.shape[1], device=made.device) + 0.5) * (step / rate)
        weight = torch.ones_like(at)
        if first > 0:
            weight = weight.minimum((at - start) / overlap + 0.5)
        if last < x.shape[1]:
            weight = weight.minimum((end - at) / overlap + 0.5)
        weight = weight.clamp(min=0).view(-1, *[1] * (made.dim() - 2))
        parts[:, first // step * rate :][:, : made.shape[1]] += weight * made
    assert parts is not None
    return parts


def execution_device(network: nn.Module) -> torch.device:
    """Device on which ``network`` computes; its weights may be elsewhere while they are offloaded."""
    for module in network.modules():
        device = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
        if device is not None:
            return torch.device(device)
    return next(network.parameters()).device


def tokenize(tokenizer: Any, texts: list[str], device: torch.device) -> dict[str, Tensor]:
    """Token ids and attention mask (B, S) of ``texts``, padded or cut to the tokenizer's maximal length."""
    tokens = tokenizer(
        texts,
        padding="max_length",
        truncation=True,
        # Tokenizers without a limit have 1e30 here.
        max_length=min(tokenizer.model_max_length, MOST_TOKENS),
        return_tensors="pt",
    )
    return {key: tokens[key].to(device) for key in ("input_ids", "attention_mask")}


def spatial_factor(vae: Any) -> int:
    """Factor by which an image autoencoder shrinks height and width."""
    widths = getattr(vae.config, "block_out_channels", None) or vae.config.encoder_block_out_channels
    return int(2 ** (len(widths) - 1))


def words_of(tokenizer: Any, texts: Sequence[str]) -> Iterator[tuple[str, list[int]]]:
    """Yield every word of ``texts`` as written, with its token ids.

    Args:
        tokenizer: a fast tokenizer; others do not tell which tokens belong to a word.
        texts: texts of any length; they are not truncated.
    """
    # Not verbose, to avoid a warning about long texts. These texts do not go through the text encoder.
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
    """Normalised, sorted words of ``captions``, to be saved as ``words`` in the tokenizer's configuration."""
    return sorted({_normalised(tokenizer, word) for word, _ in words_of(tokenizer, captions)})


def unknown_words(tokenizer: Any, texts: Sequence[str]) -> list[str]:
    """Words of ``texts`` that the text encoder has never seen in training, each once, in order of appearance.

    This is known in two cases: the tokenizer's configuration lists the training ``words``, or the tokenizer
    has a token for unknown words. For tokenizers that build any word from smaller pieces it is not known,
    and the list is empty.
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
