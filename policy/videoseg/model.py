"""SegPolicy: Qwen3-VL, the two-layer projection of its [SEG] states, and SAM 2.

Names inside checkpoints follow the released layout (`text_hidden_fcs.{0,2}.*`, `grounding_encoder.sam2_model.*`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedTokenizerBase, Qwen3VLForConditionalGeneration

from configs.load import ConfigError
from configs.prompt_file import Prompt
from env.types import VideoRef
from policy.engines.weight_update import LowRank
from policy.sam.model import SegSam2
from policy.sam.prompts import MaskPrompt
from policy.vlm.batch import Batch, FrameSource
from policy.vlm.chat_tokens import ChatTokens
from policy.vlm.load import head_is_tied
from policy.vlm.patches import PatchLayout
from policy.vlm.shared_prefix import hidden_states

LORA_TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


@dataclass(frozen=True)
class PolicyOutput:
    """The result of one forward over a batch with P action tokens and M [SEG] tokens, row by row in text order."""

    logprobs_BL: Tensor  # float32, of each action token given all before it; 0 elsewhere
    entropy_P: Tensor  # float32, of the distributions behind the action tokens
    prompts_MC: Tensor  # projected [SEG] states
    text_states_PD: Tensor  # last hidden states that the action tokens are predicted from
    seg_states_MD: Tensor  # last hidden states of the [SEG] tokens, before the projection


class SegPolicy(nn.Module):
    """The multi-turn policy: language model, projection and SAM 2."""

    def __init__(self, vlm: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, sam: SegSam2):
        super().__init__()
        self.vlm = vlm
        hidden = vlm.lm_head.in_features
        self.text_hidden_fcs = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, sam.hidden_dim))
        self.sam = sam
        self.chat = ChatTokens(tokenizer)
        self.layout = PatchLayout.of(vlm.config)
        self.compute_dtype = torch.float32  # of vision tower and language model
        self.prompt: Prompt | None = None  # the words that it was trained with, where they are known

    @property
    def config(self) -> PretrainedConfig:
        """Return the language model's configuration, which Hugging Face trainers expect on a model."""
        return self.vlm.config

    def add_model_tags(self, tags: list[str]) -> None:
        """Pass the tags of Hugging Face trainers on to the language model."""
        self.vlm.add_model_tags(tags)

    @property
    def device(self) -> torch.device:
        """Return the device of the weights."""
        return next(self.text_hidden_fcs.parameters()).device

    def add_lora(self, rank: int, alpha: int, dropout: float = 0.0, modules_to_save: Sequence[str] = ()) -> None:
        """Freeze the language model and add trainable low-rank adapters to its matrices (PEFT).

        Args:
            rank: Of the adapters.
            alpha: The adapters' outputs are scaled by alpha / rank.
            dropout: Of the adapters' inputs, in train mode only.
            modules_to_save: Modules to train in full: some of `lm_head`, `embed_tokens`, `norm`.

        Raises:
            ConfigError: `modules_to_save` names another module.
        """
        parts = {"lm_head": self.vlm.lm_head, **dict(self.vlm.model.language_model.named_children())}
        del parts["layers"]  # these get the adapters
        if unknown := sorted(set(modules_to_save) - parts.keys()):
            known = ", ".join(parts)
            raise ConfigError(f"policy.lora_modules_to_save: expected some of {known}, found {', '.join(unknown)}")
        for parameter in self.vlm.parameters():
            parameter.requires_grad_(False)
        config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=LORA_TARGETS)
        inject_adapter_in_model(config, self.vlm)
        for name in modules_to_save:
            parts[name].requires_grad_(True)

    def recompute_activations(self) -> None:
        """Keep only the inputs of each block for the backward pass, which runs the block again."""
        self.vlm.gradient_checkpointing_enable({"use_reentrant": False})
        self.vlm.train()  # transformers recomputes in train mode only
        for module in self.vlm.modules():
            if isinstance(module, nn.Dropout):  # dropout would make the learner differ from the sampler
                module.eval()

    def forward(self, batch: Batch) -> PolicyOutput:
        """Run one teacher-forced pass. Rows named by `batch.replaced` take the place of embeddings."""
        with torch.autocast(self.device.type, self.compute_dtype, enabled=self.compute_dtype != torch.float32):
            hidden_BLD = hidden_states(self.vlm.model, batch)
        rows, columns = batch.loss_mask_BL.nonzero(as_tuple=True)
        # Logits at trained positions only: [P, V] instead of [B, L, V].
        text_states_PD = hidden_BLD[rows, columns - 1]
        log_all_PV = F.log_softmax(self.vlm.lm_head(text_states_PD).float(), dim=-1)
        picked_P = log_all_PV.gather(1, batch.input_ids_BL[rows, columns][:, None])[:, 0]
        logprobs_BL = torch.zeros(batch.input_ids_BL.shape, device=picked_P.device).index_put((rows, columns), picked_P)
        entropy_P = -(log_all_PV.detach().exp() * log_all_PV.detach()).sum(-1)
        segs = [(row, at) for row, sequence in enumerate(batch.sequences) for at in sequence.seg_positions]
        seg_rows = torch.tensor([row for row, _ in segs], dtype=torch.long, device=hidden_BLD.device)
        seg_columns = torch.tensor([at for _, at in segs], dtype=torch.long, device=hidden_BLD.device)
        seg_states_MD = hidden_BLD[seg_rows, seg_columns]
        prompts_MC = self.text_hidden_fcs(seg_states_MD.float())
        return PolicyOutput(logprobs_BL, entropy_P, prompts_MC, text_states_PD, seg_states_MD)

    def decode_masks(
        self,
        prompts_MC: Tensor,
        targets: list[tuple[int, VideoRef, int]],
        frames: FrameSource,
        train_backbone: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Decode masks of single frames, without memory. A frame that several targets name is encoded once.

        Args:
            prompts_MC: Projected [SEG] states.
            targets: N masks, each (row of `prompts_MC`, video, frame index).
            frames: Source of SAM 2's pixels.
            train_backbone: Whether gradients reach SAM 2's image encoder.

        Returns:
            Mask logits [N, h, w] and presence logits [N]; None for these unless they blank masks
            (`SamConfig.presence`).
        """
        unique = list(dict.fromkeys((video, frame_idx) for _, video, frame_idx in targets))
        features = self.sam.encode_frames([frames.full(*frame) for frame in unique], train_backbone)
        position = {frame: at for at, frame in enumerate(unique)}
        index = torch.tensor([position[video, frame_idx] for _, video, frame_idx in targets], device=self.device)
        rows = torch.tensor([row for row, _, _ in targets], device=self.device)
        decoded = self.sam.decode(features.pick(index), MaskPrompt.language(prompts_MC[rows].float()))
        return decoded.logits_NHW, self.sam.blanking(decoded.presence_N)

    def weight_update(self) -> dict[str, Tensor | LowRank]:
        """Return the weights of the language and vision towers that training changes, under Hugging Face names.

        A sampler that started from this policy needs no others. A tied head is left out.
        """
        update: dict[str, Tensor | LowRank] = {
            name: parameter.detach()
            for name, parameter in self.vlm.named_parameters()
            if parameter.requires_grad and ".lora_" not in name
        }
        for name, module in self.vlm.named_modules():
            if isinstance(module, LoraLinear):
                up_OR = module.get_parameter("lora_B.default.weight")
                down_RI = module.get_parameter("lora_A.default.weight")
                update[f"{name}.weight"] = LowRank(up_OR.detach(), down_RI.detach(), module.scaling["default"])
        return update

    def export_weights(self) -> dict[str, Tensor]:
        """Return the weights of both towers under Hugging Face names, adapters merged, without a tied head."""
        weights = {
            name.replace(".base_layer", ""): tensor.detach()
            for name, tensor in self.vlm.state_dict().items()
            if ".lora_" not in name
        }
        for name, module in self.vlm.named_modules():
            if isinstance(module, LoraLinear):
                weights[f"{name}.weight"] = weights[f"{name}.weight"] + module.get_delta_weight("default").detach()
        if head_is_tied(self.vlm):
            del weights["lm_head.weight"]
        return weights
