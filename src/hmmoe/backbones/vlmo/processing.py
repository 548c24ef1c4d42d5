"""What VLMo is fed: square bicubic images in [-1, 1] and BERT words padded to one length."""

from typing import Any

from PIL import Image
from transformers import BatchFeature, PreTrainedTokenizerBase, ProcessorMixin
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from .configuration import VlmoConfig


class VlmoProcessor(ProcessorMixin):
    """Images and texts to the inputs of a VLMo model; saved and loaded like any transformers processor.

    Args:
        image_processor: Made by `for_config`, which also works without torchvision.
        tokenizer: A BERT tokenizer (bert-base-uncased for the official checkpoints). Its `model_max_length`
            is the length that texts are padded and cut to.
    """

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, **kwargs: Any) -> None:
        super().__init__(image_processor, tokenizer, **kwargs)

    @classmethod
    def for_config(cls, config: VlmoConfig, tokenizer: PreTrainedTokenizerBase) -> "VlmoProcessor":
        """The official preparation; sets the length of `tokenizer` to `config.max_text_length`."""
        tokenizer.model_max_length = config.max_text_length
        image_processor = ViTImageProcessorPil(
            size={"height": config.image_size, "width": config.image_size},
            resample=Image.Resampling.BICUBIC,
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
            do_convert_rgb=True,
        )
        return cls(image_processor, tokenizer)

    def __call__(self, images: Any = None, text: Any = None, **kwargs: Any) -> BatchFeature:
        """Prepares a batch.

        Args:
            images: PIL images or uint8 arrays (H, W, 3); one, a list of B, or for NLVR2 a list of B pairs.
            text: One text or a list of B.
            **kwargs: Passed on to transformers, for example `max_length`.

        Returns:
            `pixel_values` (B, 3, S, S), for pairs (B, 2, 3, S, S); `input_ids` and `attention_mask`
            (B, max_text_length). Whatever is not given is left out.

        Raises:
            ValueError: If neither is given, if their numbers differ, or if the sets of images are not all
                pairs.
        """
        if images is None and text is None:
            raise ValueError("VlmoProcessor got neither images nor text; give at least one of them")
        paired = (
            isinstance(images, (list, tuple)) and len(images) > 0 and isinstance(images[0], (list, tuple))
        )
        if paired:
            if any(not isinstance(pair, (list, tuple)) or len(pair) != 2 for pair in images):
                raise ValueError("images must hold two images for every text, as a list of pairs")
            images = [image for pair in images for image in pair]
        settings = {"return_tensors": "pt", "padding": "max_length", "truncation": True}
        batch = BatchFeature()
        if images is not None:
            pixels = self.image_processor(images, return_tensors="pt")["pixel_values"]
            batch["pixel_values"] = pixels.unflatten(0, (-1, 2)) if paired else pixels
        if text is not None:
            words = self.tokenizer([text] if isinstance(text, str) else list(text), **{**settings, **kwargs})
            batch["input_ids"], batch["attention_mask"] = words["input_ids"], words["attention_mask"]
        if images is not None and text is not None and len(batch["pixel_values"]) != len(batch["input_ids"]):
            raise ValueError(
                f"{len(batch['input_ids'])} texts do not pair with {len(batch['pixel_values'])} images"
            )
        return batch
