"""UniAdapter (Lu et al., ICLR 2024, arXiv 2302.06605).

    y_m = MLP(x_m) + s · (U_m relu(D norm(x_m) + d) + u_m),  s = 0.1

One down projection D, d and one norm for all streams of a fusion point, an up projection per stream (in
VLMo, per feed-forward expert: text, image, both); parallel to the MLP. It departs from the published code
where that needs BLIP:
- BLIP's text encoder has cross-attention layers, with a third up projection and a query residual for their
  output; frozen towers side by side have none, so both have no place here.
- BLIP's towers are equally wide. Where ours are not, a narrower stream uses the weights of the first
  channels of D and of the norm (all of them in towers of one width, as published).
- It reads the input of the MLP's first layer, as `adapter_parallel` does and for the same reason.
All up projections start at zero (published: the text's).
"""

from dataclasses import dataclass, field
from typing import Any

from hmmoe.methods.base import freeze, plan_of
from hmmoe.methods.inplace import InPlaceBudgeted, beside, tower_parameters
from hmmoe.options import about


@dataclass
class UniAdapter(InPlaceBudgeted):
    scale: float = field(default=0.1, metadata=about("s, the weight of the adapter's output", above=0))

    name = "uniadapter"
    learning_rate = 1e-3

    def build(self, model: Any) -> Any:
        from torch import nn

        from hmmoe.methods.parts.bottleneck import NormedDown, Up
        from hmmoe.methods.parts.seams import mlp_seams, parallel, sizes_of

        freeze(model)
        plan = plan_of(model, self.points)
        points = []
        for point in plan.points:
            places = []
            for stream, index in sorted(point.items()):
                block = model.get_submodule(plan.blocks[stream][index])
                for seam in mlp_seams(block):
                    sizes = sizes_of(block, seam.first)[0], sizes_of(block, seam.last)[1]
                    places.append((block, seam, *sizes))
            points.append(places)

        def added(rank: int) -> int:
            shared = sum(max(place[2] for place in places) for places in points)
            own = sum(place[3] for places in points for place in places)
            return shared * (rank + 2) + len(points) * rank + own * (rank + 1)

        rank = self.solve(tower_parameters(model), added)
        for places in points:
            widest = max(place[2] for place in places)
            down = beside(NormedDown(widest, rank, self.dropout), places[0][0])
            for block, seam, _, outputs in places:
                parallel(block, seam, nn.Sequential(down, Up(rank, outputs, self.scale)))
        return model
