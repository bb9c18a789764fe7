"""The joint model: two base networks, attached to one another by a coupling.

The bases are neither edited nor re-implemented. Forward hooks behind named modules (the *sites*) pass what
each returns through an inserted block while a feature is set, and do nothing otherwise, so a base keeps
working alone.

Shape legend: B batch; latents (B, C, T, …) with their own T each; N tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from kinetophone.av import AV, MODALITIES
from kinetophone.bases.protocol import Conditioning, Denoiser, Site, Times
from kinetophone.coupling.coupling import Coupling
from kinetophone.coupling.times import SiteTimes


@dataclass(frozen=True, slots=True)
class _Signal:
    """What conditions one network during one forward pass."""

    feature: Tensor  # made from the other modality
    coupled: Tensor | None  # (B,) bool; None: every sample
    steps: int  # of its latent along time
    times: tuple[Times, Times] | None  # of the latents, its own and the other's


# The forward pass that this thread is in: of which model, and what conditions its networks. A variable of the
# call rather than an attribute of the model: threads that share a model must not see one another's features,
# nor must two models that share a base.
_Call = tuple["JointModel", AV[_Signal | None]]
_CALL: ContextVar[_Call | None] = ContextVar("kinetophone_call", default=None)


class JointModel(nn.Module):
    """Prediction for an audio latent and a video latent that belong together.

    Args:
        denoisers: the bases' networks with their processes. The networks get forward hooks and are otherwise
            unmodified.
        coupling: connectors and inserted blocks made for these networks.

    Raises:
        RequestError: if the coupling was made for others.
    """

    def __init__(self, denoisers: AV[Denoiser], coupling: Coupling) -> None:
        super().__init__()
        coupling.check(denoisers)
        self.denoisers = denoisers
        # Registered, so that moving or saving the model takes the networks along.
        self.network_audio: Any = denoisers.audio.network
        self.network_video: Any = denoisers.video.network
        self.coupling = coupling
        self._handles: list[RemovableHandle] = []
        for modality in MODALITIES:
            denoiser = getattr(denoisers, modality)
            found = {site.path: site for site in denoiser.sites()}
            for path, name in coupling.inserted(modality).items():
                site = found[path]
                # partial, not a closure: copy.deepcopy copies a partial's arguments, so that the hooks of a
                # copied model serve the copy. A closure would keep serving the original, and the copy (an
                # EMA model, say) would silently run uncoupled.
                if coupling.in_place:
                    module = denoiser.network.get_submodule(f"{path}.{site.attention}")
                    hook = partial(_before_attention, self, modality, site, name)
                    self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
                else:
                    module = denoiser.network.get_submodule(path)
                    hook = partial(_behind_block, self, modality, site, name)
                    self._handles.append(module.register_forward_hook(hook))

    @property
    def networks(self) -> AV[Any]:
        """The two base networks."""
        return AV(audio=self.network_audio, video=self.network_video)

    @property
    def dtype(self) -> torch.dtype:
        """Of the latents that it takes."""
        return self.coupling.dtype

    def detach(self) -> None:
        """Remove the hooks from the bases for good; this model predicts uncoupled from then on."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @apply_forward_hook  # an offloaded model comes to its device before this, as before forward
    def features(self, latents: AV[Tensor], levels: AV[Tensor], x0_hat: AV[Tensor] | None) -> AV[Tensor]:
        """Run both connectors. ``features.audio`` is made *from* audio and conditions the *video* network.

        Args:
            latents: noisy latents, audio (B, C, L, M), video (B, C, T, H, W).
            levels: noise level (B,) of each latent, float64 on the CPU; in training they may differ from
                those that the networks are given.
            x0_hat: the last estimate of the clean latents (self-conditioning), or None.

        Returns:
            Features for :meth:`forward`, as :meth:`Coupling.features` gives them.
        """
        embeddings = self.denoisers.map(lambda denoiser, level: denoiser.embed_time(level), levels)
        return self.coupling.features(latents, embeddings, x0_hat)

    def forward(
        self,
        latents: AV[Tensor],
        levels: AV[Tensor],
        text: AV[Conditioning],
        features: AV[Tensor] | None = None,
        coupled: AV[Tensor | None] | None = None,
        only: str | None = None,
        times: AV[Times] | None = None,
    ) -> AV[Tensor]:
        """Both networks' outputs.

        The networks do not see one another here, only the features, so the two batch sizes may differ, as in
        guidance of one modality alone; each must match the feature that conditions it.

        Args:
            latents: noisy latents, audio (B, C, L, M), video (B, C, T, H, W), of shapes that the networks
                take: pad with zeros before noise is added, cut after generation.
            levels: noise level (B,) of each latent, float64 on the CPU.
            text: what each base is told of the texts.
            features: from :meth:`features`; None switches the coupling off, leaving exactly the bases.
            coupled: per network, bool (B,); where False, its inserted blocks contribute nothing to that
                sample.
            only: "audio" or "video": run that network alone, as where the other modality is given.
            times: of each modality's latents; a coupling with the alignment "seconds" needs them.

        Returns:
            Outputs in the shapes of ``latents``; zeros for a network that was not run.

        Raises:
            ValueError: if shapes do not fit one another or the networks.
        """
        self._check_shapes(latents, levels, text, features, coupled)
        masks: AV[Tensor | None] = AV.both(None) if coupled is None else coupled
        signals: AV[_Signal | None] = AV.both(None)
        if features is not None:
            known = self._times(times)
            signals = features.swap().map(
                lambda feature, mask, x, own, other: _Signal(
                    feature, mask, x.shape[2], None if own is None else (own, other)
                ),
                masks,
                latents,
                known,
                known.swap(),
            )
        if torch.is_grad_enabled():
            _keep_calls(self)
        with _calling((self, signals)):
            outputs: AV[Tensor] = latents.map(torch.zeros_like)
            for modality in MODALITIES:
                if only in (None, modality):
                    inputs = (getattr(pair, modality) for pair in (latents, levels, text))
                    output = getattr(self.denoisers, modality)(*inputs)
                    outputs = outputs.replaced(modality, output)
            return outputs

    def _times(self, times: AV[Times] | None) -> AV[Times | None]:
        config = self.coupling.config
        if config.alignment == "stretched" or config.coupling == "cross_attention":  # one token has no time
            return AV.both(None)
        if times is None:
            raise ValueError("the coupling aligns by seconds: give times, those of each modality's latents")
        return AV(times.audio, times.video)

    def _check_shapes(
        self,
        latents: AV[Tensor],
        levels: AV[Tensor],
        text: AV[Conditioning],
        features: AV[Tensor] | None,
        coupled: AV[Tensor | None] | None,
    ) -> None:
        for modality in MODALITIES:
            x, denoiser = getattr(latents, modality), getattr(self.denoisers, modality)
            if x.dim() != denoiser.latent_dims:
                dims = {5: "(B, C, T, H, W)", 4: "(B, C, L, M)", 3: "(B, C, L)"}[denoiser.latent_dims]
                raise ValueError(f"{modality} latents have shape {tuple(x.shape)}, expected {dims}")
            given = {"levels": [getattr(levels, modality)], "text": tree_leaves(getattr(text, modality))}
            if features is not None:
                given["features made from the other modality"] = [getattr(features.swap(), modality)]
            if coupled is not None and getattr(coupled, modality) is not None:
                given["coupled"] = [getattr(coupled, modality)]
            for name, values in given.items():
                for value in values:
                    if value.dim() == 0 or value.shape[0] != x.shape[0]:
                        raise ValueError(
                            f"{modality} {name} have shape {tuple(value.shape)}, but the batch of {modality} "
                            f"latents is {x.shape[0]}"
                        )
            denoiser.check(x)


