"""Adapters in sequence (Houlsby et al., arXiv 1902.00751): h ← h + U φ(D h + d) + u after each sublayer.

    attention ─► out ─► A ─► + residual,      fc1 ─► φ ─► fc2 ─► A ─► + residual

Two per transformer block, before the residual sums, as published; one per block without attention
(convolutions). It departs from the published code in the start: U = u = 0, so the adapted model begins as
the frozen one exactly instead of nearly. The norms of the block stay frozen, which keeps the share to what
`rank` says (published: trained).
"""

from dataclasses import dataclass
from typing import Any

from hmmoe.methods.base import freeze, plan_of
from hmmoe.methods.inplace import InPlaceBudgeted, tower_parameters


@dataclass
class Adapter(InPlaceBudgeted):
    name = "adapter"
    learning_rate = 1e-3

    def build(self, model: Any) -> Any:
        from torch.nn.functional import gelu

        from hmmoe.methods.parts.bottleneck import Bottleneck, bottleneck_parameters
        from hmmoe.methods.parts.seams import after, sizes_of, writers

        freeze(model)
        blocks = [model.get_submodule(path) for path in sorted(plan_of(model, self.points).paths)]
        places = [(block, name, sizes_of(block, name)[1]) for block in blocks for name in writers(block)]
        widths = [width for _, _, width in places]
        rank = self.solve(
            tower_parameters(model), lambda r: sum(bottleneck_parameters(w, w, r) for w in widths)
        )
        for block, name, width in places:
            after(block, name, Bottleneck(width, width, rank, gelu, dropout=self.dropout))
        return model
