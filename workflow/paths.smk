# The study, checked; the listing of its sources, refreshed; the spec of every job, written where it changed.
# Every path comes from L (medssl/core/layout.py).

from medssl.core.workflow import announce, command, open_study, stop_with_code

JOBS = open_study(workflow, config)
L = JOBS.layout
MEDSSL = command(workflow)
ENVIRONMENT = "../environment.yml"
