"""AdaptFormer (Chen et al., arXiv 2205.13535): y = MLP(x) + s · (U relu(D x + d) + u), s = 0.1, in parallel.

As published there is one per block, beside the MLP, with U = u = d = 0 at the start and no norm of its own.
It departs from the published code in what it reads: x is the input of the MLP's first layer, so in pre-norm
blocks it comes after the norm (as in He et al., arXiv 2110.04366), since unmodified blocks have no seam
before it. A block without an MLP (some convolutions) has its adapter beside its last layer.
"""

from dataclasses import dataclass, field
from typing import Any

from hmmoe.methods.base import freeze, plan_of
from hmmoe.methods.inplace import InPlaceBudgeted, tower_parameters
from hmmoe.options import about


@dataclass
class AdapterParallel(InPlaceBudgeted):
    scale: float = field(default=0.1, metadata=about("s, the weight of the adapter's output", above=0))

    name = "adapter_parallel"
    learning_rate = 1e-3

    def build(self, model: Any) -> Any:
        from torch.nn.functional import relu

        from hmmoe.methods.parts.bottleneck import Bottleneck, bottleneck_parameters
        from hmmoe.methods.parts.seams import mlp_seams, parallel, sizes_of

        freeze(model)
        blocks = [model.get_submodule(path) for path in sorted(plan_of(model, self.points).paths)]
        places = []
        for block in blocks:
            for seam in mlp_seams(block):
                places.append((block, seam, sizes_of(block, seam.first)[0], sizes_of(block, seam.last)[1]))
        sizes = [(inputs, outputs) for _, _, inputs, outputs in places]
        rank = self.solve(tower_parameters(model), lambda r: sum(bottleneck_parameters(*s, r) for s in sizes))
        for block, seam, inputs, outputs in places:
            adapter = Bottleneck(inputs, outputs, rank, relu, self.scale, self.dropout)
            parallel(block, seam, adapter)
        return model
