"""Check that this package computes the same as the published implementation.

``python -m kinetophone.reference.golden DIR``

DIR has golden cases: outputs of the authors' released implementation for small models with random weights.
``tests/golden/README.md`` describes the format; in short:

- ``NAME.json`` + ``NAME.safetensors``: configurations and parameter shapes; inputs and outputs of one
  joint forward pass.
- ``sample-NAME-gamma<γ>-<n>steps.safetensors``: a full sampling run of case NAME; γ = 0 is no adjustment.
- ``grids.json``: local timestep grids for several step counts and γ.

No weights are stored, because each is a function of its parameter's name. Forward passes are computed in
float64, so that only the rounding of the golden outputs is left. Sampling runs use float32, as in practice.
The exit status is 1 if any case is out of tolerance.
"""

from __future__ import annotations

import json
import math
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from kinetophone.av import AV, MODALITIES
from kinetophone.bases.unet import SUPPORTED, denoisers
from kinetophone.coupling.model import JointModel
from kinetophone.diffusion.clocks import reference_path
from kinetophone.diffusion.guidance import guided
from kinetophone.diffusion.process import Discrete
from kinetophone.diffusion.sample import sample_joint
from kinetophone.reference import settings as reference

FORWARD_TOLERANCE = 4e-6
SAMPLING_TOLERANCE = 1e-4
GUIDANCE = AV(audio=2.5, video=7.5)
SAMPLING_RUN = re.compile(r"sample-(?P<case>.+)-gamma(?P<gamma>[\d.]+)-(?P<steps>\d+)steps")


