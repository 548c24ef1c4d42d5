"""A homogeneous mixture of adapters: HMMoE's own layer with the same affine expert E times.

    ΔX_m = [g_1 Y_1, …, g_E Y_E] U_m,  Y_e = φ(Z_m) ∘ γ_e + β_e        Z_m, g and U as in `hmmoe.layer`

What remains when the experts of HMMoE are all of one uni-modal kind: the router still reads all streams,
and everything else (norm, start, losses, budget) is HMMoE's, so a comparison tells what heterogeneous
experts are worth. Mixtures of one kind of adapter are AdaMix (Wang et al., arXiv 2205.12410) and its kin;
routing is soft here, as in HMMoE.
"""

from dataclasses import dataclass, field, fields
from typing import Any

from hmmoe.methods.hmmoe import HMMoE
from hmmoe.options import about


@dataclass
class MoEAdapter(HMMoE):
    """HMMoE's options, but a number of experts instead of kinds."""

    experts: int = field(  # type: ignore[assignment]
        default=6, metadata=about("number E of experts; 6 is as many as HMMoE has", above=0)
    )

    name = "moe_adapter"

    def build(self, model: Any) -> Any:
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        return HMMoE(**given | {"experts": {"affine": self.experts}}).build(model)
