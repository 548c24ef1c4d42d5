"""What the tests of cross-modal rivals share: slow parts, from their equations, and the comparison.

The slow parts only read parameters, by name, and work on one sample and one token at a time.
"""

import torch

from hmmoe.methods import make_method
from hmmoe.methods.parts.cross import CrossLayer

WIDTHS = {"audio": 4, "image": 6, "text": 4}
COUNTS = {"audio": 5, "image": 4, "text": 3}
PAIR = ("audio", "image")
CASES = [  # streams, and whether the second of them is padded
    (("image",), False),
    (PAIR, False),
    (PAIR, True),
    (("audio", "image", "text"), False),
    (("audio", "image", "text"), True),
]


def awake(module):
    """In float64, with every parameter (gates too) far from its start."""
    module.double()
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.4 * torch.randn_like(p))
    return module


def layer_of(method, names, rank=2, **options):
    """The layer of a fusion point where these streams meet, awake."""
    made = make_method({"name": method, "rank": rank, **options})
    return awake(made.layer({m: WIDTHS[m] for m in names}, rank))


def published(adapter, **sizes):
    """Audio and image by full-rank adapters that mix tokens, as published, awake."""

    def whole(width, others):
        n = next(iter(others))
        tokens = {n: (COUNTS[n], COUNTS["audio" if n == "image" else "image"])}
        return adapter(width, others, **sizes, groups=2, batch_norm=True, rank=None, tokens=tokens)

    return awake(CrossLayer({m: WIDTHS[m] for m in PAIR}, whole)).train()


def streams(names, batch=3):
    return {
        m: torch.randn(batch, COUNTS[m], WIDTHS[m], dtype=torch.float64, requires_grad=True) for m in names
    }


def padding(states):
    """The second stream has padding, and is missing altogether for the last sample."""
    m = sorted(states)[1]
    mask = torch.ones(states[m].shape[:2], dtype=torch.bool)
    mask[0, -1:] = False
    mask[-1] = False
    return {m: mask}


def same_with_gradients(ours, theirs, leaves):
    """Two dicts of tensors agree, and so do the gradients of a random sum of them in all leaves."""
    assert ours.keys() == theirs.keys()
    weights = {m: torch.randn_like(x) for m, x in ours.items()}
    found = []
    for answer in (ours, theirs):
        total = sum((weights[m] * answer[m]).sum() for m in weights)
        found.append(torch.autograd.grad(total, leaves, allow_unused=True))
    for m in ours:
        torch.testing.assert_close(ours[m], theirs[m])
    for ours_, theirs_, leaf in zip(*found, leaves, strict=True):
        none = torch.zeros_like(leaf)
        torch.testing.assert_close(none if ours_ is None else ours_, none if theirs_ is None else theirs_)
    return found[0]


def equals_reference(layer, names, adapter, padded=False):
    """The layer's updates and all gradients are those of `cross_reference`; returns its routing."""
    states = streams(names)
    masks = padding(states) if padded else {}
    theirs = cross_reference(layer, states, masks, adapter, layer.training)
    ours, routing = layer(states, masks)
    same_with_gradients(ours, theirs, [*layer.parameters(), *states.values()])
    return routing


def cross_reference(layer, states, masks, adapter, training=False):
    """Updates of a layer; `adapter(p, x, mask, read, norm)` is one stream's, p its parameters by name."""
    p, buffers = dict(layer.named_parameters()), dict(layer.named_buffers())
    names, updates = sorted(layer.widths), {}
    masks = {m: masks.get(m, torch.ones(x.shape[:2], dtype=torch.bool)) for m, x in states.items()}
    for m, x in states.items():
        prefix = f"adapters.{m}."
        own = {k.removeprefix(prefix): v for k, v in p.items() if k.startswith(prefix)}
        stats = {k.removeprefix(prefix): v.clone() for k, v in buffers.items() if k.startswith(prefix)}
        others = [n for n in names if n != m] or [m]
        read = {n: (states[n], masks[n]) for n in others if n in states}

        def norm(rows, name, own=own, stats=stats):
            return batch_norm(rows, own[name + ".weight"], own[name + ".bias"], stats, name, training)

        updates[m] = adapter(own, x, masks[m], read, norm) * masks[m][..., None]
    return updates


