"""Every metric by its name. The packages that compute them are imported when one is used."""

from __future__ import annotations

from collections.abc import Mapping

from .labels import ACCURACY, F1_MACRO, F1_MICRO, TOP_1, TOP_5
from .metric import Metric
from .numbers import PERPLEXITY, SPEARMAN
from .texts import CHRF, EXACT_MATCH, F1, WER
from .words import ENTITY_F1, TOKEN_ACCURACY

__all__ = ["METRICS", "Metric"]

METRICS: Mapping[str, Metric] = {
    each.name: each
    for each in (
        ACCURACY,
        F1_MICRO,
        F1_MACRO,
        TOP_1,
        TOP_5,
        ENTITY_F1,
        TOKEN_ACCURACY,
        EXACT_MATCH,
        F1,
        SPEARMAN,
        WER,
        CHRF,
        PERPLEXITY,
    )
}
