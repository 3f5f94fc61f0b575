"""What `benchmarks/gpu.py` measures: sections by the name of their function, each a generator of (what, figures)."""
