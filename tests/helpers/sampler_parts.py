"""A tiny model folder, conversations with frames in every turn, and a plain forward to compare samplers with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from transformers import Qwen2VLImageProcessor, Qwen3VLForConditionalGeneration

from configs.policy_schema import PolicyConfig, SamConfig
from configs.schema import SamplerConfig
from policy.engines import build_sampler
from policy.engines.base import Completion, GenerationRequest, Sampler
from policy.videoseg.checkpoint import build_small, save_policy
from policy.vlm.chat_tokens import ChatTokens, expand_image_pads

MAX_CONTEXT = 1024
SIZES = ((32, 32), (64, 64), (32, 64), (48, 32))
CORPUS = ["the red circle moves left", "the blue square stops and turns", "<think>frame 12</think>"] * 4
SAM = SamConfig(image_size=64, hidden=32, embed=16, stages=(1, 1, 1, 1))


def make_model(folder: Path, seed: int = 0) -> Path:
    """Save a tiny random policy; return its Hugging Face folder."""
    config = PolicyConfig(vocab_size=420, sam=SAM)
    save_policy(build_small(config, CORPUS, seed), folder)
    return folder / "vlm"


def make_sampler(kind: str, model_dir: Path, max_context: int = MAX_CONTEXT) -> Sampler:
    return build_sampler(SamplerConfig(kind=kind, memory_gb=0.125, max_sequences=16), model_dir, max_context, seed=0)


def load_plain(model_dir: Path) -> Qwen3VLForConditionalGeneration:
    """Load the model as Hugging Face reads it: the reference."""
    return Qwen3VLForConditionalGeneration.from_pretrained(model_dir, dtype=torch.float32).eval().requires_grad_(False)


def exported(model: Qwen3VLForConditionalGeneration) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}


def shake(model: Qwen3VLForConditionalGeneration, seed: int, names: str = "") -> None:
    """Add noise to every weight whose name contains `names`, in the vision tower and the tied embedding too."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.named_parameters():
        if names in name:
            tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.3 * tensor.std().nan_to_num(0.1))


@dataclass
class Conversation:
    """One rollout: ids with a single pad per image, frames, and the positions that were sampled."""

    name: str
    ids: list[int] = field(default_factory=list)
    images: list[np.ndarray] = field(default_factory=list)
    sampled: list[bool] = field(default_factory=list)  # per id
    logprobs: list[float] = field(default_factory=list)  # of the sampled ids, in order
    turns: int = 0

    def observe(self, ids: Sequence[int], images: Sequence[np.ndarray]) -> None:
        self.ids += ids
        self.sampled += [False] * len(ids)
        self.images += images

    def accept(self, completion: Completion) -> None:
        self.ids += completion.token_ids
        self.sampled += [True] * len(completion.token_ids)
        self.logprobs += completion.logprobs
        self.turns += 1


def frame(number: int) -> np.ndarray:
    """Return noise as uint8 [H, W, 3]; equal numbers give equal frames, so conversations share some."""
    height, width = SIZES[number % len(SIZES)]
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)


def observation(chat: ChatTokens, text: str, frames: int) -> list[int]:
    shown = "<|vision_start|><|image_pad|><|vision_end|>" * frames
    return chat.encode(f"<|im_start|>user\n{text}{shown}<|im_end|>\n<|im_start|>assistant\n")


