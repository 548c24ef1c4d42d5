"""The HMMoE layer once more, slowly: one sample, one stream, one expert at a time, from the formulas.

Independent of `hmmoe.layer`, `hmmoe.router` and `hmmoe.experts`: it only reads the parameters by name and
the sizes.
"""

import math

import torch

CHANNEL_KINDS = ("affine", "conditioned_affine", "channel_attention")
ORDER = ("affine", "conditioned_affine", "channel_attention", "cross_attention")


def silu(x):
    return x / (1 + torch.exp(-x))


def attend(q, k, v):
    """Rows of q ask rows of k for rows of v."""
    out = []
    for row in q:
        score = torch.stack([(row * key).sum() / math.sqrt(len(row)) for key in k])
        share = torch.exp(score - score.max())
        out.append((share[:, None] / share.sum() * v).sum(0))
    return torch.stack(out)


def stretches(n, parts):
    """Borders of `parts` stretches of n tokens: the i-th from floor(i n / parts) to ceil((i+1) n / parts)."""
    return [(i * n // parts, -(-(i + 1) * n // parts)) for i in range(parts)]


def hmmoe_reference(
    layer, states, masks=None, *, per_token=False, top_k=None, latents=16, exact_tokens=64, steps=0
):
    """`(updates, weights, balance, z)` as `HMMoELayer.forward` gives them."""
    p = {**dict(layer.named_parameters()), **dict(layer.named_buffers())}
    names, r = sorted(layer.widths), layer.rank
    experts = [(kind, i) for kind in ORDER for i in range(layer.counts.get(kind, 0))]
    first = {kind: next(e for e, (k, _) in enumerate(experts) if k == kind) for kind, _ in experts}
    total, width = len(experts), len(experts) * r
    some = next(iter(states.values()))
    batch = len(some)
    masks = {m: (masks or {}).get(m, torch.ones(x.shape[:2], dtype=torch.bool)) for m, x in states.items()}
    updates = {m: torch.zeros_like(x) for m, x in states.items()}
    gates = {m: [] for m in states}
    used = {m: [] for m in states}  # (weights, even share, log-partition) of every decision that counts

    def project(rows, m):
        return torch.stack(
            [((x - p[f"down.{m}.mean"]) * p[f"down.{m}.scale"]) @ p[f"down.{m}.weight"].T for x in rows]
        )

    def pool(b):
        z, pooled = {}, {}
        for m, x in states.items():
            if not masks[m][b].any():
                continue
            z[m] = project(x[b], m)  # (N, W)
            mean = z[m][masks[m][b]].mean(0)
            pooled[m] = mean / torch.sqrt((mean**2).mean() + 1e-6)  # (W,)
        return z, pooled

    zero = some.new_zeros(width)
    for b in range(batch):
        z, pooled = pool(b)
        whole = []
        if steps:
            sample = [pool(i)[1] for i in range(b // steps * steps, b // steps * steps + steps)]
            whole = [torch.cat([sum(at.get(n, zero) for at in sample) / steps for n in names])]
        sensed = torch.cat([pooled.get(m, zero) for m in names])
        sensed = torch.tanh(p["router.sense.weight"] @ sensed + p["router.sense.bias"])
        for m, x in states.items():
            others = [n for n in names if n != m] or [m]
            readable = [n for n in others if n in z]
            available = [kind == "affine" or bool(readable) for kind, _ in experts]
            rows = z.get(m)
            if rows is None:  # a missing stream still has a decision, which counts nowhere
                rows = project(x[b], m)
            base = p[f"router.rate.{m}.weight"] @ sensed + p[f"router.rate.{m}.bias"]
            decisions = []
            for token in range(len(rows) if per_token else 1):
                logits = base + p[f"router.token.{m}.weight"] @ rows[token] if per_token else base
                decisions.append(weigh(logits, available, top_k))
                if masks[m][b, token] if per_token else m in z:
                    open_ = [logit for logit, free in zip(logits, available, strict=True) if free]
                    even = torch.tensor([float(free) for free in available], dtype=x.dtype) / max(
                        1, len(open_)
                    )
                    partition = torch.logsumexp(torch.stack(open_), 0) if open_ else x.new_zeros(())
                    used[m].append((decisions[-1], even, partition))
            gates[m].append(torch.stack(decisions) if per_token else decisions[0])
            if m not in z:
                continue
            mixed = []
            for e, (kind, i) in enumerate(experts):
                if not available[e]:
                    mixed.append(rows.new_zeros(len(rows), r))
                    continue
                own = slice(e * r, (e + 1) * r)
                q = f"experts.{m}.{kind}."
                mine = slice(i * r, (i + 1) * r)  # of what its kind answers with
                c = torch.cat([pooled.get(n, zero) for n in others] + whole)
                if kind == "affine":
                    y = silu(rows[:, own]) * p[q + "scale"][mine] + p[q + "shift"][mine]
                elif kind == "conditioned_affine":
                    hidden = torch.clamp(p[q + "hidden.weight"] @ c + p[q + "hidden.bias"], min=0)
                    film = (p[q + "film.weight"] @ hidden + p[q + "film.bias"]).reshape(2, -1)
                    y = silu(rows[:, own]) * (1 + film[0, mine]) + film[1, mine]
                elif kind == "channel_attention":
                    hidden = torch.clamp(p[q + "squeeze.weight"] @ c + p[q + "squeeze.bias"], min=0)
                    excited = (p[q + "excite.weight"] @ hidden + p[q + "excite.bias"])[mine]
                    y = silu(rows[:, own]) * 2 / (1 + torch.exp(-excited))
                else:
                    read = []
                    for n in readable:
                        real = z[n][:, own][masks[n][b]]
                        if len(real) > max(exact_tokens, latents):
                            read += [real[i:j].mean(0) for i, j in stretches(len(real), latents)]
                        else:
                            read += list(real)
                    read = torch.stack(read)
                    ask = rows[:, own] @ p[q + "query"][i]
                    k, v = read @ p[q + "key"][i], read @ p[q + "value"][i]
                    y = silu(rows[:, own]) + attend(ask, k, v)
                gate = torch.stack(decisions)[:, e] if per_token else decisions[0][e]
                mixed.append(y * (gate[:, None] if per_token else gate))
                assert first[kind] + i == e
            updates[m][b] = total * (torch.cat(mixed, 1) @ p[f"up.{m}"]) * masks[m][b][:, None]

    balance = z_sum = some.new_zeros(())
    for decided in used.values():
        if not decided:
            continue
        gap = torch.stack([w - even for w, even, _ in decided]).mean(0)
        balance = balance + total * (gap**2).sum() / len(states)
        z_sum = z_sum + torch.stack([partition**2 for _, _, partition in decided]).mean() / len(states)
    return updates, {m: torch.stack(g) for m, g in gates.items()}, balance, z_sum


def weigh(logits, available, top_k):
    """Softmax over what is available, the k largest only, one exponential at a time."""
    open_ = [e for e, free in enumerate(available) if free]
    open_ = sorted(open_, key=lambda e: -float(logits[e].detach()))[: top_k or len(open_)]
    weights = [logits.new_zeros(()) for _ in available]
    if not open_:
        return torch.stack(weights)
    highest = max(float(logits[e].detach()) for e in open_)
    powers = {e: torch.exp(logits[e] - highest) for e in open_}
    for e in open_:
        weights[e] = powers[e] / sum(powers.values())
    return torch.stack(weights)
