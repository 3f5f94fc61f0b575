"""The study file, its jobs, the checks before work starts, planning, cleaning, and the connection to Snakemake."""
