"""The joint model: exactly the bases when uncoupled, coupled where and only where it should be."""

from __future__ import annotations

import copy
import gc
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kinetophone.av import AV, MODALITIES
from kinetophone.bases.protocol import Site
from kinetophone.bases.unet import VideoUNet, denoisers
from kinetophone.coupling.coupling import Coupling
from kinetophone.coupling.model import JointModel, _behind_block, from_tokens, to_tokens
from kinetophone.diffusion.guidance import Branches


def equal(a: AV[Tensor], b: AV[Tensor]) -> AV[bool]:
    return a.map(torch.equal, b)


def predict(model: JointModel, inputs: Any, **options: Any) -> AV[Tensor]:
    with torch.no_grad():
        features = model.features(inputs.latents, inputs.levels, inputs.x0_hat)
        return model(inputs.latents, inputs.levels, inputs.text, features, **options)


def uncoupled(model: JointModel, inputs: Any) -> AV[Tensor]:
    with torch.no_grad():
        return model(inputs.latents, inputs.levels, inputs.text)


def bases(unets: AV[Any], inputs: Any) -> AV[Tensor]:
    """What the U-Nets predict by themselves, called as their own pipelines call them."""
    text = inputs.text.video
    if type(unets.video).__name__ == "UNetMotionModel":
        text = text.repeat_interleave(inputs.latents.video.shape[2], dim=0)
    times = inputs.levels.map(lambda level: (1000 * level).round().long() - 1)
    with torch.no_grad():
        return AV(
            audio=unets.audio(inputs.latents.audio, times.audio, None, inputs.text.audio).sample,
            video=unets.video(inputs.latents.video, times.video, text).sample,
        )


@pytest.mark.parametrize("coupling", ["cmc_pe", "cross_attention"])
def test_a_fresh_coupling_leaves_the_bases_exactly(
    coupling: str, any_unets: AV[Any], inputs: Any, fresh: Callable[..., Coupling]
) -> None:
    alone = bases(any_unets, inputs)
    settings = {"with_connector": [True, True], "channel_mult": [2, 2], "num_blocks": [1, 2]}
    model = JointModel(denoisers(any_unets), fresh(any_unets, coupling=coupling, **settings))
    assert equal(predict(model, inputs), alone) == AV.both(True)


@pytest.mark.parametrize("coupling", ["cmc_pe", "cross_attention"])
def test_a_trained_coupling_acts_and_can_be_switched_off(
    coupling: str, any_unets: AV[Any], inputs: Any, trained: Callable[..., JointModel]
) -> None:
    alone = bases(any_unets, inputs)
    model = trained(any_unets, coupling=coupling, channel_mult=[3])
    assert equal(predict(model, inputs), alone) == AV.both(False)
    assert equal(uncoupled(model, inputs), alone) == AV.both(True)
    assert equal(bases(any_unets, inputs), alone) == AV.both(True), "a base with hooks still works alone"


def test_the_audio_feature_conditions_the_video_and_the_other_way_round(
    unets: AV[Any], inputs: Any, trained: Callable[..., JointModel]
) -> None:
    model = trained(unets)
    args = (inputs.latents, inputs.levels, inputs.text)
    with torch.no_grad():
        features = model.features(inputs.latents, inputs.levels, None)
        both = model(*args, features)
        other_audio = model(*args, AV(audio=features.audio.flip(2), video=features.video))
        other_video = model(*args, AV(audio=features.audio, video=features.video.flip(2)))
    assert equal(other_audio, both) == AV(audio=True, video=False)
    assert equal(other_video, both) == AV(audio=False, video=True)


def test_a_deep_copy_couples_by_itself(
    unets: AV[Any], inputs: Any, trained: Callable[..., JointModel]
) -> None:
    model = trained(unets, with_connector=[True, True])
    expected, alone = predict(model, inputs), uncoupled(model, inputs)
    clone = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.coupling.parameters():
            parameter.zero_()  # must not reach the copy
    assert equal(predict(clone, inputs), expected) == AV.both(True)
    assert equal(predict(model, inputs), alone) == AV.both(True)
    del model, unets
    gc.collect()
    assert equal(predict(clone, inputs), expected) == AV.both(True)
    clone.detach()
    assert equal(predict(clone, inputs), alone) == AV.both(True)


