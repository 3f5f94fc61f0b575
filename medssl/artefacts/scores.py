"""What stage evaluate writes: scores with intervals, paired comparisons, cases, and small additional tables."""

from __future__ import annotations

from medssl.artefacts.column import Column
from medssl.artefacts.fits import FIT_ID, FRACTION, MODE, PRETRAIN_SEED, SEED, UNIT_ID
from medssl.artefacts.labels import GROUPS
from medssl.artefacts.predictions import RISK, RISK_RANK, VALUE
from medssl.artefacts.schema import Table
from medssl.core.label_table import EVENT

FOLDER = "6_evaluate/<task>"
BETTER = ("higher", "lower")
ROC, PRECISION_RECALL = "roc", "precision_recall"
RISK_LEVELS = ("low", "middle", "high")
"""Thirds of cases by predicted risk."""

ARM = Column("init", "str", "the arm: a starting point, all pre-training seeds together")
CLASS = Column("class", "str", "`macro`: mean over classes; `all`: not of a class")
METRIC = Column("metric", "str", "its plug-in")
OPTIONS = Column("options", "dict", "of the metric, such as a tolerance", compact=True)
SEEDS_IN_INTERVAL = Column(
    "seeds_in_interval", "int64", "seeds whose spread is in the interval (of the arm with fewer); 0: it is over units alone"
)

_SCORES = (
    ARM,
    MODE,
    FRACTION,
    METRIC,
    CLASS,
    Column("better", "str", "which values are better", choices=BETTER),
    Column("estimate", "float64", "mean over the fits", "the metric's", nullable=True),
    Column(
        "low",
        "float64",
        "low end of the interval over units, and over seeds if there are three",
        "the metric's",
        nullable=True,
    ),
    Column("high", "float64", "its high end", "the metric's", nullable=True),
    Column("confidence", "float64", "of the interval", "0…1"),
    Column("n", "int64", "number of units in the score"),
    Column("n_rarer", "int64", "units with a case of the class, or with one of the rest, whichever are fewer", nullable=True),
    Column("unit", "str", "what the units are"),
    Column("num_cases", "int64", "test cases"),
    Column("num_seeds", "int64", "fits that the mean is of"),
    Column("seed_sd", "float64", "standard deviation over them", "the metric's", nullable=True),
    SEEDS_IN_INTERVAL,
    Column("method", "str", "of the interval"),
    Column("note", "str", "what the score excludes, in words; may be empty"),
    OPTIONS,
)

SCORES = Table("scores.tsv", FOLDER, "A row per arm, mode, share of labels, metric and class.", _SCORES)

SUBGROUPS = Table(
    "subgroups.tsv",
    FOLDER,
    "The same within each value of each column that makes subgroups; there only where there are such columns.",
    (
        Column("group", "str", "the column"),
        Column("value", "str", "its value; missing for cases without one", nullable=True),
        *_SCORES,
    ),
)

COMPARISONS = Table(
    "comparisons.tsv",
    FOLDER,
    "A row per pair of arms, mode, share of labels, metric, class and method: a − b of the means over fits.",
    (
        Column("a", "str", "the first arm"),
        Column("b", "str", "the second, its reference"),
        MODE,
        FRACTION,
        METRIC,
        CLASS,
        Column("better", "str", "which values are better", choices=BETTER),
        Column("difference", "float64", "a − b", "the metric's", nullable=True),
        Column("low", "float64", "low end of its interval", "the metric's", nullable=True),
        Column("high", "float64", "its high end", "the metric's", nullable=True),
        Column("p", "float64", "two-sided", nullable=True),
        Column("p_holm", "float64", "corrected within the family of the comparison", nullable=True),
        Column(
            "p_holm_task",
            "float64",
            "corrected over all modes, shares of labels and pairs with scratch (without it: all others), by score and method",
            nullable=True,
        ),
        Column("n", "int64", "number of units"),
        Column("n_rarer", "int64", "as in `scores.tsv`", nullable=True),
        Column("unit", "str", "what the units are"),
        Column("method", "str", "`bootstrap (…)`, `delong` or `wilcoxon`"),
        Column("effect", "float64", "standardised difference", nullable=True),
        Column("effect_name", "str", "`d_z` or `rank-biserial`"),
        Column("num_seeds", "int64", "fine-tuning seeds that both arms have", nullable=True),
        Column("seed_sd", "float64", "of the differences by seed", "the metric's", nullable=True),
        SEEDS_IN_INTERVAL,
        Column("seeds_above", "int64", "in how many of them a is above b", nullable=True),
        Column("confidence", "float64", "of the interval", "0…1"),
        Column("note", "str", "what it excludes, in words; may be empty"),
        OPTIONS,
    ),
)

