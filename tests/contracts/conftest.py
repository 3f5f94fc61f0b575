"""Studies whose artefacts are compared with docs/reference/artefacts.md: the demo up to prepare, and named finished ones."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STUDY = """
study: demo
id_key: {root}/demo/id_key
sources:
  ct: {{path: {root}/demo/ct}}
  spine: {{path: {root}/demo/spine, prepare: {{spacing_mm: [2, 2, 3], slice_axis: i, cache: blosc2}}}}
  organs: {{path: {root}/demo/organs}}
"""


def finished() -> list[Path]:
    """Finished studies named by MEDSSL_RESULTS: folders such as `results/ct`, separated by `:`."""
    return [Path(name).resolve() for name in os.environ.get("MEDSSL_RESULTS", "").split(":") if name]


@pytest.fixture(scope="session")
def demo_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`results/demo` of ingest and prepare on the bundled images, through real specs and jobs."""
    from medssl.core.job import Spec, job
    from medssl.ingest import run as ingest
    from medssl.prepare.run import run as prepare
    from medssl.study.dag import Dag
    from medssl.study.file import load_study
    from medssl.study.sources import refresh_sources

    folder = tmp_path_factory.mktemp("demo")
    with contextlib.chdir(folder):
        Path("study.yaml").write_text(STUDY.format(root=ROOT), encoding="utf-8")
        dag = Dag(load_study(files=["study.yaml"]))
        refresh_sources(dag.study, dag.layout)
        dag.write_specs()
        for source in dag.study.sources:
            spec = Spec.read(dag.layout.spec("ingest", source))
            for step, options in ((ingest.scan, {}), (ingest.convert, {"shard": 0}), (ingest.merge, {})):
                with job(spec) as work:
                    step(work, **options)
            with job(Spec.read(dag.layout.spec("prepare", source)), log_path=dag.layout.log("prepare", source)) as work:
                prepare(work)
    return folder / "results" / "demo"


@pytest.fixture(scope="session", params=["demo", *finished()], ids=lambda p: p if p == "demo" else p.name)
def study(request: pytest.FixtureRequest) -> Path:
    """The folder of a study."""
    return request.getfixturevalue("demo_study") if request.param == "demo" else request.param
