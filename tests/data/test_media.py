"""Decoding says which file is broken; what decodes has the promised shape."""

import io

import numpy as np
import pytest
import soundfile
from PIL import Image

from hmmoe.data.media import Clips, MediaError, decode_audio, decode_image, decode_video, png, wav


def test_an_image_comes_as_rgb_bytes(tmp_path):
    Image.fromarray(np.full((5, 7), 9, np.uint8)).save(tmp_path / "grey.png")
    image = decode_image(tmp_path / "grey.png")
    assert image.shape == (5, 7, 3)
    assert image.dtype == np.uint8
    assert (image == 9).all()


def test_png_and_wav_can_be_read_back():
    image = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    assert (decode_image(png(image)) == image).all()
    wave, rate = decode_audio(wav(np.linspace(-0.5, 0.5, 100, dtype=np.float32), 8000))
    assert (rate, wave.dtype) == (8000, np.float32)
    np.testing.assert_allclose(wave, np.linspace(-0.5, 0.5, 100), atol=1e-4)


def test_stereo_is_averaged(tmp_path):
    soundfile.write(tmp_path / "two.wav", np.stack([np.full(10, 0.5), np.zeros(10)], 1), 8000)
    np.testing.assert_allclose(decode_audio(tmp_path / "two.wav")[0], 0.25, atol=1e-3)


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _picture() -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(out, "JPEG")
    return out.getvalue()


@pytest.mark.parametrize("decode", [decode_image, decode_audio])
def test_a_missing_file_is_named(tmp_path, decode):
    with pytest.raises(MediaError, match=r"nowhere\.xyz does not exist"):
        decode(tmp_path / "nowhere.xyz")


@pytest.mark.parametrize("data", [b"", b"not a picture", _cut(_picture())])
def test_a_broken_image_is_named(tmp_path, data):
    (tmp_path / "bad.jpg").write_bytes(data)
    with pytest.raises(MediaError, match=r"image .*bad\.jpg cannot be decoded"):
        decode_image(tmp_path / "bad.jpg")
    with pytest.raises(MediaError, match="image row 3 cannot be decoded"):
        decode_image(data, "row 3")


@pytest.mark.parametrize("data", [b"", b"not a sound", wav(np.zeros(0, np.float32), 8000)])
def test_a_broken_sound_is_named(tmp_path, data):
    (tmp_path / "bad.wav").write_bytes(data)
    with pytest.raises(MediaError, match=r"audio .*bad\.wav cannot be decoded"):
        decode_audio(tmp_path / "bad.wav")


def test_clips_are_decoded_once_and_named_when_they_are_not_there():
    clips = Clips({"a": wav(np.ones(8, np.float32) / 2, 8000), "b": b"?"}, "clips.parquet")
    assert clips["a"] is clips["a"]
    with pytest.raises(MediaError, match=r"b in clips\.parquet cannot be decoded"):
        clips["b"]
    with pytest.raises(MediaError, match=r"audio c is not in clips\.parquet"):
        clips["c"]


def test_a_video_gives_one_frame_a_second(tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "v.mp4"), "w") as out:
        stream = out.add_stream("mpeg4", rate=4)
        stream.width = stream.height = 32
        for i in range(12):  # three seconds, each of its own grey
            image = np.full((32, 32, 3), 20 + 80 * (i // 4), np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(stream.encode())
    frames = decode_video(tmp_path / "v.mp4", 5)
    assert frames.shape == (5, 32, 32, 3)
    np.testing.assert_allclose(frames.mean((1, 2, 3)), [20, 100, 180, 180, 180], atol=6)
    assert (decode_video((tmp_path / "v.mp4").read_bytes(), 2) == frames[:2]).all()


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_a_truncated_sound_is_named(tmp_path, kind):
    out, wave = io.BytesIO(), np.random.default_rng(0).uniform(-0.1, 0.1, 32000)
    soundfile.write(out, wave, 16000, format=kind)
    (tmp_path / "cut.snd").write_bytes(out.getvalue())
    assert len(decode_audio(tmp_path / "cut.snd")[0]) == 32000
    (tmp_path / "cut.snd").write_bytes(_cut(out.getvalue()))
    with pytest.raises(MediaError, match=r"audio .*cut\.snd cannot be decoded"):
        decode_audio(tmp_path / "cut.snd")


def test_a_wav_file_from_a_pipe_has_no_length_to_miss():
    data = bytearray(wav(np.ones(100, np.float32) / 2, 8000))
    data[40:44] = b"\xff\xff\xff\xff"
    assert len(decode_audio(bytes(data))[0]) == 100


def test_a_truncated_video_is_named(tmp_path):
    av = pytest.importorskip("av")
    for name in ("cut.mp4", "cut.avi"):
        with av.open(str(tmp_path / name), "w") as out:
            stream = out.add_stream("mpeg4", rate=4)
            stream.width = stream.height = 32
            for _ in range(20):
                image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
                out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            out.mux(stream.encode())
        (tmp_path / name).write_bytes(_cut((tmp_path / name).read_bytes()))
        with pytest.raises(MediaError, match=rf"video .*{name} cannot be decoded"):
            decode_video(tmp_path / name, 5)


@pytest.mark.parametrize("data", [b"", b"not a video"])
def test_a_broken_video_is_named(tmp_path, data):
    pytest.importorskip("av")
    (tmp_path / "bad.mp4").write_bytes(data)
    with pytest.raises(MediaError, match=r"video .*bad\.mp4 cannot be decoded"):
        decode_video(tmp_path / "bad.mp4", 2)
