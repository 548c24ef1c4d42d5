"""DG-SCT (Duan et al., NeurIPS 2023, arXiv 2311.05152; code haoyi-duan/DG-SCT). For a stream x that reads y:

    y₁ = fc(Wtok · y)                                      both axes of y brought to those of x
    x₁ = LAVISH's latent-token attention of x on y₁
    a  = mean(y₁);  q = mean(relu(A₁ a) ∘ relu(V₁ x₁))
    c  = σ(Wc relu(Wb q))                                  channel attention, one weight per channel
    s  = Ws(relu(V₂ (x₁ ∘ (1 + c))) ∘ relu(A₂ a))          spatial attention, one per token
    x₂ = x₁ ∘ (α c + β σ(s) + 1 - α)
    Δx = LAVISH's gated bottleneck of x₂

It departs from the published code where that cannot meet a budget of some per cent (188.5 M parameters for
226.5 M of frozen towers, see `published`):
- no Wtok: a matrix over tokens ties the adapter to one resolution and holds 81 M of them. Nothing after y₁
  needs as many tokens as x has;
- fc and the attentions' matrices (C x C and C x C/2) have `rank` in the place of C and half of it in the
  place of C/2, 104 M otherwise;
- the bottleneck has `rank` channels per group, instead of C/8; one adapter per fusion point and direction
  (see `fused`);
- gates are there for every task (published: not for AVS); alpha and beta are options (MS3: 0.2 and 0.1);
- the tokens' map that only the last published adapters pass on to the AVE head is not made, nor are the
  temporal part (a module after the encoders, part of the head) and `gate_tk`, which has no gradient.
The published module whole, for counting and comparing: `DGSCTAdapter(…, hidden=C, rank=None, tokens=…)`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hmmoe.methods.fused import Fused
from hmmoe.options import about

if TYPE_CHECKING:
    from torch import nn


@dataclass
class DGSCT(Fused):
    latents: int = field(default=32, metadata=about("latent tokens K", above=0))
    groups: int = field(default=2, metadata=about("channel groups of down and up", above=0))
    batch_norm: bool = field(
        default=True, metadata=about("with batch norms, as for AVE; without for AVS and AVQA")
    )
    alpha: float = field(default=0.3, metadata=about("weight of channel attention", least=0, most=1))
    beta: float = field(default=0.05, metadata=about("weight of spatial attention", least=0))

    name = "dg_sct"
    learning_rate = 3e-3

    def layer(self, widths: Mapping[str, int], rank: int) -> "nn.Module":
        from hmmoe.methods.parts.cross import CrossLayer
        from hmmoe.methods.parts.dg_sct import DGSCTAdapter

        return CrossLayer(
            widths,
            lambda width, others: DGSCTAdapter(
                width,
                others,
                size=rank * self.groups,
                hidden=min(width, max(2, rank)),
                latents=self.latents,
                groups=self.groups,
                batch_norm=self.batch_norm,
                dropout=self.dropout,
                rank=rank,
                alpha=self.alpha,
                beta=self.beta,
            ),
        )
