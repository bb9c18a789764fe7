"""Tiny models of the published classes with random weights, saved in the layout they have on the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLWan,
    AutoencoderOobleck,
    DDIMScheduler,
    EDMDPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    MotionAdapter,
    PNDMScheduler,
    StableAudioDiTModel,
    UNet2DConditionModel,
    UNet3DConditionModel,
    UNetMotionModel,
    WanTransformer3DModel,
)
from diffusers.pipelines.stable_audio import StableAudioProjectionModel
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    ClapTextConfig,
    ClapTextModelWithProjection,
    CLIPTextConfig,
    CLIPTextModel,
    PreTrainedTokenizerFast,
    SpeechT5HifiGan,
    SpeechT5HifiGanConfig,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from kinetophone.reference import networks as published

WIDTHS = (32, 64)
WORDS = (
    "<s>",
    "</s>",
    "<pad>",
    "<unk>",
    "a",
    "drumstick",
    "hits",
    "metal",
    "bowl",
    "bad",
    "quality",
    "worse",
)


def tokenizer() -> Any:
    """Words to numbers, eight at most."""
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=8, **names)


def autoencoder(channels: int, latent_channels: int) -> AutoencoderKL:
    """Down-samples by 4."""
    return AutoencoderKL(
        in_channels=channels,
        out_channels=channels,
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        block_out_channels=[8, 8, 8],
        norm_num_groups=4,
        latent_channels=latent_channels,
        scaling_factor=0.2,
    )


def audioldm(text_width: int = 12) -> dict[str, Any]:
    """Components of an AudioLDM: latents of 8 channels, multiples of 2 in time."""
    text = {"vocab_size": len(WORDS), "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    return {
        "unet": UNet2DConditionModel(
            sample_size=8,
            in_channels=8,
            out_channels=8,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=WIDTHS,
            layers_per_block=1,
            norm_num_groups=16,
            cross_attention_dim=WIDTHS,
            attention_head_dim=8,
            class_embed_type="simple_projection",
            projection_class_embeddings_input_dim=text_width,
            class_embeddings_concat=True,
        ),
        "vae": autoencoder(1, 8),
        "text_encoder": ClapTextModelWithProjection(
            ClapTextConfig(
                **text,
                num_attention_heads=2,
                projection_dim=text_width,
                max_position_embeddings=12,
                pad_token_id=2,
            )
        ),
        "tokenizer": tokenizer(),
        "scheduler": DDIMScheduler(
            beta_start=0.0015,
            beta_end=0.0195,
            beta_schedule="scaled_linear",
            clip_sample=False,
            steps_offset=1,
        ),
        "vocoder": SpeechT5HifiGan(
            SpeechT5HifiGanConfig(
                **published.VOCODER,
                upsample_initial_channel=32,
                resblock_kernel_sizes=[3],
                resblock_dilation_sizes=[[1]],
            )
        ),
    }


def _video_parts(unet: Any, scheduler: Any, text_width: int = 16) -> dict[str, Any]:
    config = CLIPTextConfig(
        vocab_size=len(WORDS),
        hidden_size=text_width,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=8,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    text = CLIPTextModel(config)
    return {
        "unet": unet,
        "vae": autoencoder(3, 4),
        "text_encoder": text,
        "tokenizer": tokenizer(),
        "scheduler": scheduler,
    }


_VIDEO_UNET: dict[str, Any] = {
    "sample_size": 4,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": WIDTHS,
    "layers_per_block": 1,
    "norm_num_groups": 16,
    "cross_attention_dim": 16,
}


def image_model() -> dict[str, Any]:
    """Components of an image model of the Stable Diffusion 1.5 type."""
    unet = UNet2DConditionModel(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        **_VIDEO_UNET,
    )
    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    return _video_parts(unet, scheduler)


def motion_adapter(widths: tuple[int, ...] = WIDTHS) -> MotionAdapter:
    """Motion modules for it, clips of up to 8 frames."""
    return MotionAdapter(
        block_out_channels=widths,
        motion_layers_per_block=1,
        motion_num_attention_heads=4,
        motion_norm_num_groups=16,
        motion_max_seq_length=8,
    )


def animatediff() -> dict[str, Any]:
    """Both in one, as ``UNetMotionModel``."""
    image = image_model()
    return image | {"unet": UNetMotionModel.from_unet2d(image["unet"], motion_adapter())}


def unet3d() -> dict[str, Any]:
    """Components of a text-to-video model of the ModelScope type."""
    unet = UNet3DConditionModel(
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        attention_head_dim=8,
        **_VIDEO_UNET,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )
    return _video_parts(unet, scheduler)


def wan() -> dict[str, Any]:
    """Wan's classes: a transformer of four blocks, and an autoencoder causal in time, 4 frames a latent."""
    transformer = WanTransformer3DModel(
        num_attention_heads=4,
        attention_head_dim=12,
        text_dim=16,
        freq_dim=32,
        ffn_dim=64,
        num_layers=4,
        cross_attn_norm=True,
        rope_max_seq_len=64,
    )
    vae = AutoencoderKLWan(base_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    config = UMT5Config(
        vocab_size=len(WORDS), d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2, pad_token_id=2
    )
    return {
        "transformer": transformer.eval(),
        "vae": vae.eval(),
        "text_encoder": UMT5EncoderModel(config).eval(),
        "tokenizer": tokenizer(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
    }


def stable_audio() -> dict[str, Any]:
    """Stable Audio's classes: a transformer of four blocks, 21.5 latents a second of stereo."""
    transformer = StableAudioDiTModel(
        sample_size=43,
        in_channels=8,
        out_channels=8,
        num_layers=4,
        attention_head_dim=12,
        num_attention_heads=4,
        num_key_value_attention_heads=2,
        cross_attention_dim=24,
        time_proj_dim=16,
        global_states_input_dim=32,
        cross_attention_input_dim=16,
    )
    vae = AutoencoderOobleck(
        encoder_hidden_size=16,
        downsampling_ratios=[2, 4, 4, 8],
        channel_multiples=[1, 2, 2, 2],
        decoder_channels=4,
        decoder_input_channels=8,
        sampling_rate=5504,
    )
    config = T5Config(
        vocab_size=len(WORDS), d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2, pad_token_id=2
    )
    return {
        "transformer": transformer.eval(),
        "vae": vae.eval(),
        "text_encoder": T5EncoderModel(config).eval(),
        "tokenizer": tokenizer(),
        "projection_model": StableAudioProjectionModel(16, 16, 0.0, 512.0).eval(),
        "scheduler": EDMDPMSolverMultistepScheduler(
            sigma_min=0.3, sigma_max=500.0, sigma_schedule="exponential", prediction_type="v_prediction"
        ),
    }


def save(components: dict[str, Any], folder: Path, **options: Any) -> Path:
    """Write components as sub-folders, as on the Hub."""
    for name, component in components.items():
        more = options if isinstance(component, torch.nn.Module) else {}
        component.save_pretrained(folder / name, **more)
    return folder


def pickled(folder: Path) -> None:
    """Make the weights in a folder pickles, named as on the Hub."""
    for file in folder.rglob("*.safetensors"):
        if file.stem in ("model", "diffusion_pytorch_model"):
            stem = "pytorch_model" if file.stem == "model" else file.stem
            torch.save(load_file(file), file.with_name(f"{stem}.bin"))
            file.unlink()


def halved(folder: Path) -> None:
    """Make the weights in a folder half-precision variants alone, ``fp16`` in every name as on the Hub."""
    for file in folder.rglob("*.safetensors"):
        if file.stem in ("model", "diffusion_pytorch_model"):
            tensors = {key: x.half() if x.is_floating_point() else x for key, x in load_file(file).items()}
            save_file(tensors, file.with_name(f"{file.stem}.fp16.safetensors"), {"format": "pt"})
            file.unlink()


def save_all(root: Path) -> Path:
    """All: ``audioldm``, ``image``, ``adapter``, ``animatediff``, ``unet3d``, ``wan``, ``stable_audio``."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save(audioldm(), root / "audioldm")
        save(image_model(), root / "image")
        motion_adapter().save_pretrained(root / "adapter")
        save(animatediff(), root / "animatediff")
        save(unet3d(), root / "unet3d")
        save(wan(), root / "wan")
        save(stable_audio(), root / "stable_audio")
    return root
