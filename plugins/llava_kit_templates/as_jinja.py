"""LLaVA's formats written as jinja chat templates, for programs that take their prompts from one.

One line each, so that it does not matter how a program treats white space around tags. Contents may be texts, in which pictures
stand as `<image>`, or lists of parts; then each picture of a turn is `<image>` and a newline before the turn's text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .styles import BracketFormat, TurnFormat

PLACEHOLDER = "<image>"


def turn_template(style: TurnFormat) -> str:
    """System text and turns, each between its marks."""
    trim = " | trim" if style.trim else ""
    system = f"{_literal(style.before_system)} + system + {_literal(style.after_system)}"
    return "".join(
        [
            _said(style.around_picture),
            _opening(style.system, trim, style.has_system),
            _write(_literal(style.start)) if style.start else "",
            f"{{% if system %}}{_write(system)}{{% endif %}}",
            _turns(
                f"{_literal(style.user)} + (said(message){trim}) + {_literal(style.after_user)}",
                f"{_literal(style.assistant + style.before_answer)} + (said(message){trim}) + "
                + _literal(style.end_of_answer + style.after_answer),
            ),
            f"{{% if add_generation_prompt %}}{_write(_literal(style.assistant))}",
            f"{{% else %}}{_write(_literal(style.end))}" if style.end else "",
            "{% endif %}",
        ]
    )


def bracket_template(style: BracketFormat) -> str:
    """Questions in brackets, the system text inside the first."""
    opening = f"('[INST] ' if loop.first else {_literal(style.between + '[INST] ')})"
    system = r"('<<SYS>>\n' + system + '\n<</SYS>>\n\n' if loop.first and system else '')"
    user = f"{opening} + {system} + said(message) + ' [/INST]'"
    return _said(style.around_picture) + _opening(style.system, "", True) + _turns(user, "' ' + said(message) + ' </s>'")


def plain_template() -> str:
    """Pictures, caption, newline."""
    pictures = (
        "{% if message['content'] is string %}{% for piece in message['content'].split('<image>')[1:] %}<image>{% endfor %}"
        "{% else %}{% for part in message['content'] if part['type'] in ['image', 'image_url'] %}<image>{% endfor %}{% endif %}"
    )
    caption = _write("said(message) + " + _literal("\n"))
    return (
        _said(("", ""))
        + "{% for message in messages %}{% if message['role'] == 'user' %}"
        + pictures
        + "{% elif message['role'] == 'assistant' %}"
        + caption
        + "{% endif %}{% endfor %}"
    )


def _said(around: tuple[str, str]) -> str:
    """A macro that writes a message's content."""
    before, after = around
    content = "message['content']"
    if before or after:
        content += f" | replace({_literal(PLACEHOLDER)}, {_literal(before + PLACEHOLDER + after)})"
    return (
        f"{{% macro said(message) %}}{{% if message['content'] is string %}}{_write(content)}{{% else %}}"
        "{% for part in message['content'] if part['type'] in ['image', 'image_url'] %}"
        f"{_write(_literal(before + PLACEHOLDER + after + chr(10)))}{{% endfor %}}"
        "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
        "{% endif %}{% endmacro %}"
    )


def _opening(default: str, trim: str, has_system: bool) -> str:
    """Sets `system` and `turns`."""
    given = f"{{% set system = said(messages[0]){trim} %}}"
    if not has_system:
        given += "{% if system %}{{ raise_exception('this format has no place for a system text') }}{% endif %}"
    if trim:
        default = default.strip()
    return (
        f"{{% if messages[0]['role'] == 'system' %}}{given}{{% set turns = messages[1:] %}}"
        f"{{% else %}}{{% set system = {_literal(default)} %}}{{% set turns = messages %}}{{% endif %}}"
    )


def _turns(user: str, assistant: str) -> str:
    return (
        f"{{% for message in turns %}}{{% if message['role'] == 'user' %}}{_write(user)}"
        f"{{% elif message['role'] == 'assistant' %}}{_write(assistant)}"
        "{% else %}{{ raise_exception('expected turns of user and assistant, found ' + message['role']) }}{% endif %}"
        "{% endfor %}"
    )


def _write(expression: str) -> str:
    return f"{{{{ {expression} }}}}"


def _literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r")
    return f"'{escaped}'"
