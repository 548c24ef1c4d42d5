"""One forward and backward of visual-audio towers at full size: does it run here, and in how much memory?

    python -m benchmarks.full_size [--json] [--frames 5] [--budget 0.06] [--presets swinv2-l+hts-at …]

Random weights in bfloat16, one clip of `frames` pictures, each with its sound, adapters at all points
within the budget, a linear head on mean tokens, no checkpointing. Every preset has its own process,
which gives its peak memory; `above_start_mib` is what it grew by after the towers were built. The up
projections, zero at the start, get small random values first, so that every adapter weight has a gradient:
`without_gradient` counts those that have none, or one that is not finite.
"""

import argparse
import json
import multiprocessing
import time
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.step import peak_mib

# Inputs of one picture and of the sound beside it: Whisper hears 1 s, the others what their extractors give.
INPUTS: dict[str, tuple[str, tuple[int, ...]]] = {
    "Swinv2Model": ("pixel_values", (3, 192, 192)),
    "ViTModel": ("pixel_values", (3, 224, 224)),
    "CLIPVisionModel": ("pixel_values", (3, 224, 224)),
    "ClapAudioModel": ("input_features", (1, 1001, 64)),
    "ASTModel": ("input_values", (1024, 128)),
    "WhisperEncoder": ("input_features", (80, 100)),
}
PAIRS = ("swinv2-l+hts-at", "swinv2-l-shared", "vit-b+ast", "clip-b16+whisper-small")


def build(preset: str) -> Any:
    """The preset's towers in bfloat16 with random weights and a linear head on frames and their sounds."""
    from hmmoe import MultimodalModel
    from hmmoe.backbones.presets import PRESETS
    from hmmoe.tasks.heads import PooledHead

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        towers: dict[str, Any] = dict(PRESETS[preset].build().get_submodule("towers").named_children())
    finally:
        torch.set_default_dtype(before)
    named = {
        m: towers.get(m, next(iter(towers.values()))) for m in _streams(preset)
    }  # a shared one is there once
    for tower in named.values():
        if type(tower).__name__ == "WhisperEncoder":
            tower.embed_positions = nn.Embedding(50, tower.config.d_model, dtype=torch.bfloat16)  # 1 s
            tower.config.max_source_positions = tower.max_source_positions = 50
    widths = {m: _width(tower) for m, tower in named.items()}
    return MultimodalModel(named, PooledHead(widths, 29), folded=list(named))


def _streams(preset: str) -> tuple[str, str]:
    return ("image", "audio") if preset == "vit-b+ast" else ("video", "audio")


def _width(tower: Any) -> int:
    config = tower.config
    return config.d_model if hasattr(config, "d_model") else config.hidden_size


def inputs(model: Any, frames: int) -> dict[str, Any]:
    """One clip."""
    batch: dict[str, Any] = {"labels": torch.zeros(1, frames, dtype=torch.long)}
    for m, tower in model.towers.items():
        name, shape = INPUTS[type(tower).__name__]
        batch[m] = {name: torch.randn(1, frames, *shape, dtype=torch.bfloat16)}
    return batch


def worker(preset: str, frames: int, budget: float, pipe: Any) -> None:
    """Take one step and tell what it took."""
    from hmmoe import HMMoEConfig, get_peft_model

    torch.set_num_threads(2)
    torch.manual_seed(0)
    base = build(preset)
    batch = inputs(base, frames)
    model: Any = get_peft_model(base, HMMoEConfig(budget=budget, modules_to_save=["head"]))
    adapters: dict[str, Tensor] = {n: p for n, p in model.named_parameters() if ".hmmoe_layers." in n}
    for name, p in adapters.items():
        if ".up." in name:
            nn.init.normal_(p, std=1e-2)
    model.train()
    start = peak_mib()
    began = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**batch).loss
    forward = time.perf_counter() - began
    loss.backward()
    without = [n for n, p in adapters.items() if p.grad is None or not p.grad.isfinite().all()]
    counts = model.base_model.parameter_counts()
    added = counts["adapter"] + counts["router"]
    pipe.send(
        {
            "case": preset,
            "points": len(model.peft_config["default"].points),
            "rank": model.peft_config["default"].rank,
            "backbone": counts["backbone"],
            "adapter": added,
            "share": added / (counts["backbone"] + added),
            "loss": loss.item(),
            "without_gradient": len(without),
            "forward_seconds": round(forward, 1),
            "seconds": round(time.perf_counter() - began, 1),
            "peak_mib": round(peak_mib()),
            "above_start_mib": round(peak_mib() - start),
        }
    )


def rows(presets: list[str], frames: int, budget: float) -> list[dict[str, Any]]:
    """One row per preset, one after the other."""
    context = multiprocessing.get_context("spawn")
    found = []
    for preset in presets:
        pipe, theirs = context.Pipe(duplex=False)
        process = context.Process(target=worker, args=(preset, frames, budget, theirs), daemon=True)
        process.start()
        theirs.close()
        try:
            found.append(pipe.recv())
        except EOFError:
            raise SystemExit(f"preset {preset} did not finish: out of memory? so far {found}") from None
        process.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument(
        "--frames", type=int, default=5, help="pictures and sounds of the clip (default 5, as AVSBench)"
    )
    parser.add_argument("--budget", type=float, default=0.06, help="share of the adapters (default 0.06)")
    parser.add_argument("--presets", nargs="+", default=list(PAIRS), choices=PAIRS)
    args = parser.parse_args()
    found = rows(args.presets, args.frames, args.budget)
    if args.json:
        print(json.dumps({"frames": args.frames, "rows": found}))
        return
    for row in found:
        print(
            f"{row['case']:<24} share {row['share']:6.2%}   {row['seconds']:6.1f} s   "
            f"peak {row['peak_mib']:6.0f} MiB (+{row['above_start_mib']})   loss {row['loss']:.2f}"
        )


if __name__ == "__main__":
    main()
