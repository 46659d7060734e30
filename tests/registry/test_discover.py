"""The light reading of entry points finds what `importlib.metadata` finds."""

import importlib.metadata
import sys
import zipfile

from llava_kit.registry.discover import find_plugins


def test_agrees_with_importlib_on_what_is_installed():
    expected = {
        (point.name, point.value, point.dist.name, point.dist.version)
        for point in importlib.metadata.entry_points(group="llava_kit")
    }
    found = find_plugins()
    assert {(plugin.name, plugin.value, plugin.distribution, plugin.version) for plugin in found} == expected
    assert len(found) == len(expected) > 0


def test_the_first_copy_of_a_distribution_counts(tmp_path, monkeypatch):
    for folder, version, module in (("near", "2.0", "new_module"), ("far", "1.0", "old_module")):
        info = tmp_path / folder / f"llava_kit_foo-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Name: llava-kit-foo\nVersion: {version}\n\nVersion: 9 (in the description)\n")
        (info / "entry_points.txt").write_text(
            f"[console_scripts]\nx = y:z\n\n[ llava_kit ]\n# note\nfoo = {module} [extra]\n[other]\na = b\n"
        )
    monkeypatch.setattr(sys, "path", [str(tmp_path / "near"), str(tmp_path / "far"), str(tmp_path / "nowhere")])
    [plugin] = find_plugins()
    assert (plugin.name, plugin.value, plugin.distribution, plugin.version) == ("foo", "new_module", "llava-kit-foo", "2.0")


def test_a_plugin_in_a_zip_file_is_found(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as packed:
        packed.writestr("llava_kit_zip-3.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: llava-kit-zip\nVersion: 3.0\n")
        packed.writestr("llava_kit_zip-3.0.dist-info/entry_points.txt", "[llava_kit]\nzip = llava_kit_zip\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "packed.zip")])
    assert [(plugin.name, plugin.version) for plugin in find_plugins()] == [("zip", "3.0")]


def test_a_plugin_answers_to_its_name_and_to_its_distribution(make_plugin):
    make_plugin("foo", "")
    plugin = next(plugin for plugin in find_plugins() if plugin.name == "foo")
    assert plugin.answers_to("foo")
    assert plugin.answers_to("LLaVA_kit.foo")
    assert not plugin.answers_to("llava-kit")
