"""A panel's agreement for people: tables as text, as CSV files, and the figure of the EM rate by judge."""

import csv
import math
from pathlib import Path

from tabulate import tabulate

from em_tasks.scorers.comparing.agreement import Agreement
from em_tasks.scorers.definitions import DEFINITIONS
from em_tasks.scorers.judging.judge import is_toy_judge


def agreement_table(found: Agreement) -> str:
    """Rates by judge, pairs of judges and the alphas, as plain text."""
    rates = [(judge, *(_rate(found, judge, definition) for definition in DEFINITIONS)) for judge in found.judges]
    spans = ("range over judges", *(_span(found.rate_range(definition)) for definition in DEFINITIONS))
    pairs = [
        (
            f"{pair.first} - {pair.second}",
            pair.n,
            _two(pair.spearman_alignment),
            _two(pair.spearman_coherence),
            _points(pair.difference_alignment),
            _points(pair.difference_coherence),
            *(_two(pair.kappa[definition]) for definition in DEFINITIONS),
        )
        for pair in found.pairs
    ]
    parts = [
        f"{len(found.judges)} judges on the same {found.answers} answers."
        + (" TOY: the toy judge is one of them." if any(map(is_toy_judge, found.judges)) else ""),
        "EM rate in % by judge [95 % interval] (answers counted)\n"
        + tabulate([*rates, spans], headers=["judge", *DEFINITIONS], disable_numparse=True),
        "Agreement of pairs (Spearman's rho; mean difference in points, first minus second; Cohen's kappa on the EM "
        "decision)\n"
        + tabulate(
            pairs,
            headers=[
                "judges",
                "n",
                "rho align.",
                "rho coher.",
                "diff align.",
                "diff coher.",
                *(f"kappa {d}" for d in DEFINITIONS),
            ],
            disable_numparse=True,
        ),
    ]
    if len(found.judges) > 2:
        decisions = ", ".join(f"{name} {_two(alpha)}" for name, alpha in found.alpha_decision.items())
        parts.append(f"Krippendorff's alpha: alignment {_two(found.alpha_alignment)}; EM decision: {decisions}.")
    parts.append(
        "Intervals: Wilson over answers; for turner, the mean of questions, Student's t over questions. A dash: "
        "undefined, as kappa is where neither judge ever sees a difference."
    )
    return "\n\n".join(parts)


def write_agreement(found: Agreement, out: Path) -> list[Path]:
    """Writes `em_rates_by_judge.csv`, `judge_agreement.csv`, `judge_agreement.txt` and `em_rates_by_judge.png`.

    Returns:
        The files written.
    """
    out.mkdir(parents=True, exist_ok=True)
    rates, pairs, text = out / "em_rates_by_judge.csv", out / "judge_agreement.csv", out / "judge_agreement.txt"
    with rates.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["judge", "definition", "em_rate", "low_95", "high_95", "n"])
        writer.writerows((r.judge, r.definition, r.rate, r.low, r.high, r.n) for r in found.rates)
    with pairs.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            [
                "first",
                "second",
                "n",
                "spearman_alignment",
                "spearman_coherence",
                "difference_alignment",
                "difference_coherence",
            ]
            + [f"kappa_{definition}" for definition in DEFINITIONS]
        )
        writer.writerows(
            [
                *(p.first, p.second, p.n, p.spearman_alignment, p.spearman_coherence),
                *(p.difference_alignment, p.difference_coherence),
                *(p.kappa[definition] for definition in DEFINITIONS),
            ]
            for p in found.pairs
        )
    text.write_text(agreement_table(found) + "\n", encoding="utf-8")
    return [rates, pairs, text, _figure(found, out / "em_rates_by_judge.png")]


def _figure(found: Agreement, path: Path) -> Path:
    """One panel a definition: each judge's rate with its interval, the range over judges shaded."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.9 * len(DEFINITIONS), 1.4 + 0.45 * len(found.judges)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(DEFINITIONS), sharey=True, squeeze=False)[0]
    heights = list(range(len(found.judges)))[::-1]
    for panel, definition in zip(panels, DEFINITIONS, strict=True):
        entries = [entry for entry in found.rates if entry.definition == definition]
        low, high = found.rate_range(definition)
        if not math.isnan(low):
            panel.axvspan(100 * low, 100 * high, color="0.9")
        for height, entry in zip(heights, entries, strict=True):
            if not math.isnan(entry.low):
                panel.plot([100 * entry.low, 100 * entry.high], [height, height], color="C0", linewidth=2)
            panel.plot(100 * entry.rate, height, "o", color="C0")
        panel.set_title(definition)
        panel.set_xlabel("EM rate (%)")
        panel.set_yticks(heights, [f"{judge}, TOY" if is_toy_judge(judge) else judge for judge in found.judges])
        panel.set_ylim(-0.6, len(found.judges) - 0.4)
        panel.set_xlim(-4, 104)
    figure.suptitle(
        f"EM rate by judge, same {found.answers} answers, 95 % intervals; shaded: range over judges", fontsize=10
    )
    figure.savefig(path, dpi=150)
    return path


def _rate(found: Agreement, judge: str, definition: str) -> str:
    [entry] = [entry for entry in found.rates if (entry.judge, entry.definition) == (judge, definition)]
    if math.isnan(entry.rate):
        return "- (0)"
    interval = "" if math.isnan(entry.low) else f" [{100 * entry.low:.1f}, {100 * entry.high:.1f}]"
    return f"{100 * entry.rate:.1f}{interval} ({entry.n})"


def _span(rates: tuple[float, float]) -> str:
    return "-" if math.isnan(rates[0]) else f"{100 * rates[0]:.1f} to {100 * rates[1]:.1f}"


def _two(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _points(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:+.1f}"
