"""The bottleneck that adapters are made of: A(x) = s · (U φ(D x + d) + u), with U = u = 0 at the start.

With dropout, φ(D x + d) has it in training.
"""

import math
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn


class Bottleneck(nn.Module):
    """(…, inputs) -> (…, outputs).

    Args:
        inputs, outputs: channels.
        size: channels in between.
        activation: φ.
        scale: s.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        activation: Callable[[Tensor], Tensor],
        scale: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.down = nn.Linear(inputs, size)
        self.up = nn.Linear(size, outputs)
        self.activation, self.scale, self.dropout = activation, scale, dropout
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        for new in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(new)

    def forward(self, x: Tensor) -> Tensor:
        z = F.dropout(self.activation(self.down(x)), self.dropout, self.training)
        return self.scale * self.up(z)


class SharedBottleneck(Bottleneck):
    """One bottleneck for several widths: (…, d) -> (…, d) by the weights of the first d channels."""

    def __init__(
        self, width: int, size: int, activation: Callable[[Tensor], Tensor], dropout: float = 0.0
    ) -> None:
        super().__init__(width, width, size, activation, dropout=dropout)

    def forward(self, x: Tensor) -> Tensor:
        d = x.shape[-1]
        z = self.activation(F.linear(x, self.down.weight[:, :d], self.down.bias))
        z = F.dropout(z, self.dropout, self.training)
        return F.linear(z, self.up.weight[:d], self.up.bias[:d])


class NormedDown(nn.Module):
    """relu(D norm(x) + d), (…, width) -> (…, size), for several widths as in `SharedBottleneck`."""

    def __init__(self, width: int, size: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.norm = nn.LayerNorm(width)
        self.down = nn.Linear(width, size)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        nn.init.zeros_(self.down.bias)

    def forward(self, x: Tensor) -> Tensor:
        d = x.shape[-1]
        x = F.layer_norm(x, (d,), self.norm.weight[:d], self.norm.bias[:d], self.norm.eps)
        z = F.linear(x, self.down.weight[:, :d], self.down.bias).relu()
        return F.dropout(z, self.dropout, self.training)


class Up(nn.Linear):
    """s · (U z + u), zero at the start."""

    def __init__(self, size: int, outputs: int, scale: float) -> None:
        super().__init__(size, outputs)
        self.scale = scale
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, z: Tensor) -> Tensor:
        return self.scale * super().forward(z)


def bottleneck_parameters(inputs: int, outputs: int, size: int) -> int:
    return inputs * size + size + size * outputs + outputs
