"""Where the pictures of a file lie: where the user says, or beside it; and whether they are there, asked before work begins."""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import islice

from llava_kit.core.conversation import ImageFile, ImageRef, ImageUrl, shown_url
from llava_kit.errors import DataError, SampleError

from .options import PictureOptions

# So many of the first pictures are looked for: a data set may lack one, but not all of these.
_LOOKED_FOR = 5
# So many folders near the file are looked into for a hint, so that a wrong path never costs a walk through a disk.
_FOLDERS_NEAR = 64


class PictureFolder:
    """Gives pictures by their names under the user's `image_root` and `image_prefix`."""

    def __init__(self, options: PictureOptions, beside: str):
        self.prefix = options.image_prefix
        self.root = options.image_root or os.path.dirname(os.path.abspath(beside))
        if options.image_root is not None and not options.without_pictures and not os.path.isdir(options.image_root):
            found = "a file" if os.path.exists(options.image_root) else "nothing"
            raise DataError(
                f"image_root {options.image_root!r}: found {found} (relative to {os.getcwd()!r}); expected the folder with the "
                f"pictures of {beside}{_without()}"
            )

    def picture(self, name: str) -> ImageRef:
        """The picture that a row calls `name`. Raises SampleError for what is no name."""
        if not isinstance(name, str) or not name.strip():
            raise SampleError("bad_row", f"a picture is called {name!r}; expected a path or a URL")
        name = name.strip()
        if name.lower().startswith(("http://", "https://")):
            return ImageUrl(name)
        if "://" in name[:16]:
            raise SampleError("url_not_allowed", f"picture {shown_url(name)!r}: is a URL; expected a path, or http(s)://")
        return ImageFile(os.path.join(self.prefix, name), self.root)

    def look_for(self, names: Iterable[str], beside: str) -> None:
        """Raises DataError if none of the first `names` is there, with the folder near the file that has them."""
        wanted = [name for name in islice(names, _LOOKED_FOR) if isinstance(name, str) and name and "://" not in name[:16]]
        if not wanted or any(os.path.exists(os.path.join(self.root, self.prefix, name)) for name in wanted):
            return
        place = os.path.join(self.root, self.prefix)
        near = _near(wanted[0], beside)
        hint = "give image_root=FOLDER" if near is None else f"they are in {near!r}: give {self._options_for(near)}"
        raise DataError(
            f"{beside}: its pictures are not in {place!r} (looked for {', '.join(map(repr, wanted))}); {hint}{_without()}"
        )

    def _options_for(self, folder: str) -> str:
        """The options with which pictures are looked for in `folder`."""
        if not self.prefix:
            return f"image_root={folder}"
        root, name = os.path.split(folder)
        return f"image_root={root}" if name == self.prefix.strip("/") else f"image_root={folder} image_prefix="


def _near(name: str, beside: str) -> str | None:
    """A folder beside the file, above it, or in one of these, that has the picture."""
    own = os.path.dirname(os.path.abspath(beside))
    for base in (own, os.path.dirname(own)):
        folders = (entry.path for entry in islice(_scan(base), _FOLDERS_NEAR) if entry.is_dir())
        for folder in (base, *folders):
            if os.path.isfile(os.path.join(folder, name)):
                return folder
    return None


def _scan(folder: str) -> list[os.DirEntry[str]]:
    try:
        return sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return []


def _without() -> str:
    return "; or without_pictures=true where words alone are wanted"
