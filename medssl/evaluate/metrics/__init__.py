"""Metrics: one file each; the function that bears the file's name is the metric.

At the top of the file it says of itself:

| constant | says |
|---|---|
| `PREDICTS` | what it scores, as tasks say what they predict: `classes` or `masks` |
| `BETTER` | `higher` or `lower` |
| `TITLE` | its name on the page |
| `FULL_TITLE` | its name with the options that it means nothing without, such as `NSD at {tolerance_mm:g} mm` |
| `HEADLINE` | it may stand for a task on the page; the smallest number does |
| `RANKS_CASES` | its value of each case orders cases and is tested by signed ranks |
| `PAIRED_TEST` | `delong`: it is an area under the ROC curve |
| `OVER_CLASSES` | it has no row for a class and is a mean over classes all the same |
| `CALIBRATION_BINS` | which option of it is the number of bins of the calibration curve |
| `IN_WORDS` | what it means, for the methods paragraph; with options in braces |
| `SOURCE` | the citation of `IN_WORDS` |
"""
