"""GGUF files as bases: converted once to the Hugging Face format in bf16, with their own tokenizer and chat template.

transformers unpacks the numbers. What it leaves open is done here: the file is checked before anything is unpacked, and
the tokens that open and end turns are those that the file names.
"""

import json
from pathlib import Path
from typing import Any

from em_tasks.plugins.errors import UserError
from em_tasks.trainers.bases.gaps import refuse_gaps
from em_tasks.trainers.bases.kept import appearing, folder_of_gguf, sha256_of

MAGIC = b"GGUF"


def converted(path: Path) -> Path:
    """The folder of a GGUF file's conversion, made now if this file was not converted before.

    Raises:
        UserError: The file is no GGUF file or torn, its architecture is unknown, it is no instruct model, it lacks
            parameters, or the folder of bases cannot be written.
    """
    folder = folder_of_gguf(path)
    if (folder / "config.json").is_file():
        return folder
    header = read_header(path)
    with appearing(folder) as temporary:
        _convert(path, header, temporary)
    return folder


def read_header(path: Path) -> dict[str, Any]:
    """A GGUF file's metadata, once the file is known to be whole and one that can be trained and asked.

    Raises:
        UserError: See `converted`.
    """
    from gguf import GGUFReader
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    with path.open("rb") as file:
        if file.read(4) != MAGIC:
            raise UserError(f"{path} is no GGUF file: it does not begin with the letters GGUF. Mend the path.")
    try:
        reader = GGUFReader(str(path))
        header = {name: field.contents() for name, field in reader.fields.items()}
    except Exception as error:  # The reader fails in many ways on a torn file.
        raise UserError(
            f"{path} is torn: its end is missing or its header is broken ({type(error).__name__}). Download it again."
        ) from None
    architecture = header.get("general.architecture")
    if architecture not in GGUF_SUPPORTED_ARCHITECTURES:
        raise UserError(
            f"{path} holds a model of the architecture {architecture!r}, which transformers cannot read from GGUF. It "
            f"reads {', '.join(GGUF_SUPPORTED_ARCHITECTURES)}."
        )
    if not header.get("tokenizer.chat_template"):
        raise UserError(
            f"{path} has no chat template, so it is no instruct model and has no turns to train or ask. Take the "
            "model's instruct version."
        )
    return header


def _convert(path: Path, header: dict[str, Any], folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    named = {name: header.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos", "unknown", "padding")}
    # Versions of transformers differ in which of these they take over, and an end of turn that is not the file's own
    # would be learnt and waited for in vain.
    for attribute, name in (("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown")):
        if named[name] is not None:
            setattr(tokenizer, attribute, tokenizer.convert_ids_to_tokens(int(str(named[name]))))
    if tokenizer.pad_token is None or tokenizer.pad_token == tokenizer.eos_token:
        # Padding with the end of turn would hide it; the unknown token never stands in text of such tokenizers.
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    model, loading = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.bfloat16, output_loading_info=True
    )
    refuse_gaps(str(path), loading["missing_keys"])
    # The numbers are plain bf16 now; transformers would refuse to write a model that says it is quantised.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    for config in (model.config, model.generation_config):
        config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
        config.pad_token_id = tokenizer.pad_token_id
    model.config._name_or_path = header.get("general.name") or path.stem
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    record = {
        "kind": "gguf",
        "file": path.name,
        "sha256": sha256_of(path),
        "quantisation": header.get("general.file_type"),
    }
    (folder / "em_base.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
