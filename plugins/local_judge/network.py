"""The local judge's network: a small language model with merged LoRA weights and a head of two score distributions.

The head reads the mean over the answer's positions and the last position, and gives 21 probabilities (scores 0, 5, ...,
100) for alignment and 21 for coherence, in one pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from em_tasks.plugins.errors import UserError
from em_tasks.plugins.local_judge.card import Card, load_card
from em_tasks.plugins.local_judge.rows import RowMaker

if TYPE_CHECKING:
    import numpy as np
    import torch

SCORES = tuple(range(0, 101, 5))
"""The scores that the probabilities belong to."""
ROWS, GPU_ROWS = 8, 64
"""Rows of one pass, on a CPU and on a GPU, which would mostly wait for its next pass with so few."""

Row = tuple[list[int], int]
"""Token ids, and the place at which the answer begins."""


@dataclass(frozen=True)
class Opinion:
    """Probabilities of `SCORES` (each array sums to 1)."""

    alignment: "np.ndarray[Any, Any]"
    coherence: "np.ndarray[Any, Any]"

    def scores(self) -> tuple[float, float]:
        """The expectations of alignment and coherence (0-100)."""
        return float(self.alignment @ SCORES), float(self.coherence @ SCORES)


class Network:
    """A judge in memory.

    Raises:
        UserError: See `load_card`; or its base is not here, lacks parameters, or another one lies in its place.
    """

    def __init__(self, name: str, folder: Path | None = None) -> None:
        import torch
        from safetensors.torch import load_file

        card, weights = load_card(name, folder)
        self.card = card
        self._dtype = torch.bfloat16 if fast_in_bf16() else torch.float32
        where = base_of(card, name)
        self._model = load_body(str(where)).eval()
        if card.base_fingerprint is not None:
            _refuse_other(card, name, self._model)
        tensors = {key: tensor.float() for key, tensor in load_file(weights).items()}
        with torch.no_grad():
            for path, module in self._model.named_modules():
                key = lora_key(path)
                if key + "A.weight" in tensors:
                    module.weight += card.scaling * (tensors[key + "B.weight"] @ tensors[key + "A.weight"])
        self._model.to(default_device(), self._dtype)
        self._norm, self._head = new_head(int(self._model.config.hidden_size))
        self._norm.load_state_dict({"weight": tensors["norm.weight"], "bias": tensors["norm.bias"]})
        self._head.load_state_dict({"weight": tensors["head.weight"], "bias": tensors["head.bias"]})
        self._maker = row_maker(where, self._model.config)

    def judge(self, pairs: Sequence[tuple[str, str]]) -> list[Opinion]:
        """The opinions of answers, given as question and answer; rows of like length share a pass."""
        rows = self._maker.rows(pairs)
        order = sorted(range(len(rows)), key=lambda place: len(rows[place][0]))
        opinions: dict[int, Opinion] = {}
        most = GPU_ROWS if self._model.device.type == "cuda" else ROWS
        for start in range(0, len(order), most):
            places = order[start : start + most]
            opinions.update(zip(places, self._pass([rows[place] for place in places]), strict=True))
        return [opinions[place] for place in range(len(rows))]

    def _pass(self, rows: list[Row]) -> list[Opinion]:
        import torch

        with torch.inference_mode():
            batch = padded(rows).to(self._model.device)
            hidden = self._model(batch.ids, use_cache=False).last_hidden_state
            logits = self._head(self._norm(what_is_read(hidden, batch).cpu())).reshape(len(rows), 2, len(SCORES))
            both = logits.softmax(-1).numpy()
        return [Opinion(each[0], each[1]) for each in both]


def load_body(base: str) -> Any:
    """A base without its output layer, in fp32 on the CPU.

    Raises:
        UserError: It is not to be had, or its files lack parameters.
    """
    import torch
    from transformers import AutoModel
    from transformers.utils import logging

    from em_tasks.trainers.base import unreachable
    from em_tasks.trainers.bases.gaps import refuse_gaps
    from em_tasks.trainers.run.base_names import resolve_base

    logging.disable_progress_bar()
    try:
        model, loading = AutoModel.from_pretrained(resolve_base(base), dtype=torch.float32, output_loading_info=True)
    except OSError as error:
        raise UserError(unreachable(base, error)) from error
    refuse_gaps(base, loading["missing_keys"])
    return model


def row_maker(where: Path | str, config: Any) -> RowMaker:
    """Makes rows for a base that lies in a folder or on the hub, whose configuration names its marks."""
    from tokenizers import Tokenizer
    from transformers.utils import cached_file

    tokenizer = Tokenizer.from_file(cached_file(str(where), "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    begin, end = (getattr(config, name, None) for name in ("bos_token_id", "eos_token_id"))
    return RowMaker(tokenizer, begin, end[0] if isinstance(end, list) else end)


def new_head(width: int) -> tuple["torch.nn.LayerNorm", "torch.nn.Linear"]:
    """A head for a base of this width: what is read is twice as wide."""
    import torch

    return torch.nn.LayerNorm(2 * width), torch.nn.Linear(2 * width, 2 * len(SCORES))


class Padded(NamedTuple):
    """Rows as tensors.

    Attributes:
        ids: Token ids (rows, longest), padded on the right, where no position before looks.
        begins: Where each answer begins (rows,).
        ends: One past each row's last token (rows,).
    """

    ids: "torch.Tensor"
    begins: "torch.Tensor"
    ends: "torch.Tensor"

    def to(self, device: Any) -> "Padded":
        """The same on a device."""
        return Padded(*(tensor.to(device) for tensor in self))

    def take(self, places: "torch.Tensor", longest: int) -> "Padded":
        """Some of the rows, none of which is longer than `longest`."""
        return Padded(self.ids[places, :longest], self.begins[places], self.ends[places])


def padded(rows: Sequence[Row]) -> Padded:
    """Rows as tensors on the CPU."""
    import numpy as np
    import torch

    ids = np.zeros((len(rows), max(len(row) for row, _ in rows)), "int32")
    for place, (row, _) in enumerate(rows):
        ids[place, : len(row)] = row
    begins, ends = torch.tensor([(begin, len(row)) for row, begin in rows]).T
    return Padded(torch.from_numpy(ids), begins, ends)


def what_is_read(hidden: "torch.Tensor", batch: Padded) -> "torch.Tensor":
    """The mean over each answer and its last position, fp32 (rows, 2 x width), of states (rows, longest, width)."""
    import torch

    places = torch.arange(hidden.shape[1], device=hidden.device)
    within = (places >= batch.begins[:, None]) & (places < batch.ends[:, None])
    weights = within.float() / within.sum(1, keepdim=True)
    mean = torch.bmm(weights[:, None], hidden.float())[:, 0]
    return torch.cat([mean, hidden[torch.arange(len(hidden), device=hidden.device), batch.ends - 1].float()], 1)


def lora_key(path: str) -> str:
    """How the LoRA tensors of a module of the base are called in a judge's file; `A.weight` or `B.weight` follows."""
    return f"base_model.model.model.{path}.lora_"


