"""Recipe: a YAML file read into dataclasses, checked on the way in.

    name: easy_vqa
    task:   {name: easy_vqa, train_rows: 2000}        # options go to the task
    towers: {image: {name: efficientnet-lite0}, text: {name: all-minilm-l6-v2}}
    method: {name: hmmoe, budget: 0.06, points: 4}    # options go to the method
    train:  {epochs: 6, batch_size: 32, learning_rate: 3e-3}

One model that reads several streams takes the place of towers: `model: {name: vlmo, path: …, size: base}`.

A recipe that differs little from another says so: `base: easy_vqa.yaml`, a path from its own folder, and only
what is different.

The help of every field stands beside it; `hmmoe train --keys` prints them. Strings may hold `{data_root}`.
"""

import dataclasses
import re
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from hmmoe.options import about, build


@dataclass
class Train:
    """How long and how fast to train. Everything here is the same for all methods of a comparison."""

    epochs: float | None = field(default=None, metadata=about("passes over the training rows", above=0))
    max_steps: int | None = field(
        default=None, metadata=about("optimiser steps; rules over epochs where both are given", above=0)
    )
    batch_size: int = field(default=32, metadata=about("rows per step", above=0))
    learning_rate: float = field(default=1e-3, metadata=about("peak rate of the adapter", above=0))
    head_learning_rate: float | None = field(
        default=None, metadata=about("peak rate of the task head; as the adapter's if not given", above=0)
    )
    weight_decay: float = field(
        default=0.01, metadata=about("AdamW's decoupled decay; norms and biases have none", least=0)
    )
    warmup: float = field(
        default=0.1, metadata=about("share of the steps in which the rate rises from zero", least=0, most=1)
    )
    scheduler: str = field(
        default="cosine",
        metadata=about("how the rate falls after the warm-up", choices=("cosine", "linear", "constant")),
    )
    max_grad_norm: float = field(
        default=1.0, metadata=about("gradients are clipped to this norm; 0 leaves them alone", least=0)
    )
    seed: int = field(default=0, metadata=about("of initialisation, data order and dropout", least=0))
    precision: str = field(
        default="float32", metadata=about("autocast of the forward pass", choices=("float32", "bfloat16"))
    )
    modality_dropout: float = field(
        default=0.0,
        metadata=about("chance per training row that one of its streams is missing", least=0, most=0.99),
    )
    evaluations: int = field(
        default=4, metadata=about("validations (and checkpoints) spread evenly over the run", above=0)
    )
    workers: int = field(
        default=0,
        metadata=about("processes that load data; 0 where the rows are prepared in memory", least=0),
    )

    def __post_init__(self) -> None:
        if self.epochs is None and self.max_steps is None:
            raise ValueError("recipe key train needs epochs or max_steps")


