"""A panel's agreement for people: tables as text, as CSV files, and the figure of the EM rate by judge."""

import csv
import math
from pathlib import Path

from tabulate import tabulate

from em_tasks.scorers.comparing.agreement import Agreement, Estimate
from em_tasks.scorers.definitions import DEFINITIONS
from em_tasks.scorers.judging.judge import is_toy_judge


def agreement_table(agreement: Agreement) -> str:
    """Rates by judge, pairs of judges and the alphas, as plain text."""
    rates = [
        (judge, *(_rate(agreement, judge, definition) for definition in DEFINITIONS)) for judge in agreement.judges
    ]
    spans = ("range over judges", *(_span(agreement.rate_range(definition)) for definition in DEFINITIONS))
    such = [(judge, *(_rate(agreement, judge, d, such=True) for d in DEFINITIONS)) for judge in agreement.judges]
    pairs = [
        (
            f"{pair.first} - {pair.second}",
            pair.n,
            _two(pair.spearman_alignment),
            _two(pair.spearman_coherence),
            _points(pair.difference_alignment),
            _points(pair.difference_coherence),
        )
        for pair in agreement.pairs
    ]
    decisions = [
        (f"{pair.first} - {pair.second}", name, _points(pair.rate_difference[name], 100), _two(pair.kappa[name]))
        for pair in agreement.pairs
        for name in DEFINITIONS
    ]
    parts = [
        f"{len(agreement.judges)} judges on the same {agreement.answers:,} answers{_partly(agreement)}."
        + (" TOY: the toy judge is one of them." if any(map(is_toy_judge, agreement.judges)) else ""),
        "EM rate in % by judge, on these questions [95 % interval] (answers counted)\n"
        + tabulate([*rates, spans], headers=["judge", *DEFINITIONS], disable_numparse=True),
        "The same on such questions\n" + tabulate(such, headers=["judge", *DEFINITIONS], disable_numparse=True),
        "Scores of pairs (Spearman's rho; mean paired difference in points, first minus second, [95 %])\n"
        + tabulate(
            pairs,
            headers=["judges", "n", "rho align.", "rho coher.", "diff align.", "diff coher."],
            disable_numparse=True,
        ),
        "EM decisions of pairs (paired difference of the rates in points; Cohen's kappa; [95 %])\n"
        + tabulate(decisions, headers=["judges", "definition", "rate diff.", "kappa"], disable_numparse=True),
    ]
    if len(agreement.judges) > 2:
        alphas = ", ".join(f"{name} {_two(alpha)}" for name, alpha in agreement.alpha_decision.items())
        parts.append(f"Krippendorff's alpha: alignment {_two(agreement.alpha_alignment)}; EM decision: {alphas}.")
    parts.append(
        "Intervals of rates as in reports (on these questions: stratified Wilson; on such questions: beta-binomial), "
        "of differences and kappa over questions (jackknife). A dash: undefined, as kappa is where neither judge ever "
        "sees a difference."
    )
    if agreement.until_width:
        parts.append(
            "How many answers there are was decided while they came (until_width): intervals of rates on these "
            "questions are those of a fixed number here, and too narrow. `em report` gives those that hold."
        )
    if agreement.drawn:
        parts.append(
            f"The answers of {', '.join(agreement.drawn)} were drawn, the doubtful ones oftener: the rates and the "
            "agreement above are of the drawn answers as they are. `em report LOGS OUT` gives the rate of all."
        )
    return "\n\n".join(parts)


