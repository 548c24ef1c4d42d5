"""What VALOR adds around its encoders and BERT: the mask of prompt and text, the media memory, the heads."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration import ValorConfig
from .objectives import FineFeatures

HIDDEN = -10000.0  # what VALOR adds to the score of a place that may not be seen


def text_bias(text_mask: Tensor, prompt_mask: Tensor | None, causal: bool, dtype: torch.dtype) -> Tensor:
    """Additive mask (B, 1, P + L, P + L) over [prompt, text]: 0 where a row's token sees a column's, else
    -10000.

    Causal: text sees the prompt and the text up to itself; the prompt does not see the text.
    Not causal: every token sees every real one.
    """
    B, L = text_mask.shape
    if prompt_mask is None:
        prompt_mask = text_mask[:, :0]
    P = prompt_mask.shape[1]
    real = torch.cat([prompt_mask, text_mask], dim=1).bool()
    sees = real[:, None, :].expand(B, P + L, P + L)
    if causal:
        order = torch.ones(P + L, P + L, dtype=torch.bool, device=real.device).tril()
        order[:P, :P] = True
        sees = sees & order
    return torch.zeros(sees.shape, dtype=dtype, device=real.device).masked_fill(~sees, HIDDEN)[:, None]


class MediaMemory(nn.Module):
    """Brings an encoder's tokens to the decoder: its width, and marks of the frame (or clip) and medium."""

    def __init__(self, width: int, text_width: int, frames: int):
        super().__init__()
        self.project: nn.Module = nn.Identity()
        if width != text_width:
            self.project = nn.Sequential(nn.Linear(width, text_width), nn.LayerNorm(text_width, eps=1e-12))
        self.frame_embedding = nn.Parameter(torch.zeros(1, frames, text_width))
        self.type_embedding = nn.Parameter(torch.zeros(1, 1, text_width))

    def forward(self, states: Tensor) -> Tensor:
        """(B, T, N, D) -> (B, T·N, text width)."""
        T, most = states.shape[1], self.frame_embedding.shape[1]
        if most < T:
            raise ValueError(
                f"{T} frames or clips are too many: the model tells {most} apart (max_frames, max_clips)"
            )
        states = self.project(states) + self.frame_embedding[:, :T, None] + self.type_embedding[:, :, None]
        return states.flatten(1, 2)


class CaptionHead(nn.Module):
    """Words from the decoder's states; the last matrix is the word embedding."""

    def __init__(self, config: ValorConfig):
        super().__init__()
        text = config.text_config
        self.dense = nn.Linear(text.hidden_size, text.hidden_size)
        self.layernorm = nn.LayerNorm(text.hidden_size, eps=text.layer_norm_eps)
        self.decoder = nn.Linear(text.hidden_size, text.vocab_size)

    def forward(self, states: Tensor) -> Tensor:
        return self.decoder(self.layernorm(F.gelu(self.dense(states))))


class Alignment(nn.Module):
    """Into the space where words, frames and audio clips are compared, with how much each of them counts."""

    def __init__(self, config: ValorConfig):
        super().__init__()
        self.clip_frames, C = config.clip_frames, config.contra_dim
        self.contra_head_t = nn.Linear(config.text_config.hidden_size, C, bias=False)
        self.contra_head_v = nn.Linear(config.vision_config.hidden_size, C, bias=False)
        self.contra_head_a = nn.Linear(config.audio_config.hidden_size, C, bias=False)
        self.text_fine_weight = _fine_weight(C)
        self.video_fine_weight = _fine_weight(C)
        self.audio_fine_weight = _fine_weight(C)
        if config.clip_frames:
            self.logit_scale = nn.Parameter(torch.tensor(-math.log(config.contra_temp)))
        else:
            self.contra_temp = nn.Parameter(torch.tensor(config.contra_temp))

    def text(self, states: Tensor, mask: Tensor | None) -> FineFeatures:
        """One vector per word of (B, L, D), real where `mask` (B, L) is nonzero."""
        return _fine(self.contra_head_t(states), self.text_fine_weight, mask)

    def video(self, states: Tensor, mask: Tensor | None = None) -> FineFeatures:
        """One vector per frame of (B, T, N, D): CLIP's class token, or the mean over a VideoSwin frame; real
        where `mask` (B, T) is nonzero.
        """
        frames = states[:, :, 0] if self.clip_frames else states.mean(dim=2)
        return _fine(self.contra_head_v(frames), self.video_fine_weight, mask)

    def audio(self, states: Tensor, mask: Tensor | None = None) -> FineFeatures:
        """One vector per clip of (B, S, N, D): its class token; real where `mask` (B, S) is nonzero."""
        return _fine(self.contra_head_a(states[:, :, 0]), self.audio_fine_weight, mask)

    @property
    def temperature(self) -> Tensor:
        """What similarities are divided by in MGA."""
        return torch.exp(-self.logit_scale) if self.clip_frames else self.contra_temp


def _fine(vectors: Tensor, weight: nn.Module, mask: Tensor | None) -> FineFeatures:
    vectors = F.normalize(vectors, dim=-1)
    scores = weight(vectors).squeeze(-1)
    real = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask.bool()
    return FineFeatures(vectors, scores, real)


def _fine_weight(width: int) -> nn.Sequential:
    """Scores how much one word, frame or clip counts in the comparison."""
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))
