"""Captioners with random weights, as `save_pretrained` writes them: one of each way to be asked."""

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from distill.extras import quiet

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "<image>", "a", "photo", "of", "red", "dog", "cat", "on", "grass", "the"]
SIDE = 16
SHARED = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
PICTURES = SHARED | {"image_size": SIDE, "patch_size": 8}
TEXTS = SHARED | {"vocab_size": len(WORDS), "max_position_embeddings": 96}
SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "[CLS]", "eos_token": "[SEP]"}
TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}"
    "{% endfor %}{% endfor %}"
)


def tokenizer(*, framed: bool = False) -> transformers.PreTrainedTokenizerFast:
    """Words between spaces; `framed` puts [CLS] and [SEP] around them, as BERT's tokenizer does."""
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if framed:
        frame = [("[CLS]", 1), ("[SEP]", 2)]
        words.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=frame)
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=words, **SPECIAL)
    made.add_special_tokens({"additional_special_tokens": ["<image>"]})
    return made


def write_blip(folder: Path) -> Path:
    """Writes on from a prompt, if there is one."""
    text = TEXTS | {"encoder_hidden_size": 16, "bos_token_id": 1, "sep_token_id": 2, "eos_token_id": 2}
    text |= {"pad_token_id": 0, "projection_dim": 16}
    config = transformers.BlipConfig(text_config=text, vision_config=PICTURES, projection_dim=16)
    _save(transformers.BlipForConditionalGeneration, config, folder)
    pictures = transformers.BlipImageProcessor(size={"height": SIDE, "width": SIDE})
    transformers.BlipProcessor(pictures, tokenizer(framed=True)).save_pretrained(folder)
    return folder


def write_encoder_decoder(folder: Path) -> Path:
    """Takes no prompt, and comes with an image processor and a tokenizer that know nothing of each other."""
    decoder = transformers.BertConfig(**TEXTS, is_decoder=True, add_cross_attention=True)
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.ViTConfig(**PICTURES), decoder
    )
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 1, 0, 2
    _save(transformers.VisionEncoderDecoderModel, config, folder)
    transformers.ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def write_chat(folder: Path) -> Path:
    """Answers a message with a picture in it."""
    text = transformers.LlamaConfig(**TEXTS, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    pictures = transformers.CLIPVisionConfig(**PICTURES)
    config = transformers.LlavaConfig(vision_config=pictures, text_config=text, image_token_id=WORDS.index("<image>"))
    _save(transformers.LlavaForConditionalGeneration, config, folder)
    size = {"shortest_edge": SIDE}
    transformers.LlavaProcessor(
        transformers.CLIPImageProcessor(size=size, crop_size={"height": SIDE, "width": SIDE}),
        tokenizer(),
        patch_size=8,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    return folder


WRITERS = {"blip": write_blip, "encoder_decoder": write_encoder_decoder, "chat": write_chat}


def _save(kind: type, config: transformers.PretrainedConfig, folder: Path) -> None:
    """Weights large enough that pictures and prompts matter, and no end of the text among the first words."""
    torch.manual_seed(0)
    model = kind(config)
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data + 0.3 * torch.randn(parameter.shape)
        if name.endswith("cls.predictions.bias"):
            parameter.data[: WORDS.index("a")] = -1e4
    model.generation_config.suppress_tokens = [*range(WORDS.index("a"))]
    with quiet(transformers):
        model.save_pretrained(folder)
