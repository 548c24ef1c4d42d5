"""VALOR: vision-audio-language omni-perception (Chen et al., arXiv 2304.08345).

    frames ─► CLIP, frame by frame, or VideoSwin ─┬─► contra_head_v ─┐
    sound  ─► AST, clip by clip ─┬────────────────│─► contra_head_a ─┼─► MGA: fine-grained alignment
    text   ─► BERT ──────────────│────────────────│─► contra_head_t ─┘
                                 └─ media memory ─┴─ (to BERT's width, + frame and type embeddings)
                                        │ cross-attention
    [task prompt] words, some hidden ─► the same BERT, causal ─► cls ─► MGC: captions and answers

A group names what the text may read: "tv" frames, "ta" sound, "tva" both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertModel, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from hmmoe.errors import unknown

from .configuration import ValorConfig
from .encoders import AudioEncoder, ClipFrames
from .generation import generate
from .objectives import IGNORED, FineFeatures, captioning_loss, contrastive_loss, fine_similarity
from .parts import HIDDEN, CaptionHead, MediaMemory, fine_weight, text_bias
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


class ValorModel(PreTrainedModel):
    """The whole system with its heads; `from_official` reads the published checkpoints."""

    config_class = ValorConfig
    base_model_prefix = "valor"
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
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
        self.contra_head_t = nn.Linear(text.hidden_size, config.contra_dim, bias=False)
        self.contra_head_v = nn.Linear(vision.hidden_size, config.contra_dim, bias=False)
        self.contra_head_a = nn.Linear(audio.hidden_size, config.contra_dim, bias=False)
        self.text_fine_weight = fine_weight(config.contra_dim)
        self.video_fine_weight = fine_weight(config.contra_dim)
        self.audio_fine_weight = fine_weight(config.contra_dim)
        if config.clip_frames:
            self.logit_scale = nn.Parameter(torch.tensor(0.0))
        else:
            self.contra_temp = nn.Parameter(torch.tensor(0.0))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, ValorModel):
            if self.config.clip_frames:
                init.constant_(module.logit_scale, -torch.tensor(self.config.contra_temp).log().item())
            else:
                init.constant_(module.contra_temp, self.config.contra_temp)
            return
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
        states = self.text(
            input_ids,
            attention_mask=bias,
            token_type_ids=types,
            position_ids=positions.expand(B, -1),
            encoder_hidden_states=memory,
            encoder_attention_mask=memory_bias,
            use_cache=False,
        ).last_hidden_state
        return states[:, -L:]

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
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return self._fine("text", self.contra_head_t(states), mask.bool())

    def video_features(self, video_states: Tensor) -> FineFeatures:
        """One vector per frame from (B, T, N, D): CLIP's class token, or the mean over a VideoSwin frame."""
        frames = video_states[:, :, 0] if self.config.clip_frames else video_states.mean(dim=2)
        return self._fine("video", self.contra_head_v(frames), None)

    def audio_features(self, audio_states: Tensor, audio_present: Tensor | None = None) -> FineFeatures:
        """One vector per clip from (B, S, N, D): its class token. audio_present: bool (B,), see `forward`."""
        clips = self.contra_head_a(audio_states[:, :, 0])
        mask = None if audio_present is None else audio_present.bool()[:, None].expand(clips.shape[:2])
        return self._fine("audio", clips, mask)

    def _fine(self, medium: str, vectors: Tensor, mask: Tensor | None) -> FineFeatures:
        vectors = F.normalize(vectors, dim=-1)
        scores = getattr(self, f"{medium}_fine_weight")(vectors).squeeze(-1)
        real = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask
        return FineFeatures(vectors, scores, real)

    @property
    def temperature(self) -> Tensor:
        """What similarities are divided by in MGA."""
        return torch.exp(-self.logit_scale) if self.config.clip_frames else self.contra_temp

    # ---- media for the decoder

    def media_memory(
        self,
        video_states: Tensor | None = None,
        audio_states: Tensor | None = None,
        audio_present: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """What the decoder reads: tokens (B, M, text width), frames first, and their mask, bool (B, M).

        Args:
            video_states: (B, T, N, D) of `encode_video`, or None.
            audio_states: (B, S, N, D) of `encode_audio`, or None.
            audio_present: bool (B,), see `forward`.
        """
        parts, masks = [], []
        if video_states is not None:
            parts.append(self.video_memory(video_states))
            masks.append(torch.ones_like(parts[-1][..., 0], dtype=torch.bool))
        if audio_states is not None:
            parts.append(self.audio_memory(audio_states))
            masks.append(torch.ones_like(parts[-1][..., 0], dtype=torch.bool))
            if audio_present is not None:
                masks[-1] = masks[-1] & audio_present.bool()[:, None]
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
        states = self._encode(pixel_values, audio_values)
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
                media["video"] = self.video_features(states["video"])
            if "audio" in states:
                media["audio"] = self.audio_features(states["audio"], audio_present)
            out.similarity = {
                group: fine_similarity(text, FineFeatures.join([media[name] for name in GROUPS[group]]))
                for group in groups
            }
            losses = [
                contrastive_loss(scores, self.temperature, audio_present if group == "ta" else None)
                for group, scores in out.similarity.items()
            ]
            out.mga_loss = torch.stack(losses).mean()
            out.loss = self.config.mga_weight * out.mga_loss
        if decoder_input_ids is not None:
            out.logits = {}
            for group in groups:
                chosen = {f"{name}_states": states[name] for name in GROUPS[group]}
                memory, mask = self.media_memory(**chosen, audio_present=audio_present)
                words = (decoder_input_ids, decoder_attention_mask, prompt_ids, prompt_mask)
                out.logits[group] = self.cls(
                    self.run_text(*words, causal=True, memory=memory, memory_mask=mask)
                )
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

    def _encode(self, pixel_values: Tensor | None, audio_values: Tensor | None) -> dict[str, Tensor]:
        states = {}
        if pixel_values is not None:
            states["video"] = self.encode_video(pixel_values)
        if audio_values is not None:
            states["audio"] = self.encode_audio(audio_values)
        if not states:
            raise ValueError("there are no media: give pixel_values, audio_values or both")
        return states

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
    ) -> Tensor:
        """Words for each sample, (B, at most max_tokens), the padding id after the last one.

        Media and prompt as in `forward`; the group is what the media make up. VALOR writes captions with
        three beams and answers with one.

        Args:
            start_id, end_id, mask_id: ids of [CLS], [SEP] and [MASK].
            num_beams: continuations kept at each step; 1 takes the likeliest word.
            max_tokens: steps before a text without an end is cut.
        """
        states = self._encode(pixel_values, audio_values)
        memory, mask = self.media_memory(states.get("video"), states.get("audio"), audio_present)

        def next_word(rows: Tensor, ids: Tensor) -> Tensor:
            prompt = None if prompt_ids is None else prompt_ids[rows]
            real = None if prompt_mask is None else prompt_mask[rows]
            masked = F.pad(ids, (0, 1), value=mask_id)
            text = self.run_text(
                masked, None, prompt, real, causal=True, memory=memory[rows], memory_mask=mask[rows]
            )
            return cast(Tensor, self.cls(text[:, -1]))

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
