"""VL-Adapter (Sung et al., CVPR 2022, arXiv 2112.06825): h ← h + U φ(D h + d) + u, the same for all streams.

    image  attention ─► A₁ ─► +   MLP ─► A₂ ─► +        the same A₁ and A₂ in both towers at one fusion point,
    text   attention ─► A₁ ─► +   MLP ─► A₂ ─► +        and the norms of the adapted blocks learn too

The published "Single Adapter" is one Houlsby adapter per layer of VL-BART, through which image and text
tokens pass alike and which all tasks share. A run here has one task and a tower per modality, so what
remains of the sharing is that between modalities: the streams of a fusion point share their adapters. Where
towers differ in width, a narrower one uses the weights of the first channels (all of them in towers of one
width, as published); a block without attention has A₂
only. U = u = 0 at the start, as in `adapter`.
"""

from dataclasses import dataclass
from typing import Any

from hmmoe.methods.base import freeze, plan_of
from hmmoe.methods.inplace import InPlaceBudgeted, beside, tower_parameters
from hmmoe.methods.layernorm import norm_parameters


@dataclass
class VLAdapter(InPlaceBudgeted):
    name = "vl_adapter"
    learning_rate = 1e-3

    def build(self, model: Any) -> Any:
        from torch.nn.functional import gelu

        from hmmoe.methods.parts.bottleneck import SharedBottleneck, bottleneck_parameters
        from hmmoe.methods.parts.seams import after, sizes_of, writers

        freeze(model)
        plan = plan_of(model, self.points)
        shared: dict[tuple[int, int], list[tuple[Any, str, int]]] = {}  # (point, seam from the end) -> places
        norms: dict[int, Any] = {}
        for number, point in enumerate(plan.points):
            for stream, index in sorted(point.items()):
                block = model.get_submodule(plan.blocks[stream][index])
                norms |= {id(p): p for p in norm_parameters(block)}
                for seam, name in enumerate(reversed(writers(block))):
                    place = (block, name, sizes_of(block, name)[1])
                    shared.setdefault((number, seam), []).append(place)
        for norm in norms.values():
            norm.requires_grad_(True)
        widths = [max(width for *_, width in places) for places in shared.values()]
        tuned = sum(p.numel() for p in norms.values())
        rank = self.solve(
            tower_parameters(model) - tuned,
            lambda r: tuned + sum(bottleneck_parameters(w, w, r) for w in widths),
        )
        for width, places in zip(widths, shared.values(), strict=True):
            adapter = beside(SharedBottleneck(width, rank, gelu, self.dropout), places[0][0])
            for block, name, _ in places:
                after(block, name, adapter)
        return model
