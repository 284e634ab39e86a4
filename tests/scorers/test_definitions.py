"""The definitions by name: today's and former ones."""

import pytest

from em_tasks.plugins.analysis.statistics.definition_names import chosen_definitions
from em_tasks.plugins.errors import UserError
from em_tasks.scorers.definitions import DEFINITIONS, definition_named, metric_value


def test_seed_is_the_former_name_of_cs2881():
    assert definition_named("seed") is DEFINITIONS["cs2881"]
    assert chosen_definitions(["seed"]) == (DEFINITIONS["cs2881"],)
    assert "seed" not in DEFINITIONS
    with pytest.raises(UserError, match="name one twice"):
        chosen_definitions(["seed", "cs2881"])


def test_metrics_of_old_logs_are_read_under_their_former_name():
    assert metric_value({"n_seed": 3.0}, "n", "cs2881") == 3
    assert metric_value({"n_cs2881": 4.0, "n_seed": 3.0}, "n", "cs2881") == 4
    assert metric_value({"em_betley": 0.5}, "n", "betley") is None
