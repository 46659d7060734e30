"""LLaVA's conversation formats, from v0 to NeXT, byte for byte; only what the model shall say is learnt."""

from __future__ import annotations

from functools import partial

from llava_kit import ConversationTemplate, Options, hookimpl

from .formats import ALIASES, FORMATS


class TemplateOptions(Options):
    """One of LLaVA's conversation formats."""

    system: str | None = None
    """Replaces the format's own system text; an empty one leaves the system turn out."""


def build_template(options: TemplateOptions, *, name: str) -> ConversationTemplate:
    return FORMATS[name].with_system(options.system)


@hookimpl
def register_templates(register):
    for name in FORMATS:
        register(name, options=TemplateOptions, build=partial(build_template, name=name))
    for alias, name in ALIASES.items():
        register(alias, options=TemplateOptions, build=partial(build_template, name=name))
