"""MultimodalModel: frozen towers side by side and a head on what they see.

inputs ─► towers, in lockstep where adapters let them meet ─► states (B, N, D) of each ─► head ─► logits, loss
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.utils import ModelOutput

from hmmoe.errors import unknown
from hmmoe.streams.intercept import intercept, release
from hmmoe.streams.layouts import is_convolutional, main_tensor, to_tokens
from hmmoe.streams.levels import Levels
from hmmoe.streams.lockstep import lockstep, to_all
from hmmoe.streams.points import find_blocks, unwrap
from hmmoe.streams.widths import block_width

POOLED = "pooled"  # a model's own summary, (B, 1, D), among the streams that a head sees


@dataclass
class MultimodalOutput(ModelOutput):
    """What a forward returns.

    Attributes:
        loss: scalar, when labels were given; includes the adapters' auxiliary loss in training.
        logits: the head's, a tensor or a dict of tensors.
        aux_loss: scalar, the auxiliary loss in training with adapters; already in `loss`.
        states: on request, stream -> `(B, N, D)`, or `(B, T, N, D)` where folded; and its levels.
    """

    loss: Tensor | None = None
    logits: Any = None
    aux_loss: Tensor | None = None
    states: dict[str, Tensor] | None = None


class ContainerConfig(dict):
    """The little that PEFT and Trainer ask of a model's config."""

    keys_to_ignore_at_inference = ["aux_loss", "states"]  # noqa: RUF012

    def to_dict(self) -> dict[str, Any]:
        return dict(self)

    def to_json_string(self) -> str:
        import json

        return json.dumps(self, indent=2, sort_keys=True)


class FrozenTowers(nn.Module):
    """Base of models that own frozen towers: eval mode, activation checkpointing, block-wise compile."""

    is_gradient_checkpointing = False
    accepts_loss_kwargs = False  # Trainer: our keyword arguments are streams
    prefix_cache: Any = None
    reads_whole_outputs = False  # of a tower; otherwise its states are all that is read, and remembered

    def tower_modules(self) -> dict[str, nn.Module]:
        """stream -> tower."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> "FrozenTowers":
        """Training mode for head and adapters; towers stay in eval mode (no dropout, no drift)."""
        super().train(mode)
        for tower in self.tower_modules().values():
            _eval_but_adapters(tower, mode)
        return self

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict | None = None, **_: Any
    ) -> None:
        """Recompute every block in the backward pass (transformers' own switch waits for training mode)."""
        self.gradient_checkpointing_disable()
        options = {"use_reentrant": False, **(gradient_checkpointing_kwargs or {})}
        for block in self._blocks():
            block.__dict__["_hmmoe_checkpoint"] = recompute = _Recompute(options)
            intercept(block, recompute)
        self.is_gradient_checkpointing = True

    def gradient_checkpointing_disable(self) -> None:
        """Keep activations again."""
        for block in self._blocks():
            if (recompute := block.__dict__.pop("_hmmoe_checkpoint", None)) is not None:
                release(block, recompute)
        self.is_gradient_checkpointing = False

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict | None = None, **kwargs: Any
    ) -> None:
        """Newer name of `gradient_checkpointing_enable`, the one Trainer calls."""
        self.gradient_checkpointing_enable(activation_checkpointing_kwargs, **kwargs)

    def activation_checkpointing_disable(self) -> None:
        """Newer name of `gradient_checkpointing_disable`."""
        self.gradient_checkpointing_disable()

    def compile_blocks(self, **options: Any) -> None:
        """`torch.compile` every frozen block by itself; options are torch.compile's."""
        for block in self._blocks():
            block.compile(**options)

    def _blocks(self) -> list[nn.Module]:
        found = []
        for tower in self.tower_modules().values():
            try:
                found += [unwrap(tower.get_submodule(path)) for path in find_blocks(tower)]
            except ValueError:  # a tower without a list of blocks runs as it is
                continue
        return list(dict.fromkeys(found))  # streams may share a tower