def test_two_models_share_bases_without_mixing(
    unets: AV[Any], inputs: Any, trained: Callable[..., JointModel]
) -> None:
    first = trained(unets)
    expected = predict(first, inputs)
    second = trained(unets, coupling="cross_attention")
    assert equal(predict(first, inputs), expected) == AV.both(True)
    assert equal(predict(second, inputs), expected) == AV.both(False)


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_mask_switches_samples_off_exactly(
    modality: str, unets: AV[Any], inputs: Any, trained: Callable[..., JointModel]
) -> None:
    model = trained(unets)
    on, off = predict(model, inputs), uncoupled(model, inputs)
    masks = {"audio": None, "video": None} | {modality: torch.tensor([True, False])}
    masked = predict(model, inputs, coupled=AV(**masks))
    for each in MODALITIES:
        expected = [getattr(on, each)[0], getattr(off if each == modality else on, each)[1]]
        assert torch.equal(getattr(masked, each), torch.stack(expected))


@pytest.mark.parametrize("with_connector", [[True, True], [False, True]])
def test_branches_of_guidance_share_what_they_do_not_differ_in(
    with_connector: list[bool], any_unets: AV[Any], inputs: Any, trained: Callable[..., JointModel]
) -> None:
    model = trained(any_unets, with_connector=with_connector)
    uncond = inputs.text.map(lambda x: x.flip(0))
    rows: dict[str, int] = {}
    paths = ("conv_in", "down_blocks.0", "down_blocks.1", "conv_out")
    keys = [p for p, _ in any_unets.video.named_modules() if p.endswith("attn2.to_k") and ".attentions." in p]
    for path in (*paths, keys[-1]):
        any_unets.video.get_submodule(path).register_forward_hook(
            lambda module, args, output, path=path: rows.update({path: len(args[0] if args else output[0])}),
            prepend=True,
        )
    with torch.no_grad():
        features = model.features(inputs.latents, inputs.levels, inputs.x0_hat)
        one = (inputs.latents, inputs.levels)
        apart = model(*one, inputs.text)
        expected = [model(*one, uncond, features), model(*one, inputs.text, features), apart]
        rows.clear()
        thrice = [pair.map(lambda x: torch.cat([x] * 3)) for pair in one]
        text = uncond.map(lambda u, c: torch.cat([u, c, c]), inputs.text)
        coupled = features.map(lambda x: torch.cat([x] * 2))
        branches = AV.both(Branches.of(["uncond", "cond", "apart"]))
        made = model(*thrice, text, coupled, branches=branches)
    for modality in MODALITIES:
        together = torch.cat([getattr(one, modality) for one in expected])
        torch.testing.assert_close(getattr(made, modality), together, atol=1e-5, rtol=1e-5)
    # A branch has two samples of three frames.
    down = 1 if type(any_unets.video).__name__ == "UNetMotionModel" else 2  # its first block sees no text
    assert rows["conv_in"] == 2 * 3
    assert rows["conv_out"] == 3 * 2 * 3
    assert rows["down_blocks.0"] == down * 2 * 3
    assert rows["down_blocks.1"] == (3 if with_connector[0] else 2) * 2 * 3
    assert rows[keys[-1]] == 2 * 2


def test_masked_samples_give_the_coupling_no_gradient(
    unets: AV[Any], inputs: Any, trained: Callable[..., JointModel]
) -> None:
    model = trained(unets)
    features = model.features(inputs.latents, inputs.levels, None)
    eps = model(inputs.latents, inputs.levels, inputs.text, features, AV.both(torch.tensor([False, False])))
    (eps.audio.sum() + eps.video.sum()).backward()
    # Every parameter takes part, as distributed training needs, and none is moved.
    assert all(p.grad is not None and not p.grad.any() for p in model.coupling.parameters())


