"""Forwards over rows that begin alike, as siblings do: each beginning is computed once.

A first forward takes the beginnings, one per task, and keeps their keys and values; a second one takes what follows in
every row, which attends to them. States and gradients are those of one forward over whole rows, up to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLModel

from policy.vlm.batch import Batch, ReplacedRows, TokenSequence

_NO_FRAME = 0  # any token but the image pad, in place of what is masked


def hidden_states(model: Qwen3VLModel, batch: Batch) -> Tensor:
    """Last hidden states [B, L, D] of all rows; those of padding mean nothing."""
    if batch.replaced is not None:
        return _with_replaced_rows(model, batch, batch.replaced)
    sharing = None if _keeps_no_states(model) else _find(batch)
    if sharing is None:
        return model(**_inputs(batch), use_cache=False).last_hidden_state
    return _two_forwards(model, batch, sharing)


def _with_replaced_rows(model: Qwen3VLModel, batch: Batch, replaced: ReplacedRows) -> Tensor:
    """One forward over whole rows: rows with equal tokens may now differ, so no beginning is shared.

    The embedding layer's output is changed by a hook. With `inputs_embeds` instead of token ids the model would find
    image tokens by comparing vectors, which fails where another token has the same embedding.
    """

    def replace_rows(module: nn.Module, inputs: tuple, embedded_BLD: Tensor) -> Tensor:
        vectors_MD = replaced.vectors_MD.to(embedded_BLD.dtype)
        return embedded_BLD.index_put((replaced.rows_M, replaced.columns_M), vectors_MD)

    hook = model.get_input_embeddings().register_forward_hook(replace_rows)
    try:
        return model(**_inputs(batch), use_cache=False).last_hidden_state
    finally:
        hook.remove()


def _keeps_no_states(model: Qwen3VLModel) -> bool:
    """Whether activations are recomputed: the library then drops keys and values."""
    return model.training and model.is_gradient_checkpointing


@dataclass(frozen=True)
class _Sharing:
    """Which rows begin alike."""

    firsts: list[int]  # the first row of each kind
    kind_of_row: list[int]
    lengths: list[int]  # tokens of each kind's beginning
    num_frames: list[int]  # that it shows


def _find(batch: Batch) -> _Sharing | None:
    """None where no two rows begin alike."""
    kinds: dict[tuple, int] = {}
    firsts, kind_of_row = [], []
    for row, sequence in enumerate(batch.sequences):
        length = _beginning(sequence)
        key = (sequence.video, sequence.ids[:length], sequence.frames[: sequence.first_frames])
        if key not in kinds:
            kinds[key] = len(firsts)
            firsts.append(row)
        kind_of_row.append(kinds[key])
    if len(firsts) == len(kind_of_row):
        return None
    sequences = [batch.sequences[row] for row in firsts]
    return _Sharing(firsts, kind_of_row, [*map(_beginning, sequences)], [each.first_frames for each in sequences])


def _beginning(sequence: TokenSequence) -> int:
    """Tokens before the first that the policy wrote."""
    return next((at for at, is_written in enumerate(sequence.loss_mask) if is_written), len(sequence))


def _inputs(batch: Batch) -> dict[str, Any]:
    return {
        "input_ids": batch.input_ids_BL,
        "attention_mask": batch.attention_mask_BL,
        "pixel_values": batch.pixel_values,
        "image_grid_thw": batch.image_grid_thw,
        "mm_token_type_ids": batch.image_mask_BL,
    }


def _two_forwards(model: Qwen3VLModel, batch: Batch, sharing: _Sharing) -> Tensor:
    device = batch.input_ids_BL.device
    kind_B = torch.tensor(sharing.kind_of_row, device=device)
    starts_B = torch.tensor(sharing.lengths, device=device)[kind_B]
    position_ids_3BL, _ = model.get_rope_index(**_inputs(batch))
    length = batch.input_ids_BL.shape[1]
    first_K = torch.tensor(sharing.firsts, device=device)

    # Columns of whole rows that each forward takes; what lies behind a row's end is masked.
    head = max(sharing.lengths)
    head_KH = torch.arange(head, device=device).expand(len(sharing.firsts), head)
    head_mask_KH = (head_KH < starts_B[first_K][:, None]).long()
    tail = length - min(sharing.lengths)
    tail_BT = starts_B[:, None] + torch.arange(tail, device=device)
    is_inside_BT = tail_BT < length
    tail_BT = tail_BT.clamp(max=length - 1)
    tail_mask_BT = batch.attention_mask_BL.gather(1, tail_BT) * is_inside_BT

    heads, tails = _frames(batch, sharing)
    begun = model(
        input_ids=batch.input_ids_BL[first_K, :head].where(head_mask_KH.bool(), _NO_FRAME),
        attention_mask=head_mask_KH,
        position_ids=position_ids_3BL[:, first_K, :head],
        **heads,
        use_cache=True,
    )
    states = DynamicCache()
    for at, layer in enumerate(begun.past_key_values.layers):
        states.update(layer.keys[kind_B], layer.values[kind_B], at)
    followed = model(
        input_ids=batch.input_ids_BL.gather(1, tail_BT).where(tail_mask_BT.bool(), _NO_FRAME),
        attention_mask=torch.cat([head_mask_KH[kind_B], tail_mask_BT], dim=1),
        position_ids=position_ids_3BL.gather(2, tail_BT.expand(3, -1, -1)),
        past_key_values=states,
        **tails,
        use_cache=True,
    )
    both_BSD = torch.cat([begun.last_hidden_state[kind_B], followed.last_hidden_state], dim=1)
    columns_BL = torch.arange(length, device=device).expand(len(kind_B), length)
    columns_BL = torch.where(columns_BL < starts_B[:, None], columns_BL, head + columns_BL - starts_B[:, None])
    return torch.take_along_dim(both_BSD, columns_BL[:, :, None], dim=1)


def _frames(batch: Batch, sharing: _Sharing) -> tuple[dict[str, Tensor | None], dict[str, Tensor | None]]:
    """Frames of the beginnings, each once, and of what follows."""
    if batch.pixel_values is None or batch.image_grid_thw is None:
        return {}, {}
    patches = batch.pixel_values.split(batch.image_grid_thw.prod(-1).tolist())
    heads, tails, at = [], [], 0
    for row, (sequence, kind) in enumerate(zip(batch.sequences, sharing.kind_of_row, strict=True)):
        numbers = range(at, at + len(sequence.frames))
        at = numbers.stop
        if sharing.firsts[kind] == row:
            heads += numbers[: sharing.num_frames[kind]]
        tails += numbers[sharing.num_frames[kind] :]

    def of(numbers: list[int]) -> dict[str, Tensor | None]:
        if not numbers:
            return {}
        assert batch.image_grid_thw is not None
        return {
            "pixel_values": torch.cat([patches[number] for number in numbers]),
            "image_grid_thw": batch.image_grid_thw[numbers],
        }

    return of(heads), of(tails)