_FALL = (
    MODE,
    Column("fraction_most", "float64", "the largest share of labels", "0…1"),
    Column("fraction_fewest", "float64", "the smallest", "0…1"),
    METRIC,
    CLASS,
    Column("better", "str", "which values are better", choices=BETTER),
)

FALLS = Table(
    "falls.tsv",
    FOLDER,
    "A row per arm, mode, metric and class: what is lost from the most labels to the fewest; only where there are two shares.",
    (
        ARM,
        *_FALL,
        Column("score_most", "float64", "mean over the fits with the most labels", "the metric's", nullable=True),
        Column("score_fewest", "float64", "with the fewest, on the same cases", "the metric's", nullable=True),
        Column("fall", "float64", "how much worse it is with the fewest: positive is a loss", "the metric's", nullable=True),
        Column("low", "float64", "low end of its interval", "the metric's", nullable=True),
        Column("high", "float64", "its high end", "the metric's", nullable=True),
        Column("confidence", "float64", "of the interval", "0…1"),
        Column("n", "int64", "number of units"),
        Column("n_rarer", "int64", "as in `scores.tsv`", nullable=True),
        Column("unit", "str", "what the units are"),
        Column("num_seeds", "int64", "seeds that have fits with both shares"),
        Column("seed_sd", "float64", "standard deviation of their falls", "the metric's", nullable=True),
        SEEDS_IN_INTERVAL,
        Column("method", "str", "of the interval"),
        Column("note", "str", "what it excludes, in words; may be empty"),
        OPTIONS,
    ),
)

FALL_COMPARISONS = Table(
    "fall_comparisons.tsv",
    FOLDER,
    "A row per pair of arms, mode, metric and class: the fall of a less that of b, on the same cases and draws of them.",
    (
        Column("a", "str", "the first arm"),
        Column("b", "str", "the second, its reference"),
        *_FALL,
        Column("difference", "float64", "fall of a − fall of b: negative where a loses less", "the metric's", nullable=True),
        Column("low", "float64", "low end of its interval", "the metric's", nullable=True),
        Column("high", "float64", "its high end", "the metric's", nullable=True),
        Column("p", "float64", "two-sided", nullable=True),
        Column("p_holm", "float64", "corrected within the family of the comparison", nullable=True),
        Column("method", "str", "`bootstrap (…)`"),
        SEEDS_IN_INTERVAL,
        Column("n", "int64", "number of units"),
        Column("n_rarer", "int64", "as in `scores.tsv`", nullable=True),
        Column("unit", "str", "what the units are"),
        Column("confidence", "float64", "of the interval", "0…1"),
        Column("note", "str", "what it excludes, in words; may be empty"),
        OPTIONS,
    ),
)

CASES = Table(
    "cases.parquet",
    FOLDER,
    "A row per fit and test case; of a segmentation per fit, case and class, with a column for each metric.",
    (
        FIT_ID,
        Column("init", "str", "as in `predictions.parquet`"),
        Column("arm", "str", "the arm"),
        MODE,
        FRACTION,
        SEED,
        PRETRAIN_SEED,
        Column("case_id", "str", "the case"),
        UNIT_ID,
        Column("target", "str", "class, several joined by a vertical bar; or number", nullable=True, optional=True),
        Column("predicted", "str", "the same, as predicted; of a number four digits", optional=True),
        Column(VALUE, "float64", "regression: the predicted value", "the label's", optional=True),
        Column(EVENT, "int64", "survival analysis: 1 if the event happened at the time `target`, 0 if censored", optional=True),
        Column(RISK, "float64", "survival analysis: the predicted risk; not with folds", optional=True),
        Column(RISK_RANK, "float64", "with folds: rank of the predicted risk within its fold", "0…1", optional=True),
        Column("probability_of_target", "float64", "absent if a case may have several classes", "0…1", optional=True),
        Column("brier", "float64", "the case's own score", optional=True),
        Column("correct", "bool", "whether all its classes are right", optional=True),
        Column("class", "str", "segmentation: the class", optional=True),
        Column(
            "empty",
            "str",
            "segmentation: which mask is empty",
            optional=True,
            choices=("neither", "both", "prediction", "target"),
        ),
    ),
    families=(GROUPS,),
    others="metrics of the case (of a segmentation: of the case and class), by name",
)

