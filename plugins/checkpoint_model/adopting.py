"""Adopting what others trained: adapters and whole models found, checked against their base, entered among the runs.

Each adapter is put on its base by peft once. That shows whether it fits, and gives the reference that every engine must
repeat before its answers count, as training does for organisms of our own. A whole model (fully fine-tuned, or an
adapter merged into its base) is loaded once too, and known by its fingerprint from then on.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from em_tasks.plugins.caller import from_caller
from em_tasks.plugins.checkpoint_model.engines.adapter_files import CONFIG, WEIGHTS, read_adapter
from em_tasks.plugins.errors import UserError
from em_tasks.trainers.base import default_device
from em_tasks.trainers.bases.gaps import named
from em_tasks.trainers.run.adoption import AdoptedCheckpoint, AdoptedOrganism, Adoption, write_adoption
from em_tasks.trainers.run.base_names import beside
from em_tasks.trainers.run.hashes import adapter_sha256, whole_model_sha256
from em_tasks.trainers.run.reference import adopted_reference

if TYPE_CHECKING:
    from peft import PeftModel

PICKLED = "adapter_model.bin"
WHOLE = "config.json"
"""What tells a whole model's folder."""
MOST_STEPS = 2**53
"""No training has so many; what says so is no number of steps."""


@dataclass(frozen=True)
class FoundAdapter:
    """The folder of one adapter, or of a whole model.

    Attributes:
        folder: Where it lies.
        source: As it was given.
        step: Optimizer steps, from `trainer_state.json` or the folder's name; None where neither says.
        epoch: Passes over the data; None where not recorded.
        base: The base that its configuration names.
        whole: Whether it is a whole model.
    """

    folder: Path
    source: str
    step: int | None
    epoch: float | None
    base: str | None
    whole: bool = False


def find_adapters(sources: Sequence[str]) -> list[FoundAdapter]:
    """The adapters of one organism, or its whole models, in order of their steps.

    Args:
        sources: Folders of either, folders that hold `checkpoint-*` folders of a training run, or hub ids.

    Raises:
        UserError: There is none, its weights are pickled, or adapters and whole models are mixed.
    """
    adapters = [_found(folder, source) for source in sources for folder in _folders(source)]
    if len({adapter.whole for adapter in adapters}) > 1:
        whole = next(adapter.source for adapter in adapters if adapter.whole)
        raise UserError(f"{whole} is a whole model and others are adapters. Adopt them as organisms of their own.")
    return sorted(adapters, key=lambda adapter: adapter.step or 0)


