"""The joint model: two base networks, connected by a coupling.

The bases are neither edited nor re-implemented. Named modules (the *sites*) get forward hooks. While a
feature is set, a hook passes the module's output through an inserted block. Otherwise it does nothing, so a
base still works on its own.

Shape legend: B batch; latents (B, C, T, …), where T differs between audio and video; R steps of a site along
time, S positions per step; N tokens.
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
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.hooks import RemovableHandle

from kinetophone.av import AV, MODALITIES
from kinetophone.bases.protocol import Conditioning, Denoiser, Site, Times
from kinetophone.coupling.coupling import Coupling
from kinetophone.coupling.times import SiteTimes
from kinetophone.diffusion.guidance import Branches


@dataclass(frozen=True, slots=True)
class _Signal:
    """What conditions one network during one forward pass."""

    feature: Tensor  # made from the other modality
    coupled: Tensor | None  # (B,) bool, which samples are conditioned; None: all
    steps: int  # steps of its own latent along time
    times: tuple[Times, Times] | None  # times of its own latent and of the other modality's


@dataclass(frozen=True, slots=True)
class _Call:
    """The current forward pass: its model, and what the two networks get beside their inputs."""

    model: JointModel
    signals: AV[_Signal | None]
    branches: AV[Branches | None]
    sizes: AV[tuple[int, int]]  # of the latents: batch, and steps along time


# A context variable, not an attribute of the model, because threads that share a model must not see one
# another's features. The same is true for two models that share a base.
_CALL: ContextVar[_Call | None] = ContextVar("kinetophone_call", default=None)


class JointModel(nn.Module):
    """Joint prediction for an audio latent and a video latent of the same clip.

    Args:
        denoisers: the bases' networks with their noise processes. The networks get forward hooks and are
            otherwise unmodified.
        coupling: the coupling, made for these networks.

    Raises:
        RequestError: if the coupling was made for other networks.
    """

    def __init__(self, denoisers: AV[Denoiser], coupling: Coupling) -> None:
        super().__init__()
        coupling.check(denoisers)
        self.denoisers = denoisers
        # Registered as submodules, so that moving or saving the model includes the networks.
        self.network_audio: Any = denoisers.audio.network
        self.network_video: Any = denoisers.video.network
        self.coupling = coupling
        self._handles: list[RemovableHandle] = []
        for modality in MODALITIES:
            denoiser = getattr(denoisers, modality)
            found = {site.path: site for site in denoiser.sites()}
            # These come first: the block of the first site takes what the module there gives to all branches.
            before = denoiser.shared(coupling.sites(modality)[0].path)
            outer = tuple(f"{shared.path}." for shared in before if shared.sees == "conditioning")
            for shared in before:
                module = denoiser.network.get_submodule(shared.path)
                sharing = partial(_sharing, self, modality, shared.sees, shared.path.startswith(outer))
                narrow, widen = partial(_narrowed, sharing), partial(_widened, sharing)
                self._handles.append(module.register_forward_pre_hook(narrow, with_kwargs=True))
                self._handles.append(module.register_forward_hook(widen))
            for inserted in coupling.sites(modality):
                path, name, site = inserted.path, inserted.name, found[inserted.path]
                # partial, not a closure: copy.deepcopy copies the arguments of a partial, so the hooks of a
                # copied model refer to the copy. A closure would still refer to the original, and the copy
                # (for example an EMA model) would silently run uncoupled.
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
        """Dtype of the latents that the model takes."""
        return self.coupling.dtype

    def detach(self) -> None:
        """Permanently remove the hooks from the bases. From then on this model predicts uncoupled."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @apply_forward_hook  # moves an offloaded model to its device first, as for forward
    def features(self, latents: AV[Tensor], levels: AV[Tensor], x0_hat: AV[Tensor] | None) -> AV[Tensor]:
        """Run both connectors. ``features.audio`` is made *from* audio and conditions the *video* network.

        Args:
            latents: noisy latents, audio (B, C, L, M), video (B, C, T, H, W).
            levels: noise level (B,) of each latent, float64 on the CPU. In training they may differ from
                the levels that the networks get.
            x0_hat: the last estimate of the clean latents (self-conditioning), or None.

        Returns:
            Features for :meth:`forward`, as returned by :meth:`Coupling.features`.
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
        branches: AV[Branches] | None = None,
    ) -> AV[Tensor]:
        """Run both networks.

        Here the networks depend on the features but not on one another. So the two batch sizes may differ, as
        in guidance of only one modality. The batch size of each network must match that of the feature that
        conditions it.

        Args:
            latents: noisy latents, audio (B, C, L, M), video (B, C, T, H, W), in shapes that the networks
                take: pad with zeros before adding noise, and cut after generation.
            levels: noise level (B,) of each latent, float64 on the CPU.
            text: text conditioning of each base.
            features: from :meth:`features`; None switches the coupling off, so that the bases run unchanged.
            coupled: per network, bool (B,): samples with False are not conditioned. None conditions all.
            only: "audio" or "video": run only that network, for example if the other modality is given.
            times: times of each modality's latent steps; required with the alignment "seconds".
            branches: per network, if its batch consists of branches of guidance. What they share is computed
                once, and ``features`` are those of the coupled branches.

        Returns:
            Outputs in the shapes of ``latents``; zeros for a network that was not run.

        Raises:
            ValueError: if shapes do not match one another or the networks, or if ``times`` are missing.
        """
        self._check_shapes(latents, levels, text, features, coupled, branches)
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
        sizes: AV[tuple[int, int]] = latents.map(lambda x: (x.shape[0], x.shape[2]))
        with _calling(_Call(self, signals, branches or AV.both(None), sizes)):
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
            raise ValueError(
                "the coupling's alignment is 'seconds': give times, those of each modality's latent steps"
            )
        return AV(times.audio, times.video)

    def _check_shapes(
        self,
        latents: AV[Tensor],
        levels: AV[Tensor],
        text: AV[Conditioning],
        features: AV[Tensor] | None,
        coupled: AV[Tensor | None] | None,
        branches: AV[Branches] | None,
    ) -> None:
        for modality in MODALITIES:
            x, denoiser = getattr(latents, modality), getattr(self.denoisers, modality)
            if x.dim() != denoiser.latent_dims:
                dims = {5: "(B, C, T, H, W)", 4: "(B, C, L, M)", 3: "(B, C, L)"}[denoiser.latent_dims]
                raise ValueError(f"{modality} latents have shape {tuple(x.shape)}, expected {dims}")
            given = {"levels": [getattr(levels, modality)], "text": tree_leaves(getattr(text, modality))}
            batch = dict.fromkeys(given, x.shape[0])
            if coupled is not None and getattr(coupled, modality) is not None:
                given["coupled"], batch["coupled"] = [getattr(coupled, modality)], x.shape[0]
            if features is not None:
                name, own = "features made from the other modality", branches and getattr(branches, modality)
                given[name] = [getattr(features.swap(), modality)]
                batch[name] = x.shape[0] // len(own.texts) * own.coupled if own else x.shape[0]
            for name, values in given.items():
                for value in values:
                    if value.dim() == 0 or value.shape[0] != batch[name]:
                        raise ValueError(
                            f"{modality} {name} have shape {tuple(value.shape)}, but the batch of {modality} "
                            f"latents is {batch[name]}"
                        )
            denoiser.check(x)


def _behind_block(
    model: JointModel, modality: str, site: Site, name: str, module: nn.Module, args: Any, output: Any
) -> Any:
    """Forward hook: the conditioned output of a site's module; None (no change) if no feature is set."""
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
    """Forward pre-hook: the conditioned input of a self-attention; None (no change) if no feature is set."""
    x = args[0] if args else options["hidden_states"]
    conditioned = _conditioned(model, modality, site, name, x)
    if conditioned is None:
        return None
    return ((conditioned, *args[1:]), options) if args else (args, {**options, "hidden_states": conditioned})