CALIBRATION = Table(
    "calibration.tsv",
    FOLDER,
    "Classification: the calibration curve, the cases of all fits of an arm together; bins without a case are left out.",
    (
        ARM,
        MODE,
        FRACTION,
        Column("bin_low", "float64", "low end of the bin of confidence", "0…1"),
        Column("bin_high", "float64", "its high end", "0…1"),
        Column("num_cases", "int64", "cases in it"),
        Column("confidence", "float64", "their mean confidence", "0…1"),
        Column("accuracy", "float64", "the share of them that is right", "0…1"),
        Column("num_fits", "int64", "fits of the arm"),
    ),
)

AGREEMENT = Table(
    "agreement.tsv",
    FOLDER,
    "Regression: true against predicted values in bins of equally many cases, those of all fits of an arm together.",
    (
        ARM,
        MODE,
        FRACTION,
        Column("bin", "int64", "bins by predicted value, from 1"),
        Column("num_cases", "int64", "cases in it"),
        Column(VALUE, "float64", "their mean predicted value", "the label's"),
        Column("target", "float64", "their mean true value", "the label's"),
        Column("slope", "float64", "of the line of true over predicted values, mean over fits", nullable=True),
        Column("intercept", "float64", "of the same line", "the label's", nullable=True),
        Column("num_fits", "int64", "fits of the arm"),
    ),
)

RISK_GROUPS = Table(
    "risk_groups.tsv",
    FOLDER,
    "Survival analysis: Kaplan-Meier curves of the test cases with low, middle and high predicted risk.",
    (
        ARM,
        MODE,
        FRACTION,
        Column(
            "group",
            "str",
            "third of the cases by predicted risk, mean rank over fits; with folds, of the ranks within them",
            choices=RISK_LEVELS,
        ),
        Column("time", "float64", "0, each time of an event, and the last time of the group", "the label's"),
        Column("event_free", "float64", "share without an event until then", "0…1"),
        Column("low", "float64", "low end of its interval", "0…1", nullable=True),
        Column("high", "float64", "its high end", "0…1", nullable=True),
        Column("at_risk", "int64", "cases of the group that are followed until then"),
        Column("num_cases", "int64", "cases of the group, or patients if each has one time"),
        Column("num_events", "int64", "events among them"),
        Column("p", "float64", "log-rank test of the groups; missing if a patient has several times", nullable=True),
        Column("num_fits", "int64", "fits of the arm"),
    ),
)

OPERATING = Table(
    "operating.parquet",
    FOLDER,
    "Classification: ROC and precision-recall curves with the most labels, each class against the rest; mean over fits.",
    (
        ARM,
        MODE,
        FRACTION,
        Column("num_fits", "int64", "fits of the arm"),
        CLASS,
        Column("curve", "str", "which", choices=(ROC, PRECISION_RECALL)),
        Column("x", "float64", "false-positive rate, or recall", "0…1"),
        Column("y", "float64", "sensitivity, or precision", "0…1"),
        Column("low", "float64", "low end of the band over units, at each point by itself", "0…1", nullable=True),
        Column("high", "float64", "its high end", "0…1", nullable=True),
    ),
)

CONFUSION = Table(
    "confusion.tsv",
    FOLDER,
    "Classification, one class a case: how often each class was taken for which.",
    (
        ARM,
        MODE,
        FRACTION,
        Column("target", "str", "the class"),
        Column("predicted", "str", "what it was read as"),
        Column("num_cases", "float64", "mean over fits"),
    ),
)

EMPTY = Table(
    "empty.tsv",
    FOLDER,
    "Segmentation: how many masks of each class were empty, over all fits of an arm.",
    (
        ARM,
        MODE,
        FRACTION,
        Column("class", "str", "the class"),
        Column("both_hold", "int64", "both masks have voxels of it"),
        Column("both_empty", "int64", "neither has"),
        Column("missed", "int64", "only the reference has"),
        Column("false_alarm", "int64", "only the prediction has"),
    ),
)

OVERLAYS = Table(
    "overlays.parquet",
    FOLDER,
    "Segmentation: the planes that the page shows, on the RAS+ grid of ingest's volume.",
    (
        Column("case_id", "str", "the volume"),
        Column("score", "float64", "its mean Dice over classes", "0…1"),
        Column("rank", "int64", "1 is the best"),
        Column("num_ranked", "int64", "of how many"),
        Column("group", "str", "why it is shown", choices=("best", "median", "worst", "all")),
        FIT_ID,
        Column("init", "str", "the arm of the fit"),
        Column("axis", "int64", "the axis that the plane lies across"),
        Column("index", "int64", "which plane"),
        Column("rows", "int64", "of the plane", "voxels"),
        Column("columns", "int64", "of the plane", "voxels"),
        Column("prediction", "bytes", "mask values, uint8, row by row"),
        Column("target", "bytes", "the same of the reference"),
        Column("classes", "dict", "mask value → class name", compact=True),
    ),
)
