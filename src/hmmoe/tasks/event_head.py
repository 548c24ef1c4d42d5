"""One event per video and which of its segments are relevant to it (CMBS: Xia and Zhao, CVPR 2022).

    h_t        = relu(W [s(video_t), s(audio_t)])
    relevance  = w h_t                                              (B, T)
    event      = E max_t h_t,  weakly: max_t σ(relevance_t) E h_t   (B, C)
    activity   = mean over streams of the mean of the four largest A_m s(m_t) over t   (B, C)

    loss = BCE(relevance, is an event) + CE(event) + CE(activity),  weakly: CE(event) + CE(activity)

From the head of CMBS: these outputs and losses. Ours: what stands in front of them, one hidden layer.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hmmoe.tasks.heads import summaries

HIDDEN = 256
LARGEST = 4  # segments whose class activity speaks for the video


class EventHead(nn.Module):
    """`{"relevance": (B, T), "event": (B, C), "activity": (B, C)}` from folded streams (B, T, N_m, D_m).

    Args:
        widths: stream -> D_m.
        classes: C, background not among them.
        weak: learn from the video's class alone.
    """

    def __init__(self, widths: Mapping[str, int], classes: int, weak: bool = False):
        super().__init__()
        self.widths, self.classes, self.weak = dict(widths), classes, weak
        self.content = nn.Linear(sum(self.widths.values()), HIDDEN)
        self.relevance = nn.Linear(HIDDEN, 1)
        self.event = nn.Linear(HIDDEN, classes)
        self.activity = nn.ModuleDict({m: nn.Linear(width, classes) for m, width in self.widths.items()})

    def forward(self, states: Mapping[str, Tensor], masks: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
        known = summaries(states, masks, self.widths)  # (B, T, D_m)
        content = self.content(torch.cat(list(known.values()), -1)).relu()  # (B, T, H)
        relevance = self.relevance(content).squeeze(-1)  # (B, T)
        if self.weak:
            event = (relevance.sigmoid().unsqueeze(-1) * self.event(content)).amax(1)  # (B, C)
        else:
            event = self.event(content.amax(1))
        activity = torch.stack([_largest(self.activity[m](known[m])) for m in states]).mean(0)  # (B, C)
        return {"relevance": relevance, "event": event, "activity": activity}

    def loss(self, logits: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        """Mean over the batch.

        Args:
            logits: of `forward`.
            labels: (B, T) class ids, C for background. Videos of background alone have no class to learn.
        """
        video = labels.amin(1)  # the event's id is below that of the background
        video = torch.where(video == self.classes, -1, video)
        total = _classification(logits["event"], video) + _classification(logits["activity"], video)
        if self.weak:
            return total
        foreground = (labels != self.classes).float()
        return total + F.binary_cross_entropy_with_logits(logits["relevance"].float(), foreground)


def _classification(logits: Tensor, video: Tensor) -> Tensor:
    total = F.cross_entropy(logits.float(), video, ignore_index=-1, reduction="sum")
    return total / (video >= 0).sum().clamp(min=1)


def _largest(activity: Tensor) -> Tensor:
    """Mean of the largest over time: (B, T, C) -> (B, C)."""
    return activity.topk(min(LARGEST, activity.shape[1]), dim=1).values.mean(1)
