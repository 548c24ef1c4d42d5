"""VLMo for the two classification tasks of the paper: visual question answering and NLVR2 (section 4.2).

VQA      [question ; image] -> pooled (D)                                     -> answers
NLVR2    [sentence ; image 1] -> pooled, [sentence ; image 2] -> pooled (2D)  -> false | true
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils.generic import can_return_tuple

from .configuration import VlmoConfig
from .modeling import VlmoModel, VlmoPreTrainedModel


def _classifier(width: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, outputs)
    )


def two_passes(
    input_ids: Tensor, attention_mask: Tensor | None, pixel_values: Tensor
) -> dict[str, Tensor | None]:
    """Inputs of `VlmoModel` that read each text (B, L) with each of its two images (B, 2, C, S, S)."""
    return {
        "input_ids": input_ids.repeat_interleave(2, 0),
        "attention_mask": None if attention_mask is None else attention_mask.repeat_interleave(2, 0),
        "pixel_values": pixel_values.flatten(0, 1),
        "image_token_type_ids": torch.arange(1, 3, device=input_ids.device).repeat(len(input_ids)),
    }


class VlmoForQuestionAnswering(VlmoPreTrainedModel):
    """VQA as classification over the answer vocabulary (`config.num_answers`, 3,129 for VQAv2)."""

    def __init__(self, config: VlmoConfig) -> None:
        super().__init__(config)
        self.vlmo = VlmoModel(config)
        self.vqa_classifier = _classifier(config.hidden_size, 2 * config.hidden_size, config.num_answers)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Answers questions about images.

        Args:
            input_ids: (B, L) question.
            attention_mask: (B, L), 1 where a word is real.
            pixel_values: (B, C, S, S) image.
            labels: (B, num_answers) soft targets in [0, 1].

        Returns:
            `logits` (B, num_answers); with labels `loss`: binary cross-entropy summed over answers, mean over
            B.

        Raises:
            ValueError: If the question or the image is missing.
        """
        if input_ids is None or pixel_values is None:
            raise ValueError(
                "question answering needs both input_ids (the question) and pixel_values (the image)"
            )
        outputs = self.vlmo(input_ids, attention_mask, pixel_values, **kwargs)
        logits = self.vqa_classifier(outputs.pooler_output)
        loss = None
        if labels is not None:
            loss = F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype)) * logits.shape[1]
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class VlmoForNlvr2(VlmoPreTrainedModel):
    """True or false of a sentence about two images: each image is paired with the sentence on its own."""

    def __init__(self, config: VlmoConfig) -> None:
        super().__init__(config)
        if config.num_token_types != 3:
            raise ValueError(
                f"num_token_types={config.num_token_types} must be 3 for NLVR2: text, first and second image"
            )
        self.vlmo = VlmoModel(config)
        self.nlvr2_classifier = _classifier(2 * config.hidden_size, 2 * config.hidden_size, 2)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Judges sentences about pairs of images.

        The two passes of a sample, [text ; first image] and [text ; second image], stand together in one
        batch of 2B; they differ in the token type of the image, 1 and 2.

        Args:
            input_ids: (B, L) sentence.
            attention_mask: (B, L), 1 where a word is real.
            pixel_values: (B, 2, C, S, S) first and second image.
            labels: (B,) 1 where the sentence is true.

        Returns:
            `logits` (B, 2); with labels `loss`, the cross-entropy. Hidden states are those of the batch of
            2B.

        Raises:
            ValueError: If the sentence is missing or there are not two images a sentence.
        """
        if input_ids is None or pixel_values is None:
            raise ValueError("NLVR2 needs both input_ids (the sentence) and pixel_values (two images)")
        if pixel_values.ndim != 5 or pixel_values.shape[1] != 2:
            raise ValueError(
                f"pixel_values has shape {tuple(pixel_values.shape)}; "
                "NLVR2 takes (batch, 2, channels, side, side)"
            )
        outputs = self.vlmo(
            **two_passes(input_ids, attention_mask, pixel_values),
            **kwargs,
        )
        pair = outputs.pooler_output.unflatten(0, (-1, 2)).flatten(1)  # (2B, D) -> (B, 2D)
        logits = self.nlvr2_classifier(pair)
        loss = F.cross_entropy(logits, labels) if labels is not None else None
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )
