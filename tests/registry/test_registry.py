"""The registry gives what is there, and says what is nearest, in conflict or broken."""

import pytest

from llava_kit.errors import PluginError
from llava_kit.registry.registry import KINDS, Broken, Entry, Plugin, Registry, hook_of

ONE, TWO, THREE = (Plugin(name, f"llava-kit-{name}", "1.0", name) for name in ("one", "two", "three"))


def entry(name, plugin=ONE, kind="encoder", **more):
    return Entry(kind, name, None, lambda options: options, "", plugin, **more)


def test_entries_come_by_kind_and_name():
    registry = Registry()
    registry.add([entry("b"), entry("a"), entry("z", kind="command"), entry("a", kind="connector")])
    assert [(e.kind, e.name) for e in registry.entries()] == [
        ("encoder", "a"),
        ("encoder", "b"),
        ("connector", "a"),
        ("command", "z"),
    ]
    assert [e.name for e in registry.entries("encoder")] == ["a", "b"]
    assert registry.get("connector", "a").kind == "connector"


def test_an_unknown_name_is_answered_with_the_nearest():
    registry = Registry()
    registry.add([entry("siglip"), entry("clip")])
    with pytest.raises(PluginError, match=r"there is no encoder 'siglap'; did you mean 'siglip'?"):
        registry.get("encoder", "siglap")
    with pytest.raises(PluginError, match="known: clip, siglip"):
        registry.get("encoder", "something")
    with pytest.raises(PluginError, match="no language model 'x'; none is installed"):
        registry.get("language_model", "x")
    with pytest.raises(PluginError, match=r"no kind of plugin 'encodr'; did you mean 'encoder'?"):
        registry.get("encodr", "clip")


def test_a_name_that_two_claim_belongs_to_nobody():
    registry = Registry()
    registry.add([entry("clip"), entry("fine")])
    registry.add([entry("clip", TWO)])
    registry.add([entry("clip", THREE)])
    with pytest.raises(PluginError) as told:
        registry.get("encoder", "clip")
    assert "one (llava-kit-one 1.0) and two (llava-kit-two 1.0) and three (llava-kit-three 1.0)" in str(told.value)
    assert "-p no:three" in str(told.value)
    assert registry.get("encoder", "fine").plugin == ONE
    assert len(registry.conflicts) == 1


def test_plugins_of_one_name_are_told_apart_by_their_distributions():
    registry = Registry()
    registry.add([entry("clip")])
    registry.add([entry("clip", Plugin("one", "stranger", "1.0", "m"))])
    assert "-p no:stranger" in str(registry.conflicts[0])


def test_a_broken_plugin_is_fatal_only_to_whoever_names_it():
    broken = Broken(TWO, "ImportError: no", "Traceback: the whole story", (("encoder", "lost"),))
    registry = Registry(broken=[broken])
    registry.add([entry("clip")])
    assert registry.get("encoder", "clip")
    for name in ("lost", "two"):
        with pytest.raises(PluginError, match="the whole story"):
            registry.get("encoder", name)
    with pytest.raises(PluginError, match=r"may have provided it: two .*ImportError: no"):
        registry.get("encoder", "unheard_of")


def test_availability():
    assert entry("a").why_unavailable() is None
    assert entry("a", unavailable=lambda: "no GPU").why_unavailable() == "no GPU"
    assert "ZeroDivisionError" in entry("a", unavailable=lambda: 1 / 0).why_unavailable()


def test_what_was_measured_counts_only_where_it_runs():
    assert entry("a").why_faster() is None
    assert entry("a", measured=lambda: "2x").why_faster() == "2x"
    assert entry("a", measured=lambda: "2x", unavailable=lambda: "no GPU").why_faster() is None
    assert entry("a", measured=lambda: 1 / 0).why_faster() is None


def test_descriptions():
    assert entry("a").description() == []
    assert entry("a", describe=lambda: ["one", "two"]).description() == ["one", "two"]
    assert "ZeroDivisionError" in entry("a", describe=lambda: 1 / 0).description()[0]


def test_every_kind_has_its_hook():
    assert hook_of("loss") == "register_losses"
    from llava_kit.core import hookspecs

    assert {hook_of(kind) for kind in KINDS} == {name for name in vars(hookspecs) if name.startswith("register_")}
