"""HMMoEBlock: the wrapper around a frozen block that stands at a fusion point.

states ─► block ─► pause until the other streams are there ─► + update ─►
"""

from collections.abc import Mapping
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from hmmoe.streams import spans as spans_of
from hmmoe.streams.layouts import (
    add_update,
    is_convolutional,
    leading_tokens,
    main_tensor,
    real_tokens,
    replace_main,
    to_tokens,
    told_mask,
)
from hmmoe.streams.lockstep import STREAM, Link, arrive, is_causal
from hmmoe.streams.record import RECORD, note


class HMMoEBlock(nn.Module, BaseTunerLayer):
    """A block whose output is updated at its fusion points, one per adapter.

    A fusion point's `HMMoELayer` is a submodule of the wrapper of its first stream by name; the other
    streams' wrappers know it through their `Link`.

    Args:
        base_layer: the block.

    Raises:
        ValueError: the block works on (tokens, batch, width).
    """

    adapter_layer_names = ("hmmoe_layers",)
    other_param_names = ("hmmoe_links",)
    reads_output_only = True  # PrefixCache may remember the block inside

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        if any(isinstance(m, nn.MultiheadAttention) and not m.batch_first for m in base_layer.modules()):
            raise ValueError(
                f"{type(base_layer).__name__} puts tokens before the batch; build it with batch_first=True"
            )
        self.base_layer = base_layer
        self.hmmoe_layers = nn.ModuleDict()
        self.hmmoe_links: dict[str, dict[str, Link]] = {}  # adapter -> stream, several in a shared tower
        self.hmmoe_spans: dict[str, Mapping[str, Any]] = {}
        self.convolutional = is_convolutional(base_layer)

    def add(self, link: Link, spans: Mapping[str, Any] | None) -> None:
        """Stand at a fusion point."""
        self.hmmoe_links.setdefault(link.adapter, {})[link.stream] = link
        if spans is not None:
            self.hmmoe_spans[link.adapter] = spans
        if link.stream in ("", link.streams[0]):
            self.hmmoe_layers[link.adapter] = link.layer[0]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = self.base_layer(*args, **kwargs)
        if self.disable_adapters:
            return output
        for adapter in self.active_adapters:
            link = self._link(adapter)
            if link is not None:
                output = self._fuse(link, output, args, kwargs)
        return output

    def _link(self, adapter: str) -> Link | None:
        """The end of the stream whose tower is running; outside of a run any one, which then says so."""
        links, running = self.hmmoe_links.get(adapter, {}), STREAM.get()
        if "" in links or running is None:
            return next(iter(links.values()), None)
        return links.get(running)

    def _fuse(self, link: Link, output: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        x = main_tensor(output)
        width = link.widths[link.stream or link.streams[0]]
        tokens = to_tokens(x, width, self.convolutional)  # (R, N, D)
        told = told_mask(self.get_base_layer(), args, kwargs)
        mask = None if told is None else real_tokens(*told)
        if link.stream == "":
            update = self._fuse_spans(link, tokens, mask)
        else:
            lead = None if told is None or not is_causal(link.stream) else leading_tokens(told[0])
            update = arrive(link, tokens, mask, lead)
        return replace_main(output, add_update(x, update, width, self.convolutional))

    def _fuse_spans(self, link: Link, tokens: Tensor, mask: Tensor | None) -> Tensor:
        record, spans = RECORD.get(), self.hmmoe_spans[link.adapter]
        turns = spans_of.passes(spans)
        places = spans_of.resolve(spans, record.inputs if record else {}, tokens.shape[1])
        masks = {} if mask is None else spans_of.split(mask.expand(len(tokens), -1), places, turns)
        updates, routing = link.layer[0](spans_of.split(tokens, places, turns), masks)
        note(link.adapter, link.point, routing, updates)
        return spans_of.join(updates, places, tokens, turns)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        raise NotImplementedError(NO_MERGE)

    def unmerge(self) -> None:
        raise NotImplementedError(NO_MERGE)

    def delete_adapter(self, adapter_name: str) -> None:
        self.hmmoe_spans.pop(adapter_name, None)
        super().delete_adapter(adapter_name)

    def _move_adapter_to_device_of_base_layer(
        self, adapter_name: str, device: torch.device | None = None
    ) -> None:
        """Onto the block's device; in float64 for float64 blocks, in float32 for all others."""
        if adapter_name not in self.hmmoe_layers:
            return
        layer = self.hmmoe_layers[adapter_name]
        if any(p.is_meta for p in layer.parameters()):
            return
        weights = [p for p in self.base_layer.parameters() if p.is_floating_point()]
        if weights:
            dtype = torch.float64 if weights[0].dtype == torch.float64 else torch.float32
            layer.to(device=device or weights[0].device, dtype=dtype)

    def __getattr__(self, name: str) -> Any:
        """What the tower asks of its block (`attention_type` and the like), the block answers."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_layer":
                raise
            return getattr(super().__getattr__("base_layer"), name)


NO_MERGE = (
    "HMMoE adapters cannot be merged, since their updates depend on the input and on the other streams; "
    "use unload() to get the frozen model back"
)
