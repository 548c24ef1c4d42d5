"""VALOR that answers questions in words of its own: the question is the prompt of what it writes.

    media, answer the question, what is it [SEP] ;  [CLS] [MASK] [MASK]  ─► cat [SEP]     in training
    media, answer the question, what is it [SEP] ;  [CLS]                ─► cat           else, greedily

All but a hundredth of the answer's words are hidden in training, as VALOR does (arXiv 2304.08345).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hmmoe.container import MultimodalOutput

from .captions import ValorCaptions
from .modeling import ValorModel
from .objectives import ANSWER_MASKING

ANSWER_LENGTH = 7  # [CLS], five words and [SEP]


class ValorAnswers(ValorCaptions):
    """See the module; the streams are as in `ValorStreams`, the text is the question.

    Args:
        answers: the answers of the training questions, whose labels count them.
    """

    masking, beams = ANSWER_MASKING, 1
    answers: Tensor

    def __init__(
        self,
        valor: ValorModel,
        roles: Mapping[str, str],
        tokenizer: Any,
        answers: Sequence[str],
        *,
        folded: tuple[str, ...] = (),
        prompt: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(valor, roles, tokenizer, folded=folded, prompt=prompt)
        words = tokenizer(
            list(answers), padding="longest", truncation=True, max_length=ANSWER_LENGTH, return_tensors="pt"
        )
        self.register_buffer("answers", words["input_ids"], persistent=False)

    def forward(
        self,
        labels: Tensor | None = None,
        index: Tensor | None = None,
        present: Mapping[str, Tensor] | None = None,
        output_states: bool = False,
        **inputs: Mapping[str, Tensor] | None,
    ) -> MultimodalOutput:
        """In training mode, with labels (B, 2) of answer and row, `loss` over the hidden words and `logits`
        (B, L, V); else `logits` are the numbers of the words that it writes, (B, 30), and the loss is 0.
        """
        given, here = self._given(inputs, present)
        asked = self._asked(given.pop("text", None), len(next(x for m in given.values() for x in m.values())))
        with self._remembering(index, list(given)):
            if labels is None or not self.training:
                return self._write(given, here, asked)
            answer = self.answers[labels[:, 0]]
            words = {"input_ids": answer, "attention_mask": (answer != self.pad_id).long(), **asked}
            return self._learn(words, given, here)

    def _asked(self, question: Mapping[str, Tensor] | None, rows: int) -> dict[str, Tensor]:
        """The task's sentence and, where there is one, the question, as a prompt."""
        prompt = self._prompt(rows)
        if question is None:
            return prompt
        longest = int(question["attention_mask"].sum(dim=1).max())
        asked = {
            "prompt_ids": question["input_ids"][:, :longest],
            "prompt_mask": question["attention_mask"][:, :longest],
        }
        # one [CLS], the sentence's, and one [SEP], the question's
        return {k: torch.cat([prompt[k][:, :-1], x[:, 1:]], dim=1) if prompt else x for k, x in asked.items()}
