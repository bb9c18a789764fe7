"""The shared loop: learns, resumes to the same weights, skips what is not finite."""

import dataclasses
import json
import math
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import nn

from kinetophone.errors import UserError
from kinetophone.training import checkpoints
from kinetophone.training.loop import NonFiniteLossError, learning_rate, train
from kinetophone.training.recipe import LoopConfig

CONFIG = LoopConfig(
    steps=30,
    batch_size=8,
    lr=0.05,
    warmup=3,
    checkpoint_every=7,
    sample_every=1000,
    log_every=10,
    weight_decay=0.0,
)


class Line:
    """Fits y = 2 x + 1 with noise; the loss is NaN in the calls named ``broken``."""

    def __init__(self, broken=(), scale=1.0):
        torch.manual_seed(0)
        self.net = nn.Linear(1, 1)
        self.trained = {"net": self.net}
        self.broken, self.scale, self.calls, self.exported = broken, scale, 0, None

    def loss(self, rng, generator):
        x = torch.from_numpy(rng.standard_normal((8, 1)).astype(np.float32))
        y = 2 * x + 1 + 0.01 * torch.randn(x.shape, generator=generator)
        self.calls += 1
        loss = (self.net(x) - y).square().mean() * self.scale
        return {"loss": loss * float("nan") if self.calls in self.broken else loss}

    def sample(self, folder, step):
        (folder / f"sample-{step}").touch()

    def export(self):
        self.exported = [p.detach().clone() for p in self.net.parameters()]


def weights(stage):
    return torch.cat([p.detach().flatten() for p in stage.net.parameters()])


@pytest.mark.parametrize("stops", [[7], [5, 19], [1, 2, 29]])
def test_a_resumed_run_ends_with_the_weights_of_one_that_was_not_stopped(tmp_path, stops):
    whole = Line()
    train(whole, CONFIG, tmp_path / "whole")
    for stop in stops:
        train(Line(), CONFIG, tmp_path / "parts", stop_at=stop)
    last = Line()
    train(last, CONFIG, tmp_path / "parts")
    torch.testing.assert_close(weights(last), weights(whole), rtol=0, atol=0)
    torch.testing.assert_close(last.exported, whole.exported, rtol=0, atol=0)


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_eight_bit_adamw_learns_and_resumes(tmp_path):
    def wide():  # tensors below 4,096 elements would stay in float32
        stage = Line()
        stage.net = nn.Sequential(nn.Linear(1, 4096), nn.Tanh(), nn.Linear(4096, 1))
        stage.trained = {"net": stage.net}
        return stage

    config = dataclasses.replace(CONFIG, optimizer="adamw8bit", lr=1e-3)
    whole, last = wide(), None
    train(whole, config, tmp_path / "whole")
    train(wide(), config, tmp_path / "parts", stop_at=11)
    train(last := wide(), config, tmp_path / "parts")
    torch.testing.assert_close(weights(last), weights(whole), rtol=0, atol=0)
    rows = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < rows[0]["loss"] / 2
    state = checkpoints.load(checkpoints.find(tmp_path / "whole")[-1])["optimizer"]["state"][0]
    assert "torch.uint8" in repr(state)


def test_it_learns_and_exports_averaged_weights(tmp_path):
    stage = Line()
    train(stage, LoopConfig(steps=200, batch_size=8, lr=0.05, sample_every=200, weight_decay=0.0), tmp_path)
    assert weights(stage).tolist() == pytest.approx([2, 1], abs=0.05)
    assert torch.cat([p.flatten() for p in stage.exported]).tolist() == pytest.approx([2, 1], abs=0.1)
    assert (tmp_path / "sample-200").exists()
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, *range(25, 201, 25)]  # the first step shows at once


def test_a_step_without_a_finite_loss_is_skipped_and_counted(tmp_path):
    stage = Line(broken={10, 11, 15})
    train(stage, CONFIG, tmp_path)
    assert all(p.isfinite().all() for p in stage.net.parameters())
    row = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert row["skipped"] == 3
    assert math.isfinite(row["loss"])


def test_too_many_such_steps_in_a_row_stop_the_run_and_the_last_checkpoint_is_kept(tmp_path):
    config = dataclasses.replace(CONFIG, max_skipped=3)
    with pytest.raises(
        NonFiniteLossError, match=r"3 steps in a row, up to step 11; .*checkpoint-00000007\.pt"
    ):
        train(Line(broken={10, 11, 12}), config, tmp_path)
    assert checkpoints.load(checkpoints.find(tmp_path)[-1])["step"] == 7


def test_skipped_steps_in_a_row_are_counted_across_a_resume(tmp_path):
    config = dataclasses.replace(CONFIG, max_skipped=3)
    train(Line(broken={7}), config, tmp_path, stop_at=7)
    with pytest.raises(NonFiniteLossError, match="up to step 8"):
        train(Line(broken={1, 2}), config, tmp_path)


def test_float16_skips_the_steps_whose_scaled_gradients_overflow(tmp_path):
    stage = Line(scale=100.0)  # times the first loss scale of 65536: above what float16 holds
    config = dataclasses.replace(CONFIG, precision="float16", max_skipped=20)
    before = weights(stage)
    train(stage, config, tmp_path)
    row = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert 0 < row["skipped"] < 15
    assert weights(stage).isfinite().all()
    assert (weights(stage) - before).abs().max() > 0.1


def test_starting_afresh_removes_the_old_checkpoints(tmp_path):
    train(Line(), CONFIG, tmp_path)
    train(Line(), CONFIG, tmp_path, resume=False, stop_at=7)
    assert [checkpoints.load(path)["step"] for path in checkpoints.find(tmp_path)] == [7]


def test_another_models_checkpoint_is_refused(tmp_path):
    train(Line(), CONFIG, tmp_path, stop_at=7)
    other = Line()
    other.trained = {"other": other.net}
    with pytest.raises(UserError, match="belongs to another model"):
        train(other, CONFIG, tmp_path)


def test_learning_rate_warms_up_and_falls_to_zero():
    rates = [learning_rate(CONFIG, step) for step in range(CONFIG.steps + 1)]
    assert rates[:3] == pytest.approx([0.05 / 3, 0.1 / 3, 0.05])
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[-1] == pytest.approx(0)


def test_the_average_is_exported_and_the_run_keeps_its_own_weights(tmp_path):
    line, seen = Line(), []
    loss = line.loss
    line.loss = lambda *given: seen.append(weights(line)) or loss(*given)
    config = dataclasses.replace(CONFIG, ema_decay=0.6)
    train(line, config, tmp_path)
    average, *later = [*seen[1:], weights(line)]
    for step, live in enumerate(later, start=1):
        decay = min(0.6, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * live
    torch.testing.assert_close(torch.cat([p.flatten() for p in line.exported]), average)
    assert not torch.allclose(average, weights(line))


def test_the_constant_schedule_keeps_the_rate():
    config = dataclasses.replace(CONFIG, schedule="constant")
    assert [learning_rate(config, step) for step in (2, 15, 29)] == pytest.approx([0.05] * 3)


@pytest.mark.parametrize(("cpu", "precision", "told"), [
    ("AVX2", "bfloat16", True), ("AVX512", "bfloat16", False), ("AVX2", "float32", False),
])  # fmt: skip
def test_it_is_said_where_half_precision_is_emulated(tmp_path, monkeypatch, capsys, cpu, precision, told):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: cpu)
    train(Line(), dataclasses.replace(CONFIG, steps=1, precision=precision), tmp_path)
    assert ("choose float32" in capsys.readouterr().out) == told