def test_batches_give_what_single_samples_give(
    any_unets: AV[Any], inputs: Any, trained: Callable[..., JointModel]
) -> None:
    model = trained(any_unets, with_connector=[True, True])
    batch = predict(model, inputs)
    for i in range(2):
        single = predict(model, inputs.sample(i))
        torch.testing.assert_close(single.audio, batch.audio[i : i + 1], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(single.video, batch.video[i : i + 1], atol=1e-5, rtol=1e-5)


def test_gradients_reach_the_coupling_only_and_start_at_the_first_site(
    unets: AV[Any], inputs: Any, trained: Callable[..., JointModel]
) -> None:
    model = trained(unets, with_connector=[False, True])
    before: list[Tensor] = []
    at_site: list[Tensor] = []
    for unet in (unets.audio, unets.video):
        unet.down_blocks[0].register_forward_hook(lambda _m, _a, out: before.extend([out[0], *out[1]]))
        unet.down_blocks[1].register_forward_hook(lambda _m, _a, out: at_site.extend([out[0], out[1][-1]]))
    features = model.features(inputs.latents, inputs.levels, inputs.x0_hat)
    eps = model(inputs.latents, inputs.levels, inputs.text, features)
    assert before
    assert not any(x.requires_grad for x in before)
    assert all(x.requires_grad for x in at_site)
    assert at_site[0] is at_site[1], "the conditioned map also replaces the block's last skip"
    (eps.audio.square().mean() + eps.video.square().mean()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.coupling.parameters())
    assert all(p.grad is None for unet in (unets.audio, unets.video) for p in unet.parameters())


def test_gradient_checkpointing_changes_no_gradient(
    unets: AV[Any], inputs: Any, trained: Callable[..., JointModel]
) -> None:
    gradients, model = [], trained(unets)
    for checkpointing in (False, True):
        if checkpointing:
            model.coupling.enable_gradient_checkpointing()
        features = model.features(inputs.latents, inputs.levels, None)
        eps = model(inputs.latents, inputs.levels, inputs.text, features)
        (eps.audio.square().mean() + eps.video.square().mean()).backward()
        gradients.append([p.grad for p in model.coupling.parameters()])
        model.zero_grad()
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_an_error_in_a_forward_pass_leaves_no_feature_behind(
    unets: AV[Any], inputs: Any, trained: Callable[..., JointModel]
) -> None:
    model, alone = trained(unets), bases(unets, inputs)
    features = model.features(inputs.latents, inputs.levels, None)
    text = AV(audio=inputs.text.audio, video=torch.randn(2, 5, 7))  # the width is wrong, deep in the U-Net
    with pytest.raises(RuntimeError):
        model(inputs.latents, inputs.levels, text, features)
    assert equal(bases(unets, inputs), alone) == AV.both(True)


def test_a_class_that_is_not_supported_is_refused(unets: AV[Any]) -> None:
    with pytest.raises(
        TypeError, match="the video U-Net is a Linear, which is not supported: use UNetMotion"
    ):
        denoisers(AV(audio=unets.audio, video=nn.Linear(2, 2)))


def test_shapes_are_checked_before_work(
    unets: AV[Any], inputs: Any, trained: Callable[..., JointModel]
) -> None:
    model = trained(unets)

    def call(**changes: Any) -> None:
        arguments = {"latents": inputs.latents, "levels": inputs.levels, "text": inputs.text} | changes
        model(**arguments)

    latents, video = inputs.latents, inputs.latents.video
    with pytest.raises(
        ValueError, match=r"video latents have shape \(2, 4, 4, 4\), expected \(B, C, T, H, W\)"
    ):
        call(latents=AV(audio=latents.audio, video=video[:, :, 0]))
    with pytest.raises(ValueError, match=r"audio latents are 7 × 4 .* pad with zeros to 8 × 4"):
        call(latents=AV(audio=latents.audio[:, :, :7], video=video))
    with pytest.raises(
        ValueError, match=r"video levels have shape \(\), but the batch of video latents is 2"
    ):
        call(levels=AV(audio=inputs.levels.audio, video=torch.tensor(3)))
    features = model.features(latents, inputs.levels, None)
    one = AV(audio=features.audio[:1], video=features.video)
    with pytest.raises(
        ValueError, match=r"video features made from the other modality have shape \(1, 32, 8\)"
    ):
        call(features=one)
    with pytest.raises(ValueError, match=r"audio coupled have shape \(3,\)"):
        call(features=features, coupled=AV(audio=torch.ones(3, dtype=torch.bool), video=None))


def test_two_threads_predict_what_one_does(
    unets: AV[Any], inputs: Any, trained: Callable[..., JointModel]
) -> None:
    model = trained(unets)
    kinds: list[Callable[[JointModel, Any], AV[Tensor]]] = [predict, uncoupled]
    singly = [kind(model, inputs) for kind in kinds]
    together = threading.Barrier(2)

    def repeated(kind: Callable[[JointModel, Any], AV[Tensor]]) -> list[AV[Tensor]]:
        together.wait()
        return [kind(model, inputs) for _ in range(20)]

    with ThreadPoolExecutor(2) as pool:
        for one, many in zip(singly, pool.map(repeated, kinds), strict=True):
            assert all(equal(one, other) == AV.both(True) for other in many)


def test_gradient_checkpointing_of_the_bases_changes_no_gradient(
    unets: AV[Any], inputs: Any, trained: Callable[..., JointModel]
) -> None:
    gradients, model = [], trained(unets, with_connector=[True, True]).train()
    for checkpointing in (False, True):
        if checkpointing:
            unets.map(lambda unet: unet.enable_gradient_checkpointing())
        features = model.features(inputs.latents, inputs.levels, inputs.x0_hat)
        eps = model(inputs.latents, inputs.levels, inputs.text, features)
        (eps.audio.square().mean() + eps.video.square().mean()).backward()
        gradients.append([p.grad for p in model.parameters()])
        model.zero_grad()
    assert any(g is not None and g.any() for g in gradients[0])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_a_layout_is_tokens_and_back() -> None:
    for site, x, rows, per_frame in (
        (Site("a", 4, "map"), torch.randn(2 * 3, 4, 5, 6), 3, True),
        (Site("a", 4, "map"), torch.randn(2, 4, 3, 6), 3, False),
        (Site("a", 4, "tokens"), torch.randn(2, 3 * 5, 4), 3, True),
        (Site("a", 4, "tokens", prefix=2), torch.randn(2, 2 + 3, 4), 3, False),
    ):
        tokens = to_tokens(site, x, rows, per_frame)
        assert tokens.shape[:2] == (2, 3)
        assert tokens.shape[3] == 4
        assert torch.equal(from_tokens(site, tokens, x, per_frame), x)


def test_checkpointed_blocks_with_hooks_give_the_gradients_of_others(
    unets: AV[Any], inputs: Any, fresh: Callable[..., Coupling]
) -> None:
    """A transformer's checkpointing runs its blocks again in the backward pass, and the hooks with them."""

    class Blocks(nn.Module):
        gradient_checkpointing = False
        device = torch.device("cpu")

        def __init__(self) -> None:
            super().__init__()
            self.down_blocks = nn.ModuleList([nn.Linear(4, 4) for _ in range(2)])
            self._gradient_checkpointing_func: Any = partial(checkpoint, use_reentrant=False)

        def forward(self, x: Tensor) -> Tensor:
            for block in self.down_blocks:
                x = self._gradient_checkpointing_func(block, x) if self.gradient_checkpointing else block(x)
            return x

    class Tokens(VideoUNet):
        def __call__(self, x: Tensor, level: Tensor, conditioning: Any) -> Tensor:
            tokens = x.flatten(2).transpose(1, 2)
            return blocks(tokens).transpose(1, 2).unflatten(2, x.shape[2:])

    torch.manual_seed(0)
    blocks, both = Blocks(), denoisers(unets)
    video = Tokens(unets.video, both.video.process)
    model = JointModel(AV(audio=both.audio, video=video), fresh(unets))
    block = nn.Linear(32, 4)  # stands for an inserted one: it brings the feature in
    site = Site("down_blocks.0", 4, "tokens")
    model.coupling.condition = (  # type: ignore[method-assign]
        lambda name, x, feature, per_frame, times: x + block(feature.mean(2))[:, None, None]
    )
    blocks.down_blocks[0].register_forward_hook(partial(_behind_block, model, "video", site, "any"))
    gradients = []
    for checkpointing in (False, True):
        blocks.gradient_checkpointing = checkpointing
        model.network_video = blocks
        features = model.features(inputs.latents, inputs.levels, None)
        output = model(inputs.latents, inputs.levels, inputs.text, features, only="video")
        thread = threading.Thread(target=output.video.square().mean().backward)  # as on a GPU
        thread.start()
        thread.join()
        gradients.append([p.grad.clone() for p in (*block.parameters(), *blocks.parameters())])
        for parameter in (*block.parameters(), *blocks.parameters()):
            parameter.grad = None
    assert any(g.any() for g in gradients[0])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)