@dataclass(frozen=True, slots=True)
class Result:
    """Relative errors ‖ours - golden‖ / ‖golden‖ of one case."""

    name: str
    error: AV[float]
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether both errors are within tolerance; NaN is not."""
        return all(getattr(self.error, modality) <= self.tolerance for modality in MODALITIES)


def formula_weight(part: str, name: str, shape: tuple[int, ...]) -> Tensor:
    """Weight of parameter ``name`` of ``part`` ("unet_audio", "unet_video" or "connectors"), float32."""
    seed = zlib.crc32(f"{part}/{name}".encode())
    r = np.random.RandomState(seed).standard_normal(shape)  # legacy generator: its stream is frozen
    if len(shape) > 1:
        r = r / math.sqrt(math.prod(shape[1:]))
    elif name.endswith((".weight", ".g")):
        r = 1 + 0.1 * r
    else:
        r = 0.1 * r
    return torch.from_numpy(r).float()


def set_formula_weights(module: nn.Module, part: str, manifest: dict[str, list[int]]) -> None:
    """Set all parameters by formula, after checking their names and shapes against the golden manifest.

    Args:
        module: The module to set.
        part: "unet_audio", "unet_video" or "connectors".
        manifest: Shapes by parameter name.

    Raises:
        ValueError: Names or shapes differ from the manifest.
    """
    parameters = dict(module.named_parameters())
    ours = {name: list(parameter.shape) for name, parameter in parameters.items()}
    if ours != manifest:
        wrong = sorted(name for name in ours.keys() | manifest.keys() if ours.get(name) != manifest.get(name))
        lines = [f"{name}: ours {ours.get(name)}, golden {manifest.get(name)}" for name in wrong[:5]]
        raise ValueError(f"{len(wrong)} parameters of {part} differ, first:\n" + "\n".join(lines))
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(formula_weight(part, name, tuple(parameter.shape)))


def load_case(directory: Path, name: str) -> JointModel:
    """Build the joint model of a golden case, with weights by formula and the reference settings.

    Args:
        directory: Folder of golden cases.
        name: Name of the case, without suffix.

    Returns:
        The model, in evaluation mode.

    Raises:
        ValueError: The case needs a U-Net or a coupling that is not supported.
    """
    case = json.loads((directory / f"{name}.json").read_text())
    if case["video_unet"] not in [cls.__name__ for cls in SUPPORTED.video]:
        raise ValueError(f"case {name} needs a video U-Net {case['video_unet']!r}")
    unets: AV[nn.Module] = AV(
        audio=diffusers.UNet2DConditionModel(**case["unet_audio"]),
        video=getattr(diffusers, case["video_unet"])(**case["unet_video"]),
    )
    coupling = reference.coupling_for(unets, case["connectors"])
    parts: dict[str, nn.Module] = {
        "unet_audio": unets.audio,
        "unet_video": unets.video,
        "connectors": coupling,
    }
    for part, module in parts.items():
        set_formula_weights(module, part, case["parameters"][part])
    return JointModel(denoisers(unets, reference.schedulers()), coupling).eval()


@torch.no_grad()
def check_forward(directory: Path, name: str, model: JointModel | None = None) -> Result:
    """Compare one joint forward pass, in float64, with its golden outputs.

    Args:
        directory: Folder of golden cases.
        name: Name of the case.
        model: Model to check, cast to float64; the case's model if not given.

    Returns:
        The relative errors.
    """
    model = (model or load_case(directory, name)).double()
    golden = {
        key: value.double() if value.is_floating_point() else value
        for key, value in load_file(directory / f"{name}.safetensors").items()
    }
    latents = AV(audio=golden["xa"], video=golden["xv"])
    processes = _processes(reference.schedulers())
    levels, seen = (
        processes.map(lambda process, t: process.level(t), AV(*timesteps))
        for timesteps in (
            (golden["ta"], golden["tv"]),
            (golden.get("tca", golden["ta"]), golden.get("tcv", golden["tv"])),
        )
    )
    features = model.features(latents, seen, AV(audio=golden["pa"], video=golden["pv"]))
    ours = model(latents, levels, AV(audio=golden["cl"], video=golden["ctxv"]), features)
    expected = AV(audio=golden["out_a"], video=golden["out_v"])
    return Result(name, ours.map(relative_error, expected), FORWARD_TOLERANCE)


@torch.no_grad()
def check_sampling(
    directory: Path, name: str, model: JointModel | None = None, schedulers: AV[Any] | None = None
) -> Result:
    """Compare a full sampling run, in float32, with its golden result.

    Args:
        directory: Folder of golden cases.
        name: Name of the run.
        model: Model to check; the case's model if not given.
        schedulers: Noise schedules; the published ones if not given.

    Returns:
        The relative errors.

    Raises:
        ValueError: The name is not that of a sampling run, or the timestep grids differ.
    """
    match = SAMPLING_RUN.fullmatch(name)
    if match is None:
        raise ValueError(f"{name} is not named like a sampling run: sample-CASE-gammaG-Nsteps")
    model, golden = model or load_case(directory, match["case"]), load_file(directory / f"{name}.safetensors")
    processes = _processes(schedulers or reference.schedulers())
    path = reference_path(processes, int(match["steps"]), float(match["gamma"]) or 1.0)
    for modality, grid in (
        ("audio", _grids(processes, path).audio),
        ("video", _grids(processes, path).video),
    ):
        if not torch.equal(grid, golden[f"timesteps_{modality}"].long()):
            raise ValueError(f"{name}: the {modality} grid is {grid.tolist()}")
    text = AV(audio=golden["text_audio"], video=golden["text_video"])
    predict = guided(model, text.map(lambda x: x[1:]), text.map(lambda x: x[:1]), GUIDANCE)
    noise = AV(audio=golden["init_audio"], video=golden["init_video"])
    ours = sample_joint(predict, noise, path, processes)
    expected = AV(audio=golden["final_audio"], video=golden["final_video"])
    return Result(name, ours.map(relative_error, expected), SAMPLING_TOLERANCE)


def check_grids(directory: Path, name: str = "grids") -> Result:
    """Compare the local timestep grids, which must be equal; errors are the maximum difference."""
    processes = _processes(reference.schedulers())
    worst = AV.both(0.0)
    for row in json.loads((directory / f"{name}.json").read_text()):
        grids = _grids(processes, reference_path(processes, row["steps"], row["gamma"] or 1.0))
        expected = AV(audio=torch.tensor(row["audio"]), video=torch.tensor(row["video"]))
        off = grids.map(lambda ours, golden: float((ours - golden).abs().max()), expected)
        worst = worst.map(max, off)
    return Result(name, worst, 0.0)


def _processes(schedulers: AV[Any]) -> AV[Any]:
    return schedulers.map(lambda scheduler: Discrete.from_scheduler(scheduler, None))


def _grids(processes: AV[Any], path: AV[Tensor]) -> AV[Tensor]:
    return processes.map(lambda process, levels: process.timestep(levels), path)


def relative_error(ours: Tensor, golden: Tensor) -> float:
    """‖ours - golden‖ / ‖golden‖, in float64."""
    return float((ours.double() - golden.double()).norm() / golden.double().norm())


def checks(directory: Path) -> list[tuple[Callable[[Path, str], Result], str]]:
    """All checks that the folder has cases for, as (function, case name).

    Args:
        directory: Folder of golden cases.

    Returns:
        The checks: grids, then forward passes, then sampling runs.

    Raises:
        FileNotFoundError: There are no cases.
    """
    found: list[tuple[Callable[[Path, str], Result], str]] = []
    if (directory / "grids.json").exists():
        found.append((check_grids, "grids"))
    names = sorted(
        path.stem if path.suffix == ".safetensors" else path.name for path in directory.glob("*.safetensors")
    )
    found += [(check_forward, name) for name in names if (directory / f"{name}.json").exists()]
    found += [(check_sampling, name) for name in names if SAMPLING_RUN.fullmatch(name)]
    if not found:
        raise FileNotFoundError(f"no golden cases in {directory}")
    return found


def run(directory: Path) -> Iterator[Result]:
    """Iterate over the results of all golden cases in a folder."""
    for check, name in checks(directory):
        yield check(directory, name)


def main(arguments: list[str] | None = None) -> int:
    """Print a line per case; returns the exit status, 0 if all cases passed."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        print(
            "usage: python -m kinetophone.reference.golden DIR   (a folder of golden cases)",
            file=sys.stderr,
        )
        return 2
    passed = True
    for result in run(Path(arguments[0])):
        verdict = "ok" if result.passed else f"ABOVE {result.tolerance:g}"
        print(f"{result.name:<60} audio {result.error.audio:.1e}  video {result.error.video:.1e}  {verdict}")
        passed &= result.passed
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
