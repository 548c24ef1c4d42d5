"""VALOR that writes: trained on captions with hidden words (MGC), and writing where no words are given.

    media, [task prompt] [CLS] a [MASK] runs [SEP]  ─► text states ─► words   cross-entropy of the hidden ones
    media, nothing                                  ─► one word after the other, three beams

The words come out of a copy of VALOR's own caption head, which learns as task heads do; the word matrix at
its end stays VALOR's, frozen.
"""

from collections.abc import Mapping
from copy import deepcopy
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from hmmoe.container import MultimodalOutput

from .modeling import ValorModel
from .objectives import CAPTION_MASKING, captioning_loss, mask_words
from .parts import CaptionHead
from .system import ValorStreams

LONGEST = 30  # words at most


class WordsHead(nn.Module):
    """VALOR's caption head without its word matrix."""

    def __init__(self, own: CaptionHead) -> None:
        super().__init__()
        self.dense, self.layernorm = deepcopy(own.dense), deepcopy(own.layernorm)
        self.bias = nn.Parameter(own.decoder.bias.detach().clone())

    def forward(self, states: Tensor, words: Tensor) -> Tensor:
        """States (…, D) and the word matrix (V, D) to logits (…, V)."""
        return F.linear(self.layernorm(F.gelu(self.dense(states))), words, self.bias)


class ValorCaptions(ValorStreams):
    """See the module; the streams are as in `ValorStreams`.

    Args:
        tokenizer: of the captions.
    """

    causal = True
    masking, beams = CAPTION_MASKING, 3

    def __init__(
        self,
        valor: ValorModel,
        roles: Mapping[str, str],
        tokenizer: Any,
        *,
        folded: tuple[str, ...] = (),
        prompt: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(valor, WordsHead(valor.cls), roles, folded=folded, prompt=prompt)
        self.special = {
            "start_id": tokenizer.cls_token_id,
            "end_id": tokenizer.sep_token_id,
            "mask_id": tokenizer.mask_token_id,
        }
        self.pad_id = tokenizer.pad_token_id

    def forward(
        self,
        labels: Any = None,
        index: Tensor | None = None,
        present: Mapping[str, Tensor] | None = None,
        output_states: bool = False,
        **inputs: Mapping[str, Tensor] | None,
    ) -> MultimodalOutput:
        """With words, `loss` over those it hides and `logits` (B, L, V); without, `logits` are the numbers of
        the words that it writes, (B, 30), and the loss is 0, there being none.
        """
        given, here = self._given(inputs, present)
        words = given.pop("text", None)
        with self._remembering(index, list(given)):
            return self._write(given, here) if words is None else self._learn(words, given, here)

    @property
    def _matrix(self) -> Tensor:
        valor: Any = self.towers["valor"]
        return valor.get_input_embeddings().weight

    def _learn(
        self,
        words: Mapping[str, Tensor],
        given: Mapping[str, Mapping[str, Tensor]],
        here: Mapping[str, Tensor],
    ) -> MultimodalOutput:
        """`words` are told from the media, from a prompt that they may bring, and from those before them."""
        hidden, targets = mask_words(
            words["input_ids"],
            share=self.masking,
            mask_id=self.special["mask_id"],
            vocab_size=len(self._matrix),
            keep_ids=(self.special["start_id"], self.pad_id),
        )
        read = {**words, "input_ids": hidden}
        logits = self.head(self._run({**given, "text": read}, here)["text"], self._matrix)
        return MultimodalOutput(loss=captioning_loss(logits, targets), logits=logits)

    def _write(
        self,
        given: Mapping[str, Mapping[str, Tensor]],
        here: Mapping[str, Tensor],
        prompt: Mapping[str, Tensor] | None = None,
    ) -> MultimodalOutput:
        """What the model writes after `prompt`, by default the task's sentence."""
        media = {name: x for own in given.values() for name, x in own.items()}
        valor: Any = self.towers["valor"]
        ids = valor.generate(
            **media,
            **(self._prompt(len(next(iter(media.values())))) if prompt is None else prompt),
            **self.special,
            audio_present=here.get("audio"),
            num_beams=self.beams,
            max_tokens=LONGEST,
            words=partial(self.head, words=self._matrix),
        )
        written = F.pad(ids, (0, LONGEST - ids.shape[1]), value=self.pad_id)
        return MultimodalOutput(loss=written.new_zeros((), dtype=self._matrix.dtype), logits=written)
