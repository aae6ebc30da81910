"""Chat messages to a prompt, with the Jinja template that comes with the model.

A template is part of a download, so it is not trusted: it runs in a sandbox without attributes
that begin with an underscore, without long ranges, and with bounded output. Knows no HTTP dialect
and no tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tgi_core.errors import TemplateError
from tgi_core.text.plain import IMAGE_MARK, Guard, GuardedText, unmarked

MAX_PROMPT_CHARS = 16_000_000
"""Longest prompt that a template may render: eight times the largest request body."""

_CUT_HERE = "\ue0c7\ue0c8"
"""Marks the end of a message that is continued: characters of Unicode's private use area, the last
of which in a prompt are ours, whatever a client writes."""

_PROBE = "a text that is shown"
"""Tried on templates, to see what they make of it."""


@dataclass(frozen=True, slots=True)
class PastCall:
    """A tool call that the model made before."""

    id: str
    name: str
    arguments: str | dict[str, Any]
    """As an object, if it was one."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str | None
    """None only together with tool calls. An `IMAGE_MARK` in it is one of `images`."""
    name: str | None = None
    reasoning: str | None = None
    tool_calls: tuple[PastCall, ...] = ()
    tool_call_id: str | None = None
    """Whose result this is."""
    images: tuple[str, ...] = ()
    """What the client gave as the images in the content."""


