"""HMMoE as a PEFT method: get_peft_model, save_pretrained, named adapters and the rest work as for LoRA.

The tuner makes one `HMMoELayer` per fusion point and wraps the blocks that stand there. Two hooks on the
adapted model collect the routing of a forward and add the auxiliary losses to its loss in training.
"""

import json
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import register_peft_method
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from peft.utils.peft_types import PeftType
from torch import Tensor, nn

from hmmoe.budget import solve_rank
from hmmoe.callback import RoutingCallback
from hmmoe.config import HMMoEConfig
from hmmoe.container import FrozenTowers
from hmmoe.errors import unknown
from hmmoe.fusion import NO_MERGE, HMMoEBlock
from hmmoe.layer import HMMoELayer
from hmmoe.plan import Plan, make_plan, resolved
from hmmoe.registration import HMMOE
from hmmoe.streams.lockstep import Link
from hmmoe.streams.record import WATCH, close_record, open_record
from hmmoe.weights import check_safetensors

__all__ = [
    "HMMOE",
    "HMMoEBlock",
    "HMMoEModel",
    "HMMoEPeftModel",
    "RoutingCallback",
    "from_pretrained",
    "get_peft_model",
]

_OPTIONS = (
    "experts",
    "router",
    "top_k",
    "latents",
    "exact_tokens",
    "sample_context",
    "dropout",
    "modality_dropout",
    "scale",
    "up_std",
)


