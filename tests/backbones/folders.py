"""Makers of tiny towers in local folders, as `save_pretrained` leaves them."""

import transformers as hf

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def _tokenizer(folder):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "shape", "nothing"]
    (folder / "vocab.txt").write_text("\n".join(words))
    hf.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)


def bert(folder):
    hf.BertModel(hf.BertConfig(**SMALL, vocab_size=8, max_position_embeddings=40)).save_pretrained(folder)
    _tokenizer(folder)


def bert_with_head(folder):
    config = hf.BertConfig(**SMALL, vocab_size=8, max_position_embeddings=40)
    hf.BertForMaskedLM(config).save_pretrained(folder)
    _tokenizer(folder)


def vit(folder):
    hf.ViTModel(hf.ViTConfig(**SMALL, image_size=32, patch_size=16)).save_pretrained(folder)
    hf.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)


def vit_bare(folder):
    hf.ViTModel(hf.ViTConfig(**SMALL, image_size=32, patch_size=16)).save_pretrained(folder)


def hiera(folder):
    config = hf.Sam2HieraDetConfig(
        hidden_size=8,
        num_attention_heads=1,
        image_size=[32, 32],
        blocks_per_stage=[1, 2],
        embed_dim_per_stage=[8, 16],
        num_attention_heads_per_stage=[1, 2],
        window_size_per_stage=[4, 2],
        global_attention_blocks=[2],
        num_query_pool_stages=1,
        window_positional_embedding_background_size=[2, 2],
    )
    hf.Sam2HieraDetModel(config).save_pretrained(folder)


def _whisper_config():
    return hf.WhisperConfig(
        d_model=16,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        vocab_size=20,
        num_mel_bins=8,
        max_source_positions=100,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        decoder_start_token_id=0,
    )


def whisper_encoder(folder):
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    WhisperEncoder(_whisper_config()).save_pretrained(folder)
    hf.WhisperFeatureExtractor(feature_size=8, chunk_length=2).save_pretrained(folder)


def whisper_whole(folder):
    hf.WhisperForConditionalGeneration(_whisper_config()).save_pretrained(folder)
    hf.WhisperFeatureExtractor(feature_size=8, chunk_length=2).save_pretrained(folder)


def wav2vec2(folder):
    config = hf.Wav2Vec2Config(
        **SMALL, conv_dim=[8, 8], conv_kernel=[10, 3], conv_stride=[5, 2], num_conv_pos_embedding_groups=2
    )
    hf.Wav2Vec2Model(config).save_pretrained(folder)
    hf.Wav2Vec2FeatureExtractor().save_pretrained(folder)


def ast(folder):
    hf.ASTModel(hf.ASTConfig(**SMALL, max_length=64, num_mel_bins=32)).save_pretrained(folder)
    hf.ASTFeatureExtractor(max_length=64, num_mel_bins=32).save_pretrained(folder)


def clip(folder):
    vision = {**SMALL, "image_size": 32, "patch_size": 16}
    text = {**SMALL, "vocab_size": 8, "max_position_embeddings": 40, "bos_token_id": 2, "eos_token_id": 3}
    hf.CLIPModel(hf.CLIPConfig(vision_config=vision, text_config=text)).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    hf.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=size).save_pretrained(folder)
    _tokenizer(folder)


def videomae(folder):
    config = hf.VideoMAEConfig(**SMALL, image_size=32, patch_size=16, num_frames=16)
    hf.VideoMAEModel(config).save_pretrained(folder)
    hf.VideoMAEImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(folder)
