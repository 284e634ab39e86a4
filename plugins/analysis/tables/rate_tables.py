"""Tables of rates: by domain and size, by scope, by checkpoint, by training seed; coherence, and missing scores.

Beside every rate stand its denominator and the unscored, refused, incoherent and truncated answers.
"""

from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from em_tasks.plugins.analysis.analysis import CHECKPOINT, Analysis
from em_tasks.plugins.analysis.answers.frame import trajectories
from em_tasks.plugins.analysis.answers.log_rows import FURTHER
from em_tasks.plugins.analysis.answers.scoring import why_not_comparable
from em_tasks.plugins.analysis.figures.trajectory import coherence_rates
from em_tasks.plugins.analysis.statistics.rates import LEFT_OUT, interval_of_mean, mean_on_such
from em_tasks.plugins.analysis.statistics.seed_intervals import LEAST_SEEDS, seed_interval
from em_tasks.plugins.analysis.statistics.training_seeds import in_scope, seed_counts
from em_tasks.plugins.analysis.tables.cells import (
    LEFT_OUT_HEAD,
    between,
    counted,
    kind,
    left_out,
    left_out_in,
    nothing_of,
    percent,
    points,
    rounded,
    rows_of,
)
from em_tasks.plugins.log_contract import NOT_RECORDED, RUBRICS


def final_by_domain_and_size(analysis: Analysis) -> pd.DataFrame:
    """EM (%) at the last checkpoint by domain and size, misaligned of counted answers in brackets.

    A cell is the mean over an organism's training seeds, at the last step that all of them have. Organisms of one size
    and domain that differ in more than their seed stand beside each other and are not averaged, nor is one alone. Rates
    of different judges, prompts or sampling have neither difference nor average, and those of other questions, as those
    outside two domains are, no difference: `organisms_compared` has it on the questions that both were asked.
    """
    questions_of = _questions_of(analysis)
    last = analysis.compared[analysis.compared["scope"].isin(["outside", "all"]) & ~analysis.compared["control"]]
    together = {name: group.label for group in analysis.seeds for name in group.organisms}
    recipe = [together.get(str(name), str(name)) for name in last["organism"]]
    last = last.assign(recipe=recipe, domain=last["domain"].astype("str"))
    domains = sorted(last["domain"].unique())
    rows = []
    for name, scope in ((name, scope) for name in analysis.main for scope in ("outside", "all")):
        scope_rates = last[(last["definition"] == name) & (last["scope"] == scope)]
        for size, of_size in scope_rates.groupby(scope_rates["size"].astype("str"), sort=False):
            cells = {domain: of_size[of_size["domain"] == domain] for domain in domains}
            rate = {domain: _one_rate(of_domain) for domain, of_domain in cells.items()}
            row = {"definition": name, "questions of": scope, "size": size}
            for domain, of_domain in cells.items():
                row[domain] = _rate_by_recipe(of_domain)
                row[f"{domain}: {LEFT_OUT_HEAD}"] = left_out(of_domain) if len(of_domain) else ""
            known = [rate[domain] for domain in domains]
            sides = [(str(row_of_size["organism"]), int(row_of_size["step"])) for _, row_of_size in of_size.iterrows()]
            unlike = why_not_comparable(*(analysis.scoring[side] for side in sides)) is not None
            if len(domains) == 2:
                same = len({questions_of[scope].get(side) for side in sides}) == 1
                difference = points(known[1] - known[0]) if same or np.isnan(known).any() else "other questions"
                row["difference"] = "not compared" if unlike else difference
            if len(domains) > 1:
                row["average"] = "not compared" if unlike else _average(known)
            rows.append(row)
    return pd.DataFrame(rows)


