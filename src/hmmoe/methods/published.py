"""How large methods are: the cross-modal rivals as published, and every method at one budget.

    python -m hmmoe.methods.published [budget]

prints both tables of docs/methods.md, on the towers of DG-SCT and AVMoE: SwinV2-L at 192 pixels and HTS-AT
(CLAP's audio tower), which meet at 12 points. Everything is built on the meta device.

As published (AVE): 1/8 of the channels in the bottleneck, 2 groups, batch norms; at each point two adapters
(p1, p2) in both directions. LAVISH has one SwinV2-L for both streams, so 24 points of two equal widths.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from hmmoe.errors import unknown
from hmmoe.methods import METHODS, Budgeted, count_parts, make_method, share

TOWERS = "swinv2-l+hts-at"
CLASSES = 29  # of AVE
REDUCTION, GROUPS, PER_POINT = 8, 2, 2
SKIPPED = (384, 1536)  # widths of SwinV2-L in stages 2 and 4, where AVMoE's num_skip = 2 puts nothing


@dataclass(frozen=True)
class Counted:
    """Millions of parameters of their own code's models, counted with their training scripts' options.

    Attributes:
        adapters: adapters alone.
        trainable: all that learns, task head and temporal modules included.
        total: the whole model, unused classifiers included.
    """

    adapters: float
    trainable: float
    total: float


COUNTED = {
    "lavish": Counted(8.45, 10.0, 238.8),
    "dg_sct": Counted(188.5, 201.2, 461.3),
    "avmoe": Counted(90.6, 102.6, 362.7),
}


def published_size(name: str) -> dict[str, int]:
    """A cross-modal method as published for AVE, built of the modules here: parameters `towers`, `adapters`.

    Raises:
        ValueError: a method that was not published at this scale.
    """
    import torch

    from hmmoe.backbones.presets import PRESETS
    from hmmoe.methods.base import plan_of
    from hmmoe.methods.inplace import tower_parameters
    from hmmoe.streams import block_width, find_blocks

    if name not in COUNTED:
        raise ValueError(unknown("method published at this scale", name, COUNTED))
    with torch.device("meta"):
        model: Any = PRESETS[TOWERS].build()
        if name == "lavish":
            swin = model.towers["video"]
            depths = [block_width(swin.get_submodule(path), path) for path in find_blocks(swin)]
            points = [({"video": width, "audio": width}, {"video": 0, "audio": 0}) for width in depths]
            towers = sum(p.numel() for p in swin.parameters())
        else:
            plan = plan_of(model, None)
            points, towers = [], tower_parameters(model)
            for widths, point in zip(plan.widths, plan.points, strict=True):
                if name == "avmoe" and widths["video"] in SKIPPED:
                    continue
                blocks = {m: model.get_submodule(plan.blocks[m][i]) for m, i in point.items()}
                tokens = {m: prod(block.input_resolution) for m, block in blocks.items()}
                points.append((dict(widths), tokens))
        layers = [published_layer(name, widths, tokens) for widths, tokens in points]
    adapters = PER_POINT * sum(p.numel() for layer in layers for p in layer.parameters())
    return {"towers": towers, "adapters": adapters}


def published_layer(name: str, widths: Mapping[str, int], tokens: Mapping[str, int]) -> Any:
    """One adapter per direction as published: stream -> width and number of tokens."""
    from hmmoe.methods.parts.avmoe import AVMoEAdapter
    from hmmoe.methods.parts.cross import CrossLayer
    from hmmoe.methods.parts.dg_sct import DGSCTAdapter
    from hmmoe.methods.parts.lavish import LavishAdapter

    def adapter(width: int, others: Mapping[str, int]) -> Any:
        (other,) = others
        (own,) = set(widths) - {other}
        common: dict[str, Any] = {
            "size": width // REDUCTION,
            "groups": GROUPS,
            "batch_norm": True,
            "rank": None,
        }
        if name == "lavish":
            return LavishAdapter(width, others, latents=2, **common)
        common |= {"latents": 32, "tokens": {other: (tokens[other], tokens[own])}}
        if name == "dg_sct":
            return DGSCTAdapter(width, others, hidden=width, **common)
        return AVMoEAdapter(width, others, cross=1, uni=1, router=(128, 32), **common)

    return CrossLayer(widths, adapter)


def size_at(name: str, budget: float) -> dict[str, Any]:
    """Size of any method here, at a budget where it has one.

    Returns:
        The parameters `backbone`, `adapter` and `head` (a linear one for AVE), `adapter_share`, that is
        adapter / (backbone + adapter), and `trainable_share`, that is (adapter + head) over all three.
    """
    import torch

    from hmmoe.backbones.presets import PRESETS
    from hmmoe.tasks.heads import PooledHead

    sized = {"budget": budget} if issubclass(METHODS[name], Budgeted) else {}
    with torch.device("meta"):
        model: Any = PRESETS[TOWERS].build()
        model.head = PooledHead({"video": 1536, "audio": 768}, CLASSES)
        parts = count_parts(make_method({"name": name, **sized}).build(model))
    added = parts["adapter"] + parts["head"]
    return {
        **parts,
        "adapter_share": share(parts["adapter"], parts["backbone"]),
        "trainable_share": added / (parts["backbone"] + added),
    }


def main(budget: float = 0.06) -> None:
    """Print both tables as Markdown."""
    columns = "adapter share | total trainable share |"
    print(f"| as published, AVE | adapters here | counted in their code | {columns}\n|---|---|---|---|---|")
    for name, counted in COUNTED.items():
        size = published_size(name)
        shares = share(size["adapters"], size["towers"]), counted.trainable / counted.total
        here = f"{size['adapters'] / 1e6:.2f} M | {counted.adapters:g} M"
        print(f"| `{name}` | {here} | {shares[0]:.1%} | {shares[1]:.1%} |")
    print(f"\n| budget {budget:.0%} | adapters | {columns}\n|---|---|---|---|")
    for name in METHODS:
        row = size_at(name, budget)
        shares = row["adapter_share"], row["trainable_share"]
        print(f"| `{name}` | {row['adapter'] / 1e6:.2f} M | {shares[0]:.2%} | {shares[1]:.2%} |")


if __name__ == "__main__":
    main(*map(float, sys.argv[1:2]))