def adopt(
    adapters: Sequence[FoundAdapter],
    organism: AdoptedOrganism,
    run: Path,
    *,
    step: int | None = None,
    device: str | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Adoption:
    """Checks adapters on their base and enters them as an organism.

    Args:
        adapters: Of one organism.
        organism: What it is.
        run: The folder that is made for it; nothing is written anywhere else.
        step: The step of a single adapter, where its files do not say.
        device: A torch device; the first GPU, else the CPU.
        report: Called with a line for each adapter that was checked.

    Raises:
        UserError: The folder is taken, two adapters have one step, or an adapter does not fit the base.
    """
    from em_tasks.plugins.checkpoint_model.engines.loading import linear_shapes
    from em_tasks.trainers.base import fingerprint, load_base, load_tokenizer
    from em_tasks.trainers.loop.references import reference_of

    if run.exists():
        raise UserError(f"{run} exists already. Give the organism another name with --organism, or move it away.")
    steps = _steps(adapters, step)
    if adapters[0].whole:
        return _adopt_whole(adapters, steps, organism, run, step=step, device=device, report=report)
    model = load_base(organism.base, organism.precision, device or default_device())
    base_fingerprint, parameters = fingerprint(model), model.num_parameters()
    linears = linear_shapes(model)
    checkpoints, references = [], {}
    on_base: PeftModel | None = None
    for adapter, at in zip(adapters, steps, strict=True):
        read_adapter(adapter.folder).check(linears, organism.base)
        on_base = _put_on(on_base or model, adapter, f"step-{at}", organism.base)
        # A Path is any folder with a tokenizer; a name would be taken for a base, which an adapter's folder is not.
        where = adapter.folder if _has_tokenizer(adapter.folder) else organism.base
        tokenizer = load_tokenizer(where, organism.date_string)
        if tokenizer.chat_template is None:
            tokenizer = load_tokenizer(organism.base, organism.date_string)
        content = reference_of(on_base, tokenizer)
        changed = _changed(content, adapter.source, organism)
        references[adopted_reference(run, at)] = content
        checkpoints.append(
            AdoptedCheckpoint(
                step=at,
                step_recorded=adapter.step is not None or step is not None,
                epoch=adapter.epoch,
                adapter_sha256=adapter_sha256(adapter.folder),
                reference_sha256=sha256(content).hexdigest(),
                folder=str(adapter.folder),
                source=adapter.source,
                has_tokenizer=_has_tokenizer(adapter.folder),
            )
        )
        report(f"{organism.organism}@{_shown(checkpoints[-1])}: {adapter.source}, {changed} from its base")
    adoption = Adoption(
        recipe=organism, base_fingerprint=base_fingerprint, base_parameters=parameters, checkpoints=checkpoints
    )
    run.mkdir(parents=True)
    for path, content in references.items():
        path.write_bytes(content)
    write_adoption(run, adoption)
    return adoption


def _adopt_whole(
    models: Sequence[FoundAdapter],
    steps: Sequence[int],
    organism: AdoptedOrganism,
    run: Path,
    *,
    step: int | None,
    device: str | None,
    report: Callable[[str], None],
) -> Adoption:
    """Loads the base and each whole model, one after the other, to learn what they are.

    Raises:
        UserError: A model's layers are not those of the base, or its weights are no numbers.
    """
    on = device or default_device()
    shapes, base_leftovers, base_fingerprint, parameters = _looked_at(organism.base, organism, on)
    checkpoints = []
    for model, at in zip(models, steps, strict=True):
        theirs, leftovers, fingerprint, count = _looked_at(str(model.folder), organism, on)
        # A tokenizer with more tokens makes these two larger, and nothing else.
        layers, expected = ({k: s for k, s in each.items() if not EMBEDDING.search(k)} for each in (theirs, shapes))
        if layers != expected:
            odd = sorted(name for name in layers.keys() | expected.keys() if layers.get(name) != expected.get(name))
            raise UserError(
                f"{model.source} was not made from {organism.base}: {len(odd)} of its parameters have another name or "
                f"shape ({named(odd)}). Name the base that it was trained from with --base."
            )
        if unread := sorted(leftovers - base_leftovers):
            raise UserError(
                f"The files of {model.source} hold {len(unread)} tensors ({named(unread)}) that {organism.base} has no "
                "place for, so what was trained would not answer in full. Merge and save the model again, or name the "
                "base that it was trained from with --base."
            )
        checkpoints.append(
            AdoptedCheckpoint(
                step=at,
                step_recorded=model.step is not None or step is not None,
                epoch=model.epoch,
                adapter_sha256=whole_model_sha256(model.folder),
                reference_sha256=None,
                folder=str(model.folder),
                source=model.source,
                has_tokenizer=_has_tokenizer(model.folder),
                whole_fingerprint=fingerprint,
            )
        )
        same = ", the same weights as its base" if fingerprint == base_fingerprint else ""
        what = f"a whole model of {count:,} parameters{same}"
        report(f"{organism.organism}@{_shown(checkpoints[-1])}: {model.source}, {what}")
    adoption = Adoption(
        recipe=organism, base_fingerprint=base_fingerprint, base_parameters=parameters, checkpoints=checkpoints
    )
    run.mkdir(parents=True)
    write_adoption(run, adoption)
    return adoption


EMBEDDING = re.compile(r"(?:embed_tokens|lm_head|wte)\.")


def _looked_at(
    model: str, organism: AdoptedOrganism, device: str
) -> tuple[dict[str, tuple[int, ...]], set[str], str, int]:
    """Shapes of a model's parameters by name, tensors without a place, its fingerprint and size; it is freed again.

    Raises:
        UserError: It cannot be had, or holds values that are no numbers.
    """
    import torch

    from em_tasks.plugins.checkpoint_model.engines.loading import free
    from em_tasks.trainers.base import fingerprint, load_with_leftovers

    loaded, leftovers = load_with_leftovers(model, organism.precision, device)
    for name, parameter in loaded.named_parameters():
        if parameter.is_floating_point() and not torch.isfinite(parameter).all():
            raise UserError(f"{model} holds values that are no numbers, in {name}. Save the model again.")
    shapes = {name: tuple(parameter.shape) for name, parameter in loaded.named_parameters()}
    known = shapes, leftovers, fingerprint(loaded), loaded.num_parameters()
    del loaded, parameter
    free(device)
    return known


def _shown(checkpoint: AdoptedCheckpoint) -> str:
    """A step for readers: `last` where nobody recorded it."""
    return str(checkpoint.step) if checkpoint.step_recorded else f"{checkpoint.step} (step not recorded)"


def name_of(source: str) -> str:
    """A name for an organism: the adapter's folder or repository, with letters that any system takes in a name."""
    folder = from_caller(source).resolve()
    last = folder.name if folder.exists() else source.rsplit("/", 1)[-1]
    if re.fullmatch(r"checkpoint-\d+", last):
        last = folder.parent.name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).lstrip("._-") or "adopted"


