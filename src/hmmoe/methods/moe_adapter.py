"""A homogeneous mixture of adapters: HMMoE's own layer with the same affine expert E times.

    ΔX_m = [g_1 Y_1, …, g_E Y_E] U_m,  Y_e = φ(Z_m) ∘ γ_e + β_e        Z_m, g and U as in `hmmoe.layer`

What remains when the experts of HMMoE are all of one uni-modal kind: the router still reads all streams,
and everything else (norm, start, losses, budget) is HMMoE's, so a comparison tells what heterogeneous
experts are worth. Mixtures of one kind of adapter are AdaMix (Wang et al., arXiv 2205.12410) and its kin;
routing is soft here, as in HMMoE.
"""

from dataclasses import dataclass, field
from typing import Any

from hmmoe.methods.base import Budgeted
from hmmoe.methods.hmmoe import HMMoE
from hmmoe.options import about


@dataclass
class MoEAdapter(Budgeted):
    experts: int = field(default=6, metadata=about("number E of experts; 6 is as many as HMMoE has", above=0))
    balance_coef: float | None = field(
        default=None, metadata=about("weight of the load-balance loss", least=0)
    )

    name = "moe_adapter"
    learning_rate = 3e-3

    def build(self, model: Any) -> Any:
        return self._mixture().build(model)

    def save(self, model: Any, folder: str) -> None:
        self._mixture().save(model, folder)

    def load(self, model: Any, folder: str) -> Any:
        return self._mixture().load(model, folder)

    def _mixture(self) -> HMMoE:
        return HMMoE(
            budget=self.budget,
            rank=self.rank,
            points=self.points,
            experts={"affine": self.experts},
            balance_coef=self.balance_coef,
        )
