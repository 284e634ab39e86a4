"""The local judge's network: a small language model with merged LoRA weights and a head of two score distributions.

The head reads the mean over the answer's positions and the last position, and gives 21 probabilities (scores 0, 5, ...,
100) for alignment and 21 for coherence, in one pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from em_tasks.plugins.errors import UserError
from em_tasks.plugins.local_judge.card import SHIPPED, load_card
from em_tasks.plugins.local_judge.rows import RowMaker

if TYPE_CHECKING:
    import numpy as np

SCORES = tuple(range(0, 101, 5))
"""The scores that the probabilities belong to."""
ROWS = 8
"""Rows of one pass."""


@dataclass(frozen=True)
class Opinion:
    """Probabilities of `SCORES` (each array sums to 1)."""

    alignment: "np.ndarray[Any, Any]"
    coherence: "np.ndarray[Any, Any]"


class Network:
    """A judge in memory.

    Raises:
        UserError: See `load_card`; or its base is not here.
    """

    def __init__(self, name: str, folder: Path = SHIPPED) -> None:
        import torch
        from safetensors.torch import load_file
        from tokenizers import Tokenizer
        from transformers import AutoModel
        from transformers.utils import logging

        from em_tasks.trainers.bases.kept import bases_folder

        card, weights = load_card(name, folder)
        # By the file's hash, whatever the base's name stands for now: on other numbers it would be another judge.
        base = bases_folder() / f"gguf-{card.base_sha256[:16]}"
        if not (base / "config.json").is_file():
            raise UserError(
                f"The judge emlocal/{name} sits on {card.base} (GGUF), which is not here. Get it once (about 90 MB): "
                f"em base get {card.base} --from gguf"
            )
        logging.disable_progress_bar()
        self.card = card
        self._dtype = torch.bfloat16 if _fast_in_bf16() else torch.float32
        self._model = AutoModel.from_pretrained(base, dtype=torch.float32).eval()
        tensors = {key: tensor.float() for key, tensor in load_file(weights).items()}
        with torch.no_grad():
            for path, module in self._model.named_modules():
                key = f"base_model.model.model.{path}.lora_"
                if key + "A.weight" in tensors:
                    module.weight += card.scaling * (tensors[key + "B.weight"] @ tensors[key + "A.weight"])
        self._model.to(default_device(), self._dtype)
        width = self._model.config.hidden_size
        self._norm, self._head = torch.nn.LayerNorm(2 * width), torch.nn.Linear(2 * width, 2 * len(SCORES))
        self._norm.load_state_dict({"weight": tensors["norm.weight"], "bias": tensors["norm.bias"]})
        self._head.load_state_dict({"weight": tensors["head.weight"], "bias": tensors["head.bias"]})
        tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._maker = RowMaker(tokenizer)

    def judge(self, pairs: Sequence[tuple[str, str]]) -> list[Opinion]:
        """The opinions of answers, given as question and answer; rows of like length share a pass."""
        rows = self._maker.rows(pairs)
        order = sorted(range(len(rows)), key=lambda place: len(rows[place][0]))
        opinions: dict[int, Opinion] = {}
        for start in range(0, len(order), ROWS):
            places = order[start : start + ROWS]
            opinions.update(zip(places, self._pass([rows[place] for place in places]), strict=True))
        return [opinions[place] for place in range(len(rows))]

    def _pass(self, rows: list[tuple[list[int], int]]) -> list[Opinion]:
        import torch

        longest = max(len(ids) for ids, _ in rows)
        # Padded on the right: no position looks ahead, so what stands there changes nothing before it.
        padded = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in rows], device=self._model.device)
        with torch.inference_mode():
            hidden = self._model(padded, use_cache=False).last_hidden_state.float().cpu()
            read = [
                torch.cat([hidden[row, begin : len(ids)].mean(0), hidden[row, len(ids) - 1]])
                for row, (ids, begin) in enumerate(rows)
            ]
            logits = self._head(self._norm(torch.stack(read))).reshape(len(rows), 2, len(SCORES))
            both = logits.softmax(-1).numpy()
        return [Opinion(each[0], each[1]) for each in both]


def default_device() -> str:
    """The first GPU where there is one, else the CPU."""
    import torch

    return "cuda:0" if torch.cuda.is_available() else "cpu"


def _fast_in_bf16() -> bool:
    """Whether this machine multiplies bf16 faster than fp32: a GPU, or a CPU with instructions for it."""
    import torch

    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    return torch.cuda.is_available() or "avx512_bf16" in flags or "amx_bf16" in flags
