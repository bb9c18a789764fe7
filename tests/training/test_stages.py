"""The shipped recipes, shrunk to two steps on eight clips, run in order to a bundle that makes a clip.

One recipe of each class of stage always; all of those that made the bundle that ships, and those of the
second world, among the slow tests.
"""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import UMT5EncoderModel

from kinetophone.bases.stable_audio import StableAudio
from kinetophone.bases.wan import Wan
from kinetophone.bundle.spec import BUNDLES
from kinetophone.data.domains import as_clip, domain
from kinetophone.data.latents import fingerprint
from kinetophone.diffusion.signal_leak import SignalLeak
from kinetophone.errors import UnknownWordsWarning, UserError
from kinetophone.hits.classifiers import SEEN
from kinetophone.hits.metric import hits_features
from kinetophone.hits.stages.decoder import widened
from kinetophone.hub.components import load_component
from kinetophone.hub.locate import Source
from kinetophone.media.read import read_clip
from kinetophone.pipeline import Kinetophone
from kinetophone.precision import emulated
from kinetophone.training import diffusion
from kinetophone.training.loop import train
from kinetophone.training.recipe import STAGES, load_recipe
from kinetophone.training.stages import build_stage

ORDER = (
    "video-autoencoder",
    "audio-autoencoder",
    "clip-text",
    "clap-text",
    "image",
    "motion",
    "video-decoder",
    "video-decoder-2",
    "audio",
    "vocoder",
    "coupling",
    "audio-2",
    "motion-2",
    "coupling-2",
    "connectors",
    "coupling-3",
    "video-classifier",
    "audio-classifier",
)
SIXTEEN = (
    "video-autoencoder",
    "audio-autoencoder",
    "video-text",
    "audio-text",
    "video",
    "audio",
    "video-classifier",
    "audio-classifier",
    "coupling",
)
ONE_OF_EACH = tuple(name for name in ORDER if name not in ("audio-2", "motion-2", "coupling-2", "coupling-3"))
RECIPES = Path(__file__).parents[2] / "recipes"
PROMPTS = diffusion.SAMPLE_PROMPTS[:2]  # of the samples made while training
# Of the networks of hits16, whose sizes are otherwise the recipe's: most of the time goes into equal blocks.
FEW_BLOCKS = {
    "video-autoencoder": {"encoder_blocks": 1, "decoder_blocks": 1},
    "audio-autoencoder": {"encoder_blocks": 1, "decoder_blocks": 1},
    "video": {"num_layers": 2},
    "audio": {"num_layers": 2},
}


def shrunk(name, root, domain="hits"):
    recipe = load_recipe(RECIPES / f"{domain}-{name}.yaml")
    data = dataclasses.replace(recipe.data, count=8, cache=str(root / "cache"))
    precision = "float32" if emulated(recipe.loop.precision, "cpu") else recipe.loop.precision
    loop = dataclasses.replace(
        recipe.loop,
        steps=2,
        batch_size=2,
        warmup=1,
        sample_every=2,
        checkpoint_every=2,
        log_every=1,
        precision=precision,
    )
    sampling = {**recipe.sampling, "steps": 1} if recipe.stage == "coupling" else {}
    model = {**recipe.model, **FEW_BLOCKS.get(name, {})} if domain == "hits16" else recipe.model
    return dataclasses.replace(
        recipe, data=data, loop=loop, bundle=str(root / "bundle"), sampling=sampling, model=model
    )