def size_of(base: str) -> str:
    """The label of a base's size that stands in its name, such as `8B`; else the name's last part."""
    last = base.rstrip("/").rsplit("/", 1)[-1]
    numbers = re.findall(r"(?<![\d.])(\d+(?:\.\d+)?)\s?([BM])(?![a-z])", last, flags=re.IGNORECASE)
    if numbers:
        return f"{numbers[-1][0]}{numbers[-1][1].upper()}"
    return last.removeprefix("toy-").upper() if last.startswith("toy-") else last


def base_of(adapters: Sequence[FoundAdapter]) -> str:
    """The base that the adapters' configurations name.

    Raises:
        UserError: They name none, or several.
    """
    bases = sorted({adapter.base for adapter in adapters if adapter.base})
    if len(bases) == 1:
        return bases[0]
    named = f"name several bases ({', '.join(bases)})" if bases else "name no base"
    what = "whole models" if any(adapter.whole for adapter in adapters) else "adapters"
    raise UserError(f"The {what} {named}. Say which one they were trained on: --base FOLDER or a hub id.")


def settled_base(base: str, adapter: Path | None = None) -> str:
    """A base that is found wherever it is named from: a relative folder's full path, any other name as it is.

    Args:
        base: As it was given, or as an adapter's configuration names it.
        adapter: The adapter's folder: what its configuration names may also lie in it or beside it.
    """
    for place in (from_caller("."), *((adapter.parent, adapter) if adapter else ())):
        if Path(path := beside(base, place)).is_absolute() and Path(path).exists():
            return path
    return base


def _folders(source: str) -> list[Path]:
    folder = from_caller(source)
    if not folder.exists():
        if source.count("/") != 1 or source.startswith((".", "/", "~")):
            raise UserError(
                f"There is no folder {folder}. Give the folder of an adapter or model, or a hub id such as OWNER/NAME."
            )
        folder = _download(source)
    for config in (CONFIG, WHOLE):
        if (folder / config).is_file():
            return [folder.resolve()]
        if within := sorted(path.parent.resolve() for path in folder.glob(f"checkpoint-*/{config}")):
            return within
    raise UserError(
        f"{source} holds neither {CONFIG} nor {WHOLE}, in no checkpoint-* folder either, so there is nothing to adopt."
    )


def _download(hub_id: str) -> Path:
    """An adapter's files from the hub, or a whole model's where there is no adapter."""
    from huggingface_hub import snapshot_download

    wanted = [CONFIG, WHOLE, WEIGHTS, PICKLED, "tokenizer*", "special_tokens_map.json", "chat_template*"]
    wanted += ["trainer_state.json", "generation_config.json"]
    wanted += [f"checkpoint-*/{name}" for name in wanted]
    try:
        folder = Path(snapshot_download(hub_id, allow_patterns=wanted))
        if not any(folder.glob(f"**/{CONFIG}")):
            weights = ["*.safetensors", "*.safetensors.index.json"]
            folder = Path(snapshot_download(hub_id, allow_patterns=[*wanted, *weights]))
        return folder
    except Exception as error:  # The hub's client raises errors of many kinds; its words say which it was.
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{hub_id} is no folder here and cannot be had from the hub: {type(error).__name__}: {reason} Check the "
            "id, your access (huggingface-cli login) and that HF_HUB_OFFLINE is not set; or give a folder."
        ) from error