class HMMoEModel(BaseTuner):
    """The tuner; see `peft.tuners.tuners_utils.BaseTuner`. Made by `get_peft_model`."""

    prefix = "hmmoe_"
    tuner_layer_cls = HMMoEBlock
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012

    def __init__(self, model: nn.Module, *args: Any, **kwargs: Any) -> None:
        super().__init__(model, *args, **kwargs)
        if open_record not in self.model._forward_pre_hooks.values():
            self.model.register_forward_pre_hook(open_record, with_kwargs=True)
            self.model.register_forward_hook(close_record, always_call=True)
        self.model.train(self.model.training)  # towers in eval mode, new adapters not

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict) -> HMMoEConfig:
        """The config with everything read off the model settled; the given one stays as it is."""
        adapter = next(name for name, config in self.peft_config.items() if config is peft_config)
        if peft_config.sample_context is None:
            peft_config = replace(peft_config, sample_context=bool(getattr(self.model, "folded", ())))
        if peft_config.spans is None and peft_config.streams is None:
            peft_config = replace(peft_config, spans=getattr(self.model, "spans", None))
        _check_modules(self.model, peft_config.modules_to_save or [])
        self._plan: Plan = make_plan(self.model, peft_config)
        options = {name: getattr(peft_config, name) for name in _OPTIONS}
        rank = peft_config.rank
        if rank is None:
            assert peft_config.budget is not None
            backbone = self.parameter_counts()["backbone"] - self._future_head(
                peft_config.modules_to_save or []
            )
            rank = solve_rank(peft_config.budget, backbone, self._plan.widths, **options)
        config = replace(peft_config, **resolved(peft_config, self._plan, rank))
        self._made: dict[int, HMMoELayer] = {}
        self.peft_config[adapter] = config
        return config

    def _future_head(self, modules_to_save: list[str]) -> int:
        """Parameters of modules that PEFT is about to train, where they still count as backbone."""
        if isinstance(self.model, FrozenTowers):
            return 0
        heads = [
            m for path, m in self.model.named_modules() if path and path.rpartition(".")[2] in modules_to_save
        ]
        return sum({id(p): p.numel() for head in heads for p in head.parameters()}.values())

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        _release_namesakes(model, getattr(self.peft_config[adapter_name], "modules_to_save", None) or [])

    def _check_target_module_exists(self, peft_config: HMMoEConfig, key: str) -> bool:  # type: ignore[override]
        return key in self._plan.paths

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if isinstance(target, HMMoEBlock):
            wrapper = target
        else:
            wrapper = HMMoEBlock(target)
            wrapper.train(target.training)
            self._replace_module(parent, target_name, wrapper, target)
        for point, stream in self._plan.at(current_key):
            widths = self._plan.widths[point]
            if peft_config.spans is not None:
                stream = ""
            link = Link(
                adapter_name, point, stream, tuple(sorted(widths)), widths, (self._layer(peft_config, point),)
            )
            _check_name(adapter_name, link)
            wrapper.add(link, peft_config.spans)
        wrapper._move_adapter_to_device_of_base_layer(adapter_name)

    def _layer(self, config: HMMoEConfig, point: int) -> HMMoELayer:
        if point not in self._made:
            options = {name: getattr(config, name) for name in _OPTIONS}
            assert config.rank is not None
            self._made[point] = HMMoELayer(self._plan.widths[point], rank=config.rank, **options)
        return self._made[point]

    def _replace_module(
        self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module
    ) -> None:
        setattr(parent, child_name, new_module)

    def _check_merge_allowed(self) -> None:
        raise NotImplementedError(NO_MERGE)

    def _unload_and_optionally_merge(self, merge: bool = True, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        model: Any = super()._unload_and_optionally_merge(merge, *args, **kwargs)
        for hooks, hook in ((model._forward_pre_hooks, open_record), (model._forward_hooks, close_record)):
            for number in [n for n, h in hooks.items() if h is hook]:
                del hooks[number]
        return model

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        return key.replace(f".hmmoe_layers.{adapter_name}.", ".hmmoe_layers.")

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: Any, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """PEFT's renaming, and a check that these are the adapters of this model.

        Raises:
            ValueError: weights are missing, left over or of another shape.
        """
        loaded = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)
        named = {k: v for k, v in model.state_dict().items() if f".hmmoe_layers.{adapter_name}." in k}
        once = {k for k, _ in [*model.named_parameters(), *model.named_buffers()]}
        own = {k: v for k, v in named.items() if k in once}
        missing = sorted(set(own) - set(loaded))
        extra = sorted(k for k in loaded if ".hmmoe_layers." in k and k not in own)
        if missing:
            also = f" (it holds {extra[0]})" if extra else ""
            raise ValueError(f"the adapter file was made for other towers: no weights for {missing[0]}{also}")
        if extra:
            raise ValueError(
                f"the adapter file was made for other towers: this model has no place for {extra[0]}"
            )
        for k, v in own.items():
            if loaded[k].shape != v.shape:
                raise ValueError(
                    f"the adapter file was made for other towers: {k} is {tuple(loaded[k].shape)} there and "
                    f"{tuple(v.shape)} in this model"
                )
        place = {v.data_ptr(): k for k, v in own.items()}
        again = {k: v for k, v in named.items() if k not in once}  # second names in a shared tower
        return loaded | {k: loaded[place[v.data_ptr()]] for k, v in again.items()}

    def parameter_counts(self) -> dict[str, int]:
        """Numbers of parameters: backbone, adapter, router (of active adapters), head (other trained)."""
        counts = {"backbone": 0, "adapter": 0, "router": 0, "head": 0}
        seen: set[int] = set()

        def count(module: nn.Module, part: str) -> None:
            for p in module.parameters():
                if id(p) not in seen:
                    seen.add(id(p))
                    counts[part] += p.numel()

        def skip(module: nn.Module) -> None:
            seen.update(id(p) for p in module.parameters())

        for module in self.model.modules():
            if isinstance(module, HMMoEBlock):
                for adapter, layer in module.hmmoe_layers.named_children():
                    if adapter in module.active_adapters:
                        count(layer.get_submodule("router"), "router")
                        count(layer, "adapter")
                    skip(layer)
            elif isinstance(module, AuxiliaryTrainingWrapper):
                for p in module.parameters():
                    if p.requires_grad and id(p) not in seen:
                        counts["head"] += p.numel()
                skip(module)
        if isinstance(self.model, FrozenTowers):
            for tower in self.model.tower_modules().values():
                count(tower, "backbone")
            count(self.model, "head")
        else:
            count(self.model, "backbone")
        return counts

    def routing(self) -> dict[int, dict[str, Tensor]]:
        """Router weights of the last forward, fusion point -> stream -> `(B, E)` or `(B, N, E)`, detached.

        Of the active adapter; empty before the first forward.
        """
        last = getattr(self.model, "hmmoe_last", None)
        weights = {} if last is None else last.weights()
        return next((weights[a] for a in self.active_adapters if a in weights), {})

    def first_nonfinite(self, **inputs: Any) -> str | None:
        """Where a forward of these inputs goes wrong: the first fusion point and stream with a bad update.

        Runs the model once, without gradients; None if all updates are finite.
        """
        token = WATCH.set(True)
        try:
            with torch.no_grad():
                self.model(**inputs)
        finally:
            WATCH.reset(token)
        return self.model.hmmoe_last.first_bad


register_peft_method(name="hmmoe", config_cls=HMMoEConfig, model_cls=HMMoEModel)


