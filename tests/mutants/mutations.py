"""The mutations of `make mutants`: small mistakes that a person could make, each with the tests that must notice it.

A mutation is found by its text, not by its file, so that code may move: `old` stands exactly once in `medssl/`. Each breaks one
idea, in a way that still runs and looks right; what stops with an error at once says nothing about the tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Mutation:
    """`old` becomes `new`; `breaks` says what is wrong then; `tests` (`folder/file.py::test_name`, below tests/) must fail."""

    package: str
    breaks: str
    old: str
    new: str
    tests: str


def home(root: Path, mutation: Mutation) -> Path:
    """The file of `medssl/` that holds a mutation's text.

    Raises:
        LookupError: none does, or the text stands more than once.
    """
    found = {path: path.read_text(encoding="utf-8").count(mutation.old) for path in sorted((root / "medssl").rglob("*.py"))}
    places = [str(path.relative_to(root)) for path, count in found.items() for _ in range(count)]
    if len(places) != 1:
        raise LookupError(
            f"{mutation.package}, {mutation.breaks}: its text must stand once in medssl/, got {places or 'nowhere'}: "
            f"{mutation.old!r}. Follow the code that moved, or write another mutation of the same idea."
        )
    return next(path for path, count in found.items() if count)


def named_tests(root: Path, mutation: Mutation) -> list[str]:
    """The tests for pytest: as named, else a test of that name elsewhere, else the whole file, else the package's folder."""
    found = []
    for named in mutation.tests.split():
        file, _, name = named.partition("::")
        definition = f"def {name.partition('[')[0]}("
        folders = (root / "tests" / mutation.package, root / "tests")
        others = (path for folder in folders for path in sorted(folder.rglob("test_*.py")))
        holder = next((p for p in (root / "tests" / file, *others) if p.is_file() and definition in p.read_text("utf-8")), None)
        if holder is not None:
            found.append(f"{holder.relative_to(root)}::{name}")
        elif (root / "tests" / file).is_file():
            found.append(f"tests/{file}")
        else:
            found.append(f"tests/{mutation.package}")
    return found


