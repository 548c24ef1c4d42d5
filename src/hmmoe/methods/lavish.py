"""LAVISH (Lin et al., CVPR 2023, arXiv 2212.07983; code GenjiB/LAVISH). For a stream x that reads y:

    T' = T + softmax(T yᵀ) y                               K latent tokens T, one head, no scaling
    x₁ = x + gate_av · softmax(x T'ᵀ) T'
    Δx = gate · LN(BN(up(relu(BN(down(LN(x₁)))))))         in channel groups; both gates 0 at the start

It departs from the published code where that needs one Swin for both streams:
- y of another width goes through a linear layer to the width of x first, low-rank where that is smaller
  (from DG-SCT, whose LAVISH* runs need one too); y of the same width is read as it is, as published.
- One adapter per fusion point and direction, after the block (see `fused`).
- A bottleneck of `rank` channels per group for all streams, instead of C/8: that is what the budget solves
  for.
- Masks: padding is not read, and not counted by the batch norms.
- Gates and the start of T, uniform in [0, 1), are those of AVE for every task; published AVS and AVQA start T
  at zero, and AVS leaves the gates out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hmmoe.methods.fused import Fused
from hmmoe.options import about

if TYPE_CHECKING:
    from torch import nn


@dataclass
class Lavish(Fused):
    latents: int = field(
        default=2, metadata=about("latent tokens K; published: 2 (AVE), 16 (AVS), 64 (AVQA)", above=0)
    )
    groups: int = field(default=2, metadata=about("channel groups of down and up", above=0))
    batch_norm: bool = field(
        default=True, metadata=about("with batch norms, as for AVE; without for AVS and AVQA")
    )

    name = "lavish"
    learning_rate = 3e-3

    def layer(self, widths: Mapping[str, int], rank: int) -> "nn.Module":
        from hmmoe.methods.parts.cross import CrossLayer
        from hmmoe.methods.parts.lavish import LavishAdapter

        return CrossLayer(
            widths,
            lambda width, others: LavishAdapter(
                width,
                others,
                size=rank * self.groups,
                latents=self.latents,
                groups=self.groups,
                batch_norm=self.batch_norm,
                dropout=self.dropout,
                rank=rank,
            ),
        )
