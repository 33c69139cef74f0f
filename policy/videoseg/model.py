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
from env.types import VideoRef
from policy.engines.weight_update import LowRank
from policy.sam.model import SegSam2
from policy.sam.prompts import MaskPrompt
from policy.vlm.batch import Batch, FrameSource
from policy.vlm.chat_tokens import ChatTokens
from policy.vlm.patches import PatchLayout
from policy.vlm.shared_prefix import hidden_states

LORA_TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


@dataclass(frozen=True)
class PolicyOutput:
    """What one forward over a batch gives. P counts action tokens, M counts [SEG] tokens of all rows in order."""

    logprobs_BL: Tensor  # float32, of each action token given all before it; 0 elsewhere
    entropy_P: Tensor  # float32, of the distributions behind the action tokens
    prompts_MC: Tensor  # projected [SEG] states, row by row in text order
    text_states_PD: Tensor  # last hidden states that the action tokens are predicted from
    seg_states_MD: Tensor  # last hidden states of the [SEG] tokens, behind `prompts_MC`


class SegPolicy(nn.Module):
    """The policy whose weights learn."""

    def __init__(self, vlm: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, sam: SegSam2):
        super().__init__()
        self.vlm = vlm
        hidden = vlm.lm_head.in_features
        self.text_hidden_fcs = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, sam.hidden_dim))
        self.sam = sam
        self.chat = ChatTokens(tokenizer)
        self.layout = PatchLayout.of(vlm.config)
        self.compute_dtype = torch.float32  # of vision tower and language model

    @property
    def config(self) -> PretrainedConfig:
        """The language model's configuration: what Hugging Face trainers look for on a model."""
        return self.vlm.config

    def add_model_tags(self, tags: list[str]) -> None:
        """Trainers tag the models they train."""
        self.vlm.add_model_tags(tags)

    @property
    def device(self) -> torch.device:
        return next(self.text_hidden_fcs.parameters()).device

    def add_lora(self, rank: int, alpha: int, dropout: float = 0.0, modules_to_save: Sequence[str] = ()) -> None:
        """Freeze the language model's matrices and train low-rank adapters on them (PEFT).

        `dropout` acts in train mode only. `modules_to_save` (`lm_head`, `embed_tokens`, `norm`) train in full.
        """
        parts = {"lm_head": self.vlm.lm_head, **dict(self.vlm.model.language_model.named_children())}
        del parts["layers"]  # theirs are the matrices that get adapters
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
        """Keep the inputs of each block alone for the backward pass, which runs the block again."""
        self.vlm.gradient_checkpointing_enable({"use_reentrant": False})
        self.vlm.train()  # transformers recomputes in this mode only
        for module in self.vlm.modules():
            if isinstance(module, nn.Dropout):  # but what is dropped would part learner and sampler
                module.eval()

    def forward(self, batch: Batch) -> PolicyOutput:
        """One teacher-forced pass: log-probs of the action tokens and the prompts of every [SEG]."""
        with torch.autocast(self.device.type, self.compute_dtype, enabled=self.compute_dtype != torch.float32):
            hidden_BLD = hidden_states(self.vlm.model, batch)
        rows, columns = batch.loss_mask_BL.nonzero(as_tuple=True)
        # Only the positions that train reach the vocabulary: [P, V] instead of [B, L, V].
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
    ) -> tuple[Tensor, Tensor]:
        """Mask logits [N, h, w] and presence logits [N] of `targets`, each (row of prompts, video, frame index).

        A frame that several targets name is encoded once.
        """
        unique = list(dict.fromkeys((video, frame_idx) for _, video, frame_idx in targets))
        features = self.sam.encode_frames([frames.full(*frame) for frame in unique], train_backbone)
        position = {frame: at for at, frame in enumerate(unique)}
        index = torch.tensor([position[video, frame_idx] for _, video, frame_idx in targets], device=self.device)
        rows = torch.tensor([row for row, _, _ in targets], device=self.device)
        decoded = self.sam.decode(features.pick(index), MaskPrompt.language(prompts_MC[rows].float()))
        return decoded.logits_NHW, decoded.presence_N

    def weight_update(self) -> dict[str, Tensor | LowRank]:
        """What training changes of the language and vision towers: a sampler that began as this policy needs no more.

        Under Hugging Face names; a tied head is left out.
        """
        moved: dict[str, Tensor | LowRank] = {
            name: parameter.detach()
            for name, parameter in self.vlm.named_parameters()
            if parameter.requires_grad and ".lora_" not in name
        }
        for name, module in self.vlm.named_modules():
            if isinstance(module, LoraLinear):
                up_OR = module.get_parameter("lora_B.default.weight")
                down_RI = module.get_parameter("lora_A.default.weight")
                moved[f"{name}.weight"] = LowRank(up_OR.detach(), down_RI.detach(), module.scaling["default"])
        return moved

    def export_weights(self) -> dict[str, Tensor]:
        """Weights of the language and vision towers under Hugging Face names, adapters merged, a tied head left out."""
        weights = {
            name.replace(".base_layer", ""): tensor.detach()
            for name, tensor in self.vlm.state_dict().items()
            if ".lora_" not in name
        }
        for name, module in self.vlm.named_modules():
            if isinstance(module, LoraLinear):
                weights[f"{name}.weight"] = weights[f"{name}.weight"] + module.get_delta_weight("default").detach()
        if self.vlm.config.tie_word_embeddings:
            weights.pop("lm_head.weight", None)
        return weights