MUTATIONS = [
    # ---- core
    Mutation(
        "core", "names of a random stream run into one another",
        r'text = "\x1f".join([str(int(seed)), *map(str, names)])',
        r'text = "".join([str(int(seed)), *map(str, names)])',
        "core/test_core_rng.py::test_the_same_names_give_the_same_stream_and_others_do_not",
    ),
    Mutation(
        "core", "draws fill half of their range",
        "return (bits >> np.uint64(11))",
        "return (bits >> np.uint64(12))",
        "core/test_core_rng.py::test_draws_are_uniform_and_uncorrelated",
    ),
    Mutation(
        "core", "a failed write leaves its temporary",
        "        with contextlib.suppress(FileNotFoundError):\n            temporary.unlink()",
        "        pass",
        "core/test_core_files.py::test_a_failed_write_leaves_the_old_file_and_no_temporary",
    ),
    Mutation(
        "core", "a full disk is any error of the system",
        "if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):",
        "if error.errno in (errno.ENOSPC, errno.EDQUOT):",
        "core/test_core_files.py::test_a_full_disk_is_one_sentence_and_the_old_file_stays",
    ),
    Mutation(
        "core", "the folder of a name is not resolved, so links lead out",
        "joined = base.joinpath(*parts).resolve()",
        "joined = Path(os.path.normpath(base.joinpath(*parts)))",
        "core/test_core_files.py::test_a_link_that_leads_out_of_the_root_is_refused",
    ),
    Mutation(
        "core", "room on the disk is never too little",
        "if free < need_bytes * 1.05:",
        "if free * 1.05 < 0:",
        "core/test_core_files.py::test_work_without_room_stops_before_it_begins",
    ),
    Mutation(
        "core", "a tab in a cell moves the columns behind it",
        r'return text.replace("\t", " ")',
        "return text",
        "core/test_core_tables.py::test_tabs_and_newlines_cannot_break_a_row",
    ),
    Mutation(
        "core", "ids of digits become numbers",
        'if name in text or name.endswith("_id"):',
        "if name in text:",
        "core/test_core_tables.py::test_ids_of_digits_stay_text_and_missing_is_written_out",
    ),
    Mutation(
        "core", "a counter of energy that began again is lost",
        "used if used >= 0 else used + self.wraps_at.get(name, 0.0)",
        "used",
        "core/test_core_energy.py::test_packages_count_once_and_over_the_end_of_their_counter",
    ),
    Mutation(
        "core", "an artefact of the right size is believed",
        'if actual is None or actual != entry["sha256"]:',
        "if actual is None:",
        "core/test_core_job.py::test_a_changed_artefact_is_refused_and_names_the_stage",
    ),
    Mutation(
        "core", "where a source lies changes the hash of its spec",
        'for name, value in self.__dict__.items() if name != "private"}',
        "for name, value in self.__dict__.items()}",
        "core/test_core_job.py::test_the_hash_of_a_spec_changes_with_each_field_but_not_with_where_sources_lie",
    ),
    Mutation(
        "core", "a job shorter than the margin is put into the queue for ever",
        "or started_s >= end_s - margin_s:",
        "or started_s >= end_s:",
        "core/test_core_cluster.py::test_only_a_job_whose_time_is_up_is_requeued",
    ),
    Mutation(
        "core", "a file that the study names is a folder where it has no suffix",
        "yield path if name in spec.given or is_artefact_file(path)",
        "yield path if is_artefact_file(path)",
        "study/test_study_dag.py::test_a_file_that_the_study_names_is_an_input_whatever_it_is_called",
    ),
    Mutation(
        "core", "a task that was killed midway wants no fits",
        "for path in (*begun, *finished)",
        "for path in finished",
        "study/test_study_cleaning.py::test_fits_of_a_task_that_was_killed_midway_stay_and_those_that_nobody_wants_go",
    ),
    Mutation(
        "core", "a dry run that a signal ends leaves its specs",
        "        stack.enter_context(signals.unwound())\n",
        "",
        "study/test_study_dry.py::test_whatever_signal_ends_a_dry_run_nothing_is_left",
    ),
    Mutation(
        "core", "who writes into a table reaches the copy that is kept of it",
        'if "/" not in name:',
        'if name == "":',
        "core/test_core_store.py::test_who_writes_into_a_table_or_encoder_does_not_reach_what_is_kept",
    ),
    Mutation(
        "core", "kept arrays can be written to",
        "target.chmod(READ_ONLY)",
        "target.chmod(0o644)",
        "core/test_core_store.py::test_arrays_are_write_protected_and_what_snakemake_makes_again_is_not",
    ),
    Mutation(
        "core", "a table that was written to in place passes for what a job made",
        "path.stat().st_mtime_ns <= made_ns or",
        "path.stat().st_mtime_ns >= made_ns or",
        "core/test_core_job.py::test_a_table_that_was_written_to_is_incomplete_and_a_touched_one_is_not",
    ),
    # ---- volume
    Mutation(
        "volume", "spacing between rows and between columns are swapped",
        "affine[:3, 0] = np.asarray(orientation[:3]) * spacing[1]\n    affine[:3, 1] = np.asarray(orientation[3:]) * spacing[0]",
        "affine[:3, 0] = np.asarray(orientation[:3]) * spacing[0]\n    affine[:3, 1] = np.asarray(orientation[3:]) * spacing[1]",
        "volume/test_volume_geometry.py::test_slice_affine_is_the_standards_equation",
    ),
    Mutation(
        "volume", "a flipped axis begins one voxel too late",
        "out[source, 3] = shape[source] - 1.0 if flip else 0.0",
        "out[source, 3] = shape[source] if flip else 0.0",
        "volume/test_volume_geometry.py::test_canonical_orientation_is_nibabels",
    ),
    Mutation(
        "volume", "the shear of two axes of three is not looked at",
        "for a, b in ((0, 1), (0, 2), (1, 2))])",
        "for a, b in ((0, 1), (0, 2))])",
        "volume/test_volume_geometry.py::test_doctests",
    ),
    Mutation(
        "volume", "uneven slices are mixed with each other's weights",
        "mixed = below * (1 - weight) + above * weight",
        "mixed = below * weight + above * (1 - weight)",
        "volume/test_volume_geometry.py::test_an_uneven_stack_reproduces_a_field_that_is_linear_along_it",
    ),
    Mutation(
        "volume", "a coarser grid is not averaged",
        "width = float(np.sqrt(max(step**2 - 1, 0.0)))",
        "width = 0.0",
        "volume/test_volume_spacing.py::test_one_axis_equals_a_slow_mean_of_the_line_between_voxels",
    ),
    Mutation(
        "volume", "a resampled volume is moved by half a voxel",
        "return (size - count * step) / 2 + (step - 1) / 2 + step * np.arange(count)",
        "return (size - count * step) / 2 + step * np.arange(count)",
        "volume/test_volume_spacing.py::test_a_constant_stays_and_the_middle_stays",
    ),
    Mutation(
        "volume", "percentiles are those of the next value",
        "counts.values[np.searchsorted(cumulative, wanted).clip(max=len(cumulative) - 1)]]",
        'counts.values[np.searchsorted(cumulative, wanted, side="right").clip(max=len(cumulative) - 1)]]',
        "volume/test_volume_intensity.py::test_a_percentile_that_falls_on_a_share_is_the_lower_value",
    ),
    Mutation(
        "volume", "half of what lies just above a value is not counted",
        "above = stored > int(np.floor(threshold)) if slope > 0",
        "above = stored > int(np.ceil(threshold)) if slope > 0",
        "volume/test_volume_intensity.py::test_number_above_a_value_between_two_stored_numbers_has_the_upper_one",
    ),
    Mutation(
        "volume", "a falling slope leaves the counts in falling order",
        "return Counts(values, number) if slope > 0 else Counts(values[::-1], number[::-1])",
        "return Counts(values, number)",
        "volume/test_volume_intensity.py::test_counted_percentiles_are_numpys",
    ),
    Mutation(
        "volume", "an outlier widens the range that all values are quantised over",
        "    low, high = ordinary.low, ordinary.high\n",
        "",
        "volume/test_volume_intensity.py::test_outliers_take_nothing_from_the_precision_of_all_other_values",
    ),
    Mutation(
        "volume", "a window is as wide as its high end",
        "return ((values - low) / (high - low)).clip(0, 1)",
        "return ((values - low) / high).clip(0, 1)",
        "contracts/test_contracts_windows.py::test_every_reader_sees_the_same_windows",
    ),
    Mutation(
        "volume", "a plane before the first is the last",
        "if not 0 <= index < array.shape[axis]:",
        "if not index < array.shape[axis]:",
        "volume/test_volume_cache.py::test_outside_the_array_is_refused",
    ),
    # ---- ingest
    Mutation(
        "ingest", "a folder that cannot be listed is forgotten",
        'rows.append(((f"{folder or \'.\'}/", 0, 0, "closed"), 0))',
        "pass",
        "ingest/test_ingest_files.py::test_what_may_not_be_read_is_a_row_and_the_rest_goes_on",
    ),
    Mutation(
        "ingest", "a backslash in a name is written as it is",
        'return name if name.isprintable() and "\\\\" not in name else',
        "return name if name.isprintable() else",
        "ingest/test_ingest_files.py::test_every_name_is_spelled_as_text_and_back",
    ),
    Mutation(
        "ingest", "a file that was written again at its size is the listed one",
        'if mtime_ns != file.get("mtime_ns", mtime_ns):',
        "if mtime_ns < 0:",
        "ingest/test_ingest_files.py::test_a_file_that_is_not_the_listed_one_is_refused",
    ),
    Mutation(
        "ingest", "the next number after a series is none of its files",
        "return numbers[0] - step <= number <= numbers[-1] + step",
        "return numbers[0] <= number <= numbers[-1]",
        "ingest/test_ingest_files.py::test_a_damaged_file_is_of_a_series_that_it_may_be_named_for",
    ),
    Mutation(
        "ingest", "a damaged file with an unknown series casts no doubt",
        'elif row["code"] in DAMAGE | NAMED_ALIKE:',
        'elif row["code"] in DAMAGE | NAMED_ALIKE and not row["series"]:',
        "ingest/test_ingest_header_fuzz.py::test_mutations_that_were_once_wrong",
    ),
    Mutation(
        "ingest", "a reading process keeps what its parent has open",
        "    os.closerange(len(kept), resource.getrlimit(resource.RLIMIT_NOFILE)[0])\n",
        "",
        "ingest/test_ingest_hostile.py::test_a_reading_process_holds_nothing_of_its_parent",
    ),
    Mutation(
        "ingest", "slices are hashed in the order in which they come",
        "self._waiting.pop(self._hashed, None)",
        "(self._waiting.popitem()[1] if self._waiting else None)",
        "ingest/test_ingest_array_file.py::test_slices_in_any_order_make_the_turned_stack",
    ),
    Mutation(
        "artefacts", "rows of a text table may stand in any order",
        "all(before <= after for before, after in pairwise(places))",
        "True",
        "artefacts/test_artefacts_tables.py::test_what_is_not_as_described_is_not_written",
    ),
    Mutation(
        "artefacts", "two rows of a text table may have one key",
        "if row in seen:",
        "if False:",
        "artefacts/test_artefacts_tables.py::test_what_is_not_as_described_is_not_written",
    ),
    Mutation(
        "artefacts", "a word of a text table that is none of the choices is written",
        "if column.choices and (strange := sorted(set(known) - set(column.choices))):",
        "if False and (strange := sorted(set(known) - set(column.choices))):",
        "artefacts/test_artefacts_tables.py::test_what_is_not_as_described_is_not_written",
    ),
    Mutation(
        "artefacts", "a list of a text table may be of any length",
        "if any(not isinstance(item, list) or len(item) != length for item in items):",
        "if any(not isinstance(item, list) for item in items):",
        "artefacts/test_artefacts_tables.py::test_what_is_not_as_described_is_not_written",
    ),
    Mutation(
        "artefacts", "a whole number of a float column is written as one",
        "[None if value is None else float(value) for value in values] if column.kind",
        "list(values) if column.kind",
        "artefacts/test_artefacts_tables.py::test_rows_are_written_as_frames_are",
    ),
    Mutation(
        "core", "the version of a package is that of the first name that begins alike",
        "found.setdefault(_normal(name), number)",
        "found.setdefault(_normal(name).partition('_')[0], number)",
        "core/test_core_origin.py::test_versions_are_those_that_packages_give_themselves",
    ),
    Mutation(
        "ingest", "the private table names the counted files of a refusal alone",
        'self.refused[row["item_id"]] = [file["name"] for file in rows]',
        'self.refused[row["item_id"]] = [file["name"] for file in rows[:1]]',
        "ingest/test_ingest_files.py::test_the_private_table_resolves_every_id_and_holds_every_file",
    ),
    Mutation(
        "ingest", "a word that begins with save is a screen save",
        'SAVED & set(described)',
        'any(word.startswith("SAVE") for word in described)',
        "ingest/test_ingest_faults.py::test_no_fault_makes_a_wrong_volume[dicom]",
    ),
    Mutation(
        "ingest", "an element that stands twice is read again",
        "            if tag <= last:",
        "            if tag < last:",
        "ingest/test_ingest_hostile.py::test_an_element_that_stands_twice_is_refused",
    ),
    Mutation(
        "ingest", "the sign bit of 12 bits in 16 is lost",
        "return signed if stored == width else np.right_shift(np.left_shift(signed, width - stored), width - stored)",
        "return signed if stored == width else signed & np.array((1 << stored) - 1, signed.dtype)",
        "ingest/test_ingest_pixels.py::test_lossless_syntax_is_bit_exact",
    ),
    Mutation(
        "ingest", "run-length planes are joined least significant first",
        "out[:, num_planes - 1 - plane] =",
        "out[:, plane] =",
        "ingest/test_ingest_pixels.py::test_lossless_syntax_is_bit_exact",
    ),
    Mutation(
        "ingest", "slices stand in the order of their files",
        "ordered = sorted(slices, key=lambda s: float(s.position @ normal))",
        "ordered = sorted(slices, key=lambda s: s.file)",
        "ingest/test_ingest_faults.py::test_no_fault_makes_a_wrong_volume[dicom]",
    ),
    Mutation(
        "ingest", "a missing slice is an uneven step",
        "if (whole & (np.round(multiples) >= 2)).all() and odd.sum()",
        "if (whole & (np.round(multiples) >= 3)).all() and odd.sum()",
        "ingest/test_ingest_stacks.py::test_a_missing_slice_is_never_resampled",
    ),
    Mutation(
        "ingest", "uneven slices are laid on an even grid as they are",
        'if not interpolate:\n        raise Refusal("uneven", detail + hint)\n    return False',
        'if not interpolate:\n        raise Refusal("uneven", detail + hint)\n    return True',
        "ingest/test_ingest_stacks.py::test_uneven_slices_are_resampled_to_the_truth",
    ),
    Mutation(
        "ingest", "a slice moved sideways is no matter",
        "if off_line > aside_mm:",
        "if off_line > 10 * pixel_mm:",
        "ingest/test_ingest_faults.py::test_no_fault_makes_a_wrong_volume[dicom]",
    ),
    Mutation(
        "ingest", "scans that are half a step apart are one volume",
        "if min(counts.values()) >= min_slices and (attribute.rule",
        "if min(counts.values()) >= 10 * min_slices and (attribute.rule",
        "ingest/test_ingest_slices.py::test_scans_are_not_mixed_by_interpolation",
    ),
    Mutation(
        "ingest", "the volumes of a series are named by the series alone",
        'names = [] if stack.alone else ["of", *stack.instances]',
        "names: list[str] = []",
        "ingest/test_ingest_slices.py::test_the_other_volume_does_not_change_an_id",
    ),
    Mutation(
        "ingest", "small errors of steps add up without a limit",
        "if not odd.any() and abs(from_grid[furthest]) <= SUM_FRAC * median:",
        "if not odd.any():",
        "ingest/test_ingest_slices.py::test_small_errors_to_one_side_have_a_limit",
    ),
    Mutation(
        "ingest", "padding beside one slope stays as it is",
        "replaced = plan.modality == \"CT\" and layout.padding is not None and not storage.apply_rescale",
        "replaced = False",
        "ingest/test_ingest_slices.py::test_padding_becomes_air_and_is_counted",
    ),
    Mutation(
        "ingest", "uneven slices of doubtful scans are interpolated",
        "interpolate=one_scan and options.uneven == \"resample\"",
        "interpolate=options.uneven == \"resample\"",
        "ingest/test_ingest_slices.py::test_uneven_slices_of_doubtful_scans_get_no_hint_and_no_interpolation",
    ),
    Mutation(
        "ingest", "a hole in a contour is filled",
        "area ^= one",
        "area |= one",
        "ingest/test_ingest_labels.py::test_contours_fill_the_voxels_whose_centres_they_enclose",
    ),
    Mutation(
        "ingest", "a polygon leaves out the corners on its lower side",
        "crosses = (start[:, 1] <= j) != (end[:, 1] <= j)",
        "crosses = (start[:, 1] < j) & (end[:, 1] > j)",
        "ingest/test_ingest_labels.py::test_polygon_fill_equals_the_crossing_number_of_every_centre",
    ),
    Mutation(
        "ingest", "metres are taken for micrometres",
        "_UNITS_MM = {1: 1000.0, 2: 1.0, 3: 0.001}",
        "_UNITS_MM = {1: 0.001, 2: 1.0, 3: 1000.0}",
        "ingest/test_ingest_nifti.py::test_the_unit_of_a_nifti_is_that_of_its_header",
    ),
    Mutation(
        "ingest", "two affines of one file need not agree",
        "if apart > limit:",
        "if apart > 100 * limit:",
        "ingest/test_ingest_faults.py::test_no_fault_makes_a_wrong_volume[nifti]",
    ),
    Mutation(
        "ingest", "a contour that is stored twice cuts itself out",
        "if not any(_same_outline(corners, other) for _, other in kept):",
        "if True:",
        "ingest/test_ingest_mask_faults.py::test_a_mask_is_right_or_refused",
    ),
    Mutation(
        "ingest", "two grids are one where they are ten voxels apart",
        "SAME_CORNER_VOX = 0.1",
        "SAME_CORNER_VOX = 10.0",
        "ingest/test_ingest_mask_faults.py::test_a_mask_is_right_or_refused",
    ),
    Mutation(
        "ingest", "the values of a NIfTI are taken for Hounsfield units whatever they are",
        "warnings = run_checks(_as_series(values, storage, request[\"modality\"], request[\"named_as_mask\"]))",
        "warnings: list[str] = []",
        "ingest/test_ingest_faults.py::test_no_fault_makes_a_wrong_volume[nifti]",
    ),
    Mutation(
        "ingest", "an image without a series beside others that have one makes a series of its own",
        "if _folder(row) in named:",
        "if False:",
        "ingest/test_ingest_faults.py::test_no_fault_makes_a_wrong_volume[dicom]",
    ),
    Mutation(
        "ingest", "a label map is an image whatever its name",
        "refuse=series.named_as_mask",
        "refuse=False",
        "ingest/test_ingest_mask_faults.py::test_a_mask_is_right_or_refused",
    ),
    Mutation(
        "ingest", "a MetaImage's matrix is read the other way round",
        "reshape(3, 3).T\n    if not np.allclose(np.linalg.norm(directions",
        "reshape(3, 3)\n    if not np.allclose(np.linalg.norm(directions",
        "ingest/test_ingest_grid_files.py::test_our_own_files_are_read_by_simpleitk_too",
    ),
    Mutation(
        "ingest", "a header may name a data file of another folder",
        "any(sign in name for sign in \"/\\\\\\0\")",
        "any(sign in name for sign in \"\\0\")",
        "ingest/test_ingest_grid_files.py::test_a_header_names_a_file_beside_it_or_none",
    ),
    Mutation(
        "ingest", "a plane is written to its mirror's place",
        "place = self._array.shape[2] - 1 - k if self._turn.flips[2] else k",
        "place = k",
        "ingest/test_ingest_volume_file.py::test_slices_in_any_order_make_the_turned_stack",
    ),
    Mutation(
        "ingest", "any CT is in Hounsfield units",
        "if median > median_hu:",
        "if median < -median_hu:",
        "ingest/test_ingest_checks.py::test_hounsfield_range",
    ),
    Mutation(
        "ingest", "a row of a label table is for the first of several images",
        "if len(found) > 1:\n            raise StudyError(\n                f\"labels: an id",
        "if len(found) > 2:\n            raise StudyError(\n                f\"labels: an id",
        "ingest/test_ingest_label_files.py::test_contradictions_strangers_and_doubtful_names_are_refused",
    ),
    # ---- prepare
    Mutation(
        "prepare", "the window of a constant volume with a falling slope ends before it begins",
        "max(abs(slope), 2 * float",
        "min(slope, 2 * float",
        "prepare/test_prepare_grid.py::test_a_constant_volume_has_a_window_and_is_black_in_it",
    ),
    Mutation(
        "prepare", "the range of an unsigned image forgets its slope",
        "ends = sorted((intercept, intercept + slope * float(np.iinfo(dtype).max)))",
        "ends = sorted((intercept, intercept + float(np.iinfo(dtype).max)))",
        "prepare/test_prepare_grid.py::test_an_unsigned_image_has_the_whole_range_of_its_type",
    ),
    Mutation(
        "ingest", "a modality that is not kept is kept",
        "if not options.modalities or not stated or stated[0] in options.modalities:",
        "if not options.modalities or not stated or stated[0] not in options.modalities:",
        "ingest/test_ingest_modality.py::test_what_is_kept_is_as_it_was_and_the_rest_has_the_code",
    ),
    Mutation(
        "ingest", "a series of two modalities is one",
        "if len(stated) > 1:\n        return Refusal(\"mixed_modality\"",
        "if len(stated) > 2:\n        return Refusal(\"mixed_modality\"",
        "ingest/test_ingest_modality.py::test_a_series_of_two_modalities_is_refused_whatever_is_kept",
    ),
    Mutation(
        "ingest", "a series of two patients is the first one's",
        "        if len(found) > 1:\n            mixed.append(volume)\n        elif found:",
        "        if found:",
        "ingest/test_ingest_subjects.py::test_a_series_whose_files_are_of_two_patients_is_refused",
    ),
    Mutation(
        "ingest", "the name of an unfinished transfer says nothing of the slice that it is",
        "        whole = whole_name(file)\n",
        "        whole = file\n",
        "ingest/test_ingest_unread.py::test_an_end_that_is_not_read_refuses_its_series",
    ),
    Mutation(
        "ingest", "a mask whose axes stand in another order is not turned",
        "        return turned, placed\n",
        "        return values, affine\n",
        "ingest/test_ingest_mask_faults.py::test_a_mask_is_right_or_refused",
    ),
    Mutation(
        "ingest", "a name in composed and in single letters is two patients",
        'return unicodedata.normalize("NFC", text)',
        "return text",
        "ingest/test_ingest_subjects.py::test_a_person_is_one_however_the_letters_are_coded",
    ),
    Mutation(
        "ingest", "numbered scans in folders are of as many patients as there are numbers",
        "return found | {name: folder for name, folder in folders.items() if folder in again}",
        "return found",
        "ingest/test_ingest_subjects.py::test_numbered_scans_in_folders_are_of_the_folders",
    ),
    Mutation(
        "prepare", "one patient of many scans is trained on without a word",
        "if asked and total < FEWEST_UNITS <= scans / total:",
        "if asked and total < 0 <= scans / total:",
        "prepare/test_prepare_split.py::test_many_scans_of_too_few_patients_stop_with_the_cause_and_the_remedy",
    ),
    Mutation(
        "pretrain", "a state is saved of steps whose figures are unread",
        "self.note_steps(everything=True)\n        self.saving.save",
        "self.saving.save",
        "pretrain/test_pretrain_engine.py::test_a_state_is_never_saved_of_a_step_that_is_not_finite",
    ),
    Mutation(
        "pretrain", "a memory is filled with running statistics",
        "with torch.no_grad(), still_statistics(self.objective):\n            for number",
        "self.learner.module.eval()\n        with torch.no_grad(), still_statistics(self.objective):\n            for number",
        "pretrain/test_pretrain_engine.py::test_a_memory_is_filled_with_what_a_step_sees",
    ),
    Mutation(
        "nn", "maps that are computed again count twice in the statistics",
        "again = (contextlib.nullcontext(), still_statistics(stage))",
        "again = (contextlib.nullcontext(), contextlib.nullcontext())",
        "nn/test_nn_checkpointing.py::test_gradients_and_statistics_are_equal_and_less_is_kept",
    ),
    Mutation(
        "nn", "samples on a device are padded with zeros",
        "place.fill_(self.reader.empty(number, integers=not stored.is_floating_point()))",
        "place.fill_(0)",
        "nn/test_nn_resident.py::test_batches_are_those_of_the_reader",
    ),
    Mutation(
        "pretrain", "a contract holds the percentiles of one volume as numbers",
        "for volume in of_ct or volumes} if len(own) < len(volumes) else set()",
        "for volume in of_ct or volumes}",
        "artefacts/test_artefacts_learnt.py::test_the_window_of_a_contract_is_the_rule",
    ),
    Mutation(
        "nn", "a network of slices minds how far they are apart",
        "seen = [one for one in range(3) if depth or one != axis]",
        "seen = list(range(3))",
        "artefacts/test_artefacts_learnt.py::test_the_distance_of_slices_matters_only_where_it_is_seen",
    ),
    Mutation(
        "prepare", "air counts in the percentiles of an MR",
        "ends = percentiles_of(above_minimum(counts), percentiles)",
        "ends = percentiles_of(counts, percentiles)",
        "prepare/test_prepare_grid.py::test_the_window_of_an_mr_is_that_of_its_foreground",
    ),
    Mutation(
        "prepare", "of equal axes the first is cut along",
        "return max(axis for axis in range(3) if spacing_mm[axis] >= largest)",
        "return min(axis for axis in range(3) if spacing_mm[axis] >= largest)",
        "prepare/test_prepare_grid.py::test_slices_are_cut_along_the_coarsest_axis_and_k_wins_ties",
    ),
    Mutation(
        "prepare", "positions run against the slices",
        "if normal @ affine[:3, axis] < 0:",
        "if normal @ affine[:3, axis] > 0:",
        "prepare/test_prepare_grid.py",
    ),
    Mutation(
        "prepare", "a spacing that is nearly there is resampled",
        "same = all(abs(a - b) <= SAME_SPACING_FRAC * b for a, b in zip(have_mm, target, strict=True))",
        "same = all(a == b for a, b in zip(have_mm, target, strict=True))",
        "prepare/test_prepare_grid.py::test_no_resampling_where_the_spacing_is_there_already",
    ),
    Mutation(
        "prepare", "a subject in two parts is not counted",
        'return int((known.groupby("subject_id")["split"].nunique() > 1).sum())',
        'return int((known.groupby("subject_id")["split"].nunique() > 2).sum())',
        "prepare/test_prepare_run.py::test_a_patient_in_two_parts_counts_once_and_one_in_a_single_part_does_not",
    ),
    Mutation(
        "prepare", "a listed split with an unknown part is taken",
        "for part in sorted(found - set(PARTS)):",
        "for part in sorted(set()):",
        "prepare/test_prepare_split.py",
    ),
    # ---- reduce
    Mutation(
        "reduce", "the nearest come back in place of the farthest",
        "back = dropped[np.lexsort((luck[dropped], -apart))][:missing]",
        "back = dropped[np.lexsort((luck[dropped], apart))][:missing]",
        "reduce/test_reduce_traversals.py::test_a_budget_brings_back_the_farthest",
    ),
    Mutation(
        "reduce", "a budget drops the keepers that stand for most",
        "gone = keepers[np.lexsort((luck[keepers], stands_for))][:-missing]",
        "gone = keepers[np.lexsort((luck[keepers], -stands_for))][:-missing]",
        "reduce/test_reduce_traversals.py::test_a_budget_drops_the_keepers_that_stand_for_fewest",
    ),
    Mutation(
        "reduce", "two slices at the threshold are apart",
        "near = apart <= threshold\n            twin[rest[near]] = members[anchor]",
        "near = apart < threshold\n            twin[rest[near]] = members[anchor]",
        "reduce/test_reduce_traversals.py",
    ),
    Mutation(
        "reduce", "the cover forgets who is covered already",
        "count -= near[:, covered].sum(1) + near[:, keeper]",
        "count -= near[:, keeper]",
        "reduce/test_reduce_traversals.py::test_cover_equals_its_definition_where_neighbourhoods_overlap",
    ),
    Mutation(
        "reduce", "what is left of equal shares goes to no one",
        "    share[room] += 1\n",
        "",
        "reduce/test_reduce_traversals.py",
    ),
    Mutation(
        "reduce", "the difference hash is that of the mirror image",
        "return pixels[:, :, 1:] > pixels[:, :, :-1]",
        "return pixels[:, :, 1:] < pixels[:, :, :-1]",
        "reduce/test_reduce_hashes.py",
    ),
    Mutation(
        "reduce", "the first bit of a hash is the lowest",
        "padded = np.pad(flat, ((0, 0), (spare, 0)))\n    return np.packbits(padded, axis=1)",
        'padded = np.pad(flat, ((0, 0), (spare, 0)))\n    return np.packbits(padded, axis=1, bitorder="little")',
        "reduce/test_reduce_hashes.py",
    ),
    Mutation(
        "reduce", "the window of 16-bit codes ends one too low",
        "return np.bincount(codes.reshape(-1), minlength=last - first + 1)",
        "return np.bincount(codes.reshape(-1)[1:], minlength=last - first + 1)",
        "reduce/test_reduce_similarity.py reduce/test_reduce_hashes.py reduce/test_reduce_run.py",
    ),
    Mutation(
        "reduce", "entropy is in nats",
        "return float(max(-(share * np.log2(share)).sum(), 0.0))",
        "return float(max(-(share * np.log(share)).sum(), 0.0))",
        "reduce/test_reduce_similarity.py",
    ),
    Mutation(
        "reduce", "a slice is compared with the one before, not with the one kept",
        "                if step > threshold:\n                    last = index\n                else:\n"
        "                    twin[index], distance[index] = last, step",
        "                if step <= threshold:\n                    twin[index], distance[index] = last, step\n"
        "                last = index",
        "reduce/test_reduce_similarity.py::test_a_change_of_entropy_is_counted_from_the_slice_kept_last_in_the_volume",
    ),
    Mutation(
        "reduce", "every n-th slice is counted through the cohort, not in its volume",
        'first = np.searchsorted(self.slices.volume, self.slices.volume, side="left")',
        "first = 0",
        "reduce/test_reduce_run.py::test_all_keeps_all_and_every_n_counts_along_each_volume",
    ),
    Mutation(
        "reduce", "structure is compared without its contrast",
        "bottom *= a.variance + b.variance",
        "bottom *= 2 * a.variance",
        "reduce/test_reduce_similarity.py",
    ),
    Mutation(
        "reduce", "a mirrored copy is a stranger to the firewall",
        "for flips in itertools.product((1, -1), repeat=axes)",
        "for flips in itertools.product((1,), repeat=axes)",
        "reduce/test_reduce_leakage.py",
    ),
    # ---- nn
    Mutation(
        "nn", "a turn squeezes the image",
        "* scale[1] - 1, sin * along[0] * scale[1]]",
        "* scale[1] - 1, -sin * along[0] * scale[1]]",
        "nn/test_nn_views.py::test_a_turned_view_is_that_of_affine_grid",
    ),
    Mutation(
        "nn", "crops never reach the far edge",
        "centre = side / 2 + u[:, POSITION : POSITION + dims] * (extent - side)",
        "centre = side / 2 + u[:, POSITION : POSITION + dims] * (extent - side) / 2",
        "nn/test_nn_views.py::test_crops_reach_both_edges",
    ),
    Mutation(
        "nn", "the jitter of the window brightens",
        "settings.window_jitter * (u[:, CENTRE, None] - 0.5)",
        "settings.window_jitter * u[:, CENTRE, None]",
        "nn/test_nn_views.py::test_the_jitter_of_the_window_is_unbiased",
    ),
    Mutation(
        "nn", "the jitter of the window widens",
        "width = width * (1 + settings.window_jitter * (2 * u[:, WIDTH, None] - 1))",
        "width = width * (1 + settings.window_jitter * u[:, WIDTH, None])",
        "nn/test_nn_views.py::test_the_jitter_of_the_window_is_unbiased",
    ),
    Mutation(
        "nn", "gamma only darkens",
        "exponent = torch.exp(math.log(settings.gamma) * (2 * u[:, GAMMA] - 1))",
        "exponent = torch.exp(math.log(settings.gamma) * u[:, GAMMA])",
        "nn/test_nn_views.py::test_gamma_darkens_as_often_as_it_brightens",
    ),
    Mutation(
        "nn", "blur dims the edges",
        "return (blurred / inside[:, None, :, None]).view(images.shape)",
        "return blurred.reshape(images.shape)",
        "nn/test_nn_views.py::test_blur_is_a_gaussian_that_keeps_constants",
    ),
    Mutation(
        "nn", "the box of a cut-out is never at the end",
        "start = u[:, BOX + d, None] * (size - side)",
        "start = u[:, BOX + d, None] * (size - 2 * side)",
        "nn/test_nn_views.py::test_cut_out_boxes_have_their_size_and_reach_both_edges",
    ),
    Mutation(
        "nn", "a second window begins where the first does",
        "gain, offset = slope[:, None] / (high - low), (base - low) / (high - low)",
        "gain, offset = slope[:, None] / (high - low), (base - base) / (high - low)",
        "contracts/test_contracts_windows.py::test_every_reader_sees_the_same_windows",
    ),
    Mutation(
        "nn", "two slices of a volume repel although they should not",
        "blocked = same.repeat(2, 2).scatter(1, target[:, None], False)",
        "blocked = torch.zeros_like(logits, dtype=torch.bool)",
        "pretrain/test_pretrain_references.py::test_nt_xent_is_the_double_loop_of_the_paper",
    ),
    Mutation(
        "nn", "a patch lies beside its slice",
        "start[axis] = min(max(int(self.samples.index[row]) - shape[axis] // 2, 0), room[axis])",
        "start[axis] = min(max(int(self.samples.index[row]) - shape[axis], 0), room[axis])",
        "nn/test_nn_loading.py::test_a_patch_holds_its_slice_and_stays_inside",
    ),
    Mutation(
        "nn", "the padding of a plane is black only where its intercept is 0",
        "number = (of.low[0] - of.intercept) / of.slope",
        "number = of.low[0] / of.slope",
        "nn/test_nn_loading.py::test_beyond_a_plane_lies_the_low_end_of_its_window",
    ),
    Mutation(
        "nn", "codes are shared among the images and not among the prototypes",
        "log_q = log_q - torch.logsumexp(log_q, 0, keepdim=True) - torch.log(torch.tensor(float(k)))",
        "log_q = log_q - torch.logsumexp(log_q, 1, keepdim=True) - torch.log(torch.tensor(float(k)))",
        "pretrain/test_pretrain_references.py::test_sinkhorn_is_the_papers",
    ),
    Mutation(
        "nn", "whitened channels do not go back to their places",
        "return white[:, torch.argsort(order)]",
        "return white[:, order]",
        "pretrain/test_pretrain_references.py::test_whitened_groups_are_uncorrelated_and_channels_keep_their_places",
    ),
    Mutation(
        "nn", "the learning rate warms up from the first step to the last",
        "    if step < warmup:\n        return step / warmup",
        "    if step < warmup:\n        return 1.0",
        "pretrain/test_pretrain_references.py::test_the_schedule_is_zero_one_zero",
    ),
    Mutation(
        "nn", "the target of BYOL stands still",
        "return 1 - (1 - start) * (math.cos(math.pi * min(1.0, progress)) + 1) / 2",
        "return start",
        "pretrain/test_pretrain_references.py::test_the_momentum_goes_from_its_start_to_one_at_the_true_end",
    ),
    Mutation(
        "nn", "the rank of a representation is that of its mean too",
        "return _entropy_rank(x.float() - x.float().mean(0))",
        "return _entropy_rank(x.float())",
        "pretrain/test_pretrain_engine.py::test_health_of_known_clouds",
    ),
    Mutation(
        "nn", "uniformity counts each pair once and divides by twice as many",
        "math.log(len(x) * (len(x) - 1) / 2))",
        "math.log(len(x) * (len(x) - 1)))",
        "pretrain/test_pretrain_engine.py::test_health_of_known_clouds",
    ),
    # ---- pretrain
    Mutation(
        "pretrain", "earlier keys of an image are its negatives",
        "own |= batch.rows[:, None] == self.queue_row[None, :]",
        "own |= False",
        "pretrain/test_pretrain_references.py::test_moco_tells_its_key_from_the_queue",
    ),
    Mutation(
        "pretrain", "the queue always begins at its start",
        "places = (self.queue_next + torch.arange(len(keys), device=keys.device)) % len(self.queue)",
        "places = torch.arange(len(keys), device=keys.device) % len(self.queue)",
        "pretrain/test_pretrain_references.py::test_the_queue_forgets_the_oldest_first_and_knows_its_age",
    ),
    Mutation(
        "pretrain", "a view predicts itself",
        '(outputs["prediction_a"] * outputs["target_b"]).sum(1)',
        '(outputs["prediction_a"] * outputs["target_a"]).sum(1)',
        "pretrain/test_pretrain_references.py::test_byol_is_the_squared_distance_of_unit_vectors_both_ways",
    ),
    Mutation(
        "pretrain", "prototypes move from the first step",
        "if step < self.freeze_prototypes_steps:",
        "if step < 0:",
        "pretrain/test_pretrain_references.py::test_prototypes_are_frozen_for_iterations_not_epochs",
    ),
    Mutation(
        "pretrain", "the last slice of a partition has no next one",
        "following[order] = order[torch.where(at == last, first, at + 1)]",
        "following[order] = order[torch.where(at == last, at, at + 1)]",
        "pretrain/test_pretrain_contrast.py::test_batches_hold_all_partitions_alike_and_in_time_every_slice_the_tail_included",
    ),
    Mutation(
        "pretrain", "partitions are those of the kept slices' numbers, not of the volume's extent",
        "return (2 * samples.index.astype(np.int64) + 1) * count // (2 * depth)",
        "return samples.index.astype(np.int64) * count // (depth + 1)",
        "pretrain/test_pretrain_contrast.py::test_every_slice_has_a_partition_in_order_and_their_sizes_differ_by_one",
    ),
    Mutation(
        "pretrain", "hidden patches are predicted in their own units without their mean",
        "return (target - mean) / (variance + EPSILON).sqrt()",
        "return target / (variance + EPSILON).sqrt()",
        "pretrain/test_pretrain_spark.py::test_the_loss_is_that_of_a_slow_reference_over_masked_patches",
    ),
    Mutation(
        "pretrain", "the loss counts the patches that are seen",
        "counted = varied if self.exclude_constant else ~active",
        "counted = varied if self.exclude_constant else ~constant",
        "pretrain/test_pretrain_spark.py::test_the_loss_is_that_of_a_slow_reference_over_masked_patches",
    ),
    Mutation(
        "pretrain", "a bag takes the first slices of its strips",
        "place = edges[:-1] + np.floor(within * np.diff(edges)).astype(np.int64)",
        "place = edges[:-1] + np.floor(within * 0).astype(np.int64)",
        "pretrain/test_pretrain_joint.py::test_a_bag_has_one_slice_of_each_strip_in_order",
    ),
    Mutation(
        "pretrain", "regions overlap",
        "steps = [(side - region) // STEPS for side in size]",
        "steps = [side // (2 * STEPS) for side in size]",
        "pretrain/test_pretrain_contrast.py::test_the_regions_of_the_paper_lie_where_its_code_puts_them",
    ),
    Mutation(
        "pretrain", "the negatives of a place come from one map only",
        "others = torch.cat([a[:, negatives], b[:, negatives]], dim=2)",
        "others = torch.cat([a[:, negatives], a[:, negatives]], dim=2)",
        "pretrain/test_pretrain_contrast.py::test_the_local_loss_is_the_double_loop_of_the_paper",
    ),
    # ---- finetune
    Mutation(
        "finetune", "a patch is moved without what lies beside it",
        "room = margins(size) if recipe.augment else",
        "room = margins(size) if False else",
        "finetune/test_finetune_few_labels.py::test_patches_inside_a_scan_are_full_however_they_are_moved",
    ),
    Mutation(
        "finetune", "one patient chooses the step",
        "chooses=self._num_choosing(fit) >= recipe.choose_from,",
        "chooses=True,",
        "finetune/test_finetune_segmentation.py::test_two_validation_patients_choose_no_step",
    ),
    Mutation(
        "finetune", "the first rate is taken whatever the others score",
        "key=lambda fitted: fitted.facts.get(\"val_score\", -math.inf)",
        "key=lambda fitted: 0",
        "finetune/test_finetune_classification.py::test_each_start_takes_the_rate_that_its_validation_cases_prefer",
    ),
    Mutation(
        "finetune", "fits side by side run on as many threads as the job has",
        "torch.set_num_threads(options.threads_per_fit)",
        "torch.set_num_threads(job.threads)",
        "finetune/test_finetune_side_by_side.py::test_a_fit_runs_on_the_threads_that_the_study_says",
    ),
    Mutation(
        "finetune", "a turn of an oblong image is a shear",
        "matrix[:, 1, 0], matrix[:, 1, 1] = sine / ratio, cosine",
        "matrix[:, 1, 0], matrix[:, 1, 1] = sine * ratio, cosine",
        "finetune/test_finetune_recipe.py::test_a_turn_keeps_distances_and_the_scale_is_one_for_all_axes",
    ),
    Mutation(
        "finetune", "the shift is to one side",
        "shift = 2 * MAX_SHIFT_FRAC * centred[:, 2 : 2 + rank]",
        "shift = 2 * MAX_SHIFT_FRAC * draw[:, 2 : 2 + rank]",
        "finetune/test_finetune_recipe.py::test_the_neutral_draw_is_the_identity",
    ),
    Mutation(
        "finetune", "the labels of a mixture are not mixed",
        "tuple(_mixed(values, values[partner], share) for values in (images, targets))",
        "(_mixed(images, images[partner], share), targets)",
        "finetune/test_finetune_few_labels.py::test_images_and_masks_are_mixed_with_the_same_partner_in_the_same_share",
    ),
    Mutation(
        "finetune", "the rate of the backbone does not double",
        "return min(1.0, 0.1 * 2.0 ** ((step - frozen)",
        "return min(1.0, 0.1 * 1.5 ** ((step - frozen)",
        "finetune/test_finetune_recipe.py::test_unfreezing_follows_the_published_protocol",
    ),
    Mutation(
        "finetune", "a small subset may lack a class",
        "return list(order[: max(share.units(len(order)), num_cover, 1)])",
        "return list(order[: max(share.units(len(order)), 1)])",
        "finetune/test_finetune_subsets.py::test_every_class_is_in_every_subset",
    ),
    Mutation(
        "finetune", "half a unit is rounded away",
        "np.floor(self.amount * num_units + 0.5))",
        "np.floor(self.amount * num_units))",
        "finetune/test_finetune_subsets.py::test_half_a_unit_is_a_unit",
    ),
    Mutation(
        "finetune", "ties count as wrong in the AUC of validation",
        "ranks = rankdata(values)",
        'ranks = rankdata(values, method="min")',
        "finetune/test_finetune_recipe.py::test_macro_auc_equals_scikit_learn",
    ),
    Mutation(
        "finetune", "a log loss is called an AUC",
        "return MACRO_AUC if any(",
        "return MACRO_AUC if not any(",
        "finetune/test_finetune_recipe.py::test_a_score_is_what_its_name_says",
    ),
    Mutation(
        "finetune", "every round of self-training guesses with the first network",
        "fitted = refit(guesses)\n",
        "fitted.facts |= refit(guesses).facts\n",
        "finetune/test_finetune_few_labels.py::test_each_round_learns_from_the_guesses_of_the_round_before_alone",
    ),
    Mutation(
        "finetune", "inflated kernels are as many times too strong as they are deep",
        "tensor = (tensor[..., None] / wanted.shape[-1]).expand(",
        "tensor = tensor[..., None].expand(",
        "finetune/test_finetune_lifting.py::test_a_volume_of_equal_slices_looks_to_inflated_kernels_like_a_slice",
    ),
    Mutation(
        "finetune", "a patch hangs over the edge of a scan that has room for it",
        "start = int(np.clip(middle - want // 2, 0, have - want)) if have >= want",
        "start = int(middle - want // 2) if have >= want",
        "finetune/test_finetune_segmentation.py::test_patches_are_parts_of_the_scan_and_zeros_outside",
    ),
    Mutation(
        "finetune", "the last step is taken for the best",
        "if best is None or not choose or math.isnan(current) or current > best[0]:",
        "if best is None or not choose or math.isnan(current) or current > -1:",
        "finetune/test_finetune_recipe.py::test_the_network_ends_with_the_weights_of_its_best_step",
    ),
    Mutation(
        "finetune", "the head learns at the rate of a layer below",
        '"share": recipe.layer_decay**below,',
        '"share": recipe.layer_decay ** (below + 1),',
        "finetune/test_finetune_recipe.py::test_layer_decay_gives_deeper_blocks_the_larger_rate",
    ),
    Mutation(
        "finetune", "a run is fine-tuned with the seeds of others",
        "return [fit for fit in fits if not (pair_seeds and fit.start.arm.is_run) or fit.seed == fit.start.seed]",
        "return list(fits)",
        "finetune/test_finetune_recipe.py::test_paired_seeds_give_scratch_as_many_fits_as_an_arm",
    ),
    Mutation(
        "finetune", "neighbours vote alike, however near",
        "weight = np.exp((1 - distance**2 / 2 - 1) / temperature)",
        "weight = np.ones_like(distance)",
        "finetune/test_finetune_probe.py::test_neighbours_equal_a_slow_vote",
    ),
    Mutation(
        "finetune", "the bias of a probe forgets the mean of its features",
        "probe = Probe(raw, bias - raw @ mean, penalty,",
        "probe = Probe(raw, bias, penalty,",
        "finetune/test_finetune_probe.py::test_probe_equals_a_standardised_logistic_regression",
    ),
    Mutation(
        "finetune", "a fit depends on the labels of its test cases",
        '_with_truth(cases, cases.where("val"))',
        "_with_truth(cases, np.arange(len(cases)))",
        "finetune/test_finetune_kept_fits.py::test_a_changed_label_of_a_test_case_makes_no_fit_and_is_in_the_tables",
    ),
    Mutation(
        "finetune", "a model can be let go between its fit and the results",
        "            link(folder / MODEL, model)\n",
        "            pass\n",
        "finetune/test_finetune_kept_fits.py::test_a_model_that_another_task_lets_go_is_still_in_the_results",
    ),
    # ---- evaluate
    Mutation(
        "evaluate", "the area under a curve is that of its upper steps",
        "area = (steps * (hits[:, 1:] + hits[:, :-1])).sum(axis=1) / 2",
        "area = (steps * hits[:, 1:]).sum(axis=1)",
        "evaluate/test_evaluate_classification.py::test_ranking_metrics_equal_scikit_learn",
    ),
    Mutation(
        "evaluate", "equal probabilities are ordered by their place",
        "last_of_ties = np.append(np.diff(scores[order]) != 0, True)",
        "last_of_ties = np.ones(len(order), bool)",
        "evaluate/test_evaluate_classification.py::test_ranking_metrics_equal_scikit_learn",
    ),
    Mutation(
        "evaluate", "a confidence at the edge is of the bin above",
        "np.ceil(confidence * bins).astype(int) - 1",
        "np.floor(confidence * bins).astype(int)",
        "evaluate/test_evaluate_classification.py::test_calibration_error_equals_a_slow_reference",
    ),
    Mutation(
        "evaluate", "the Brier score of two classes is counted twice",
        "sample.mean(distance / 2 if num_classes == 2 else distance)",
        "sample.mean(distance)",
        "evaluate/test_evaluate_classification.py::test_brier_equals_scikit_learn",
    ),
    Mutation(
        "evaluate", "the surface distance is that of the better direction",
        "return float(max(np.percentile(distances, percentile)",
        "return float(min(np.percentile(distances, percentile)",
        "evaluate/test_evaluate_segmentation.py::test_metrics_equal_monai",
    ),
    Mutation(
        "evaluate", "all of a mask is its surface",
        "of_target = masks.target ^ ndimage.binary_erosion(masks.target)",
        "of_target = masks.target",
        "evaluate/test_evaluate_segmentation.py::test_metrics_equal_monai",
    ),
    Mutation(
        "evaluate", "voxels are cubes",
        "to_target = ndimage.distance_transform_edt(~of_target, sampling=masks.spacing_mm)",
        "to_target = ndimage.distance_transform_edt(~of_target)",
        "evaluate/test_evaluate_segmentation.py::test_metrics_equal_monai",
    ),
    Mutation(
        "evaluate", "the variance of DeLong is that of the population",
        "variance = on_positives.var(ddof=1) / len(on_positives)",
        "variance = on_positives.var() / len(on_positives)",
        "evaluate/test_evaluate_intervals.py::test_delong_equals_the_pairwise_definition",
    ),
    Mutation(
        "evaluate", "the skew of the jackknife has the wrong sign",
        "away = jackknife.mean() - jackknife",
        "away = jackknife - jackknife.mean()",
        "evaluate/test_evaluate_intervals.py::test_the_interval_equals_scipys_bca_on_the_same_resamples",
    ),
    Mutation(
        "evaluate", "Holm's steps may fall",
        "np.minimum(1.0, np.maximum.accumulate(p[order] * factors))",
        "np.minimum(1.0, p[order] * factors)",
        "evaluate/test_evaluate_intervals.py::test_holm_by_hand",
    ),
    Mutation(
        "evaluate", "a replicate is drawn of one unit less",
        "integers(0, num_units, size=(num_bootstrap, num_units))",
        "integers(0, num_units - 1, size=(num_bootstrap, num_units))",
        "evaluate/test_evaluate_intervals.py::test_every_unit_is_drawn_as_often_as_another",
    ),
    # ---- report
    Mutation(
        "report", "a series is drawn 250 pixels to the right",
        "spots = [(frame.x(a) + nudge, frame.y(b)) for a, b in line.points]",
        "spots = [(frame.x(a) + nudge + 250, frame.y(b)) for a, b in line.points]",
        "report/test_report_chart.py::test_a_point_is_drawn_where_the_scale_says",
    ),
    Mutation(
        "report", "the whiskers of a series stand beside its scale",
        "low, high = (frame.y(v) for v in line.intervals[i])",
        "low, high = (frame.y(v) + 20 for v in line.intervals[i])",
        "report/test_report_chart.py::test_whiskers_end_where_the_scale_says",
    ),
    Mutation(
        "report", "several series are moved to one side",
        "nudge = (place - (len(lines) - 1) / 2) * 5 if line.intervals else 0.0",
        "nudge = place * 5 if line.intervals else 0.0",
        "report/test_report_chart.py::test_several_series_stand_evenly_round_their_place",
    ),
    Mutation(
        "report", "every interval of a forest begins at the edge",
        'd="M{across(row.low):.1f} {y:.1f}H{across(row.high):.1f}"/>\')',
        'd="M{left:.1f} {y:.1f}H{across(row.high):.1f}"/>\')',
        "report/test_report_chart.py::test_a_forest_is_drawn_where_its_scale_says",
    ),
    Mutation(
        "report", "bars are not on one scale",
        "wide = room * length / longest",
        "wide = room * length / sum(part for part, _, _ in row.parts)",
        "report/test_report_chart.py::test_bars_are_as_long_as_their_numbers",
    ),
    Mutation(
        "report", "percents are per mille",
        "share = 100 * float(value)",
        "share = 1000 * float(value)",
        "report/test_report_drawings.py::test_percents_say_the_number",
    ),
    Mutation(
        "report", "a small percentage is written as none",
        "if share and abs(share) < 1 and digits == 0:",
        "if share and abs(share) < 0.5 and digits == 0:",
        "report/test_report_drawings.py::test_percents_say_the_number",
    ),
    Mutation(
        "report", "an hour and a half is written as hours before it is over",
        "value < 5400 else",
        "value < 3600 else",
        "report/test_report_drawings.py::test_numbers_are_written_for_people",
    ),
    Mutation(
        "report", "a file is named by another alphabet",
        "base64.urlsafe_b64encode(bytes.fromhex(sha256))",
        "base64.b64encode(bytes.fromhex(sha256))",
        "report/test_report_files.py::test_files_are_named_by_their_content",
    ),
    Mutation(
        "report", "scores of two reports meet although they differ in their options",
        "keys = [*KEYS, *(name for name in FINER_KEYS if all(name in table for table in tables))]",
        "keys = [*KEYS]",
        "report/test_report_files.py::test_scores_meet_only_where_everything_agrees "
        "report/test_report_shares.py::test_scores_of_more_labels_than_were_asked_for_do_not_meet_others",
    ),
    Mutation(
        "report", "a share that took more than was asked for is named as asked",
        "if more and num_units:",
        "if more and not num_units:",
        "report/test_report_shares.py::test_a_share_is_named_by_what_was_taken_where_each_class_needs_more",
    ),
    # ---- the check before work
    Mutation(
        'study',
        'class folders bring no labels in the check',
        '    return {label for label, _ in folder_labels(files.named(PICTURE, OTHER)).values()}',
        '    return set()',
        'study/test_study_check_labels.py::test_a_task_needs_labels_that_its_source_can_have',
    ),
    Mutation(
        'study',
        'flat pictures pass as folders of classes',
        '    elif not any("/" in name for name in given.files.names):',
        '    elif not given.files.names:',
        'study/test_study_check_labels.py::test_a_task_needs_labels_that_its_source_can_have',
    ),
    Mutation(
        'study',
        'a label file of any kind passes',
        '    if any(head[at : at + len(mark)] == mark for at, mark in MAGIC):',
        '    if head:',
        'study/test_study_check_labels.py::test_a_task_needs_labels_that_its_source_can_have',
    ),
    Mutation(
        'study',
        'one class is enough',
        '        elif len(found) < least:',
        '        elif len(found) < 1:',
        'study/test_study_check_labels.py::test_a_label_table_fits_the_files_of_its_source',
    ),
    Mutation(
        'study',
        'a table for no file passes',
        '    if not known:\n        example',
        '    if False:\n        example',
        'study/test_study_check_labels.py::test_a_label_table_fits_the_files_of_its_source',
    ),
    Mutation(
        'study',
        'rows of one file may differ',
        'any(before.get(name) != row.get(name) for name in ("label", *groups))',
        'before is None',
        'study/test_study_check_labels.py::test_a_label_table_fits_the_files_of_its_source',
    ),
    Mutation(
        'study',
        'a misspelt part passes',
        '    yield from _unknown_parts(table)\n',
        '',
        'study/test_study_check_labels.py::test_a_label_table_fits_the_files_of_its_source',
    ),
    Mutation(
        'study',
        'the check knows no names without a suffix',
        'self._certain.get(name) or self.subjects.get(row["file"]) or self._short.get(name, [])',
        'self._certain.get(name) or self.subjects.get(row["file"]) or []',
        'study/test_study_check_labels.py::test_the_files_of_a_row_are_those_that_ingest_finds',
    ),
    Mutation(
        'study',
        'nobody to test on passes',
        '    elif parts == set() and split.test_frac == 0:',
        '    elif parts == set() and split.test_frac < 0:',
        'study/test_study_check_split.py::test_a_task_needs_somebody_to_test_on',
    ),
    Mutation(
        'study',
        'more folds than patients pass',
        '    if folds is not None and most is not None and most < folds:',
        '    if folds is not None and most is not None and most < 1:',
        'study/test_study_check_split.py::test_more_folds_than_patients_are_refused',
    ),
    Mutation(
        'study',
        'a size of another rank passes',
        '    if len(size) < 2 or len(size) == rank:',
        '    if len(size) < 4 or len(size) == rank:',
        'study/test_study_check_starts.py::test_the_networks_of_a_task_are_of_one_rank_and_its_size_too',
    ),
    Mutation(
        'study',
        'any file passes as weights',
        '    if first != b"{" or int',
        '    if False and int',
        'study/test_study_check_starts.py::test_weights_are_a_safetensors_file',
    ),
    Mutation(
        'study',
        'scratch cannot be compared',
        '    starts = [SCRATCH, *study.pretrain,',
        '    starts = [*study.pretrain,',
        'study/test_study_check_starts.py::test_pairs_are_compared_exactly_where_the_evaluation_finds_both_arms',
    ),
    Mutation(
        'study',
        'pairs that no task has pass',
        '        if any(asked_pairs(of_task, [pair]) for of_task in arms.values()):',
        '        if arms:',
        'study/test_study_check_starts.py::test_pairs_are_compared_exactly_where_the_evaluation_finds_both_arms',
    ),
    Mutation(
        'study',
        'a file of ingest leads to everything',
        '        if file.is_relative_to(root) and file != root:',
        '        if file == root:',
        'study/test_study_reach.py::test_a_target_leads_to_the_jobs_before_it_and_to_no_others',
    ),
    Mutation(
        'study',
        'a chain is not followed back',
        '            waiting += [*_begun_from(dag, pair[1]), *_embedding(dag, pair[1].arm)]',
        '            waiting += _embedding(dag, pair[1].arm)',
        'study/test_study_reach.py::test_the_jobs_that_a_file_leads_to_are_those_whose_specs_say_so',
    ),
    Mutation(
        'study',
        'a value may stand twice in a list',
        '        if name in names[:place]:',
        '        if name in names[:0]:',
        'study/test_study_file.py::test_a_value_that_stands_twice_in_a_list_is_refused',
    ),
    Mutation(
        'study',
        'an empty list of what to do passes',
        '    if not values:\n        raise ValueError("this list',
        '    if values is None:\n        raise ValueError("this list',
        'study/test_study_file.py::test_an_empty_list_is_refused_where_it_would_leave_nothing_to_do',
    ),
    Mutation(
        'study',
        "a pre-training's seed may be below zero",
        '    seeds: OneOrMore[Whole] = [0]\n',
        '    seeds: OneOrMore[int] = [0]\n',
        'study/test_study_file.py::test_a_seed_below_zero_is_refused',
    ),
    Mutation(
        'study',
        'results are read as images',
        '        if own.is_relative_to(place):',
        '        if own == place.parent:',
        'study/test_study_check_mistakes.py::test_what_cannot_work_is_refused',
    ),
    Mutation(
        'study',
        'a folder that is closed passes as the place of results',
        '    if not os.access(there, os.W_OK | os.X_OK):',
        '    if not there.exists():',
        'study/test_study_check_mistakes.py::test_a_folder_that_cannot_be_written_to_is_refused',
    ),
    Mutation(
        'study',
        'one class in two spellings is two',
        '        if len(names) > 1:\n            yield f"the classes',
        '        if len(names) > 2:\n            yield f"the classes',
        'study/test_study_check_mistakes.py::test_a_label_table_that_says_something_else_than_is_meant_is_refused',
    ),
    Mutation(
        'study',
        'the word for no value is a class',
        'name in read if row.get(name, "").lower() in NO_VALUE]',
        'name in read if row.get(name, "") in NO_VALUE]',
        'study/test_study_check_mistakes.py::test_a_label_table_that_says_something_else_than_is_meant_is_refused',
    ),
    Mutation(
        'study',
        'a positive class that no task has passes',
        'and None not in classes.values() and wanted not in known:',
        'and None not in classes.values() and not known:',
        'study/test_study_check_mistakes.py::test_what_cannot_work_is_refused',
    ),
    Mutation(
        'study',
        'more patients than there are may be asked for',
        '    if most is not None and count > most:',
        '    if most is not None and count > 2 * most:',
        'study/test_study_check_mistakes.py::test_what_cannot_work_is_refused',
    ),
    Mutation(
        'study',
        'a threshold beyond every distance passes',
        'arm.threshold > most:',
        'arm.threshold > 20 * most:',
        'study/test_study_check_mistakes.py::test_what_cannot_work_is_refused',
    ),
    Mutation(
        'study',
        'pictures pass for volumes',
        'return source in listed and listed[source].all_are(PICTURE, NPZ)',
        'return source in listed and listed[source].all_are(NPZ)',
        'study/test_study_check_mistakes.py::test_what_cannot_work_is_refused',
    ),
    Mutation(
        'study',
        'a column in capitals is not read and not said',
        '    _require_small_letters(header)\n',
        '',
        'study/test_study_check_mistakes.py::test_a_label_table_that_says_something_else_than_is_meant_is_refused',
    ),
    Mutation(
        'study',
        'yes is 1',
        '        raise ValueError(f"expected a number, got {in_yaml(value)} {_AS_TRUTH}")',
        '        value = int(value)',
        'study/test_study_file.py::test_a_wrong_value_is_explained_in_the_words_of_a_study_file',
    ),
    Mutation(
        'study',
        'a value alone is no list',
        '        value = [value]\n',
        '        pass\n',
        'study/test_study_file.py::test_a_value_alone_is_a_list_of_one',
    ),
    Mutation(
        'study',
        'a path is taken as it is written',
        '    return os.path.expanduser(text)',
        '    return text',
        'study/test_study_file.py::test_a_tilde_is_the_home_in_every_path',
    ),
    Mutation(
        'study',
        'noise of the memory passes for what a sample takes',
        'peaks_mb[1] - peaks_mb[0] < CLEAR_MB',
        'peaks_mb[1] - peaks_mb[0] <= 0',
        'study/test_study_planning.py::test_equal_runs_get_equal_advice_within_a_factor_of_two',
    ),
    Mutation(
        'study',
        'SIGTERM leaves the jobs running',
        'child.terminate()',
        'child.is_running()',
        'study/test_study_stopping.py::test_a_signal_goes_on_to_jobs_that_nobody_else_tells',
    ),
    Mutation(
        'study',
        'a dry run leaves out receipts for good',
        'results = [*_all_files(folders[:2]), *receipts]',
        'results = _all_files(folders[:2])',
        'study/test_study_dry.py::test_it_plans_without_the_receipts_that_a_real_run_drops_and_they_come_back',
    ),
    Mutation(
        'core',
        'every sentence gets a full stop',
        'return text if text.endswith((".", "?", "!", "…")) else f"{text}."',
        'return f"{text}."',
        'core/test_core_errors.py::test_a_sentence_ends_once',
    ),
]  # fmt: skip
