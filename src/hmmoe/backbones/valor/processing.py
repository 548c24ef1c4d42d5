"""Raw frames, sound and words to the tensors of `ValorModel`."""

import re
import string
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import ProcessorMixin
from transformers.feature_extraction_utils import BatchFeature

from hmmoe.backbones.inputs import ImageInputs
from hmmoe.backbones.resample import resample
from hmmoe.errors import unknown

from .audio import RATE, audio_clips

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PROMPTS = {
    "retrieval": "project language in common space",
    "caption": "describe the video with natural language",
    "qa": "answer the question",
}
PUNCTUATION = str.maketrans("", "", string.punctuation)


def clean(text: str) -> str:
    """Lower case, no punctuation, single spaces."""
    return re.sub(r"\s+", " ", text.lower().translate(PUNCTUATION)).strip()


def sample_segments(count: int, wanted: int, rng: np.random.Generator | None = None) -> list[int]:
    """One index out of each of `wanted` equal segments of 0 .. count - 1.

    With `rng` any of the segment (training), without it the middle one (evaluation). With fewer items than
    segments items repeat.
    """
    edges = [i * count // wanted for i in range(wanted + 1)]
    chosen = []
    for start, end in pairwise(edges):
        length = max(end - start, 1)
        chosen.append(start + (int(rng.integers(length)) if rng else (length + 1) // 2 - 1))
    return chosen


class ValorProcessor(ProcessorMixin):
    """Samples and norms frames, cuts sound into log-mel clips, cleans and tokenises text.

    Args:
        tokenizer: BERT's, uncased.
        image_size: side of the square that frames are resized to.
        image_mean, image_std: CLIP's by default, for VALOR-L; VALOR-B takes ImageNet's.
        mel_bands, clip_steps: shape of an audio clip.
        max_length: tokens of a text, [CLS] and [SEP] included.
        use_task_prompt: whether prompts begin with the task's sentence, as VALOR-L was trained.
    """

    def __init__(
        self,
        tokenizer: Any,
        image_size: int = 224,
        image_mean: Sequence[float] = CLIP_MEAN,
        image_std: Sequence[float] = CLIP_STD,
        mel_bands: int = 64,
        clip_steps: int = 512,
        max_length: int = 30,
        use_task_prompt: bool = True,
        **kwargs: Any,
    ):
        self.image_size, self.image_mean, self.image_std = image_size, list(image_mean), list(image_std)
        self.mel_bands, self.clip_steps = mel_bands, clip_steps
        self.max_length, self.use_task_prompt = max_length, use_task_prompt
        super().__init__(tokenizer, **kwargs)

    @classmethod
    def for_config(cls, config: Any, tokenizer: Any) -> "ValorProcessor":
        """The processor that fits a `ValorConfig`."""
        clip = config.clip_frames
        return cls(
            tokenizer,
            image_size=config.vision_config.image_size if clip else 224,
            image_mean=CLIP_MEAN if clip else IMAGENET_MEAN,
            image_std=CLIP_STD if clip else IMAGENET_STD,
            mel_bands=config.audio_config.num_mel_bins,
            clip_steps=config.audio_config.max_length,
            use_task_prompt=config.use_task_prompt,
        )

    def __call__(
        self,
        videos: Sequence[Any] | None = None,
        audios: Sequence[tuple[np.ndarray, int] | None] | None = None,
        text: Sequence[str] | None = None,
        *,
        num_frames: int = 8,
        num_clips: int = 2,
        rng: np.random.Generator | None = None,
    ) -> BatchFeature:
        """Inputs of `ValorModel.forward`, a batch.

        Args:
            videos: for each sample its frames in order, PIL images or uint8 (H, W, 3).
            audios: for each sample (mono waveform in [-1, 1], samples per second), or None if it has no
                sound.
            text: for each sample a sentence.
            num_frames, num_clips: how many to take of each sample, spread evenly.
            rng: takes random frames and clips of each segment (training) instead of the middle ones.

        Returns:
            pixel_values (B, T, 3, H, W); audio_values (B, S, bands, steps), zeros without sound, and
            audio_present (B,) which tells; input_ids and attention_mask (B, max_length). Only what was given.

        Raises:
            ValueError: if a sample has no frames, or its waveform is not mono or not finite.
        """
        out: dict[str, Tensor] = {}
        if videos is not None:
            pixels = [self._frames(i, frames, num_frames, rng) for i, frames in enumerate(videos)]
            out["pixel_values"] = torch.stack(pixels)
        if audios is not None:
            sounds = [self._clips(i, audio, num_clips, rng) for i, audio in enumerate(audios)]
            silence = torch.zeros(num_clips, self.mel_bands, self.clip_steps)
            out["audio_values"] = torch.stack([silence if clips is None else clips for clips in sounds])
            out["audio_present"] = torch.tensor([clips is not None for clips in sounds])
        if text is not None:
            out |= self._words([clean(t) for t in text], "max_length", self.max_length)
        return BatchFeature(out)

    def prompt(self, task: str, batch: int = 1, questions: Sequence[str] | None = None) -> dict[str, Tensor]:
        """`prompt_ids` and `prompt_mask` (B, P): [CLS] the task's sentence, the question [SEP].

        Args:
            task: "retrieval", "caption" or "qa".
            batch: number of samples where there are no questions.
            questions: one for each sample; needed for "qa" and only there.

        Returns:
            The two tensors; empty where the model uses no prompts and there is no question.

        Raises:
            ValueError: if the task is unknown, or questions are given where none belong, or the other way
                round.
        """
        if task not in PROMPTS:
            raise ValueError(unknown("task", task, PROMPTS))
        if (task == "qa") != (questions is not None):
            raise ValueError(f"task {task!r} {'needs' if task == 'qa' else 'takes no'} questions")
        words = PROMPTS[task] if self.use_task_prompt else ""
        texts = (
            [f"{words} {clean(q)}".strip() for q in questions] if questions is not None else [words] * batch
        )
        if not any(texts):
            return {}
        # room for the task's sentence beside a question of full length
        tokens = self._words(texts, "longest", 2 * self.max_length)
        return {"prompt_ids": tokens["input_ids"], "prompt_mask": tokens["attention_mask"]}

    def task_words(self, task: str) -> dict[str, Tensor]:
        """The task's sentence alone, `prompt_ids` and `prompt_mask` (1, P); empty without prompts."""
        if task not in PROMPTS:
            raise ValueError(unknown("task", task, PROMPTS))
        if not self.use_task_prompt:
            return {}
        tokens = self._words([PROMPTS[task]], "longest", self.max_length)
        return {"prompt_ids": tokens["input_ids"], "prompt_mask": tokens["attention_mask"]}

    def _words(self, texts: list[str], padding: str, length: int) -> dict[str, Tensor]:
        tokens = self.tokenizer(
            texts, padding=padding, truncation=True, max_length=length, return_tensors="pt"
        )
        return {name: tokens[name] for name in ("input_ids", "attention_mask")}

    def _frames(self, sample: int, frames: Any, wanted: int, rng: np.random.Generator | None) -> Tensor:
        if not len(frames):
            raise ValueError(f"videos[{sample}] has no frames: leave the sample out")
        chosen = [frames[i] for i in sample_segments(len(frames), wanted, rng)]
        mean, std = (tuple(values) for values in (self.image_mean, self.image_std))
        return ImageInputs(self.image_size, mean, std)(chosen)["pixel_values"]  # type: ignore[arg-type]

    def _clips(
        self, sample: int, audio: tuple[np.ndarray, int] | None, wanted: int, rng: np.random.Generator | None
    ) -> Tensor | None:
        if audio is None or not len(audio[0]):
            return None
        wave, rate = np.asarray(audio[0], dtype=np.float32), audio[1]
        if wave.ndim != 1 or not np.isfinite(wave).all():
            raise ValueError(
                f"audios[{sample}] has shape {wave.shape} or values that are not finite: "
                "give a mono waveform (S,)"
            )
        clips = audio_clips(resample(wave, rate, RATE), self.mel_bands, self.clip_steps)
        return torch.from_numpy(clips[sample_segments(len(clips), wanted, rng)])
