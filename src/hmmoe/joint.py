"""JointModel: a model whose forward calls one tower after the other, its towers brought into lockstep.

towers side by side, in lockstep ──► outputs kept ──► joint forward, towers answering with what is kept
"""

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from hmmoe.container import ContainerConfig, FrozenTowers
from hmmoe.streams.intercept import intercept
from hmmoe.streams.lockstep import lockstep, running


class JointModel(FrozenTowers):
    """A joint model such as CLIPModel, unmodified, whose towers can meet.

    The forward takes the joint model's own arguments and returns its own output. Arguments go to towers by
    name, as the towers' signatures have them.

    Args:
        joint: the model; all of it is frozen.
        towers: stream -> path of its tower in the model, e.g. `{"image": "vision_model", "text":
            "text_model"}`.

    Raises:
        ValueError: a path is not there.
    """

    def __init__(self, joint: nn.Module, towers: Mapping[str, str]) -> None:
        super().__init__()
        paths = {path for path, _ in joint.named_modules()}
        for m, path in towers.items():
            if path not in paths:
                near = ", ".join(name for name, _ in joint.named_children())
                raise ValueError(
                    f"tower {m!r} = {path!r} is no module of {type(joint).__name__}, which holds {near}"
                )
        self.joint = joint.requires_grad_(False)
        self.paths = dict(towers)
        self.config = ContainerConfig({"model_type": "hmmoe_joint", "joint": type(joint).__name__})
        self.answers = {m: _Kept(m) for m in towers}
        for m, tower in self.tower_modules().items():
            intercept(tower, self.answers[m])
        self.train(self.training)

    def tower_modules(self) -> dict[str, nn.Module]:
        return {m: self.joint.get_submodule(path) for m, path in self.paths.items()}

    def train(self, mode: bool = True) -> "JointModel":
        super().train(mode)
        for name, module in self.joint.named_modules():  # what is not in a tower is frozen as well
            if not any(name == p or name.startswith(p + ".") for p in self.paths.values()):
                module.training = False
        return self

    def forward(self, **inputs: Any) -> Any:
        """The joint model's forward.

        Raises:
            RuntimeError: the joint forward calls a tower with other inputs than it was given.
        """
        calls = {}
        for m, tower in self.tower_modules().items():
            own = _parameters(tower) & set(inputs)
            given = {k: inputs[k] for k in own if inputs[k] is not None}
            if any(isinstance(v, Tensor) for v in given.values()):
                calls[m] = partial(tower, **given)
        kept = lockstep(calls)
        try:
            for m, output in kept.items():
                self.answers[m].keep(output, calls[m].keywords)
            return self.joint(**inputs)
        finally:
            for answer in self.answers.values():
                answer.drop()


class _Kept:
    """A tower's interceptor: runs the tower (alone if called alone), or answers with what is kept."""

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self.output: Any = None
        self.inputs: Mapping[str, Any] | None = None

    def keep(self, output: Any, inputs: Mapping[str, Any]) -> None:
        self.output, self.inputs = output, inputs

    def drop(self) -> None:
        self.output, self.inputs = None, None

    def __call__(self, inner: Any, *args: Any, **kwargs: Any) -> Any:
        if self.inputs is None:
            if running():
                return inner(*args, **kwargs)
            # called by itself, as get_image_features does
            return lockstep({self.stream: partial(inner, *args, **kwargs)})[self.stream]
        changed = [k for k, v in kwargs.items() if isinstance(v, Tensor) and self.inputs.get(k) is not v]
        if args or changed:
            what = ", ".join(changed) or "positional inputs"
            raise RuntimeError(
                f"the joint model calls tower {self.stream!r} with {what} of its own making, so the tower "
                "cannot run first; compose the towers with MultimodalModel instead"
            )
        return self.output


def _parameters(tower: nn.Module) -> set[str]:
    return set(inspect.signature(type(tower).forward).parameters) - {"self", "kwargs", "args"}
