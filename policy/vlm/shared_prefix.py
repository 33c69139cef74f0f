"""Compute the hidden states of rows with common prefixes, such as siblings, with one forward per prefix.

The prefix of a row is all before its first action token. A first forward runs the different prefixes, one row each,
and keeps their keys and values; a second one runs the rest of every row, which attends to them. States and gradients
equal those of one forward over whole rows, up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLModel

from policy.vlm.batch import Batch, ReplacedRows, TokenSequence

_FILLER = 0  # any token but the image pad, at masked positions: pads and frames must match


def hidden_states(model: Qwen3VLModel, batch: Batch) -> Tensor:
    """Return the last hidden states [B, L, D] of all rows; those at padding are arbitrary."""
    if batch.replaced is not None:
        return _with_replaced_rows(model, batch, batch.replaced)
    prefixes = None if _keeps_no_states(model) else _common_prefixes(batch)
    if prefixes is None:
        return model(**_inputs(batch), use_cache=False).last_hidden_state
    return _two_forwards(model, batch, prefixes)


def _with_replaced_rows(model: Qwen3VLModel, batch: Batch, replaced: ReplacedRows) -> Tensor:
    """Run whole rows in one forward: rows with equal tokens may differ in vectors, so no prefix is shared.

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
    """Return whether activations are recomputed: the library then drops keys and values."""
    return model.training and model.is_gradient_checkpointing


@dataclass(frozen=True)
class _Prefixes:
    """The K different prefixes of B rows."""

    first_rows: list[int]  # [K], the first row with each prefix
    of_row: list[int]  # [B], index of each row's prefix
    lengths: list[int]  # [K], in tokens
    num_frames: list[int]  # [K]


def _common_prefixes(batch: Batch) -> _Prefixes | None:
    """Return the prefixes of a batch; None if no two rows have the same."""
    known: dict[tuple, int] = {}
    first_rows, of_row = [], []
    for row, sequence in enumerate(batch.sequences):
        length = _prefix_length(sequence)
        key = (sequence.video, sequence.ids[:length], sequence.frames[: sequence.first_frames])
        if key not in known:
            known[key] = len(first_rows)
            first_rows.append(row)
        of_row.append(known[key])
    if len(first_rows) == len(of_row):
        return None
    firsts = [batch.sequences[row] for row in first_rows]
    return _Prefixes(first_rows, of_row, [*map(_prefix_length, firsts)], [each.first_frames for each in firsts])


def _prefix_length(sequence: TokenSequence) -> int:
    """Return the number of tokens before the first action token."""
    return next((at for at, is_action in enumerate(sequence.loss_mask) if is_action), len(sequence))


def _inputs(batch: Batch) -> dict[str, Any]:
    return {
        "input_ids": batch.input_ids_BL,
        "attention_mask": batch.attention_mask_BL,
        "pixel_values": batch.pixel_values,
        "image_grid_thw": batch.image_grid_thw,
        "mm_token_type_ids": batch.image_mask_BL,
    }


@dataclass(frozen=True)
class _Columns:
    """Which columns of the whole rows each forward reads; masks are 0 where a row has none."""

    prefix_mask_KH: Tensor  # the prefix forward reads columns 0..H-1 of the K first rows
    rest_BT: Tensor  # columns that the second forward reads
    rest_mask_BT: Tensor
    whole_BL: Tensor  # where each column of the whole rows is found in the states of both forwards side by side


def _columns(batch: Batch, prefixes: _Prefixes, prefix_B: Tensor) -> _Columns:
    device, length = prefix_B.device, batch.input_ids_BL.shape[1]
    lengths_K = torch.tensor(prefixes.lengths, device=device)
    longest, starts_B1 = max(prefixes.lengths), lengths_K[prefix_B][:, None]
    prefix_mask_KH = (torch.arange(longest, device=device) < lengths_K[:, None]).long()
    rest_BT = starts_B1 + torch.arange(length - min(prefixes.lengths), device=device)
    is_inside_BT = rest_BT < length
    rest_BT = rest_BT.clamp(max=length - 1)
    rest_mask_BT = batch.attention_mask_BL.gather(1, rest_BT) * is_inside_BT
    whole_BL = torch.arange(length, device=device).expand(len(prefix_B), length)
    whole_BL = torch.where(whole_BL < starts_B1, whole_BL, longest + whole_BL - starts_B1)
    return _Columns(prefix_mask_KH, rest_BT, rest_mask_BT, whole_BL)


def _two_forwards(model: Qwen3VLModel, batch: Batch, prefixes: _Prefixes) -> Tensor:
    device = batch.input_ids_BL.device
    prefix_B = torch.tensor(prefixes.of_row, device=device)
    first_K = torch.tensor(prefixes.first_rows, device=device)
    columns = _columns(batch, prefixes, prefix_B)
    longest = columns.prefix_mask_KH.shape[1]
    position_ids_3BL, _ = model.get_rope_index(**_inputs(batch))
    prefix_frames, rest_frames = _split_frames(batch, prefixes)
    prefix = model(
        input_ids=batch.input_ids_BL[first_K, :longest].where(columns.prefix_mask_KH.bool(), _FILLER),
        attention_mask=columns.prefix_mask_KH,
        position_ids=position_ids_3BL[:, first_K, :longest],
        **prefix_frames,
        use_cache=True,
    )
    cache = DynamicCache()
    for at, layer in enumerate(prefix.past_key_values.layers):
        cache.update(layer.keys[prefix_B], layer.values[prefix_B], at)
    rest = model(
        input_ids=batch.input_ids_BL.gather(1, columns.rest_BT).where(columns.rest_mask_BT.bool(), _FILLER),
        attention_mask=torch.cat([columns.prefix_mask_KH[prefix_B], columns.rest_mask_BT], dim=1),
        position_ids=position_ids_3BL.gather(2, columns.rest_BT.expand(3, -1, -1)),
        past_key_values=cache,
        **rest_frames,
        use_cache=True,
    )
    states_BSD = torch.cat([prefix.last_hidden_state[prefix_B], rest.last_hidden_state], dim=1)
    return torch.take_along_dim(states_BSD, columns.whole_BL[:, :, None], dim=1)


def _split_frames(batch: Batch, prefixes: _Prefixes) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the vision inputs of the prefixes, each once, and of the rest of all rows."""
    if batch.pixel_values is None or batch.image_grid_thw is None:
        return {}, {}
    of_prefixes, of_rest, at = [], [], 0
    for row, (sequence, prefix) in enumerate(zip(batch.sequences, prefixes.of_row, strict=True)):
        frames = range(at, at + len(sequence.frames))
        at = frames.stop
        if prefixes.first_rows[prefix] == row:
            of_prefixes += frames[: prefixes.num_frames[prefix]]
        of_rest += frames[prefixes.num_frames[prefix] :]
    patches = batch.pixel_values.split(batch.image_grid_thw.prod(-1).tolist())
    split = [_vision_inputs(patches, batch.image_grid_thw, frames) for frames in (of_prefixes, of_rest)]
    return split[0], split[1]


def _vision_inputs(patches: Sequence[Tensor], grid_thw: Tensor, frames: list[int]) -> dict[str, Tensor]:
    if not frames:
        return {}
    return {"pixel_values": torch.cat([patches[frame] for frame in frames]), "image_grid_thw": grid_thw[frames]}
