"""VLMo in a recipe: `model: {name: vlmo, path: …, size: base}` in place of towers.

    [words ; image]                                one image: one sequence
    [words ; image 1]  [words ; image 2]           two, as in NLVR2: two sequences of one sample

The task has one text stream and one or two image streams. Its head gets the final states of each, (B, N, D),
the words' of all passes side by side, and under "pooled" VLMo's own summary (B, 1, D), for two images
(B, 1, 2·D); `widths` names all of these, and `head: own` of a task reads the last alone. HMMoE takes the
streams as spans of the sequence.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from hmmoe.backbones.hub import read_tokenizer
from hmmoe.backbones.systems import System
from hmmoe.backbones.tower import Tower, freeze
from hmmoe.container import POOLED, ContainerConfig, MultimodalModel, MultimodalOutput
from hmmoe.streams import spans as spans_of
from hmmoe.streams.lockstep import lockstep

from .configuration import VlmoConfig
from .convert import official_name
from .heads import two_passes
from .modeling import VlmoModel
from .processing import VlmoProcessor


class VlmoStreams(MultimodalModel):
    """VLMo under a head that reads streams, called as every `MultimodalModel` is.

    Args:
        vlmo: the encoder, frozen here; with three token types for two images.
        head: see `MultimodalModel`.
        text: the stream of words; its inputs are `input_ids` and `attention_mask`, `(B, L)`.
        images: one or two streams, whose input is `pixel_values`, `(B, C, S, S)`.

    Raises:
        ValueError: more than two images, or two and a model without a token type for the second.
    """

    reads_whole_outputs = True

    def __init__(self, vlmo: VlmoModel, head: nn.Module, text: str, images: list[str]) -> None:
        super().__init__({"sequence": vlmo}, head)
        if len(images) + 1 > max(2, vlmo.config.num_token_types):
            raise ValueError(
                f"VLMo with num_token_types={vlmo.config.num_token_types} cannot tell {len(images)} images "
                f"apart ({', '.join(images)}); two images need num_token_types=3"
            )
        self.text, self.images = text, list(images)
        image = ["input_ids", None]
        self.spans: dict[str, list[Any]] = {text: [0, "input_ids"], images[0]: image}
        if len(images) == 2:
            self.spans |= {m: [*image, turn] for turn, m in enumerate(images)}
        self.config = ContainerConfig({"model_type": "hmmoe_vlmo", "streams": sorted(self.spans)})

    def forward(
        self,
        labels: Any = None,
        index: Tensor | None = None,
        present: Mapping[str, Tensor] | None = None,
        output_states: bool = False,
        **inputs: Mapping[str, Tensor] | None,
    ) -> MultimodalOutput:
        """See `MultimodalModel.forward`; every sample must have all streams.

        Raises:
            ValueError: a stream is missing.
        """
        missing = [m for m in self.spans if inputs.get(m) is None]
        missing += [m for m, there in (present or {}).items() if not there.all()]
        if missing:
            raise ValueError(f"VLMo reads words and images together, but stream {missing[0]!r} is missing")
        words: dict[str, Any] = dict(inputs[self.text] or {})
        pictures = [(inputs[m] or {})["pixel_values"] for m in self.images]
        if len(pictures) == 2:
            given = two_passes(words["input_ids"], words.get("attention_mask"), torch.stack(pictures, 1))
        else:
            given = {**words, "pixel_values": pictures[0]}
        output = self._run(given, index)
        turns, length = len(pictures), output.last_hidden_state.shape[1]
        places = spans_of.resolve(self.spans, words, length)
        states = spans_of.split(output.last_hidden_state, places, turns)
        states[POOLED] = output.pooler_output.unflatten(0, (-1, turns)).flatten(1)[:, None]
        masks: dict[str, Tensor | None] = dict.fromkeys(states)
        if words.get("attention_mask") is not None:
            masks[self.text] = words["attention_mask"].bool().repeat(1, turns)
        return self._answer(states, masks, labels, output_states)

    def _run(self, given: Mapping[str, Any], index: Tensor | None) -> Any:
        call = partial(self.towers["sequence"], **given)
        memory = nullcontext() if self.prefix_cache is None else self.prefix_cache.batch(index, ["sequence"])
        with memory:
            return lockstep({"sequence": call}, folds={"sequence": len(self.images)})["sequence"]


def load(
    streams: Mapping[str, str],
    path: str | None = None,
    size: str = "base",
    image_size: int | None = None,
    tokenizer: str = "bert-base-uncased",
    config: Mapping[str, Any] | None = None,
) -> System:
    """VLMo for a task with these streams.

    Args:
        streams: stream -> modality: one text, one or two images.
        path: an official checkpoint file, or a folder that `save_pretrained` wrote; random weights without.
        size: base, base_plus or large; a folder has its own.
        image_size: pixels a side, positions are resized to it; 224 if not given, or the folder's own.
        tokenizer: BERT's, by hub id or folder.
        config: other fields of `VlmoConfig`.

    Raises:
        ValueError: streams that VLMo does not read, a checkpoint of another size or family, or no tokenizer.
        FileNotFoundError: nothing is at `path`.
    """
    of = {kind: [m for m, k in streams.items() if k == kind] for kind in ("text", "image")}
    if len(of["text"]) != 1 or len(of["image"]) not in (1, 2) or len(streams) != sum(map(len, of.values())):
        raise ValueError(f"model 'vlmo' reads one text and one or two images, got streams {dict(streams)}")
    if path is not None and not Path(path).expanduser().exists():
        raise FileNotFoundError(f"path of model 'vlmo' does not exist: {path}")
    vlmo = _model(path, size, image_size, {"num_token_types": 1 + len(of["image"]), **(config or {})})
    processor = VlmoProcessor.for_config(vlmo.config, read_tokenizer(tokenizer))
    words, pictures = partial(_words, processor), partial(_pictures, processor)
    freeze(vlmo)
    width, images = vlmo.config.hidden_size, of["image"]
    towers = {
        m: Tower(vlmo, words if kind == "text" else pictures, kind, width) for m, kind in streams.items()
    }
    widths = {**dict.fromkeys(streams, width), POOLED: width * len(images)}
    return System(
        towers,
        lambda task: VlmoStreams(vlmo, task.head(widths), of["text"][0], images),
        processor.tokenizer,
    )


def _model(path: str | None, size: str, image_size: int | None, options: Mapping[str, Any]) -> VlmoModel:
    fixed = {**options, **({} if image_size is None else {"image_size": image_size})}
    if path is None:
        with torch.random.fork_rng():
            torch.manual_seed(0)  # the same frozen weights in every run
            return VlmoModel(VlmoConfig.preset(size, **fixed))
    source = Path(path).expanduser()
    if source.is_dir():
        config = VlmoConfig.from_pretrained(source, **fixed)
        saved = {k: v for file in sorted(source.glob("*.safetensors")) for k, v in load_file(file).items()}
        return VlmoModel.from_official({official_name(k): v for k, v in saved.items()}, config)
    return VlmoModel.from_official(source, VlmoConfig.preset(size, **fixed))


def _words(processor: VlmoProcessor, texts: list[str]) -> dict[str, Tensor]:
    return dict(processor(text=texts))


def _pictures(processor: VlmoProcessor, images: list[Any]) -> dict[str, Tensor]:
    return dict(processor(images=images))