class ChatTemplate:
    """Renders conversations for one model. Safe to call from several threads."""

    def __init__(
        self,
        source: str | None,
        *,
        bos_token: str | None,
        eos_token: str | None,
        special_texts: Collection[str] = (),
        image_marker: str | None = None,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        """`special_texts` in messages are kept from becoming special tokens.

        None as source is a model without a template: then `render` always raises. The template
        writes `image_marker` where an image stands; None if the model takes none.
        """
        self._guard = Guard(special_texts)
        self._source = source
        self._image_marker = image_marker
        self._bos_token = bos_token or ""
        self._eos_token = eos_token or ""
        self._now = now
        self._roles_of_parts: dict[str, bool] = {}

    @cached_property
    def knows_tools(self) -> bool:
        """Whether it has a place for the request's tools."""
        try:
            names = self._environment.parse(self._source or "").find_all(nodes.Name)
            return any(name.name == "tools" and name.ctx == "load" for name in names)
        except (jinja2.TemplateError, RecursionError):
            return False  # `render` says what is wrong with it

    def holds(self, text: str) -> bool:
        """Whether its source holds a text."""
        return text in (self._source or "")

    def render(
        self,
        messages: Sequence[Message],
        *,
        continue_final: bool | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        more: Mapping[str, Any] | None = None,
    ) -> GuardedText:
        """The prompt of a conversation, up to where the model has to go on.

        Args:
            messages: at least one.
            tools: in OpenAI's form; only for a template that knows them.
            more: variables of the template's own, such as `enable_thinking`; not the usual ones.
            continue_final: whether the model goes on with the last message instead of answering
                it; None does so if it is the assistant's, as TGI.

        Raises:
            TemplateError: there is no template, it is faulty, or it refuses these messages.
        """
        last = messages[-1]
        implied = continue_final is None and last.role == "assistant" and bool(last.content)
        if continue_final or implied:
            # as in TGI, white space at the end is not kept
            last = replace(last, content=(last.content or "").rstrip() + _CUT_HERE)
            messages = [*messages[:-1], last]
        takes_calls = self.holds("tool_calls")
        images = tuple(image for message in messages for image in message.images)
        prompt = self._render(
            **self._guard.mark(more or {}),
            messages=[self._as_template_takes(message, takes_calls) for message in messages],
            bos_token=self._bos_token,
            eos_token=self._eos_token,
            add_generation_prompt=True,
            tools=self._guard.mark(tools) or None,
        )
        prompt = self._with_image_marks(prompt, len(images))
        if not (continue_final or implied):
            return unmarked(prompt, images)
        begin, mark, _ = prompt.rpartition(_CUT_HERE)
        if mark:
            return unmarked(begin.rstrip(), images)
        if implied:  # a template that rewrites the content leaves nothing to cut at, as in TGI
            return unmarked(prompt, images)
        raise TemplateError("the template does not show the end of the message to continue")

    def _as_template_takes(self, message: Message, takes_calls: bool) -> dict[str, Any]:
        variables = _variables(message, takes_calls)
        marked: dict[str, Any] = _with_arguments(self._guard.mark(variables))
        if self._image_marker is not None and variables["content"] is not None:
            marked["content"] = self._content(message.role, variables["content"])
        return marked

    def _content(self, role: str, content: str) -> str | list[dict[str, str]]:
        """Text and images as the template takes them: as a list of parts, or all in one text."""
        texts = [self._guard.mark(text) for text in content.split(IMAGE_MARK)]
        if not self._takes_parts(role):
            return IMAGE_MARK.join(texts)
        parts: list[dict[str, str]] = []
        for place, text in enumerate(texts):
            if place:
                parts.append({"type": "image"})
            if text or len(texts) == 1:
                parts.append({"type": "text", "text": text})
        return parts

    def _takes_parts(self, role: str) -> bool:
        """Whether the template shows a content that is a list of parts."""
        if role not in self._roles_of_parts:
            user = {"role": "user", "content": [{"type": "text", "text": _PROBE}]}
            said = {"role": role, "content": [{"type": "text", "text": _PROBE}]}
            messages = [said] if role == "user" else [said, user]
            if role == "assistant":
                messages = [user, said]
            try:
                shown = self._render(
                    messages=messages,
                    bos_token=self._bos_token,
                    eos_token=self._eos_token,
                    add_generation_prompt=True,
                    tools=None,
                )
            except TemplateError:
                shown = ""
            # one that takes texts alone shows the list as Python writes it, or nothing
            quoted = any(quote + _PROBE in shown for quote in "\"'")
            self._roles_of_parts[role] = shown.count(_PROBE) == len(messages) and not quoted
        return self._roles_of_parts[role]

    def _with_image_marks(self, prompt: str, num_images: int) -> str:
        """The prompt with a mark for each image.

        Raises:
            TemplateError: the template has left some of them out.
        """
        if self._image_marker is None:
            return prompt
        # clients' texts that spell the marker are cut within it
        prompt = prompt.replace(self._image_marker, IMAGE_MARK)
        if prompt.count(IMAGE_MARK) != num_images:
            raise TemplateError(
                f"the template shows {prompt.count(IMAGE_MARK)} of {num_images} images: it may "
                "have no place for images, or none for a message of this role"
            )
        return prompt

    def _render(self, **variables: Any) -> str:
        parts: list[str] = []
        num_chars = 0
        try:
            for part in self._template.generate(**variables):
                num_chars += len(part)
                if num_chars > MAX_PROMPT_CHARS:
                    raise TemplateError(f"the prompt is longer than {MAX_PROMPT_CHARS} characters")
                parts.append(part)
        except TemplateError:
            raise
        except Exception as error:  # a template is a program: any error may come out of it
            raise TemplateError(str(error) or type(error).__name__) from error
        return "".join(parts)

    @cached_property
    def _template(self) -> jinja2.Template:
        if self._source is None:
            raise TemplateError("this model has no chat template; use a route that takes a prompt")
        source = self._source
        if self._image_marker is None:
            # content is plain text then, as in TGI; some expect a list of parts here
            source = source.replace("messages[0]['content'][0]['text']", "messages[0]['content']")
        return self._environment.from_string(source)

    @cached_property
    def _environment(self) -> ImmutableSandboxedEnvironment:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", _GenerationTag],
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = lambda form: self._now().strftime(form)
        return environment


class _Arguments(dict[str, Any]):
    """Arguments of a call: an object, and where a template wants text, its JSON.

    Most templates apply `tojson` to them; DeepSeek's put them between two texts.
    """

    def __str__(self) -> str:
        return _to_json(self)

    def __add__(self, text: str) -> str:
        return str(self) + text

    def __radd__(self, text: str) -> str:
        return text + str(self)


def _variables(message: Message, takes_calls: bool) -> dict[str, Any]:
    """A message as templates know it; without `takes_calls` its calls become text."""
    found: dict[str, Any] = {"role": message.role, "content": message.content}
    for key, value in (
        ("name", message.name),
        ("reasoning_content", message.reasoning),
        ("tool_call_id", message.tool_call_id),
    ):
        if value is not None:
            found[key] = value
    if message.tool_calls and takes_calls:
        found["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    elif message.tool_calls:
        calls = [{"name": call.name, "parameters": call.arguments} for call in message.tool_calls]
        found["content"] = (message.content or "") + _to_json(calls)
    return found


def _with_arguments(variables: dict[str, Any]) -> dict[str, Any]:
    for call in variables.get("tool_calls", ()):
        function = call["function"]
        if isinstance(function["arguments"], dict):
            function["arguments"] = _Arguments(function["arguments"])
    return variables


class _GenerationTag(Extension):
    """`{% generation %}`, which marks the assistant's text for training, is as if not there."""

    tags = {"generation"}  # noqa: RUF012  jinja2 reads it from the class

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(value: Any, indent: int | None = None) -> str:
    """Unlike Jinja's own filter this one does not escape for HTML."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)
