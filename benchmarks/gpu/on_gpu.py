"""`make gpu` and `make gpu-wheels`: everything that a machine with a GPU needs, also one without a package index.

    python benchmarks/gpu/on_gpu.py wheels     where an index is: the wheels of what such a machine lacks, into .wheels/
    python benchmarks/gpu/on_gpu.py run [...]  where the GPU is: installs them beside, and runs `benchmarks.gpu.run`

It runs before anything is installed, so it imports nothing but the standard library. Nothing outside a temporary folder is
changed: packages go there, and PYTHONPATH points to it and to the repository.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).parents[2]
WHEELS = ROOT / ".wheels"

# What an image made for GPU work (torch, torchvision, transformers, timm, triton, tokenizers, pytest, ...) often lacks, by the
# names of distributions: requirements of ours, and what these require in turn. simplejpeg and liger-kernel are extras that rows
# G4 and G5 make use of.
CARRIED = (
    "pydantic",
    "pydantic-core",
    "annotated-types",
    "typing-inspection",
    "typing-extensions",
    "open-clip-torch",
    "ftfy",
    "wcwidth",
    "simplejpeg",
    "liger-kernel",
)
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
PYTHON = "3.12"
MOST_MIB = 60
# What a program must have on its path to import llava_kit, its plugins and its kernels as they lie in the repository.
SOURCES = (ROOT, ROOT / "plugins", ROOT / "kernels")


def wheels() -> int:
    """Downloads the wheels in the versions that are installed here, so that what was tested is what runs."""
    wanted = []
    for name in CARRIED:
        try:
            wanted.append(f"{name}=={version(name)}")
        except PackageNotFoundError:
            wanted.append(name)
    shutil.rmtree(WHEELS, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(WHEELS)]
    command += ["--python-version", PYTHON, "--implementation", "cp"]
    for platform in PLATFORMS:
        command += ["--platform", platform]
    code = subprocess.run([*command, *wanted]).returncode
    if code:
        return code
    found = sorted(WHEELS.glob("*.whl"))
    size = sum(path.stat().st_size for path in found) / 2**20
    print(f"{len(found)} wheels for Python {PYTHON}, {size:.1f} MiB, in {WHEELS}")
    if size > MOST_MIB:
        print(f"found {size:.0f} MiB, expected at most {MOST_MIB}: take out of CARRIED what the machine has")
        return 1
    return 0


def install(site: Path, wheels: list[Path]) -> None:
    """The wheels into `site`, by pip without an index, and what makes llava_kit an installed package: its entry points.

    Nothing is built, so it does not matter how old the machine's setuptools is; the repository runs as it lies there.
    `SystemExit` where pip fails.
    """
    if wheels:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
        _run([*pip, "--target", str(site), *map(str, wheels)])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    about = site / f"llava_kit-{project['version']}.dist-info"
    about.mkdir(parents=True)
    named = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (about / "METADATA").write_text(named, encoding="utf-8")
    groups = {"console_scripts": project["scripts"], **project["entry-points"]}
    lines = [
        line for group, points in groups.items() for line in (f"[{group}]", *(f"{k} = {v}" for k, v in points.items()), "")
    ]
    (about / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")


def paths_of(site: Path) -> str:
    """PYTHONPATH for a program that is to find all of it."""
    before = os.environ.get("PYTHONPATH", "")
    return os.pathsep.join([str(site), *map(str, SOURCES), *([before] if before else [])])


def _run(command: list[str]) -> None:
    code = subprocess.run(command).returncode
    if code:
        raise SystemExit(f"{' '.join(command[:6])} ...: exit code {code}")


def needs_install() -> bool:
    """Whether llava_kit and its plugins cannot be found as they are."""
    try:
        version("llava-kit")
    except PackageNotFoundError:
        return True
    return importlib.util.find_spec("llava_kit_clip") is None


def run(arguments: list[str], command: list[str] | None = None) -> int:
    """Runs `benchmarks.gpu.run` (or `command`) with what `.wheels` holds, or with the environment as it is."""
    environment = dict(os.environ)
    carried = sorted(WHEELS.glob("*.whl"))
    with tempfile.TemporaryDirectory(prefix="llava-kit-gpu-") as folder:
        if carried or needs_install():
            site = Path(folder) / "site"
            install(site, carried)
            environment["PYTHONPATH"] = paths_of(site)
        command = command or [sys.executable, "-m", "benchmarks.gpu.run"]
        return subprocess.run([*command, *arguments], cwd=ROOT, env=environment).returncode


def main(arguments: list[str]) -> int:
    if arguments == ["wheels"]:
        return wheels()
    if arguments[:1] == ["run"]:
        return run(arguments[1:])
    print(__doc__)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
