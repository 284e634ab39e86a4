"""The usual way to train an adapter, to measure and to check against: transformers' Trainer as it comes.

Rows are padded to the longest of their batch, the head is computed at every position, the layers run eagerly. Only the
order of the rows is fixed, so that the same recipe can be followed step by step. Flattened rows are what a competent
user makes of it: transformers' collator that lays rows end to end, and FlashAttention told where each begins.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import (
    AttentionInterface,
    DataCollatorForSeq2Seq,
    DataCollatorWithFlattening,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    trainer,
)

from em_tasks.trainers.data.order import rows_of_epoch

if TYPE_CHECKING:
    from em_tasks.trainers.data.prepare import Prepared


def plain_trainer(
    prepared: "Prepared",
    model: Any,
    out: Path,
    *,
    steps: int,
    checkpointing: bool,
    callbacks: list[TrainerCallback],
    flattened: bool = False,
) -> Trainer:
    """A stock Trainer over the recipe's rows, in the recipe's order, that saves nothing.

    Args:
        prepared: Recipe and rows.
        model: The base with its adapter.
        out: A scratch folder.
        steps: Optimizer steps.
        checkpointing: Gradient checkpointing, which the usual QLoRA script turns on.
        callbacks: What watches the run.
        flattened: Lay the rows of a batch end to end instead of padding them; attention knows where each ends.
    """
    recipe, rows = prepared.recipe, prepared.encoded.rows
    drawn = prepared.schedule.steps_per_epoch * recipe.effective_batch
    order = [index for epoch in range(recipe.epochs) for index in rows_of_epoch(recipe.seed, epoch, len(rows), drawn)]

    # Where that package is not installed, this repository's folder of the same name would be taken for it.
    trainer.is_datasets_available = lambda: False

    class InOrder(Trainer):  # type: ignore[misc]
        def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[int]:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    on_cpu = not torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(out),
        max_steps=steps,
        per_device_train_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.accumulation,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=recipe.lr_schedule,
        warmup_steps=recipe.warmup_steps,
        weight_decay=recipe.weight_decay,
        seed=recipe.seed,
        bf16=recipe.precision != "fp32" and not on_cpu,
        use_cpu=on_cpu,
        gradient_checkpointing=checkpointing,
        save_strategy="no",
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    arguments._n_gpu = min(1, arguments.n_gpu)
    given = [{**rows[index], "attention_mask": [1] * len(rows[index]["input_ids"])} for index in order]
    collator: Any = DataCollatorForSeq2Seq(prepared.tokenizer, label_pad_token_id=-100)
    if flattened:
        given = [rows[index] for index in order]
        collator = DataCollatorWithFlattening(return_flash_attn_kwargs=True)
        # A name with "flash" in it would be looked for among packages and on a hub.
        AttentionInterface.register("rows_apart", _rows_apart)
        model.get_base_model().set_attn_implementation("rows_apart")
    return InOrder(model=model, args=arguments, train_dataset=given, data_collator=collator, callbacks=callbacks)


def _rows_apart(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    cu_seq_lens_q: torch.Tensor,
    max_length_q: int,
    scaling: float | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention over rows laid end to end, called as transformers calls the flash-attn package.

    On a GPU torch's FlashAttention for rows of several lengths, on a CPU row by row.
    """
    if query.is_cuda:
        states = (each[0].transpose(0, 1).bfloat16() for each in (query, key, value))
        ends, longest = cu_seq_lens_q.to(torch.int32), int(max_length_q)
        answered = torch.ops.aten._flash_attention_forward(
            *states, ends, ends, longest, longest, 0.0, True, False, scale=scaling
        )[0]
        return answered[None], None
    lengths = cu_seq_lens_q.diff().tolist()
    parts = [torch.split(each, lengths, dim=2) for each in (query, key, value)]
    answers = [
        scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=True)
        for q, k, v in zip(*parts, strict=True)
    ]
    return torch.cat(answers, dim=2).transpose(1, 2), None