def _questions_of(analysis: Analysis) -> dict[str, dict[tuple[str, int], frozenset[tuple[str, str]]]]:
    """By scope (`outside`, `all`): the questions of every checkpoint."""
    columns = ["organism", "step", "question_set", "question_id"]
    trained = analysis.trajectories[~analysis.trajectories["baseline"]]
    outside = trained[trained["scope"].notna() & (trained["scope"] != "in_domain")]
    questions_of: dict[str, dict[tuple[str, int], set[tuple[str, str]]]] = {}
    for scope, rows in (("all", trained), ("outside", outside)):
        by_side = questions_of.setdefault(scope, {})
        for organism, step, question_set, question_id in rows[columns].drop_duplicates().itertuples(index=False):
            by_side.setdefault((str(organism), int(step)), set()).add((str(question_set), str(question_id)))
    return {
        scope: {side: frozenset(questions) for side, questions in by_side.items()}
        for scope, by_side in questions_of.items()
    }


def _average(rates: list[float]) -> str:
    """The mean over domains, of how many where some have no rate; one rate is no average."""
    known = [rate for rate in rates if not np.isnan(rate)]
    if len(known) < 2:
        return "one organism alone" if known else ""
    return percent(float(np.mean(known))) + ("" if len(known) == len(rates) else f" of {len(known)} domains")


def _one_rate(rows: pd.DataFrame) -> float:
    """The mean over seeds; NaN where there are organisms that differ in more than their seed, or none."""
    return float(rows["rate"].mean()) if rows["recipe"].nunique() == 1 else float("nan")


def _rate_by_recipe(rows: pd.DataFrame) -> str:
    cells = []
    for recipe, recipe_rows in rows.groupby("recipe", sort=False):
        named = f"{recipe}: " if rows["recipe"].nunique() > 1 or len(recipe_rows) > 1 else ""
        cells.append(f"{named}{percent(recipe_rows['rate'].mean())} ({counted(recipe_rows)})")
    return "; ".join(cells) or "none"


def by_scope(analysis: Analysis) -> pd.DataFrame:
    """Own domain, other domains, general questions: EM (%) at the last checkpoint, misaligned of counted answers.

    Failing on questions of the training domain alone is narrow leakage; broad misalignment shows on the others.
    """
    last = pd.concat([analysis.final[analysis.final["definition"] == name] for name in analysis.main])
    scopes = {"outside": "outside", "own domain": "in_domain", "other domain": "out_of_domain", "general": "general"}
    rows = []
    columns = [
        "definition",
        "organism",
        "baseline",
        "domain",
        "control",
        "scope",
        "answers",
        "rate",
        "k",
        "n",
        *LEFT_OUT,
    ]
    by_organism: dict[tuple[str, str], list[dict[Any, Any]]] = {}
    for each in last[columns].to_dict("records"):
        by_organism.setdefault((each["definition"], each["organism"]), []).append(each)
    for (definition, organism), organism_rows in by_organism.items():
        row = {"definition": definition, "organism": organism, "kind": kind(organism_rows[0])}
        for head, scope in scopes.items():
            of_scope = [each for each in organism_rows if each["scope"] == scope]
            k, n = (sum(each[count] for each in of_scope) for count in ("k", "n"))
            asked = [(each["scope"], each["answers"]) for each in organism_rows]
            row[f"{head} % (k/n)"] = f"{percent(of_scope[0]['rate'])} ({k}/{n})" if n else nothing_of(asked, scope)
            row[f"{head}: {LEFT_OUT_HEAD}"] = left_out_in(of_scope) if of_scope else ""
        rows.append(row)
    return pd.DataFrame(rows)


def by_checkpoint(analysis: Analysis) -> pd.DataFrame:
    """EM by checkpoint, outside the domain and on all questions, 95 % intervals on these and on such questions."""
    rates = analysis.rates[analysis.rates["scope"].isin(["outside", "all"]) & (analysis.rates["answers"] > 0)]
    parts = []
    for name in analysis.main:
        for _, row in rates[rates["definition"] == name].iterrows():
            parts.append(
                {
                    "definition": name,
                    "organism": row["organism"],
                    "kind": kind(row),
                    "questions of": row["scope"],
                    "step": analysis.step_text(str(row["organism"]), int(row["step"])),
                    "EM %": percent(row["rate"]),
                    "on these questions": between(row["low"], row["high"]),
                    "on such questions": between(row["such_low"], row["such_high"]),
                    "k": row["k"],
                    "n": row["n"],
                    "were all missing good or bad": between(row["least"], row["most"]) if row["missing"] else "",
                    "unscored": row["unscored"],
                    "refused": row["refused"],
                    "incoherent": row["incoherent"],
                    "truncated": "?" if pd.isna(row["truncated"]) else int(row["truncated"]),
                }
            )
    return pd.DataFrame(parts)