def align(p, n, y):
    """fc of stream n on one token: a matrix, two thin ones, or nothing."""
    if f"reader.fc.{n}.weight" in p:
        return p[f"reader.fc.{n}.weight"] @ y + p[f"reader.fc.{n}.bias"]
    if f"reader.fc.{n}.0.weight" in p:
        return p[f"reader.fc.{n}.1.weight"] @ (p[f"reader.fc.{n}.0.weight"] @ y) + p[f"reader.fc.{n}.1.bias"]
    return y


def other_tokens(p, read, b):
    """Aligned real tokens of all other streams of sample b, a list of `(C,)`."""
    found = []
    for n, (y, mask) in read.items():
        rows = [y[b, j] for j in range(y.shape[1]) if mask[b, j]]
        if f"reader.mix.{n}.weight" in p and rows:  # a 1x1 convolution over tokens as channels
            w, bias = p[f"reader.mix.{n}.weight"], p[f"reader.mix.{n}.bias"]
            held = [y[b, j] * mask[b, j] for j in range(y.shape[1])]
            rows = [sum(w[i, j] * row for j, row in enumerate(held)) + bias[i] for i in range(len(w))]
        found += [align(p, n, row) for row in rows]
    return found


def softmax(scores):
    powers = [torch.exp(s - max(scores)) for s in scores]
    return [power / sum(powers) for power in powers]


def latent_attention(p, q, rows, others):
    """x + gate · softmax(x T'ᵀ) T' of a list of tokens."""
    latents = []
    for t in p[q + "tokens"]:
        shares = softmax([(t * y).sum() for y in others]) if others else []
        latents.append(
            t + sum((share * y for share, y in zip(shares, others, strict=True)), torch.zeros_like(t))
        )
    done = []
    for x in rows:
        shares = softmax([(x * t).sum() for t in latents])
        done.append(x + p[q + "gate"] * sum(share * t for share, t in zip(shares, latents, strict=True)))
    return done


def layer_norm(x, weight, bias):
    centred = x - x.mean()
    return centred / torch.sqrt((centred**2).mean() + 1e-5) * weight + bias


def batch_norm(rows, weight, bias, stats, name, training):
    """Over a list of tokens."""
    rows = torch.stack(rows)
    mean, var = stats[name + ".running_mean"], stats[name + ".running_var"]
    if training:
        mean = rows.mean(0)
        var = ((rows - mean) ** 2).mean(0)
    return list((rows - mean) / torch.sqrt(var + 1e-5) * weight + bias)


def grouped(x, weight):
    """Each slice of the channels by its own matrix."""
    size = len(x) // len(weight)
    return torch.cat([x[g * size : (g + 1) * size] @ w for g, w in enumerate(weight)])


def gated_bottleneck(p, q, x, mask, norm, relu=True):
    """`x` `(B, N, C)` as a nested list of tokens, of which the real ones go through; zeros elsewhere."""
    places = [(b, i) for b in range(len(mask)) for i in range(mask.shape[1]) if mask[b, i]]
    rows = [layer_norm(x[b][i], p[q + "before.weight"], p[q + "before.bias"]) for b, i in places]
    rows = [grouped(row, p[q + "down.weight"]) for row in rows]
    with_norms = q + "norm1.weight" in p
    rows = norm(rows, q + "norm1") if with_norms else rows
    rows = [grouped(row.clamp(min=0) if relu else row, p[q + "up.weight"]) for row in rows]
    rows = norm(rows, q + "norm2") if with_norms else rows
    rows = [p[q + "gate"] * layer_norm(row, p[q + "post.weight"], p[q + "post.bias"]) for row in rows]
    found = dict(zip(places, rows, strict=True))
    none = torch.zeros_like(rows[0])
    return torch.stack(
        [torch.stack([found.get((b, i), none) for i in range(mask.shape[1])]) for b in range(len(mask))]
    )
