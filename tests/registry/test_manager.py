"""Plugins are asked one by one, limited by name, and what they register is checked."""

from types import SimpleNamespace

import pytest

from llava_kit.errors import PluginError
from llava_kit.registry.manager import default_registry, load_plugins, plugins_in_use

HOOK = """
from llava_kit import Options, hookimpl

class O(Options):
    '''What it is.'''

def build(options):
    '''How it is built.'''
    return options

@hookimpl
def register_templates(register):
    {call}
"""


def load(make_plugin, call, name="foo"):
    make_plugin(name, HOOK.format(call=call))
    return load_plugins(only=[name])


def test_what_a_plugin_registers(make_plugin):
    registry = load(make_plugin, "register('foo', options=O, build=build)")
    [found] = registry.entries()
    assert (found.kind, found.name, found.summary) == ("template", "foo", "What it is.")
    assert (found.plugin.name, found.distribution, found.version) == ("foo", "llava-kit-foo", "1.0")
    assert found.build("x") == "x"


@pytest.mark.parametrize(
    ("arguments", "summary"),
    [("build=build", "How it is built."), ("build=build, summary='Short.'", "Short."), ("build=lambda o: o", "")],
)
def test_summaries(make_plugin, arguments, summary):
    [found] = load(make_plugin, f"register('foo', {arguments})").entries()
    assert found.summary == summary
    assert found.options is None


def test_an_options_class_without_a_docstring_does_not_borrow_its_base_s(make_plugin):
    make_plugin("foo", HOOK.replace("'''What it is.'''", "pass").format(call="register('foo', options=O, build=lambda o: o)"))
    assert load_plugins(only=["foo"]).entries()[0].summary == ""


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        ("register('foo', options=dict, build=build)", "options must be a subclass of llava_kit.Options, found <class 'dict'>"),
        ("register('foo', options=O(), build=build)", "options must be a subclass"),
        ("register('foo', options=O, build='pkg:thing')", "build must be a function, found 'pkg:thing'"),
        ("register('foo', build=build, unavailable=True)", "unavailable must be a function, found True"),
        ("register('two words', build=build)", "must be a text without spaces"),
        ("register(3, build=build)", "must be a text without spaces"),
        ("[register('foo', build=build) for _ in 'ab']", "registers the template 'foo' twice"),
        ("register('foo', builder=build)", "unexpected keyword argument 'builder'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_a_wrong_registration_breaks_that_plugin_alone(make_plugin, call, complaint):
    make_plugin("good", HOOK.format(call="register('good', build=build)"))
    make_plugin("foo", HOOK.format(call=call))
    registry = load_plugins(only=["foo", "good"])
    [broken] = registry.broken
    assert broken.name == "foo"
    assert complaint in broken.reason
    assert "in register_templates" in broken.traceback.splitlines()[1]  # the plugin's own frame comes first
    assert [found.name for found in registry.entries()] == ["good"]


def test_what_was_registered_before_the_fault_is_not_offered_but_remembered(make_plugin):
    registry = load(make_plugin, "register('early', build=build); 1 / 0")
    assert registry.entries() == []
    with pytest.raises(PluginError, match="ZeroDivisionError"):
        registry.get("template", "early")


def test_a_misspelt_hook_and_a_misspelt_argument_are_named(make_plugin):
    make_plugin("hook", HOOK.replace("register_templates", "register_template").format(call="pass"))
    make_plugin("argument", HOOK.replace("(register):", "(registre):").format(call="pass"))
    reasons = {broken.name: broken.reason for broken in load_plugins(only=["hook", "argument"]).broken}
    assert "register_template" in reasons["hook"]
    assert "did you mean 'register_templates'?" in reasons["hook"]
    assert "registre" in reasons["argument"]


def test_limits(make_plugin, monkeypatch):
    make_plugin("foo", HOOK.format(call="register('foo', build=build)"))
    make_plugin("bar", HOOK.format(call="register('bar', build=build)"))

    def names():
        return {plugin.name for plugin in default_registry().plugins}

    assert {"foo", "bar"} < names()
    monkeypatch.setenv("LLAVA_KIT_PLUGINS", " foo , bar")
    assert names() == {"foo", "bar"}
    monkeypatch.setenv("LLAVA_KIT_NO_PLUGINS", "llava-kit-bar")
    assert names() == {"foo"}
    assert "bar" in default_registry().left_out
    with pytest.raises(PluginError, match=r"no template 'bar'.*left out by LLAVA_KIT_PLUGINS or -p: .*bar"):
        default_registry().get("template", "bar")
    monkeypatch.setenv("LLAVA_KIT_PLUGINS", "")
    assert names() == set()


def test_a_limit_that_names_nothing_is_a_mistake(make_plugin, monkeypatch):
    make_plugin("foo", "")
    monkeypatch.setenv("LLAVA_KIT_PLUGINS", "fooo")
    with pytest.raises(PluginError, match=r"LLAVA_KIT_PLUGINS names the plugin 'fooo'.*did you mean 'foo'?"):
        default_registry()
    with pytest.raises(PluginError, match="'baz', which is not installed"):
        load_plugins(blocked={"baz"})


def test_the_registry_is_loaded_once(make_plugin):
    make_plugin("foo", "")
    assert default_registry() is default_registry()


def test_plugins_in_use(make_plugin):
    registry = load(make_plugin, "register('foo', build=build); register('again', build=build)")
    parts = [("template", SimpleNamespace(type=name)) for name in ("foo", "again", "foo")]
    assert plugins_in_use(parts, registry) == [{"name": "foo", "distribution": "llava-kit-foo", "version": "1.0"}]
    with pytest.raises(PluginError):
        plugins_in_use([("template", SimpleNamespace(type="other"))], registry)


def test_options_may_be_loaded_when_they_are_asked_for(make_plugin):
    make_plugin(
        "lazy",
        "from llava_kit import Options, hookimpl\n"
        "def load():\n    class O(Options):\n        x: int = 1\n    return O\n"
        "@hookimpl\ndef register_sources(register):\n"
        "    register('lazy', options=load, build=print, summary='Says it itself.')\n"
        "    register('wrong', options=lambda: 3, build=print, summary='Gives a number.')\n",
    )
    registry = load_plugins(["lazy"])
    entry = registry.get("source", "lazy")
    assert entry.summary == "Says it itself."
    assert list(entry.options.model_fields) == ["x"]
    with pytest.raises(PluginError, match="the options of 'wrong' must be a subclass of Options, found 3"):
        _ = registry.get("source", "wrong").options


def test_options_that_are_loaded_later_need_a_summary(make_plugin):
    make_plugin(
        "silent",
        "from llava_kit import hookimpl\n@hookimpl\ndef register_sources(register):\n"
        "    register('silent', options=lambda: None, build=print)\n",
    )
    (broken,) = load_plugins(["silent"]).broken
    assert "give a summary" in broken.reason