class HMMoEPeftModel(PeftModel):
    """PEFT's model, with a count of parameters that tells backbone, adapter, router and head apart."""

    def print_trainable_parameters(self) -> None:
        """Print the four counts and the share adapters / (backbones + adapters)."""
        print(self.parameter_report())

    def load_adapter(self, model_id: str | PathLike, adapter_name: str, *args: Any, **kwargs: Any) -> Any:
        """PEFT's, which would not say which file is damaged."""
        if Path(model_id).exists():
            _check_file(Path(model_id, kwargs.get("subfolder") or ""))
        return super().load_adapter(str(model_id), adapter_name, *args, **kwargs)

    def create_or_update_model_card(self, output_dir: str) -> None:
        """PEFT's card, with the tag hmmoe and, where PEFT leaves a gap for a summary, ours."""
        from huggingface_hub import ModelCard

        super().create_or_update_model_card(output_dir)
        path = Path(output_dir) / "README.md"
        card = ModelCard.load(path)
        card.data.tags = sorted({*(card.data.tags or []), "hmmoe"})
        streams = ", ".join(sorted(cast(HMMoEConfig, self.active_peft_config).depths or {}))
        card.text = card.text.replace(
            "<!-- Provide a quick summary of what the model is/does. -->",
            f"HMMoE adapters for frozen encoders, streams {streams}: {self.parameter_report()}. "
            "Load them with `hmmoe.from_pretrained(model, folder)`.",
        )
        card.save(path)

    def parameter_report(self) -> str:
        """The line that `print_trainable_parameters` prints."""
        counts = cast(HMMoEModel, self.base_model).parameter_counts()
        added = counts["adapter"] + counts["router"]
        said = ", ".join(f"{part} {n:,}" for part, n in counts.items())
        return f"{said}; adapters / (backbones + adapters) = {added / (counts['backbone'] + added):.2%}"


def get_peft_model(model: nn.Module, config: Any, adapter_name: str = "default", **kwargs: Any) -> PeftModel:
    """PEFT's `get_peft_model`; importing it from here makes HMMoE known to PEFT.

    Args:
        model: a `MultimodalModel`, a joint model from `MultimodalModel.from_joint`, or with `spans` any model
            of one sequence.
        config: an `HMMoEConfig`, or any other PEFT config.
        adapter_name: its name.
        kwargs: PEFT's.

    Raises:
        ValueError: the config does not fit the model, or no rank meets the budget.
    """
    import peft

    if not isinstance(config, HMMoEConfig):
        return peft.get_peft_model(model, config, adapter_name, **kwargs)
    return HMMoEPeftModel(model, config, adapter_name, **kwargs)


def from_pretrained(
    model: nn.Module, path: str | Path, adapter_name: str = "default", **kwargs: Any
) -> PeftModel:
    """A model with the adapter that `save_pretrained` wrote to a folder (or that a hub id names).

    Args:
        model: built as it was when the adapter was made.
        path: folder or hub id.
        adapter_name: its name in the model.
        kwargs: PEFT's `from_pretrained` arguments, such as `is_trainable=True`.

    Raises:
        ValueError: no adapter there, a file that is damaged or not safetensors, or adapters of other towers.
    """
    if Path(path).exists():
        _check_file(Path(path, kwargs.get("subfolder") or ""))
    return HMMoEPeftModel.from_pretrained(model, str(path), adapter_name, **kwargs)


def _check_file(folder: Path) -> None:
    config, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    if (folder / "adapter_model.bin").is_file() and not weights.is_file():
        raise ValueError(
            f"{folder} holds adapter_model.bin, but weights load from safetensors only; save again"
        )
    for file in (config, weights):
        if not file.is_file():
            raise ValueError(f"{folder} holds no {file.name}; give the folder that save_pretrained wrote")
    try:
        kind = json.loads(config.read_text(encoding="utf-8")).get("peft_type")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{config} is cut short or no adapter's config ({error})") from error
    if kind not in PeftType.__members__:
        raise ValueError(unknown(f"peft_type in {config}:", kind, PeftType.__members__))
    check_safetensors(weights)


def _check_modules(model: nn.Module, modules_to_save: list[str]) -> None:
    """PEFT passes over names that no module has, and leaves a misspelt head untrained."""
    paths = [path for path, _ in model.named_modules() if path]
    for name in modules_to_save:
        if not any(path.endswith(name) for path in paths):
            raise ValueError(unknown("module in modules_to_save", name, {p.split(".")[0] for p in paths}))


def _release_namesakes(model: nn.Module, modules_to_save: list[str]) -> None:
    """PEFT wraps every module whose path ends in a name, also the `head` that a tower has; unwrap those."""
    wrapped = {path: m for path, m in model.named_modules() if isinstance(m, ModulesToSaveWrapper)}
    for path, wrapper in wrapped.items():
        name = path.rpartition(".")[2]
        if path not in modules_to_save and name in modules_to_save and name in wrapped:
            parent = model.get_submodule(path.rpartition(".")[0])
            setattr(parent, name, wrapper.original_module.requires_grad_(False))


def _check_name(adapter_name: str, link: Link) -> None:
    taken = {part for name, _ in link.layer[0].named_modules() for part in name.split(".")} | set(
        link.streams
    )
    if adapter_name in taken:
        raise ValueError(f"adapter_name={adapter_name!r} is a name inside the adapter; choose another")