def play(
    sampler: Sampler, chat: ChatTokens, count: int, temperature: float = 1.0, turns: int = 3, salt: int = 0
) -> list[Conversation]:
    """Run `count` conversations at once; each goes on when its turn is finished, with one or two new frames.

    Pairs of neighbours have the same first observation, as siblings of a group do, and differ later.

    Args:
        sampler: the engine.
        chat: the tokenizer of the model.
        count: number of conversations.
        temperature: of sampling; 0 is greedy.
        turns: turns per conversation.
        salt: chooses frames and seeds.

    Returns:
        The conversations, in order.
    """
    live: dict[str, Conversation] = {}

    def send(talk: Conversation) -> None:
        at = talk.turns
        numbers = [10 * (salt + int(talk.name) // 2) + at, 3 * at + 1][: 2 if at != 1 else 1]
        text = f"frame {int(talk.name) // 2} " * (1 + 3 * at) if at == 0 else f"again {talk.name} " * (1 + at)
        talk.observe(observation(chat, text, len(numbers)), [frame(number) for number in numbers])
        live[f"{talk.name}/{at}"] = talk
        sampler.submit(
            GenerationRequest(
                request_id=f"{talk.name}/{at}",
                prompt_ids=tuple(talk.ids),
                images=tuple(talk.images),
                max_tokens=6 + 5 * (int(talk.name) % 3),
                temperature=temperature,
                seed=1000 * salt + 10 * int(talk.name) + at,
            )
        )

    talks = [Conversation(str(number)) for number in range(count)]
    for talk in talks:
        send(talk)
    while sampler.has_work():
        for completion in sampler.step():
            talk = live.pop(completion.request_id)
            talk.accept(completion)
            if talk.turns < turns:
                send(talk)
    assert not live
    return talks


@torch.inference_mode()
def plain_logprobs(model: Qwen3VLForConditionalGeneration, chat: ChatTokens, talk: Conversation) -> torch.Tensor:
    """Return log-softmax [L, V] at the sampled positions of one conversation, by one forward of Hugging Face."""
    vision = model.model.visual.config
    processor = Qwen2VLImageProcessor(
        patch_size=vision.patch_size,
        merge_size=vision.spatial_merge_size,
        temporal_patch_size=vision.temporal_patch_size,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        do_resize=False,
    )
    frames = processor(images=talk.images, return_tensors="pt")
    counts = (frames["image_grid_thw"].prod(-1) // vision.spatial_merge_size**2).tolist()
    ids = torch.tensor([expand_image_pads(talk.ids, counts, chat.image_pad_id)])
    marked = iter(counts)
    sampled = [
        copy
        for token, flag in zip(talk.ids, talk.sampled, strict=True)
        for copy in [flag] * (next(marked) if token == chat.image_pad_id else 1)
    ]
    logits = model(
        input_ids=ids,
        pixel_values=frames["pixel_values"],
        image_grid_thw=frames["image_grid_thw"],
        mm_token_type_ids=(ids == chat.image_pad_id).int(),
    ).logits[0]
    return logits[:-1][torch.tensor(sampled[1:])].log_softmax(-1)


def worst_difference(
    model: Qwen3VLForConditionalGeneration, chat: ChatTokens, talks: Sequence[Conversation]
) -> tuple[float, int]:
    """Return the largest absolute difference between sampled and plain log-probs, and the number of tokens compared.

    Args:
        model: the reference, with the weights that the sampler should have.
        chat: its tokenizer.
        talks: finished conversations.
    """
    worst, total = 0.0, 0
    for talk in talks:
        written = torch.tensor([token for token, flag in zip(talk.ids, talk.sampled, strict=True) if flag])
        plain = plain_logprobs(model, chat, talk).gather(1, written[:, None])[:, 0]
        worst = max(worst, (plain - torch.tensor(talk.logprobs)).abs().max().item())
        total += len(written)
    return worst, total


def lone_request(chat: ChatTokens, request_id: str = "a", **changes: object) -> GenerationRequest:
    """Build one short request with two frames."""
    request = GenerationRequest(
        request_id, tuple(observation(chat, "the red circle ", 2)), (frame(0), frame(1)), 24, 1.0, 7
    )
    return replace(request, **changes)


def drain(sampler: Sampler) -> dict[str, Completion]:
    done: dict[str, Completion] = {}
    while sampler.has_work():
        done |= {completion.request_id: completion for completion in sampler.step()}
    return done
