"""The seam measures on true clips, which have none, and on hard cuts, which have nothing else."""

from dataclasses import replace

import numpy as np

from kinetophone.hits import FPS, SAMPLE_RATE, make_clip
from kinetophone.media.clip import Clip
from kinetophone.metrics.seams import audio_jump, level_step, video_jump

SEAM_S = 1.5


def clips():
    made = [make_clip("val", i) for i in range(12)]
    return [Clip(video=c.video, fps=FPS, audio=c.audio, sample_rate=SAMPLE_RATE) for c in made]


def cut(a, b):
    frame, sample = round(SEAM_S * FPS), round(SEAM_S * SAMPLE_RATE)
    return replace(
        a,
        video=np.concatenate([a.video[:frame], b.video[frame:]]),
        audio=np.concatenate([a.audio[:sample], b.audio[sample:]]),
    )


def test_a_hard_cut_stands_out_of_what_has_no_seam():
    whole = clips()
    hard = [cut(a, b) for a, b in zip(whole, whole[1:] + whole[:1], strict=True)]
    for measure, least in ((audio_jump, 6), (level_step, 4), (video_jump, 10)):
        untouched, severed = (np.mean([measure(c, SEAM_S) for c in some]) for some in (whole, hard))
        assert severed > untouched + least, measure.__name__


def test_a_step_is_measured_in_decibels_of_those_beside_it():
    rng = np.random.default_rng(0)
    audio = (0.01 * rng.standard_normal(16_000)).astype(np.float32)
    still = Clip(video=np.zeros((8, 8, 8, 3), np.uint8), fps=8, audio=audio, sample_rate=16_000)
    audio = audio.copy()
    audio[8_000:] += 0.5
    clicks = replace(still, audio=np.clip(audio, -1, 1))
    assert audio_jump(still, 0.5) < 10 < 25 < audio_jump(clicks, 0.5)
    louder = replace(still, audio=np.concatenate([still.audio[:8_000], 10 * still.audio[8_000:]]))
    assert abs(level_step(louder, 0.5) - 20) < 1
    assert video_jump(still, 0.5) == 0


def test_no_step_is_heard_between_a_room_and_a_silence():
    rng = np.random.default_rng(0)
    audio = (1e-4 * rng.standard_normal(16_000)).astype(np.float32)
    audio[8_000:] = 0
    audio[2_000:4_000] += 0.2 * rng.standard_normal(2_000).astype(np.float32)
    clip = Clip(video=np.zeros((8, 8, 8, 3), np.uint8), fps=8, audio=audio, sample_rate=16_000)
    assert level_step(clip, 0.5) < 2
    assert level_step(clip, 0.25) > 40
    assert level_step(replace(clip, audio=0 * audio), 0.5) == 0
