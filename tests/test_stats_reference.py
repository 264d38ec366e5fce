"""The optional model reference is read, whatever is in it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde_proxy.stats.reference import (
    Reference,
    ReferenceRecord,
    by_family,
    described,
    read_reference,
)

TEXT = {
    "style": "roleplay",
    "description": "Writes.",
    "baseline": "meta-llama/Base",
    "nsfw": False,
    "parameters": 8_000_000_000,
    "tags": ["a", "b"],
    "version": "1",
    "url": "https://huggingface.co/org/X-8B",
    "instruct_format": " ChatML ",
}
IMAGE = {
    "name": "Painter",
    "baseline": "stable diffusion 1",
    "type": "ckpt",
    "inpainting": True,
    "description": "Paints.",
    "tags": ["c"],
    "showcases": ["https://example.invalid/1.png"],
    "trigger": ["paint"],
    "style": "generalist",
    "nsfw": True,
    "requirements": {"min_steps": 20},
    "homepage": "https://example.invalid/painter",
    "size_on_disk_bytes": 2_147_483_648,
    "config": {
        "files": [],
        "download": [
            {"file_name": "p.ckpt", "file_path": "", "file_url": "https://huggingface.co/p.ckpt"},
            {"file_name": "q.ckpt"},
            7,
        ],
    },
}


def only(document: dict[str, Any]) -> ReferenceRecord:
    reference = read_reference(document)
    assert (len(reference), reference.left_out) == (1, 0)
    result = reference.get(next(iter(document)))
    assert result is not None
    return result


def test_a_text_model_is_read() -> None:
    assert only({"org/X-8B": TEXT}) == ReferenceRecord(
        name="org/X-8B",
        baseline="meta-llama/Base",
        description="Writes.",
        parameters=8_000_000_000,
        style="roleplay",
        tags=("a", "b"),
        nsfw=False,
        url="https://huggingface.co/org/X-8B",
        instruct_format="ChatML",
    )


def test_an_image_model_is_read() -> None:
    assert only({"Painter": IMAGE}) == ReferenceRecord(
        name="Painter",
        baseline="stable diffusion 1",
        description="Paints.",
        style="generalist",
        tags=("c",),
        nsfw=True,
        url="https://example.invalid/painter",
        downloads=("https://huggingface.co/p.ckpt",),
        size_bytes=2_147_483_648,
        inpainting=True,
        requirements=True,
        trigger=("paint",),
        showcases=("https://example.invalid/1.png",),
    )


def test_the_three_entries_of_a_text_model_are_merged() -> None:
    reference = read_reference(
        {
            "koboldcpp/X-8B": {"style": "other", "instruct_format": "Alpaca"},
            "org/X-8B": {"style": "chat"},
            "aphrodite/org/X-8B": {"description": "Writes."},
            "org/X-9B": {},
        }
    )
    assert reference.names() == ["org/X-8B", "org/X-9B"]
    assert reference.get("tabbyapi/X-8B-Q4_K_M") == ReferenceRecord(
        name="org/X-8B", style="chat", instruct_format="Alpaca", description="Writes."
    )
    assert reference.get("X-10B") is None


@pytest.mark.parametrize(
    "fields",
    [
        {"description": 3, "baseline": " ", "style": None, "url": ""},
        {"tags": "a", "trigger": [3, None, " "], "showcases": {}},
        {"parameters": "8B", "size_on_disk_bytes": -1, "nsfw": "no"},
        {"parameters": True, "parameters_count": 0, "size_on_disk_bytes": float("nan")},
        {"parameters": 0.5, "size_on_disk_bytes": 1e400},
        {"config": [], "inpainting": "yes", "requirements": {}},
        {"config": {"download": {"file_url": "x"}}},
        {"config": {"download": [{"file_url": 3}, None]}},
    ],
)
def test_a_field_of_an_unexpected_type_counts_as_absent(fields: dict[str, Any]) -> None:
    assert only({"x": fields}) == ReferenceRecord(name="x")


def test_the_parameters_may_have_the_newer_name() -> None:
    assert only({"x": {"parameters_count": 7e9}}).parameters == 7_000_000_000


def test_a_record_that_is_not_an_object_is_left_out_and_counted() -> None:
    reference = read_reference({"x": None, "": {}, "y": {}, "z": [1]})
    assert (reference.names(), reference.left_out) == (["y"], 3)


@pytest.mark.parametrize("document", [None, [], "x", 3])
def test_a_document_of_another_kind_is_an_empty_reference(document: Any) -> None:
    reference = read_reference(document)
    assert (len(reference), reference.left_out) == (0, 1)


def test_the_name_of_a_model_fills_gaps_of_the_reference() -> None:
    reference = read_reference({"org/X-8B": {"style": "chat"}, "Y-8B": {"parameters": 7}})
    assert described(["koboldcpp/X-8B", "Y-8B", "Z-3B", "z"], reference) == {
        "koboldcpp/X-8B": ReferenceRecord("org/X-8B", style="chat", parameters=8_000_000_000),
        "Y-8B": ReferenceRecord("Y-8B", parameters=7),
        "Z-3B": ReferenceRecord("Z-3B", parameters=3_000_000_000),
        "z": ReferenceRecord("z"),
    }
    assert described(["z"], None) == described(["z"], Reference()) == {"z": ReferenceRecord("z")}


def test_a_family_has_the_record_of_its_first_member() -> None:
    records = described(["X-8B-v1", "Y-3B", "x-70b"], None)
    assert by_family(records) == {"X": records["X-8B-v1"], "Y": records["Y-3B"]}


def test_a_record_becomes_json() -> None:
    result = json.loads(json.dumps(only({"Painter": IMAGE}).to_json()))
    assert (result["tags"], result["size_bytes"], result["instruct_format"]) == (
        ["c"],
        2_147_483_648,
        None,
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["x", "config", "download", "file_url", "tags", "parameters", "nsfw"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_json_is_read_without_an_error(document: Any) -> None:
    reference = read_reference(document)
    count = len(document) if isinstance(document, dict) else 1
    assert len(reference) + reference.left_out == count
