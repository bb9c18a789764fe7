"""Published bases at full size without their weights, for dry runs, tests and benchmarks.

Video: Stable Diffusion 1.5 with AnimateDiff's motion modules (v1-5-2), and Wan2.1-T2V-1.3B. Audio:
``cvssp/audioldm-m-full`` and Stable Audio Open 1.0. Under ``torch.device("meta")`` the networks have shapes
but no storage.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from kinetophone.av import AV

MOTION_UNET: dict[str, Any] = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": (*["CrossAttnDownBlockMotion"] * 3, "DownBlockMotion"),
    "up_block_types": ("UpBlockMotion", *["CrossAttnUpBlockMotion"] * 3),
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 768,
    "num_attention_heads": 8,
    "motion_num_attention_heads": 8,
    "motion_max_seq_length": 32,
    "use_motion_mid_block": True,
}
AUDIO_UNET: dict[str, Any] = {
    "sample_size": 128,
    "in_channels": 8,
    "out_channels": 8,
    "down_block_types": ("DownBlock2D", *["CrossAttnDownBlock2D"] * 3),
    "up_block_types": (*["CrossAttnUpBlock2D"] * 3, "UpBlock2D"),
    "block_out_channels": (192, 384, 576, 960),
    "cross_attention_dim": (192, 384, 576, 960),
    "attention_head_dim": 8,
    "class_embed_type": "simple_projection",
    "projection_class_embeddings_input_dim": 512,
    "class_embeddings_concat": True,
}
# Kernels and strides of AudioLDM's HiFi-GAN: 160 samples per mel frame.
VOCODER: dict[str, Any] = {
    "model_in_dim": 64,
    "upsample_rates": [5, 4, 2, 2, 2],
    "upsample_kernel_sizes": [16, 16, 8, 4, 4],
}


def _autoencoder(channels: int, latent_channels: int, widths: tuple[int, ...]) -> dict[str, Any]:
    return {
        "in_channels": channels,
        "out_channels": channels,
        "latent_channels": latent_channels,
        "block_out_channels": widths,
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "layers_per_block": 2,
    }


# Configurations by Hub id and component, so that a dry run needs no internet access.
PUBLISHED: dict[str, dict[str, dict[str, Any]]] = {
    "cvssp/audioldm-m-full": {
        "unet": {"_class_name": "UNet2DConditionModel", **AUDIO_UNET},
        "vae": {"_class_name": "AutoencoderKL", **_autoencoder(1, 8, (128, 256, 512))},
    },
    "SG161222/Realistic_Vision_V5.1_noVAE": {
        "unet": {"_class_name": "UNet2DConditionModel", "cross_attention_dim": 768},
        "vae": {"_class_name": "AutoencoderKL", **_autoencoder(3, 4, (128, 256, 512, 512))},
    },
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": {
        "transformer": {
            "_class_name": "WanTransformer3DModel",
            "num_attention_heads": 12,
            "attention_head_dim": 128,
            "in_channels": 16,
            "out_channels": 16,
            "ffn_dim": 8960,
            "num_layers": 30,
            "text_dim": 4096,
        },
        "vae": {"_class_name": "AutoencoderKLWan", "base_dim": 96, "z_dim": 16},
    },
    "stabilityai/stable-audio-open-1.0": {
        "transformer": {
            "_class_name": "StableAudioDiTModel",
            "sample_size": 1024,
            "in_channels": 64,
            "out_channels": 64,
            "num_layers": 24,
            "num_attention_heads": 24,
            "num_key_value_attention_heads": 12,
            "attention_head_dim": 64,
            "cross_attention_dim": 768,
            "cross_attention_input_dim": 768,
            "global_states_input_dim": 1536,
        },
        "vae": {"_class_name": "AutoencoderOobleck", "sampling_rate": 44_100, "audio_channels": 2},
    },
}


def unets() -> AV[Any]:
    """The two U-Nets, 1.31 and 0.42 billion parameters."""
    from diffusers import UNet2DConditionModel, UNetMotionModel

    return AV(audio=UNet2DConditionModel(**AUDIO_UNET), video=UNetMotionModel(**MOTION_UNET))


def around() -> AV[dict[str, nn.Module]]:
    """The components around the U-Nets by name: text models, autoencoders, vocoder."""
    from transformers import (
        ClapTextConfig,
        ClapTextModelWithProjection,
        CLIPTextConfig,
        CLIPTextModel,
        SpeechT5HifiGan,
        SpeechT5HifiGanConfig,
    )

    clip = CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
    )
    vocoder = SpeechT5HifiGanConfig(**VOCODER, upsample_initial_channel=1024)
    return AV(
        audio={
            "text_encoder": ClapTextModelWithProjection(ClapTextConfig()),
            "vae": autoencoder(1, 8, (128, 256, 512)),
            "vocoder": SpeechT5HifiGan(vocoder),
        },
        video={"text_encoder": CLIPTextModel(clip), "vae": autoencoder(3, 4, (128, 256, 512, 512))},
    )


def autoencoder(
    channels: int, latent_channels: int, widths: tuple[int, ...], norm_num_groups: int = 32
) -> nn.Module:
    """An autoencoder with the published layers, for images or log-mels; a level for each of ``widths``."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(**_autoencoder(channels, latent_channels, widths), norm_num_groups=norm_num_groups)
