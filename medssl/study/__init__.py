"""The roof: the study file, its jobs, what is checked before work starts, planning, cleaning, and the Snakemake glue."""