@dataclass
class Recipe:
    """One training run, completely: task, frozen towers, method and training."""

    name: str = field(
        default="", metadata=about("the run's folder under runs/; the file's name if not given")
    )
    data_root: str | None = field(
        default=None, metadata=about("folder that replaces {data_root} in any other value")
    )
    task: dict[str, Any] = field(default_factory=dict, metadata=about("name of the task and its options"))
    towers: dict[str, dict[str, Any]] = field(
        default_factory=dict,
        metadata=about("per stream: name, local folder or hub id of the tower and its options"),
    )
    model: dict[str, Any] | None = field(
        default=None,
        metadata=about("instead of towers: name of a system that reads all streams itself, and its options"),
    )
    leave_out: list[str] = field(
        default_factory=list,
        metadata=about("streams that the model never gets: what the others alone can reach"),
    )
    method: dict[str, Any] = field(default_factory=dict, metadata=about("name of the method and its options"))
    train: Train = field(default_factory=Train, metadata=about("see Train"))
    prefix_cache: bool = field(
        default=False,
        metadata=about("compute the frozen blocks before the first fusion point once per row and keep them"),
    )
    skip_broken: bool = field(
        default=False,
        metadata=about("leave out rows whose media cannot be read, and count them, instead of stopping"),
    )
    rivals: dict[str, dict[str, Any]] = field(
        default_factory=dict,
        metadata=about(
            "for compare: per other method its learning_rate and whatever else it should do differently"
        ),
    )
    search: dict[str, dict[str, Any]] = field(
        default_factory=dict,
        metadata=about(
            "for compare: per method or variant the options to tune beside the learning rate, each with its "
            "values"
        ),
    )
    variants: dict[str, dict[str, Any]] = field(
        default_factory=dict,
        metadata=about(
            "for compare: name of a variant of the method -> the options, learning_rate, train or leave_out "
            "that it changes"
        ),
    )
    minutes: float | None = field(
        default=None,
        metadata=about("about how long one run takes on one core, for compare's opening line", above=0),
    )

    def __post_init__(self) -> None:
        for key in ("task", "method"):
            _named(getattr(self, key), key)
        if self.model is not None:
            _named(self.model, "model")
            if self.towers:
                raise ValueError("recipe keys towers and model are both given; keep one of them")
        elif not self.towers:
            raise ValueError(
                "recipe key towers is empty; name at least one tower, e.g. towers: {image: {name: …}}"
            )
        for stream, tower in self.towers.items():
            _named(tower, f"towers.{stream}")
        for key in ("rivals", "search", "variants"):
            for name, options in getattr(self, key).items():
                if not isinstance(options, dict):
                    raise ValueError(f"recipe key {key}.{name} must be a mapping of options, got {options!r}")
        for name, options in self.search.items():
            for option, values in options.items():
                if option in ("name", "budget", "rank", "learning_rate"):
                    raise ValueError(
                        f"recipe key search.{name} may not name {option}; size and rate have their own rules"
                    )
                if not isinstance(values, list) or not values:
                    raise ValueError(
                        f"recipe key search.{name}.{option} must be a list of values, got {values!r}"
                    )

    @property
    def encoders(self) -> dict[str, dict[str, Any]]:
        """What is frozen: the towers by stream, or the one model under "model"."""
        return self.towers if self.model is None else {"model": self.model}

    @classmethod
    def load(cls, path: str | Path, overrides: typing.Sequence[str] = ()) -> "Recipe":
        """Read a YAML (or JSON) recipe and apply `key.sub=value` overrides, whose values are YAML too.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: not YAML, or a key or value that is not allowed; the sentence names the key's path.
        """
        path = Path(path)
        tree = _read(path)
        for override in overrides:
            _override(tree, override)
        tree.setdefault("name", path.stem)
        return cls.from_dict(tree)

    @classmethod
    def from_dict(cls, tree: Any) -> "Recipe":
        """A checked recipe from nested plain values; `{data_root}` is filled in."""
        root = tree.get("data_root") if isinstance(tree, dict) else None
        return build(cls, _fill(tree, root), "")

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, such that `Recipe.from_dict(recipe.to_dict()) == recipe`."""
        return dataclasses.asdict(self)

    def portable(self) -> dict[str, Any]:
        """`to_dict` without `data_root`: equal for recipes that differ in where the data lies only."""
        tree = self.to_dict()
        root = tree.pop("data_root")
        return tree if root is None else _unfill(tree, root.rstrip("/"))

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 1e-3 as a number, which YAML 1.1 does not, and refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, typing.Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _read(path: Path, above: tuple[Path, ...] = ()) -> Any:
    """The YAML of a file, on top of that of its `base` where it names one."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no recipe {str(path)!r}")
    if path.resolve() in above:
        raise ValueError(f"recipe {str(path)!r} is its own base; remove its key base")
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), _Loader) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"recipe {str(path)!r} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ValueError(f"recipe {str(path)!r} must be a mapping of keys, got {tree!r}")
    if "base" in tree:
        base = tree.pop("base")
        if not isinstance(base, str):
            raise ValueError(f"recipe key base must be the path of a recipe, got {base!r}")
        return _on_top(_read(path.parent / base, (*above, path.resolve())), tree)
    return tree


def _on_top(below: Any, tree: Any) -> Any:
    """`tree` where it says something, `below` elsewhere; mappings are joined key by key."""
    if not (isinstance(below, dict) and isinstance(tree, dict)):
        return tree
    return below | {key: _on_top(below.get(key), value) for key, value in tree.items()}


def _named(part: Any, path: str) -> None:
    if not isinstance(part, dict) or not isinstance(part.get("name"), str) or not part["name"]:
        raise ValueError(f"recipe key {path} needs a name, e.g. {path}: {{name: …}}")


def _override(tree: Any, override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise ValueError(f"override {override!r} is not of the form key.sub=value")
    *parents, last = path.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {}) if isinstance(tree, dict) else tree
    try:
        tree[last] = yaml.load(text, _Loader)
    except yaml.YAMLError:  # e.g. {data_root}/images: words, not YAML
        tree[last] = text


def _fill(value: Any, root: str | None) -> Any:
    if isinstance(value, dict):
        return {k: v if k == "data_root" else _fill(v, root) for k, v in value.items()}
    if isinstance(value, list):
        return [_fill(v, root) for v in value]
    if isinstance(value, str) and "{data_root}" in value:
        if root is None:
            raise ValueError(f"{value!r} needs the recipe key data_root; add data_root=FOLDER to the command")
        return value.replace("{data_root}", str(root))
    return value


def _unfill(value: Any, root: str) -> Any:
    if isinstance(value, dict):
        return {k: _unfill(v, root) for k, v in value.items()}
    if isinstance(value, list):
        return [_unfill(v, root) for v in value]
    if isinstance(value, str) and (value == root or value.startswith(root + "/")):
        return "{data_root}/" + value.removeprefix(root).lstrip("/")
    return value
