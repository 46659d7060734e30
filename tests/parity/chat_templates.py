"""Chat templates in the manner of those that come with tokenizers, one for each way to be awkward."""

from __future__ import annotations

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou help.<|im_end|>\\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# Writes the beginning of the sequence itself, and trims.
HEADERS = """{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
# The system text moves into the first question; spaces around answers; checks the order.
BRACKETS = (
    "{% if messages[0]['role'] == 'system' %}{% set turns = messages[1:] %}{% set system = messages[0]['content'] %}"
    "{% else %}{% set turns = messages %}{% set system = '' %}{% endif %}{{ bos_token }}{% for message in turns %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if message['role'] == 'user' %}{% if loop.first and system %}{{ '[INST] <<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' }}"
    "{% else %}{{ '[INST] ' }}{% endif %}{{ message['content'].strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
# A space at the end of the prompt, and answers that are marked for training.
SPACED = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ 'USER: ' + message['content'] + ' ' }}"
    "{% elif message['role'] == 'assistant' %}{{ 'ASSISTANT: ' }}"
    "{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}{% else %}{{ message['content'] + ' ' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT: ' }}{% endif %}"
)
# Contents are lists of parts, pictures come first.
PICTURES_FIRST = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\\n' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] }}{% endfor %}"
    "{{ eos_token if message['role'] == 'assistant' else ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
# Text or parts; pictures where they stand, between marks of their own; macros, namespaces, white space control.
PADS = """{%- set seen = namespace(pictures=0) %}
{%- macro say(content) %}
    {%- if content is string %}{{- content }}
    {%- else %}
        {%- for part in content %}
            {%- if part.type == 'image' or 'image' in part %}
                {%- set seen.pictures = seen.pictures + 1 %}
                {{- '<|vision_start|><|image_pad|><|vision_end|>' }}
            {%- else %}{{- part.text }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
{%- endmacro %}
{%- for message in messages %}
    {{- '<|im_start|>' ~ message.role ~ '\\n' }}{{- say(message.content) }}{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""
# Empty thoughts before the last answer, which a prompt does not have.
THOUGHTS = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' }}{% if message.role == 'assistant' and loop.last %}"
    "{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    "{{ message.content.split('</think>')[-1].lstrip('\\n') if message.role == 'assistant' else message.content }}"
    "{{ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# The end of the sequence follows the conversation, not the answer.
ENDED = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content + '<|end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"
)
GOOD = {
    "chatml": (CHATML, "text"),
    "headers": (HEADERS, "text"),
    "brackets": (BRACKETS, "text"),
    "spaced": (SPACED, "text"),
    "pictures_first": (PICTURES_FIRST, "parts"),
    "pads": (PADS, "mixed"),
    "thoughts": (THOUGHTS, "text"),
    "ended": (ENDED, "text"),
}
OTHER_PROMPTS = (
    "{% for m in messages %}{{ '<' + m.role + '>' + m.content + '</s>' }}{% endfor %}"
    "{{ '<assistant><think>' if add_generation_prompt }}"
)
BAD = {
    "no end": ("{% for m in messages %}{{ m.content + ' ' }}{% endfor %}", "writes ' ' after an answer"),
    "nothing at the end": ("{% for m in messages %}{{ m.role + m.content }}{% endfor %}", "writes nothing after an answer"),
    "the last alone": ("{{ messages[-1].content }}</s>", "leaves out a picture of turn 0 .user., the text of turn 0"),
    "twice": ("{% for m in messages %}{{ m.content }}|{{ m.content }}</s>{% endfor %}", "writes .* more than once"),
    "other prompts": (OTHER_PROMPTS, "asks for turn 1 with .*<think>.* asked otherwise than taught"),
    "shouts": ("{% for m in messages %}{{ m.content | upper }}</s>{% endfor %}", "changes a text"),
    "quotes": ("{% for m in messages %}{{ m.content | tojson }}</s>{% endfor %}", "changes a text"),
    "no jinja": ("{% for m in messages", "TemplateSyntaxError"),
    "refuses": ("{{ raise_exception('never') }}", "TemplateError: never"),
    "private": ("{{ messages.__class__.__mro__ }}", "SecurityError|leaves out"),
    "large": ("{{ 'a' * 3000000000 }}", "repeats 1 characters or items 3,000,000,000 times"),
    "large, otherwise": ("{{ 'a'.center(3000000000) }}", "calls center with a number above 4,000,000"),
    "large, by a filter": ("{{ 'a' | center(3000000000) }}", "MiB"),
    "large, bit by bit": (
        "{% set it = namespace(x='aaaaaaaaaa') %}{% for i in range(60) %}{% set it.x = it.x ~ it.x %}{% endfor %}",
        "MiB",
    ),
    "powers": ("{{ 9 ** 99999999 }}", "to the power of"),
    "padded": ("{{ '%999999999d' % 1 }}", "pads text"),
    "long": ("x" * 100_001, "100,001 characters"),
}
