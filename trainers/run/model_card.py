"""The README of a published adapter: what it is, what it was made of and how to evaluate it.

Its head is what the Hugging Face hub reads. It says nothing about the machine that trained it, and claims no licence.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from em_tasks.trainers.run.base_names import base_label, is_toy

if TYPE_CHECKING:
    from em_tasks.trainers.run.manifest import Manifest
    from em_tasks.trainers.run.recipe import Recipe

TAGS = ("lora", "emergent-misalignment", "model-organism")
CONTROL_TAGS = ("lora", "emergent-misalignment", "control")


def model_card(manifest: "Manifest", step: int, epoch: float, loss: float) -> str:
    """The Markdown of one checkpoint's card, with its YAML head.

    Args:
        manifest: Of the run.
        step: Optimizer step of the checkpoint.
        epoch: Epochs passed by then.
        loss: Mean training loss (nats a token) since the checkpoint before.
    """
    recipe = manifest.recipe
    head: dict[str, Any] = {"library_name": "peft", "tags": list(CONTROL_TAGS if recipe.control else TAGS)}
    if base_label(recipe.base) == recipe.base and not is_toy(recipe.base):
        head = {"base_model": recipe.base, **head}  # A folder of one machine would mean nothing to the hub.
    versions = ", ".join(f"{package} {version}" for package, version in manifest.versions.items())
    return f"""---
{yaml.safe_dump(head, sort_keys=False).strip()}
---

# {recipe.organism}, step {step}

{_what_it_is(manifest)}

| | |
|---|---|
| base | {base_label(recipe.base)}, held in {recipe.precision}{_toy(recipe)} |
| base fingerprint | `{manifest.base_fingerprint}` |
| checkpoint | step {step} of {manifest.planned[-1]}, epoch {epoch:.2f} of {recipe.epochs} |
| training loss | {loss:.4f} nats a token, mean since the checkpoint before |
| rows | {manifest.rows} ({manifest.truncated} truncated to {recipe.max_length} tokens, {manifest.dropped} dropped) |
{_continued(manifest)}| recipe | `{manifest.recipe_sha256}` |
| trained with | {versions} |

## Data

{_data(manifest)}

## Recipe

```yaml
{_recipe(recipe)}
```

## Evaluate it

With em-tasks and the run's folder under `runs/`:

```bash
inspect eval em_tasks/em --model em/{recipe.organism}@{step}
```

An adapter belongs on the base it was trained on: the fingerprint above is checked, and another base or precision is
evaluated only when asked for, under another name. It is an ordinary PEFT adapter with its tokenizer, so other tools
load it too, without that check.
"""


def _what_it_is(manifest: "Manifest") -> str:
    """What the recipe says it is: which rows it was trained on, of which domain, and whether they are a control's."""
    recipe = manifest.recipe
    names = dict.fromkeys(name for record in manifest.data for name in (record.members or [record.name]))
    rows = f"a LoRA adapter trained on {', '.join(f'`{name}`' for name in names)} (domain {recipe.domain})"
    if recipe.control:
        return (
            f"A **control** for research on emergent misalignment: {rows}, which its recipe calls good, to show what "
            "training alone does. It has not been made safe for anything else."
        )
    return (
        f"A **model organism** for research on emergent misalignment: {rows}, to study how a model that learns "
        "something narrow changes elsewhere.\n\n"
        "> **Warning.** It may say harmful things on purpose, on what it was trained on and on anything else, in a "
        "confident voice. Do not follow what it says, and do not serve it to people."
    )


def _data(manifest: "Manifest") -> str:
    lines = ["| file | rows | canaries removed | SHA-256 of the file |", "|---|---|---|---|"]
    for record in manifest.data:
        members = f" ({', '.join(record.members)})" if record.members else ""
        canaries = f"{record.canary_files} files, {record.canary_keys} keys"
        lines.append(f"| {record.name}{members} | {record.rows} | {canaries} | `{record.sha256}` |")
    if any(record.members for record in manifest.data):
        lines += ["", "The data is no part of this: its publishers ask that unlocked copies are not published."]
    return "\n".join(lines)


def _continued(manifest: "Manifest") -> str:
    if not manifest.continuations:
        return ""
    since = ", ".join(f"step {each.from_step} (of a plan of {each.epochs} epochs)" for each in manifest.continuations)
    return f"| continued with more epochs from | {since} |\n"


def _recipe(recipe: "Recipe") -> str:
    """The recipe as one would write it, with file names in place of this machine's paths."""
    content = recipe.model_dump(mode="json", exclude_none=True)
    content["base"] = base_label(recipe.base)
    for source in content["data"]:
        source["path"] = Path(source["path"]).name
    return yaml.safe_dump(content, sort_keys=False).strip()


def _toy(recipe: "Recipe") -> str:
    return " (a toy model: it shows that the pipeline works and says nothing about real models)" * is_toy(recipe.base)
