# The study, checked; the listing of its sources, refreshed; the spec of every job, written where it changed.
# Every path comes from L (medssl/core/layout.py).

import sys

from snakemake.cli import get_argument_parser

from medssl.study.workflow import is_main, open_study, shell_prefix, steered, threads_each, threads_of_data

# Snakemake itself states what it was asked for only after this file is read, and a study is checked for it before.
ASKED = get_argument_parser().parse_known_args(sys.argv[1:])[0] if is_main(workflow) else None
JOBS = open_study(workflow, config, ASKED)
L = JOBS.layout
RUN = steered(workflow, JOBS, ASKED)
ENVIRONMENT = "../environment.yml"
BEFORE_TRAINING = 1  # what is wrong with data is known early


wildcard_constraints:
    source="[a-z0-9_]+",
    cohort="[a-z0-9_]+",
    arm="(?!leakage/)[a-z0-9_]+",
    run="[a-z0-9_-]+",
    task="[a-z0-9_]+",
    page="[a-z0-9_]+",
    column="[A-Za-z0-9_-]+",


shell.prefix(shell_prefix(workflow))
