"""What `.streamlit/config.toml` sets, by what Streamlit does with it."""

from __future__ import annotations

from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.runtime.forward_msg_cache import create_reference_msg, populate_hash_if_needed
from streamlit.runtime.forward_msg_queue import ForwardMsgQueue


def test_a_part_that_runs_again_leaves_nothing_unsent_of_its_last_run() -> None:
    """What is left would be put where that part has other elements now, and the browser's page goes blank."""
    large = ForwardMsg()
    large.delta.fragment_id = "beside the picture"
    large.delta.new_element.html.body = "x" * 1_000_000
    large.metadata.delta_path.extend([0, 3, 1, 0])
    populate_hash_if_needed(large)

    waiting = ForwardMsgQueue()
    waiting.enqueue(create_reference_msg(large) if large.metadata.cacheable else large)
    waiting.clear(retain_lifecycle_msgs=True, fragment_ids_this_run=["beside the picture"])

    assert waiting.is_empty()