def _behind_block(
    model: JointModel, modality: str, site: Site, name: str, module: nn.Module, args: Any, output: Any
) -> Any:
    """Forward hook: what a site's module returns, conditioned; None (leave it) while no feature is set."""
    conditioned = _conditioned(model, modality, site, name, site.read(output))
    return None if conditioned is None else site.write(output, conditioned)


def _before_attention(
    model: JointModel,
    modality: str,
    site: Site,
    name: str,
    module: nn.Module,
    args: tuple[Any, ...],
    options: dict[str, Any],
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Forward pre-hook: the input of a block's self-attention, conditioned; None while no feature is set."""
    x = args[0] if args else options["hidden_states"]
    conditioned = _conditioned(model, modality, site, name, x)
    if conditioned is None:
        return None
    return ((conditioned, *args[1:]), options) if args else (args, {**options, "hidden_states": conditioned})


def _conditioned(model: JointModel, modality: str, site: Site, name: str, x: Tensor) -> Tensor | None:
    """What a site holds, conditioned by the feature of the call; None where there is none."""
    call = _CALL.get()
    if call is None or call[0] is not model:
        return None
    signal = getattr(call[1], modality)
    if signal is None:
        return None
    denoiser = getattr(model.denoisers, modality)
    rows = denoiser.steps_at(site, x, signal.steps)
    times = None
    if signal.times is not None:
        own, other = signal.times
        times = SiteTimes.of(own, rows, other, signal.feature.shape[2])
    tokens = to_tokens(site, x, rows, denoiser.per_frame)
    conditioned = model.coupling.condition(name, tokens, signal.feature, denoiser.per_frame, times)
    if signal.coupled is not None:
        # Selecting, rather than weighting by 0, makes "off" exact; computing all samples keeps every
        # parameter in the graph, as distributed training needs.
        conditioned = torch.where(signal.coupled.to(x.device)[:, None, None, None], conditioned, tokens)
    return from_tokens(site, conditioned, x, denoiser.per_frame)


def to_tokens(site: Site, x: Tensor, rows: int, per_frame: bool) -> Tensor:
    """What a site holds as tokens (B, R, S, C): R steps along time, of S positions each."""
    if site.layout == "tokens":
        return x[:, site.prefix :].unflatten(1, (rows, -1))
    if per_frame:  # images (B·R, C, H, W)
        return x.unflatten(0, (-1, rows)).flatten(3).transpose(2, 3)
    return x.permute(0, 2, 3, 1)  # a map (B, C, R, M)


def from_tokens(site: Site, tokens: Tensor, x: Tensor, per_frame: bool) -> Tensor:
    """Undo :func:`to_tokens`; ``x`` is what the tokens were made of."""
    if site.layout == "tokens":
        return torch.cat([x[:, : site.prefix], tokens.flatten(1, 2)], dim=1)
    if per_frame:
        return tokens.transpose(2, 3).unflatten(3, x.shape[2:]).flatten(0, 1)
    return tokens.permute(0, 3, 1, 2)


@contextmanager
def _calling(call: _Call | None) -> Iterator[None]:
    token = _CALL.set(call)
    try:
        yield
    finally:  # also after an error, lest a base on its own be conditioned by a stale feature
        _CALL.reset(token)


class _InCall:
    """A network's gradient checkpointing that computes a block again in the call that it was computed in.

    The backward pass runs the block, and the hooks behind it, when the call is long over, maybe in another
    thread. Outside of a call it does what it did.
    """

    def __init__(self, checkpoint: Callable[..., Any]) -> None:
        self.checkpoint = checkpoint

    def __call__(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        call = _CALL.get()

        def again(*given: Any, **more: Any) -> Any:
            with _calling(call):
                return function(*given, **more)

        return self.checkpoint(again, *args, **options)


def _keep_calls(model: JointModel) -> None:
    for network in (model.network_audio, model.network_video):
        for module in network.modules():
            checkpoint = getattr(module, "_gradient_checkpointing_func", None)
            if checkpoint is not None and not isinstance(checkpoint, _InCall):
                module._gradient_checkpointing_func = _InCall(checkpoint)
