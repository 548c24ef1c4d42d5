"""Methods that change a model in place: what learns goes to one safetensors file and comes back from it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hmmoe.methods.base import Budgeted, Method
from hmmoe.options import about

if TYPE_CHECKING:
    from torch import Tensor, nn

FILE = "learned.safetensors"


@dataclass
class InPlace(Method):
    """A method whose `build` returns the model it was given."""

    def save(self, model: Any, folder: str) -> None:
        """Write everything that learns, and the buffers beside it, to `folder`."""
        from safetensors.torch import save_file

        state = {name: tensor.detach().contiguous() for name, tensor in learned(model).items()}
        save_file(state, str(Path(folder) / FILE))

    def load(self, model: Any, folder: str) -> Any:
        from hmmoe.weights import load_into

        model = self.build(model)
        load_into(learned(model), Path(folder) / FILE, self.name)
        return model


@dataclass
class InPlaceBudgeted(InPlace, Budgeted):
    """The same, sized by a budget or a rank."""

    dropout: float = field(
        default=0.0, metadata=about("dropout between an adapter's down and up products", least=0, most=0.99)
    )

    def solve(self, backbone: int, added: Callable[[int], int]) -> int:
        """The rank to use, where rank r trains `added(r)` parameters beside `backbone` frozen ones.

        Raises:
            ValueError: even rank 1 is above the budget; the sentence says the smallest share.
        """
        from hmmoe.budget import largest_within

        if self.budget is None:
            assert self.rank is not None
            return self.rank
        return largest_within(self.budget, backbone, added, f"rank of {self.name}")


def learned(model: "nn.Module") -> dict[str, "Tensor"]:
    """Parameters that learn, and the saved buffers (running statistics) of the modules that own them."""
    state: dict[str, Tensor] = {}
    for path, module in model.named_modules():
        own = {name: p for name, p in module.named_parameters(path, recurse=False) if p.requires_grad}
        if own:
            kept = module.state_dict()
            buffers = module.named_buffers(path, recurse=False)
            state |= own | {name: b for name, b in buffers if name.rpartition(".")[2] in kept}
    return state


def tower_parameters(model: Any) -> int:
    return sum(p.numel() for p in model.towers.parameters())


def beside(module: "nn.Module", base: "nn.Module") -> "nn.Module":
    """A new module on the device of a frozen one; in float64 beside float64, in float32 beside all else."""
    import torch

    like = next((p for p in base.parameters() if p.is_floating_point()), None)
    if like is None or any(p.is_meta for p in module.parameters()):
        return module
    return module.to(
        device=like.device, dtype=torch.float64 if like.dtype == torch.float64 else torch.float32
    )