def trained(names, root, domain="hits"):
    """The bundle that recipes make, one after the other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diffusion, "SAMPLE_STEPS", 1)
        patch.setattr(diffusion, "SAMPLE_PROMPTS", PROMPTS)
        for name in names:
            recipe = shrunk(name, root, domain)
            train(build_stage(recipe), recipe.loop, root / "runs" / name)
    return root / "bundle"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return trained(ONE_OF_EACH, tmp_path_factory.mktemp("hits"))


@pytest.fixture(scope="module")
def transformers(tmp_path_factory):
    return trained(SIXTEEN, tmp_path_factory.mktemp("hits16"), "hits16")


def test_the_transformer_recipes_make_bases_and_their_samples(transformers):
    assert_samples([name for name in SIXTEEN if not name.endswith("text")], transformers)
    video = Wan.from_source(Source(transformers / "video", str(transformers / "video")))
    audio = StableAudio.from_source(Source(transformers / "audio", str(transformers / "audio")))
    assert isinstance(video.text_encoder, UMT5EncoderModel)
    assert video.latent_shape(65, 64) == (16, 17, 8, 8)
    assert audio.latent_shape(97_500) == (32, 127)
    # Each channel of the video's latents has mean 0 and deviation 1 on the clips it was trained on.
    latents = np.load(next((transformers.parent / "cache").glob("hits16-latents-video-*.npy")))
    assert abs(latents.astype(float).mean()) < 0.5
    assert 0.3 < latents.astype(float).std() < 3


def test_the_classifier_of_frames_tells_object_colour_and_tool_too(transformers):
    clip = as_clip(domain("hits16").make_clip("val", 0), "hits16")
    features = hits_features(clip, str(transformers))
    told = {name: features[f"hits_{name}"].shape for name in ("object", "colour", "tool")}
    assert told == {name: (1, len(SEEN[name])) for name in told}
    assert features["hits_seen"].shape == features["hits_heard"].shape == (1, 5)


def test_the_bundle_of_transformers_makes_clips_of_its_world(transformers):
    pipe = Kinetophone.from_pretrained(str(transformers))
    assert pipe.spec.defaults["stepper"] == "dpmpp_2m"
    with pytest.warns(UnknownWordsWarning):  # it was trained on eight captions
        clip = pipe("a drumhead is struck", seed=0, progress=False)[0]
    assert clip.video.shape == (65, 64, 64, 3)
    assert (clip.time.fps, clip.sample_rate, len(clip.audio)) == (16, 24_000, 97_500)


def assert_samples(names, bundle):
    silent = ("clip-text", "clap-text", "connectors", "video-classifier", "audio-classifier")
    for name in set(names) - set(silent):
        assert list((bundle.parent / "runs" / name).glob("sample-2*")), name


def test_every_class_of_stage_is_run():
    names = [f"hits-{name}" for name in ONE_OF_EACH] + [f"hits16-{name}" for name in SIXTEEN]
    assert {load_recipe(RECIPES / f"{name}.yaml").stage for name in names} == set(STAGES)


def test_every_stage_writes_something_to_look_at_or_listen_to(bundle):
    assert_samples(ONE_OF_EACH, bundle)


def test_bases_come_with_the_trace_of_their_clips(bundle):
    for name, size in (("audio", (8, 8)), ("video", (16, 4, 4))):
        assert SignalLeak.load(bundle / name).mean.shape == size


def test_the_couplings_samples_are_playable_and_their_synchrony_is_measured(bundle):
    folder = bundle.parent / "runs" / "coupling" / "validation"
    assert len(list(folder.glob("2-*.mp4"))) == len(PROMPTS)
    clip = read_clip(folder / "2-0.mp4")
    assert (len(clip.video), len(clip.audio)) == (32, 64_000)
    metrics = json.loads((folder / "2.json").read_text())["metrics"]
    assert {"value", "interval", "n", "shuffled"} <= set(metrics["event_f1"])


def test_the_recipes_make_a_bundle_that_makes_a_clip(bundle):
    pipe = Kinetophone.from_pretrained(bundle, device="cpu")
    with pytest.warns(UnknownWordsWarning, match="metal, bowl$"):  # none of the few clips here shows one
        clip = pipe("a drumstick hits a metal bowl", steps=1)[0]
    assert clip.video.shape == (32, 64, 64, 3)
    assert clip.audio.shape == (64_000,)
    features = hits_features(clip, str(bundle))
    assert features["hits_seen"].shape == features["hits_heard"].shape == (1, 5)


def test_a_packed_bundle_is_half_precision_and_makes_nearly_the_same_clip(bundle, tmp_path):
    pipe = Kinetophone.from_pretrained(bundle, device="cpu")
    pipe.save_pretrained(tmp_path / "packed", torch.float16)
    packed = Kinetophone.from_pretrained(tmp_path / "packed", device="cpu")
    size = sum(f.stat().st_size for f in bundle.rglob("*.safetensors") if "image_unet" not in f.parts)
    small = sum(f.stat().st_size for f in (tmp_path / "packed").rglob("*.safetensors"))
    assert small < 0.55 * size
    one, two = (p("a mallet hits a drum", steps=1, seed=3)[0] for p in (pipe, packed))
    assert np.abs(one.video.astype(int) - two.video).mean() < 4


def test_only_the_coupling_is_trained_in_the_coupling_stage(bundle):
    stage = build_stage(shrunk("coupling", bundle.parent))
    losses = stage.loss(np.random.default_rng(0), torch.Generator().manual_seed(0))
    losses["loss"].backward()
    assert all(
        p.grad is None
        for unet in (stage.model.networks.audio, stage.model.networks.video)
        for p in unet.parameters()
    )
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in stage.coupling.parameters())


def test_only_the_decoder_is_trained_in_its_stage_so_latents_stay_and_their_cache_holds(bundle):
    stage = build_stage(shrunk("video-decoder", bundle.parent))
    before = {name: tensor.clone() for name, tensor in stage.vae.state_dict().items()}
    known = fingerprint(stage.vae)
    loop = dataclasses.replace(stage.recipe.loop, sample_every=0)
    train(stage, loop, bundle.parent / "runs" / "decoder-again")
    after = stage.vae.state_dict()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"decoder"}
    assert fingerprint(stage.vae) == known


def test_a_decoder_exports_a_blend_with_what_it_started_from_resumed_or_not(bundle):
    recipe = shrunk("video-decoder", bundle.parent)
    options = dataclasses.replace(recipe.options, kept=0.75)
    loop = dataclasses.replace(recipe.loop, steps=4, sample_every=2, checkpoint_every=2)
    recipe = dataclasses.replace(recipe, options=options, loop=loop)
    out = bundle.parent / "runs" / "decoder-blend"
    start = build_stage(recipe).start
    train(build_stage(recipe), loop, out, stop_at=2)
    train(build_stage(recipe), loop, out)
    trained = torch.load(out / "checkpoint-00000004.pt", weights_only=True)["ema"]
    exported = load_component(bundle / "video", "vae").decoder.state_dict()
    assert not torch.equal(exported["conv_in.weight"], start["conv_in.weight"])
    for name, tensor in exported.items():
        blend = 0.25 * trained[f"decoder.{name}"] + 0.75 * start[name]
        torch.testing.assert_close(tensor, blend, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("name", "base"), [("audio-2", "audio"), ("motion-2", "video")])
def test_a_recipe_that_goes_on_starts_from_what_was_exported(bundle, name, base):
    known = load_component(bundle / base, "unet").state_dict()
    begun = build_stage(shrunk(name, bundle.parent)).unet.state_dict()
    assert begun.keys() == known.keys()
    assert all(torch.equal(tensor, known[key]) for key, tensor in begun.items())


@pytest.mark.slow
def test_all_recipes_of_the_bundle_that_ships_go_on_from_one_another(tmp_path):
    bundle = trained(ORDER, tmp_path)
    assert_samples(ORDER, bundle)
    folder = tmp_path / "runs" / "coupling-2" / "validation"
    assert len(list(folder.glob("2-*.mp4"))) == len(PROMPTS)
    pipe = Kinetophone.from_pretrained(bundle, device="cpu")
    assert pipe("a drumstick hits a metal bowl", steps=1)[0].video.shape == (32, 64, 64, 3)


BOWS = ("clip-text", "clap-text", "motion", "audio", "connectors", "coupling")


@pytest.mark.slow
def test_the_recipes_of_bows_go_on_from_the_bundle_that_ships(tmp_path):
    shipped, bundle = BUNDLES / "hits", tmp_path / "bundle"
    shutil.copytree(shipped, bundle)
    for name in BOWS:
        recipe = shrunk(name, tmp_path, "bows")
        stage = build_stage(recipe)
        if name == "motion":
            known = load_component(shipped / "video", "unet").state_dict()
            assert all(torch.equal(tensor, known[key]) for key, tensor in stage.unet.state_dict().items())
        train(stage, dataclasses.replace(recipe.loop, sample_every=0), tmp_path / "runs" / name)
    clips = stage.latents
    assert all("bow" in text for of_clip in clips.captions for text in of_clip)
    assert len(clips.strikes_s[0]) % 2 == 0  # starts and stops
    assert {path.name.split("-")[0] for path in (tmp_path / "cache").glob("[!.]*")} == {"bows"}
    pipe = Kinetophone.from_pretrained(bundle, device="cpu")
    assert pipe("a bow is drawn over a pale cello", steps=1)[0].video.shape == (32, 64, 64, 3)


def test_a_widened_decoder_gives_what_it_gave(bundle):
    vae = load_component(bundle / "video", "vae")
    wide = widened(vae)
    widths = [2 * width for width in vae.config.decoder_block_out_channels]
    assert list(wide.config.decoder_block_out_channels) == widths
    z = torch.randn(2, 16, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(wide.decode(z).sample, vae.decode(z).sample, atol=1e-5, rtol=1e-4)
    assert fingerprint(wide) == fingerprint(vae)


def test_a_decoder_grows_to_twice_its_width_or_not_at_all(bundle):
    recipe = shrunk("video-decoder", bundle.parent)
    with pytest.raises(UserError, match="must be those of the decoder or their double"):
        build_stage(dataclasses.replace(recipe, model={"decoder_block_out_channels": [16, 16, 32, 64, 96]}))