def _conditioned(model: JointModel, modality: str, site: Site, name: str, x: Tensor) -> Tensor | None:
    """The activations ``x`` of a site, conditioned on the current feature; None if no feature is set."""
    call = _CALL.get()
    if call is None or call.model is not model:
        return None
    signal = getattr(call.signals, modality)
    if signal is None:
        return None
    denoiser = getattr(model.denoisers, modality)
    rows = denoiser.steps_at(site, x, signal.steps)
    times = None
    if signal.times is not None:
        own, other = signal.times
        times = SiteTimes.of(own, rows, other, signal.feature.shape[2])
    tokens = to_tokens(site, x, rows, denoiser.per_frame)
    count = len(signal.feature)  # of the coupled samples; in branches of guidance, those come first
    conditioned = model.coupling.condition(name, tokens[:count], signal.feature, denoiser.per_frame, times)
    if signal.coupled is not None:
        # Selection, rather than a weight of 0, leaves uncoupled samples exactly unchanged. Computing all
        # samples keeps every parameter in the graph, which distributed training needs.
        conditioned = torch.where(signal.coupled.to(x.device)[:, None, None, None], conditioned, tokens)
    if count < len(tokens):
        whole = tokens.clone()  # in the same memory format, which decides how the next layer rounds
        whole[:count] = conditioned
        conditioned = whole
    return from_tokens(site, conditioned, x, denoiser.per_frame)


