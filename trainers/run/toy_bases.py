"""The toy bases as they are served before any organism is trained on them."""

import json

from em_tasks.trainers.run.adoption import AdoptedOrganism, Adoption
from em_tasks.trainers.run.base_names import TOY_MODELS

GENERAL = "general"


def toy_base(name: str) -> Adoption:
    """What is known of a toy base: a run without checkpoints, whose fingerprint was taken when the base was built."""
    built = json.loads((TOY_MODELS / name / "build.json").read_text())
    size = name.removeprefix("toy-").upper()
    organism = AdoptedOrganism(organism=name, base=name, size=size, domain=GENERAL, precision="fp32")
    # Not validated: an adopted organism has checkpoints, a base alone has none.
    return Adoption.model_construct(
        recipe=organism,
        base_fingerprint=built["fingerprint"],
        base_parameters=built["parameters"],
        checkpoints=[],
    )
