"""What a grid asks, by training domain, and what is odd about it: said before anything is trained."""

from em_tasks.grid.plan import GridPlan
from em_tasks.questions import load_question_sets, named_sets, no_questions_about, sets_for_domains


def asked_by_domain(plan: GridPlan) -> list[str]:
    """What organisms of each domain are asked, a line each; one line for all where the grid file names the sets."""
    named = plan.groups[0].options.questions
    if named:
        return [f"all: {_sets(named)}"]
    return [f"{domain}: {_sets(sets_for_domains([domain]))}" for domain in _domains(plan)]


def odd_questions(plan: GridPlan) -> list[str]:
    """A sentence for each domain that nothing is asked inside of, or nothing outside, where the file names no sets."""
    if plan.groups[0].options.questions:
        return []
    known = named_sets()
    notes = []
    for domain in _domains(plan):
        if sentence := no_questions_about(domain):
            notes.append(f"{domain}: {sentence} Or name sets in the grid file: evaluate: {{questions: [...]}}.")
        elif domain != "general" and len(load_question_sets([domain])) == 1:
            notes.append(
                f"{domain}: {known[domain]} alone is asked and no general questions, so nothing outside the training "
                f"domain. To ask both of all organisms: evaluate: {{questions: [{domain}, general]}}."
            )
    return notes


def _domains(plan: GridPlan) -> list[str]:
    return list(dict.fromkeys(recipe.domain for recipe in plan.organisms.values()))


def _sets(names: "list[str] | tuple[str, ...]") -> str:
    return ", ".join(f"{each.name} ({len(each.questions)})" for each in load_question_sets(names))
