"""How many slices and volumes of each modality sources hold together: every mention of the data states a mixture."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from medssl.artefacts.names import in_cohort
from medssl.report.evidence import Evidence
from medssl.report.section import counted


def mixture_rows(evidence: Evidence) -> pd.DataFrame:
    """A row per cohort with several modalities, and modality: slices and volumes; of a source that is in no cohort as well."""
    cohorts = {name: sources_of(evidence, name) for name in sorted({in_cohort(keep)[0] for keep in evidence.keeps})}
    alone = sorted(set(evidence.series) - {source for sources in cohorts.values() for source in sources})
    rows = [
        {"of": f"{what} {name}", "modality": modality, "slices": slices, "volumes": volumes}
        for what, named in (("cohort", cohorts), ("source", {source: [source] for source in alone}))
        for name, sources in named.items()
        for modality, slices, volumes in _counts(evidence, sources)
    ]
    table = pd.DataFrame(rows, columns=["of", "modality", "slices", "volumes"])
    return table[table.groupby("of")["modality"].transform("nunique") > 1].reset_index(drop=True)


def mixtures_in_words(evidence: Evidence) -> list[str]:
    """`cohort ct: CT 94 slices or images (3 volumes) and MR 192 slices or images (8 volumes)`, a text per mixture."""
    return [
        f"{name}: "
        + " and ".join(
            f"{row.modality} {counted(row.slices, 'slice or image', 'slices or images')} ({counted(row.volumes, 'volume')})"
            for row in rows.itertuples()
        )
        for name, rows in mixture_rows(evidence).groupby("of", sort=True)
    ]


def sources_of(evidence: Evidence, cohort: str) -> list[str]:
    """The sources whose slices a cohort's keep tables speak of."""
    names = [name for name in evidence.keeps if in_cohort(name)[0] == cohort]
    wanted = set(evidence.keeps[names[0]]["sample_id"])
    return [source for source, samples in sorted(evidence.samples.items()) if not wanted.isdisjoint(samples["sample_id"])]


def _counts(evidence: Evidence, sources: Sequence[str]) -> list[tuple[str, int, int]]:
    """Modality, slices or images, volumes, of some sources together; by series.tsv, where a source tells its modality at all."""
    series = [evidence.series[source] for source in sources if source in evidence.series]
    known = [table[["volume_id", "modality"]] for table in series if {"volume_id", "modality"} <= set(table)]
    if not known:
        return []
    modality = pd.concat(known).drop_duplicates("volume_id").set_index("volume_id")["modality"]
    samples = [evidence.samples[source] for source in sources if source in evidence.samples]
    found = pd.concat([table["volume_id"] for table in samples if "volume_id" in table] or [pd.Series(dtype=object)])
    slices, volumes = found.map(modality).value_counts(), modality.value_counts()
    return [(str(name), int(slices.get(name, 0)), int(volumes[name])) for name in sorted(volumes.index)]
