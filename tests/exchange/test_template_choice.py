"""The template of a foreign folder: by what its chat template writes, else by its language model and tokens."""

import json

import pytest
from folders import CHAT_TEMPLATE, IMAGE

from llava_kit.assemble.parts import build_part
from llava_kit.core.conversation import Conversation, Message, Segment
from llava_kit.errors import PluginError
from llava_kit.exchange.template_choice import choose_template, find_chat_template
from llava_kit.recipe.schema import Part
from llava_kit.testing.tokenizers import byte_level_tokenizer, sentencepiece_tokenizer

# What no template here writes, with an end of the turn that can be learnt.
STRANGE = (
    "{% for message in messages %}<<{{ message['role'] }}>>{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}</s>{% endfor %}"
    "{% if add_generation_prompt %}<<assistant>>{% endif %}"
)


@pytest.fixture
def make_folder(tmp_path):
    def make(chat_template=None, *, specials=(IMAGE,), kind=sentencepiece_tokenizer):
        kind(specials=specials).save_pretrained(tmp_path)
        if chat_template is not None:
            (tmp_path / "chat_template.jinja").write_text(chat_template)
        return tmp_path

    return make


def _jinja(name, **options):
    text = build_part("template", Part(type=name, **options)).chat_template()
    assert text is not None
    return text


def _choose(folder, model_type="llama", *, wanted=None, tokenisation="whole"):
    return choose_template(folder, model_type, wanted=wanted, tokenisation=tokenisation)


@pytest.mark.parametrize("name", ["v1", "mistral_instruct", "llava_llama_2", "chatml_direct", "qwen_2_5", "mistral_zephyr"])
def test_a_chat_template_that_one_of_ours_writes_is_recognised(make_folder, name):
    part, reason = _choose(make_folder(_jinja(name), specials=(IMAGE, "<|im_start|>", "<|im_end|>")))
    assert (part.type, part.options) == (name, {"tokenisation": "whole"})
    assert "writes what the folder's chat template writes" in reason


def test_without_its_system_text(make_folder):
    part, _ = _choose(make_folder(_jinja("v1", system="")))
    assert (part.type, part.options) == ("v1", {"tokenisation": "whole", "system": ""})


def test_a_chat_template_of_nobody_here_is_taken_itself(make_folder):
    part, reason = _choose(make_folder(STRANGE))
    assert (part.type, part.options) == ("tokenizer_chat", {"tokenisation": "whole", "template": STRANGE})
    assert "no other template" in reason


def test_the_hubs_template_ends_no_answer_so_the_first_question_decides(make_folder):
    part, reason = _choose(make_folder(CHAT_TEMPLATE))
    assert (part.type, part.options["system"]) == ("v1", "")
    assert "a first question" in reason


@pytest.mark.parametrize(
    "broken",
    ["{{ 'a' * 3000000000 }}", "{% for", "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ raise_exception('no') }}"],
)
def test_a_hostile_or_broken_chat_template_is_not_used(make_folder, broken):
    part, reason = _choose(make_folder(broken))
    assert part.type == "v1"
    assert "cannot be used" in reason or "is not used" in reason


@pytest.mark.parametrize(
    ("model_type", "specials", "name"),
    [
        ("llama", (), "v1"),
        ("mistral", (), "mistral_instruct"),
        ("llama", ("<|im_start|>",), "chatml_direct"),
        ("qwen2", ("<|im_start|>",), "qwen_1_5"),
        ("llama", ("<|start_header_id|>",), "llava_llama_3"),
        ("gemma", ("<start_of_turn>",), "gemma_instruct"),
    ],
)
def test_without_a_chat_template_the_language_model_and_its_tokens_decide(make_folder, model_type, specials, name):
    folder = make_folder(specials=specials, kind=byte_level_tokenizer)
    part, reason = _choose(folder, model_type)
    assert part.type == name
    assert model_type in reason or specials[0] in reason


def test_in_folders_of_the_original_the_chat_template_is_the_language_models(make_folder):
    folder = make_folder(STRANGE)
    assert _choose(folder, "mistral", tokenisation="chunks")[0].type == "mistral_instruct"
    assert _choose(folder, "phi3", tokenisation="chunks")[0].type == "tokenizer_chat"


def test_a_template_that_is_asked_for_wins(make_folder):
    folder = make_folder(_jinja("mistral_instruct"))
    assert _choose(folder, wanted="llava_llama_3")[0] == Part(type="llava_llama_3", tokenisation="whole")
    assert _choose(folder, wanted="tokenizer_chat")[0].options["template"] == _jinja("mistral_instruct")
    with pytest.raises(PluginError, match="did you mean 'vicuna_v1'"):
        _choose(folder, wanted="vicuna_v2")


def test_nothing_decides(make_folder):
    with pytest.raises(PluginError, match=r"phi3.*name one with the option `template`"):
        _choose(make_folder(), "phi3")


def test_where_chat_templates_lie(tmp_path):
    for file, text in (
        ("tokenizer_config.json", json.dumps({"chat_template": [{"name": "default", "template": "a"}]})),
        ("chat_template.jinja", "b"),
        ("chat_template.json", json.dumps({"chat_template": "c"})),
        ("processor_config.json", json.dumps({"chat_template": "d"})),
    ):
        (tmp_path / file).write_text(text)
        assert find_chat_template(tmp_path) in text
    assert find_chat_template(tmp_path / "nowhere") is None


def test_what_is_chosen_asks_as_the_chat_template_does(make_folder):
    folder = make_folder(STRANGE)
    tokenizer = sentencepiece_tokenizer(specials=(IMAGE,))
    template = build_part("template", _choose(folder)[0]).for_tokenizer(tokenizer)
    pieces = template.render(Conversation((Message("user", ("Why?",)),)), reply=True)
    assert "".join(piece.text for piece in pieces if isinstance(piece, Segment)) == "<<user>>Why?</s><<assistant>>"
