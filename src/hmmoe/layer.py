"""The HMMoE layer: streams of tokens in, an update for each stream out.

For streams m with states X_m (N_m x d_m) and experts e = 1..E of rank r (arXiv 2503.20633; what is ours is
said beside it):

    Z_m  = ((X_m - mu_m) / sigma_m) D_m     one product for all experts of m, d_m -> E*r = W, see `down.py`
    c_m  = mean over real tokens of Z_m, scaled to unit root mean square
    Y_e  = expert_e(Z_m, Z_n, c_n)          in rank space, see `experts/`
    g_m  = router(c_1, ..., c_M)            see `router.py`
    dX_m = s E [g_1 Y_1, ..., g_E Y_E] U_m  one product, W -> d_m; U_m = 0 at the start: the frozen model

Everything between D and U happens in W channels, so a layer costs two matrix products per stream and little
more, and no weight depends on the number of tokens. That inputs are standardised per channel and gates scaled
by E and by a constant s is ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hmmoe.down import Down, standardise
from hmmoe.errors import at_least_one, unknown
from hmmoe.experts import EXPERTS, ChannelExperts
from hmmoe.mixing import last_pieces, mix, spread
from hmmoe.router import Losses, Router, Uniform

DEFAULT_EXPERTS = {"affine": 2, "conditioned_affine": 2, "cross_attention": 1, "channel_attention": 1}
ROUTERS = ("sample", "token", "uniform")


@dataclass
class Routing:
    """What a layer's router did, left on the device (reading a value is the caller's choice).

    Attributes:
        weights: per stream `(B, E)`, or `(B, N, E)` when routed per token; detached.
        losses: works out `balance` and `z`.
    """

    weights: dict[str, Tensor]
    losses: Losses

    @cached_property
    def _losses(self) -> tuple[Tensor, Tensor]:
        return self.losses()

    @property
    def balance(self) -> Tensor:
        """Scalar, the load-balancing loss of `router.Router`."""
        return self._losses[0]

    @property
    def z(self) -> Tensor:
        """Scalar, its z-loss."""
        return self._losses[1]


@dataclass
class Read:
    """What other streams see of one, in rank space.

    Attributes:
        z: `(B, N, W)`.
        c: `(B, W)`, its mean over real tokens.
        mask: `(B, N)` bool, True for real tokens; None: all.
    """

    z: Tensor
    c: Tensor
    mask: Tensor | None


class HMMoELayer(nn.Module):
    """One fusion point.

    Args:
        widths: stream name -> width d_m.
        rank: channels r of each expert.
        experts: kind (a key of `EXPERTS`) -> number of experts; the order of the keys does not matter.
        router: "sample", "token", or "uniform": all available experts count alike, nothing is learned.
        top_k: keep the k largest weights of each sample; None keeps all.
        latents, exact_tokens: see `experts.cross_attention`.
        sample_context: rows are steps of a sample (frames with their second of sound): experts also know the
            sample as a whole, all streams pooled over all its steps.
        dropout: of the experts' outputs and of the pooled states they know of the other streams, in training.
        modality_dropout: in training, the chance per sample and stream that the other streams' experts do
            not see it.
        scale: s, of the updates, as LoRA's alpha / r: how far a step of the optimiser goes, without a change
            to the ways down and to the experts.
        up_std: standard deviation of U's first values; 0, the frozen model at the start, unless that is what
            is to be compared.

    Raises:
        ValueError: for an unknown expert or router, or numbers out of range.
    """

    alone: Tensor  # (E,) bool: experts that need no other stream
    laid_out: Tensor  # (E, W): gates, `scale` where all experts count alike, at their experts' channels

    def __init__(
        self,
        widths: Mapping[str, int],
        *,
        rank: int,
        experts: Mapping[str, int] | None = None,
        router: str = "sample",
        top_k: int | None = None,
        latents: int = 16,
        exact_tokens: int = 64,
        sample_context: bool = False,
        dropout: float = 0.0,
        modality_dropout: float = 0.0,
        scale: float = 1.0,
        up_std: float = 0.0,
    ) -> None:
        super().__init__()
        counts = check_experts(DEFAULT_EXPERTS if experts is None else experts)
        if router not in ROUTERS:
            raise ValueError(unknown("router", router, ROUTERS))
        if not widths or min(widths.values()) < 1:
            raise ValueError(
                f"widths must name at least one stream, each at least 1 wide, got {dict(widths)}"
            )
        at_least_one(rank=rank)
        total = sum(counts.values())
        if top_k is not None and not 1 <= top_k <= total:
            raise ValueError(f"top_k must be between 1 and the {total} experts, got {top_k}")
        if top_k is not None and router == "uniform":
            raise ValueError(f"top_k={top_k} needs a router that ranks experts, got router='uniform'")
        self.widths = {m: widths[m] for m in sorted(widths)}
        self.rank, self.counts, self.modality_dropout = rank, counts, modality_dropout
        self.sample_context, self.dropout = sample_context, dropout
        # A lone stream is its own other: cross-attention becomes self-attention, channel attention
        # squeeze-and-excite.
        self.others = {m: [n for n in self.widths if n != m] or [m] for m in self.widths}
        width = total * rank
        context = {m: width * (len(self.others[m]) + sample_context * len(self.widths)) for m in self.widths}
        self.down = nn.ModuleDict({m: Down(d, width) for m, d in self.widths.items()})
        self.standardised = False  # by the first training batch; a host's copy of the buffers' word
        # (W, d), the other way round than nn.Linear's: its gradient is the faster of the two products.
        self.up = nn.ParameterDict({m: torch.zeros(width, d) for m, d in self.widths.items()})
        if up_std:
            for up in self.up.values():
                nn.init.normal_(up, std=up_std)
        options = {"cross_attention": {"latents": latents, "exact_tokens": exact_tokens}}
        self.experts = nn.ModuleDict(
            {
                m: nn.ModuleDict(
                    {k: EXPERTS[k](n, rank, context[m], **options.get(k, {})) for k, n in counts.items()}
                )
                for m in self.widths
            }
        )
        needs = {kind: EXPERTS[kind].reads_others for kind in counts}
        self.router: nn.Module = (
            Uniform(total)
            if router == "uniform"
            else Router(tuple(self.widths), total, width, per_token=router == "token", top_k=top_k)
        )
        alone = torch.cat([torch.full((n,), not needs[k]) for k, n in counts.items()])
        self.register_buffer("alone", alone, persistent=False)
        laid_out = scale * total * torch.eye(total).repeat_interleave(rank, 1)
        self.register_buffer("laid_out", laid_out, persistent=False)
        self.channel_kinds = [k for k in counts if issubclass(EXPERTS[k], ChannelExperts)]
        self.token_kinds = [k for k in counts if k not in self.channel_kinds]
        self.pieces = [counts[k] * rank for k in self.token_kinds]  # the last of the W channels

    def forward(
        self,
        states: Mapping[str, Tensor],
        masks: Mapping[str, Tensor] | None = None,
        steps: int = 1,
        *,
        known: Mapping[str, Read] | None = None,
        keep: dict[str, Read] | None = None,
        lead: Mapping[str, Tensor] | None = None,
    ) -> tuple[dict[str, Tensor], Routing]:
        """Updates of all streams that are there.

        Args:
            states: stream -> `(B, N_m, d_m)`; a stream left out is missing for the whole batch.
            masks: stream -> `(B, N_m)` bool, True for real tokens; a row without any True is a stream missing
                for that sample; a stream left out has no padding.
            steps: how many consecutive rows are steps of one sample; read with `sample_context` only.
            known: streams that ran before, read and not updated.
            keep: is given what later streams read of these `states`.
            lead: causal streams (a text that is being written) -> `(B, N_m)` bool, the tokens that all others
                see; a token's update depends on these and itself alone, and not on how long the text is.

        Returns:
            stream -> `(B, N_m, d_m)` to be added to the states, zero at padding, and the `Routing`.

        Raises:
            ValueError: for unknown streams, or widths, batch sizes or masks that do not fit.
        """
        masks, known, lead = dict(masks or {}), known or {}, lead or {}
        self._check(states, masks, known)
        if self.training and not self.standardised:
            self.standardised = standardise(dict(self.down.items()), states, masks)  # type: ignore[arg-type]
        z = {m: r.z for m, r in known.items()}
        c = {m: r.c for m, r in known.items()}
        masks |= {m: r.mask for m, r in known.items() if r.mask is not None}
        split = {m: (r.z, *last_pieces(r.z, self.pieces)) for m, r in known.items()}
        for m in states:  # in rank space from here on
            z[m] = self.down[m](states[m])  # (B, N, W)
            split[m], c[m] = spread(z[m], lead.get(m, masks.get(m)), self.pieces)  # c (B, W)
            if keep is not None:
                keep[m] = Read(z[m], c[m], masks.get(m))
        nothing = torch.zeros_like(next(iter(c.values())))
        there = {m: masks[m].any(-1) if m in masks else None for m in z}  # (B,); None: in every sample
        seen = {m: self._hide(there[m], nothing) for m in z}
        pooled = unit_rms(torch.stack([c.get(m, nothing) for m in self.widths], 1))  # (B, M, W)
        if any(s is not None for s in seen.values()):
            shown = [nothing.new_ones(len(nothing)) if (s := seen.get(m)) is None else s for m in self.widths]
            pooled = pooled * torch.stack([s.to(pooled.dtype) for s in shown], 1)[..., None]
        c = dict(zip(self.widths, pooled.unbind(1), strict=True))
        everything = pooled.flatten(1)  # (B, M * W)
        whole = self._over_steps(everything, steps) if self.sample_context else None
        routed = {m: z[m] for m in states}
        available = {m: self._available(m, seen, nothing) for m in routed}
        counted = {m: masks.get(m) for m in routed} if self.router.token else there
        gates, losses = self.router(everything, routed, available, counted)
        updates = {}
        for m in routed:
            told = [c[n] for n in self.others[m]] + ([] if whole is None else [whole])
            context = torch.cat(told, -1) if len(told) > 1 else told[0]
            context = F.dropout(context, self.dropout, self.training)
            y = self._mix(m, split, context, gates[m].to(z[m].dtype), masks, seen)  # (B, N, W)
            updates[m] = self._up(m, F.dropout(y, self.dropout, self.training), states[m], masks.get(m))
        return updates, Routing({m: gate.detach() for m, gate in gates.items()}, losses)

    def _up(self, m: str, y: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
        update = (y @ self.up[m]).to(x.dtype)
        return update if mask is None else update * mask[..., None]

    @staticmethod
    def _over_steps(c: Tensor, steps: int) -> Tensor:
        """Mean over the steps of each sample, for each of its rows, `(B, M * W)`."""
        if len(c) % steps:
            raise ValueError(f"{len(c)} rows are not a whole number of samples of {steps} steps")
        return c.unflatten(0, (-1, steps)).mean(1).repeat_interleave(steps, 0)

    def _hide(self, there: Tensor | None, nothing: Tensor) -> Tensor | None:
        """Samples in which the others see a stream, `(B,)` or None for all: it is there, and not dropped."""
        if not self.training or self.modality_dropout == 0 or len(self.widths) == 1:
            return there
        kept = torch.rand(len(nothing), device=nothing.device) >= self.modality_dropout
        return kept if there is None else kept & there

    def _available(self, m: str, seen: Mapping[str, Tensor | None], nothing: Tensor) -> Tensor | None:
        """Experts with something to read, `(B, E)`: uni-modal ones, all where another is seen. None: all."""
        others = [seen[n] for n in self.others[m] if n in seen]
        known = [there for there in others if there is not None]
        if len(known) < len(others):
            return None
        anything = torch.zeros(len(nothing), dtype=torch.bool, device=nothing.device)
        for there in known:
            anything = anything | there
        return anything[:, None] | self.alone

    def _mix(
        self,
        m: str,
        z: Mapping[str, tuple[Tensor, ...]],
        context: Tensor,
        gate: Tensor,
        masks: Mapping[str, Tensor],
        seen: Mapping[str, Tensor | None],
    ) -> Tensor:
        """`[g_1 Y_1, ..., g_E Y_E]` of stream m, `(B, N, W)`."""
        own = z[m][0]
        gate = gate @ self.laid_out  # (B, W) or (B, N, W)
        ys = [self._tokens(m, i, z, masks, seen) for i in range(len(self.token_kinds))]
        if not self.channel_kinds:
            return mix(own, gate.to(own.dtype), None, ys)
        scale, shift = self._channels(m, context)
        if gate.dim() == 3:
            scale, shift = scale[:, None], shift[:, None]
        scale, shift = scale * gate, shift * gate[..., : shift.shape[-1]]
        return mix(own, scale.to(own.dtype), shift.to(own.dtype), ys)

    def _group(self, m: str, kind: str) -> nn.Module:
        return self.experts[m][kind]  # type: ignore[index]

    def _channels(self, m: str, context: Tensor) -> tuple[Tensor, Tensor]:
        """Scales of all experts of stream m, `(B, W)`, and shifts of its channel experts, `(B, k)`."""
        scales: list[Tensor] = []
        shifts: list[Tensor] = []
        for kind in self.channel_kinds:
            scale, shift = self._group(m, kind)(context)
            shift = torch.zeros_like(scale) if shift is None else shift
            for kept, x in ((scales, scale), (shifts, shift)):
                kept.append(x if x.dim() == 2 else x.expand(len(context), -1))
        unscaled = scales[0].new_ones(len(context), sum(self.pieces))  # the token experts
        return torch.cat([*scales, unscaled], -1), torch.cat(shifts, -1)

    def _tokens(
        self,
        m: str,
        i: int,
        z: Mapping[str, tuple[Tensor, ...]],
        masks: Mapping[str, Tensor],
        seen: Mapping[str, Tensor | None],
    ) -> Tensor:
        """What the i-th kind of token experts of stream m adds, reading the others, `(B, N, n*r)`."""
        own, others = z[m][1 + i], [n for n in self.others[m] if n in z]
        if not others:
            return torch.zeros_like(own)  # nothing to read: gate is zero
        real = [self._seen_tokens(z[n][0], masks.get(n), seen[n]) for n in others]
        return self._group(m, self.token_kinds[i])(own, [z[n][1 + i] for n in others], real)

    @staticmethod
    def _seen_tokens(z: Tensor, mask: Tensor | None, seen: Tensor | None) -> Tensor | None:
        """`(B, N)` bool, or None for all."""
        if mask is None and seen is None:
            return None
        if mask is None:
            mask = torch.ones(z.shape[:2], dtype=torch.bool, device=z.device)
        return mask if seen is None else mask & seen[:, None]

    def _check(
        self, states: Mapping[str, Tensor], masks: Mapping[str, Tensor], known: Mapping[str, Read]
    ) -> None:
        for m in [*states, *masks, *known]:
            if m not in self.widths:
                raise ValueError(unknown("stream", m, self.widths))
            if m in states and m in known:
                raise ValueError(f"stream {m!r} is in known and in states; it cannot run twice")
        if not states:
            raise ValueError("states holds no stream; give at least one")
        batch = {m: len(x) for m, x in states.items()} | {m: len(r.z) for m, r in known.items()}
        if len(set(batch.values())) > 1:
            raise ValueError(f"streams must have the same batch size, got {batch}")
        for m, x in states.items():
            if x.dim() != 3 or x.shape[-1] != self.widths[m]:
                raise ValueError(
                    f"stream {m!r} must be (batch, tokens, {self.widths[m]}), got {tuple(x.shape)}"
                )
        for m, mask in masks.items():
            if m in states and (mask.dtype != torch.bool or mask.shape != states[m].shape[:2]):
                raise ValueError(
                    f"mask of stream {m!r} must be bool {tuple(states[m].shape[:2])}, "
                    f"got {mask.dtype} {tuple(mask.shape)}"
                )

    def extra_repr(self) -> str:
        return f"widths={self.widths}, rank={self.rank}, experts={self.counts}"


def check_experts(experts: Mapping[str, int]) -> dict[str, int]:
    """Expert counts in the registry's order, without kinds that count 0.

    Raises:
        ValueError: for something else than counts by kind, an unknown kind, a negative count, or no expert at
            all.
    """
    if not isinstance(experts, Mapping):
        raise ValueError(f"experts must be kind -> number, e.g. {{'affine': 2}}, got {experts!r}")
    for kind, count in experts.items():
        if kind not in EXPERTS:
            raise ValueError(unknown("expert", kind, EXPERTS))
        if not isinstance(count, int) or count < 0:
            raise ValueError(f"experts[{kind!r}] must be a whole number from 0, got {count!r}")
    order = sorted(
        EXPERTS, key=lambda kind: not issubclass(EXPERTS[kind], ChannelExperts)
    )  # channel experts first
    counts = {kind: experts[kind] for kind in order if experts.get(kind)}
    if not counts:
        raise ValueError(f"experts must name at least one of {', '.join(EXPERTS)}")
    return counts


def unit_rms(c: Tensor) -> Tensor:
    """Rows of unit root mean square, `(..., W)`; a row of zeros stays one."""
    return F.rms_norm(c, c.shape[-1:], eps=1e-6)