def _found(folder: Path, source: str) -> FoundAdapter:
    whole = not (folder / CONFIG).is_file()
    if whole and not any(folder.glob("*.safetensors")):
        pickled = sorted(path.name for path in folder.glob("*.bin"))
        if pickled:
            raise UserError(
                f"{folder} holds its weights as {pickled[0]}, a pickle, which can run any code when it is read. Where "
                "you trust it, convert it once: load it with transformers' AutoModelForCausalLM.from_pretrained and "
                "save it with save_pretrained, which writes safetensors."
            )
        raise UserError(f"{folder} holds {WHOLE} and no safetensors: the model is torn. Copy or save it again.")
    if not whole and not (folder / WEIGHTS).is_file():
        if (folder / PICKLED).is_file():
            raise UserError(
                f"{folder} holds its weights as {PICKLED}, a pickle, which can run any code when it is read. Where you "
                'trust it, convert it once: python -c "import torch; from safetensors.torch import save_file; '
                f"save_file({{k: v.contiguous() for k, v in torch.load('{PICKLED}', weights_only=True).items()}}, "
                f"'{WEIGHTS}')\""
            )
        raise UserError(f"{folder} holds {CONFIG} and no {WEIGHTS}: the adapter is torn. Copy or save it again.")
    config, state = _read_json(folder / (WHOLE if whole else CONFIG)), folder / "trainer_state.json"
    recorded = _read_json(state) if state.is_file() else {}
    step, epoch = recorded.get("global_step"), recorded.get("epoch")
    named = re.fullmatch(r"checkpoint-([0-9]{1,18})", folder.name)
    if not isinstance(step, int) or isinstance(step, bool) or not 0 < step < MOST_STEPS:
        step = int(named.group(1)) if named and 0 < int(named.group(1)) < MOST_STEPS else None
    # A whole model's configuration names the folder it was last loaded from, which may be itself.
    base = None if whole else config.get("base_model_name_or_path")
    return FoundAdapter(
        folder=folder,
        source=source if from_caller(source).resolve() == folder else f"{source.rstrip('/')}/{folder.name}",
        step=step,
        epoch=float(epoch) if isinstance(epoch, int | float) and 0 <= epoch < MOST_STEPS else None,
        base=settled_base(base, folder) if isinstance(base, str) and base else None,
        whole=whole,
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}). Copy or save the adapter again.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds {type(content).__name__}, not a mapping. Copy or save the adapter again.")
    return content


def _steps(adapters: Sequence[FoundAdapter], step: int | None) -> list[int]:
    if len(adapters) == 1:
        return [step or adapters[0].step or 1]
    if step is not None:
        raise UserError("--step says the step of a single adapter; there are several. Their files or names say theirs.")
    steps = [adapter.step for adapter in adapters]
    if unsaid := [adapter.source for adapter in adapters if adapter.step is None]:
        raise UserError(
            f"{', '.join(unsaid[:3])}: neither trainer_state.json nor a name such as checkpoint-110 says at which step "
            "it was saved. Rename the folder, or adopt each adapter as an organism of its own."
        )
    if twice := sorted({at for at in steps if steps.count(at) > 1}, key=str):
        raise UserError(f"Several adapters are of step {twice[0]}. Adopt each training run as an organism of its own.")
    return [at for at in steps if at is not None]


def _put_on(model: Any, adapter: FoundAdapter, name: str, base: str) -> "PeftModel":
    import torch
    from peft import PeftModel

    try:
        if isinstance(model, PeftModel):
            model.load_adapter(str(adapter.folder), adapter_name=name)
            model.set_adapter(name)
        else:
            model = PeftModel.from_pretrained(model, str(adapter.folder), adapter_name=name)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"The adapter {adapter.source} does not fit {base}: {' '.join(str(error).split())[:200]} Name the base it "
            "was trained on with --base."
        ) from error
    tensors = ((key, value) for key, value in model.named_parameters() if f".{name}." in key)
    if odd := next((key for key, value in tensors if not torch.isfinite(value).all()), None):
        raise UserError(f"The adapter {adapter.source} holds values that are no numbers, in {odd}. Save it again.")
    return model


def _changed(reference: bytes, source: str, organism: AdoptedOrganism) -> str:
    """How far the adapter moves the answers' log probabilities, in words.

    Raises:
        UserError: The adapter's or the base's log probabilities are no numbers, which JSON has as null.
    """
    places = [place for answer in json.loads(reference)["answers"] for place in answer["places"]]
    for whose, key in ((f"base {organism.base}", "base"), (f"adapter {source}", "logprobs")):
        if any(None in place[key] for place in places):
            raise UserError(
                f"With the {whose} the model's answers are no numbers: its weights are so large that they overflow in "
                f"{organism.precision}. Save it again from a training that went well."
            )
    gaps = [abs(a - b) for place in places for a, b in zip(place["logprobs"], place["base"], strict=True)]
    mean = sum(gaps) / len(gaps)
    return f"{mean:.3g} nats a token" if mean else "no different (its adapter changes nothing: 0 nats a token)"


def _has_tokenizer(folder: Path) -> bool:
    return (folder / "tokenizer_config.json").is_file()
