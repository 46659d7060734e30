"""Which program runs an exported folder, as far as it is known: from what those programs' code says, not from running them.

Facts: vLLM 0.33.0 (vllm/model_executor/models/llava.py, llava_next.py), SGLang 0.5.23, llama.cpp's convert_hf_to_gguf.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..assemble.parts import Assembly
from ..model.side_by_side import SideBySideEncoder

VLLM = "0.33"

_NOT_RUN = "its code was read, it was not run"
_LLAMA_CPP = (
    "convert_hf_to_gguf.py takes LLaVA folders with Pixtral towers alone; for CLIP there are the older scripts in "
    "tools/mtmd/legacy-models; untested"
)

Row = tuple[str, str, str]


def engines_of(assembly: Assembly, kind: str, obstacles: Sequence[str]) -> Iterator[Row]:
    """Rows (program, answer, why or how) for an export of this kind."""
    yield ("llava-kit", "yes", "`llava-kit chat FOLDER`, `evaluate`, `export`")
    if kind == "transformers":
        yield ("transformers >= 5.17", "yes", "its own classes; `llava-kit export --verify` compares logits and tokens")
        yield _vllm(assembly)
        yield ("SGLang", "expected", "reads the same folder; untested")
        yield ("llama.cpp, Ollama", "not as it is", _LLAMA_CPP)
        yield ("the original LLaVA code", "no", "export with `--to original`")
    elif kind == "original":
        yield ("the original LLaVA code", *_original(assembly))
        for program in ("transformers", "vLLM", "SGLang"):
            yield (program, "no", "export with `--to transformers`")
        yield ("llama.cpp, Ollama", "not as it is", "tools/mtmd/legacy-models begin with folders like this one; untested")
    else:
        yield (
            "transformers",
            "with llava_kit installed",
            "install the package in this folder, then `AutoModelForImageTextToText`",
        )
        yield ("vLLM", *_vllm_plugin(assembly))
        yield ("SGLang", "no", "its model classes are its own" if obstacles else "export with `--to transformers`")
        yield ("llama.cpp, Ollama", "no", "the converter knows none of this")


def _vllm(assembly: Assembly) -> Row:
    chain, tower = assembly.model.connector.chain(), assembly.model.encoder.published()
    assert chain is not None
    assert tower is not None
    if len(chain.maps) == 1 or chain.activation == "identity":
        how = "`--model-impl transformers`: its own class has no activation that does nothing, which a linear connector needs"
        return (f"vLLM {VLLM}", "expected, not by its own class", f"{how}; untested")
    if len(tower.layers) > 1 and assembly.tiler.options.mode != "anyres":
        how = "`--model-impl transformers`: its own class takes one feature layer"
        return (f"vLLM {VLLM}", "expected, not by its own class", f"{how}; untested")
    return (f"vLLM {VLLM}", "expected", f"tensors, config and processor are as its own class wants them; {_NOT_RUN}")


def _vllm_plugin(assembly: Assembly) -> tuple[str, str]:
    published = assembly.model.language_model.published()
    if published is None:
        return "no", "vLLM brings its own language models, and has none like this one"
    return "a plugin is there", f"for its general plugins ({published.architecture} of vLLM with our encoder); untested"


def _original(assembly: Assembly) -> tuple[str, str]:
    encoder = assembly.model.encoder
    published = None if isinstance(encoder, SideBySideEncoder) else encoder.published()
    if published is not None and published.architecture == "SiglipVisionModel":
        return "no", "it takes every local folder for CLIP; llava-kit reads this folder as it is"
    return "expected", "names and config are its own; `llava-kit export --verify` reads it back with our reader; untested there"


def usage_of(assembly: Assembly, kind: str, name: str) -> str:
    """How to use the folder, in Markdown."""
    if kind == "transformers":
        how = " --model-impl transformers" if "--model-impl" in _vllm(assembly)[2] else ""
        return _USE_TRANSFORMERS.format(name=name, how=how)
    if kind == "original":
        return _USE_ORIGINAL.format(name=name)
    return _USE_PACKAGE.format(name=name)


_USE_TRANSFORMERS = """
```python
from transformers import AutoModelForImageTextToText, AutoProcessor

processor = AutoProcessor.from_pretrained("{name}")
model = AutoModelForImageTextToText.from_pretrained("{name}", dtype="auto", device_map="auto")
content = [{{"type": "image", "path": "picture.jpg"}}, {{"type": "text", "text": "What is shown here?"}}]
inputs = processor.apply_chat_template(
    [{{"role": "user", "content": content}}],
    add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
).to(model.device, dtype=model.dtype)
answer = model.generate(**inputs, max_new_tokens=256)
processor.decode(answer[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True)
```

With vLLM: `vllm serve {name}{how}`. With llava-kit: `llava-kit chat {name} --image picture.jpg`.
"""
_USE_ORIGINAL = """
```sh
cd {name} && python -m llava.serve.cli --model-path . --image-file picture.jpg   # the original code
llava-kit chat {name} --image picture.jpg                                        # llava-kit
```
"""
_USE_PACKAGE = """
```sh
pip install ./{name}
```

```python
import llava_kit
from transformers import AutoModelForImageTextToText, AutoProcessor

llava_kit.load_model("{name}").chat("What is shown here?", ["picture.jpg"])

import llava_kit.export.wrapper  # makes the model known to transformers

processor = AutoProcessor.from_pretrained("{name}")
model = AutoModelForImageTextToText.from_pretrained("{name}")
content = [{{"type": "image"}}, {{"type": "text", "text": "What is shown here?"}}]
prompt = processor.apply_chat_template([{{"role": "user", "content": content}}], add_generation_prompt=True)
inputs = processor(text=prompt, images=["picture.jpg"])
answer = model.generate(**inputs, max_new_tokens=256)
processor.decode(answer[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True)
```
"""
