"""A conversation as the text that a model was trained on, by the template of its tokenizer.

A template is a program: it runs in Jinja's sandbox, with the functions that transformers gives it
(https://huggingface.co/docs/transformers/chat_templating_writing) and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Optional

from .errors import IntegrityError, UsageError
from .toolchain import need

__all__ = ["Template", "check_messages"]

# What a program in a template may raise where a conversation is not as it thinks.
_MISTAKES = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
_ROLES = "system, user, assistant, tool"


class Template:
    """Raises: IntegrityError where it is no Jinja template, ToolchainError without jinja2."""

    def __init__(self, text: str, special_tokens: Mapping[str, str]) -> None:
        self._jinja = need("jinja2", extra="chat", to="hold a conversation")
        sandbox = need("jinja2.sandbox", extra="chat", to="hold a conversation")
        made = sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        made.filters["tojson"] = _tojson
        made.globals["raise_exception"] = self._refuse
        made.globals["strftime_now"] = _now
        self._special = dict(special_tokens)
        try:
            self._template = made.from_string(text)
        except self._jinja.TemplateError as error:
            raise IntegrityError(
                "Cannot read the chat template.", why=str(error), fix="convert the model again"
            ) from None

    def text(
        self, messages: Sequence[Mapping[str, Any]], *, tools: Optional[Sequence[Any]] = None, reply: bool = True
    ) -> str:
        """The conversation as one text, special tokens included.

        Args:
            messages: what was said, each with "role" and "content".
            tools: functions that the model may call, as JSON schemas.
            reply: end with what makes the model answer; otherwise the last message, of the assistant, goes on.

        Raises:
            UsageError: the template refuses the conversation.
        """
        try:
            return str(
                self._template.render(
                    messages=list(messages),
                    tools=list(tools) if tools else None,
                    documents=None,
                    add_generation_prompt=reply,
                    **self._special,
                )
            )
        except self._jinja.sandbox.SecurityError as error:
            raise IntegrityError(
                "Cannot run the chat template.",
                why=f"it reaches for more than the conversation: {error}",
                fix="do not use this bundle: no template of a model needs that",
            ) from None
        except (self._jinja.TemplateError, *_MISTAKES) as error:
            raise UsageError(
                "Cannot put the conversation into the model's form.",
                why=f"its chat template says: {error}",
                fix="check the roles and their order",
            ) from None

    def _refuse(self, message: str) -> None:
        raise self._jinja.exceptions.TemplateError(message)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:  # Any: JSON
    # Jinja's own escapes <, > and & for HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _now(form: str) -> str:
    import datetime

    return datetime.datetime.now().strftime(form)


def check_messages(messages: Sequence[Any], parts: bool = False) -> None:
    """Raises: UsageError for what is no conversation; `parts` says that a content may be a list of parts, each with its type."""
    for each in messages:
        if not isinstance(each, Mapping) or not isinstance(each.get("role"), str) or "content" not in each:
            raise UsageError(
                f"Cannot read the message {str(each)[:60]!r}.",
                why="it has no 'role' and 'content'",
                fix=f'give {{"role": …, "content": …}}; roles are {_ROLES}',
            )
        several = parts and isinstance(each["content"], (list, tuple))
        if not several and not isinstance(each["content"], (str, type(None))):
            raise UsageError(
                f"Cannot read the message of the {each['role']}.",
                why=f"its content is {type(each['content']).__name__}; this model reads text alone",
                fix="give the text",
            )