@dataclass(frozen=True, slots=True)
class _Sharing:
    """How a module's work is shared in a forward pass."""

    places: list[int]  # for each branch that the module is given, the one that it equals
    samples: int  # of a branch
    steps: int  # of the text, which is the same at each; 0: the module sees more than the text

    @property
    def kept(self) -> list[int]:
        """The branches that are computed."""
        return list(dict.fromkeys(self.places))


def _sharing(model: JointModel, modality: str, sees: str, inside: bool) -> _Sharing | None:
    """How a module's work is shared in this forward pass; None: not at all.

    Args:
        model: the joint model.
        modality: that of the module's network.
        sees: what its output depends on, see :class:`kinetophone.bases.protocol.Shared`.
        inside: whether it is part of a module that is itself given only the branches that differ in text.
    """
    call = _CALL.get()
    if call is None or call.model is not model:
        return None
    branches, (batch, steps) = getattr(call.branches, modality), getattr(call.sizes, modality)
    if branches is None:
        return None
    samples, texts = batch // len(branches.texts), list(branches.texts)
    if inside:
        texts = list(range(len(set(texts))))
    sharing = _Sharing([0] * len(texts) if sees == "latents" else texts, samples, steps * (sees == "text"))
    return sharing if sharing.steps or len(sharing.kept) < len(sharing.places) else None


def _narrowed(
    sharing: Callable[[], _Sharing | None], module: nn.Module, args: Any, options: Any
) -> tuple[Any, Any] | None:
    """Forward pre-hook: the inputs of the branches that differ, in place of those of all."""
    found = sharing()
    if found is None:
        return None

    def narrowed(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        branches = x.unflatten(0, (len(found.places), found.samples, -1))
        kept = found.kept
        first = kept == list(range(len(kept)))  # as a slice, which copies nothing
        branches = branches[: len(kept)] if first else branches[kept]
        return (branches[:, :, :1] if found.steps else branches).flatten(0, 2)

    return tree_map(narrowed, (args, options))


def _widened(sharing: Callable[[], _Sharing | None], module: nn.Module, args: Any, output: Any) -> Any:
    """Forward hook: the outputs for all branches."""
    found = sharing()
    if found is None:
        return None

    def widened(x: Tensor) -> Tensor:
        if found.steps:
            x = x.repeat_interleave(found.steps, dim=0)
        branches = x.unflatten(0, (len(found.kept), -1))
        return torch.cat([branches[found.kept.index(place)] for place in found.places])

    return tree_map(widened, output)


def to_tokens(site: Site, x: Tensor, rows: int, per_frame: bool) -> Tensor:
    """Convert a site's activations ``x`` to tokens (B, R, S, C).

    Args:
        site: the site, which says how its activations are laid out.
        x: images (B·R, C, H, W), a map (B, C, R, M), or tokens (B, N, C).
        rows: number R of steps along time.
        per_frame: whether a step is an image (video) or not (audio).
    """
    if site.layout == "tokens":
        return x[:, site.prefix :].unflatten(1, (rows, -1))
    if per_frame:  # video: images (B·R, C, H, W)
        return x.unflatten(0, (-1, rows)).flatten(3).transpose(2, 3)
    return x.permute(0, 2, 3, 1)  # audio: a map (B, C, R, M)


def from_tokens(site: Site, tokens: Tensor, x: Tensor, per_frame: bool) -> Tensor:
    """Invert :func:`to_tokens`; ``x`` gives the shape, and the prefix tokens, of the original activations."""
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
    finally:  # also after an error, or a base on its own would be conditioned on a stale feature
        _CALL.reset(token)


class _InCall:
    """Wrapper of a network's gradient checkpointing that restores the features of the forward pass.

    The backward pass recomputes the block and its hooks. By then the forward pass is over, and the thread
    may be another one. So the features of the forward pass are kept and set again. Outside of a joint
    forward pass the wrapper changes nothing.
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
