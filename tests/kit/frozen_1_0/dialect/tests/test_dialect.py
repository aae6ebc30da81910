"""The dialect, without a server: `ask` runs a route, `ScriptedChatServer` is the model."""

from tgi_plugin_frozen_1_0 import tgi_routes

from tgi_core.contract import ChatDelta
from tgi_core.errors import Overloaded
from tgi_core.testing.dialects import ScriptedChatServer, ask

[DIALECT] = tgi_routes()
HELLO = (ChatDelta(text="Hel"), ChatDelta(text="lo"))


def test_the_answer_comes_in_parts():
    server = ScriptedChatServer(HELLO)
    answer = ask(DIALECT, "POST", "/frozen-1-0", b"Hi", server=server)
    assert (answer.status, answer.parts) == (200, [b"Hel", b"lo"])
    assert server.chats[0]["messages"] == [{"role": "user", "content": "Hi"}]


def test_questions_are_counted():
    server = ScriptedChatServer(num_prompt_tokens=7)
    assert ask(DIALECT, "POST", "/frozen-1-0/count", b"Hi", server=server).body == b"7\n"


def test_errors_before_the_first_part_have_a_status():
    for body, status in ((b" ", 422), (b"\xff", 422), (b"Hi", 429)):
        server = ScriptedChatServer([Overloaded("full")])
        assert ask(DIALECT, "POST", "/frozen-1-0", body, server=server).status == status


def test_errors_after_it_end_the_text():
    server = ScriptedChatServer([*HELLO, Overloaded("full")])
    answer = ask(DIALECT, "POST", "/frozen-1-0", b"Hi", server=server)
    assert answer.status == 200
    assert answer.body.endswith(b"[Model is overloaded]\n")
