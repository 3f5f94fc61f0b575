# The study, checked; the listing of its sources, refreshed; the spec of every job, written where it changed.
# Every path comes from L (medssl/core/layout.py).

from medssl.study.workflow import announce, open_study, shell_prefix, stop_with_code, threads_each

JOBS = open_study(workflow, config)
L = JOBS.layout
ENVIRONMENT = "../environment.yml"


wildcard_constraints:
    source="[a-z0-9_]+",
    cohort="[a-z0-9_]+",
    arm="(?!leakage/)[a-z0-9_]+",
    run="[a-z0-9_-]+",
    task="[a-z0-9_]+",
    page="[a-z0-9_]+",


shell.prefix(shell_prefix(workflow))
