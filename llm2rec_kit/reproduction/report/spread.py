"""What differs between results: settings by name, and numbers in units of their spread over seeds."""

from __future__ import annotations

import math
from typing import Any


def choose_metrics(results: dict[str, Any]) -> list[str]:
    """Choose Recall and NDCG at a run's first cutoff, by which two runs are compared, from `results` (results.json)."""
    rows = next(iter(results["results"].values()))
    return list(rows[0]["mean"])[:2]


def pool_std(rows: list[dict[str, Any]], recommender: str, metric: str) -> float | None:
    """Pool the sample standard deviation over seeds across a recommender's embeddings; None where none has two seeds.

    `rows` are those of one domain in results.json: they hold the population std of s seeds, and s / (s - 1) makes its
    square unbiased. Pooled, because three seeds alone say little of their own spread.
    """
    alike = [r for r in rows if r["recommender"] == recommender and r["seeds"] > 1]
    if not alike:
        return None
    return math.sqrt(sum(r["std"][metric] ** 2 * r["seeds"] / (r["seeds"] - 1) for r in alike) / len(alike))


def compare_settings(*settings: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """List each setting that is not the same in all: [{"name": "stage.key", "values": [one a run]}], "none" where absent."""
    rows = []
    for stage in dict.fromkeys(stage for s in settings for stage in s):
        for key in dict.fromkeys(k for s in settings for k in s.get(stage, {})):
            values = [s.get(stage, {}).get(key, "none") for s in settings]
            if any(v != values[0] for v in values):
                rows.append({"name": f"{stage}.{key}", "values": values})
    return rows