class MultimodalModel(FrozenTowers):
    """Towers and a head.

    Args:
        towers: stream -> encoder, frozen here and kept in eval mode. It returns a tensor, a tuple that starts
            with one, or a ModelOutput with `last_hidden_state`. Streams may share one encoder.
        head: `head(states, masks) -> logits` and `head.loss(logits, labels) -> scalar`; states as in
            `MultimodalOutput`, masks stream -> bool `(B, N)` (`(B, T, N)` where folded), True for real
            tokens, or None for all real.
        folded: streams whose inputs carry one more axis, `(B, T, ...)`: frames or segments, run as `B * T`
            rows.
        groups: streams of different groups never see each other; None for one group of all.
        levels: stream -> blocks whose output the head sees too, among its states and masks under the names
            "stream/0", "stream/1", … (see `hmmoe.streams.levels`).

    Raises:
        ValueError: an unknown stream in `folded`, `groups` or `levels`, a stream that is in no group or in
            two, or a level that is no block.
    """

    def __init__(
        self,
        towers: Mapping[str, nn.Module],
        head: nn.Module,
        *,
        folded: Collection[str] = (),
        groups: Sequence[Sequence[str]] | None = None,
        levels: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        self.towers = nn.ModuleDict(towers)
        self.head = head
        self.folded = frozenset(folded)
        self.groups = [list(towers)] if groups is None else [list(group) for group in groups]
        named = {"folded": list(self.folded), "groups": [m for g in self.groups for m in g]}
        for what, names in {**named, "levels": list(levels or {})}.items():
            for m in names:
                if m not in towers:
                    raise ValueError(unknown(f"stream in {what}", m, towers))
        if sorted(m for g in self.groups for m in g) != sorted(towers):
            raise ValueError(f"groups must name every stream once, got {self.groups} for {sorted(towers)}")
        self.levels = Levels(levels or {}, towers)
        self.config = ContainerConfig({"model_type": "hmmoe", "streams": sorted(towers)})
        self.towers.requires_grad_(False)
        self.train(self.training)

    @classmethod
    def from_joint(cls, joint: nn.Module, towers: Mapping[str, str]) -> Any:
        """A joint model such as CLIPModel with its towers in lockstep; see `hmmoe.joint.JointModel`."""
        from hmmoe.joint import JointModel

        return JointModel(joint, towers)

    def tower_modules(self) -> dict[str, nn.Module]:
        return dict(self.towers.items())

    def forward(
        self,
        labels: Any = None,
        index: Tensor | None = None,
        present: Mapping[str, Tensor] | None = None,
        output_states: bool = False,
        **inputs: Mapping[str, Tensor] | None,
    ) -> MultimodalOutput:
        """One forward of all towers.

        Args:
            labels: what `head.loss` takes; without them there is no loss.
            index: `(B,)` rows of the data set, read by `PrefixCache` only.
            present: stream -> `(B,)` bool, False where a sample lacks the stream. Its inputs are then any
                filler: a tower runs only the samples that have its stream, or one where none has (on a GPU
                the host waits for these values).
            output_states: return the streams' final states too.
            inputs: stream -> keyword inputs of its tower, `(B, ...)`, or `(B, T, ...)` where folded. A stream
                left out or None is missing.

        Raises:
            ValueError: unknown streams, none at all, or batch sizes that do not fit.
        """
        streams, folds, batch = self._check(inputs, present)
        present = {m: there.bool() for m, there in (present or {}).items() if m in streams}
        rows = {m: some for m, there in present.items() if (some := _rows(there)) is not None}
        calls = {m: self._call(m, inputs[m] or {}, rows.get(m)) for m in streams}
        outputs: dict[str, Any] = {}
        memory = nullcontext() if self.prefix_cache is None else self.prefix_cache.batch(index, streams, rows)
        with memory, self.levels.listen({m: self.towers[m] for m in streams}) as kept:
            for group in self.groups:
                group_calls = {m: calls[m] for m in group if m in calls}
                if group_calls:
                    outputs |= lockstep(group_calls, folds=folds, present=present, rows=rows)
            seen = {m: final_tokens(self.towers[m], outputs[m]) for m in streams} | kept  # (B*T, N, D)
        states: dict[str, Tensor] = {}
        masks: dict[str, Tensor | None] = {}
        for name, tokens in seen.items():
            m = name if name in calls else name.rpartition("/")[0]
            mask = self._final_mask(m, calls[m].keywords, tokens)
            if m in rows:
                tokens = to_all(tokens, rows[m], batch, folds[m])
                mask = None if mask is None else to_all(mask, rows[m], batch, folds[m])
            if m in present:
                there = present[m].repeat_interleave(folds[m])[:, None].expand(tokens.shape[:2])
                mask = there if mask is None else mask & there
            if m in self.folded:
                tokens = tokens.unflatten(0, (batch, folds[m]))
                mask = None if mask is None else mask.unflatten(0, (batch, folds[m]))
            states[name], masks[name] = tokens, mask
        return self._answer(states, masks, labels, output_states)

    def _answer(
        self,
        states: dict[str, Tensor],
        masks: dict[str, Tensor | None],
        labels: Any,
        output_states: bool,
    ) -> MultimodalOutput:
        """The head's logits and, with labels, its loss."""
        head: Any = self.head
        logits = head(states, masks)
        loss = None if labels is None else head.loss(logits, labels)
        return MultimodalOutput(loss=loss, logits=logits, states=states if output_states else None)

    def _check(
        self, inputs: Mapping[str, Any], present: Mapping[str, Tensor] | None
    ) -> tuple[list[str], dict[str, int], int]:
        for m in [*inputs, *(present or {})]:
            if m not in self.towers:
                raise ValueError(unknown("stream", m, self.towers))
        streams = [m for m in self.towers if inputs.get(m) is not None]
        if not streams:
            raise ValueError(f"give the inputs of at least one stream of {', '.join(self.towers)}")
        batches, folds = {}, {}
        for m in streams:
            tensors = {k: v for k, v in inputs[m].items() if isinstance(v, Tensor)}
            if not tensors:
                raise ValueError(f"inputs of stream {m!r} hold no tensor, got {sorted(inputs[m])}")
            axes = 2 if m in self.folded else 1
            leads = {k: tuple(v.shape[:axes]) for k, v in tensors.items()}
            if len(set(leads.values())) > 1 or any(len(lead) < axes for lead in leads.values()):
                raise ValueError(
                    f"inputs of stream {m!r} must all start with {['(B,)', '(B, T)'][axes - 1]}, got {leads}"
                )
            lead = next(iter(leads.values()))
            batches[m], folds[m] = lead[0], lead[1] if axes == 2 else 1
        if len(set(batches.values())) > 1:
            raise ValueError(f"streams must have the same batch size, got {batches}")
        batch = next(iter(batches.values()))
        for m, there in (present or {}).items():
            if tuple(there.shape) != (batch,):
                raise ValueError(
                    f"present[{m!r}] must be ({batch},), one value per sample, got {tuple(there.shape)}"
                )
        return streams, folds, batch

    def _call(self, m: str, inputs: Mapping[str, Any], rows: Tensor | None) -> partial:
        """A tower's call with these samples, folded axes unfolded."""
        tensors = {k: v for k, v in inputs.items() if isinstance(v, Tensor)}
        if rows is not None:
            tensors = {k: v[rows] for k, v in tensors.items()}
        if m in self.folded:
            tensors = {k: v.flatten(0, 1) for k, v in tensors.items()}
        return partial(self.towers[m], **{**inputs, **tensors})

    def _final_mask(self, m: str, inputs: Mapping[str, Any], tokens: Tensor) -> Tensor | None:
        """The padding mask of a tower's output; None where the given one no longer fits its length."""
        told = inputs.get("attention_mask")
        if not isinstance(told, Tensor) or told.dim() != 2:
            return None
        if told.shape[1] != tokens.shape[1]:
            reduce = getattr(
                self.towers[m], "_get_feature_vector_attention_mask", None
            )  # Wav2Vec2 and its kin
            if reduce is None:
                return None
            told = reduce(tokens.shape[1], told)
        return told.bool()


def _rows(there: Tensor) -> Tensor | None:
    """Numbers of the samples that have a stream, `(R,)`; the first where none has, None where all have."""
    rows = there.nonzero()[:, 0]
    if len(rows) == len(there):
        return None
    return rows if len(rows) else rows.new_zeros(1)


class _Recompute:
    """A block's interceptor that checkpoints it whenever a gradient will be asked for."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options

    def __call__(self, inner: Any, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return inner(*args, **kwargs)
        return checkpoint(partial(inner, **kwargs), *args, **self.options)


def _eval_but_adapters(module: nn.Module, mode: bool) -> None:
    """Eval mode for a frozen tower; what wrappers (with a `base_layer`, as PEFT's) add follows `mode`."""
    wrapper = isinstance(getattr(module, "base_layer", None), nn.Module)
    kept = "original_module" if hasattr(module, "modules_to_save") else "base_layer"
    module.training = mode if wrapper else False
    for name, child in module.named_children():
        if (wrapper or kept == "original_module") and name != kept:
            child.train(mode)
        else:
            _eval_but_adapters(child, mode)


def final_tokens(tower: nn.Module, output: Any) -> Tensor:
    """What a tower returned, as `(B, N, D)`."""
    x = main_tensor(output)
    return x if x.dim() == 3 else to_tokens(x, *_grid(tower, x))


def _grid(tower: nn.Module, x: Tensor) -> tuple[int | None, bool]:
    """Width and convention of a tower's output of 2 or more than 3 axes, as `to_tokens` takes them."""
    convolutional = True
    try:
        block = tower.get_submodule(find_blocks(tower)[-1])
        width, convolutional = block_width(block, "the last block"), is_convolutional(unwrap(block))
        if x.dim() > 3 and width in (x.shape[1], x.shape[-1]):
            return width, convolutional
    except ValueError:
        pass
    return None, convolutional
