"""Answers from pictures, sound and question, in space and time (after Li et al., CVPR 2022).

    g_t  = Σ_n softmax_n(<v_tn, a_t> / √C) v_tn        where the sound of second t is seen
    v_t  = W [mean_n v_tn, g_t]
    a    = q + attention(q; a_1 … a_T),   v = q + attention(q; v_1 … v_T)      when the question is answered
    p    = W_p (tanh(W_f [a, v]) * q)

Departs from the published net in its sizes and in that no pictures of other videos are drawn for a matching
loss.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence

from hmmoe.tasks.heads import summary

VIDEO, AUDIO, TEXT = "video", "audio", "text"


class QuestionLSTM(nn.Module):
    """The last state of an LSTM over the words that are there: (B, N, D) -> (B, C)."""

    def __init__(self, width: int, channels: int):
        super().__init__()
        self.embed = nn.Linear(width, channels, bias=False)
        self.lstm = nn.LSTM(channels, channels, batch_first=True)

    def forward(self, states: Tensor, mask: Tensor | None) -> Tensor:
        words = self.embed(states).tanh()
        if mask is None:
            return self.lstm(words)[1][0][-1]
        lengths = mask.sum(-1).clamp(min=1).cpu()
        packed = pack_padded_sequence(words, lengths, batch_first=True, enforce_sorted=False)
        return self.lstm(packed)[1][0][-1]


class QuestionMean(nn.Module):
    """A projection of the mean token: (B, N, D) -> (B, C)."""

    def __init__(self, width: int, channels: int):
        super().__init__()
        self.project = nn.Linear(width, channels)

    def forward(self, states: Tensor, mask: Tensor | None) -> Tensor:
        return self.project(summary(states, mask)).tanh()


QUESTIONS: dict[str, type[nn.Module]] = {"mean": QuestionMean, "lstm": QuestionLSTM}


class GroundedHead(nn.Module):
    """Logits (B, answers) from "video" (B, T, N, D), "audio" (B, T, N, D) and "text" (B, N, D).

    A missing stream counts as zeros.

    Args:
        widths: stream -> width.
        answers: size of the vocabulary.
        question: a key of `QUESTIONS`, how the question becomes one vector.
        channels: C.
        heads: of the attention over time.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        answers: int,
        question: str = "mean",
        channels: int = 512,
        heads: int = 4,
    ):
        super().__init__()
        self.channels = channels
        self.ask = QUESTIONS[question](widths[TEXT], channels)
        self.see, self.hear = nn.Linear(widths[VIDEO], channels), nn.Linear(widths[AUDIO], channels)
        self.ground = nn.Linear(2 * channels, channels)
        self.when = nn.ModuleDict({m: When(channels, heads) for m in (VIDEO, AUDIO)})
        self.fuse = nn.Linear(2 * channels, channels)
        self.answer = nn.Linear(channels, answers)

    def forward(self, states: Mapping[str, Tensor], masks: Mapping[str, Tensor | None]) -> Tensor:
        like = next(iter(states.values()))
        question = like.new_zeros(len(like), self.channels)
        if TEXT in states:
            question = self.ask(states[TEXT], masks.get(TEXT))  # (B, C)
        nothing = like.new_zeros(len(like), 1, self.channels)
        heard = nothing
        if AUDIO in states:
            heard = self.hear(summary(states[AUDIO], masks.get(AUDIO)))  # (B, T, C)
        seen = nothing
        if VIDEO in states:
            seen = self._ground(states[VIDEO], masks.get(VIDEO), heard)
        times = [self.when[VIDEO](question, seen), self.when[AUDIO](question, heard)]
        return self.answer(self.fuse(torch.cat(times, -1)).tanh() * question)

    def _ground(self, x: Tensor, mask: Tensor | None, heard: Tensor) -> Tensor:
        """Per step the mean picture and where its sound is seen: (B, T, C)."""
        v = self.see(F.layer_norm(x, x.shape[-1:]))  # (B, T, N, C)
        if mask is not None:
            v = v * mask[..., None]
        weights = torch.einsum("btnc,btc->btn", v, heard.expand(-1, v.shape[1], -1)) / self.channels**0.5
        ground = torch.einsum("btn,btnc->btc", weights.softmax(-1), v)
        return self.ground(torch.cat([v.mean(2), ground], -1))

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy; labels (B, 2) are the answer and the row's number."""
        return F.cross_entropy(logits.float(), labels[:, 0])


class When(nn.Module):
    """The question attends to the steps: q (B, C) and steps (B, T, C) -> (B, C)."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.attention = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.wide, self.narrow = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.norms = nn.ModuleList([nn.LayerNorm(channels), nn.LayerNorm(channels)])

    def forward(self, question: Tensor, steps: Tensor) -> Tensor:
        found = self.attention(question[:, None], steps, steps, need_weights=False)[0][:, 0]
        found = self.norms[0](question + found)
        return self.norms[1](found + self.narrow(F.relu(self.wide(found))))
