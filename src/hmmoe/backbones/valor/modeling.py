"""VALOR: vision-audio-language omni-perception (Chen et al., arXiv 2304.08345).

    frames ─► CLIP, frame by frame, or VideoSwin ─┬─► align ─┐
    sound  ─► AST, clip by clip ─┬────────────────│─► align ─┼─► MGA: fine-grained alignment
    text   ─► BERT ──────────────│────────────────│─► align ─┘
                                 └─ media memory ─┴─ (to BERT's width, + frame and type embeddings)
                                        │ cross-attention
    [task prompt] words, some hidden ─► the same BERT, causal ─► cls ─► MGC: captions and answers

A group names what the text may read: "tv" frames, "ta" sound, "tva" both.

HMMoE's streams are "video", "audio" and "text": frames and sound run in lockstep and never see the text; the
decoder runs later and reads what they left (`hmmoe.streams.recall`), of the group's media only. A text that
is aligned is read alone, so that a gallery is encoded once whatever is asked. A frame or clip is a row of its
tower; a video's frames meet the clips of its sound.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertModel, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from hmmoe.errors import unknown
from hmmoe.streams.lockstep import lockstep
from hmmoe.streams.recall import Recall

from .configuration import ValorConfig
from .encoders import AudioEncoder, ClipFrames
from .generation import generate
from .objectives import IGNORED, FineFeatures, captioning_loss, contrastive_loss, fine_similarity
from .parts import HIDDEN, Alignment, CaptionHead, MediaMemory, text_bias
from .video_swin import VideoSwin, WindowAttention

GROUPS = {"tv": ("video",), "ta": ("audio",), "tva": ("video", "audio")}
PROMPT_TYPE = 2  # token type of the words of a task prompt


@dataclass
class ValorOutput(ModelOutput):
    """Results of `ValorModel.forward`; each dict has one entry per group.

    loss: `mga_weight` · MGA + MGC, of what was asked for.
    similarity: (B, B), texts by media, before the temperature.
    logits: (B, L, V) at every place of the decoder's text.
    """

    loss: Tensor | None = None
    mga_loss: Tensor | None = None
    mgc_loss: Tensor | None = None
    similarity: dict[str, Tensor] | None = None
    logits: dict[str, Tensor] | None = None


class _Media:
    """What every step of generation reads: it is the same for as long as the rows are."""

    def __init__(self, memory: Tensor, mask: Tensor, known: Recall):
        self.whole: dict[str, Any] = {"memory": memory, "memory_mask": mask, "known": known}
        self.index: Tensor | None = None
        self.chosen: dict[str, Any] = {}

    def rows(self, index: Tensor) -> dict[str, Any]:
        """Keywords of `run_text` for samples `index`."""
        if self.index is None or not torch.equal(self.index, index):
            pick = {k: v.rows(index) if k == "known" else v[index] for k, v in self.whole.items()}
            self.index, self.chosen = index, pick
        return self.chosen


class ValorModel(PreTrainedModel):
    """The whole system with its heads; `from_official` reads the published checkpoints."""

    config_class = ValorConfig
    base_model_prefix = "valor"
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    folded = ("video", "audio")  # frames and clips are steps of a sample
    _supports_sdpa = True
    _no_split_modules = ["CLIPEncoderLayer", "SwinBlock", "ASTLayer", "BertLayer"]  # noqa: RUF012
    _tied_weights_keys = {  # noqa: RUF012
        "cls.decoder.weight": "text.embeddings.word_embeddings.weight"
    }

    def __init__(self, config: ValorConfig):
        super().__init__(config)
        vision, audio, text = config.vision_config, config.audio_config, config.text_config
        self.video = ClipFrames(vision) if config.clip_frames else VideoSwin(vision)
        self.audio = AudioEncoder(audio)
        self.text = BertModel(text, add_pooling_layer=False)
        self.video_memory = MediaMemory(vision.hidden_size, text.hidden_size, config.max_frames)
        self.audio_memory = MediaMemory(audio.hidden_size, text.hidden_size, config.max_clips)
        self.cls = CaptionHead(config)
        self.align = Alignment(config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Alignment):
            if module.clip_frames:
                init.constant_(module.logit_scale, -math.log(self.config.contra_temp))
            else:
                init.constant_(module.contra_temp, self.config.contra_temp)
        own = {
            MediaMemory: ("frame_embedding", "type_embedding"),
            WindowAttention: ("relative_position_bias_table",),
        }
        for name in own.get(type(module), ()):
            init.normal_(getattr(module, name), std=self.config.initializer_range)

    @classmethod
    def from_official(
        cls,
        source: str | PathLike[str] | Mapping[str, Tensor],
        config: ValorConfig | None = None,
        *,
        output_loading_info: bool = False,
        trained_frames: int | None = None,
        trained_clips: int | None = None,
    ) -> Any:
        """Builds the model from a checkpoint of the VALOR authors; every unused or missing key is logged.

        Args:
            source: the folder with `ckpt/model_step_N.pt` and `log/hps.json`, a `.pt` or `.safetensors` file,
                or the loaded state dict.
            config: the sizes to insist on; by default those of the checkpoint, with the prompt flag of its
                hps.json.
            output_loading_info: return the lists of keys as well.
            trained_frames: frames per video in pre-training, by default what hps.json tells; the later rows
                of the frame table are filled with the last trained one.
            trained_clips: the same for audio clips.

        Returns:
            The model in evaluation mode, or (model, `Conversion`).

        Raises:
            FileNotFoundError: if there is no checkpoint.
            ValueError: if it is of another size or family; names the first key that differs.
        """
        from .convert import read_official  # which needs this module

        config, weights, report = read_official(source, config, trained_frames, trained_clips)
        model = cls(config)
        model.load_state_dict(weights, strict=False)  # convert has checked every name and shape
        report.log()
        model.eval()
        return (model, report) if output_loading_info else model

    def get_input_embeddings(self) -> nn.Module:
        return self.text.embeddings.word_embeddings

    def get_output_embeddings(self) -> nn.Module:
        return self.cls.decoder

    # ---- encoders

    def encode_video(self, pixel_values: Tensor) -> Tensor:
        """Frames (B, T, 3, H, W) -> (B, T, N, D); N includes CLIP's class token."""
        if pixel_values.ndim != 5 or pixel_values.shape[2] != 3:
            raise ValueError(
                f"pixel_values has shape {tuple(pixel_values.shape)}: give (batch, frames, 3, H, W)"
            )
        T = pixel_values.shape[1]
        flat = pixel_values.flatten(0, 1) if self.config.clip_frames else pixel_values
        states = self.video(flat).last_hidden_state
        return states.reshape(len(pixel_values), T, -1, states.shape[-1])

    def encode_audio(self, audio_values: Tensor) -> Tensor:
        """Log-mel clips (B, S, mel bands, time steps) -> (B, S, N, D), class token first."""
        if audio_values.ndim != 4:
            raise ValueError(
                f"audio_values has shape {tuple(audio_values.shape)}: give (batch, clips, bands, steps)"
            )
        return self.audio(audio_values.flatten(0, 1)).last_hidden_state.unflatten(0, audio_values.shape[:2])

    def encode(
        self,
        pixel_values: Tensor | None,
        audio_values: Tensor | None,
        *,
        present: Mapping[str, Tensor] | None = None,
        keep: Recall | None = None,
    ) -> dict[str, Tensor]:
        """States (B, T, N, D) of "video" and "audio", whichever are given, as far as they see each other.

        Args:
            pixel_values, audio_values: see `forward`.
            present: "video" or "audio" -> bool (B,), False where a sample lacks it.
            keep: is given what the decoder's adapters read of both.

        Raises:
            ValueError: if neither is given, or a shape does not fit.
        """
        calls: dict[str, Callable[[], Tensor]] = {}
        folds: dict[str, int] = {}
        if pixel_values is not None:
            calls["video"] = partial(self.encode_video, pixel_values)
            folds["video"] = pixel_values.shape[1] if self.config.clip_frames else 1
        if audio_values is not None:
            calls["audio"] = partial(self.encode_audio, audio_values)
            folds["audio"] = audio_values.shape[1]
        if not calls:
            raise ValueError("there are no media: give pixel_values, audio_values or both")
        return lockstep(calls, folds=folds, present=present, keep=keep)

    def run_text(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        prompt_ids: Tensor | None = None,
        prompt_mask: Tensor | None = None,
        *,
        causal: bool,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        known: Recall | None = None,
    ) -> Tensor:
        """States of the text, (B, L, D); the prompt's own states are left out.

        Args:
            input_ids: (B, L).
            attention_mask: (B, L), nonzero = real token; all real by default.
            prompt_ids: (B, P), a task sentence read before the text, with positions of its own from 0.
            prompt_mask: (B, P).
            causal: whether a word sees only the words before it.
            memory: (B, M, D), what cross-attention reads; without it the text is read alone.
            memory_mask: bool (B, M), True = real token.
            known: what adapters read of the media, see `encode`.
        """
        B, L = input_ids.shape
        text_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        positions, types = torch.arange(L, device=input_ids.device), torch.zeros_like(input_ids)
        if prompt_ids is not None:
            P = prompt_ids.shape[1]
            prompt_mask = torch.ones_like(prompt_ids) if prompt_mask is None else prompt_mask
            input_ids = torch.cat([prompt_ids, input_ids], dim=1)
            positions = torch.cat([torch.arange(P, device=input_ids.device), positions])
            types = torch.cat([torch.full_like(prompt_ids, PROMPT_TYPE), types], dim=1)
        dtype = self.text.embeddings.word_embeddings.weight.dtype
        bias = text_bias(text_mask, prompt_mask if prompt_ids is not None else None, causal, dtype)
        memory_bias = None
        if memory is not None and memory_mask is not None:
            hidden = ~memory_mask[:, None, None, :].expand(-1, 1, input_ids.shape[1], -1)
            memory_bias = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill(
                hidden, HIDDEN
            )
        call = partial(
            self.text,
            input_ids,
            attention_mask=bias,
            token_type_ids=types,
            position_ids=positions.expand(B, -1),
            encoder_hidden_states=memory,
            encoder_attention_mask=memory_bias,
            use_cache=False,
        )
        run = lockstep({"text": call}, known=known, causal=("text",) if causal else ())
        return run["text"].last_hidden_state[:, -L:]

    # ---- alignment

    def text_features(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        prompt_ids: Tensor | None = None,
        prompt_mask: Tensor | None = None,
    ) -> FineFeatures:
        """One vector per word, prompt left out; arguments as in `run_text`."""
        states = self.run_text(input_ids, attention_mask, prompt_ids, prompt_mask, causal=False)
        return self.align.text(states, attention_mask)

    # ---- media for the decoder

    def media_memory(
        self,
        video_states: Tensor | None = None,
        audio_states: Tensor | None = None,
        present: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """What the decoder reads: tokens (B, M, text width), frames first, and their mask, bool (B, M).

        Args:
            video_states: (B, T, N, D) of `encode_video`, or None.
            audio_states: (B, S, N, D) of `encode_audio`, or None.
            present: "video" or "audio" -> bool (B,), False where a sample lacks it.
        """
        parts, masks = [], []
        given = {"video": (video_states, self.video_memory), "audio": (audio_states, self.audio_memory)}
        for name, (states, memory) in given.items():
            if states is not None:
                parts.append(memory(states))
                masks.append(torch.ones_like(parts[-1][..., 0], dtype=torch.bool))
                if present is not None and name in present:
                    masks[-1] = masks[-1] & present[name][:, None]
        if not parts:
            raise ValueError("there is nothing to read: give video_states, audio_states or both")
        return torch.cat(parts, dim=1), torch.cat(masks, dim=1)

    # ---- training

    def forward(
        self,
        pixel_values: Tensor | None = None,
        audio_values: Tensor | None = None,
        audio_present: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        contrast_prompt_ids: Tensor | None = None,
        contrast_prompt_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        prompt_ids: Tensor | None = None,
        prompt_mask: Tensor | None = None,
        labels: Tensor | None = None,
        groups: Sequence[str] | None = None,
    ) -> ValorOutput:
        """Alignment where `input_ids` are given, captions or answers where `decoder_input_ids` are.

        Args:
            pixel_values: (B, T, 3, H, W).
            audio_values: (B, S, mel bands, time steps), zeros for a video without sound.
            audio_present: bool (B,). False hides the sound of that sample from the decoder and takes the
                sample out of the group "ta"; left out, zeros are read like any sound, as VALOR does.
            input_ids, attention_mask: (B, L) whole texts to be aligned with the media.
            contrast_prompt_ids, contrast_prompt_mask: (B, P) task sentence of the alignment.
            decoder_input_ids, decoder_attention_mask: (B, L) texts with hidden words, see
                `objectives.mask_words`.
            prompt_ids, prompt_mask: (B, P) task sentence of the decoder, for answers with the question.
            labels: (B, L) hidden words, -100 elsewhere.
            groups: of "tv", "ta", "tva"; by default all for which the media are given.

        Raises:
            ValueError: if no media or no text are given, or a group needs media that are not.
        """
        if audio_present is not None:
            audio_present = audio_present.bool()
        known = Recall()
        present = {} if audio_present is None else {"audio": audio_present}
        states = self.encode(pixel_values, audio_values, present=present, keep=known)
        groups = self._groups(groups, states)
        if input_ids is None and decoder_input_ids is None:
            raise ValueError(
                "there is no text: give input_ids (alignment), decoder_input_ids (captions) or both"
            )
        out = ValorOutput()
        if input_ids is not None:
            text = self.text_features(input_ids, attention_mask, contrast_prompt_ids, contrast_prompt_mask)
            media = {}
            if "video" in states:
                media["video"] = self.align.video(states["video"])
            if "audio" in states:
                clips = None
                if audio_present is not None:
                    clips = audio_present[:, None].expand(states["audio"].shape[:2])
                media["audio"] = self.align.audio(states["audio"], clips)
            out.similarity = {
                group: fine_similarity(text, FineFeatures.join([media[name] for name in GROUPS[group]]))
                for group in groups
            }
            losses = [
                contrastive_loss(scores, self.align.temperature, audio_present if group == "ta" else None)
                for group, scores in out.similarity.items()
            ]
            out.mga_loss = torch.stack(losses).mean()
            out.loss = self.config.mga_weight * out.mga_loss
        if decoder_input_ids is not None:
            out.logits = {}
            for group in groups:
                chosen = {f"{name}_states": states[name] for name in GROUPS[group]}
                memory, mask = self.media_memory(**chosen, present=present)
                words = (decoder_input_ids, decoder_attention_mask, prompt_ids, prompt_mask)
                read: dict[str, Any] = {"memory": memory, "memory_mask": mask}
                read["known"] = known.only(GROUPS[group])
                out.logits[group] = self.cls(self.run_text(*words, causal=True, **read))
            if labels is not None:
                out.mgc_loss = torch.stack(
                    [
                        self._caption_loss(group, logits, labels, audio_present)
                        for group, logits in out.logits.items()
                    ]
                ).mean()
                out.loss = out.mgc_loss if out.loss is None else out.loss + out.mgc_loss
        return out

    def _caption_loss(
        self, group: str, logits: Tensor, labels: Tensor, audio_present: Tensor | None
    ) -> Tensor:
        if group == "ta" and audio_present is not None:  # such a sample has nothing to read
            labels = labels.masked_fill(~audio_present[:, None], IGNORED)
        return captioning_loss(logits, labels)

    def _groups(self, groups: Sequence[str] | None, states: dict[str, Tensor]) -> list[str]:
        possible = [group for group, media in GROUPS.items() if set(media) <= set(states)]
        for group in groups or ():
            if group not in GROUPS:
                raise ValueError(unknown("group", group, GROUPS))
            if group not in possible:
                raise ValueError(
                    f"group {group!r} needs {' and '.join(GROUPS[group])}, and only {list(states)} is given"
                )
        return list(groups) if groups else possible

    # ---- generation

    @torch.no_grad()
    def generate(
        self,
        pixel_values: Tensor | None = None,
        audio_values: Tensor | None = None,
        audio_present: Tensor | None = None,
        prompt_ids: Tensor | None = None,
        prompt_mask: Tensor | None = None,
        *,
        start_id: int,
        end_id: int,
        mask_id: int,
        num_beams: int = 1,
        max_tokens: int = 30,
        words: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Words for each sample, (B, at most max_tokens), the padding id after the last one.

        Media and prompt as in `forward`; the group is what the media make up. VALOR writes captions with
        three beams and answers with one.

        Args:
            start_id, end_id, mask_id: ids of [CLS], [SEP] and [MASK].
            num_beams: continuations kept at each step; 1 takes the likeliest word.
            max_tokens: steps before a text without an end is cut.
            words: the caption head, decoder states (R, D) to logits; the model's own if not given.
        """
        known = Recall()
        present = {} if audio_present is None else {"audio": audio_present.bool()}
        states = self.encode(pixel_values, audio_values, present=present, keep=known)
        memory, mask = self.media_memory(states.get("video"), states.get("audio"), present)
        media = _Media(memory, mask, known)
        head = words or self.cls

        def next_word(rows: Tensor, ids: Tensor) -> Tensor:
            prompt = None if prompt_ids is None else prompt_ids[rows]
            real = None if prompt_mask is None else prompt_mask[rows]
            masked = F.pad(ids, (0, 1), value=mask_id)
            text = self.run_text(masked, None, prompt, real, causal=True, **media.rows(rows))
            return cast(Tensor, head(text[:, -1]))

        return generate(
            next_word,
            len(memory),
            start_id=start_id,
            end_id=end_id,
            pad_id=self.config.text_config.pad_token_id,
            num_beams=num_beams,
            max_tokens=max_tokens,
            device=memory.device,
        )
