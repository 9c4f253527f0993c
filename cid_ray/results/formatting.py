"""Numbers as text, the same on pages, in Markdown and on the terminal."""

from __future__ import annotations

from typing import Any

MISSING = "–"


def format_score(value: float | None) -> str:
    """Two decimals: "50.10"."""
    return MISSING if value is None else f"{value:.2f}"


def format_signed(value: float | None) -> str:
    """Two decimals with a sign: "+0.25"."""
    # adding 0.0 turns -0.0 into 0.0, else a tie would be shown as "-0.00"
    return MISSING if value is None else f"{round(value, 2) + 0.0:+.2f}"


def format_p(p: float) -> str:
    """ "p 0.012", "p < 0.001"."""
    return "p < 0.001" if p < 0.001 else f"p {p:.2g}" if p < 0.0995 else f"p {p:.2f}"


def format_value(value: Any) -> str:
    """A hyperparameter's value: four digits of a float, anything else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def format_params(params: dict[str, Any]) -> str:
    """ "loss.pseudo=hard, loss.pseudo_weight=0.5"."""
    return ", ".join(f"{key}={format_value(value)}" for key, value in params.items())


def format_duration(seconds: float) -> str:
    """ "40 s", "12 min", "3 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def format_bytes(number: float) -> str:
    """ "850 kB", "12 MB", "1.2 GB", "41 GB": powers of 1000, two digits at least."""
    unit = "kB"
    number /= 1000
    for larger in ("MB", "GB", "TB"):
        if number < 999.5:
            break
        number, unit = number / 1000, larger
    return f"{number:.1f} {unit}" if number < 9.95 else f"{number:.0f} {unit}"


def format_mean(mean: float, sd: float | None) -> str:
    """ "50.10 ± 0.80": mean and standard deviation over repeats."""
    return format_score(mean) if sd is None else f"{mean:.2f} ± {sd:.2f}"


def repeats_text(line: dict[str, Any]) -> str:
    """ "50.10 ± 0.80 (3)": a line of the main table with its number of repeats."""
    if line["mean"] is None:
        return MISSING
    return f"{format_mean(line['mean'], line['sd'])} ({line['repeats']})"


def gain_text(line: dict[str, Any]) -> str:
    """The gain over supervised only and how far to trust it; of repeats, else of the one run."""
    if line["gain"] is not None:
        return f"{line['gain']:+.2f}, {line['significance'] or 'noise not measured'}"
    return "" if line["over_supervised"] is None else f"{line['over_supervised']:+.2f}, one run"
