"""What the README says is refused, line by line, with the tests that show it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

SHOWN_BY = {
    "Train on nothing.": [
        "hf/test_train.py::test_a_run_that_would_be_wasted_stops_and_says_what_to_change",
        "hf/test_train.py::test_the_end_of_turn_must_be_learned_and_be_where_generation_stops",
        "hf/test_plan.py::test_answers_that_are_all_cut_off_block_though_a_system_turn_holds_the_same_end_token",
        "hf/test_plan.py::test_a_template_that_ends_no_turn_blocks",
    ],
    "Train on what a file holds back or marks as bad.": [
        "test_data_wanted.py::test_rows_of_another_part_are_never_trained_on",
        "test_data_wanted.py::test_rows_and_turns_of_weight_zero_are_not_learned",
        "test_data_wanted.py::test_bad_answers_are_learned_only_as_told",
        "test_data_wanted.py::test_a_weight_that_only_some_rows_have_is_followed",
        "test_data_wanted.py::test_marks_that_only_some_rows_have_are_asked_about",
    ],
    "Publish a no-op.": [
        "hf/test_train.py::test_a_run_that_would_be_wasted_stops_and_says_what_to_change",
        "hf/test_train.py::test_a_loss_that_is_not_a_number_stops_at_once",
        "test_registry.py::test_what_does_not_fit_its_base_is_not_published",
        "test_imports.py::test_every_hostile_input_gets_one_clear_error_and_leaves_nothing",
    ],
    "Round away what was learned.": [
        "hf/test_train.py::test_weights_that_learned_less_than_bfloat16_can_tell_are_saved_in_float32",
        "hf/test_cli_train.py::test_full_weights_are_scored_as_they_are_saved",
    ],
    "Find out at the end.": ["hf/test_rehearsal.py::test_the_families_that_crashed_are_trained"],
    "Mix rows up.": [
        "hf/test_proof.py::test_the_proof_catches_each_mistake",
        "hf/test_proof.py::test_what_is_proven_has_the_scores_and_gradients_of_rows_alone",
        "hf/test_proof.py::test_what_cannot_pack_says_why",
    ],
    "Claim without evidence.": [
        "hf/test_cli_train.py::test_the_way_of_an_adapter",
        "hf/test_evaluate.py::test_scores_equal_a_plain_pass_with_and_without_the_shared_start",
        "test_evidence.py::test_no_flips_never_give_a_zero_width_interval",
        "test_imports.py::test_an_imported_adapter_that_is_scored_here_does_not_claim_our_data",
    ],
    "Move an adapter to another base.": [
        "hf/test_rebase.py::test_permuted_coordinates_lose_the_copy_and_not_the_adapter_that_moved_along",
        "test_rebase_verdict.py::test_zero_flips_in_100_rows_are_too_few_and_183_would_do",
    ],
    "Lose a job, or run it twice.": [
        "reliability/test_chaos.py::test_kills_lose_nothing_and_run_nothing_twice",
        "reliability/test_chaos.py::test_kills_and_a_database_that_crashes",
        "reliability/test_races.py::test_who_cannot_renew_stops_before_the_lease_is_over",
        "hf/test_checkpoints.py::test_two_hundred_torn_checkpoints_are_all_passed_over",
    ],
    "Guess the base.": [
        "test_imports.py::test_the_base_is_never_guessed",
        "test_imports.py::test_every_hostile_input_gets_one_clear_error_and_leaves_nothing",
    ],
    "Compute with anything but what was hashed.": [
        "hf/test_load.py::test_nothing_is_computed_with_but_the_weights_that_were_hashed",
        "hf/test_load.py::test_an_index_beside_the_weights_is_not_followed",
        "hf/test_load.py::test_a_configuration_does_not_choose_the_code_that_runs",
        "hf/test_weights.py::test_a_file_without_the_whole_model_is_refused",
    ],
    "Let a file hang or fill the machine.": [
        "test_foreign.py::test_a_limit_ends_the_child_and_says_so",
        "test_foreign.py::test_children_die_with_their_parent",
        "test_data_bad.py::test_what_is_not_a_file_is_refused_and_never_waited_for",
        "hf/test_bounded.py::test_a_bomb_ends_with_a_sentence",
    ],
    "Let others in.": [
        "ui/test_access.py::test_nothing_answers_without_the_link",
        "ui/test_access.py::test_no_event_takes_a_file_of_this_machine",
    ],
    "Run remote code.": [
        "test_bases_refused.py::test_a_broken_base_is_refused_in_one_sentence_and_leaves_nothing",
        "test_bases.py::test_code_of_a_family_that_transformers_knows_stays_behind",
    ],
}


def test_every_refusal_of_the_readme_is_shown_by_tests() -> None:
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## What it refuses to do silently\n")[1].split("\n## ")[0]
    assert re.findall(r"^- \*\*(.+?)\*\*", section, flags=re.MULTILINE) == list(SHOWN_BY)
    for named in {name for names in SHOWN_BY.values() for name in names}:
        file, _, test = named.partition("::")
        tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
        assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"there is no {named}"
