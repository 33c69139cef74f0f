"""The settings of the model, a part of `configs.schema`: frozen dataclasses, with a sentence under each field."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class SamConfig:
    """The variant of SAM 2, and the sizes of the small one."""

    variant: str = "small"
    """`small`: built from the sizes below. Otherwise a config of the sam2 package, such as `sam2.1_hiera_l`."""
    checkpoint: str = ""
    """SAM 2 weights to start from: a published file, one that SAM 2's trainer wrote, or one (or the folder) of
    transformers' Sam2VideoModel. Empty: those of `policy.path`, or random ones if `small`."""
    image_size: int = 128
    """Side of the square that SAM 2 sees."""
    hidden: int = 64
    """Width of prompt encoder, mask decoder and memory attention."""
    embed: int = 32
    """Width of the first stage of the Hiera image encoder."""
    stages: tuple[int, ...] = (1, 1, 2, 1)
    """Blocks per stage of the Hiera image encoder."""
    memory_layers: int = 1
    """Layers of the memory attention."""
    masks: str = "single"
    """How SAM 2 answers a prompt, a key of `policy.sam.build.MASKS`: `single` (the mask of its first output token) or
    `best_of_three` (three masks, of which that of highest predicted IoU is taken and trained, as released)."""
    presence: str = "blank"
    """What follows where SAM 2's object score is not positive, a key of `policy.sam.build.PRESENCE`: `blank` (the mask
    is empty), `memory` (only SAM 2's memory is told, as released) or `ignore` (nothing). Only `blank` trains the score.
    `masks` and `presence` are properties of a checkpoint: its `policy.json` goes before them."""
    inject_every_frame: bool = True
    """Prompt SAM 2 with [SEG] on every frame, as in the released evaluation; else on the key frame alone. It is a
    setting of the run and is not stored in checkpoints."""


@dataclass(frozen=True)
class PolicyConfig:
    """The model: a checkpoint, or the sizes of a small one."""

    kind: str = "videoseg"
    """Model family, a key of `rl.families.FAMILIES`; the `policy.json` of a checkpoint goes before it."""
    path: str = ""
    """Checkpoint folder to start from. Empty: build the small model from the sizes below."""
    vocab_size: int = 640
    """Most entries of the tokenizer that is trained for the small model."""
    hidden: int = 128
    """Width of the small language model."""
    layers: int = 4
    """Layers of the small language model."""
    heads: int = 4
    """Attention heads of the small language model."""
    vision_hidden: int = 96
    """Width of the small vision tower."""
    vision_layers: int = 2
    """Blocks of the small vision tower."""
    patch_size: int = 8
    """Side of a vision patch of the small model, in pixels."""
    merge_size: int = 2
    """The small model merges merge_size x merge_size patches into one token."""
    init_std: float = 0.08
    """Standard deviation of the small model's initial weights, about 1/sqrt(hidden)."""
    sam: SamConfig = field(default_factory=SamConfig)
    """SAM 2 for the small model or a plain Qwen3-VL. A checkpoint of this program has its own."""
    lora_rank: int = 0
    """Rank of LoRA adapters on the language model; 0 trains all weights."""
    lora_alpha: int = 16
    """Scale of the LoRA adapters."""
    lora_dropout: float = 0.0
    """Dropout rate of the adapters' inputs in the cold start, from 0 to below 1. GRPO and evaluation use no dropout."""
    lora_modules_to_save: tuple[str, ...] = ()
    """Modules that are trained in full beside the adapters: `lm_head`, or a part of the language model
    (`embed_tokens`)."""
    freeze_vision: bool = False
    """Freeze the vision tower of `path`. The sampler then keeps its encoder cache when it gets new weights."""
    freeze_embeddings: bool = False
    """Freeze the token embeddings of `path`, and the output head if it is tied to them. LoRA always freezes them."""
    compute_dtype: str = "float32"
    """Precision of the vision tower and the language model in forward and backward: float32, or bfloat16 by autocast.
    Weights, optimizer, log-probs and SAM 2 stay in float32."""
    recompute_activations: bool = False
    """Activation checkpointing of the vision tower and the language model: it saves most of the memory of activations
    and takes about a third more time."""
