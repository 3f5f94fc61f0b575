"""Metrics: one file each; the function named like the file is the metric.

Constants at the top of the file describe it:

| constant | meaning |
|---|---|
| `PREDICTS` | what it scores, in the words of tasks: `classes`, `values`, `risks` or `masks` |
| `BETTER` | `higher` or `lower` |
| `LIMITS` | the smallest and largest value that it can have, `None` where there is none: intervals of scores end there |
| `TITLE` | its name on the page |
| `FULL_TITLE` | its name with its essential options, such as `NSD at {tolerance_mm:g} mm` |
| `HEADLINE` | it may represent a task on the page; the smallest number does |
| `RANKS_CASES` | its value for each case orders cases and is tested by signed ranks |
| `PAIRED_TEST` | `delong`: it is an area under the ROC curve |
| `IN_UNITS` | its values have the unit of the labels |
| `OVER_CLASSES` | it has no row for a class but is a mean over classes |
| `CALIBRATION_BINS` | its option for the number of bins of the calibration curve |
| `IN_WORDS` | what it means, for the methods paragraph; with options in braces |
| `SOURCE` | the citation of `IN_WORDS` |
"""
