"""The width of a block's output, read off its parameters: adapters must exist before any input is seen."""

from torch import nn

from hmmoe.streams.points import unwrap


def block_width(block: nn.Module, where: str) -> int:
    """Channels of a block's output.

    A block ends in the layer that writes to the residual stream: its last linear or convolution layer, in
    order of registration. Its norms, if it has any, must know that width as well.

    Args:
        block: a transformer or convolution block.
        where: its name in the error.

    Raises:
        ValueError: nothing says the width; the mend is `widths`.
    """
    block = unwrap(block)
    writers = [n for m in block.modules() if (n := _out_channels(m))]
    norms = {
        p.numel() for m in block.modules() if "Norm" in type(m).__name__ for p in m.parameters(recurse=False)
    }
    if writers and (not norms or writers[-1] in norms):
        return writers[-1]
    known = norms & set(writers)
    if len(known) == 1:
        return known.pop()
    if not writers and len(norms) == 1:
        return norms.pop()
    raise ValueError(
        f"the width of {where} ({type(block).__name__}) cannot be read off its layers; give widths={{...}}"
    )


def _out_channels(module: nn.Module) -> int | None:
    if isinstance(module, nn.modules.conv._ConvNd):
        return module.out_channels
    if isinstance(module, nn.MultiheadAttention):
        return module.embed_dim
    width = getattr(module, "out_features", None)  # Linear and its quantised kin
    if width is None and type(module).__name__ == "Conv1D":
        width = module.nf
    return width if isinstance(width, int) else None