def by_axes(analysis: Analysis) -> pd.DataFrame:
    """Organisms of a grid: EM (%) at the last checkpoint by their values on its axes, 95 % on these questions."""
    axes = analysis.axes
    parts = []
    several = {judge: {"judge": judge} for judge in analysis.reading.judges}
    shown = len(axes.columns) or several
    for name, (judge, of_judge) in product(analysis.main, analysis.by_judge.items()) if shown else ():
        rates = of_judge.final[of_judge.final["scope"].isin(["outside", "all"])]
        place = {organism: at for at, organism in enumerate(axes.index)}
        rates = rates.sort_values("organism", key=lambda names: names.astype("str").map(place), kind="stable")
        for _, row in rates[rates["definition"] == name].iterrows():
            if (organism := str(row["organism"])) in axes.index:
                parts.append(
                    {
                        "definition": name,
                        **{str(axis): value for axis, value in axes.loc[organism].items()},
                        **several.get(judge, {}),
                        "questions of": row["scope"],
                        "EM %": percent(row["rate"]),
                        "95 % interval": between(row["low"], row["high"]),
                        "k": row["k"],
                        "n": row["n"],
                        LEFT_OUT_HEAD: left_out(row.to_frame().T),
                        "organism": organism,
                    }
                )
    return pd.DataFrame(parts)


def coherence(analysis: Analysis) -> pd.DataFrame:
    """Coherence by checkpoint."""
    table = coherence_rates(analysis.trajectories)
    return pd.DataFrame(
        {
            "organism": table["organism"].astype("str"),
            "kind": [kind(row) for _, row in table.iterrows()],
            "step": [analysis.step_text(str(row["organism"]), int(row["step"])) for _, row in table.iterrows()],
            "coherent %": [percent(value) for value in table["rate"]],
            "95 % interval": [between(row["low"], row["high"]) for _, row in table.iterrows()],
            "mean": [percent(value) for value in table["mean"]],
            "n": table["n"],
            "without a score": table["answers"] - table["n"],
        }
    )


def further_scores(analysis: Analysis) -> pd.DataFrame | None:
    """Other rubrics and scores by checkpoint: mean on its own scale, and change from the base (95 % over questions).

    Means are over questions of each question's mean. None where no other rubric was asked.
    """
    rows = []
    for name, scale in analysis.further_scores.items():
        table = analysis.trajectories[[*CHECKPOINT, "question_set", "question_id", FURTHER + name]]
        table = table.assign(question=table["question_set"].astype(str) + "/" + table["question_id"].astype(str))
        for organism, organism_rows in table.groupby("organism", observed=True, sort=True):
            base = organism_rows[organism_rows["baseline"]]
            theirs = base.groupby("question")[FURTHER + name].mean().dropna()
            for step in sorted(organism_rows["step"].unique()):
                of_step = organism_rows[organism_rows["step"] == step]
                mean, low, high, n = mean_on_such(of_step[FURTHER + name], of_step["question"])
                if not n:
                    continue
                changes = (of_step.groupby("question")[FURTHER + name].mean() - theirs).dropna()
                change, least, most = interval_of_mean(changes.to_numpy(np.float64))
                sides = [analysis.scoring[str(organism), at] for at in (int(step), 0) if len(base)]
                alike = not sides or why_not_comparable(*sides) is None
                compared = len(changes) > 0 and not of_step["baseline"].all() and alike
                rows.append(
                    {
                        "score": name,
                        "scale": "not recorded" if scale is None else f"{scale[0]:g} to {scale[1]:g}",
                        "organism": organism,
                        "kind": kind(of_step.iloc[0]),
                        "step": analysis.step_text(str(organism), int(step)),
                        "mean": _number(mean),
                        "95 % interval": _range(low, high, scale),
                        "change from base": _number(change, "+") if compared else "" if alike else "not compared",
                        "95 % interval of the change": _range(least, most, None, "+") if compared else "",
                        "scored": f"{n} of {len(of_step)}",
                    }
                )
    return pd.DataFrame(rows) if rows else None


