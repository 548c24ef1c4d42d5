"""AVMoE (Cheng et al., NeurIPS 2024; code yingchengy/AVMOE). For a stream x that reads y:

    y₁ = fc(Wtok · y)                                      as in DG-SCT
    p  = softmax(MLP([mean(x); mean(y₁)]))                 per sample and expert; MLP of widths 128 and 32
    Δx = Σ_e p_e Expert_e(x, y₁)                           dense: all experts run

    cross-modal expert   LAVISH's adapter on (x, y₁)
    uni-modal expert     gate · LN(BN(up(BN(down(LN(x))))))      the same without latent tokens and activation

It departs from the published code where that cannot meet a budget (90.6 M parameters on stages 1 and 3
alone):
- no Wtok, a low-rank fc, `rank` channels per group instead of C/8, one adapter per fusion point and
  direction, as in `dg_sct` and for the same reasons;
- the router's MLP is at most as wide as `rank` (and at least 4) instead of 128, and a quarter of that
  instead of 32.
What is published for AVE is kept: one expert of each kind, no attention in front of the uni-modal one, no
noise and no load balancing. The published module whole, for counting: `AVMoEAdapter(…, router=(128, 32),
rank=None, tokens=…)`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hmmoe.methods.fused import Fused
from hmmoe.options import about

if TYPE_CHECKING:
    from torch import nn


@dataclass
class AVMoE(Fused):
    cross_experts: int = field(default=1, metadata=about("cross-modal experts", above=0))
    uni_experts: int = field(
        default=1, metadata=about("uni-modal experts; published: 1 (AVE), 2 (AVQA)", above=0)
    )
    latents: int = field(default=32, metadata=about("latent tokens K of each cross-modal expert", above=0))
    groups: int = field(default=2, metadata=about("channel groups of down and up", above=0))
    batch_norm: bool = field(
        default=True, metadata=about("with batch norms, as for AVE; without for AVS and AVQA")
    )

    name = "avmoe"
    learning_rate = 3e-3

    def layer(self, widths: Mapping[str, int], rank: int) -> "nn.Module":
        from hmmoe.methods.parts.avmoe import AVMoEAdapter
        from hmmoe.methods.parts.cross import CrossLayer

        wide = min(128, max(4, rank))
        return CrossLayer(
            widths,
            lambda width, others: AVMoEAdapter(
                width,
                others,
                cross=self.cross_experts,
                uni=self.uni_experts,
                size=rank * self.groups,
                router=(wide, max(4, wide // 4)),
                latents=self.latents,
                groups=self.groups,
                batch_norm=self.batch_norm,
                dropout=self.dropout,
                rank=rank,
            ),
        )
