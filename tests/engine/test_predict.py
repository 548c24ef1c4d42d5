"""`hmmoe predict` on the user's own files: a video and its sound through a task whose streams are folded."""

import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from hmmoe.cli import app
from hmmoe.data.media import wav
from hmmoe.engine.recipe import Recipe
from hmmoe.engine.train import train

sys.path[:0] = [str(Path(__file__).parents[1] / folder) for folder in ("backbones", "tasks")]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run on a tiny pack, on a ViT of frames and a Whisper of seconds; media lie beside it."""
    from folders import vit, whisper_encoder
    from packs import ave_mini, sound

    folder = tmp_path_factory.mktemp("predict")
    for name, make in (("pack", ave_mini), ("vit", vit), ("whisper", whisper_encoder)):
        (folder / name).mkdir()
        make(folder / name)
    recipe = Recipe.from_dict(
        {
            "name": "tiny",
            "task": {"name": "ave_mini", "root": str(folder / "pack")},
            "towers": {
                "video": {"name": str(folder / "vit")},
                "audio": {"name": str(folder / "whisper"), "seconds": 1},
            },
            "method": {"name": "hmmoe", "rank": 2},
            "train": {"max_steps": 2, "batch_size": 2, "evaluations": 1},
        }
    )
    train(recipe, folder / "run")
    film(folder / "clip.mp4", rate=22050)
    film(folder / "silent.mp4")
    (folder / "sound.wav").write_bytes(wav(sound(4, 44100), 44100))
    return folder / "run"


def film(path: Path, rate: int | None = None) -> None:
    """Three seconds of 80 x 48 pixels, with a soft tone where `rate` is given."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as out:
        pictures = out.add_stream("mpeg4", rate=4)
        pictures.width, pictures.height = 80, 48
        tone = out.add_stream("aac", rate=rate) if rate else None
        for i in range(12):
            frame = np.full((48, 80, 3), 20 * i, np.uint8)
            out.mux(pictures.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(pictures.encode())
        if tone:
            wave = np.sin(np.arange(3 * rate) / 8)[None].astype(np.float32) / 4
            heard = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
            heard.sample_rate = rate
            out.mux(tone.encode(heard))
            out.mux(tone.encode())


def ask(run: Path, **inputs: str):
    return CliRunner().invoke(
        app, ["predict", str(run), *(f"{k}={run.parent / v}" for k, v in inputs.items())]
    )


@pytest.mark.parametrize("audio", ["sound.wav", "clip.mp4"])
def test_a_video_and_a_sound_are_answered_second_by_second(run, audio):
    done = ask(run, video="clip.mp4", audio=audio)
    assert done.exit_code == 0, done.output
    runs = [part.split(" ") for part in done.stdout.strip().split(", ")]
    assert {word for _, word in runs} <= {"dog", "rain", "background"}
    bounds = [[int(b) for b in seconds.split("-")] for seconds, _ in runs]
    assert [s for b in bounds for s in range(b[0], b[-1] + 1)] == list(range(10))


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"video": "clip.mp4"}, "the task needs stream 'audio' too; add audio=…"),
        ({"video": "gone.mp4", "audio": "sound.wav"}, "gone.mp4 does not exist"),
        ({"video": "sound.wav", "audio": "sound.wav"}, "sound.wav cannot be decoded: it has no pictures"),
        ({"video": "clip.mp4", "audio": "silent.mp4"}, "audio {folder}/silent.mp4 cannot be decoded"),
    ],
)
def test_what_is_wrong_with_the_files_is_one_sentence(run, inputs, said):
    done = ask(run, **inputs)
    assert done.exit_code == 2
    assert said.format(folder=run.parent) in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_stream_given_twice_is_refused(run):
    done = CliRunner().invoke(app, ["predict", str(run), "video=a.mp4", "video=b.mp4"])
    assert done.exit_code == 2
    assert "stream 'video' is given twice" in done.stderr