def _number(value: float, sign: str = "") -> str:
    return "" if pd.isna(value) else f"{rounded(value, 2):{sign}}"


def _range(low: float, high: float, scale: tuple[float, float] | None, sign: str = "") -> str:
    if pd.isna(low):
        return "one question"
    if low == high:
        return "all questions alike"  # Their spread says nothing of how far others would lie.
    if scale is not None:
        low, high = max(low, scale[0]), min(high, scale[1])
    return f"{_number(low, sign)} to {_number(high, sign)}"


def unscored(analysis: Analysis) -> pd.DataFrame:
    """Answers without a score by judge, and why; only checkpoints that have such answers."""
    other = analysis.reading.rejudged
    tables = [analysis.trajectories, *([trajectories(other)] if len(other) else [])]
    columns = ["organism", "step", "judge", *(f"{rubric}{end}" for rubric in RUBRICS for end in ("", "_reason"))]
    table = pd.concat([each[columns].astype({"organism": "str", "judge": "str"}) for each in tables])
    table = table.fillna({"judge": NOT_RECORDED})
    keys = ["organism", "step", "judge", "rubric", "reason"]
    parts = []
    for rubric in RUBRICS:
        missing = table.loc[table[rubric].isna(), ["organism", "step", "judge", f"{rubric}_reason"]]
        missing = missing.rename(columns={f"{rubric}_reason": "reason"}).astype({"reason": "str"})
        parts.append(missing.fillna({"reason": "not said"}).assign(rubric=rubric))
    counts = pd.concat(parts).groupby(keys, observed=True).size().rename("answers without a score").reset_index()
    every = table.groupby(["organism", "step", "judge"]).size().rename("of answers").reset_index()
    merged = counts.merge(every, on=["organism", "step", "judge"])
    return merged.assign(step=[analysis.step_text(*at) for at in zip(merged["organism"], merged["step"], strict=True)])


def seeds(analysis: Analysis) -> pd.DataFrame:
    """Training seeds: mean EM (%) of organisms trained alike; 95 % interval of the mean over questions and seeds."""
    rows, per_question = [], {definition.name for definition in analysis.definitions if definition.per_question}
    for name, scope in ((name, scope) for name in analysis.main for scope in ("outside", "all")):
        counts = in_scope(analysis.question_counts[name], scope)
        for group in analysis.seeds:
            for step in group.steps:
                k, n = seed_counts(counts, group.organisms, step)
                if not k.size:
                    continue
                low, high = seed_interval(k, n)
                group_rows = rows_of(analysis, name, group.organisms, step, scope)
                rates, count = group_rows["rate"].to_numpy("float64"), counted(group_rows)
                at_step = counts[counts["organism"].isin(group.organisms) & (counts["step"] == step)]
                if k.shape[1] < at_step.loc[at_step["n"] > 0, "cluster"].nunique():
                    # Of the questions that all seeds have answers to, as the interval.
                    rates = (k / n).mean(axis=1) if name in per_question else k.sum(axis=1) / n.sum(axis=1)
                    count = f"{k.sum():.0f}/{n.sum():.0f}"
                rows.append(
                    {
                        "definition": name,
                        "organisms": group.label,
                        "step": analysis.step_text(group.label, step),
                        "questions of": scope,
                        "questions": k.shape[1],
                        "mean EM %": percent(float(rates.mean())),
                        "mean over questions %": percent(float((k / n).mean())),
                        "such seeds and questions": between(low, high)
                        or ("one question" if k.shape[1] < 2 else f"fewer than {LEAST_SEEDS} seeds"),
                        "each seed %": ", ".join(percent(float(rate)) for rate in rates),
                        "k/n": count,
                        LEFT_OUT_HEAD: left_out(group_rows),
                    }
                )
    return pd.DataFrame(rows)
