"""What VALOR adds around its encoders and BERT: the mask of prompt and text, the media memory, the heads."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration import ValorConfig

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


def fine_weight(width: int) -> nn.Sequential:
    """Scores how much one word, frame or clip counts in the comparison."""
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))
