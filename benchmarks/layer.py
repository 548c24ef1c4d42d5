"""Cost of one HMMoE layer against the two bare matrix products of the same rank, in one process.

    python -m benchmarks.layer [--json] [--rounds 15]

Forward and backward, both directions, gradients to inputs and parameters, 10 frames, float32, one thread.
Layer and products run in turn, round by round; every figure is the median of CPU time, every ratio the median
of the rounds' ratios. Cases named `NxD/MxC` have N tokens of width D in one stream and M of width C in the
other, and six experts of rank 16; `experts-4-to-32` is the layer with 32 experts over the one with 4 at equal
total rank (128); `tokens-256-to-8192` the cost per token of 8192 tokens over that of 256 (both streams,
widths 256).
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from hmmoe.layer import DEFAULT_EXPERTS, HMMoELayer

FRAMES = 10
SIZES = {"144x768/256x384": (144, 768, 256, 384), "576x768/256x384": (576, 768, 256, 384)}
SIZES["2304x192/4096x96"] = (2304, 192, 4096, 96)
Step = Callable[[], None]


def layer_step(
    tokens: dict[str, int], widths: dict[str, int], rank: int, experts: dict[str, int], frames: int
) -> Step:
    """Forward and backward of a layer whose up products are not zero, so that nothing is skipped."""
    layer = HMMoELayer(widths, rank=rank, experts=experts)
    for weight in layer.up.values():
        torch.nn.init.normal_(weight, std=0.01)
    states = {m: torch.randn(frames, tokens[m], widths[m], requires_grad=True) for m in widths}
    grads = [torch.randn_like(x) for x in states.values()]
    leaves = [*states.values(), *layer.parameters()]

    def step() -> None:
        updates, _ = layer(states)
        torch.autograd.backward([updates[m] for m in states], grads)
        clear(leaves)

    return step


def products_step(tokens: dict[str, int], widths: dict[str, int], total_rank: int, frames: int) -> Step:
    """The floor: one product down and one up per stream, nothing between them."""
    states = {m: torch.randn(frames, tokens[m], widths[m], requires_grad=True) for m in widths}
    down = {m: torch.randn(total_rank, d, requires_grad=True) for m, d in widths.items()}
    up = {m: torch.randn(d, total_rank, requires_grad=True) for m, d in widths.items()}
    grads = [torch.randn_like(x) for x in states.values()]
    leaves = [*states.values(), *down.values(), *up.values()]

    def step() -> None:
        outs = [F.linear(F.linear(states[m], down[m]), up[m]) for m in states]
        torch.autograd.backward(outs, grads)
        clear(leaves)

    return step


def clear(tensors: list[torch.Tensor]) -> None:
    for t in tensors:
        t.grad = None


def interleaved(first: Step, second: Step, rounds: int, scale: float = 1.0) -> tuple[float, float, float]:
    """Median CPU milliseconds of both and the median of the rounds' ratios first / (second * scale)."""
    times: tuple[list[float], list[float]] = ([], [])
    for step in (first, second):
        for _ in range(2):
            step()
    for _ in range(rounds):
        for step, kept in zip((first, second), times, strict=True):
            start = time.process_time()
            step()
            kept.append(1e3 * (time.process_time() - start))
    ratio = statistics.median(a / (b * scale) for a, b in zip(*times, strict=True))
    return statistics.median(times[0]), statistics.median(times[1]), ratio


def rows(rounds: int) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for case, (n, d, m, c) in SIZES.items():
        tokens, widths = {"visual": n, "audio": m}, {"visual": d, "audio": c}
        layer = layer_step(tokens, widths, 16, DEFAULT_EXPERTS, FRAMES)
        cpu, floor, ratio = interleaved(layer, products_step(tokens, widths, 96, FRAMES), rounds)
        found.append({"case": case, "cpu_ms": cpu, "products_ms": floor, "ratio": ratio})

    tokens, widths = {"visual": 576, "audio": 256}, {"visual": 768, "audio": 384}
    kinds = ("affine", "conditioned_affine", "channel_attention", "cross_attention")
    many = layer_step(tokens, widths, 4, dict.fromkeys(kinds, 8), FRAMES)
    few = layer_step(tokens, widths, 32, dict.fromkeys(kinds, 1), FRAMES)
    cpu, floor, ratio = interleaved(many, few, rounds)
    found.append(
        {"case": "experts-4-to-32", "cpu_ms": cpu, "products_ms": None, "base_ms": floor, "ratio": ratio}
    )

    widths = {"visual": 256, "audio": 256}
    long = layer_step(dict.fromkeys(widths, 8192), widths, 16, DEFAULT_EXPERTS, FRAMES)
    short = layer_step(dict.fromkeys(widths, 256), widths, 16, DEFAULT_EXPERTS, FRAMES)
    cpu, floor, ratio = interleaved(long, short, rounds, scale=8192 / 256)
    found.append(
        {"case": "tokens-256-to-8192", "cpu_ms": cpu, "products_ms": None, "base_ms": floor, "ratio": ratio}
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds of each case (default 15)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found = rows(args.rounds)
    if args.json:
        print(json.dumps({"rows": found}))
        return
    for row in found:
        base = row["products_ms"] or row["base_ms"]
        print(f"{row['case']:<20} {row['cpu_ms']:8.1f} ms   base {base:8.1f} ms   ratio {row['ratio']:.2f}")


if __name__ == "__main__":
    main()
