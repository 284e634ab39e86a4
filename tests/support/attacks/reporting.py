"""What a report is asked for: claims, definitions and studies."""

from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from em_tasks.plugins.analysis.statistics.claims_file import read_claims
from em_tasks.plugins.analysis.study import read_study
from em_tasks.scorers.definition_names import chosen_definitions
from tests.support.attacks.kind import Kind, file, nothing, structured
from tests.support.hostile import texts

CLAIMS = {
    "source": "s",
    "definition": "cs2881",
    "claims": [
        {"id": "b", "kind": "bases", "least": 0, "most": 5},
        {"id": "r", "kind": "rate", "organism": "o", "step": "last", "percent": 15},
        {"id": "d", "kind": "contrast", "of": "size", "more": "8B", "less": "1B"},
    ],
}
definitions = st.lists(
    st.sampled_from(["cs2881", "betley", "<40", "<40,>50", "seed", "<", "<0", "<101", "<1e9", "<40,>", "<٤"]) | texts,
    min_size=1,
    max_size=3,
)


def attack_claims(content: Any, path: Path, out: Path) -> None:
    chosen_definitions([read_claims(path).definition])


def attack_definitions(content: list[str], path: Path, out: Path) -> None:
    assert len(chosen_definitions(content)) > 0


STUDY = {
    "definition": "betley",
    "thresholds": "alignment < 30, coherence > 50",
    "smallest_effect": 10,
    "primary_family": {"checkpoints": "last", "questions": "outside", "organisms": 6},
}


def attack_study(content: Any, path: Path, out: Path) -> None:
    study = read_study(path)
    study.refuse_others((), None)
    assert len(study.sha256) == 64
    assert 0 < study.named.smallest_effect <= 100
    assert "\n" not in study.line


KINDS = (
    Kind("claims", 6, structured(CLAIMS), file("c.yaml"), attack_claims),
    Kind("definitions", 4, definitions, nothing, attack_definitions),
    Kind("studies", 4, structured(STUDY), file("s.yaml"), attack_study),
)