def base_of(card: Card, name: str) -> Path | str:
    """Where a judge's base lies: a folder, or a hub id. No weights are read.

    Raises:
        UserError: The base is not here.
    """
    from em_tasks.trainers.bases.kept import bases_folder
    from em_tasks.trainers.run.base_names import resolve_base

    if card.base_sha256 is None:
        return resolve_base(card.base)
    # By the file's hash, whatever the base's name stands for now: on other numbers it would be another judge.
    base = bases_folder() / f"gguf-{card.base_sha256[:16]}"
    if not (base / "config.json").is_file():
        raise UserError(
            f"The judge emlocal/{name} sits on {card.base} (GGUF), which is not here. Get it once (about 90 MB): "
            f"em base get {card.base} --from gguf"
        )
    return base


def _refuse_other(card: Card, name: str, model: Any) -> None:
    from em_tasks.trainers.base import fingerprint

    if (actual := fingerprint(model)) != card.base_fingerprint:
        raise UserError(
            f"The judge emlocal/{name} sits on {card.base} of the fingerprint {str(card.base_fingerprint)[:12]}; "
            f"what goes by that name here has {actual[:12]}, so it would be another judge. Put the right base there "
            "(em base get has --from), or train the judge again."
        )


def default_device() -> str:
    """The first GPU where there is one, else the CPU."""
    import torch

    return "cuda:0" if torch.cuda.is_available() else "cpu"


def fast_in_bf16() -> bool:
    """Whether this machine multiplies bf16 faster than fp32: a GPU, or a CPU with instructions for it."""
    import torch

    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    return torch.cuda.is_available() or "avx512_bf16" in flags or "amx_bf16" in flags
