"""What a command imports; and a stand-in is as good as the module in whose place it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# Each is imported by a library that a clip needs, for something that a clip does not.
NOT_NEEDED = (
    "torch._dynamo.convert_frame", "torch._inductor", "scipy.integrate._quadpack_py",
    "scipy.optimize._optimize", "scipy.stats._distn_infrastructure", "scipy.sparse", "scipy.ndimage",
    "scipy.signal", "sklearn", "pandas", "numba", "librosa", "matplotlib", "gradio", "cv2", "datasets",
    "diffusers.pipelines", "diffusers.models.transformers.transformer_flux",
    "diffusers.models.autoencoders.autoencoder_kl_wan", "diffusers.models.unets.unet_kandinsky3",
    "diffusers.hooks.faster_cache",
)  # fmt: skip

GENERATE = """
import sys
from kinetophone.cli import app

words = ["generate", "a hammer hits a drum", "-o", sys.argv[1], "--steps", "1"]
app(words, standalone_mode=False)
import gc

assert gc.isenabled()
print(*sys.modules)
"""


def python(code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_generate_imports_only_what_it_uses(tmp_path: Path) -> None:
    imported = set(python(GENERATE, str(tmp_path / "clip.mp4")).split())
    assert "torch" in imported
    assert not imported & set(NOT_NEEDED)


AFTERWARDS = """
from kinetophone.cli.lean import quick_start

with quick_start():
    from transformers import CLIPTextModel
    from transformers.loss.loss_for_object_detection import linear_sum_assignment

    from kinetophone.pipeline import Kinetophone

import scipy.stats
import torch
from diffusers import LMSDiscreteScheduler
from diffusers.models.transformers import FluxTransformer2DModel
from diffusers.utils.torch_utils import is_compiled_module

assert scipy.stats.norm.cdf(0) == 0.5
assert linear_sum_assignment([[1, 0], [0, 1]])[1].tolist() == [1, 0]
scheduler = LMSDiscreteScheduler()
scheduler.set_timesteps(4)
scheduler.get_lms_coefficient(1, 0, 0)
assert issubclass(FluxTransformer2DModel, torch.nn.Module)
assert not is_compiled_module(torch.nn.Linear(2, 2))
compiled = torch.compile(torch.nn.Linear(2, 2), backend="eager")
assert is_compiled_module(compiled)
assert compiled(torch.ones(1, 2)).shape == (1, 2)
"""


def test_what_stands_in_for_a_module_is_as_good_as_it() -> None:
    python(AFTERWARDS)
