"""The latent cache: clips encoded once with the frozen autoencoders, with several captions each.

Latents are float16 and scaled as their base expects them: video (N, C, T, h, w), audio (N, C, L, M) or
(N, C, L). Each modality is one ``.npy`` file. Its name has the hash of its key: of the clips' own key, the
autoencoder and its dtype.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan, AutoencoderOobleck
from torch import Tensor

from kinetophone.av import AV, MODALITIES
from kinetophone.bases.autoencoders import PatchAutoencoder, SpectralAutoencoder
from kinetophone.bases.computing import encode_latents
from kinetophone.bases.stable_audio import encode_waveform
from kinetophone.bases.wan import encode_frames
from kinetophone.data.arrays import ClipArrays
from kinetophone.data.domains import domain
from kinetophone.files import write_json, writing
from kinetophone.keys import digest, key
from kinetophone.locks import sole_maker
from kinetophone.progress import track

CAPTIONS_PER_CLIP = 4
_CLIPS_AT_ONCE = 8
_VERSION = 1  # to be increased when the same clips give other latents
DECODER = ("decoder.", "decoder_", "post_quant_conv.")  # prefixes of the decoder's parameters


@dataclass(frozen=True)
class LatentArrays:
    """Encoded clips; ``captions[i]`` are alternative captions of clip i."""

    video: Any  # a NumPy array, or an object that returns one when indexed with an array
    audio: Any
    captions: list[list[str]]
    strikes_s: list[list[float]]  # or times of other events

    def __len__(self) -> int:
        return len(self.captions)

    def draw(self, rng: np.random.Generator, batch: int) -> tuple[np.ndarray, list[str]]:
        """Draw the indices of a batch, (batch,), and a caption for each."""
        index = rng.integers(len(self), size=batch)
        texts = [self.captions[i][int(rng.integers(len(self.captions[i])))] for i in index]
        return index, texts

    def only(self, index: list[int]) -> LatentArrays:
        """A subset: the clips with these indices."""
        return LatentArrays(
            self.video[index],
            self.audio[index],
            [self.captions[i] for i in index],
            [self.strikes_s[i] for i in index],
        )


def load_captions(clips: ClipArrays, split: str, folder: Path) -> list[list[str]]:
    """Captions of each clip, its own first; cached in ``folder``."""
    world = domain(clips.domain)
    made_by = key(
        "captions", world.VERSION, domain=clips.domain, split=split, count=len(clips), each=CAPTIONS_PER_CLIP
    )
    path = folder / f"{clips.domain}-captions-{split}-{len(clips)}-{digest(made_by)}.json"
    if not path.exists():
        write_json([world.captions_of(split, i, CAPTIONS_PER_CLIP) for i in range(len(clips))], path)
    return json.loads(path.read_text())


def fingerprint(vae: Any) -> str:
    """Hash of what an autoencoder makes latents with, eight hex digits: its weights and its configuration.

    The decoder is excluded, because it does not affect latents and may be trained further.
    """
    hashed = hashlib.sha256()
    settings = {name: value for name, value in vae.config.items() if not name.startswith(("_", "decoder"))}
    hashed.update(json.dumps(settings, sort_keys=True, default=list).encode())
    for name, tensor in vae.state_dict().items():
        if name.startswith(DECODER):
            continue
        hashed.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return hashed.hexdigest()[:8]


def load_latents(clips: ClipArrays, split: str, folder: Path, vaes: AV[Any]) -> LatentArrays:
    """Encode ``clips`` with a pair of autoencoders, or load the result if it is cached in ``folder``.

    A modality whose autoencoder is None is left empty, (N, 0), for training a base on its own.

    Returns:
        The latents, with the captions and event times of the clips.
    """
    empty = np.zeros((len(clips), 0), np.float16)
    places = AV(*(folder / f"{clips.domain}-latents-{name}-{split}-{len(clips)}" for name in MODALITIES))
    video = empty if vaes.video is None else _cached(vaes.video, clips, places.video)
    audio = empty if vaes.audio is None else _cached(vaes.audio, clips, places.audio)
    moments = [clips.moments_s(i) for i in range(len(clips))]
    return LatentArrays(video, audio, load_captions(clips, split, folder), moments)


def _cached(vae: Any, clips: ClipArrays, place: Path) -> np.ndarray:
    made_by = key(
        "latents", _VERSION, clips=clips.made_by, autoencoder=fingerprint(vae), dtype=str(vae.dtype)
    )
    path = place.with_name(f"{place.name}-{digest(made_by)}.npy")
    if not path.exists():
        with sole_maker(path):
            if not path.exists():  # another run may have made it while this one waited
                _encode(vae.eval(), clips, path, place.name)
    return np.load(path)


def _encode(vae: Any, clips: ClipArrays, path: Path, what: str) -> None:
    generator = torch.Generator().manual_seed(0)
    starts = range(0, len(clips), _CLIPS_AT_ONCE)
    parts = [
        _encoded(vae, clips, slice(start, start + _CLIPS_AT_ONCE), generator).half().cpu().numpy()
        for start in track(starts, len(starts), f"encoding {what}")
    ]
    with writing(path) as file:
        np.save(file, np.concatenate(parts))


@torch.no_grad()
def _encoded(vae: Any, clips: ClipArrays, some: slice, generator: torch.Generator) -> Tensor:
    """Latents of some clips, by the kind of their autoencoder."""
    if isinstance(vae, (AutoencoderKLWan, PatchAutoencoder)):
        return encode_frames(vae, torch.from_numpy(np.array(clips.video[some])))
    if isinstance(vae, (AutoencoderOobleck, SpectralAutoencoder)):
        sound = torch.from_numpy(clips.waveforms(some, int(vae.config.sampling_rate)))
        return encode_waveform(vae, sound, generator)
    vae = vae.to(memory_format=torch.channels_last)
    images = vae.config.in_channels == 3
    x = torch.from_numpy(np.array((clips.video if images else clips.mel)[some]))
    z = encode_latents(vae, _as_images(x, images))
    return z.unflatten(0, (len(x), -1)).transpose(1, 2) if images else z


def _as_images(x: Tensor, video: bool) -> Tensor:
    images = x.flatten(0, 1).permute(0, 3, 1, 2).float().div(127.5).sub(1) if video else x.float()[:, None]
    return images.contiguous(memory_format=torch.channels_last)
