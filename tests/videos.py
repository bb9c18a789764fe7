"""Video files to read in tests, difficult ones among them."""

import struct
from fractions import Fraction

import av
import numpy as np


def write_video(
    path, seconds=1.25, size=(64, 64), fps=8, rate=16_000, sound="tone", layout="mono", times=None
):
    """A picture whose left quarter is red, and a tone, silence or no sound; ``times`` are the frames' own."""
    width, height = size
    with av.open(str(path), "w") as file:
        video = file.add_stream("libx264", rate=fps)
        video.width, video.height, video.pix_fmt = (
            width,
            height,
            "yuv420p" if not (width % 2 or height % 2) else "yuv444p",
        )
        video.codec_context.time_base = Fraction(1, 1000)
        frames = np.zeros((height, width, 3), np.uint8)
        frames[:, : width // 4] = (255, 0, 0)
        audio = None if sound is None else file.add_stream("aac", rate=rate, layout=layout)
        for i in range(round(seconds * fps) if times is None else len(times)):
            frame = av.VideoFrame.from_ndarray(frames, format="rgb24")
            frame.pts = round(1000 * (i / fps if times is None else times[i]))
            frame.time_base = Fraction(1, 1000)
            file.mux(video.encode(frame))
        file.mux(video.encode())
        if audio is not None:
            t = np.arange(round(seconds * rate)) / rate
            wave = 0.3 * np.sin(2 * np.pi * 440 * t) * (sound == "tone")
            samples = np.tile(wave.astype(np.float32), (2 if layout == "stereo" else 1, 1))
            chunk = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
            chunk.sample_rate = rate
            file.mux(audio.encode(chunk))
            file.mux(audio.encode())


def rotate(path):
    """Say in an .mp4 that it is to be shown turned to the right, as a phone held upright does."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 44
    content[at : at + 36] = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 0x40000000)
    path.write_bytes(content)


def write_difficult(folder):
    """One file of each kind that a folder from a phone, a camera or the net may hold."""
    write_video(folder / "stereo_44k.mp4", rate=44_100, layout="stereo")
    write_video(folder / "odd_size.mp4", size=(71, 53))
    write_video(folder / "variable_rate.mp4", times=[0, 0.03, 0.1, 0.5, 0.55, 0.9, 1.2], seconds=1.25)
    write_video(folder / "turned.mp4", size=(96, 64))
    rotate(folder / "turned.mp4")
    write_video(folder / "no_sound.mp4", sound=None)
    write_video(folder / "silent.mp4", sound="silence")
    write_video(folder / "short.mp4", seconds=0.5)
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("this is no video")
    whole = (folder / "stereo_44k.mp4").read_bytes()
    (folder / "cut_off.mp4").write_bytes(whole[: len(whole) // 2])


USED = ("stereo_44k.mp4", "odd_size.mp4", "variable_rate.mp4", "turned.mp4")  # of them, a clip of 1 s each
REJECTED = {
    "no_sound.mp4": "no audio stream",
    "silent.mp4": "silent",
    "short.mp4": "0.50 s long, shorter than a clip of 1 s",
    "empty.mp4": "empty (0 bytes)",
    "text.mp4": "corrupt, not a media file",
    "cut_off.mp4": "corrupt, not a media file",
}
