"""VALOR in a recipe: `model: {name: valor, path: VALOR-large}` in place of towers.

    frames, a folded image stream ─► video ┐ meet
    clips, a folded audio stream  ─► audio ┘
    words, a text stream          ─► text, which runs later and reads both
                                     (alone where the task has it in a group of its own)

The task's head gets the final states of each stream, (B, T, N, D) where folded, else (B, N, D); a task whose
model writes gets `captions.ValorCaptions` or `answers.ValorAnswers`. The task has at least two of one image,
one audio and one text stream, in any names; a picture that is not folded is a video of one frame. Adapters,
figures and reports call the streams video, audio and text.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hmmoe.backbones.hub import read_tokenizer
from hmmoe.backbones.systems import System
from hmmoe.backbones.tower import Tower, freeze
from hmmoe.container import ContainerConfig, MultimodalModel, MultimodalOutput
from hmmoe.errors import unknown
from hmmoe.streams.recall import Recall

from .configuration import ValorConfig
from .matching import MatchingHead
from .modeling import ValorModel
from .processing import ValorProcessor

ROLES = {"image": "video", "audio": "audio", "text": "text"}  # modality -> part of VALOR
SIZES: dict[str, Callable[..., ValorConfig]] = {"base": ValorConfig.base, "large": ValorConfig}


class ValorStreams(MultimodalModel):
    """VALOR under a head that reads streams, called as every `MultimodalModel` is.

    Args:
        valor: the whole model, frozen here.
        head: see `MultimodalModel`.
        roles: stream -> "video" (`pixel_values`), "audio" (`audio_values`) or "text" (`input_ids` and
            `attention_mask`).
        folded: see `MultimodalModel`.
        alone: the text reads no media.
        prompt: `prompt_ids` and `prompt_mask` `(1, P)` of the task's sentence, if any.
    """

    roles: Mapping[str, str] = {}  # until the parent is built
    reads_whole_outputs = True
    causal = False  # whether a word sees only the words before it

    def __init__(
        self,
        valor: ValorModel,
        head: nn.Module,
        roles: Mapping[str, str],
        *,
        folded: tuple[str, ...] = (),
        alone: bool = False,
        prompt: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__({"valor": valor}, head)
        self.roles, self.alone = dict(roles), alone
        self.given = frozenset(folded)
        self.folded = frozenset(m for m, role in roles.items() if role != "text")
        media = [role for role in roles.values() if role != "text"]
        self.groups = [g for g in (media, ["text"]) if g] if alone else [[*media, "text"]]
        for i, tokens in enumerate((prompt or {}).values()):
            self.register_buffer(("prompt_ids", "prompt_mask")[i], tokens, persistent=False)
        if alone:  # for methods that adapt parts of a block
            for layer in valor.text.encoder.layer:
                layer.idle = ("crossattention",)
        self.config = ContainerConfig({"model_type": "hmmoe_valor", "streams": sorted(roles)})
        self.train(self.training)

    def tower_modules(self) -> dict[str, nn.Module]:
        valor = self.towers["valor"]
        return {role: valor.get_submodule(role) for role in self.roles.values()}

    def forward(
        self,
        labels: Any = None,
        index: Tensor | None = None,
        present: Mapping[str, Tensor] | None = None,
        output_states: bool = False,
        **inputs: Mapping[str, Tensor] | None,
    ) -> MultimodalOutput:
        """See `MultimodalModel.forward`."""
        given, here = self._given(inputs, present)
        with self._remembering(index, list(given)):
            found = self._run(given, here)
        states, masks = {}, {}
        for m, role in self.roles.items():
            if role not in given:
                continue
            x, mask = found[role], given[role].get("attention_mask")
            there = here.get(role)
            mask = None if mask is None else mask.bool()
            if there is not None:
                there = there.view(-1, *[1] * (x.dim() - 2)).expand(x.shape[:-1])
                mask = there if mask is None else mask & there
            if role != "text" and m not in self.given:  # a picture
                x, mask = x[:, 0], None if mask is None else mask[:, 0]
            states[m], masks[m] = x, mask
        return self._answer(states, masks, labels, output_states)

    def _remembering(self, index: Tensor | None, towers: list[str]) -> Any:
        return nullcontext() if self.prefix_cache is None else self.prefix_cache.batch(index, towers)

    def _given(
        self, inputs: Mapping[str, Any], present: Mapping[str, Tensor] | None
    ) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
        """Role -> its inputs, of those that are given, and role -> samples that have it."""
        for m in [*inputs, *(present or {})]:
            if m not in self.roles:
                raise ValueError(unknown("stream", m, self.roles))
        given = {r: self._shaped(m, inputs[m]) for m, r in self.roles.items() if inputs.get(m) is not None}
        here = {self.roles[m]: there.bool() for m, there in (present or {}).items() if self.roles[m] in given}
        return given, here

    def _prompt(self, rows: int) -> dict[str, Tensor]:
        """The task's sentence for so many samples, if any."""
        names = [name for name in ("prompt_ids", "prompt_mask") if hasattr(self, name)]
        return {name: getattr(self, name).expand(rows, -1) for name in names}

    def _shaped(self, m: str, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Media as (B, T, ...)."""
        if self.roles[m] == "text" or m in self.given:
            return dict(inputs)
        return {k: x[:, None] for k, x in inputs.items()}

    def _run(
        self, given: Mapping[str, Mapping[str, Tensor]], here: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Role -> final states."""
        valor: Any = self.towers["valor"]
        found: dict[str, Tensor] = {}
        reads: dict[str, Any] = {}
        if len(given) > ("text" in given):
            media: dict[str, Tensor | None] = {"pixel_values": None, "audio_values": None}
            media |= {k: x for role, own in given.items() if role != "text" for k, x in own.items()}
            known = Recall()
            found |= valor.encode(**media, present=here, keep=None if self.alone else known)
            if not self.alone and "text" in given:
                memory, mask = valor.media_memory(found.get("video"), found.get("audio"), present=here)
                reads = {"memory": memory, "memory_mask": mask, "known": known}
        if "text" in given:
            words = given["text"]
            words = {**self._prompt(len(words["input_ids"])), **words}  # which may bring their own prompt
            found["text"] = valor.run_text(**words, **reads, causal=self.causal)
        return found


def load(
    streams: Mapping[str, str],
    path: str | None = None,
    size: str = "large",
    tokenizer: str = "bert-base-uncased",
    config: Mapping[str, Any] | None = None,
) -> System:
    """VALOR for a task with these streams.

    Args:
        streams: stream -> modality: of image, audio and text at most one each.
        path: the official folder (`ckpt/` and `log/`) or checkpoint file, or a folder that `save_pretrained`
            wrote; random weights without.
        size: base or large, of the random weights; a checkpoint has its own.
        tokenizer: BERT's, by hub id or folder.
        config: other fields of `ValorConfig`, for random weights.

    Raises:
        ValueError: streams that VALOR does not read, a checkpoint of another family, or no tokenizer.
        FileNotFoundError: nothing is at `path`.
    """
    if size not in SIZES:
        raise ValueError(unknown("size of model 'valor'", size, SIZES))
    roles = {m: ROLES.get(kind, kind) for m, kind in streams.items()}
    if len(roles) < 2 or len(set(roles.values())) < len(roles) or set(roles.values()) - set(ROLES.values()):
        raise ValueError(
            "model 'valor' reads image, audio and text, at least two of them and one stream of each, got "
            f"{dict(streams)}"
        )
    valor = _model(path, size, config or {})
    freeze(valor)
    processor = ValorProcessor.for_config(valor.config, read_tokenizer(tokenizer))
    sizes = {
        "video": valor.config.vision_config.hidden_size,
        "audio": valor.config.audio_config.hidden_size,
        "text": valor.config.text_config.hidden_size,
    }
    read = {role: partial(preprocess, processor) for role, preprocess in PREPROCESS.items()}
    towers = {m: Tower(valor, read[role], streams[m], sizes[role]) for m, role in roles.items()}
    widths = {m: sizes[role] for m, role in roles.items()}

    def container(task: Any) -> ValorStreams:
        folded = tuple(task.folded)
        if task.writes == "captions":
            from .captions import ValorCaptions  # which needs this module

            words = processor.task_words("caption")
            return ValorCaptions(valor, roles, processor.tokenizer, folded=folded, prompt=words)
        if task.writes == "answers":
            from .answers import ValorAnswers

            words = processor.task_words("qa")
            return ValorAnswers(valor, roles, processor.tokenizer, task.answers, folded=folded, prompt=words)
        alone = any(len(group) == 1 and roles.get(group[0]) == "text" for group in task.groups or [])
        words = processor.task_words("retrieval" if alone else "qa")
        return ValorStreams(valor, task.head(widths), roles, folded=folded, alone=alone, prompt=words)

    matching = partial(MatchingHead, valor.align, roles)
    return System(towers, container, processor.tokenizer, matching)


def _model(path: str | None, size: str, options: Mapping[str, Any]) -> ValorModel:
    if path is None:
        with torch.random.fork_rng():
            torch.manual_seed(0)  # the same frozen weights in every run
            return ValorModel(SIZES[size](**options))
    source = Path(path).expanduser()
    if not source.exists():
        raise FileNotFoundError(f"path of model 'valor' does not exist: {path}")
    if (source / "config.json").is_file():
        return ValorModel.from_pretrained(source, use_safetensors=True)
    return ValorModel.from_official(source)


def _frames(processor: ValorProcessor, images: list[Any]) -> dict[str, Tensor]:
    return {"pixel_values": processor(videos=[[i] for i in images], num_frames=1)["pixel_values"][:, 0]}


def _clips(processor: ValorProcessor, sounds: list[Any]) -> dict[str, Tensor]:
    return {"audio_values": processor(audios=sounds, num_clips=1)["audio_values"][:, 0]}


def _words(processor: ValorProcessor, texts: list[str]) -> dict[str, Tensor]:
    return dict(processor(text=texts))


PREPROCESS = {"video": _frames, "audio": _clips, "text": _words}
