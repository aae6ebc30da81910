import json
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from tgi_core.cli.bench_sse import EventStream


def data(message, newline=b"\n"):
    return b"data: " + json.dumps(message).encode() + newline * 2


def token(text):
    return {"choices": [{"text": text}]}


USAGE = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(
        st.one_of(
            st.text(max_size=8),
            st.sampled_from(["[DONE]", '"error"', "\n\ndata: x", '"completion_tokens"', "\r\n"]),
        ),
        max_size=8,
    ),
    newline=st.sampled_from([b"\n", b"\r\n"]),
    cuts=st.lists(st.integers(0, 1000), max_size=20),
)
def test_events_are_counted_however_the_bytes_are_cut(texts, newline, cuts):
    whole = b"".join(data(token(text), newline) for text in texts)
    whole += data(USAGE, newline) + b"data: [DONE]" + newline * 2
    edges = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    stream = EventStream()

    counted = sum(stream.feed(whole[a:b]) for a, b in pairwise(edges))

    assert counted == len(texts)
    assert (stream.prompt_tokens, stream.completion_tokens) == (3, 2)
    assert stream.done
    assert stream.error == ""


def test_comments_and_event_names_are_no_events():
    stream = EventStream()
    assert stream.feed(b": ping\n\nevent: message\n" + data(token("a")) + b": ping\n\n") == 1


def test_usage_may_come_with_the_last_text():
    stream = EventStream()
    assert stream.feed(data({**token("a"), "usage": USAGE["usage"]})) == 1
    assert stream.completion_tokens == 2


def test_an_empty_usage_in_each_event_does_no_harm():
    stream = EventStream()
    assert stream.feed(data({**token("a"), "usage": None})) == 1
    assert stream.completion_tokens is None


def test_errors_of_both_dialects_are_understood():
    tgi, openai = EventStream(), EventStream()
    assert tgi.feed(data({"error": "out of memory", "error_type": "generation"})) == 0
    assert openai.feed(data({"error": {"message": "out of memory"}})) == 0
    assert tgi.error == openai.error == "out of memory"


def test_an_event_that_is_not_json_is_an_error():
    stream = EventStream()
    stream.feed(b'data: {"error"\n\n')
    assert "not JSON" in stream.error


def test_a_finish_reason_ends_a_stream_too():
    stream = EventStream()
    stream.feed(b'data: {"choices": [{"text": "a", "finish_reason": null}]}\n\n')
    assert not stream.finished
    stream.feed(
        b'data: {"choices": [{"text": "", "finish_reason": "length"}],'
        b' "usage": {"completion_tokens": 1}}\n\n'
    )
    assert stream.finished
    assert not stream.done
