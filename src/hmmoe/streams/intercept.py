"""Stand in for a module's forward without changing its path, class or parameters, and step back again.

An interceptor is called as `interceptor(inner, *args, **kwargs)` with the forward it stands in front of. It
lives in the module's own `forward`, so hooks (DDP, FSDP, accelerate) and per-block compile see the module as
before, and deepcopy and pickle keep it.
"""

from collections.abc import Callable
from typing import Any

from torch import nn


class _Chain:
    def __init__(
        self, module: nn.Module, interceptor: Callable[..., Any], inner: Callable[..., Any] | None
    ) -> None:
        self.module, self.interceptor, self.inner = module, interceptor, inner

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        inner = self.inner or type(self.module).forward.__get__(self.module)
        return self.interceptor(inner, *args, **kwargs)


def intercept(module: nn.Module, interceptor: Callable[..., Any]) -> None:
    """Put `interceptor` in front of the module's forward."""
    chain = _Chain(module, interceptor, module.__dict__.get("forward"))
    module.__dict__["forward"] = chain


def release(module: nn.Module, interceptor: Callable[..., Any]) -> None:
    """Take `interceptor` away again, wherever it stands; nothing happens if it does not."""
    before: _Chain | None = None
    link = module.__dict__.get("forward")
    while isinstance(link, _Chain):
        if link.interceptor is interceptor:
            if before is not None:
                before.inner = link.inner
            elif link.inner is not None:
                module.__dict__["forward"] = link.inner
            else:
                del module.__dict__["forward"]
            return
        before, link = link, link.inner