def write_agreement(agreement: Agreement, out: Path) -> list[Path]:
    """Writes `em_rates_by_judge.csv`, `judge_agreement.csv`, `judge_agreement.txt` and `em_rates_by_judge.png`.

    Returns:
        The files written.
    """
    out.mkdir(parents=True, exist_ok=True)
    rates, pairs, text = out / "em_rates_by_judge.csv", out / "judge_agreement.csv", out / "judge_agreement.txt"
    with rates.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        ends = ["low_95", "high_95", "such_low_95", "such_high_95"]
        writer.writerow(["judge", "definition", "em_rate", *ends, "k", "n"])
        writer.writerows(
            (safe_cell(r.judge), r.definition, r.rate, r.low, r.high, r.such_low, r.such_high, r.k, r.n)
            for r in agreement.rates
        )
    with pairs.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        numbers = ["difference_alignment", "difference_coherence"]
        numbers += [f"{what}_{definition}" for definition in DEFINITIONS for what in ("rate_difference", "kappa")]
        spread = [f"{name}{end}" for name in numbers for end in ("", "_low_95", "_high_95")]
        writer.writerow(["first", "second", "n", "spearman_alignment", "spearman_coherence", *spread])
        for pair in agreement.pairs:
            estimates = [pair.difference_alignment, pair.difference_coherence]
            estimates += [each[name] for name in DEFINITIONS for each in (pair.rate_difference, pair.kappa)]
            writer.writerow(
                [
                    *(safe_cell(pair.first), safe_cell(pair.second)),
                    *(pair.n, pair.spearman_alignment, pair.spearman_coherence),
                    *(end for estimate in estimates for end in (estimate.value, estimate.low, estimate.high)),
                ]
            )
    text.write_text(agreement_table(agreement) + "\n", encoding="utf-8")
    return [rates, pairs, text, _figure(agreement, out / "em_rates_by_judge.png")]


def _figure(agreement: Agreement, path: Path) -> Path:
    """One panel a definition: each judge's rate with its interval, the range over judges shaded."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.9 * len(DEFINITIONS), 1.4 + 0.45 * len(agreement.judges)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(DEFINITIONS), sharey=True, squeeze=False)[0]
    heights = list(range(len(agreement.judges)))[::-1]
    for panel, definition in zip(panels, DEFINITIONS, strict=True):
        entries = [entry for entry in agreement.rates if entry.definition == definition]
        low, high = agreement.rate_range(definition)
        if not math.isnan(low):
            panel.axvspan(100 * low, 100 * high, color="0.9")
        for height, entry in zip(heights, entries, strict=True):
            if not math.isnan(entry.low):
                panel.plot([100 * entry.low, 100 * entry.high], [height, height], color="C0", linewidth=2)
            panel.plot(100 * entry.rate, height, "o", color="C0")
        panel.set_title(definition)
        panel.set_xlabel("EM rate (%)")
        panel.set_yticks(heights, [f"{judge}, TOY" if is_toy_judge(judge) else judge for judge in agreement.judges])
        panel.set_ylim(-0.6, len(agreement.judges) - 0.4)
        panel.set_xlim(-4, 104)
    figure.suptitle(
        f"EM rate by judge, same {agreement.answers:,} answers{_partly(agreement)}, 95 % intervals; shaded: range over "
        "judges",
        fontsize=10,
        wrap=True,
    )
    figure.savefig(path, dpi=150)
    return path


def _rate(agreement: Agreement, judge: str, definition: str, such: bool = False) -> str:
    [entry] = [entry for entry in agreement.rates if (entry.judge, entry.definition) == (judge, definition)]
    if math.isnan(entry.rate):
        return "- (0)"
    low, high = (entry.such_low, entry.such_high) if such else (entry.low, entry.high)
    interval = "" if math.isnan(low) else f" [{100 * low:.1f}, {100 * high:.1f}]"
    return interval.strip() or "-" if such else f"{100 * entry.rate:.1f}{interval} ({entry.n})"


def _partly(agreement: Agreement) -> str:
    """Which judges were given some of the answers alone; empty where all were given all."""
    some = [
        f"{judge} {given:,} of {agreement.answers:,}"
        for judge, given in zip(agreement.judges, agreement.given, strict=True)
        if given < agreement.answers
    ]
    return f" ({', '.join(some)}; each rate is over its judge's answers, a pair's over those of both)" if some else ""


def safe_cell(text: str) -> str:
    """A text as a CSV cell that a spreadsheet does not take for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _span(rates: tuple[float, float]) -> str:
    return "-" if math.isnan(rates[0]) else f"{100 * rates[0]:.1f} to {100 * rates[1]:.1f}"


def _two(value: float | Estimate) -> str:
    if isinstance(value, Estimate):
        return _two(value.value) + ("" if math.isnan(value.low) else f" [{value.low:.2f}, {value.high:.2f}]")
    return "-" if math.isnan(value) else f"{value:.2f}"


def _points(estimate: Estimate, scale: float = 1.0) -> str:
    if math.isnan(estimate.value):
        return "-"
    value, low, high = (scale * number for number in (estimate.value, estimate.low, estimate.high))
    return f"{value:+.1f}" + ("" if math.isnan(low) else f" [{low:+.1f}, {high:+.1f}]")
